"""Which sites a consortium has and under which scenario: sizes are written down, so that another site changes no other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.errors import ContractError


class Schedule(StrEnum):
    """How people of a site are seen and what is recorded of them (section 2.4)."""

    REGISTRY = "registry"
    RECLAIM = "reclaim"  # a registry whose scans are all quantified centrally
    CLINNOVA = "clinnova"
    TRIAL = "trial"


class Clinic(StrEnum):
    """Case mix of a site (section 2.3)."""

    MIXED = "mixed"
    PROGRESSIVE = "progressive"
    EARLY = "early"


class Assignment(StrEnum):
    """How a treatment is chosen: by what the physician sees, or by lot between platform and high efficacy, for ever."""

    BY_INDICATION = "by_indication"
    RANDOMISED = "randomised"


@dataclass(frozen=True)
class SiteSpec:
    """One site, before anything is drawn for it; `interval_mo` 0 means that its visit interval is drawn."""

    site_id: str
    patients: int
    schedule: Schedule = Schedule.REGISTRY
    clinic: Clinic = Clinic.MIXED
    language: str = "en"
    interval_mo: float = 0.0
    concept_shift: bool = False  # another slope of silent worsening
    label_poor: bool = False  # few EDSS scores

    def __post_init__(self) -> None:
        if not self.site_id or self.patients < 1:
            raise ContractError(f"site {self.site_id!r} with {self.patients} patients: a site has a name and at least one patient")


@dataclass(frozen=True)
class Scenario:
    """What treatments do and how they are given; `effect` multiplies the logarithm of each ratio of section 1.7 (0 = none)."""

    name: str
    effect: float = 1.0
    assignment: Assignment = Assignment.BY_INDICATION


ROUTINE = Scenario("routine")
PLACEBO_NULL = Scenario("placebo_null", effect=0.0)
RANDOMISED = Scenario("randomised", assignment=Assignment.RANDOMISED)
RANDOMISED_NULL = Scenario("randomised_null", effect=0.0, assignment=Assignment.RANDOMISED)


@dataclass(frozen=True)
class Preset:
    name: str
    sites: tuple[SiteSpec, ...]

    def __post_init__(self) -> None:
        names = [site.site_id for site in self.sites]
        if len(set(names)) < len(names):
            raise ContractError(f"preset {self.name!r} names a site twice: {sorted(names)}")


def _reclaim() -> Preset:
    """15 sites, 7,500 people: log-normal in size, one progressive and one early clinic, one of another concept, one label-poor."""
    sizes = {
        "berlin": (1500, 8, "de"), "milano": (1050, 6, "it"), "barcelona": (900, 6, "es"), "praha": (760, 8, "cs"),
        "bergamo": (640, 6, "it"), "oslo": (560, 8, "other"), "basel": (480, 6, "de"), "london": (400, 12, "en"),
        "amsterdam": (320, 6, "nl"), "mainz": (260, 4, "de"), "lyon": (200, 6, "fr"), "leuven": (150, 12, "nl"),
        "graz": (120, 3, "de"), "siena": (95, 6, "it"), "tartu": (65, 12, "other"),
    }  # fmt: skip
    kinds = {"amsterdam": Clinic.PROGRESSIVE, "lyon": Clinic.EARLY}
    return Preset(
        "reclaim",
        tuple(
            SiteSpec(
                name, patients, Schedule.RECLAIM, kinds.get(name, Clinic.MIXED), language, float(interval),
                concept_shift=name == "oslo", label_poor=name == "leuven",
            )
            for name, (patients, interval, language) in sizes.items()
        ),
    )  # fmt: skip


def _clinnova() -> Preset:
    """Four countries, 800 people, about 100 of them in Luxembourg (section 2.3)."""
    sizes = {"strasbourg": (270, "fr"), "saarbruecken": (240, "de"), "basel": (190, "de"), "luxembourg": (100, "fr")}
    return Preset("clinnova", tuple(SiteSpec(name, n, Schedule.CLINNOVA, language=spoken) for name, (n, spoken) in sizes.items()))


DEMO = Preset(
    "demo",
    (
        SiteSpec("north", 420, Schedule.REGISTRY, language="de", interval_mo=6.0),
        SiteSpec("south", 330, Schedule.RECLAIM, language="it", interval_mo=6.0),
        SiteSpec("east", 240, Schedule.REGISTRY, Clinic.EARLY, language="cs", interval_mo=4.0),
        SiteSpec("west", 180, Schedule.CLINNOVA, language="fr"),
    ),
)
PRESETS = {preset.name: preset for preset in (_reclaim(), _clinnova(), DEMO)}


def preset_named(name: str) -> Preset:
    if name not in PRESETS:
        raise ContractError(f"no preset is called {name!r}; there are {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
