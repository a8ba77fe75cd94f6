"""The model between two rounds: one float32 vector, buffers then parameters, the very bytes that sites receive.

Rounding to float32 after every step keeps one truth: what is checkpointed, what sites hash and what the next step begins
with are the same values.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from consortium.plan import ParameterSpec, Plan
from server.errors import ServerError
from server.strategy import State, Strategy, Vector

Model = NDArray[np.float32]  # (plan.model_size,)
Mean = Callable[[slice], Vector]  # of the survivors' updates: these of its (n_parameters,) values, float64

BLOCK = 1 << 18  # parameters stepped at once: float64 copies of a whole model would be most of a hub's memory


def parameters_of(plan: Plan, model: Model) -> Vector:
    """The trained part, float64 (n_parameters,)."""
    _check(plan, model)
    return model[plan.n_buffers :].astype(np.float64)


def with_parameters(plan: Plan, model: Model, parameters: Vector) -> Model:
    """A copy with the trained part replaced, rounded to float32. Raises `ServerError` on overflow."""
    _check(plan, model)
    if parameters.shape != (plan.n_parameters,):
        raise ServerError(f"{parameters.shape} parameters, the plan's model has {plan.n_parameters}")
    changed = model.copy()
    _round_into(changed[plan.n_buffers :], parameters)
    return changed


def _round_into(room: Model, parameters: Vector) -> None:
    with np.errstate(over="ignore"):
        room[:] = parameters
    if not np.isfinite(room).all():
        raise ServerError("the step left the range of float32: lower the strategy's rate and plan again")


def with_buffers(plan: Plan, model: Model, buffers: Mapping[str, NDArray[np.floating]]) -> Model:
    """A copy with normalisation buffers set by name, e.g. feature_mean and feature_scale. Shapes as the plan has them."""
    _check(plan, model)
    changed, at = model.copy(), 0
    known = [spec.name for spec in plan.model.buffers]
    if strangers := sorted(set(buffers) - set(known)):
        raise ServerError(f"buffer {strangers[0]!r} is not in the plan; it has {', '.join(known) or 'none'}")
    for spec in plan.model.buffers:
        if spec.name in buffers:
            values = np.asarray(buffers[spec.name], dtype=np.float32)
            if values.shape != spec.shape or not np.isfinite(values).all():
                raise ServerError(f"buffer {spec.name} must be finite, of shape {spec.shape}; got shape {values.shape}")
            changed[at : at + spec.size] = values.ravel()
        at += spec.size
    return changed


def step_model(plan: Plan, strategy: Strategy, state: State, model: Model, mean: Mean | Vector) -> tuple[State, Model]:
    """One strategy step on the trained part; buffers stay. Beside the new model and state it needs a few blocks of memory.

    `mean`: of the updates, float64 (n_parameters,), or what gives any part of it.
    """
    _check(plan, model)
    mean_of = mean if callable(mean) else mean.__getitem__
    changed, after = model.copy(), tuple[Vector, ...]()
    weights, room = model[plan.n_buffers :], changed[plan.n_buffers :]
    for part in _parts(plan, strategy):
        before = tuple(vector[part] for vector in state) if strategy.elementwise else state
        stepped, parameters = strategy.step(before, weights[part].astype(np.float64), mean_of(part))
        if not strategy.elementwise:
            after = stepped
        else:
            after = after or tuple(np.empty(len(weights)) for _ in stepped)
            for vector, values in zip(after, stepped, strict=True):
                vector[part] = values
        _round_into(room[part], parameters)
    return after, changed


def released_model(plan: Plan, strategy: Strategy, state: State, model: Model) -> Model:
    """What the run hands out at its end (the running average, if the strategy keeps one)."""
    _check(plan, model)
    changed = model.copy()
    weights, room = model[plan.n_buffers :], changed[plan.n_buffers :]
    for part in _parts(plan, strategy):
        held = tuple(vector[part] for vector in state) if strategy.elementwise else state
        _round_into(room[part], strategy.release(held, weights[part].astype(np.float64)))
    return changed


def _parts(plan: Plan, strategy: Strategy) -> Iterator[slice]:
    """The parameters block by block, where each one is stepped by itself; else all at once."""
    size = plan.n_parameters
    step = BLOCK if strategy.elementwise else size
    for at in range(0, size, max(step, 1)):
        yield slice(at, min(at + step, size))


def tensors(plan: Plan, model: Model) -> Mapping[str, Model]:
    """The model's tensors by name, in the plan's order and shapes, float32."""
    _check(plan, model)
    specs: tuple[ParameterSpec, ...] = plan.model.buffers + plan.model.parameters
    ends = np.cumsum([spec.size for spec in specs])
    return {spec.name: model[end - spec.size : end].reshape(spec.shape) for spec, end in zip(specs, ends, strict=True)}


def _check(plan: Plan, model: Model) -> None:
    if model.shape != (plan.model_size,) or model.dtype != np.float32:
        raise ServerError(f"model is {model.dtype} {model.shape}, the plan's is float32 ({plan.model_size},)")
