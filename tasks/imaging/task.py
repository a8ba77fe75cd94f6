"""What a task on images has beside `tasks.base.Task`: how scans are prepared, what is drawn of a patient, how a scan is judged.

A row of such a task's cohort is a session with images, `Cohort.scans` says which. A record, as engines know it, is a patch: in
every step `Task.records` of them are drawn from all sessions of a patient together, so that all of it is one contribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.base import Cohort, Options, Task

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.imaging.entries import Entry
    from tasks.imaging.invented import Hospital
    from tasks.imaging.prepare import Recipe
    from tasks.imaging.store import Scan

CAUTION: Final = (
    "Research software, not a medical device: look at every mask before it is used, and decide nothing about a patient by it."
)
TOO_SURE: Final = "Dice may be of patients who trained the model, and is then too good; the model's card has that of test patients."
LOAD_CUTS_ML: Final = (2.0, 12.0)  # between small, medium and large lesion loads: quartiles in published cohorts
Patches = NDArray[np.float32]  # (n, *input_shape)
Apply: TypeAlias = "Callable[[Tensor], Tensor]"  # the model: inputs (n, *input_shape) to outputs (n, ...)


def load_words(cuts_ml: tuple[float, float] = LOAD_CUTS_ML) -> tuple[str, str, str]:
    """Small, medium and large loads, as people read them."""
    low, high = cuts_ml
    return f"below {low:g} mL", f"{low:g} to {high:g} mL", f"from {high:g} mL"


@runtime_checkable
class ImageTask(Task, Protocol):
    """A task that trains a model, and what images need beside. Nothing here knows of hospitals, noise or plans; all constants are
    of the task's version or of its options."""

    @property
    def sessions(self) -> int:
        """At most so many sessions of a patient count, the last ones."""
        ...

    @property
    def cuts_ml(self) -> tuple[float, float]:
        """Between small, medium and large loads: what is marked in one session, in mL."""
        ...

    @property
    def marks(self) -> str:
        """What a mask of it marks, as BIDS' `label-` has it."""
        ...

    def readable(self, scans: Sequence[Scan]) -> tuple[Scan, ...]:
        """What a finished model can be asked about: sessions, or pairs of them; masks not needed. `DataError` if nothing can."""
        ...

    def cohort_of_scans(self, scans: Sequence[Scan]) -> Cohort:
        """The patients whose sessions can serve, from headers alone, in the order of `scans`. `DataError` if there is nobody."""
        ...

    def for_plan(self, options: Options) -> ImageTask:
        """The task as a plan with these model options has it: the shape of a record may hang on them. `ContractError` for a wrong
        one. What is asked of shapes, patches and whole scans is asked of this."""
        ...

    def recipe(self, options: Options, columns: Sequence[str]) -> Recipe:
        """How a scan is prepared for a plan with these model options and columns."""
        ...

    def input_shape(self, columns: Sequence[str]) -> tuple[int, ...]:
        """Shape of one record's input."""
        ...

    def drawn(self, entries: Sequence[Entry], seed: bytes, drop_rate: float) -> tuple[Patches, NDArray[np.float32]]:
        """Inputs (records, *input_shape) and labels (records, *label_shape) of one patient, from the patient's prepared sessions.

        The same for the same `seed`. `drop_rate`: chance that a sequence is taken from a patch.
        """
        ...

    def chances(self, channels: Patches, present: NDArray[np.bool_], apply: Apply) -> NDArray[np.float32]:
        """Chance of each voxel (x, y, z) of a prepared scan `channels` (C, x, y, z), of which those `present` (C,) are there."""
        ...

    def judged(self, entry: Entry, apply: Apply) -> NDArray[np.float64]:
        """What the model makes of one whole session beside its truth, (k,): the `outputs` that the task's scoring takes."""
        ...


@runtime_checkable
class ShownOnPhantoms(ImageTask, Protocol):
    """A task whose models can be tried on invented patients, where no patient's picture may be shown."""

    def phantoms(self, options: Options, columns: Sequence[str]) -> tuple[Hospital, ...]:
        """The invented hospitals for a plan with these model options and columns; the same ones for the same plan."""
        ...
