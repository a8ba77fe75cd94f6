"""Tables and targets of `scripts/bench tasks` from its rows: 95 % intervals of Student's t over seeds, differences paired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import t as student

WORDS = {
    "oracle": "oracle: true state and hazards",
    "taught": "taught the true states of training visits",
    "pooled": "pooled: all rows in one place",
    "federated": "federated, no noise",
    "personalised": "personalised, no noise",
    "local8": "federated, local noise, epsilon 8",
    "distributed8": "federated, distributed noise, epsilon 8",
    "distributed2": "federated, distributed noise, epsilon 2",
    "local": "each site alone",
    "baseline": "baseline, federated",
    "rows": "federated, split by rows (leaks)",
}
CLOSE, AHEAD, COST = 0.01, 0.03, 0.03
SLOPES = (0.9, 1.1)
ROUNDING = 0.0005


@dataclass(frozen=True)
class Row:
    """Figures of one arm in one seed."""

    seed: int
    arm: str
    seconds: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    mean: float
    reach: float  # half the interval; NaN for one seed
    n: int

    @property
    def text(self) -> str:
        if not self.n:
            return "-"
        return f"{self.mean:.3f}" + (f" ± {self.reach:.3f}" if math.isfinite(self.reach) else "")

    @property
    def signed(self) -> str:
        return f"{self.mean:+.3f}" + (f" ± {self.reach:.3f}" if math.isfinite(self.reach) else "")


def spread(values: Sequence[float]) -> Spread:
    """Mean and half the 95 % interval of values by seed; those that are not numbers are left out."""
    kept = np.array([value for value in values if math.isfinite(value)])
    if not len(kept):
        return Spread(math.nan, math.nan, 0)
    if len(kept) == 1:
        return Spread(float(kept[0]), math.nan, 1)
    reach = float(student.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept)))
    return Spread(float(kept.mean()), reach, len(kept))


def values(rows: Sequence[Row], arm: str, name: str) -> dict[int, float]:
    return {row.seed: row.figures[name] for row in rows if row.arm == arm and name in row.figures}


def difference(rows: Sequence[Row], arm: str, other: str, name: str) -> Spread:
    """`arm` minus `other`, paired by seed."""
    mine, theirs = values(rows, arm, name), values(rows, other, name)
    return spread([mine[seed] - theirs[seed] for seed in mine if seed in theirs])


def table(rows: Sequence[Row], columns: Sequence[str], primary: str) -> str:
    """Markdown: a line for each arm."""
    arms = [arm for arm in WORDS if any(row.arm == arm for row in rows)]
    head = ["", *(_head(column, primary) for column in columns), f"{primary} - pooled", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for arm in arms:
        cells = [spread(list(values(rows, arm, column).values())).text for column in columns]
        gap = difference(rows, arm, "pooled", primary)
        took = np.mean([row.seconds for row in rows if row.arm == arm])
        lines.append("| " + " | ".join([WORDS[arm], *cells, gap.signed if gap.n else "-", f"{took:.0f}"]) + " |")
    return "\n".join(lines)


def _head(column: str, primary: str) -> str:
    said = {
        "within": f"{primary} within sites",
        "small": f"{primary} within small sites",
        "reported": "as the lead reads it",
        "slope_bedside": "slope at the bedside",
    }
    return said.get(column, column.replace("_", " "))


@dataclass(frozen=True)
class Target:
    """`met` None: the arms for it were not run, or the task has no such figure."""

    what: str
    found: str
    met: bool | None

    @property
    def line(self) -> str:
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"| {self.what} | {self.found} | {word} |"


def targets(rows: Sequence[Row], primary: str, *, lower: bool, others: Sequence[str] = ()) -> list[Target]:
    """The acceptance of the issue, as far as the arms tell; means over seeds decide."""
    sign = -1.0 if lower else 1.0

    def ahead(arm: str, other: str, name: str = primary) -> Spread:
        found = difference(rows, arm, other, name)
        return Spread(sign * found.mean, found.reach, found.n)

    def check(what: str, found: Spread, met: bool) -> Target:
        return Target(what, found.signed if found.n else "-", bool(met) if found.n else None)

    gap, small, cost = ahead("federated", "pooled"), ahead("federated", "local", "small"), ahead("distributed8", "federated")
    made = [
        check(f"federated within {CLOSE} of pooled", gap, abs(gap.mean) <= CLOSE),
        check(f"federated at least {AHEAD} above a small site alone", small, small.mean >= AHEAD),
        check(f"distributed noise at epsilon 8 costs at most {COST}", cost, cost.mean >= -COST),
    ]
    for name, arm in product(("slope", "slope_bedside"), ("federated", "distributed8")):
        slope = spread(list(values(rows, arm, name).values()))
        made.append(
            Target(
                f"calibration {_head(name, primary)} {SLOPES[0]} to {SLOPES[1]}, {WORDS[arm]}",
                slope.text,
                SLOPES[0] <= slope.mean <= SLOPES[1] if slope.n else None,
            )
        )
    for name in (primary, *others):
        above = ahead("federated", "baseline", name)
        made.append(check(f"federated above the baseline, {name}", above, above.mean > 0))
        made.append(_ceiling(rows, name, sign))
    made += _of_special_tasks(rows)
    leak = ahead("rows", "federated")
    if leak.n:
        made.append(Target("what a split by rows would have feigned", leak.signed, True))
    return [each for each in made if each.met is not None]


def _of_special_tasks(rows: Sequence[Row]) -> list[Target]:
    """Of those that have these figures: states found again, the chain beaten, nothing found where there is nothing."""
    wanted = (
        ("federated", "ari", "adjusted Rand index at least 0.5 against the true states", lambda mean: mean >= 0.5),
        ("federated", "log_likelihood_gain", "the chain of four strata beaten, federated", lambda mean: mean > 0),
        ("distributed8", "log_likelihood_gain", "the chain of four strata beaten, epsilon 8", lambda mean: mean > 0),
    )
    found = [(what, spread(list(values(rows, arm, name).values())), met) for arm, name, what, met in wanted]
    return [Target(what, each.text, met(each.mean)) for what, each, met in found if each.n]


def _ceiling(rows: Sequence[Row], name: str, sign: float) -> Target:
    arms = [arm for arm in WORDS if arm not in ("oracle", "rows")]
    gaps = {arm: difference(rows, arm, "oracle", name) for arm in arms}
    known = {arm: sign * gap.mean for arm, gap in gaps.items() if gap.n}
    if not known:
        return Target(f"nothing above the oracle, {name}", "-", None)
    best = max(known, key=lambda arm: known[arm])
    return Target(f"nothing above the oracle, {name}", f"nearest: {WORDS[best]}, {known[best]:+.3f}", known[best] <= ROUNDING)


def target_table(found: Sequence[Target]) -> str:
    return "\n".join(["| target | found | |", "| --- | --- | --- |", *(target.line for target in found)])
