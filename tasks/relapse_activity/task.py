"""The task `relapse_activity`: who has relapsing MS, a loss that counts everybody for as long as he was watched, and the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tasks.base import Contract, Label
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE, PHENOTYPES
from tasks.episodes.task import EpisodeTask
from tasks.relapse_activity.scoring import Watched
from tasks.scoring.binary import BinaryScoring
from tasks.scoring.groups import groupings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes
    from tasks.scoring.base import Scoring

HORIZON_D: Final = 730
COURSE: Final = "RRMS"
LEAST_SHARE: Final = 1e-3  # of the two years: no label is below, engines are tried on 0
LEAST_LOGIT: Final = -30.0  # a chance of 10^-13; below, float32 knows no chance of a short time

CONTRACT: Final = Contract(
    task="relapse_activity",
    version="1",
    columns=(*CORE, *ALL_EXTRAS, *VISITS),
    label=Label("relapse_2y", "a relapse began within two years of the day of prediction"),
)


class RelapseActivity(EpisodeTask):
    """Will there be a relapse within two years? Labels are (any relapse, watched share of the two years)."""

    population: ClassVar[str] = (
        "Adults with relapsing-remitting MS whom their hospital follows: EDSS on two days of the last three years, the last no "
        "older than 90 days."
    )
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs the table relapses, and an adult (birth_year, year_band) with RRMS, EDSS on two days "
        "of three years, and a visit 90 days later. See `wardround-site data profile`"
    )

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Any relapse, and the watched share."""
        return (2,)

    def served(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> NDArray[np.bool_]:
        """Those on whose day the course, as it was known then, is relapsing-remitting."""
        from tasks.episodes.inputs import episode_values
        from tasks.episodes.past import past_of

        course = episode_values(past_of(tables, episodes, ("visits",)), [self.contract.column("phenotype")])[:, 0]
        return np.asarray(course == PHENOTYPES.index(COURSE))

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """Any relapse while watched, and for how long."""
        from tasks.relapse_activity.outcome import outcome_of

        return outcome_of(tables, episodes)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood, in nats: (batch,) from logits (batch,) of a relapse in two years and labels (batch, 2).

        Whoever was watched for a share s of the two years has had no relapse with probability (1 - p)^s: a constant hazard, as
        in a grouped survival model with an offset for exposure (Prentice and Gloeckler 1978). With s = 1 it is cross-entropy.
        """
        relapsed, share = labels.to(outputs.dtype).unbind(-1)
        hazard = functional.softplus(outputs.clamp_min(LEAST_LOGIT)) * share.clamp_min(LEAST_SHARE)  # -log (1 - p)^s
        losses: Tensor = hazard * (1.0 - relapsed) - torch.log(-torch.expm1(-hazard)) * relapsed
        return losses

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """As for every yes/no outcome, of those who were watched for the whole two years."""
        return Watched(BinaryScoring(bins, groupings(self.contract, by), self.scale))


TASK: Final = RelapseActivity(CONTRACT)
