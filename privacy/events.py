"""The vocabulary of releases: whatever leaves a site is one of these events, or it does not leave.

Compatibility law: events are only ever added, never removed and never redefined, because ledgers written years ago are
read with this file. An unknown name is refused, never skipped: a skipped event would be a silent refund.

Unit: the patient with all visits and scans. Neighbours: add or remove one patient. Noise multipliers are standard
deviations relative to the L2 bound on one patient's contribution, so they mean the same for every clip.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from consortium.canonical import Json
from privacy.errors import EventError

Population = Literal["train", "held_out", "all"]
POPULATIONS: Final[tuple[str, ...]] = get_args(Population)

NOISE_LEAST: Final = 1e-3  # below, the "noise" hides nobody (epsilon > 10^5): write NonPrivateEvent instead
NOISE_MOST: Final = 1e9
SAMPLE_RATE_LEAST: Final = 1e-6
COUNT_MOST: Final = 10**9
CONTRIBUTORS_MOST: Final = 2**16


@dataclass(frozen=True, order=True)
class GaussianEvent:
    """A sum over all patients of vectors with bounded L2 norm, plus Gaussian noise."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)


@dataclass(frozen=True, order=True)
class PoissonGaussianEvent:
    """The same over a random subset, each patient drawn independently with probability `sample_rate`."""

    noise_multiplier: float
    sample_rate: float

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        if type(self.sample_rate) is not float or not SAMPLE_RATE_LEAST <= self.sample_rate < 1.0:
            raise EventError(
                f"sample_rate {self.sample_rate!r} outside [{SAMPLE_RATE_LEAST}, 1): with 1 write a GaussianEvent, it is exact"
            )


@dataclass(frozen=True, order=True)
class SharedGaussianEvent:
    """One site's share of a release that is opened only inside a secure sum with at least `contributors` honest shares.

    `noise_multiplier` is this site's own noise, all that hides its patients from whoever reads its update in the clear. Whoever
    sees opened sums alone faces the noise of `contributors` equal shares, sqrt(contributors) times as much.
    """

    noise_multiplier: float
    contributors: int

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier)
        _check_contributors(self.contributors)


@dataclass(frozen=True, order=True)
class SharedPoissonGaussianEvent:
    """The same over a random subset, each patient drawn independently with probability `sample_rate`."""

    noise_multiplier: float
    sample_rate: float
    contributors: int

    def __post_init__(self) -> None:
        _check_contributors(self.contributors)
        PoissonGaussianEvent(self.noise_multiplier, self.sample_rate)


@dataclass(frozen=True, order=True)
class NonPrivateEvent:
    """A release without noise: no epsilon bounds it, and every page that shows it says NOT PRIVATE."""


Event: TypeAlias = GaussianEvent | PoissonGaussianEvent | SharedGaussianEvent | SharedPoissonGaussianEvent | NonPrivateEvent
PlainEvent: TypeAlias = GaussianEvent | PoissonGaussianEvent | NonPrivateEvent

_NAMES: Final[dict[type[Event], str]] = {
    GaussianEvent: "gaussian",
    PoissonGaussianEvent: "poisson-gaussian",
    SharedGaussianEvent: "shared-gaussian",
    SharedPoissonGaussianEvent: "shared-poisson-gaussian",
    NonPrivateEvent: "not-private",
}


@dataclass(frozen=True)
class Spend:
    """`count` independent releases of one kind about one population.

    Train and held-out patients are disjoint for ever (one fixed keyed hash decides), so the two compose in parallel;
    "all" counts against both.
    """

    event: Event
    population: Population
    count: int = 1

    def __post_init__(self) -> None:
        if type(self.event) not in _NAMES:
            raise EventError(f"event of type {type(self.event).__name__} is not in the vocabulary: it cannot be released")
        if self.population not in POPULATIONS:
            raise EventError(f"population {self.population!r} is not one of {', '.join(POPULATIONS)}")
        if type(self.count) is not int or not 1 <= self.count <= COUNT_MOST:
            raise EventError(f"count {self.count!r} outside [1, {COUNT_MOST}]")


def aggregate(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    """The same releases with equal ones counted together, in one canonical order."""
    counts: dict[tuple[str, Event], int] = {}
    for spend in spends:
        key = (spend.population, spend.event)
        counts[key] = counts.get(key, 0) + spend.count
    ordered = sorted(counts, key=lambda key: (key[0], _NAMES[type(key[1])], tuple(vars(key[1]).values())))
    return tuple(Spend(event, _population(population), counts[population, event]) for population, event in ordered)


def is_private(spends: Iterable[Spend]) -> bool:
    """False as soon as one release had no noise."""
    return not any(isinstance(spend.event, NonPrivateEvent) for spend in spends)


def charged_event(event: Event) -> PlainEvent:
    """The release as a budget is charged with it: a share counts with the noise that every opened sum holds."""
    match event:
        case SharedGaussianEvent(noise, contributors):
            return GaussianEvent(noise * math.sqrt(contributors))
        case SharedPoissonGaussianEvent(noise, rate, contributors):
            return PoissonGaussianEvent(noise * math.sqrt(contributors), rate)
        case _:
            return event


def exposed_event(event: Event) -> PlainEvent:
    """The release for somebody who reads this site's update in the clear: a share's own noise is all there is."""
    match event:
        case SharedGaussianEvent(noise, _):
            return GaussianEvent(noise)
        case SharedPoissonGaussianEvent(noise, rate, _):
            return PoissonGaussianEvent(noise, rate)
        case _:
            return event


def as_charged(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    """The same releases without shared ones, as they count against a budget."""
    return aggregate(Spend(charged_event(spend.event), spend.population, spend.count) for spend in spends)


def as_exposed(spends: Iterable[Spend]) -> tuple[Spend, ...]:
    """The same releases without shared ones, as they would count if secure aggregation failed this site."""
    return aggregate(Spend(exposed_event(spend.event), spend.population, spend.count) for spend in spends)


def spend_to_document(spend: Spend) -> dict[str, Json]:
    """The canonical JSON form, as it stands in a ledger line."""
    event: dict[str, Json] = {"name": _NAMES[type(spend.event)]}
    event.update(vars(spend.event))
    return {"count": spend.count, "event": event, "population": spend.population}


def spend_from_document(document: Json) -> Spend:
    """Strict inverse of `spend_to_document`; raises `EventError` on an unknown name, key or type."""
    if not isinstance(document, dict) or set(document) != {"count", "event", "population"}:
        raise EventError("a spend has exactly the keys count, event and population: written by other code, do not guess")
    event, count = document["event"], document["count"]
    if type(count) is not int:
        raise EventError(f"count is a {type(count).__name__}, expected an integer")
    return Spend(_event(event), _population(document["population"]), count)


def _event(document: Json) -> Event:
    if not isinstance(document, dict):
        raise EventError(f"event is a {type(document).__name__}, expected an object")
    contributors = document.get("contributors")
    numbers = {key: value for key, value in document.items() if key not in ("name", "contributors")}
    if not all(type(value) is float for value in numbers.values()):
        raise EventError("an event's numbers are written as floats (4.0, not 4)")
    match document.get("name"), sorted(set(document) - {"name"}):
        case "gaussian", ["noise_multiplier"]:
            return GaussianEvent(_float(numbers["noise_multiplier"]))
        case "poisson-gaussian", ["noise_multiplier", "sample_rate"]:
            return PoissonGaussianEvent(_float(numbers["noise_multiplier"]), _float(numbers["sample_rate"]))
        case "shared-gaussian", ["contributors", "noise_multiplier"]:
            return SharedGaussianEvent(_float(numbers["noise_multiplier"]), _contributors(contributors))
        case "shared-poisson-gaussian", ["contributors", "noise_multiplier", "sample_rate"]:
            noise, rate = _float(numbers["noise_multiplier"]), _float(numbers["sample_rate"])
            return SharedPoissonGaussianEvent(noise, rate, _contributors(contributors))
        case "not-private", []:
            return NonPrivateEvent()
        case name, keys:
            raise EventError(f"event {name!r} with keys {keys} is not in this version's vocabulary: use newer code to read it")


def _float(value: Json) -> float:
    assert isinstance(value, float)  # noqa: S101 - checked by the caller for all numbers at once
    return value


def _contributors(value: Json) -> int:
    if type(value) is not int:
        raise EventError(f"contributors is a {type(value).__name__}, expected an integer")
    return value


def _population(value: Json) -> Population:
    match value:
        case "train" | "held_out" | "all":
            return value
        case _:
            raise EventError(f"population {value!r} is not one of {', '.join(POPULATIONS)}")


def _check_contributors(value: int) -> None:
    if type(value) is not int or not 1 <= value <= CONTRIBUTORS_MOST:
        raise EventError(f"contributors {value!r} outside [1, {CONTRIBUTORS_MOST}]: a share alone is a plain event")


def _check_noise(value: float) -> None:
    if type(value) is not float or not math.isfinite(value) or not NOISE_LEAST <= value <= NOISE_MOST:
        raise EventError(f"noise_multiplier {value!r} outside [{NOISE_LEAST}, {NOISE_MOST}]: use NonPrivateEvent for no noise")
