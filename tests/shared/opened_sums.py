"""What a run of sums without noise opened, held against the sums of its sites' own vectors.

Whose records are in the sums differs from run to run (the salt that parts them is drawn), and with it how far a result moves when a
sum is a little off. The sums themselves may be off by the grid and by nothing else: that bound is exact and holds in every run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from client.sides import Sides, Split
from secagg.numbers import ring_scale
from server.checkpoint import latest_checkpoint
from server.folder import RunFolder
from server.state import read_state
from tasks.cohorts import open_cohort
from tasks.sums import Choice, Floats, Records, SumsTask

DOUBLES = 1e-12  # of the largest number of a sum: added up in another order


def parted(run: RunFolder, task: SumsTask, hospitals: Path) -> list[Sides]:
    """Every hospital's patients as its guard parts them in this run."""
    roster = run.roster()
    salt, part = roster.split_salt, roster.held_out_fraction
    cohorts = [open_cohort(task, folder) for folder in sorted(hospitals.iterdir())]
    return [Split(cohort, salt=salt, held_out_fraction=part, at_most=task.records).sides for cohort in cohorts]


def training_of(sides: Sequence[Sides]) -> list[Records]:
    return [Records(each.training.values, each.training.owners, each.training.patients) for each in sides]


def summed(task: SumsTask, choice: Choice, before: Sequence[Floats], training: Sequence[Records]) -> Floats:
    """One stage with all training patients in view: no clip, no grid, no noise."""
    return np.asarray(np.sum([task.vectors(choice, before, records).sum(axis=0) for records in training], axis=0))


def opened_in(run: RunFolder) -> list[Floats]:
    """Each stage's sum as the run opened it, from its last checkpoint."""
    plan = run.plan()
    found = latest_checkpoint(run.checkpoints, plan.digest, model_size=plan.model_size).checkpoint
    assert found is not None
    assert all(done.survivors == tuple(plan.sites) for done in read_state(run.path).done)
    return [mean * sum(each.declared_patients for each in plan.participants) for mean in found.state]


def grid_moves(run: RunFolder) -> float:
    """By how much the grid can move one number of an opened sum, either way: every site rounds it by less than one step."""
    plan = run.plan()
    assert not plan.private
    sites = len(plan.participants)
    step = (1 + 2.0**-15) * plan.coordinate_clip / ring_scale(sites, plan.ring_bits)
    return sites * step * sum(each.declared_patients for each in plan.participants)


def check_opened(run: RunFolder, task: SumsTask, choice: Choice, training: Sequence[Records]) -> None:
    """Every stage of `run` is the sum of the sites' vectors, which follow from what the run had opened before, up to the grid."""
    opened, grid = opened_in(run), grid_moves(run)
    declared = sum(each.declared_patients for each in run.plan().participants)
    before: list[Floats] = []
    for at, stage in enumerate(opened):
        exact = summed(task, choice, before, training)
        off = float(np.abs(stage - exact).max())
        assert off <= grid + DOUBLES * float(np.abs(exact).max()), f"stage {at + 1} is {off} off, the grid explains {grid}"
        before.append((stage / declared).astype(np.float32).astype(np.float64))  # as sites are sent it
    assert len(opened) == len(task.stages(choice))


def most_moved(found: Callable[[Floats], Floats], total: Floats, grid: float) -> Floats:
    """How far each figure of `found(total)` is moved at most if every number of the sum is off by `grid`, to first order."""
    start = found(total)
    moved = np.zeros(len(start))
    for at in range(len(total)):
        off = total.copy()
        off[at] += grid
        moved += np.abs(found(off) - start)
    return moved
