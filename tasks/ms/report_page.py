"""The validation report as one HTML page for the hospital's data manager: what to correct, where, and why. It stays there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from privacy.report_html import Cell, Html, bullets, code, element, join, paragraph, table, tag, text
from tasks.ms.findings import LOCAL, ContractReport, Filled, Finding, TableReport, by_table
from tasks.ms.pages import cards, contents, page, section
from tasks.ms.rules import Severity

ROWS_OPEN: Final = 10  # shown at once; more are folded
ROWS_MOST: Final = 200  # on the page; the JSON form has all, the quarantine every row
TAGS: Final[dict[Severity, Html]] = {
    "error": tag("Error", "bad"),
    "warning": tag("Warning", "mind"),
    "note": element("span", "Note", class_="tag"),
}


def report_page(report: ContractReport, made: str, more: Sequence[tuple[str, str, Html]] = ()) -> str:
    """The whole page; `made`: when, as people read it; `more`: sections that follow, each with anchor and title."""
    grouped = by_table(report.findings)
    links = [("tables", "What became of each table"), ("findings", "What was found")]
    complete = any(each.columns for each in report.tables)
    links += [("complete", "How complete the tables are")] if complete else []
    links += [(anchor, title) for anchor, title, _ in more]
    body = [
        element("h1", "Check of the hospital's tables"),
        paragraph(f"Data contract version {report.contract_version}{_site(report)}, {made}", class_="sub"),
        paragraph(LOCAL, class_="local"),
        _verdict(report),
        cards(_figures(report)),
        contents(links),
        section("tables", "What became of each table", _tables(report)),
        section("findings", "What was found", *(_found(name, found) for name, found in grouped.items()), *_nothing(grouped)),
    ]
    if complete:
        body.append(section("complete", "How complete the tables are", *_complete(report)))
    body += [section(anchor, title, part) for anchor, title, part in more]
    return page("Check of the hospital's tables", body)


def _site(report: ContractReport) -> str:
    return f", site {report.site}" if report.site else ""


def _verdict(report: ContractReport) -> Html:
    passed = report.passed(allow_quarantine=False)
    steps: list[Cell] = []
    if report.file_errors:
        steps.append(
            f"{_number(report.file_errors, 'problem')} with whole files: correct these first, nothing else is sure before."
        )
    if report.quarantined:
        steps.append(
            f"{_number(report.quarantined, 'row')} in quarantine: they are not used. Correct them where they come from, export the "
            "tables again and run the check again. The quarantine's files say for each row why it is there."
        )
    if warnings := len(report.of("warning")):
        steps.append(f"{_number(warnings, 'warning')}: these rows are used as they are. Look whether they are right.")
    if report.quarantine:
        steps.append(join([text("The quarantine is in "), code(report.quarantine)]))
    title = "The tables can be used" if passed else "The tables need work"
    inside = [element("h2", title), bullets(steps) if steps else paragraph("Nothing was found that needs anybody.")]
    return element("div", join(inside), class_="verdict good" if passed else "verdict bad")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _figures(report: ContractReport) -> list[tuple[str, str]]:
    figures = [
        ("rows read", f"{sum(each.read for each in report.tables):,}"),
        ("rows accepted", f"{sum(each.accepted for each in report.tables):,}"),
        ("rows in quarantine", f"{report.quarantined:,}"),
        ("rows with a warning", f"{sum(len(finding.rows) for finding in report.of('warning')):,}"),
    ]
    if report.eligible is not None:
        figures.append(("patients with enough EDSS scores", f"{report.eligible:,}"))
    return figures


def _tables(report: ContractReport) -> Html:
    names = ("table", "file", "#rows read", "#accepted", "#in quarantine", "#held", "#blank")
    rows = [_table_row(each) for each in report.tables]
    parts = [table("Rows of each table", names, rows)]
    if any(each.held for each in report.tables):
        said = (
            "Held: the row is right, but its patient's own row in patients is in quarantine. It comes back once that is corrected."
        )
        parts.append(paragraph(said, class_="note"))
    if report.absent:
        parts.append(paragraph(f"Not in the folder: {', '.join(report.absent)}.", class_="note"))
    return join(parts)


def _table_row(each: TableReport) -> Sequence[Cell]:
    if each.refused:
        return (each.table, join([code(each.file), text(" "), tag("refused", "bad")]), *("-",) * 5)
    counts = (each.read, each.accepted, each.quarantined, each.held, each.blank)
    return (each.table, code(each.file), *(f"{count:,}" for count in counts))


def _nothing(grouped: object) -> Sequence[Html]:
    return () if grouped else (paragraph("Nothing."),)


def _found(name: str, found: Sequence[Finding]) -> Html:
    return join([element("h3", name or "The folder", class_="place"), *(_finding(finding) for finding in found)])


def _finding(finding: Finding) -> Html:
    count = f": {_number(len(finding.rows), 'row')}" if finding.rows else ""
    where = f" {finding.column}" if finding.column else ""
    title = join([TAGS[finding.severity], text(f"{where}{count} "), code(finding.rule.name)])
    parts = [
        element("h4", title),
        paragraph(element("b", "Rule: "), finding.rule.sentence, f" Here: {finding.demand}." if finding.demand else ""),
        paragraph(element("b", "What to do: "), finding.rule.remedy),
    ]
    if finding.rows:
        parts.append(_where(finding))
    return element("div", join(parts), class_="finding" if finding.severity == "note" else f"finding {finding.severity}")


def _where(finding: Finding) -> Html:
    pairs = list(zip(finding.rows, finding.keys, strict=True))[:ROWS_MOST]
    rows: list[Sequence[Cell]] = [(str(row), key or "-") for row, key in pairs]
    shown = table("Where: row of the file, and its key", ("~row", "key"), rows, kind="small rows")
    if len(finding.rows) > ROWS_MOST:
        shown = join(
            [
                shown,
                paragraph(f"And {len(finding.rows) - ROWS_MOST:,} more: the JSON form of this report lists all.", class_="note"),
            ]
        )
    if len(finding.rows) <= ROWS_OPEN and finding.severity != "note":
        return shown
    return element("details", join([element("summary", f"Show {_number(len(rows), 'row')}"), shown]))


def _complete(report: ContractReport) -> Sequence[Html]:
    said = "Counted in the accepted rows. Explained: empty, and the row's missing_reason says why."
    return [paragraph(said), *(_complete_table(each) for each in report.tables if each.columns and each.accepted)]


def _complete_table(each: TableReport) -> Html:
    names = ("column", "~filled in", "#filled in", "#explained", "#empty")
    rows: list[Sequence[Cell]] = [
        (code(column.column), _bar(column), f"{column.filled:,}", f"{column.explained:,}", f"{column.empty:,}")
        for column in each.columns
    ]
    inside = table(f"{each.table}: {_number(each.accepted, 'row')}", names, rows)
    return element(
        "details", join([element("summary", f"{each.table}: {_share(each.columns)} of all cells are filled in"), inside])
    )


def _share(columns: Sequence[Filled]) -> str:
    return f"{100 * sum(column.filled for column in columns) / max(1, sum(column.rows for column in columns)):.0f} %"


def _bar(column: Filled) -> Html:
    percent = f"{100 * column.filled / max(1, column.rows):.0f}"
    return join([element("span", element("i", "", style=f"width:{percent}%"), class_="bar"), text(f"{percent} %")])
