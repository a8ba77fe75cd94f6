"""Invented MS hospitals that behave like real ones, with a truth that real ones never have. For tests, demos and benchmarks."""

from tasks.simulator.presets import (
    PLACEBO_NULL,
    PRESETS,
    RANDOMISED,
    RANDOMISED_NULL,
    ROUTINE,
    Assignment,
    Clinic,
    Preset,
    Scenario,
    Schedule,
    SiteSpec,
)
from tasks.simulator.simulate import Consortium, SimulatedSite, simulate, simulate_site
from tasks.simulator.truth import SiteTruth
from tasks.simulator.writer import write

__all__ = [
    "PLACEBO_NULL", "PRESETS", "RANDOMISED", "RANDOMISED_NULL", "ROUTINE", "Assignment", "Clinic", "Consortium", "Preset",
    "Scenario",
    "Schedule", "SimulatedSite", "SiteSpec", "SiteTruth", "simulate", "simulate_site", "write",
]  # fmt: skip
