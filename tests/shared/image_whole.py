"""Whole runs of image tasks over phantom hospitals, and that without noise a run is the plain computation of its plan."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from consortium_in_process import train, trainers_of

from server.checkpoint import latest_checkpoint
from server.cli_run import simulate
from server.folder import RunFolder
from server.state import read_state
from tasks.base import Task
from tasks.cohorts import open_cohort

SITES, SALT = ("one", "two", "three"), bytes(range(16))


def ran(folder: Path, data: Path, *words: str) -> RunFolder:
    """A finished run over the hospitals in `data`."""
    state = simulate(folder, list(words), data=data, show=False, split_salt=SALT)
    assert state.phase == "finished"
    return RunFolder(folder / "run")


def check_plain(run: RunFolder, task: Task, data: Path, cache: Path) -> None:
    """Model and pooled histogram of `run` are those of its trainers' sums, added up in one process."""
    plan = run.plan()
    trainers = trainers_of(task, {site: open_cohort(task, data / site) for site in SITES}, run.roster(), cache=cache)
    expected = train(plan, trainers)
    found = latest_checkpoint(run.checkpoints, plan.digest, model_size=plan.model_size).checkpoint
    assert found is not None
    assert found.model == pytest.approx(expected.model, abs=5e-6)  # ring step 6e-8 of a gradient, through Adam's root
    done = read_state(run.path).done[-1]
    assert done.purpose == "evaluate"
    assert np.asarray(done.histogram) == pytest.approx(expected.histogram, abs=1e-4)
    tested = sum(trainer.sides.test.patients for trainer in trainers.values())
    assert sum(done.histogram[: 4 * plan.histogram_bins // 3]) == pytest.approx(tested * np.sqrt(0.5), abs=1e-4)
