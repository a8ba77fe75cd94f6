"""The task `spms_transition`: what is special about it. Grid, model, loss and figures are those of every task on hazards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from tasks.base import Contract, Label
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE
from tasks.hazards.grid import Grid
from tasks.hazards.task import HazardTask
from tasks.labels.rule import SPMS_RULE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes

RULE: Final = replace(SPMS_RULE, leading_fs="not_required")
HIGHEST_EDSS: Final = 5.5
GRID: Final = Grid(5)

CONTRACT: Final = Contract(
    task="spms_transition",
    version="1",
    columns=(*CORE, *ALL_EXTRAS, *VISITS),
    label=Label(
        "quarter_of_transition", f"quarters of a year, up to five years, in which secondary progression began; {RULE.rule_id}"
    ),
)


class Transition(HazardTask):
    """When does secondary progression begin?"""

    rule: ClassVar[str] = RULE.rule_id
    grid: ClassVar[Grid] = GRID
    causes: ClassVar[tuple[str, ...]] = ("spms",)
    says: ClassVar[tuple[str, ...]] = ("secondary progression begins",)
    population: ClassVar[str] = (
        "Adults with relapsing-remitting MS and EDSS of 5.5 or less, on two days of the last three years and lately, who have not "
        "passed to secondary progression."
    )
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs an adult with RRMS, EDSS of 5.5 or less on two days of three years, no transition so "
        "far, and a visit later that another one 12 weeks later could confirm. See `wardround-site data profile`"
    )

    def served(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> NDArray[np.bool_]:
        """Days in RRMS with EDSS of 5.5 or less, before any transition that was confirmed by then."""
        from tasks.spms_transition.outcome import at_risk

        return at_risk(tables, episodes)

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """Quarters of the transition, or without one up to which."""
        from tasks.spms_transition.outcome import outcome_of

        return outcome_of(tables, episodes)


TASK: Final = Transition(CONTRACT)
