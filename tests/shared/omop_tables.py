"""Core tables as OMOP CDM v5.4 tables, by the conventions of tasks/importing/FHIR_OMOP.md; the reader is not used for it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from tests.shared.core_tables import UNITS, Hospital, rows_of

Row = dict[str, Any]
GENDER = {"F": 8532, "M": 8507, "X": 8521}
ELSEWHERE = {  # columns that a table of the CDM has a place for
    "patients": {"patient_id", "sex", "birth_year", "diagnosis_day", "death_day", "year_band", "source"},
    "visits": {"patient_id", "day", "visit_id", "visit_type", "rater_id", "source"},
    "relapses": {"patient_id", "onset_day", "end_day", "source"},
    "treatments": {"patient_id", "start_day", "end_day", "drug", "atc", "reason_stop", "source"},
    "mri": {"patient_id", "day", "scan_id", "source"},
}
HEADERS = {
    "person": ("person_id", "gender_concept_id", "year_of_birth", "race_concept_id", "person_source_value"),
    "death": ("person_id", "death_date"),
    "visit_occurrence": (
        "visit_occurrence_id",
        "person_id",
        "visit_concept_id",
        "visit_start_date",
        "visit_end_date",
        "visit_source_value",
    ),
    "condition_occurrence": (
        "condition_occurrence_id",
        "person_id",
        "condition_concept_id",
        "condition_start_date",
        "condition_end_date",
        "condition_source_value",
    ),
    "procedure_occurrence": (
        "procedure_occurrence_id",
        "person_id",
        "procedure_concept_id",
        "procedure_date",
        "procedure_end_date",
        "procedure_source_value",
    ),
    "drug_exposure": (
        "drug_exposure_id",
        "person_id",
        "drug_concept_id",
        "drug_exposure_start_date",
        "drug_exposure_end_date",
        "verbatim_end_date",
        "stop_reason",
        "drug_source_value",
    ),
    "measurement": (
        "measurement_id",
        "person_id",
        "measurement_concept_id",
        "measurement_date",
        "operator_concept_id",
        "value_as_number",
        "value_as_concept_id",
        "unit_concept_id",
        "provider_id",
        "visit_occurrence_id",
        "measurement_source_value",
        "unit_source_value",
        "value_source_value",
        "measurement_event_id",
    ),
    "observation": (
        "observation_id",
        "person_id",
        "observation_concept_id",
        "observation_date",
        "value_as_number",
        "value_as_string",
        "value_as_concept_id",
        "unit_concept_id",
        "provider_id",
        "visit_occurrence_id",
        "observation_source_value",
        "unit_source_value",
        "value_source_value",
        "observation_event_id",
    ),
}


def numbered(hospital: Hospital) -> Hospital:
    """The same with whole numbers for visits, scans and raters, as the CDM names them."""
    tables = {name: frame.copy() for name, frame in hospital.tables.items()}
    tables["visits"]["visit_id"] = [str(number) for number in range(1000, 1000 + len(tables["visits"]))]
    tables["mri"]["scan_id"] = [str(number) for number in range(500_000, 500_000 + len(tables["mri"]))]
    tables["visits"]["rater_id"] = [
        rater if pd.isna(rater) else str(rater).removeprefix("rater") for rater in tables["visits"]["rater_id"]
    ]
    return replace(hospital, tables=tables)


class Database:
    """The CDM tables of a hospital whose names are numbers."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital
        self._person = {patient: str(number) for number, patient in enumerate(hospital.tables["patients"]["patient_id"], 1)}
        self.tables: dict[str, list[Row]] = {name: [] for name in HEADERS}
        for table in ("patients", "visits", "relapses", "treatments", "mri"):
            for number, row in enumerate(rows_of(hospital.tables[table]), 1):
                getattr(self, f"_{table}")(row, number)

    def _on(self, row: Row, column: str, *, inclusive: bool = False) -> str:
        if column not in row:
            return ""
        day = self._hospital.on(row["patient_id"], row[column])
        return (day - timedelta(days=1) if inclusive else day).isoformat()

    def _add(self, table: str, row: Row, **cells: object) -> None:
        self.tables[table].append({"person_id": self._person[row["patient_id"]], **cells})

    def _rest(self, table: str, row: Row, date: str, *, visit: str = "", event: str = "") -> None:
        """All that has no place of its own: measurements of numbers, observations of codes and texts."""
        for column, value in row.items():
            if column not in ELSEWHERE[table]:
                kind = "observation" if isinstance(value, str) else "measurement"
                code = f"{table}.{column}"
                more: Row = {f"{kind}_id": len(self.tables[kind]) + 1, f"{kind}_concept_id": 0, f"{kind}_source_value": code}
                if isinstance(value, str):
                    more["value_as_string" if len(self.tables[kind]) % 2 else "value_source_value"] = value
                else:
                    more |= {"value_as_number": value, "unit_source_value": UNITS.get(column, "")}
                if column == "height_cm":
                    more |= {f"{kind}_concept_id": 3036277, f"{kind}_source_value": "local 17", "unit_concept_id": 8582}
                    more["unit_source_value"] = ""
                if column == "edss" and "rater_id" in row:
                    more["provider_id"] = row["rater_id"]
                dated = {f"{kind}_date": date, "visit_occurrence_id": visit, f"{kind}_event_id": event}
                self._add(kind, row, **more, **dated)

    def _patients(self, row: Row, number: int) -> None:
        self._add(
            "person",
            row,
            gender_concept_id=GENDER[row["sex"]],
            year_of_birth=row["birth_year"],
            person_source_value=row["patient_id"],
        )
        self._add(
            "condition_occurrence",
            row,
            condition_occurrence_id=number,
            condition_concept_id=374919 if number % 2 else 0,
            condition_start_date=self._on(row, "diagnosis_day"),
            condition_source_value="G35",
        )
        if "death_day" in row:
            self._add("death", row, death_date=self._on(row, "death_day"))
        index = self._hospital.index[row["patient_id"]].isoformat()
        shown = {**row, "onset_day": self._on(row, "onset_day")} if "onset_day" in row else row
        self._rest("patients", shown, index)

    def _visits(self, row: Row, number: int) -> None:
        day = self._on(row, "day")
        self._add(
            "visit_occurrence",
            row,
            visit_occurrence_id=row["visit_id"],
            visit_concept_id=9202,
            visit_start_date=day,
            visit_end_date=day,
            visit_source_value=row.get("visit_type", ""),
        )
        self._rest("visits", row, day, visit=row["visit_id"])

    def _relapses(self, row: Row, number: int) -> None:
        event = str(100_000 + number)
        self._add(
            "condition_occurrence",
            row,
            condition_occurrence_id=event,
            condition_concept_id=0,
            condition_source_value="relapses.onset_day",
            condition_start_date=self._on(row, "onset_day"),
            condition_end_date=self._on(row, "end_day"),
        )
        self._rest("relapses", row, self._on(row, "onset_day"), event=event)

    def _treatments(self, row: Row, number: int) -> None:
        event, last = str(number), self._on(row, "end_day", inclusive=True)
        self._add(
            "drug_exposure",
            row,
            drug_exposure_id=event,
            drug_concept_id=0,
            drug_source_value=row.get("atc", row["drug"]),
            drug_exposure_start_date=self._on(row, "start_day"),
            drug_exposure_end_date=last or "2026-11-01",
            verbatim_end_date=last,
            stop_reason=row.get("reason_stop", ""),
        )
        self._rest("treatments", row, self._on(row, "start_day"), event=event)

    def _mri(self, row: Row, number: int) -> None:
        day = self._on(row, "day")
        self._add(
            "procedure_occurrence",
            row,
            procedure_occurrence_id=row["scan_id"],
            procedure_concept_id=0,
            procedure_date=day,
            procedure_source_value="mri.scan_id",
        )
        self._rest("mri", row, day, event=row["scan_id"])


def write_csv(folder: Path, tables: Mapping[str, list[Row]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name.upper() if name == 'person' else name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, HEADERS[name], restval="")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def write_parquet(folder: Path, tables: Mapping[str, list[Row]]) -> Path:
    """With types as a database gives them: ids and concepts int64 with gaps, dates as dates, numbers as float64."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        columns = {}
        for column in HEADERS[name]:
            cells = [row.get(column) if row.get(column, "") != "" else None for row in rows]
            columns[column] = _typed(column)(cells)
        pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def _typed(column: str) -> Callable[[list[Any]], Any]:
    if column.endswith("_id") or column == "year_of_birth":
        return lambda cells: pd.array([None if cell is None else int(cell) for cell in cells], dtype="Int64")
    if column == "value_as_number":
        return lambda cells: pd.array([None if cell is None else float(cell) for cell in cells], dtype="Float64")
    if column.endswith("_date"):
        return lambda cells: pd.Series(pd.to_datetime(pd.Series(cells, dtype=object))).dt.date
    return lambda cells: pd.Series(cells, dtype=object)
