"""The task that plans name: one stage, one vector for each patient, one table of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base import Cohort, Contract, Label
from tasks.cohort_description.columns import BIN_CHOICES, Described, Floats, described
from tasks.cohort_description.result import column_rows, notes, table_rows
from tasks.cohort_description.vectors import HEAD, bound, merged, patient_values, shapes
from tasks.disclosure import Sharpness
from tasks.errors import ContractError, DataError
from tasks.ms.contract import CONTRACT
from tasks.sums import Choice, NamedShape, Opened, Records, report_of

if TYPE_CHECKING:
    import pandas as pd

NAME: Final = "cohort_description"
MODEL: Final = "tables"
BINS: Final = "bins"
DEFAULT_BINS: Final = 20


class CohortDescription:
    """`tasks.sums.SumsTask` for the eleven tables of the data contract."""

    name, version, model_names, records = NAME, "1", (MODEL,), 1

    @cached_property
    def columns(self) -> Mapping[str, Described]:
        """Every column that can be described, by its name in plans."""
        return {column.name: column for column in described()}

    @cached_property
    def contract(self) -> Contract:
        """What a plan may choose from; the label is a formality that no vector holds."""
        inputs = tuple(column.as_input() for column in self.columns.values())
        return Contract(NAME, self.version, inputs, Label("nothing", "no outcome is described"))

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """One row for each patient: everything that any plan could ask for, computed once."""
        if "patients" not in tables or tables["patients"].empty:
            raise DataError("no patient is left in the table patients: see `wardround-site data validate`")
        patients = tuple(str(patient) for patient in tables["patients"]["patient_id"])
        values = patient_values(tables, patients, CONTRACT.names, tuple(self.columns.values()))
        return Cohort(
            patients,
            values,
            np.zeros(len(patients), np.int8),
            report_of(NAME, self.version, ", ".join(sorted(tables)), rows=len(patients), patients=len(patients)),
        )

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """One stage."""
        chosen = self._chosen(choice)
        return (shapes(_tables_of(chosen), chosen, self._bins(choice)),)

    def bound(self, choice: Choice) -> float:
        """What no vector exceeds by construction: nothing is ever clipped."""
        chosen = self._chosen(choice)
        return bound(_tables_of(chosen), chosen)

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """The parts of the plan's tables and columns."""
        chosen, bins = self._chosen(choice), self._bins(choice)
        heads = {name: at * HEAD for at, name in enumerate(CONTRACT.names)}
        ends = len(CONTRACT.names) * HEAD + np.cumsum([column.width for column in self.columns.values()])
        starts = {column.name: int(end) - column.width for column, end in zip(self.columns.values(), ends, strict=True)}
        parts = [records.values[:, heads[name] : heads[name] + HEAD] for name in _tables_of(chosen)]
        for column in chosen:
            start = starts[column.name]
            parts.append(merged(records.values[:, start : start + column.width], column, bins))
        return np.concatenate(parts, axis=1)

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """Two tables: what the tables hold, what the columns hold."""
        chosen, sharp = self._chosen(choice), Sharpness(opened[0].noise)
        parts, at = {}, 0
        for name, (length,) in self.stages(choice)[0]:
            parts[name] = opened[0].total[at : at + length]
            at += length
        heads = {name: parts[f"{name}.rows"] for name in _tables_of(chosen)}
        columns = [
            row for column in chosen for row in column_rows(column, parts[column.name], float(heads[column.table][0]), sharp)
        ]
        return {
            "title": "Cohort description",
            "notes": notes(sharp, chosen),
            "tables": {
                "tables": table_rows(heads, sharp),
                "numbers": [row for row in columns if "code" not in row],
                "codes": [row for row in columns if "code" in row],
            },
        }

    def _chosen(self, choice: Choice) -> tuple[Described, ...]:
        if choice.model != MODEL:
            raise ContractError(f"task {NAME} has no model {choice.model!r}; it has {MODEL}")
        if unknown := sorted(set(choice.options) - {BINS}):
            raise ContractError(f"task {NAME}: option {unknown[0]!r} is unknown; known: {BINS}")
        for name in choice.columns:
            self.contract.column(name)
        return tuple(column for name, column in self.columns.items() if name in choice.columns)

    def _bins(self, choice: Choice) -> int:
        bins = choice.options.get(BINS, DEFAULT_BINS)
        if bins not in BIN_CHOICES:
            raise ContractError(f"task {NAME}: {BINS} is {bins!r}, possible are {', '.join(map(str, BIN_CHOICES))}")
        return int(bins)


def _tables_of(columns: Sequence[Described]) -> tuple[str, ...]:
    """Tables that the columns are in, in the contract's order."""
    return tuple(name for name in CONTRACT.names if any(column.table == name for column in columns))


TASK: Final = CohortDescription()
