"""Each site's own version of the federated model, as `wardround-site personalise` makes it.

It is kept only where the site's validation half shows that it surely helps there.
"""

from __future__ import annotations

import numpy as np
from bench_tasks_arms import Models, Recipe, Trained, federated
from bench_tasks_worlds import World

from client.cli_model import PATIENTS_LEAST
from client.local_model import LocalModel
from client.personal import candidates, chosen, gains, tried
from client.sides import Sides
from secagg.model import model_digest
from tasks.exported import Exported, model_of


def personalised(world: World, recipe: Recipe) -> Models:
    """The federated model without noise, and each site's own where it is offered one; `kept` says of each whether it has."""
    return {site: _own(world, one, world.sides[site]) for site, one in federated(world, recipe, "federated").items()}


def _own(world: World, base: Trained, sides: Sides) -> Trained:
    if min(sides.training.patients, sides.validation.patients) < PATIENTS_LEAST:
        return Trained(base.plan, base.model, {"kept": 0.0})
    exported = _exported(base)
    local = LocalModel(exported, world.task, model_of(exported, world.task).double(), sides)  # type: ignore[arg-type]
    found = list(candidates(local, local.people(sides.training)))
    best = chosen(found, tried(found, gains(local, found, local.people(sides.validation))))
    if best is None:
        return Trained(base.plan, base.model, {"kept": 0.0})
    return Trained(base.plan, np.concatenate([exported.buffers, best.parameters]).astype(np.float32), {"kept": 1.0})


def _exported(base: Trained) -> Exported:
    """What `wardround-lead model export` would have written and a site would read."""
    plan = base.plan
    buffers, parameters = base.model[: plan.n_buffers], base.model[plan.n_buffers :]
    digest = model_digest([buffers.astype("<f4").tobytes(), parameters.astype("<f4").tobytes()])
    return Exported(plan.run_id, plan.task, plan.model, plan.privacy, buffers, parameters, digest, False, {})
