"""Run folders of a task on images with a model in them, without the hours of a run."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from image_plans import SITES, plan_of_images

from consortium.identity import SigningKey
from consortium.plan import Plan, sign_plan
from consortium.roster import sign_roster
from server.checkpoint import Checkpoint, save_checkpoint
from server.folder import RunFolder, create_folder
from server.journal import Journal, RoundDone, RunStarted, named
from server.model import Model
from server.pooled import initial_model, metrics, scored_by
from tasks.lesion_seg.task import TASK
from tasks.scoring.base import Scored, summed

from consortium_in_process import roster_of  # isort: skip  # on the path since `image_plans`

GRID_BITS = 20
KEY = SigningKey.from_seed(bytes(32))


def finding_model(plan: Plan, *, bias: float = 3.0) -> Model:
    """A network by lot that finds lesions wherever its last bias says so."""
    model = np.array(initial_model(plan))
    model[-5:] = [2.0, -1.0, 2.0, -1.0, bias]
    return model


def run_with(folder: Path, *overrides: str, patients: int = 10, model: Model | None = None, seed: int = 0) -> RunFolder:
    """A run whose hospitals declared so many `patients` and whose test patients follow from `seed`, with a `model` at its end."""
    plan = plan_of_images("privacy=none", *overrides, patients=patients)
    run = create_folder(folder, sign_plan(plan, KEY), sign_roster(roster_of(SITES, bytes(16)), "founder", KEY))
    with Journal(run.events, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC)) as journal:
        journal.append(RunStarted(plan.run_id, plan.digest, plan.sites, plan.private))
        if model is not None:
            checkpoint(run, model)
            histogram = _histogram(plan, seed)
            figures = named(metrics(plan, histogram, contributors=len(SITES)))
            journal.append(
                RoundDone(1, "evaluate", SITES, (), named({"update": 1.0}), 10, 10, metrics=figures, histogram=tuple(histogram))
            )
    return run


def checkpoint(run: RunFolder, model: Model, *, number: int = 1) -> None:
    """The model after round `number`."""
    plan = run.plan()
    state = tuple(np.zeros(plan.n_parameters) for _ in range(3))
    save_checkpoint(run.checkpoints, Checkpoint(plan.digest, number, 0, number, 0, model, state))


def _histogram(plan: Plan, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dice, f1, true = rng.uniform(0.2, 0.9, 40), rng.uniform(0.2, 0.9, 40), rng.lognormal(1.5, 1.0, 40)
    outputs = np.stack([dice, f1, true * rng.uniform(0.6, 1.2, 40), true], axis=1)
    scored = Scored(outputs, np.zeros(40), np.zeros((40, len(TASK.contract.columns))))
    return np.asarray(summed(scored_by(plan), scored, np.ones(40, np.intp), GRID_BITS) / (1 << GRID_BITS))
