"""The task `cdp_2y`: what is special about it. Days, inputs, models, loss and figures are those of every task on episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tasks.base import Contract, Label
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE
from tasks.episodes.task import EpisodeTask
from tasks.labels.rule import LabelRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes

HORIZON_D: Final = 730
RULE: Final = LabelRule()

CONTRACT: Final = Contract(
    task="cdp_2y",
    version="2",
    columns=(*CORE, *ALL_EXTRAS, *VISITS),
    label=Label(
        "worsened_2y", f"a confirmed worsening of EDSS began within two years; reference: the day of prediction; {RULE.rule_id}"
    ),
)


class ConfirmedProgression(EpisodeTask):
    """Will a worsening begin within two years that is confirmed after 24 weeks?"""

    rule: ClassVar[str] = RULE.rule_id
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs an adult (birth_year, year_band) with EDSS on two days of three years, and 30 "
        "months of follow-up or a confirmed worsening. See `wardround-site data profile` and `wardround-site data label`"
    )

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """1 worse, 0 not."""
        from tasks.cdp_2y.outcome import outcome_of

        return outcome_of(tables, episodes)


TASK: Final = ConfirmedProgression(CONTRACT)
