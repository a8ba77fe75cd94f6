"""A label rule is one frozen value, and its `rule_id` names every choice in it and the engine that reads it.

Two labels with one `rule_id` were made by the same definition; a changed field, a changed relapse-free window and a new
engine version each give another id. Bsteh 2025 (10.1177/13524585251396283) counts 1440 variants in use on one registry,
with event rates of 15.7-41.6 %: a label without its rule means nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from tasks.labels.errors import LabelError

ENGINE = "1"  # raised by every change that can change a label
MAX_DAYS = 50_000  # longest length and largest day, days: 137 years
STEP_TOLERANCE = 1e-9  # of the outcome's unit: 6.6 s is 20 % above 5.5 s, whatever binary fractions make of it

Floats = NDArray[np.float64]

Outcome = Literal["edss", "t25fw", "nhpt", "sdmt", "composite"]
EdssRule = Literal["A", "B", "C", "SPMS"]
Anchor = Literal["reference", "previous", "event", "confirmation"]
Pira = Literal["mueller2023", "mueller2023_strict", "kappos2020", "cagol2022", "mueller2025", "portaccio2025"]


@dataclass(frozen=True)
class Window:
    """Days from `start` + `start_days` to `end` + `end_days`, both included, without a relapse onset.

    Anchors are visits: the reference, the one before the event (`previous`), the event, the confirmation.
    """

    start: Anchor
    start_days: int
    end: Anchor
    end_days: int


# Relapse-free windows of each definition of PIRA; sources in README.md.
PIRA_WINDOWS: dict[Pira, tuple[Window, ...]] = {
    "mueller2023": (Window("event", -90, "event", 30), Window("confirmation", -90, "confirmation", 30)),
    "mueller2023_strict": (Window("reference", 0, "confirmation", 0),),
    "kappos2020": (Window("reference", 0, "event", 30), Window("confirmation", -30, "confirmation", 30)),
    "cagol2022": (Window("event", -90, "confirmation", 0),),
    "mueller2025": (Window("previous", 0, "event", 0), Window("confirmation", -30, "confirmation", 0)),
    "portaccio2025": (Window("event", -90, "event", 30),),
}


@dataclass(frozen=True)
class LabelRule:
    """Everything that decides a label. `LabelError` for an unknown word or a length outside its range.

    Lengths are days, 0 to 50,000. The defaults are those of `ms.md` 1.2-1.4 (24 weeks, rule A, roving).
    """

    outcome: Outcome = "edss"
    edss_rule: EdssRule = "A"  # smallest EDSS change by reference, see `edss_step`
    timed_change: float = 0.2  # T25FW, 9HPT: share of the reference, in (0, 10] (Schwid 2002)
    sdmt_rule: Literal["points", "points_or_share"] = "points"  # 4 points, or min(4, 20 % of the reference)
    confirm_days: int = 168  # >= 1
    confirm_early_days: int = 7  # a confirmation may be so much earlier, < confirm_days
    confirm_late_days: int = 730  # or so much later
    sustained: Literal["every_visit", "confirmation_visit"] = "every_visit"  # which visits must hold the change
    confirm_level: Literal["threshold", "event_score"] = "threshold"  # hold it against the reference, or hold the event's score
    shield: Literal["days", "end_day"] = "days"  # after a relapse, no reference and no confirmation for so long
    shield_days: int = 30  # from onset, this day excluded; with `end_day`, for relapses whose end is unknown
    event_shield_days: int = 0  # no event so soon after a relapse; 0 lets events be during relapses
    baseline: Literal["roving", "roving_improvement", "roving_worsening", "fixed"] = "roving"
    rebase_at: Literal["confirmation", "event"] = "confirmation"  # where the reference moves, and the search goes on
    after_relapse: Literal["keep", "rebaseline", "rebaseline_not_lower"] = "keep"
    raw_days: int = 90  # RAW: event within so many days after an onset, this day included
    pira: Pira = "mueller2023"
    leading_fs: Literal["required", "not_required"] = "required"  # SPMS: hold the leading functional system too
    neda_rebaseline_days: int = 182  # NEDA-3: the scan that new lesions count from is so long after the start
    neda_rebaseline_early_days: int = 60  # or so much earlier

    def __post_init__(self) -> None:
        hints = get_type_hints(LabelRule)
        for option in fields(self):
            value = getattr(self, option.name)
            if option.type == "int":
                _check_days(option.name, value)
            elif (allowed := get_args(hints[option.name])) and value not in allowed:
                raise LabelError(f"rule: {option.name} is {value!r}, it must be one of {', '.join(allowed)}")
        if isinstance(self.timed_change, bool) or not 0.0 < self.timed_change <= 10.0:
            raise LabelError(f"rule: timed_change is {self.timed_change}, it must be a share of the reference in (0, 10]")
        if not 0 <= self.confirm_early_days < self.confirm_days:
            raise LabelError(
                f"rule: confirm_early_days is {self.confirm_early_days}, it must be below confirm_days, {self.confirm_days}: "
                "an event cannot confirm itself"
            )
        if self.edss_rule == "SPMS" and self.outcome != "edss":
            raise LabelError(f"rule: edss_rule SPMS goes with outcome edss only, not with {self.outcome}")

    @property
    def windows(self) -> tuple[Window, ...]:
        """Relapse-free windows of PIRA."""
        return PIRA_WINDOWS[self.pira]

    @property
    def rule_id(self) -> str:
        """Such as `v1-edss-A-168d-roving-mueller2023-5c1f0a2b`: engine, the main choices, and 32 bits of a hash of all."""
        everything = {"engine": ENGINE, "rule": asdict(self), "windows": [asdict(window) for window in self.windows]}
        text = json.dumps(everything, sort_keys=True, separators=(",", ":"))
        tag = hashlib.sha256(b"wardround/label-rule\x00" + text.encode()).hexdigest()[:8]
        return f"v{ENGINE}-{self.outcome}-{self.edss_rule}-{self.confirm_days}d-{self.baseline}-{self.pira}-{tag}"


def edss_step(reference: Floats, rule: EdssRule) -> Floats:
    """Smallest change that counts, points, for each reference EDSS in 0..10.

    A: 1.5 from 0, 1.0 up to 5.0, then 0.5 (Müller 2023). B: 1.0 up to 5.5 (De Brouwer 2024). C: as B, but 1.0 from 0
    (OPERA, ORATORIO). SPMS: as B; what else it asks for is in `spms.py` (Lorscheider 2016).
    """
    from_zero = 1.0 if rule == "C" else 1.5
    half_steps_above = 5.0 if rule == "A" else 5.5
    return np.where(reference == 0.0, from_zero, np.where(reference <= half_steps_above, 1.0, 0.5))


def smallest_change(rule: LabelRule, outcome: Outcome) -> Callable[[Floats], Floats]:
    """The function from references to the smallest change that counts, in the outcome's unit (points, s, s, n)."""
    if outcome == "edss":
        return lambda reference: edss_step(reference, rule.edss_rule)
    if outcome == "sdmt" and rule.sdmt_rule == "points":
        return lambda reference: np.full(reference.shape, 4.0)
    if outcome == "sdmt":
        return lambda reference: np.minimum(4.0, 0.2 * reference)
    return lambda reference: rule.timed_change * reference


def _check_days(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_DAYS:
        raise LabelError(f"rule: {name} is {value!r}, it must be a whole number of days from 0 to {MAX_DAYS}")


# Kappos 2020 measures against one baseline, which moves after a relapse and never to a lower score.
KAPPOS2020_RULE = LabelRule(pira="kappos2020", baseline="fixed", after_relapse="rebaseline_not_lower")
# Lorscheider 2016 (Brain 139:2395): confirmed over 3 months or more.
SPMS_RULE = LabelRule(edss_rule="SPMS", confirm_days=84)
