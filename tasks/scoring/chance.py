"""Whether a model's main figure says that it is worth anything: said in words beside the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from tasks.scoring.names import meaning

CHANCE: Final[Mapping[str, float]] = {  # what knowing nothing reaches, for figures of which more is better
    "auc": 0.5, "uno_c": 0.5, "harrell_c": 0.5, "ad_wabc": 0.0, "qini": 0.0, "log_likelihood_gain": 0.0, "r2": 0.0,
}  # fmt: skip
RIVALS: Final[Mapping[str, tuple[str, ...]]] = {"mae": ("mae_last", "mae_mean")}  # of the same patients, of which less is better


def doubts(figures: Mapping[str, float], name: str) -> str:
    """A sentence for a figure called `name` that is not surely better than chance, or no better than a rule; "" for any other.

    Names with a horizon or a cause behind them (`auc_2y`) are those of their head.
    """
    value = figures.get(name)
    if value is None:
        return ""
    head = next((key for key in CHANCE if name == key or name.startswith(f"{key}_")), "")
    if head and figures.get(f"{name}_low", math.inf) <= CHANCE[head]:
        return "Not surely better than chance: the interval reaches it."
    beaten = [rival for rival in RIVALS.get(name, ()) if figures.get(rival, math.inf) <= value]
    return f"No better than the error {meaning(beaten[0])}." if beaten else ""
