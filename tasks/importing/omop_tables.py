"""Rows of OMOP CDM v5.4 tables, one after another and never all at once: CSV or Parquet, as text, numbered as a spreadsheet does.

A row with too few or too many cells, an open quote or a broken Parquet file stops the import: a truncated file has lost more
than the row that shows it. No message holds a cell.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Final

from tasks.importing.errors import ImportRefused

# table -> columns that must be there, columns that are read if they are
TABLES: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "person": (("person_id", "gender_concept_id", "year_of_birth"), ("person_source_value", "gender_source_value")),
    "visit_occurrence": (
        ("visit_occurrence_id", "person_id", "visit_start_date"), ("visit_concept_id", "visit_source_value"),
    ),
    "condition_occurrence": (
        ("condition_occurrence_id", "person_id", "condition_concept_id", "condition_start_date"),
        ("condition_end_date", "condition_source_value"),
    ),
    "procedure_occurrence": (
        ("procedure_occurrence_id", "person_id", "procedure_concept_id", "procedure_date"),
        ("procedure_end_date", "procedure_source_value"),
    ),
    "drug_exposure": (
        ("drug_exposure_id", "person_id", "drug_concept_id", "drug_exposure_start_date"),
        ("drug_exposure_end_date", "verbatim_end_date", "stop_reason", "drug_source_value", "drug_source_concept_id"),
    ),
    "measurement": (
        ("measurement_id", "person_id", "measurement_concept_id", "measurement_date"),
        ("operator_concept_id", "value_as_number", "value_as_concept_id", "unit_concept_id", "provider_id", "visit_occurrence_id",
         "measurement_source_value", "unit_source_value", "value_source_value", "measurement_event_id"),
    ),
    "observation": (
        ("observation_id", "person_id", "observation_concept_id", "observation_date"),
        ("value_as_number", "value_as_string", "value_as_concept_id", "unit_concept_id", "provider_id", "visit_occurrence_id",
         "observation_source_value", "unit_source_value", "value_source_value", "observation_event_id"),
    ),
    "death": (("person_id", "death_date"), ()),
}  # fmt: skip
ROWS_AT_ONCE: Final = 65536
NULLS: Final = frozenset({"", "NULL", "\\N"})  # as databases write an empty cell into a file
REMEDY: Final = "export it again, and check that the transfer was complete"
Cells = Mapping[str, str]  # the columns of TABLES, "" where absent or empty


def read_rows(folder: Path, table: str) -> Iterator[tuple[int, Cells]] | None:
    """Rows of one table with their numbers (header = 1); None if the folder has no such table. `ImportRefused`: unreadable."""
    names = (f"{table}.csv", f"{table}.parquet")
    files = [each for each in sorted(folder.iterdir()) if each.name.lower() in names and each.is_file()]
    if len(files) > 1:
        raise ImportRefused(f"{table} lies in the folder {len(files)} times: keep the CSV or the Parquet file")
    if not files:
        return None
    return _csv(files[0], table) if files[0].suffix.lower() == ".csv" else _parquet(files[0], table)


def _wanted(header: list[str], table: str) -> dict[str, int]:
    """Column -> position, of those that are read."""
    names = [name.strip().lower() for name in header]
    required, optional = TABLES[table]
    if absent := [name for name in required if name not in names]:
        raise ImportRefused(f"{table} lacks {', '.join(absent)}: export the table as CDM v5.4 has it, with the column names")
    if repeated := [name for name in (*required, *optional) if names.count(name) > 1]:
        raise ImportRefused(f"{table} has the column {repeated[0]} twice: keep one")
    return {name: names.index(name) for name in (*required, *optional) if name in names}


def _csv(path: Path, table: str) -> Iterator[tuple[int, Cells]]:
    required, optional = TABLES[table]
    empty = dict.fromkeys((*required, *optional), "")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            delimiter = "\t" if "\t" in first and "," not in first else ","
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            header = next(reader, [])
            wanted = _wanted(header, table)
            for number, cells in enumerate(reader, 2):
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ImportRefused(f"{table}, row {number}: {len(cells)} cells, the header has {len(header)}; {REMEDY}")
                yield number, empty | {name: _cell(cells[position], name) for name, position in wanted.items()}
    except UnicodeError:
        raise ImportRefused(f"{table} is not text in UTF-8: {REMEDY}") from None
    except csv.Error:
        raise ImportRefused(f"{table} is no CSV table, or it ends within a quoted cell: {REMEDY}") from None
    except OSError as error:
        raise ImportRefused(f"{table} cannot be read ({error.strerror})") from error


def _cell(text: str, column: str = "") -> str:
    stripped = text.strip()
    if column.endswith("_id"):
        stripped = stripped.removesuffix(".0")  # a column of numbers with gaps, as some programs write it
    return "" if stripped in NULLS else stripped


def _parquet(path: Path, table: str) -> Iterator[tuple[int, Cells]]:
    import pyarrow as pa  # here: whoever has CSV tables need not have it
    import pyarrow.parquet as pq

    required, optional = TABLES[table]
    empty = dict.fromkeys((*required, *optional), "")
    try:
        with pq.ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            wanted = _wanted(header, table)
            number = 1
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[header[position] for position in wanted.values()]):
                columns = {name: [_text(value) for value in batch.column(header[at]).to_pylist()] for name, at in wanted.items()}
                for row in range(batch.num_rows):
                    number += 1
                    yield number, empty | {name: texts[row] for name, texts in columns.items()}
    except (pa.ArrowException, ValueError, OSError):
        raise ImportRefused(f"{table} is no whole Parquet file: {REMEDY}") from None  # the cause may quote what it found


def _text(value: object) -> str:
    """A Parquet cell as it would stand in a CSV file."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime | date):
        return value.isoformat()
    return _cell(str(value))
