"""Invented tables that fit the contract, made from its declarations: for tests, for measuring, for showing a data manager.

Every value is drawn from the column's own range or vocabulary; nothing looks like a disease. The cohort simulator is
another thing. Reproducible from a seed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.ms.contract import ANALYTES, CONTRACT, DRUGS, FUNCTIONAL_SYSTEMS
from tasks.ms.manifest import MANIFEST_FILE, Entry, Manifest, file_digest
from tasks.ms.rows import CONVERTED, edss_from_scores
from tasks.ms.schema import SEPARATOR, WHOLE, Column, DataContract, Limits, Table

Cells = dict[str, list[str]]  # column -> texts of all rows
SMALL: Final[Mapping[str, int]] = dict.fromkeys(CONTRACT.names, 60) | {"patients": 12, "genetics": 8}
RECLAIM: Final[Mapping[str, int]] = {  # one site of a retrospective registry
    "patients": 1500, "visits": 25000, "relapses": 4500, "treatments": 4500, "mri": 11000, "oct": 3000,
    "evoked_potentials": 4000, "biomarkers": 6000, "proms": 12000, "wearables": 20000, "genetics": 500,
}  # fmt: skip
EMPTY_SHARE: Final = 0.15
GAP_D: Final[Mapping[str, tuple[int, int]]] = {"relapses": (40, 400), "treatments": (150, 900)}
USUAL_GAP_D: Final = (60, 200)
FIRST_DAYS: Final = (-400, 30)
LATE_DEATH_D: Final = 30000  # after every other row
LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "year_band": ("2013-2015", "2016-2018"), "atc": ("L03AB07", "L04AG08"), "item": ("total",), "bids_sub": ("p1", "p2"),
}  # fmt: skip


def invent_tables(sizes: Mapping[str, int], seed: int, contract: DataContract = CONTRACT) -> dict[str, Cells]:
    """Tables with so many rows; tables of size 0 are left out. They pass validation without error or warning."""
    rng = np.random.default_rng(seed)
    patients = [f"p{number:05d}" for number in range(1, sizes["patients"] + 1)]
    return {table.name: _invent(table, patients, sizes[table.name], rng) for table in contract.tables if sizes.get(table.name)}


def write_tables(folder: Path, tables: Mapping[str, Cells], *, site: str = "invented", ending: str = ".csv") -> None:
    """The tables as files (`.csv` or `.parquet`) with their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, cells in tables.items():
        path = folder / f"{name}{ending}"
        (_write_parquet if ending == ".parquet" else _write_csv)(path, CONTRACT.table(name), cells)
        entries[name] = Entry(path.name, file_digest(path), _length(cells))
    modalities = tuple(sorted({CONTRACT.table(name).modality for name in tables}))
    (folder / MANIFEST_FILE).write_text(Manifest(site, CONTRACT.version, entries, modalities).to_json(), encoding="utf-8")


def _length(cells: Cells) -> int:
    return len(next(iter(cells.values())))


def _write_csv(path: Path, table: Table, cells: Cells) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))


def _write_parquet(path: Path, table: Table, cells: Cells) -> None:
    import pyarrow as pa  # here: CSV tables need it not
    import pyarrow.parquet as pq

    arrays = {
        name: pa.array(
            [float(text) if text else None for text in texts] if table.column(name).numeric else [text or None for text in texts]
        )
        for name, texts in cells.items()
    }
    pq.write_table(pa.table(arrays), path)


def _invent(table: Table, patients: Sequence[str], rows: int, rng: Generator) -> Cells:
    cells = _keys(table, patients, rows, rng)
    made = len(cells["patient_id"])
    for column in table.columns:
        if column.name not in cells:
            cells[column.name] = _empty_some(column, _column(column, table, cells, made, rng), rng)
    _agree(table, cells, rng)
    if any(column.missing_reason for column in table.columns):
        cells["missing_reason"] = _reasons(table, cells)
    return {name: cells[name] for name in table.names}


def _keys(table: Table, patients: Sequence[str], rows: int, rng: Generator) -> Cells:
    """Key columns: as many rows for each patient, days in order, all combinations of the codes on each day."""
    others = [column for column in table.columns if column.key and column.name != "patient_id"]
    codes = [column for column in others if column.vocabulary and column.name != "drug"]
    combinations = list(product(*(column.vocabulary for column in codes)))
    cells: Cells = {name: [] for name in table.key}
    for number, patient in enumerate(patients):
        count = rows // len(patients) + (number < rows % len(patients))
        days = np.cumsum(rng.integers(*GAP_D.get(table.name, USUAL_GAP_D), size=count)) + rng.integers(*FIRST_DAYS)
        for row in range(count):
            turn, which = divmod(row, len(combinations))
            chosen = dict(zip((column.name for column in codes), combinations[which], strict=True))
            cells["patient_id"].append(patient)
            for column in others:
                day = int(days[turn]) if column.kind == "day" else turn
                cells[column.name].append(chosen.get(column.name) or _key_part(column, day, rng))
    return cells


def _key_part(column: Column, number: int, rng: Generator) -> str:
    if column.name == "drug":
        return str(rng.choice([name for name, (_, classes) in DRUGS.items() if classes]))
    if column.name in LABELS:
        return LABELS[column.name][0]
    return f"{column.name[0]}{number}" if column.kind == "id" else str(number)


def _column(column: Column, table: Table, cells: Cells, rows: int, rng: Generator) -> list[str]:
    if column.limits_by is not None:
        by = column.limits_by
        return [
            _number(by.limits[code], column, float(share)) for code, share in zip(cells[by.column], rng.random(rows), strict=True)
        ]
    if column.kind == "code":
        return [str(code) for code in rng.choice(list(column.vocabulary), size=rows)]
    if column.kind == "codes":
        known = list(column.vocabulary)
        return [
            SEPARATOR.join(rng.choice(known, size=n, replace=False)) for n in rng.integers(1, min(3, len(known)) + 1, size=rows)
        ]
    if column.values:
        return [f"{value:g}" for value in rng.choice(column.values, size=rows)]
    limits = column.usual or column.limits
    if limits is None:
        return [
            str(text) for text in rng.choice(LABELS.get(column.name, (f"{column.name[:4]}1", f"{column.name[:4]}2")), size=rows)
        ]
    return [_number(limits, column, float(share)) for share in rng.random(rows)]


def _number(limits: Limits, column: Column, share: float) -> str:
    """The number that lies at `share` of the range, as this kind of column writes it."""
    step = column.step or (1 if column.kind in WHOLE else 0)
    value = limits.low + share * (limits.high - limits.low)
    if step:
        value = min(limits.high, limits.low + int((value - limits.low) / step + 0.5) * step)
        return f"{value + step if value in column.without else value:g}" if column.kind not in WHOLE else str(int(value))
    return f"{min(max(value, limits.low), limits.high):.4f}"


def _empty_some(column: Column, texts: list[str], rng: Generator) -> list[str]:
    if not column.nullable or column.name == "missing_reason":
        return texts
    return ["" if share < EMPTY_SHARE else text for text, share in zip(texts, rng.random(len(texts)), strict=True)]


def _reasons(table: Table, cells: Cells) -> list[str]:
    """A reason only where something that it can explain is empty."""
    explained = [cells[column.name] for column in table.columns if column.missing_reason]
    return [
        reason if not all(row) else "" for reason, row in zip(cells["missing_reason"], zip(*explained, strict=True), strict=True)
    ]


def _agree(table: Table, cells: Cells, rng: Generator) -> None:
    """Make the columns of a table agree with each other as the rules want."""
    agree = {
        "patients": _agree_patients, "visits": _agree_visits, "relapses": _agree_relapses, "treatments": _agree_treatments,
        "mri": _agree_mri, "biomarkers": _agree_biomarkers,
    }.get(table.name)  # fmt: skip
    if agree is not None:
        agree(cells, rng)


def _agree_patients(cells: Cells, rng: Generator) -> None:
    rows = len(cells["patient_id"])
    cells["onset_day"] = [str(day) for day in rng.integers(-4000, -900, size=rows)]
    cells["diagnosis_day"] = [str(day) for day in rng.integers(-900, 1, size=rows)]
    cells["death_day"] = [str(LATE_DEATH_D) if share < 0.05 else "" for share in rng.random(rows)]


def _agree_visits(cells: Cells, rng: Generator) -> None:
    """The EDSS that follows from the functional systems, if walking does not decide."""
    rows = len(cells["edss"])
    names = [f"fs_{name}" for name in FUNCTIONAL_SYSTEMS]
    scores = rng.choice(4, p=(0.5, 0.3, 0.15, 0.05), size=(rows, len(names)))
    converted = scores.copy()
    for index, name in enumerate(FUNCTIONAL_SYSTEMS):
        if (table := CONVERTED.get(name)) is not None:
            converted[:, index] = table[scores[:, index]]
    expected = edss_from_scores(converted)
    walking = rng.integers(8, 20, size=rows) / 2
    for index, name in enumerate(names):
        cells[name] = [str(score) if text else "" for score, text in zip(scores[:, index], cells[name], strict=True)]
    cells["edss"] = [f"{low if low < 4 else high:g}" for low, high in zip(expected, walking, strict=True)]


def _agree_relapses(cells: Cells, rng: Generator) -> None:
    lasting = rng.integers(2, 39, size=len(cells["onset_day"]))
    cells["end_day"] = [str(int(day) + int(more)) for day, more in zip(cells["onset_day"], lasting, strict=True)]


def _agree_treatments(cells: Cells, rng: Generator) -> None:
    """Each therapy ends when the next one begins; the last goes on."""
    patients, starts = cells["patient_id"], cells["start_day"]
    following = zip(patients, [*patients[1:], ""], [*starts[1:], ""], strict=True)
    cells["end_day"] = [start if patient == name else "" for patient, name, start in following]
    cells["dmt_class"] = [DRUGS[drug][1][0] for drug in cells["drug"]]


def _agree_mri(cells: Cells, rng: Generator) -> None:
    """Brain volumes stay within 3 % of the patient's own."""
    patients = cells["patient_id"]
    number = np.unique(patients, return_inverse=True)[1]
    for name, low, high in (("nbv_ml", 1300, 1700), ("gm_ml", 500, 800), ("cortical_gm_ml", 350, 600), ("thalamus_ml", 9, 18)):
        own: NDArray[np.float64] = rng.uniform(low, high, size=int(number.max()) + 1)[number] * rng.uniform(
            0.97, 1.03, size=len(patients)
        )
        cells[name] = [f"{value:.2f}" if text else "" for value, text in zip(own, cells[name], strict=True)]


def _agree_biomarkers(cells: Cells, rng: Generator) -> None:
    cells["unit"] = [ANALYTES[analyte][1].unit for analyte in cells["analyte"]]
