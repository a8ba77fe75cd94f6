"""The task `cdp_time`: what is special about it. Grid, model, loss and figures are those of every task on hazards."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tasks.base import Contract, Label
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE
from tasks.hazards.grid import Grid
from tasks.hazards.task import HazardTask
from tasks.labels.rule import LabelRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes

RULE: Final = LabelRule()
GRID: Final = Grid(5)

CONTRACT: Final = Contract(
    task="cdp_time",
    version="1",
    columns=(*CORE, *ALL_EXTRAS, *VISITS),
    label=Label(
        "quarter_of_worsening", "quarters, up to five years, in which a confirmed worsening of EDSS began; reference: the day of "
        f"prediction; {RULE.rule_id}"
    ),
)  # fmt: skip


class TimeToProgression(HazardTask):
    """When does a worsening begin that is confirmed after 24 weeks?"""

    rule: ClassVar[str] = RULE.rule_id
    grid: ClassVar[Grid] = GRID
    causes: ClassVar[tuple[str, ...]] = ("cdp",)
    says: ClassVar[tuple[str, ...]] = ("a worsening of EDSS begins that is confirmed after 24 weeks",)
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs an adult (birth_year, year_band) with EDSS on two days of three years, and later a "
        "confirmed worsening, or a visit that another one 24 weeks later could confirm. See `wardround-site data profile`"
    )

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """Quarters of the first worsening, or without any up to which."""
        from tasks.cdp_time.outcome import outcome_of

        return outcome_of(tables, episodes)


TASK: Final = TimeToProgression(CONTRACT)
