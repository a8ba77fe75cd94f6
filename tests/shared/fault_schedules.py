"""A schedule of faults is data: drawn from a seed, printed as one line, and replayed from that line."""

import random
import re
from dataclasses import dataclass
from typing import Final

PHASES: Final = ("keys", "kem", "train", "upload", "vote", "voted")
SITES: Final = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
OF_A_SITE: Final = (
    *("kill-guard", "kill-trainer", "kill-gateway", "kill-supernode", "freeze-guard", "freeze-gateway"),
    *("cut", "silent", "slow", "thin", "truncate", "double", "repeat", "overtake", "memory", "full-site", "clock-site"),
)
OF_THE_HUB: Final = (
    *("kill-superlink", "kill-superexec", "kill-coordinator", "kill-lead", "kill-hub"),
    *("freeze-superlink", "full-hub", "clock-hub"),
)
KINDS: Final = (*OF_A_SITE, *OF_THE_HUB)
INSTANTS: Final = {
    "keys": 1,
    "kem": 1,
    "train": 4,
    "upload": 4,
    "vote": 4,
    "voted": 4,
}  # two rounds of training make four
FORM: Final = re.compile(r"([a-z-]+)@([a-z0-9-]+):([a-z]+)#(\d+)\+([\d.]+)s~([\d.]+)s")


@dataclass(frozen=True)
class Fault:
    """`what` happens `after_s` seconds after `site` was seen in `phase` for the `nth` time, and lasts `for_s`.

    A fault of the hub takes its instant from a site's line too. The message that gives it away is held until a fault with
    `after_s` 0 is in place.
    """

    what: str
    site: str
    phase: str
    nth: int
    after_s: float
    for_s: float

    def __str__(self) -> str:
        return f"{self.what}@{self.site}:{self.phase}#{self.nth}+{self.after_s:g}s~{self.for_s:g}s"

    @classmethod
    def read(cls, words: str) -> "Fault":
        found = FORM.fullmatch(words.strip())
        if found is None or found[1] not in KINDS or found[3] not in PHASES:
            raise ValueError(f"fault {words!r} is not WHAT@SITE:PHASE#N+AFTERs~FORs; WHAT of {KINDS}, PHASE of {PHASES}")
        return cls(found[1], found[2], found[3], int(found[4]), float(found[5]), float(found[6]))


@dataclass(frozen=True)
class Schedule:
    """One run's faults. `seed`: what it was drawn from, and how its lines jitter."""

    seed: int
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return f"{self.seed}: " + "; ".join(map(str, self.faults))

    @classmethod
    def read(cls, line: str) -> "Schedule":
        seed, _, faults = line.partition(":")
        return cls(int(seed), tuple(Fault.read(words) for words in faults.split(";") if words.strip()))


def drawn(seed: int, *, kinds: tuple[str, ...] = KINDS) -> Schedule:
    """One to four faults at random instants. The first kind goes round with the seed, so that many seeds leave out none."""
    chance = random.Random(seed)
    faults = []
    for index in range(chance.choice((1, 2, 2, 3, 4))):
        what = kinds[seed % len(kinds)] if index == 0 else chance.choice(kinds)
        phase = chance.choice(PHASES)
        after_s = chance.choice((0.0, round(chance.uniform(0.0, 0.5), 2)))
        nth, for_s = chance.randint(1, INSTANTS[phase]), round(chance.uniform(0.2, 4.0), 1)
        faults.append(Fault(what, chance.choice(SITES), phase, nth, after_s, for_s))
    return Schedule(seed, tuple(faults))
