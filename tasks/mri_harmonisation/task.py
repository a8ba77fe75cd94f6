"""The task that plans name: ComBat in two stages, or longitudinal ComBat in one; every patient is one vector in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from tasks.base import Cohort, Column, Contract, Label
from tasks.errors import DataError
from tasks.harmonise.plan import PHENOTYPES
from tasks.harmonise.scans import RANGES
from tasks.mri_harmonisation import vectors as arithmetic
from tasks.mri_harmonisation.frame import COMBAT, LONGITUDINAL, MOST_SCANS, NAME, frame_of
from tasks.mri_harmonisation.reference import name_of, reference_of
from tasks.mri_harmonisation.result import result_of
from tasks.mri_harmonisation.scans import (
    AS_MEASURED,
    MEASURES,
    SEX,
    WIDTH,
    Floats,
    measure_limits,
    measured,
    references_of,
    rows_of,
    scan_table,
)
from tasks.ms.contract import CONTRACT
from tasks.sums import Choice, NamedShape, Opened, Records, report_of

if TYPE_CHECKING:
    import pandas as pd

VERSION: Final = "1"


class MriHarmonisation:
    """`tasks.sums.SumsTask` for the contract's table `mri`."""

    name, version, model_names, records = NAME, VERSION, (COMBAT, LONGITUDINAL), MOST_SCANS

    @cached_property
    def contract(self) -> Contract:
        """Covariates to protect and measures to harmonise; the label is a formality that no vector holds."""
        words = {"age_years": "Age on the day of the scan", "duration_years": "Time since the first symptom",
                 "edss": "EDSS of the nearest visit within half a year"}  # fmt: skip
        units = {"edss": "score"}
        covariates = [
            Column(name, "numeric", words[name], unit=units.get(name, "years"), low=low, high=high)
            for name, (low, high) in RANGES.items()
        ]
        covariates.append(Column("sex", "categorical", "Sex", categories=SEX))
        covariates.append(Column("phenotype", "categorical", "Course of the disease at the nearest visit", categories=PHENOTYPES))
        table = {column.name: column for column in CONTRACT.table("mri").columns}
        measures = []
        for name in MEASURES:
            column, (low, high) = table[name], measure_limits(name)
            measures.append(Column(name, "numeric", column.description, unit=column.unit, low=low, high=high, modality="imaging"))
        return Contract(NAME, VERSION, (*covariates, *measures), Label("nothing", "no outcome is described"))

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """One row for each scan with a measure, by patient in the order of time; patients without one are in no row.

        Nor are scans whose measures are harmonised already: their scanners are no longer in them.
        """
        scans = scan_table(tables) if "mri" in tables and "patients" in tables else None
        rows = np.zeros((0, WIDTH)) if scans is None else rows_of(scans)
        kept = measured(rows)
        if scans is None or not kept.any():
            raise DataError("no scan in the table mri has a measured volume: see `wardround-site data profile`")
        kept &= references_of(scans) == AS_MEASURED
        if not kept.any():
            raise DataError("all measures in the table mri are harmonised already: name the folder with those that were measured")
        patients = tuple(str(patient) for patient in scans["patient_id"][kept])
        report = report_of(NAME, VERSION, "mri, patients, visits", rows=len(scans), patients=len(set(patients)))
        return Cohort(patients, rows[kept], np.zeros(len(patients), np.int8), report)

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """Two stages, or one."""
        return frame_of(choice).stages

    def bound(self, choice: Choice) -> float:
        """Wide enough for nearly everybody; without noise nothing is cut."""
        return frame_of(choice).bound

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """Counts and products first, then squares of residuals."""
        first = before[0] if before else np.zeros(0)
        return arithmetic.vectors(frame_of(choice), len(before), first, records)

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """Parameters that every site needs, those outside the run too."""
        found = dict(result_of(frame_of(choice), VERSION, opened))
        name = name_of(reference_of(cast("Mapping[str, Any]", found["reference"])))
        note = f"Plans of the task mri_quant on volumes harmonised by it say task.options.reference={name}."
        return {**found, "notes": [*cast("list[str]", found["notes"]), note]}


TASK: Final = MriHarmonisation()
