"""A task on the time to an event: name the years, the causes and what became of an episode, and everything else is here."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from tasks.episodes.task import EpisodeTask
from tasks.features import Design
from tasks.hazards import model
from tasks.hazards.grid import LABEL_NUMBERS, Grid
from tasks.hazards.likelihood import negative_log_likelihood
from tasks.hazards.scoring import HazardScoring, View
from tasks.scoring.groups import groupings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from tasks.base import Options
    from tasks.predicting.base import Foretold
    from tasks.scoring.base import Scoring

# Nats. A record's gradient adds up over its quarters and is some ten times as long as the clip of the privacy settings, which suits
# yes/no tasks. Cut to a tenth, people with an event weigh too little, and hazards come out at half of what they are.
UNIT: Final = 10.0


@dataclass(frozen=True)
class HazardTask(EpisodeTask, ABC):
    """Discrete hazards in quarters of a year, of one cause or several that compete. `views`: what figures are of (`scoring`)."""

    grid: ClassVar[Grid] = Grid(5)
    causes: ClassVar[tuple[str, ...]] = ("event",)  # names in figures; cause 1 is the first
    views: ClassVar[tuple[View, ...]] = (View(1, 5), View(1, 1), View(1, 2), View(1, 3))
    compares: ClassVar[str] = "uno_c"  # the primary figure
    says: ClassVar[tuple[str, ...]] = ("the event happens",)  # for each cause, what it is to a patient

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Last quarter known to be free of the event, quarter in which it was seen, cause (0: none)."""
        return (LABEL_NUMBERS,)

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """Hazard model for the design of `columns` (all if None); see `tasks.hazards.model.build_model`."""
        design = Design(self.contract, None if columns is None else tuple(columns))
        return model.build_model(name, design, options, bins=self.grid.bins, causes=len(self.causes))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of each record, in `UNIT` nats: (batch,); see `tasks.hazards.likelihood`."""
        return negative_log_likelihood(outputs, labels, len(self.causes)) / UNIT

    def foretold(self, outputs: Tensor) -> Mapping[str, Foretold]:
        """The chance of each view's cause by its horizon: `tasks.predicting.base.Foretells`."""
        from tasks.hazards.bedside import foretold

        return foretold(outputs, self.causes, self.says, self.views)

    def scoring(self, bins: int, by: Sequence[str] = ()) -> Scoring:
        """Histograms of time, cause and predicted risk, of everybody and of groups."""
        return HazardScoring(bins, self.causes, self.views, self.compares, groupings(self.contract, by))
