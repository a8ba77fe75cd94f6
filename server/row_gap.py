"""How much better a model looks when rows are parted instead of patients: the same plan twice, without noise, over simulated sites.

A patient's visits resemble each other. With some of them in training and others in the test, a model is praised for knowing people.
Whoever compares figures of this framework, where patients are parted, with those of a paper that parts visits, needs this number.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from server.errors import PlanningError, ServerError
from server.figures import newest, primary_of
from server.folder import RunFolder, write_durably
from server.state import read_state
from tasks.base import Task
from tasks.registry import find_task
from tasks.scoring.names import words

FILE = "row_gap.json"
FORMAT = "wardround/row-gap/1"
ROW_OVERRIDE = "task.options.split=rows"


@dataclass(frozen=True)
class RowGap:
    """The primary figure on the test half, of patients parted and of rows parted. `gap`: what the latter feigns, above 0."""

    figure: str
    patients: float
    rows: float
    gap: float

    @property
    def words(self) -> str:
        """One sentence for people."""
        return (
            f"{words(self.figure)} {self.patients:.3f} on test patients where patients are parted, {self.rows:.3f} where rows are: "
            f"parting rows feigns {self.gap:+.3f}"
        )


def check_row_gap(task: str, mode: str) -> None:
    """Raises `PlanningError` where there is no gap to measure."""
    if mode != "none":
        raise PlanningError(f"the gap is measured without noise, this plan is of mode {mode}: add privacy=none")
    found = find_task(task)
    if not isinstance(found, Task):
        raise PlanningError(f"task {task} sums and has no such gap: choose a task that trains")
    if found.records == 1:
        raise PlanningError(f"task {task} has one row for each patient: parting rows is parting patients, there is no gap")


def row_gap(patients: Path, rows: Path) -> RowGap:
    """The gap between two finished runs of one plan. Raises `ServerError` where one has no figure."""
    primary = primary_of(RunFolder(patients).plan())
    found = [newest(read_state(run)).get(primary.name) if primary else None for run in (patients, rows)]
    if primary is None or found[0] is None or found[1] is None:
        raise ServerError("one of the two runs has no figure of test patients: take more patients, or more to hold out")
    sign = -1.0 if primary.lower_is_better else 1.0
    return RowGap(primary.name, found[0], found[1], sign * (found[1] - found[0]))


def write_row_gap(run: Path, gap: RowGap) -> Path:
    """`row_gap.json` in the run folder."""
    write_durably(run / FILE, json.dumps({"format": FORMAT, **asdict(gap)}, indent=1).encode("ascii") + b"\n")
    return run / FILE


def read_row_gap(run: Path) -> RowGap | None:
    """What was written; None where nothing was. Raises `ServerError` for a file that is none."""
    try:
        facts = json.loads((run / FILE).read_text("ascii"))
        return RowGap(str(facts["figure"]), float(facts["patients"]), float(facts["rows"]), float(facts["gap"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{run / FILE} is damaged: remove it, or measure the gap again") from error
