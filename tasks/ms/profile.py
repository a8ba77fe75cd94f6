"""What a hospital's accepted tables hold: how much, how complete, in which range, how often seen. Exact, so it stays there.

Numbers are quantiles of all rows, as recorded; nobody is named. For the counts that may be summed over hospitals there is the task
`cohort_description`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.ms.contract import CONTRACT
from tasks.ms.schema import SEPARATOR, Column, Table

if TYPE_CHECKING:
    import pandas as pd

LOCAL: Final = "Exact figures of this hospital's patients: they stay here."
QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
DAYS_A_YEAR: Final = 365.25
Tables = Mapping[str, "pd.DataFrame"]
Five = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class ColumnProfile:
    """`filled`: rows with a value. `quantiles`: lowest, quartiles, highest, of numbers. `codes`: rows of each code."""

    name: str
    unit: str
    filled: int
    quantiles: Five | None
    codes: Mapping[str, int]


@dataclass(frozen=True)
class TableProfile:
    """`reached`: share of all patients with a row, 0..1."""

    name: str
    modality: str
    rows: int
    patients: int
    reached: float
    columns: tuple[ColumnProfile, ...]


@dataclass(frozen=True)
class Profile:
    """Quantiles over patients, None where there is nobody to ask. `scanners`: scans and patients of each scanner|protocol."""

    patients: int
    tables: tuple[TableProfile, ...]
    visits_each: Five | None
    edss_each: Five | None
    follow_up_years: Five | None  # first to last visit
    visits_a_year: Five | None  # of patients with two visits or more, half a year or more apart
    scanners: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    without: Mapping[str, float] = field(default_factory=dict)  # modality -> share of patients without any row, 0..1

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {"local": LOCAL, **asdict(self)}


def profile_of(tables: Tables) -> Profile:
    """The profile of accepted `tables`; empty ones count as tables without rows."""
    everybody = len(tables["patients"]) if "patients" in tables else 0
    visits, edss, years = _visits(tables)
    seen_long = (visits >= 2) & (years >= 0.5)
    return Profile(
        patients=everybody,
        tables=tuple(_table(CONTRACT.table(name), rows, everybody) for name, rows in tables.items()),
        visits_each=five(visits),
        edss_each=five(edss),
        follow_up_years=five(years[visits > 0]),
        visits_a_year=five((visits[seen_long] - 1) / years[seen_long]),
        scanners=_scanners(tables),
        without=_without(tables, everybody),
    )


def five(values: NDArray[np.float64]) -> Five | None:
    """Lowest, quartiles and highest; None of nothing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, lower, middle, upper, high = (round(float(value), 4) for value in np.quantile(known, QUANTILES))
    return low, lower, middle, upper, high


def _table(table: Table, rows: pd.DataFrame, everybody: int) -> TableProfile:
    patients = int(rows["patient_id"].nunique())
    columns = tuple(_column(column, rows) for column in table.columns if column.kind != "id" and column.name in rows)
    return TableProfile(
        table.name, table.modality, len(rows), patients, round(patients / everybody, 4) if everybody else 0.0, columns
    )


def _column(column: Column, rows: pd.DataFrame) -> ColumnProfile:
    cells = rows[column.name].dropna()
    numbers = five(cells.to_numpy(dtype=np.float64)) if column.numeric else None
    coded = column.kind in ("code", "codes") or column.kind == "flag"
    if column.kind == "flag":
        cells = cells.map(lambda flag: str(int(flag)))  # a column with gaps holds its flags as 0.0 and 1.0
    codes = {str(code): int(count) for code, count in sorted(cells.value_counts().items(), key=str)} if coded else {}
    return ColumnProfile(column.name, column.unit, len(cells), numbers, codes)


def _visits(tables: Tables) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each patient: visits, visits with EDSS, years from first to last visit (NaN without visits), (n_patients,) each."""
    names = tables["patients"]["patient_id"] if "patients" in tables else []
    if "visits" not in tables:
        return np.zeros(len(names)), np.zeros(len(names)), np.full(len(names), np.nan)
    rows = tables["visits"]
    days = rows.groupby("patient_id")["day"].agg(["count", "min", "max"]).reindex(names)
    scored = rows[rows["edss"].notna()].groupby("patient_id").size().reindex(names)
    years = (days["max"] - days["min"]) / DAYS_A_YEAR
    visits, edss = (found.fillna(0).to_numpy(dtype=np.float64) for found in (days["count"], scored))
    return visits, edss, years.to_numpy(dtype=np.float64, na_value=np.nan)


def _scanners(tables: Tables) -> dict[str, tuple[int, int]]:
    """Scans and patients of each scanner and protocol, named as plans of `mri_harmonisation` name them."""
    if "mri" not in tables or "scanner_id" not in tables["mri"]:
        return {}
    rows = tables["mri"]
    parts = rows.reindex(columns=["scanner_id", "protocol_id"]).astype("string").fillna("not recorded")
    name = parts["scanner_id"] + SEPARATOR + parts["protocol_id"]
    found = rows.assign(scanner=name).groupby("scanner")["patient_id"].agg(["size", "nunique"])
    return {str(name): (int(scans), int(patients)) for name, scans, patients in found.itertuples()}


def _without(tables: Tables, everybody: int) -> dict[str, float]:
    if not everybody:
        return {}
    modalities = sorted({table.modality for table in CONTRACT.tables if table.name != "patients"})
    found = {}
    for modality in modalities:
        names: Sequence[str] = [table.name for table in CONTRACT.tables if table.modality == modality and table.name != "patients"]
        having = {str(patient) for name in names if name in tables for patient in tables[name]["patient_id"].unique()}
        found[modality] = round(1 - len(having) / everybody, 4)
    return found
