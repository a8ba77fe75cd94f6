"""The model that a plan names and the engine that serves it: built once for a process, on synthetic patients alone."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from client.applied import no_room
from client.device import PROCESSORS, Device, DeviceChoice, out_of_memory, release_memory
from client.engines import PATIENTS_AT_ONCE, SLOTS, Engine, Loss, Shape, Unsupported, choose_engine
from client.errors import Refused, TrainerError
from consortium.plan import ModelRef, Plan
from tasks.base import Task
from tasks.features import Design
from tasks.imaging.task import ImageTask
from tasks.models import parameter_specs
from tasks.run_options import run_options, scoring_of
from tasks.scoring.base import Scoring
from tasks.scoring.groups import refuse_unread

T = TypeVar("T")
ONE_BY_ONE = "loop"
KEPT = 4  # models with their engines; a process serves one plan at a time, a simulation several sites


@dataclass(frozen=True)
class PlanModel:
    """A model with what serves it. Engines hold workspaces: one computation at a time in a process."""

    model: nn.Module
    loss: Loss
    engine: Engine
    scoring: Scoring

    @property
    def device(self) -> Device:
        """Where all of it is computed."""
        return self.engine.device


Key = tuple[ModelRef, str, tuple[str, ...], int, str, DeviceChoice]
_known: OrderedDict[Key, tuple[Task, PlanModel]] = OrderedDict()


def model_of(task: Task, plan: Plan, engine: str = "", choice: DeviceChoice = PROCESSORS) -> PlanModel:
    """The plan's model with the fastest engine, or the one called `engine`, chosen once for all sites of a process.

    The choice depends on the model and the machine, never on a patient. Raises `Refused` for a model that is not the plan's,
    mixes patients or is served by no engine, `ContractError` for one that the task does not know.
    """
    known = _known.get(_key(plan, engine, choice))
    if known is None or known[0] is not task:
        return _kept(task, plan, engine, choice, PATIENTS_AT_ONCE)
    _known.move_to_end(_key(plan, engine, choice))
    return known[1]


def within_memory(
    task: Task, plan: Plan, compute: Callable[[PlanModel], T], *, engine: str = "", choice: DeviceChoice = PROCESSORS
) -> T:
    """What `compute` makes of the plan's model; all of it again, with half as many patients at once, if memory ran out.

    All of it: every patient of a sum is then computed together with as many others, so that none depends on when memory ran
    out. Fewer stay fewer until the process ends. Raises `TrainerError` if one patient does not fit.
    """
    while True:
        built = model_of(task, plan, engine, choice)
        try:
            return compute(built)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            fewer = built.engine.patients // 2
            if not fewer or (engine and fewer < SLOTS):
                raise TrainerError(no_room(built.device, f"gradients, {built.engine.patients} patients at once")) from error
        del _known[_key(plan, engine, choice)], built  # and with it what it holds
        release_memory()
        _kept(task, plan, engine, choice, fewer)


def _kept(task: Task, plan: Plan, engine: str, choice: DeviceChoice, patients: int) -> PlanModel:
    built = _built(task, plan, engine or ("" if patients >= SLOTS else ONE_BY_ONE), choice, patients)
    _known[_key(plan, engine, choice)] = task, built
    _known.move_to_end(_key(plan, engine, choice))
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return built


def _key(plan: Plan, engine: str, choice: DeviceChoice) -> Key:
    options = repr(plan.model.options)  # 16 and 16.0 are equal and not the same
    return plan.model, options, plan.task.columns, plan.histogram_bins, engine, choice


def _input_shape(task: Task, plan: Plan) -> tuple[int, ...]:
    if isinstance(task, ImageTask):
        return task.input_shape(plan.task.columns)
    return (Design(task.contract, plan.task.columns).n_inputs,)


def _built(task: Task, plan: Plan, engine: str, choice: DeviceChoice, patients: int) -> PlanModel:
    options = dict(plan.model.options)
    if isinstance(task, ImageTask):
        task = task.for_plan(run_options(options).model)
    model = task.build_model(plan.model.name, run_options(options).model, plan.task.columns)
    if parameter_specs(model) != tuple((spec.name, spec.shape) for spec in plan.model.parameters):
        raise Refused("MODEL", "the plan's parameter schema is not that of the named model in this code version")
    shape = Shape(task.records, _input_shape(task, plan), task.label_shape)
    scoring = scoring_of(task, options, plan.histogram_bins)
    refuse_unread(run_options(options).by, task.contract, plan.task.columns)
    device = choice.for_model(model)
    try:
        chosen = choose_engine(model, task.loss, shape, name=engine, device=device, patients=patients)
    except Unsupported as error:
        raise Refused("MODEL", str(error)) from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise TrainerError(no_room(device, "the gradient of one patient")) from error
    return PlanModel(model, task.loss, chosen, scoring)
