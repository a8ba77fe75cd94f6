"""What a site does by itself with the shared parameters: adjust its scans, and join with a batch that nobody has seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks.harmonise.bayes import Effect
from tasks.harmonise.combine import BatchStatistics, Shared
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Floats, Plan
from tasks.harmonise.scans import Scans, design, from_model_scale, to_model_scale


def statistics_of_new_batch(plan: Plan, shared: Shared, scans: Scans, name: str) -> BatchStatistics:
    """The statistics of a batch outside the fit, from its training scans and the frozen shared parameters, in one pass.

    Nothing is sent, and nobody's parameters change. For a batch that was in the fit it gives the same statistics again.
    """
    used = scans.training & (scans.batch == name)
    residual = (to_model_scale(plan, scans) - shared.grand_mean - design(plan, scans) @ shared.beta)[used]
    present = np.isfinite(residual)
    n = present.sum(axis=0).astype(np.float64)
    total = np.where(present, residual, 0.0).sum(axis=0)
    offset = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    squares = np.where(present, residual - offset, 0.0) ** 2
    return BatchStatistics(name, n, offset, squares.sum(axis=0))


def harmonise(plan: Plan, shared: Shared, effects: Mapping[str, Effect], scans: Scans) -> Floats:
    """All scans, held-out ones too, as the average scanner would have measured them: (n_scans, n_measures) in the contract's units.

    Absent stays absent. `effects`: of each batch among the scans, by name. Johnson 2007, sec. 3.3.
    """
    if unknown := sorted(set(scans.batch.tolist()) - set(effects)):
        raise HarmoniseError(f"batches without an effect: {', '.join(unknown)}; join them, or leave their scans out")
    expected = design(plan, scans) @ shared.beta + shared.grand_mean
    standard = (to_model_scale(plan, scans) - expected) / shared.sigma
    shape = (scans.n, plan.n_measures)
    shift = np.array([effects[name].shift for name in scans.batch.tolist()]).reshape(shape)
    scale = np.array([effects[name].scale for name in scans.batch.tolist()]).reshape(shape)
    if (strange := np.isfinite(standard) & ~np.isfinite(shift)).any():
        row, at = np.argwhere(strange)[0]
        raise HarmoniseError(
            f"batch {scans.batch[row]}: {plan.measures[at].name} had no training scan there, so that its effect is unknown; "
            "leave the measure empty, or join the batch with scans of it"
        )
    return from_model_scale(plan, shared.sigma * (standard - shift) / np.sqrt(scale) + expected)
