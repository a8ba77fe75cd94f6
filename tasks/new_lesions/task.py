"""The task that plans name: MS lesions that are new since the session before, from both sessions together.

As `lesion_seg` in all but what a row is: a pair of a patient's sessions (`tasks.imaging.pairs`), the later one's sequences first.
All pairs of a patient are one contribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tasks.base import Label, Options
from tasks.errors import ContractError, DataError
from tasks.lesion_seg.task import BEFORE, SEQUENCES, LesionSeg, spacing_of

if TYPE_CHECKING:
    from tasks.imaging.invented import Hospital
    from tasks.imaging.store import Scan

NAME: Final = "new_lesions"
VERSION: Final = "1"
MAIN: Final = "flair"  # by it two sessions are compared (`tasks.imaging.pairs`)
EARLIER: Final = {column + BEFORE: name + BEFORE for column, name in SEQUENCES.items()}  # as `tasks.imaging.layout.EARLIER`
PATCH: Final = (16, 16, 16)  # voxels: of larger ones what is new fills so little that marking nothing is learnt first, and for long
CUTS_ML: Final = (0.25, 1.0)  # one lesion of average size (0.2 mL), some five of them
REACH_ML: Final = 10.0
DAYS: Final = (0, 730)  # of invented patients: some three lesions are new by then


class NewLesions(LesionSeg):
    """`tasks.base.Task` and `tasks.imaging.task.ImageTask`."""

    name: ClassVar[str] = NAME
    version: ClassVar[str] = VERSION
    label_shape: tuple[int, int, int] = PATCH
    marks: ClassVar[str] = "newlesion"
    sequences: ClassVar[Mapping[str, str]] = SEQUENCES | EARLIER
    label: ClassVar[Label] = Label("new_lesion", "the voxel lies in a lesion of MS that is new since the session before")
    population: ClassVar[str] = "People with MS or CIS with two brain MRI in one space, and masks that tell which lesions are new."
    nobody: ClassVar[str] = (
        "none of {sessions} sessions has FLAIR as the session before it has, and a mask of new lesions, or both of them masks of "
        "lesions: this task learns from such pairs"
    )
    cuts_ml: ClassVar[tuple[float, float]] = CUTS_ML
    reach_ml: ClassVar[float] = REACH_ML

    def readable(self, scans: Sequence[Scan]) -> tuple[Scan, ...]:
        """The pairs of sessions with FLAIR that follow each other; whether they lie in one space shows when they are prepared."""
        from tasks.imaging.pairs import pairs_of

        pairs = pairs_of(scans)
        if not pairs:
            raise DataError(
                f"no patient of {len(scans)} sessions has two with FLAIR on different days, or without days with numbers for "
                "names: nothing can be new"
            )
        return pairs

    def phantoms(self, options: Options, columns: Sequence[str]) -> tuple[Hospital, ...]:
        """Two sessions of each invented patient."""
        from tasks.imaging.invented import hospitals

        names = [self.sequences[name] for name in SEQUENCES if name in columns]
        return hospitals(spacing_of(options), names, days=DAYS)

    def kept(self, present: NDArray[np.bool_], drop_rate: float, seed: bytes) -> NDArray[np.bool_]:
        """A sequence is dropped in both sessions or in none: a lesion seen in one alone would be called new."""
        now, before = np.split(present, 2)
        left = super().kept(now | before, drop_rate, seed)
        return np.concatenate([now & left, before & left])

    def _sequences(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        """The later session's, then the same of the earlier one. `ContractError` unless a plan names each for both, and FLAIR."""
        wanted = set(self.sequences if columns is None else columns)
        if MAIN not in wanted or {name + BEFORE for name in wanted & set(SEQUENCES)} != wanted & set(EARLIER):
            raise ContractError(
                f"columns {sorted(wanted)}: {MAIN} and {MAIN}_before, and any other sequence for both sessions, as t1w,t1w_before"
            )
        return super()._sequences(columns)


TASK: Final = NewLesions()
