"""Small contract tables that are right, one of whose cells a test then makes wrong."""

import csv
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tasks.ms.contract import CONTRACT
from tasks.ms.findings import Finding
from tasks.ms.samples import SMALL, Cells, invent_tables
from tasks.ms.validate import Validated, validate_folder

HEADER_ROW = 1


@cache
def right_tables(seed: int = 7) -> dict[str, Cells]:
    return invent_tables(SMALL, seed)


@dataclass
class Tables:
    """Right tables to spoil; rows are named by their numbers in a spreadsheet, the header being 1."""

    cells: dict[str, Cells] = field(default_factory=lambda: deepcopy(right_tables()))

    def put(self, table: str, row: int, **values: str) -> "Tables":
        for column, value in values.items():
            self.cells[table][column][row - 2] = value
        return self

    def get(self, table: str, row: int, column: str) -> str:
        return self.cells[table][column][row - 2]

    def add(self, table: str, like: int, **values: str) -> int:
        """Append a copy of the row `like` with other values; its number."""
        for texts in self.cells[table].values():
            texts.append(texts[like - 2])
        row = len(self.cells[table]["patient_id"]) + HEADER_ROW
        self.put(table, row, **values)
        return row

    def only(self, *names: str) -> "Tables":
        self.cells = {name: self.cells[name] for name in names}
        return self

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, cells in self.cells.items():
            write_csv(folder / f"{name}.csv", list(cells), list(zip(*cells.values(), strict=True)))
        return folder

    def check(self, folder: Path) -> Validated:
        return validate_folder(self.write(folder))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def told(findings: Sequence[Finding]) -> set[tuple[str, str, str, tuple[int, ...]]]:
    """(rule, table, column, rows) of every finding but the note that there is no manifest."""
    return {(each.rule.name, each.table, each.column, each.rows) for each in findings if each.rule.name != "no_manifest"}


def first_rows(table: str, patient: str = "p00001") -> list[int]:
    """Row numbers of one patient."""
    return [number for number, name in enumerate(right_tables()[table]["patient_id"], 2) if name == patient]


ALL_COLUMNS = [(table.name, column.name) for table in CONTRACT.tables for column in table.columns]
