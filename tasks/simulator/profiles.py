"""What makes one site unlike another, drawn from its own numbers: case mix, policy, raters, scanners, assays, recording.

A profile is part of the ground truth: a hospital does not know its raters' bias. It is never written among the site's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.simulator import parameters as p
from tasks.simulator.presets import Clinic, Schedule, SiteSpec
from tasks.simulator.streams import Floats, stream

VOLUMES = ("brain", "thalamus", "t2", "ventricle", "cord")


@dataclass(frozen=True)
class Scanner:
    """One scanner of a site. `gamma` is added in SDs over people, `delta` widens the measurement error, by VOLUMES."""

    scanner_id: str
    vendor: str
    field_t: float
    from_year: float
    until_year: float
    gamma: tuple[float, ...]
    delta: tuple[float, ...]


@dataclass(frozen=True)
class SiteProfile:
    """Everything about a site that is not a patient. Rates are per year, shifts in points or years; coverage by modality."""

    spec: SiteSpec
    onset_age_shift: float
    edss_shift: float
    women: float
    phenotype_share: tuple[float, ...]
    high_first: float
    escalation: float
    interval_mo: float
    rater_bias: float
    rater_noise: float
    electronic: bool
    scanners: tuple[Scanner, ...]
    oct_device: str
    oct_offset_um: float
    nfl_platform: str
    nfl_factor: float
    vep_offset_ms: float
    under_reporting: float
    stop_missing: float
    drop_out: float
    pira_age: float
    pira_factor: float
    coverage: Mapping[str, float]


def draw_profile(spec: SiteSpec, seed: int) -> SiteProfile:
    """The profile of one site (section 2.3)."""
    rng = stream(seed, spec.site_id, "profile")
    interval = spec.interval_mo or float(rng.choice(p.VISIT_INTERVALS_MO, p=p.VISIT_INTERVAL_ODDS))
    electronic = bool(rng.random() < p.ELECTRONIC)
    return SiteProfile(
        spec=spec,
        onset_age_shift=rng.normal(0, p.ONSET_AGE_SHIFT),
        edss_shift=rng.normal(0, p.EDSS_SHIFT),
        women=float(np.clip(p.WOMEN + rng.normal(0, p.WOMEN_SHIFT), 0.5, 0.9)),
        phenotype_share=_case_mix(spec.clinic, rng),
        high_first=rng.uniform(*p.HIGH_FIRST),
        escalation=rng.uniform(*p.ESCALATION),
        interval_mo=interval,
        rater_bias=rng.normal(0, p.RATER_BIAS),
        rater_noise=rng.uniform(*p.RATER_NOISE) * (p.ELECTRONIC_NOISE if electronic else 1.0),
        electronic=electronic,
        oct_device=str(rng.choice(("spectralis", "cirrus", "other"), p=(0.6, 0.3, 0.1))),
        oct_offset_um=rng.uniform(-p.OCT_OFFSET_UM, p.OCT_OFFSET_UM),
        nfl_platform=str(rng.choice(("simoa_hdx", "ella", "atellica", "lumipulse"), p=(0.5, 0.25, 0.15, 0.1))),
        nfl_factor=rng.uniform(*p.NFL_FACTOR),
        vep_offset_ms=rng.uniform(-p.VEP_OFFSET_MS, p.VEP_OFFSET_MS),
        under_reporting=rng.uniform(*p.UNDER_REPORTING),
        stop_missing=rng.uniform(*p.STOP_MISSING),
        drop_out=rng.uniform(*p.DROP_OUT),
        pira_age=p.SHIFTED_PIRA_AGE if spec.concept_shift else p.PIRA_AGE,
        pira_factor=p.SHIFTED_PIRA if spec.concept_shift else 1.0,
        scanners=_scanners(spec, rng),
        coverage=_coverage(spec, rng),
    )


def _case_mix(clinic: Clinic, rng: np.random.Generator) -> tuple[float, ...]:
    shares = {Clinic.MIXED: p.PHENOTYPE_SHARE, Clinic.PROGRESSIVE: p.PROGRESSIVE_CLINIC, Clinic.EARLY: p.EARLY_CLINIC}[clinic]
    return tuple(rng.dirichlet(p.DIRICHLET * np.asarray(shares)))


def _coverage(spec: SiteSpec, rng: np.random.Generator) -> dict[str, float]:
    """Shares of expected records; a registry may lack whole modalities."""
    found = {}
    for name, share in p.COVERAGE[spec.schedule.value].items():
        moved = _moved(share, rng.normal(0, p.COVERAGE_LOG_ODDS_SD))
        absent = rng.random() < p.MODALITY_ABSENT and name in p.OPTIONAL_MODALITIES
        found[name] = 0.0 if absent and spec.schedule in (Schedule.REGISTRY, Schedule.RECLAIM) else moved
    return {**found, **(p.LABEL_POOR if spec.label_poor else {})}


def _moved(share: float, log_odds: float) -> float:
    """`share` after its log odds are moved; 0 and 1 stay."""
    return share if share in (0.0, 1.0) else float(1 / (1 + (1 - share) / share * np.exp(-log_odds)))


def _scanners(spec: SiteSpec, rng: np.random.Generator) -> tuple[Scanner, ...]:
    """One to three scanners at a time; each is replaced about every six years."""
    found: list[Scanner] = []
    for line in range(int(rng.choice((1, 2, 3), p=p.SCANNER_ODDS))):
        begin = p.FOLLOW_UP_FROM_YEAR[0] - 1 - rng.uniform(0, p.UPGRADE_Y)
        while begin <= p.LAST_YEAR + 1:
            end = begin + p.UPGRADE_Y * rng.uniform(0.7, 1.3)
            found.append(_scanner(f"{spec.site_id}-{line + 1}-{len(found) + 1}", begin, end, rng))
            begin = end
    return tuple(found)


def _scanner(name: str, begin: float, end: float, rng: np.random.Generator) -> Scanner:
    gamma: Floats = rng.normal(0, p.GAMMA_SD, len(VOLUMES))
    shape = 2 + 1 / p.DELTA_SD**2  # inverse gamma with mean 1 and this SD
    delta: Floats = (shape - 1) / rng.gamma(shape, 1.0, len(VOLUMES))
    vendor = str(rng.choice(("siemens", "philips", "ge", "canon"), p=(0.42, 0.28, 0.25, 0.05)))
    field_t = 3.0 if rng.random() < p.STRONG_FIELD else 1.5
    return Scanner(name, vendor, field_t, begin, end, tuple(gamma.tolist()), tuple(delta.tolist()))
