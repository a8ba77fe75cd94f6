"""The task that plans name: T2 lesions of MS on FLAIR and T1w, by a U-Net on patches; one patient is all sessions together.

`tasks.new_lesions` is the same with pairs of sessions for sessions: what differs is in the class variables and in a few methods.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tasks.base import Cohort, Column, Contract, Label, Options
from tasks.errors import ContractError, DataError
from tasks.imaging.task import LOAD_CUTS_ML, Apply, Patches
from tasks.lesion_seg.scoring import REACH_ML, LesionScoring
from tasks.report import DataReport
from tasks.scoring.groups import VENDOR_COLUMN as VENDOR

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.imaging.entries import Entry
    from tasks.imaging.invented import Hospital
    from tasks.imaging.prepare import Recipe
    from tasks.imaging.store import Scan

NAME: Final = "lesion_seg"
VERSION: Final = "1"
SEQUENCES: Final = {"flair": "FLAIR", "t1w": "T1w", "t2w": "T2w", "t1w_ce": "T1w_ce"}  # column -> as folders name it
OTHER: Final = "other"
VENDORS: Final = ("siemens", "philips", "ge", "canon", OTHER)
BEFORE: Final = "_before"  # ends the names of what a pair has of its earlier session
PATCH: Final = (32, 32, 32)  # voxels, where a plan says nothing
SIDE: Final = "patch"
SIDES: Final = (16, 32)
PATCHES: Final = 2  # of a patient in a step
SESSIONS: Final = 8  # of a patient, the last ones
SPACING: Final = "spacing_mm"
SPACINGS_MM: Final = (0.5, 6.0)
LOW: Final = -5.0  # robust deviations at which prepared values are cut, and what lies beyond an image
OVERLAP: Final = 0.25  # of tiles, when a whole scan is judged


class LesionSeg:
    """`tasks.base.Task`, `tasks.imaging.task.ImageTask` and `ShownOnPhantoms`."""

    name: ClassVar[str] = NAME
    version: ClassVar[str] = VERSION
    records: ClassVar[int] = PATCHES
    sessions: ClassVar[int] = SESSIONS
    label_shape: tuple[int, int, int] = PATCH
    marks: ClassVar[str] = "lesion"
    sequences: ClassVar[Mapping[str, str]] = SEQUENCES
    label: ClassVar[Label] = Label("lesion", "the voxel lies in a T2 lesion of MS")
    population: ClassVar[str] = "People with MS or CIS with a brain MRI on which somebody has outlined the lesions."
    nobody: ClassVar[str] = "none of {sessions} sessions has FLAIR or T1w and a lesion mask: this task learns from such"
    cuts_ml: ClassVar[tuple[float, float]] = LOAD_CUTS_ML
    reach_ml: ClassVar[float] = REACH_ML
    __test__ = False  # of pytest

    @cached_property
    def contract(self) -> Contract:
        """A column for each sequence: whether the session has it. What a plan names of them is what the network sees."""
        columns = [
            Column(column, "binary", f"a {_words(name)}", nullable=False, modality="mri") for column, name in self.sequences.items()
        ]
        maker = Column(VENDOR, "categorical", "who made the scanner; for figures alone", categories=VENDORS, modality="mri")
        return Contract(self.name, self.version, (*columns, maker), self.label)

    @property
    def model_names(self) -> tuple[str, ...]:
        from tasks.imaging.unet import MODEL_NAMES

        return MODEL_NAMES

    def readable(self, scans: Sequence[Scan]) -> tuple[Scan, ...]:
        """Every session: one without a sequence that a model wants is refused when it is prepared, by name."""
        return tuple(scans)

    def cohort_of_scans(self, scans: Sequence[Scan]) -> Cohort:
        """Sessions with a lesion mask and FLAIR or T1w; `DataError` if there is none."""
        usable = [scan for scan in self.readable(scans) if scan.mask is not None and {"FLAIR", "T1w"} & set(scan.images)]
        if not usable:
            raise DataError(self.nobody.format(sessions=len(scans)))
        values = np.array([[*(name in scan.images for name in self.sequences.values()), _vendor(scan)] for scan in usable], float)
        names = tuple(scan.patient for scan in usable)
        n = len(set(names))
        report = DataReport(
            task=self.name, version=self.version, table="images", rows_read=len(scans), patients=n, label="lesion masks",
            label_counts=(n, 0), columns=(), findings=(), not_read=(), withheld=(), suspects=(), leak_check="masks are the label",
        )  # fmt: skip
        return Cohort(names, values, np.zeros(len(usable), np.int8), report, scans=tuple(usable))

    def build_model(self, name: str, options: Options, columns: Sequence[str] | None = None) -> nn.Module:
        """U-Net from (batch, sequences, *label_shape) to logits (batch, *label_shape)."""
        from tasks.imaging.unet import build

        spacing_of(options)
        rest = {option: value for option, value in options.items() if option not in (SPACING, SIDE)}
        model, side = build(name, rest, len(self._sequences(columns))), self.for_plan(options).label_shape[0]
        if side < 2 * model.factor:
            raise ContractError(
                f"patches of {side} voxels are halved to {side // model.factor}: choose fewer widths, or patch {SIDES[-1]}"
            )
        return model

    def for_plan(self, options: Options) -> LesionSeg:
        """With patches of as many voxels a side as the option `patch` says."""
        side = options.get(SIDE, self.label_shape[0])
        if isinstance(side, bool) or side not in SIDES:
            raise ContractError(f"option {SIDE} is {side!r}: {' or '.join(map(str, SIDES))} voxels a side")
        found = copy.copy(self)
        found.label_shape = (int(side),) * 3
        return found

    def recipe(self, options: Options, columns: Sequence[str]) -> Recipe:
        """The common grid, cropped to the head, with the plan's sequences."""
        from tasks.imaging.prepare import Recipe

        spacing = spacing_of(options)
        return Recipe((spacing,) * 3 if spacing else None, self._sequences(columns), low=LOW)

    def input_shape(self, columns: Sequence[str]) -> tuple[int, ...]:
        return len(self._sequences(columns)), *self.label_shape

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Soft Dice and cross-entropy of each patch, (batch,)."""
        from tasks.imaging.segmentation import dice_bce

        return dice_bce(outputs, labels)

    def drawn(self, entries: Sequence[Entry], seed: bytes, drop_rate: float) -> tuple[Patches, NDArray[np.float32]]:
        """Each patch from a session drawn by lot."""
        from tasks.imaging.segmentation import draw_patches

        inputs, labels = [], []
        for number in range(PATCHES):
            own = hashlib.sha256(seed + number.to_bytes(4, "big")).digest()
            entry = entries[int.from_bytes(own[:8], "big") % len(entries)]
            patch = draw_patches(own, entry, 1, self.label_shape)[0]
            kept = self.kept(patch.present, drop_rate, own)
            inputs.append(patch.channels * kept[:, None, None, None])
            labels.append(np.zeros(self.label_shape) if patch.mask is None else patch.mask)
        return np.stack(inputs).astype(np.float32), np.stack(labels).astype(np.float32)

    def kept(self, present: NDArray[np.bool_], drop_rate: float, seed: bytes) -> NDArray[np.bool_]:
        """Which of the `present` sequences (C,) a patch keeps."""
        from tasks.imaging.segmentation import drop_modalities

        return drop_modalities(present, drop_rate, seed)

    def chances(self, channels: Patches, present: NDArray[np.bool_], apply: Apply) -> NDArray[np.float32]:
        """Tile by tile; around the head is what is darkest in it."""
        from tasks.imaging.segmentation import predict_volume

        background = [LOW if there else 0.0 for there in present]
        return predict_volume(apply, channels, patch=self.label_shape, overlap=OVERLAP, background=background)

    def judged(self, entry: Entry, apply: Apply) -> NDArray[np.float64]:
        """Dice, lesion-wise F1 (NaN where there is none to find and none is found), found and true volume in mL."""
        from tasks.imaging.resample import Grid
        from tasks.imaging.segmentation_scores import score_scan

        scan = entry.read()
        chances = self.chances(scan.channels, scan.present, apply)
        true = np.zeros(chances.shape, np.bool_) if scan.mask is None else scan.mask
        found = score_scan(chances > 0.5, true, Grid(entry.shape, entry.grid_affine).voxel_ml)
        f1 = np.nan if found.f1 is None else found.f1
        return np.array([found.dice, f1, found.predicted_ml, found.true_ml])

    def phantoms(self, options: Options, columns: Sequence[str]) -> tuple[Hospital, ...]:
        """One session of each invented patient."""
        from tasks.imaging.invented import hospitals

        return hospitals(spacing_of(options), self._sequences(columns))

    def scoring(self, bins: int, by: Sequence[str] = ()) -> LesionScoring:
        """By load and, if asked, by who made the scanner; there are no groups of people. `ContractError` for one."""
        from tasks.scoring.groups import groupings

        return LesionScoring(bins, self.cuts_ml, self.reach_ml, groupings(self.contract, by))

    def _sequences(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        wanted = tuple(self.sequences) if columns is None else tuple(columns)  # a vendor is no input
        return tuple(self.sequences[self.contract.column(name).name] for name in self.sequences if name in wanted)


def _vendor(scan: Scan) -> float:
    """Place in `VENDORS`; NaN if nothing names the scanner."""
    from tasks.imaging.sidecars import vendor_of

    return float(VENDORS.index(vendor_of(scan.scanner) or OTHER)) if scan.scanner else np.nan


def _words(name: str) -> str:
    which = "session before" if name.endswith(BEFORE) else "session"
    return f"{name.removesuffix(BEFORE)} image of the {which}"


def spacing_of(options: Options) -> float:
    """Edge of the common grid's voxels in mm; 0: each scan's own. `ContractError` outside 0.5 to 6 mm."""
    value = options.get(SPACING, 1.0)
    low, high = SPACINGS_MM
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value == 0 or low <= value <= high):
        raise ContractError(f"option {SPACING} is {value!r}: 0 for each scan's own voxels, or {low} to {high} mm")
    return float(value)


TASK: Final = LesionSeg()
