"""The tasks `treatment_response` (worsening) and `treatment_response_relapse`: whose start, which inputs, which outcome.

Learners, loss and figures are those of every task on effects (`tasks.effects`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from tasks.base import Contract, Label
from tasks.cdp_2y.task import RULE
from tasks.effects.learners import EFFECT, LABEL_SHAPE, effect_loss
from tasks.effects.model import LEARNERS, build_effect_model
from tasks.effects.scoring import EffectScoring
from tasks.episodes.task import EpisodeTask
from tasks.errors import ContractError
from tasks.features import Design
from tasks.treatment_response.columns import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from tasks.base import Column, Options, Values
    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes, Past
    from tasks.predicting.base import Foretold
    from tasks.scoring.base import Scoring

MODIFIERS: Final = ("age_years", "relapses_1y", "gd_count_last", "edss_last", "phenotype")  # prespecified: ms.md calls them likely
ARMS: Final = "1 = high efficacy, 0 = platform, on the day of the first dose"


@dataclass(frozen=True)
class TreatmentResponse(EpisodeTask):
    """What high efficacy instead of platform does to one patient's risk, from new starts of either (active comparator)."""

    of: Literal["worsening", "relapse"] = "worsening"

    most: ClassVar[int] = 2  # starts of a patient, the first ones: a third is one in two hundred
    population: ClassVar[str] = (
        "Adults with MS or CIS who start a platform or a high-efficacy therapy after six months without any, with a recent EDSS."
    )
    nobody: ClassVar[str] = (
        "no patient has a start with a label: it needs the table treatments with dmt_class platform or high, six months without "
        "therapy before it, an adult (birth_year, year_band) with EDSS in these months, and two years of follow-up or more. See "
        "`wardround-site data profile`"
    )

    @property
    def model_names(self) -> tuple[str, ...]:
        """R- and DR-learner, linear and with one hidden layer, and one effect for everybody."""
        return tuple(LEARNERS)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Treated, outcome, fold."""
        return LABEL_SHAPE

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """See `tasks.effects.model.build_effect_model`."""
        names = None if columns is None else tuple(columns)
        return build_effect_model(name, Design(self.contract, names), options, MODIFIERS)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Nuisances of the other folds, and the effect with those of the own one; see `tasks.effects.learners`."""
        return effect_loss(outputs, labels)

    def foretold(self, outputs: Tensor) -> Mapping[str, Foretold]:
        """The effect, the mean of both folds' models: `tasks.predicting.base.Foretells`."""
        from tasks.predicting.base import Foretold

        event = "a confirmed worsening of EDSS" if self.of == "worsening" else "a relapse"
        meaning = (
            f"change of the two-year risk of {event} if a high-efficacy therapy were started today instead of a platform one; "
            "below 0: the risk is lower. An estimate from patients who were not randomised"
        )
        points = 100.0 * outputs[..., EFFECT, :].double().mean(-1)
        return {f"effect_{self.of}_2y": Foretold(meaning, points, unit="% points")}

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """`bins` of the predicted effect; no groups, whose cells would be too many."""
        if by:
            raise ContractError(f"task {self.name} has no figures by {', '.join(by)}")
        return EffectScoring(bins)

    def episodes(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """The days of new starts."""
        from tasks.treatment_response.starts import new_starts

        return new_starts(tables, self.records)

    def served(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> NDArray[np.bool_]:
        """Who could start now: nobody who has had a therapy in the last six months."""
        from tasks.treatment_response.starts import untreated_on

        return untreated_on(tables, episodes)

    def inputs(self, past: Past, columns: Sequence[Column]) -> Values:
        """(n_episodes, n_columns) from what was known when the therapy began, without that therapy."""
        from tasks.treatment_response.columns import values_before

        return values_before(past, columns)

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """Arm, outcome, fold."""
        from tasks.treatment_response import outcome

        return outcome.worsening(tables, episodes) if self.of == "worsening" else outcome.relapse(tables, episodes)


WORSENED: Final = Label(
    "arm_worsened_2y", f"{ARMS}; and whether a worsening of EDSS began within two years that is confirmed by {RULE.rule_id}"
)
RELAPSED: Final = Label("arm_relapse_2y", f"{ARMS}; and whether a relapse began within two years")
TASK: Final = TreatmentResponse(Contract("treatment_response", "1", COLUMNS, WORSENED))
RELAPSE: Final = TreatmentResponse(Contract("treatment_response_relapse", "1", COLUMNS, RELAPSED), of="relapse")
