"""A folder of contract tables, checked: a report without a patient's value, the rows that may be used, and those set aside.

Order: the file, each cell, each row, keys, references, sequences. A cell or row that broke a rule takes no part in later
ones, so that one mistake is one finding. Tables are read one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.ms.cells import Fault, cell_faults, decode, row_faults, without
from tasks.ms.contract import CONTRACT
from tasks.ms.crossing import after_death, sequence_faults, strangers, without_label
from tasks.ms.findings import ContractReport, Filled, Finding, TableReport
from tasks.ms.manifest import Manifest, differences, read_manifest
from tasks.ms.quarantine import SetAside, write_quarantine
from tasks.ms.reading import TextTable, Unreadable, find_tables, read_text_table
from tasks.ms.rows import key_rules, row_rules
from tasks.ms.rules import rule_called
from tasks.ms.schema import Column, DataContract, Table

CODES_SHOWN: Final = 12


@dataclass
class _Loaded:
    """One table on its way: what was read, what it means, and the faults found so far."""

    table: Table
    text: TextTable
    frame: pd.DataFrame
    faults: list[Fault]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Rows without an error, (n_rows,)."""
        right = np.ones(len(self.frame), dtype=bool)
        for fault in self.faults:
            if rule_called(fault.rule).severity == "error":
                right[fault.positions] = False
        return right

    @property
    def right_rows(self) -> pd.DataFrame:
        """Those rows; the index stays the position."""
        return self.frame[self.right]


@dataclass(frozen=True)
class Validated:
    """The report, the rows that may be used, and those that may not."""

    report: ContractReport
    accepted: Mapping[str, pd.DataFrame] = field(repr=False)
    set_aside: Mapping[str, SetAside] = field(repr=False)


def validate_folder(folder: Path, *, quarantine: Path | None = None) -> Validated:
    """Check the tables in `folder`; rows with errors are written to `quarantine`, if it is given.

    `DataError` or `ContractError`: the folder is not readable as contract tables at all.
    """
    manifest = read_manifest(folder)
    contract = CONTRACT.at(manifest.contract_version if manifest else CONTRACT.version)
    files = find_tables(folder, contract)
    loaded, findings = _load(files, contract)
    _cross(loaded)
    findings += _about_folder(manifest, contract, files, loaded)
    validated = _conclude(contract, manifest, files, loaded, findings)
    if quarantine is None:
        return validated
    write_quarantine(quarantine, contract.names, validated.set_aside)
    place = str(quarantine) if validated.set_aside else ""
    return replace(validated, report=replace(validated.report, quarantine=place))


def _load(files: Mapping[str, Sequence[Path]], contract: DataContract) -> tuple[dict[str, _Loaded], list[Finding]]:
    """Every table that can be read, with the faults inside each; what is wrong with whole files."""
    loaded, findings = {}, []
    for name, paths in files.items():
        table = contract.table(name)
        if len(paths) > 1:
            findings.append(_about(name, "two_files", ", ".join(path.name for path in paths)))
            continue
        try:
            text = read_text_table(paths[0], table)
        except Unreadable as error:
            findings.append(_about(name, error.rule, error.detail, ", ".join(error.columns)))
            continue
        loaded[name] = _within(table, text)
        findings += [
            _about(name, "unknown_column", _column_words(text, column)) for column in text.header if column not in table.names
        ]
    return loaded, findings


def _column_words(text: TextTable, column: str) -> str:
    position = text.header.index(column) + 1
    return f"column {position}, {column!r}" if column.isidentifier() else f"column {position}"


def _within(table: Table, text: TextTable) -> _Loaded:
    """Cells first, then rows, then keys; each stage sees only the cells that passed the one before."""
    frame, faults = decode(text, table)
    faults += cell_faults(frame, table, faults)
    frame = without(frame, [fault for fault in faults if rule_called(fault.rule).severity == "error"])
    faults += row_faults(row_rules(frame, table))
    faults += row_faults(key_rules(text, frame, table))
    return _Loaded(table, text, frame, faults)


def _cross(loaded: Mapping[str, _Loaded]) -> None:
    """References, sequences and what follows death; adds to the faults of each table."""
    patients = loaded.get("patients")
    for name, each in loaded.items():
        if patients is not None and name != "patients":
            each.faults += strangers(each.right_rows, frozenset(patients.frame["patient_id"].dropna()))
        each.faults += sequence_faults(each.table, each.right_rows)
        if patients is not None and name != "patients":
            each.faults += after_death(each.table, each.right_rows, patients.right_rows)
    if patients is not None and "visits" in loaded:
        patients.faults += without_label(patients.right_rows, loaded["visits"].right_rows)


def _about(table: str, rule: str, demand: str, column: str = "") -> Finding:
    return Finding(table, rule_called(rule), column, demand)


def _about_folder(
    manifest: Manifest | None, contract: DataContract, files: Mapping[str, Sequence[Path]], loaded: Mapping[str, _Loaded]
) -> list[Finding]:
    found = [] if "patients" in files else [_about("patients", "no_patients", "")]
    if manifest is None:
        return [*found, _about("", "no_manifest", "")]
    single = {name: paths[0] for name, paths in files.items() if len(paths) == 1}
    modalities = {table.name: table.modality for table in contract.tables}
    rows = {name: each.text.rows_read for name, each in loaded.items()}
    return found + [_about(table, "manifest", what) for table, what in differences(manifest, single, rows, modalities)]


def _conclude(
    contract: DataContract,
    manifest: Manifest | None,
    files: Mapping[str, Sequence[Path]],
    loaded: Mapping[str, _Loaded],
    findings: list[Finding],
) -> Validated:
    accepted, set_aside, reports = {}, {}, []
    known = frozenset(loaded["patients"].right_rows["patient_id"]) if "patients" in loaded else None
    for name, paths in files.items():
        if (each := loaded.get(name)) is None:
            reports.append(TableReport(name, paths[0].name, 0, 0, 0, 0, 0, refused=True))
            continue
        findings = [*findings, *_findings(each)]
        rows = each.right_rows
        accepted[name] = rows if known is None else rows[rows["patient_id"].isin(known)]
        if found := _set_aside(each):
            set_aside[name] = found
        reports.append(_table_report(each, accepted[name]))
    report = ContractReport(
        contract_version=contract.version,
        site=manifest.site if manifest else "",
        tables=tuple(reports),
        absent=tuple(name for name in contract.names if name not in files),
        findings=tuple(findings),
        eligible=_eligible(loaded),
    )
    return Validated(report, accepted, set_aside)


def _eligible(loaded: Mapping[str, _Loaded]) -> int | None:
    if "patients" not in loaded or "visits" not in loaded:
        return None
    patients = loaded["patients"]
    return int(patients.right.sum()) - sum(fault.positions.size for fault in patients.faults if fault.rule == "few_edss")


def _findings(each: _Loaded) -> list[Finding]:
    """The faults of one table as row numbers and keys."""
    found = [Finding(each.table.name, rule_called("blank_row"), "", "", each.text.blank, ("",) * len(each.text.blank))]
    malformed = tuple(each.text.malformed)
    found.append(Finding(each.table.name, rule_called("malformed_row"), "", "", malformed, ("?",) * len(malformed)))
    for fault in each.faults:
        rows = tuple(each.text.numbers[position] for position in fault.positions)
        keys = tuple(_key(each, int(position)) for position in fault.positions)
        found.append(Finding(each.table.name, rule_called(fault.rule), fault.column, _demand(each.table, fault), rows, keys))
    return [finding for finding in found if finding.rows]


def _key(each: _Loaded, position: int) -> str:
    """The row's key; a part that broke a rule is not shown."""
    parts = (each.frame[name].iat[position] for name in each.table.key)
    return ", ".join(_part(part) for part in parts)


def _part(value: object) -> str:
    if isinstance(value, float):
        return "?" if np.isnan(value) else f"{value:.0f}"
    return "?" if value is None else str(value)


def _demand(table: Table, fault: Fault) -> str:
    """What the contract asks of this column, in its own public words."""
    if fault.column not in table.names:
        return ""
    column = table.column(fault.column)
    if fault.rule in {"range", "unusual"}:
        return _range_words(column, usual=fault.rule == "unusual")
    if fault.rule == "grid":
        return f"one of {', '.join(f'{value:g}' for value in column.values)}" if column.values else f"steps of {column.step:g}"
    if fault.rule == "vocabulary":
        few = len(column.vocabulary) <= CODES_SHOWN
        return f"one of {', '.join(column.vocabulary)}" if few else ""
    return ""


def _range_words(column: Column, *, usual: bool) -> str:
    if column.limits_by is not None and not column.limits:
        return f"the range depends on {column.limits_by.column}; the data dictionary lists it"
    limits = column.usual if usual else column.limits
    return f"{limits.low:g} to {limits.high:g} {column.unit}".rstrip() if limits else ""


def _set_aside(each: _Loaded) -> SetAside | None:
    """Rows with errors as they were read, each with all its reasons."""
    reasons: dict[int, list[str]] = {}
    for fault in each.faults:
        rule = rule_called(fault.rule)
        if rule.severity == "error":
            for position in fault.positions.tolist():
                reasons.setdefault(position, []).append(f"{fault.column or 'row'}: {rule.name}. {rule.remedy}")
    rows = [(each.text.numbers[at], " | ".join(why), each.text.cells(at)) for at, why in reasons.items()]
    rule = rule_called("malformed_row")
    rows += [(number, f"row: {rule.name}. {rule.remedy}", cells) for number, cells in each.text.malformed.items()]
    return SetAside(each.text.header, sorted(rows)) if rows else None


def _table_report(each: _Loaded, accepted: pd.DataFrame) -> TableReport:
    right = int(each.right.sum())
    return TableReport(
        table=each.table.name,
        file=each.text.file,
        read=each.text.rows_read,
        accepted=len(accepted),
        quarantined=len(each.frame) - right + len(each.text.malformed),
        held=right - len(accepted),
        blank=len(each.text.blank),
        refused=False,
        columns=tuple(_filled(column, accepted) for column in each.table.columns),
    )


def _filled(column: Column, rows: pd.DataFrame) -> Filled:
    empty = rows[column.name].isna()
    explained = int((empty & rows["missing_reason"].notna()).sum()) if column.missing_reason else 0
    return Filled(column.name, int((~empty).sum()), explained, int(empty.sum()) - explained)
