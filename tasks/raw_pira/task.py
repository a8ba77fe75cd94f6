"""The task `raw_pira`: what is special about it. Grid, model, loss and figures are those of every task on hazards."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tasks.base import Contract, Label
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE
from tasks.hazards.grid import Grid
from tasks.hazards.scoring import View
from tasks.hazards.task import HazardTask
from tasks.labels.rule import LabelRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes

RULE: Final = LabelRule()
GRID: Final = Grid(2)
EVENTS: Final = ("PIRA", "RAW", "UND")  # causes 1, 2, 3: silent, by a relapse, neither shown

CONTRACT: Final = Contract(
    task="raw_pira",
    version="1",
    columns=(*CORE, *ALL_EXTRAS, *VISITS),
    label=Label(
        "first_worsening_2y", "class of the first confirmed worsening within two years (PIRA, RAW, undetermined) and the quarters "
        f"in which it began; reference: the day of prediction; {RULE.rule_id}"
    ),
)  # fmt: skip


class SilentOrByRelapse(HazardTask):
    """Which comes first within two years: silent worsening, worsening by a relapse, one of neither, or none?"""

    rule: ClassVar[str] = RULE.rule_id
    grid: ClassVar[Grid] = GRID
    causes: ClassVar[tuple[str, ...]] = tuple(name.lower() for name in EVENTS)
    says: ClassVar[tuple[str, ...]] = (
        "a confirmed worsening of EDSS independent of relapses begins",
        "a confirmed worsening of EDSS by a relapse begins",
        "a confirmed worsening of EDSS begins of which neither is shown",
    )
    views: ClassVar[tuple[View, ...]] = (View(1, 2), View(2, 2))
    compares: ClassVar[str] = "auc_pira"
    population: ClassVar[str] = (
        "Adults with CIS or relapsing-remitting MS whose hospital records relapses: EDSS on two days of the last three years, the "
        "last no older than 90 days."
    )
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs an adult with CIS or RRMS and EDSS on two days of three years, and later a confirmed "
        "worsening, or a visit that another one 24 weeks later could confirm. See `wardround-site data profile`"
    )

    def served(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> NDArray[np.bool_]:
        """Days in CIS or RRMS, at a site with a table of relapses."""
        from tasks.raw_pira.outcome import relapsing

        return relapsing(tables, episodes)

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """Quarters and class of the first worsening, or without any up to which."""
        from tasks.raw_pira.outcome import outcome_of

        return outcome_of(tables, episodes)


TASK: Final = SilentOrByRelapse(CONTRACT)
