"""Plans of tasks on images for three sites, as a lead's configuration makes them."""

import sys
from functools import cache
from pathlib import Path

from consortium.plan import Plan

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from consortium_in_process import plan_of, roster_of

SITES = ("one", "two", "three")
TINY = (
    "task=lesion_seg",
    "task.options.spacing_mm=0",
    "+task.options.widths=4-8",
    "schedule.rounds=2",
    "schedule.evaluate_every=2",
    "deadlines.update_s=900",
)


TINY_PAIRS = ("task=new_lesions", *TINY[1:])


@cache
def plan_of_images(*overrides: str, patients: int = 10, tiny: tuple[str, ...] = TINY) -> Plan:
    """Of a small network on each scan's own voxels."""
    return plan_of((*tiny, *overrides), roster_of(SITES, bytes(16)), dict.fromkeys(SITES, patients))
