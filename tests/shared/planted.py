"""Defects planted in `client.trainer`, which patients and canaries then meet alike."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client import trainer
from client.engines import Engine, Parameters, PatientBatch
from client.release import Bound


def halve_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trainer.noised
    monkeypatch.setattr(
        trainer, "noised", lambda total, *, noise_multiplier, **rest: real(total, noise_multiplier=noise_multiplier / 2, **rest)
    )


def clip_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a patient's records is clipped by itself, and the clipped ones are added up: the commonest mistake there is."""
    real = trainer.sum_of

    def each_by_itself(engine: Engine, parameters: Parameters, batches: Iterable[PatientBatch], bound: Bound) -> NDArray[np.int64]:
        return real(engine, parameters, [records_as_patients(batch) for batch in batches], bound)

    monkeypatch.setattr(trainer, "sum_of", each_by_itself)


def records_as_patients(batch: PatientBatch) -> PatientBatch:
    """(n, records, ...) to (n * records, records, ...): every patient once for each record, which alone counts."""
    records = batch.shape.records
    alone = (batch.weights.unsqueeze(2) > 0) * torch.eye(records)
    return PatientBatch(*(each.repeat_interleave(records, dim=0) for each in (batch.inputs, batch.labels)), alone.flatten(0, 1))


def take_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "poisson_mask", lambda n, rate, entropy: np.ones(n, dtype=np.bool_))


def forget_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients as they are, up to a bound a thousand times the plan's."""
    real = trainer.sum_of

    def unclipped(engine: Engine, parameters: Parameters, batches: Iterable[PatientBatch], bound: Bound) -> NDArray[np.int64]:
        return 1000 * real(engine, parameters, batches, Bound(1000 * bound.norm, bound.grid_bits))

    monkeypatch.setattr(trainer, "sum_of", unclipped)


def lose_canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "clipped_like", lambda engine, rows, bound: np.zeros(rows.shape[1], dtype=np.int64))
