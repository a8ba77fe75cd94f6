"""How many were screened, and why some are not in: for the hospital's eyes, unless it is summed over hospitals with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WITHDRAWN, NO_CONSENT, INCLUDED = "withdrawn", "no_consent", "included"
LOCAL = "Exact counts of this hospital's patients: they stay here. Over hospitals they are summed with noise."


@dataclass(frozen=True)
class Step:
    """One reason, in the order in which it is asked. `here`: patients whose first reason it is; `alone`: all whom it concerns."""

    name: str
    says: str
    here: int
    not_known: int  # of `here`, those of whom the answer is not known
    alone: int


@dataclass(frozen=True)
class Flow:
    """`screened` = withdrawn + every step's `here` + `included`."""

    criteria: str
    screened: int
    steps: tuple[Step, ...]
    included: int
    consent_not_recorded: int  # of `included`
    hidden_rows: dict[str, int]
    withdrawn_not_found: int = 0  # pseudonyms on the list of withdrawals that the table patients does not have

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {"local": LOCAL, **vars(self), "steps": [vars(step) for step in self.steps]}

    def to_text(self) -> str:
        """For a terminal."""
        lines = [LOCAL, f"{'screened':<24}{self.screened:>7}"]
        for step in self.steps:
            unknown = f"  (of {step.not_known} it is not known)" if step.not_known else ""
            lines.append(f"  {step.name:<22}{-step.here:>7}  {step.says}; concerns {step.alone} in all{unknown}")
        lines.append(f"{'included':<24}{self.included:>7}  by {self.criteria}")
        if self.consent_not_recorded:
            lines.append(f"  of these, {self.consent_not_recorded} have no recorded scope of consent: the hospital answers for it")
        if self.withdrawn_not_found:
            lines.append(f"  {self.withdrawn_not_found} withdrawn pseudonyms are in no row of patients: look for slips of the pen")
        lines += [f"  rows outside the consent of patients who stay: {table} {rows}" for table, rows in self.hidden_rows.items()]
        return "\n".join(lines) + "\n"


def state_names(rules: Sequence[str]) -> tuple[str, ...]:
    """Where a patient can end in a count over hospitals, in public order: the criteria file alone decides it."""
    return (*rules, INCLUDED)
