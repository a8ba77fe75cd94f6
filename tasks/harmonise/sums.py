"""All that leaves a site: two vectors of sums over its training scans, of lengths that the plan alone decides.

Sums over patients of one site, over sites, or over two halves of a site are the same sums: add the vectors.
"""

from __future__ import annotations

import numpy as np

from tasks.harmonise.combine import Coefficients
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Floats, Plan
from tasks.harmonise.scans import Scans, design, to_model_scale


def round_one(plan: Plan, scans: Scans) -> Floats:
    """Round 1: X'X, X'Y and counts of the training scans, (plan.round_one_size,).

    X is batch indicators and covariates. X'X differs between measures, because each has its own scans (`n_scans` less the absent
    ones); of it only what is not zero by construction is sent, as `plan.round_one_shapes` says. Chen 2022, step 1.
    """
    x, y, member = _training(plan, scans)
    present = np.isfinite(y).astype(np.float64)
    y = np.where(present > 0, y, 0.0)
    rows, columns = np.triu_indices(plan.n_covariates)
    parts = (
        member.T @ present,
        member.T @ y,
        np.stack([member.T @ (present * x[:, [at]]) for at in range(plan.n_covariates)], axis=2),
        present.T @ (x[:, rows] * x[:, columns]),
        y.T @ x,
    )
    return np.concatenate([part.ravel() for part in parts])


def round_two(plan: Plan, scans: Scans, coefficients: Coefficients) -> Floats:
    """Round 2: residual sums of squares of the training scans by batch and measure, (plan.round_two_size,). Chen 2022, step 2.

    The scans must be those of round 1.
    """
    x, y, member = _training(plan, scans)
    present = np.isfinite(y)
    location = coefficients.location[np.argmax(member, axis=1)]
    if (strange := present & ~np.isfinite(location)).any():
        at = int(np.argmax(strange.any(axis=0)))
        raise HarmoniseError(f"{plan.measures[at].name}: a batch has scans in round 2 and had none in round 1; use the same scans")
    residual = np.where(present, y - location - x @ coefficients.beta, 0.0)
    return np.asarray(member.T @ residual**2).ravel()


def _training(plan: Plan, scans: Scans) -> tuple[Floats, Floats, Floats]:
    """Covariates, values and batch indicators (n_training, n_batches) of the training scans."""
    x, y, used = design(plan, scans), to_model_scale(plan, scans), scans.training
    batch = scans.batch[used]
    if strangers := sorted(set(batch.tolist()) - set(plan.batches)):
        raise HarmoniseError(f"batches that the plan does not list: {', '.join(strangers)}; join them after the fit")
    return x[used], y[used], (batch[:, None] == np.array(plan.batches)[None, :]).astype(np.float64)
