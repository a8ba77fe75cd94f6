"""Patients of a task on images, for a plan: sessions prepared once, patches drawn when a patient's turn comes, whole scans judged.

No more patches are in memory than those of `AT_ONCE` patients, or of as many as an engine computes together. What is drawn depends
on plan, round, step and patient alone, and on nobody else. A session that cannot be prepared is left out; a patient without any
other adds nothing, like one without records. A site where none can be prepared answers with noise alone: `check` and `data prepare`
tell the hospital, no refusal tells the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.applied import applied
from client.engines import PatientBatch
from client.errors import Refused
from client.job import Job
from client.plan_model import PlanModel
from client.sides import Side
from consortium.plan import Plan
from tasks.imaging.cache import Cache
from tasks.imaging.entries import Entry
from tasks.imaging.task import ImageTask
from tasks.models import split_parameters
from tasks.run_options import RunOptions, run_options
from tasks.scoring.base import Scored

AT_ONCE = 4  # patients whose patches are in memory together
DRAW = b"wardround/patches/1\x00"

Weights = NDArray[np.float32]


Prepared = tuple[Entry | None, ...]  # by record of a `Side`; None where a session cannot be prepared


@dataclass(frozen=True)
class Drawn:
    """`client.engines.Patients`: patches of the patients `ids`, drawn from their `entries` when they are asked for."""

    task: ImageTask
    seed: bytes
    drop_rate: float
    ids: tuple[str, ...] = field(repr=False)
    entries: tuple[tuple[Entry, ...], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, places: NDArray[np.intp]) -> Drawn:
        """The patients at `places`."""
        return replace(self, ids=tuple(self.ids[at] for at in places), entries=tuple(self.entries[at] for at in places))

    def step(self, number: int) -> Drawn:
        """The same patients with the patches of a round's step `number`."""
        return replace(self, seed=self.seed + number.to_bytes(4, "big"))

    def parts(self, together: int = 1) -> Iterator[PatientBatch]:
        """`AT_ONCE` patients at a time, or `together`; those without a prepared session are no patients here."""
        able, at_once = [at for at, entries in enumerate(self.entries) if entries], max(AT_ONCE, together)
        for start in range(0, len(able), at_once):
            yield self._batch(able[start : start + at_once])

    def _batch(self, places: Sequence[int]) -> PatientBatch:
        pairs = [self.task.drawn(self.entries[at], self._seed_of(self.ids[at]), self.drop_rate) for at in places]
        inputs, labels = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return PatientBatch(inputs, labels, torch.full((len(places), self.task.records), 1.0 / self.task.records))

    def _seed_of(self, patient: str) -> bytes:
        return hashlib.sha256(DRAW + self.seed + patient.encode()).digest()


class ScanEncoder:
    """Of one site; keeps what was prepared for the last plan. A trainer serves one plan at a time."""

    def __init__(self, task: ImageTask, cache: Path | None) -> None:
        """`cache`: the site's folder of prepared scans."""
        self._task, self._cache = task, cache
        self._kept: tuple[bytes, list[tuple[Side, Prepared]]] = b"", []

    def training(self, job: Job, side: Side) -> Drawn:
        """The training patients of a round."""
        task, options = self._as_planned(job.plan)
        seed = job.plan.digest + job.round_number.to_bytes(8, "big")
        entries = _by_patient(side, self._prepared(job.plan, side))  # maybe of nobody: refusing would tell that there is one
        return Drawn(task, seed, options.drop_rate, side.ids, entries)

    def scored(self, plan: Plan, built: PlanModel, weights: Weights, side: Side) -> Scored:
        """Every session of a held-out side beside what the model says of it. A session that cannot be prepared is scored as NaN."""
        apply = applied(built.model, built.device, split_parameters(built.model, weights))
        task, _ = self._as_planned(plan)
        found = [None if entry is None else task.judged(entry, apply) for entry in self._prepared(plan, side)]
        width = max((len(each) for each in found if each is not None), default=1)
        rows = [np.full(width, np.nan) if each is None else each for each in found]
        return Scored(np.reshape(rows, (len(rows), width)), side.labels, side.values)

    def _as_planned(self, plan: Plan) -> tuple[ImageTask, RunOptions]:
        options = run_options(dict(plan.model.options))
        return self._task.for_plan(options.model), options

    def _prepared(self, plan: Plan, side: Side) -> Prepared:
        """Once for a plan; from then on entries are read through memory maps."""
        if self._kept[0] != plan.digest:
            self._kept = plan.digest, []
        kept = self._kept[1]
        for known, prepared in kept:
            if known is side and all(entry is None or entry.path.exists() for entry in prepared):
                return prepared
        found = self._fill(plan, side)  # the first time, or the folder of prepared scans was deleted meanwhile
        self._kept = plan.digest, [*((known, prepared) for known, prepared in kept if known is not side), (side, found)]
        return found

    def _fill(self, plan: Plan, side: Side) -> Prepared:
        if self._cache is None:
            raise Refused("TASK", f"task {plan.task.name} reads images, and this program has no folder for prepared ones")
        task, options = self._as_planned(plan)
        recipe = task.recipe(options.model, plan.task.columns)
        return tuple(outcome.entry for outcome in Cache(self._cache, recipe).fill(side.scans))


def _by_patient(side: Side, prepared: Prepared) -> tuple[tuple[Entry, ...], ...]:
    found: list[list[Entry]] = [[] for _ in range(side.patients)]
    for owner, entry in zip(side.owners, prepared, strict=True):
        if entry is not None:
            found[owner].append(entry)
    return tuple(tuple(each) for each in found)
