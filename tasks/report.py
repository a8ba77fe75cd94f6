"""What happened to a hospital's table on its way into the contract: every row and value that was not used as it stood.

Rows are numbered as a spreadsheet shows them (header = row 1). No cell content appears, so that the page can be
passed on inside the hospital. It never leaves it: counts of patients are in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["row excluded", "value set missing"]
ROWS_SHOWN = 20  # in the page for people; the JSON form lists all


@dataclass(frozen=True)
class Finding:
    """One rule that rows of the table broke, and what was done about it."""

    rule: str
    column: str  # contract column, "label", "patient id" or "row"
    source: str  # the hospital's own column, "" if the rule concerns the whole row
    action: Action
    rows: tuple[int, ...]
    remedy: str

    @property
    def count(self) -> int:
        """Rows concerned."""
        return len(self.rows)


@dataclass(frozen=True)
class ColumnSummary:
    """How complete one contract column is among the patients kept."""

    column: str
    source: str  # "" if the hospital has no such column
    present: int
    missing: int


@dataclass(frozen=True)
class DataReport:
    """The page a data steward reads before approving anything."""

    task: str
    version: str
    table: str
    rows_read: int
    patients: int
    label: str
    label_counts: tuple[int, int]  # patients with label 0, label 1
    columns: tuple[ColumnSummary, ...]
    findings: tuple[Finding, ...]
    not_read: tuple[str, ...]  # source columns that no rule of the mapping reads
    withheld: tuple[tuple[str, str], ...]  # source columns named in `ignored` or `leaks`, with the reason
    suspects: tuple[str, ...]  # unread source columns that alone give the label away and are not listed as leaks
    leak_check: str  # what the data-driven check could do

    @property
    def rows_excluded(self) -> int:
        """Rows of the table that are no patient of the cohort."""
        return self.rows_read - self.patients

    @property
    def values_set_missing(self) -> int:
        """Values that broke a rule and count as missing."""
        return sum(finding.count for finding in self.findings if finding.action == "value set missing")

    def to_dict(self) -> dict[str, object]:
        """The report for `--json`: lists, strings and integers only."""
        return {
            "task": self.task,
            "version": self.version,
            "table": self.table,
            "rows_read": self.rows_read,
            "rows_excluded": self.rows_excluded,
            "patients": self.patients,
            "label": {"name": self.label, "0": self.label_counts[0], "1": self.label_counts[1]},
            "columns": [vars(column) | {} for column in self.columns],
            "findings": [_finding_dict(finding) for finding in self.findings],
            "not_read": list(self.not_read),
            "withheld": [{"column": column, "reason": reason} for column, reason in self.withheld],
            "suspects": list(self.suspects),
            "leak_check": self.leak_check,
        }

    def to_text(self) -> str:
        """The report as a page of plain text."""
        zeros, ones = self.label_counts
        lines = [
            f"{self.table}: {self.rows_read} rows read for task {self.task} version {self.version}",
            f"{self.patients} patients kept ({self.label}: {ones} yes, {zeros} no); "
            f"{self.rows_excluded} rows excluded; {self.values_set_missing} values set missing",
            "",
            *(_column_line(column) for column in self.columns),
            "",
            *(_finding_line(finding) for finding in self.findings),
        ]
        lines += [f"withheld  {column}: {reason}" for column, reason in self.withheld]
        if self.not_read:
            lines.append(f"not read  {', '.join(self.not_read)}")
        lines += [f"SUSPECT   {column}: alone it gives the label away; never map it" for column in self.suspects]
        lines.append(f"leak check: {self.leak_check}")
        return "\n".join(lines) + "\n"


def _finding_dict(finding: Finding) -> dict[str, object]:
    return {
        "rule": finding.rule,
        "column": finding.column,
        "source": finding.source,
        "action": finding.action,
        "count": finding.count,
        "rows": list(finding.rows),
        "remedy": finding.remedy,
    }


def _column_line(column: ColumnSummary) -> str:
    source = f"from {column.source!r}" if column.source else "not recorded here"
    return f"column    {column.column}: {column.present} present, {column.missing} missing, {source}"


def _finding_line(finding: Finding) -> str:
    where = f"{finding.column} ({finding.source})" if finding.source else finding.column
    return f"{finding.action}  {where}: {finding.rule}; {rows_in_words(finding.rows)}. {finding.remedy}"


def rows_in_words(rows: Sequence[int]) -> str:
    """`3 rows: 4, 9, 12`, shortened after `ROWS_SHOWN`."""
    shown = ", ".join(str(row) for row in rows[:ROWS_SHOWN])
    more = f" and {len(rows) - ROWS_SHOWN} more" if len(rows) > ROWS_SHOWN else ""
    return f"{len(rows)} row{'' if len(rows) == 1 else 's'}: {shown}{more}"
