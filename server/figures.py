"""The figures of a run in words: which one runs are compared by, in what order the others follow, and what measuring them cost.

The journal has them by the names that the task's scoring gave (`tasks.scoring.names`); nothing here knows a task by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortium.plan import Plan
from server.journal import RoundDone
from server.state import RunState
from tasks.errors import TaskError
from tasks.metrics import THRESHOLDS, Z95, CalibrationGroup
from tasks.scoring.base import Calibrated, Panel, Panelled, Scoring
from tasks.scoring.chance import doubts
from tasks.scoring.names import NOISE_DOMINATES, Shown, group_words, groups_of, meaning, shown, words
from tasks.sums import TestedSums

PREVALENCE: Final = "prevalence"
TREATED: Final = {f"net_benefit_{percent}": percent for percent in THRESHOLDS}
NO_FIGURES: Final = ("patients", "events")  # counts beside the figures
DO_NOT_READ: Final = "Noise is of the size of these figures: do not read them."


@dataclass(frozen=True)
class Primary:
    """The figure by which runs of a task are compared."""

    name: str
    lower_is_better: bool

    @property
    def words(self) -> str:
        return words(self.name)

    def rank(self, value: float) -> float:
        """Ascending: the best first."""
        return value if self.lower_is_better else -value


AUC: Final = Primary("auc", lower_is_better=False)


def scoring_of(plan: Plan) -> Scoring | TestedSums | None:
    """None for sums that have no figures, and for a task that is not installed here (the journal can be read all the same)."""
    from server.pooled import scored_by  # with torch, which looking at a run does not need

    try:
        return scored_by(plan)
    except TaskError:
        return None


def primary_of(plan: Plan) -> Primary | None:
    """What `scoring_of` names; None without one."""
    scoring = scoring_of(plan)
    return None if scoring is None else Primary(scoring.primary, scoring.lower_is_better)


def side_of(done: RoundDone) -> str:
    """Whose figures these are: of the validation half of the held-out patients beside training, of the test half at the end."""
    return "test" if done.purpose == "evaluate" else "validation"


def whose(done: RoundDone) -> str:
    """The same with the model that was measured, for titles: "test patients: the final model"."""
    model = "the final model" if done.purpose == "evaluate" else f"the model going into round {done.round}"
    return f"{side_of(done)} patients: {model}"


def evaluated(state: RunState) -> RoundDone | None:
    """The newest round with figures of held-out patients; None before the first."""
    return next((done for done in reversed(state.done) if done.histogram and done.metrics), None)


def newest(state: RunState) -> dict[str, float]:
    """Its figures; none before the first."""
    done = evaluated(state)
    return dict(done.metrics) if done else {}


def calibration_of(plan: Plan, histogram: NDArray[np.float64]) -> tuple[CalibrationGroup, ...] | None:
    """None where the run foretells no probabilities of a yes or no."""
    scoring = scoring_of(plan)
    return scoring.calibration(histogram) if isinstance(scoring, Calibrated) else None


def panels_of(plan: Plan, done: RoundDone) -> tuple[Panel, ...]:
    """Charts beside the others that the task's scoring makes of an opened histogram; most tasks have none."""
    scoring = scoring_of(plan)
    if not isinstance(scoring, Panelled):
        return ()
    return scoring.panels(np.array(done.histogram), noise_std=plan.privacy.evaluate_noise * math.sqrt(len(done.survivors)))


def number(value: float) -> str:
    """Three decimals for shares, two for larger numbers."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def interval(figure: Shown) -> str:
    """The ends of its interval of 95 %, "" where there is none."""
    return "" if figure.low is None or figure.high is None else ends(figure.low, figure.high)


def ends(low: float, high: float) -> str:
    """An interval in words."""
    return f"{number(low)} to {number(high)}"


def headline(figures: Mapping[str, float], primary: Primary | None) -> str:
    """The primary figure, such as "AUC 0.800"; "" where it was not measured."""
    if primary is None or primary.name not in figures:
        return ""
    return f"{primary.words} {number(figures[primary.name])}"


def noise_of(figures: Mapping[str, float], primary: Primary) -> float:
    """Standard error of the primary figure from noise, 0 where none is known."""
    return figures.get(f"{primary.name}_noise_se", 0.0)


def spread_of(figures: Mapping[str, float], primary: Primary) -> float:
    """One standard error of the primary figure, from patients and noise together; 0 where none is known."""
    both = math.hypot(figures.get(f"{primary.name}_sampling_se", 0.0), noise_of(figures, primary))
    low, high = figures.get(f"{primary.name}_low"), figures.get(f"{primary.name}_high")
    return both if low is None or high is None or f"{primary.name}_sampling_se" in figures else (high - low) / (2 * Z95)


def drowned(figures: Mapping[str, float]) -> bool:
    """Whether noise is of the figures' size."""
    return figures.get(NOISE_DOMINATES, 0.0) > 0


def doubt(figures: Mapping[str, float], primary: Primary | None) -> str:
    """Whether the primary figure is worth anything, in a sentence with its name; "" where it is, or noise forbids to read it."""
    said = "" if primary is None or drowned(figures) else doubts(figures, primary.name)
    return f"{headline(figures, primary)}. {said}" if said else ""


def ordered(figures: Mapping[str, float], primary: Primary | None) -> list[Shown]:
    """All figures of all patients and of groups, the primary one first in each."""
    found = [one for one in shown(figures) if one.name.figure not in NO_FIGURES]
    groups = ["", *groups_of(found)]
    first = primary.name if primary else ""
    return sorted(found, key=lambda one: (groups.index(one.name.group), one.name.figure != first))


def whole_rows(figures: Mapping[str, float], primary: Primary | None) -> list[list[str]]:
    """Of all patients: words, value, interval, how to read it."""
    return [
        [words(one.name.figure), number(one.value), interval(one), _reading(one, figures)]
        for one in ordered(figures, primary)
        if not one.name.group
    ]


def _reading(figure: Shown, figures: Mapping[str, float]) -> str:
    """How to read it, with what this run's own numbers say about that."""
    said = [meaning(figure.name.figure)]
    if figure.name.figure in TREATED and PREVALENCE in figures:
        odds = TREATED[figure.name.figure] / (100 - TREATED[figure.name.figure])
        said.append(f"treating all has {number(figures[PREVALENCE] - (1 - figures[PREVALENCE]) * odds)}")
    if figure.noise is not None:
        said.append(f"noise alone would make {number(figure.noise)} of it")
    return "; ".join(filter(None, said))


def group_rows(figures: Mapping[str, float], primary: Primary | None) -> tuple[list[str], list[list[str]]]:
    """(heads, rows): a row for all patients and each group, a column for each figure that a group has; empty without groups."""
    found = ordered(figures, primary)
    groups = groups_of(found)
    if not groups:
        return [], []
    names = list(dict.fromkeys(one.name.figure for one in found if one.name.group))
    known = {(one.name.group, one.name.figure): one for one in found}
    rows = [
        [group_words(group) if group else "all", *(_value(known.get((group, name))) for name in names)] for group in ("", *groups)
    ]
    return ["patients", *(words(name) for name in names)], rows


def _value(figure: Shown | None) -> str:
    if figure is None:
        return ""
    reach = interval(figure)
    return number(figure.value) + (f" ({reach})" if reach else "")


def all_words(figures: Mapping[str, float], primary: Primary | None) -> str:
    """Every figure of all patients in one sentence, for cards and logs."""
    parts = [f"{row[0]} {row[1]}" + (f" ({row[2]})" if row[2] else "") for row in whole_rows(figures, primary)]
    return ", ".join(parts)


def cell_words(plan: Plan, survivors: int) -> str:
    """How sharp the cells are: bins, blocks, noise on one patient's count."""
    scoring = scoring_of(plan)
    if not isinstance(scoring, Scoring):
        return ""
    weights: Sequence[float] = scoring.weights
    blocks = "" if len(weights) == 1 else f" in {len(weights)} blocks of weights {', '.join(f'{weight:.2f}' for weight in weights)}"
    noise = plan.privacy.evaluate_noise * math.sqrt(survivors)
    said = f"Figures come from {scoring.cells} summed cells{blocks}"
    if not plan.private:
        return f"{said}, exact but for the width of a bin."
    worst = max(noise / weight for weight in weights)
    reach = f"{noise / weights[0]:.1f}" + (f" to {worst:.1f}" if worst > noise / weights[0] + 0.05 else "")
    return f"{said}; the noise on each is of standard deviation {reach} patients ({survivors} sites)."
