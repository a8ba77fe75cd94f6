"""The tasks `cognition_prom` and `prom_msis29`: whose days, a model of the change of a score, and what it is scored against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from tasks.base import Contract, Label, Options, Values
from tasks.cognition_prom.measures import MSIS29, SDMT, Measure, score_columns
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.routine import CORE
from tasks.episodes.task import EpisodeTask
from tasks.errors import DataError
from tasks.predicting.base import Foretold
from tasks.scoring.groups import groupings
from tasks.scoring.numeric import NumericScoring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from tasks.base import Column
    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes, Past
    from tasks.scoring.base import Scoring

FRESH_D: Final = 365
REACH: Final = 5  # steps: four standard deviations of a year's change in simulated patients
MODELS: Final = {"linear": "logistic", "mlp": "mlp"}  # the same layers; what they give is a change here and no logit


@dataclass(frozen=True)
class NextScore(EpisodeTask):
    """Which score will there be in a year? Labels are (score then, last score now), outputs the change in steps that matter."""

    measure: Measure = SDMT

    population: ClassVar[str] = (
        "Adults with MS or CIS who had EDSS on two days of the last three years, each time with the score in the year before."
    )
    nobody: ClassVar[str] = (
        "no patient has an episode: it needs an adult (birth_year, year_band) with EDSS and the score on two days of three years, "
        "and the score again after nine to fifteen months. See `wardround-site data profile`"
    )

    @property
    def label_shape(self) -> tuple[int, ...]:
        """The score in a year, and the last one."""
        return (2,)

    @property
    def model_names(self) -> tuple[str, ...]:
        """`linear` and `mlp`."""
        return tuple(MODELS)

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """Layers of `tasks.models`, for a change in steps."""
        return super().build_model(MODELS.get(name, name), options, columns)

    def episodes(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """Days of the usual rule among the visits that had the score on their day or in the year before."""
        return super().episodes(self._scored(tables))

    def present(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """The last of such days of everybody."""
        return super().present(self._scored(tables))

    def _scored(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        from tasks.cognition_prom.scores import visits_with

        if "visits" not in tables or (visits := visits_with(tables, self.measure, FRESH_D)).empty:
            raise DataError(self.nobody)
        return {**tables, "visits": visits}

    def inputs(self, past: Past, columns: Sequence[Column]) -> Values:
        """Routine inputs, and the patient's own scores so far."""
        from tasks.cognition_prom.inputs import score_values

        own = score_values(past, self.measure)
        routine = iter(super().inputs(past, [column for column in columns if column.name not in own]).T)
        found = [np.clip(own[each.name], *each.limits) if each.name in own else next(routine) for each in columns]
        return np.stack(found, axis=1)

    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """The score a year later, and the last one."""
        from tasks.cognition_prom.outcome import outcome_of

        return outcome_of(tables, episodes, self.measure)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Huber's, in steps: (batch,) from changes (batch,) and labels (batch, 2). Beyond one step off it grows linearly, so a
        slip of the pen pulls no more than an ordinary patient."""
        later, last = labels.to(outputs.dtype).unbind(-1)
        losses: Tensor = functional.huber_loss(outputs, (later - last) / self.measure.step, reduction="none")
        return losses

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """Errors of the score in a year, beside those of the last score and of the mean; above `REACH` steps they count as that."""
        of = self.measure
        return NumericScoring(of.low, of.high, bins, change=of.step, reach=REACH * of.step, by=groupings(self.contract, by))

    def foretold(self, outputs: Tensor) -> Mapping[str, Foretold]:
        """The change, in points: what it is added to is among the inputs."""
        meaning = f"{self.measure.what}: change from the last score to that in a year"
        return {f"{self.measure.short}_change_1y": Foretold(meaning, self.measure.step * outputs.double(), unit="points")}


def _contract(name: str, measure: Measure) -> Contract:
    label = Label(f"{measure.short}_1y", f"{measure.what}: the score nine to fifteen months after the day of prediction")
    return Contract(name, "1", (*score_columns(measure), *CORE, *ALL_EXTRAS, *VISITS), label)


TASK: Final = NextScore(_contract("cognition_prom", SDMT), SDMT)
MSIS29_TASK: Final = NextScore(_contract("prom_msis29", MSIS29), MSIS29)
