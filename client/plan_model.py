"""The model that a plan names and the engine that serves it: built once for a process, on synthetic patients alone."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from client.engines import Engine, Loss, Shape, Unsupported, choose_engine
from client.errors import Refused
from consortium.plan import ModelRef, Plan
from tasks.base import Task
from tasks.features import Design
from tasks.imaging.task import ImageTask
from tasks.models import parameter_specs
from tasks.run_options import run_options, scoring_of
from tasks.scoring.base import Scoring
from tasks.scoring.groups import refuse_unread

KEPT = 4  # models with their engines; a process serves one plan at a time, a simulation several sites


@dataclass(frozen=True)
class PlanModel:
    """A model with what serves it. Engines hold workspaces: one computation at a time in a process."""

    model: nn.Module
    loss: Loss
    engine: Engine
    scoring: Scoring


Key = tuple[ModelRef, str, tuple[str, ...], int, str]
_known: OrderedDict[Key, tuple[Task, PlanModel]] = OrderedDict()


def model_of(task: Task, plan: Plan, engine: str = "") -> PlanModel:
    """The plan's model with the fastest engine, or the one called `engine`, chosen once for all sites of a process.

    The choice depends on the model and the machine, never on a patient. Raises `Refused` for a model that is not the plan's,
    mixes patients or is served by no engine, `ContractError` for one that the task does not know.
    """
    options = repr(plan.model.options)  # 16 and 16.0 are equal and not the same
    key = (plan.model, options, plan.task.columns, plan.histogram_bins, engine)
    known = _known.get(key)
    if known is None or known[0] is not task:
        _known[key] = (task, _built(task, plan, engine))
    _known.move_to_end(key)
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return _known[key][1]


def _input_shape(task: Task, plan: Plan) -> tuple[int, ...]:
    if isinstance(task, ImageTask):
        return task.input_shape(plan.task.columns)
    return (Design(task.contract, plan.task.columns).n_inputs,)


def _built(task: Task, plan: Plan, engine: str) -> PlanModel:
    options = dict(plan.model.options)
    model = task.build_model(plan.model.name, run_options(options).model, plan.task.columns)
    if parameter_specs(model) != tuple((spec.name, spec.shape) for spec in plan.model.parameters):
        raise Refused("MODEL", "the plan's parameter schema is not that of the named model in this code version")
    shape = Shape(task.records, _input_shape(task, plan), task.label_shape)
    scoring = scoring_of(task, options, plan.histogram_bins)
    refuse_unread(run_options(options).by, task.contract, plan.task.columns)
    try:
        return PlanModel(model, task.loss, choose_engine(model, task.loss, shape, name=engine), scoring)
    except Unsupported as error:
        raise Refused("MODEL", str(error)) from error
