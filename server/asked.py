"""What a plan asks beside its model, in run options or of its strategy, can be had; or the lead hears why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from consortium.plan import Plan
from server.errors import PlanningError
from server.strategy import FEDPROX, SUMS, Options
from tasks.base import Task
from tasks.cohorts import ReadsTables
from tasks.imaging.task import ImageTask
from tasks.run_options import ROWS, run_options
from tasks.sums import SumsTask

if TYPE_CHECKING:  # hydra is for those who plan, and reports are made from this too
    from server.config import LeadConfig, ScheduleConfig

IMAGES_LEAST_S = 900.0  # a shorter wait would charge sites for rounds that none of them can finish


def check_asked(task: Task | SumsTask, config: LeadConfig, sites: Sequence[str]) -> None:
    """Raises `PlanningError`. `task`: the configuration's; `sites`: the participants' ids."""
    if config.strategy.name == FEDPROX:
        _check_proximal(config.strategy.options, config.schedule)
    if isinstance(task, ImageTask) and config.deadlines.update_s < IMAGES_LEAST_S:
        raise PlanningError(
            f"deadlines.update_s is {config.deadlines.update_s:g}: task {task.name} judges whole scans when evaluating, some 15 s "
            f"each at 1 mm on one processor. Give {IMAGES_LEAST_S:g} or more: enough for the site with most held-out sessions"
        )
    if not isinstance(task, SumsTask):  # those that sum know all their options themselves
        _check_options(task, config.task.options, config.privacy.mode, sites)


def asked_sentences(plan: Plan) -> list[str]:
    """Whom the figures of a run are about, for reports; nothing for a task that sums, which has options of its own."""
    if plan.strategy.name == SUMS:
        return []
    asked = run_options(dict(plan.model.options))
    said = ["Figures beside training rounds are of the validation half of the held-out patients, the last ones of the test half."]
    if asked.leave_out:
        said.append(f"{asked.leave_out} was left out of training and is the only site that is tested.")
    if asked.train_until_year:
        said.append(f"Trained on records up to the end of {asked.train_until_year}, tested on later ones of other patients.")
    if asked.split == ROWS:
        said.append("ROWS WERE PARTED, NOT PATIENTS: patients are on both sides, and these figures are too good.")
    return said


def _check_options(task: Task, options: Options, mode: str, sites: Sequence[str]) -> None:
    asked = run_options(options)
    if asked.leave_out and asked.leave_out not in sites:
        raise PlanningError(f"leave_out is {asked.leave_out!r}, which is no participant: choose of {', '.join(sites)}")
    if asked.train_until_year and not isinstance(task, ReadsTables):
        raise PlanningError(f"train_until_year: rows of task {task.name} have no date; choose a task that reads dated tables")
    if asked.split == ROWS and mode != "none":
        raise PlanningError(
            f"split=rows puts a patient on both sides, so no epsilon holds for a run of mode {mode}: choose privacy=none, where it "
            "measures what such a split feigns"
        )


def _check_proximal(options: Options, schedule: ScheduleConfig) -> None:
    mu = options.get("mu", 0.0)
    if schedule.local_steps < 2:
        raise PlanningError(
            "strategy fedprox with one local step is fedavg: its pull begins with the second; set schedule.local_steps=2 or more"
        )
    if isinstance(mu, int | float) and mu * schedule.local_rate > 1.0:
        raise PlanningError(
            f"fedprox with mu {mu:g} and local_rate {schedule.local_rate:g}: their product is above 1, so the pull overshoots; "
            "lower one of them"
        )
