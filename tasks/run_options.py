"""What a plan may say about a run beside its model: how it is scored, who is left out of training, which time is the test's.

They travel among the plan's model options under reserved names, so every party signs and sees them; no model gets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consortium.plan import LEAVE_OUT
from tasks.errors import ContractError

if TYPE_CHECKING:
    from tasks.base import Options, Task
    from tasks.scoring.base import Scoring

GROUPINGS: Final = ("age", "sex", "vendor")
RESERVED: Final = ("drop_rate", LEAVE_OUT, "score_bins", "score_by", "split", "train_until_year")
PATIENTS, ROWS = "patients", "rows"
FIRST_YEAR, LAST_YEAR = 1950, 2200


@dataclass(frozen=True)
class RunOptions:
    """`bins`: of the scores, 0 = half the plan's cells. `by`: figures for groups, of `GROUPINGS`, in order.

    `leave_out`: a site that is not trained on and the only one tested on; "" = none. `train_until_year`: episodes up to the end of
    that calendar year train, later ones test; 0 = no such cut. `drop_rate`: chance that a kind of data is taken from a record
    while training. `split`: "rows" puts a patient's records on both sides, for measuring what that feigns; never in a private plan.
    """

    bins: int = 0
    by: tuple[str, ...] = ()
    leave_out: str = ""
    train_until_year: int = 0
    drop_rate: float = 0.0
    split: str = PATIENTS
    model: Options = field(default_factory=dict)  # the model's own


def run_options(options: Options) -> RunOptions:
    """The plan's model `options`, parted. Raises `ContractError` naming a value outside its range."""
    by = tuple(part for part in _text(options, "score_by", "").split(",") if part)
    found = RunOptions(
        bins=_whole(options, "score_bins", 0, 16_384),
        by=by,
        leave_out=_text(options, LEAVE_OUT, ""),
        train_until_year=_year(options),
        drop_rate=_share(options, "drop_rate"),
        split=_text(options, "split", PATIENTS),
        model={name: value for name, value in options.items() if name not in RESERVED},
    )
    if list(by) != sorted(set(by) & set(GROUPINGS)):
        raise ContractError(f"score_by is {options['score_by']!r}: choose of {', '.join(GROUPINGS)}, each once, in this order")
    if found.split not in (PATIENTS, ROWS):
        raise ContractError(f"split is {found.split!r}: {PATIENTS} or {ROWS}")
    return found


def scoring_of(task: Task, options: Options, half: int) -> Scoring:
    """How a plan with these model `options` and `half` its cells scores. `ContractError` if the cells are not the task's."""
    wanted = run_options(options)
    scoring = task.scoring(wanted.bins or half, wanted.by)
    if scoring.cells != 2 * half:
        raise ContractError(f"the plan's histogram has {2 * half} cells, the task's of {wanted.bins or half} bins {scoring.cells}")
    return scoring


def with_scoring(task: Task, options: Options, bins: int) -> tuple[Options, int]:
    """The options and half the cells of a plan that scores with `bins` bins: `scoring_of` finds the same scoring again."""
    scoring = task.scoring(bins, run_options(options).by)
    if scoring.cells == 2 * bins:
        return options, bins
    return {**options, "score_bins": bins}, scoring.cells // 2


def _whole(options: Mapping[str, str | int | float], name: str, low: int, high: int) -> int:
    value = options.get(name, low)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ContractError(f"option {name} is {value!r}: a whole number from {low} to {high}")
    return value


def _year(options: Mapping[str, str | int | float]) -> int:
    """0, or a year in which somebody alive was treated: any other trains or tests nobody, at the price of a run."""
    value = _whole(options, "train_until_year", 0, LAST_YEAR)
    if 0 < value < FIRST_YEAR:
        raise ContractError(f"option train_until_year is {value}: 0, or a year from {FIRST_YEAR} to {LAST_YEAR}")
    return value


def _text(options: Mapping[str, str | int | float], name: str, default: str) -> str:
    value = options.get(name, default)
    if not isinstance(value, str):
        raise ContractError(f"option {name} is {value!r}: a text")
    return value


def _share(options: Mapping[str, str | int | float], name: str) -> float:
    value = options.get(name, 0.0)
    if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ContractError(f"option {name} is {value!r}: a number from 0 to below 1")
    return float(value)
