"""The task that plans name: one stage, one vector for each patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base import Cohort, Column, Contract, Label
from tasks.errors import DataError
from tasks.harmonise.scans import RANGES
from tasks.mri_harmonisation.scans import SEX, measure_limits
from tasks.mri_quant import vectors as arithmetic
from tasks.mri_quant.frame import MEASURES, MODEL, MOST_SCANS, NAME, frame_of
from tasks.mri_quant.result import result_of
from tasks.mri_quant.rows import WIDTH, measured, scan_rows
from tasks.ms.contract import CONTRACT
from tasks.sums import Choice, NamedShape, Opened, Records, report_of

if TYPE_CHECKING:
    import pandas as pd

    from tasks.sums import Floats

VERSION: Final = "1"


class MriQuant:
    """`tasks.sums.SumsTask` for the contract's table `mri`."""

    name, version, model_names, records = NAME, VERSION, (MODEL,), MOST_SCANS

    @cached_property
    def contract(self) -> Contract:
        """Covariates and measures; the label is a formality that no vector holds."""
        words = {"age_years": "Age, on average over the scans", "duration_years": "Time since the first symptom, likewise"}
        covariates = [
            Column(name, "numeric", words[name], unit="years", low=RANGES[name][0], high=RANGES[name][1]) for name in words
        ]
        sex = Column("sex", "categorical", "Sex", categories=SEX)
        table = {column.name: column for column in CONTRACT.table("mri").columns}
        measures = []
        for name in MEASURES:
            column, (low, high) = table[name], measure_limits(name)
            measures.append(Column(name, "numeric", column.description, unit=column.unit, low=low, high=high, modality="imaging"))
        return Contract(NAME, VERSION, (covariates[0], sex, covariates[1], *measures), Label("nothing", "no outcome is described"))

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """One row for each scan with a volume, by patient in the order of time; patients without one are in no row."""
        rows = np.zeros((0, WIDTH))
        if "mri" in tables and "patients" in tables:
            scans, rows = scan_rows(tables)
        kept = measured(rows)
        if not kept.any():
            raise DataError("no scan in the table mri has a measured volume: see `wardround-site data profile`")
        patients = tuple(str(patient) for patient in scans["patient_id"][kept])
        report = report_of(NAME, VERSION, "mri, patients", rows=len(scans), patients=len(set(patients)))
        return Cohort(patients, rows[kept], np.zeros(len(patients), np.int8), report)

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """One stage."""
        return frame_of(choice).stages

    def bound(self, choice: Choice) -> float:
        """Wide enough for nearly everybody; without noise nothing is cut."""
        return frame_of(choice).bound

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """Weighted products of rates and covariates."""
        return arithmetic.vectors(frame_of(choice), records)

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """The distribution of rates, and what it means for a trial."""
        return result_of(frame_of(choice), VERSION, opened[0])


TASK: Final = MriQuant()
