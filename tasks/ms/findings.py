"""What validation found, for people and programs: table, row, key, column, rule and remedy, and never what a cell holds.

The report names patients by the hospital's own pseudonyms: it is a local file. `shareable` is what is left when
everything about single patients is gone, small counts included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.ms.rules import SEVERITIES, Rule, Severity

FORMAT: Final = "wardround/data-report"
SUMMARY: Final = "wardround/data-summary"
FORMAT_VERSION: Final = 1
LOCAL: Final = "This report names patients by the hospital's own pseudonyms. It is a local file: it does not leave the hospital."
DISCLOSURE_FLOOR: Final = 10
FEW: Final = f"fewer than {DISCLOSURE_FLOOR}, or none"
NEARLY_ALL: Final = f"all but fewer than {DISCLOSURE_FLOOR}, or all"
ROWS_SHOWN: Final = 5  # in the terminal; the page and the JSON form have more
Json = dict[str, object]


@dataclass(frozen=True)
class Finding:
    """One rule that one column of a table breaks, and where. `rows` is empty if the whole file is concerned."""

    table: str
    rule: Rule
    column: str
    demand: str  # what the contract asks of this very column; never what a cell holds
    rows: tuple[int, ...] = ()  # row numbers, header = 1
    keys: tuple[str, ...] = ()  # of each row; a part that is itself wrong is "?"

    @property
    def severity(self) -> Severity:
        """error, warning or note."""
        return self.rule.severity

    @property
    def about_file(self) -> bool:
        """Whether no single row is meant."""
        return not self.rows


@dataclass(frozen=True)
class Filled:
    """How complete one column is in the accepted rows."""

    column: str
    filled: int
    explained: int  # empty, and the row says why
    empty: int  # empty without a word

    @property
    def rows(self) -> int:
        """All rows that were counted."""
        return self.filled + self.explained + self.empty


@dataclass(frozen=True)
class TableReport:
    """What became of one table. `accepted` + `quarantined` + `held` + `blank` = `read`, unless the file was refused."""

    table: str
    file: str
    read: int
    accepted: int
    quarantined: int
    held: int  # right in themselves, waiting for their patient's own row
    blank: int
    refused: bool  # the file as a whole cannot be used
    columns: tuple[Filled, ...] = ()


@dataclass(frozen=True)
class ContractReport:
    """The page a data manager works through."""

    contract_version: int
    site: str  # as the manifest names it, or ""
    tables: tuple[TableReport, ...]
    absent: tuple[str, ...]  # tables that the site does not have
    findings: tuple[Finding, ...]
    eligible: int | None  # patients with enough EDSS scores; None without patients or visits
    quarantine: str = ""  # folder, if anything was written there

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def quarantined(self) -> int:
        """Rows in quarantine, in all tables."""
        return sum(table.quarantined for table in self.tables)

    @property
    def file_errors(self) -> int:
        """Errors about whole files, which no leave to quarantine rows excuses."""
        return sum(finding.about_file for finding in self.of("error"))

    def passed(self, *, allow_quarantine: bool) -> bool:
        """Whether the tables may be used as they are; with leave, without the rows in quarantine."""
        return not self.file_errors and (allow_quarantine or not self.quarantined)

    def to_dict(self) -> Json:
        """The whole report for programs."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "contract_version": self.contract_version,
            "site": self.site,
            "local": LOCAL,
            "rows_quarantined": self.quarantined,
            "file_errors": self.file_errors,
            "quarantine": self.quarantine,
            "absent": list(self.absent),
            "patients_eligible_for_labels": self.eligible,
            "tables": [_table_dict(table) for table in self.tables],
            "findings": [_finding_dict(finding) for finding in self.findings],
        }

    def shareable(self) -> Json:
        """Counts alone, for a steward who decides to hand them on: below 10 and zero look alike, and no row is named."""
        return {
            "format": SUMMARY,
            "format_version": FORMAT_VERSION,
            "contract_version": self.contract_version,
            "note": f"no count below {DISCLOSURE_FLOOR} is shown, and none can be subtracted; there is no noise in these counts",
            "tables": [_shared_table(table) for table in self.tables],
        }

    def to_text(self) -> str:
        """The report for a terminal."""
        return "\n".join([*_head(self), "", *map(_table_line, self.tables), "", *_finding_lines(self), "", *_foot(self)]) + "\n"


def _table_dict(table: TableReport) -> Json:
    return vars(table) | {"columns": [vars(column) | {} for column in table.columns]}


def _finding_dict(finding: Finding) -> Json:
    return {
        "table": finding.table,
        "column": finding.column,
        "rule": finding.rule.name,
        "severity": finding.severity,
        "says": finding.rule.sentence,
        "demand": finding.demand,
        "remedy": finding.rule.remedy,
        "count": len(finding.rows),
        "rows": [{"row": row, "key": key} for row, key in zip(finding.rows, finding.keys, strict=True)],
    }


def _shared_table(table: TableReport) -> Json:
    columns = {column.column: _shared_count(column.filled, column.rows) for column in table.columns}
    return {"table": table.table, "accepted": table.accepted if table.accepted >= DISCLOSURE_FLOOR else FEW, "filled": columns}


def _shared_count(count: int, of: int) -> int | str:
    """`count`, unless it or what it leaves of the whole is small: the whole is shown beside it."""
    if count < DISCLOSURE_FLOOR:
        return FEW
    return count if of - count >= DISCLOSURE_FLOOR else NEARLY_ALL


def _head(report: ContractReport) -> Iterable[str]:
    counts = ", ".join(f"{len(report.of(severity))} {severity}s" for severity in SEVERITIES)
    yield f"data contract version {report.contract_version}: {counts}; {report.quarantined} rows in quarantine"
    yield LOCAL


def _table_line(table: TableReport) -> str:
    if table.refused:
        return f"{table.table:<18} REFUSED: {table.file} cannot be used as it is"
    parts = [f"{table.read} rows read", f"{table.accepted} accepted"]
    parts += [f"{table.quarantined} IN QUARANTINE"] if table.quarantined else []
    parts += [f"{table.held} held until their patient's row is right"] if table.held else []
    parts += [f"{table.blank} blank"] if table.blank else []
    return f"{table.table:<18} {', '.join(parts)}"


def _finding_lines(report: ContractReport) -> Iterable[str]:
    for severity in SEVERITIES:
        for finding in report.of(severity):
            where = f"{finding.table}.{finding.column}" if finding.column else finding.table or "folder"
            count = f", {len(finding.rows)} row{'' if len(finding.rows) == 1 else 's'}" if finding.rows else ""
            yield f"{severity.upper():<8} {where}: {finding.rule.name}{count}"
            yield f"         {finding.rule.sentence}{f' Here: {finding.demand}.' if finding.demand else ''}"
            if finding.rows and severity != "note":
                yield f"         {rows_in_words(finding, ROWS_SHOWN)}"
            yield f"         {finding.rule.remedy}"


def rows_in_words(finding: Finding, most: int) -> str:
    """`row 4 (p017, 182); row 9 (p021, 90) and 3 more`."""
    pairs = list(zip(finding.rows, finding.keys, strict=True))
    more = f" and {len(pairs) - most} more" if len(pairs) > most else ""
    return "; ".join(f"row {row} ({key})" for row, key in pairs[:most]) + more


def _foot(report: ContractReport) -> Iterable[str]:
    if report.absent:
        yield f"not here: {', '.join(report.absent)}"
    if report.eligible is not None:
        yield f"patients whose EDSS scores suffice for labels of progression: {report.eligible}"
    if report.quarantine:
        yield f"quarantined rows, with reasons: {report.quarantine}"


def by_table(findings: Sequence[Finding]) -> Mapping[str, list[Finding]]:
    """Findings of each table, worst first."""
    found: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: SEVERITIES.index(each.severity)):
        found.setdefault(finding.table, []).append(finding)
    return found
