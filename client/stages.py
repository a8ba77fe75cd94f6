"""Rounds of a task that sums: every patient's vector, bounded and released where a task that trains has gradients."""

from client.errors import Refused
from client.job import Job
from client.release import FloatMatrix, FloatVector
from client.sides import Side
from consortium.plan import PATIENTS, Plan, header_fields
from tasks.sums import Choice, Records, SumsTask, TestedSums, layout, stage_sizes, stage_vectors, stages_done


def choice_of(plan: Plan, task: SumsTask) -> Choice:
    """What the plan chose of the task. Raises `Refused` if its parameters are not the task's stages."""
    choice = Choice(plan.model.name, dict(plan.model.options), plan.task.columns)
    if layout(task, choice) != tuple((spec.name, spec.shape) for spec in plan.model.parameters):
        raise Refused("MODEL", "the plan's parameters are not the stages of the named task in this code version")
    return choice


def stage_rows(job: Job, task: SumsTask, choice: Choice, state: FloatVector, side: Side) -> FloatMatrix:
    """Vectors of the stage that is due, (patients, n_parameters).

    The sign is a gradient's, so that opening, weighing and dividing are those of a training round.
    """
    plan = job.plan
    if job.purpose != "train" or any(item != PATIENTS for item in header_fields(plan, job.round_number, job.purpose)):
        raise Refused("TASK", f"task {task.name} sums: it has nothing to describe and no model to evaluate")
    if (plan.schedule.local_steps, plan.schedule.local_rate, plan.privacy.sample_rate) != (1, 1.0, 1.0):
        raise Refused("TASK", f"task {task.name} sums: its plan takes one local step at rate 1 of all patients")
    return -stage_vectors(task, choice, state, Records(side.values, side.owners, side.patients))


def tested_rows(plan: Plan, task: TestedSums, choice: Choice, state: FloatVector, side: Side) -> FloatMatrix:
    """One vector of each test patient, (patients, cells), where a task that trains has its histogram."""
    if task.test_cells(choice) != 2 * plan.histogram_bins:
        raise Refused("TASK", f"the plan's histogram has {2 * plan.histogram_bins} cells, the task's {task.test_cells(choice)}")
    stages = stages_done(stage_sizes(task, choice), state)
    return task.test_vectors(choice, stages, Records(side.values, side.owners, side.patients))
