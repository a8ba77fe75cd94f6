"""What may be read in a count of patients that was summed over hospitals: few and none look alike.

Everything here is post-processing of a released sum: it costs no privacy, and gives none back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FLOOR: Final = 10.0  # patients; less is not shown, as in ms.md 4.2
HIDDEN: Final = "not shown"  # of groups that make up a whole
NOISES: Final = 3.0  # nor is what could be noise alone: so many standard deviations of it


@dataclass(frozen=True)
class Sharpness:
    """`noise`: standard deviation in one number of the sum. `floor`: the least number of patients that is shown."""

    noise: float

    @property
    def floor(self) -> float:
        return max(FLOOR, math.ceil(NOISES * self.noise))

    @property
    def few(self) -> str:
        """What stands for every number of patients below the floor, none included."""
        return f"fewer than {self.floor:g}, or none"

    def patients(self, count: float) -> float | str:
        """A number of patients as it is shown."""
        return float(round(count)) if count >= self.floor else self.few

    def groups(self, counts: Mapping[str, float]) -> dict[str, float | str]:
        """Counts of groups that make up a whole which is known elsewhere.

        Where those not shown would be fewer than the floor together, the smallest group that is shown is not shown either: nobody
        can then subtract his way to a few. All that are not shown look alike: if the larger one were told from the fewer ones, what
        is left of the whole would say how few they are.
        """
        hidden = {name for name, count in counts.items() if count < self.floor}
        while hidden and len(hidden) < len(counts) and sum(max(counts[name], 0.0) for name in hidden) < self.floor:
            hidden.add(min((count, name) for name, count in counts.items() if name not in hidden)[1])
        return {name: HIDDEN if name in hidden else self.patients(count) for name, count in counts.items()}
