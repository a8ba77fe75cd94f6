"""Patients with their records, the unit that every engine computes on: nothing here says how many others there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from client.device import PROCESSOR, Device
from client.engines.errors import Unsupported

Loss = Callable[[Tensor, Tensor], Tensor]  # logits and labels of records to a loss of each, (records,), never reduced
SLOTS = 32  # elementwise kernels compute blocks of 32 in one way and what is left over in another: no patient is left over
Parameters = Mapping[str, Tensor]  # by name, in the order of the model's `named_parameters`


@dataclass(frozen=True)
class Shape:
    """What a patient looks like: at most `records` records of shape `inputs`, each with a label of shape `labels`.

    All three are constants of the task. A limit taken from the data would change everybody's arithmetic with one patient.
    """

    records: int
    inputs: tuple[int, ...]
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.records < 1:
            raise Unsupported(f"a patient of {self.records} records: the limit is a constant of the task, at least 1")


class Patients(Protocol):
    """Patients to compute on, all in memory or read when their turn comes."""

    def __len__(self) -> int: ...

    def chosen(self, places: NDArray[np.intp]) -> Patients:
        """The patients at `places`."""
        ...

    def step(self, number: int) -> Patients:
        """The same patients as they are in a round's local step `number`, from 0 on."""
        ...

    def parts(self, together: int = 1) -> Iterator[PatientBatch]:
        """Batches that together hold each patient once, of `together` patients or more where not all are in memory."""
        ...


@dataclass(frozen=True)
class PatientBatch:
    """n patients of R records: `inputs` (n, R, ...), `labels` (n, R, ...), `weights` (n, R), all float32.

    The loss of a patient is the sum over records of weight times loss: 1/m for each of m real records, 0 for padding.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        parts = (self.inputs, self.labels, self.weights)
        if any(part.dtype != torch.float32 for part in parts):
            raise Unsupported(f"a batch of {[str(part.dtype) for part in parts]}: inputs, labels and weights are float32")
        lead = tuple(self.weights.shape)
        if len(lead) != 2 or any(tuple(part.shape[:2]) != lead for part in parts):
            raise Unsupported(f"a batch of shapes {[tuple(part.shape) for part in parts]}: each begins with patients, records")

    def __len__(self) -> int:
        return int(self.weights.shape[0])

    @property
    def shape(self) -> Shape:
        """The shape of one patient."""
        return Shape(int(self.weights.shape[1]), tuple(self.inputs.shape[2:]), tuple(self.labels.shape[2:]))

    def part(self, start: int, end: int) -> PatientBatch:
        """Patients `start` to `end`, without copying."""
        return PatientBatch(self.inputs[start:end], self.labels[start:end], self.weights[start:end])

    def chosen(self, places: NDArray[np.intp]) -> PatientBatch:
        """The patients at `places`, copied."""
        at = torch.from_numpy(places)
        return PatientBatch(self.inputs[at], self.labels[at], self.weights[at])

    def step(self, number: int) -> PatientBatch:
        """The same in every step."""
        return self

    def on(self, device: Device) -> PatientBatch:
        """The same on `device`; uncopied where it is there already."""
        if device.name == PROCESSOR.name:
            return self
        return PatientBatch(*(part.to(device.name) for part in (self.inputs, self.labels, self.weights)))

    def parts(self, together: int = 1) -> Iterator[PatientBatch]:
        """All of it at once."""
        yield self

    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and weights record by record, (n * R, ...) each."""
        return self.inputs.flatten(0, 1), self.labels.flatten(0, 1), self.weights.flatten()


def of_records(inputs: Sequence[Tensor], labels: Sequence[Tensor], at_most: int) -> PatientBatch:
    """A batch from each patient's records (m, ...) and labels (m, ...), every record counting 1/m; m may be 0."""
    if too_many := max((len(each) for each in inputs if len(each) > at_most), default=0):
        raise Unsupported(f"a patient with {too_many} records, the limit is {at_most}: choose {at_most} of them at random")
    weights = [torch.full((len(each),), 1.0 / max(len(each), 1)) for each in inputs]
    return PatientBatch(*(torch.stack([_filled(each, at_most) for each in part]) for part in (inputs, labels, weights)))


def of_rows(inputs: Tensor, labels: Tensor) -> PatientBatch:
    """A batch of patients with one record each, from `inputs` (n, ...) and `labels` (n, ...)."""
    return PatientBatch(inputs.unsqueeze(1), labels.unsqueeze(1), torch.ones(len(inputs), 1))


def of_owners(inputs: Tensor, labels: Tensor, owners: NDArray[np.intp], *, patients: int, at_most: int) -> PatientBatch:
    """A batch from records (n_records, ...) that belong to the patients `owners` (n_records,), side by side and ascending."""
    counts = np.bincount(owners, minlength=patients)
    if (most := int(counts.max(initial=0))) > at_most:
        raise Unsupported(f"a patient with {most} records, the limit is {at_most}: choose {at_most} of them at random")
    places = torch.from_numpy(np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts))
    of, weights = torch.from_numpy(owners), torch.zeros(patients, at_most)
    weights[of, places] = torch.from_numpy(1.0 / counts[owners]).float()
    filled = []
    for part in (inputs, labels):
        whole = part.new_zeros(patients, at_most, *part.shape[1:])
        whole[of, places] = part
        filled.append(whole)
    return PatientBatch(filled[0], filled[1], weights)


def physical(batch: PatientBatch, patients: int) -> Iterator[tuple[PatientBatch, int]]:
    """The batch in parts of exactly `patients` patients, with the number of real ones; none at all for an empty batch.

    The last part is filled with patients without records. A padded record repeats its patient's first one, so that it is
    finite wherever the patient is: weight 0 times a loss that is not finite would lose the patient.
    """
    for start in range(0, len(batch), patients):
        part = batch.part(start, start + patients)
        found = len(part)
        if found < patients:
            part = PatientBatch(*(_filled(each, patients) for each in (part.inputs, part.labels, part.weights)))
        yield (part if part.shape.records == 1 else _repeating(part)), found


def whole_slots(patients: int) -> int:
    """The smallest multiple of `SLOTS` that holds `patients`."""
    return -(-max(patients, 1) // SLOTS) * SLOTS


def _filled(part: Tensor, length: int) -> Tensor:
    return functional.pad(part, (0, 0) * (part.dim() - 1) + (0, length - len(part)))


def _repeating(batch: PatientBatch) -> PatientBatch:
    padded = batch.weights == 0
    if not bool(padded.any()):
        return batch
    parts = (batch.inputs, batch.labels)
    masks = (padded.reshape(*padded.shape, *(1,) * (part.dim() - 2)) for part in parts)
    inputs, labels = (torch.where(mask, part[:, :1], part) for mask, part in zip(masks, parts, strict=True))
    return PatientBatch(inputs, labels, batch.weights)
