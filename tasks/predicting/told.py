"""What is told of one quantity: a value, an interval, and what lies in it. No torch: plans import what imports this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """`of`: what lies in it, as people read it; `level`: how often, in (0, 1)."""

    of: str
    level: float

    @property
    def name(self) -> str:
        """For a heading."""
        return f"{100 * self.level:.0f} % interval"


RISK_INTERVAL: Final = Interval(
    "the calibrated risk of patients with this score; what else differs between them is not in it", 0.95
)
EFFECT_INTERVAL: Final = Interval(
    "the mean effect in patients for whom this effect is predicted; nobody's own effect can be measured", 0.95
)
OWN_INTERVAL: Final = Interval("this patient's own value, once it is known; as wide for everybody, whatever is foretold", 0.8)


@dataclass(frozen=True)
class Told:
    """On the scale of the score (log-odds of a risk, else the unit), (n,) each and differentiable."""

    score: Tensor = field(repr=False)
    low: Tensor = field(repr=False)
    high: Tensor = field(repr=False)


class Correction(Protocol):
    """How what was foretold came out in test patients."""

    @property
    def interval(self) -> Interval:
        """What its intervals are of."""
        ...

    def told(self, score: Tensor) -> Told:
        """What is to be told of scores (n,), as the model has them (`tasks.predicting.base.Foretold`)."""
        ...
