"""How good a model is, in one sentence beside its predictions: the main figure of the run's own test patients, as it was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.exported import scoring_of
from tasks.run_options import ROWS
from tasks.scoring.chance import doubts
from tasks.scoring.names import NOISE_DOMINATES, meaning, words

if TYPE_CHECKING:
    from tasks.base import Task
    from tasks.exported import Exported


def quality_of(exported: Exported, task: Task) -> str:
    """Says so, too, where nothing was measured, where it is this hospital's alone, and where it cannot be relied on."""
    evaluation = exported.facts.get("evaluation")
    found = evaluation.get("figures") if isinstance(evaluation, dict) else None
    if exported.personal:
        return "see `wardround-site evaluate` for this hospital's test patients; nobody else has this model"
    drowned = isinstance(found, dict) and found.get(NOISE_DOMINATES)
    name = scoring_of(exported, task).primary
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(evaluation, dict) or not isinstance(found, dict) or not isinstance(value, int | float):
        return "measured on test patients, and noise leaves nothing to show" if drowned else "not measured on test patients"
    low, high = (found.get(f"{name}_{end}") for end in ("low", "high"))
    ends = f" (95 % {low:.3f} to {high:.3f})" if isinstance(low, int | float) and isinstance(high, int | float) else ""
    said = f"{words(name)} {value:.3f}{ends} on test patients of {evaluation.get('sites')} sites"
    remarks = [
        doubts({key: float(one) for key, one in found.items() if isinstance(one, int | float)}, name).rstrip(".") or meaning(name),
        "NOISE IS OF ITS SIZE, do not read it" if drowned else "",
        "ROWS WERE PARTED, NOT PATIENTS: too good" if exported.options.split == ROWS else "",
    ]
    return "; ".join([said, *(_within(remark) for remark in remarks if remark)])


def _within(remark: str) -> str:
    """As part of a sentence: a capital is kept where more of them follow."""
    return remark[0].lower() + remark[1:] if remark[1:2].islower() else remark
