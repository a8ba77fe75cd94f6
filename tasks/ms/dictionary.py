"""The data dictionary: every table, column, code and rule of the contract, as a page for data managers and as JSON.

Both are made from the declarations alone; nothing in them was written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from privacy.report_html import Cell, Html, bullets, code, element, join, paragraph, table, text
from tasks.ms.contract import DRUGS
from tasks.ms.pages import badge, contents, page, section
from tasks.ms.rules import RULES, Rule
from tasks.ms.schema import KIND_WORDS, SEPARATOR, Column, DataContract, Limits, Table

FORMAT: Final = "wardround/data-dictionary"
FORMAT_VERSION: Final = 1
Json = dict[str, object]
CONVENTIONS: Final = (
    "One folder for each hospital. Each table is one file, named like the table: visits.csv or visits.parquet. A hospital "
    "leaves out the tables it does not have; patients must be there.",
    "CSV files are written in UTF-8, with commas between the cells and a point in decimal numbers. The first line holds the names "
    "of the columns, spelt as here, in any order.",
    "Time is counted in whole days from the patient's index date, which is day 0: 182 is half a year later, -30 a month before. No "
    "calendar date is in any table.",
    "patient_id is a pseudonym that the hospital makes up. It stays in the hospital, like every row of these tables.",
    "What is not known is left empty: no 9, no 999, no 'n/a'. missing_reason may say why measurements of the row are empty.",
    "The columns marked key together name a row: no two rows of the table may have the same. Columns marked required must be there "
    "and filled in; all others may be left out or empty.",
    f"Where several codes are allowed in one cell, they are joined by {SEPARATOR}, such as pyramidal{SEPARATOR}sensory.",
)


def dictionary_json(contract: DataContract) -> Json:
    """The dictionary for programs."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "contract_version": contract.version,
        "dated": contract.dated,
        "conventions": list(CONVENTIONS),
        "tables": [_table_json(each) for each in contract.tables],
        "rules": [vars(rule) | {} for rule in RULES if rule.since <= contract.version],
    }


def _table_json(each: Table) -> Json:
    return {
        "table": each.name,
        "title": each.title,
        "description": each.description,
        "modality": each.modality,
        "standard": each.standard,
        "key": list(each.key),
        "since": each.since,
        "columns": [_column_json(column) for column in each.columns],
    }


def _column_json(column: Column) -> Json:
    facts: Json = {
        "column": column.name,
        "kind": column.kind,
        "description": column.description,
        "unit": column.unit,
        "key": column.key,
        "required": not column.nullable,
        "missing_reason": column.missing_reason,
        "source": column.source,
        "since": column.since,
    }
    given: Json = {
        "range": _pair(column.limits),
        "usual": _pair(column.usual),
        "step": column.step,
        "not_values": list(column.without),
        "values": list(column.values),
        "codes": dict(column.vocabulary),
        "pattern": column.text_pattern if column.kind in {"id", "label"} else "",
        "largest_change": column.steady,
    }
    facts |= {name: value for name, value in given.items() if value}
    if (by := column.limits_by) is not None:
        ranges = {which: {"range": _pair(limits), "unit": limits.unit} for which, limits in by.limits.items()}
        facts["range_by"] = {"column": by.column, "only": list(by.only or ()), "unit_column": by.unit_column, "ranges": ranges}
    return facts


def _pair(limits: Limits | None) -> list[float] | None:
    return [limits.low, limits.high] if limits else None


def dictionary_page(contract: DataContract) -> str:
    """The dictionary for people, one HTML file."""
    links = [("read", "How the tables are written"), *((each.name, each.title) for each in contract.tables)]
    links.append(("rules", "The rules that are checked"))
    columns = sum(len(each.columns) for each in contract.tables)
    body = [
        element("h1", "Data dictionary"),
        paragraph(
            f"Wardround data contract version {contract.version} of {contract.dated}: {len(contract.tables)} tables, {columns} "
            "columns. What a hospital's tables must look like before anything is learnt from them.",
            class_="sub",
        ),
        contents(links),
        section("read", "How the tables are written", bullets(CONVENTIONS), _example(), _check_it()),
        *(_table_section(each) for each in contract.tables),
        section("rules", "The rules that are checked", *_rules(contract)),
    ]
    return page(f"Data dictionary, version {contract.version}", body)


def _example() -> Html:
    lines = (
        "patient_id,day,visit_id,visit_type,edss,t25fw_s,sdmt_n,source,missing_reason",
        "p017,0,v1,baseline,2.5,5.1,52,rwd,",
        "p017,182,v2,routine,3,,49,rwd,not_done",
    )
    shown = Html("\n".join(text(line) for line in lines))
    return join([paragraph("So begins a visits.csv with some of its columns:"), element("pre", shown)])


def _check_it() -> Html:
    return paragraph("To check a folder of tables: ", code("wardround-site data validate --folder FOLDER --html report.html"))


def _table_section(each: Table) -> Html:
    rows: list[Sequence[Cell]] = [
        (_name(column), _meaning(column), _kind_words(column), element("div", _allowed(column), class_="allowed"))
        for column in each.columns
    ]
    facts = [
        join([text("File: "), code(f"{each.name}.csv"), text(" or "), code(f"{each.name}.parquet")]),
        join([text("A row is named by: "), code(", ".join(each.key))]),
        text(f"Kind of data in plans and policies: {each.modality}"),
    ]
    facts += [text(f"In other models: {each.standard}")] if each.standard else []
    names = ("column", "what it holds", "how it is written", "what is allowed")
    return section(
        each.name,
        each.title,
        paragraph(each.description),
        bullets(facts),
        table(f"Columns of {each.name}", names, rows, kind="columns"),
    )


def _name(column: Column) -> Html:
    marks = [badge("key", "key")] if column.key else [badge("required")] if not column.nullable else []
    marks += [badge(f"since {column.since}")] if column.since > 1 else []
    return join([code(column.name), *([element("div", join(marks))] if marks else [])])


def _meaning(column: Column) -> Html:
    notes = [f"after {column.source}"] if column.source else []
    notes += ["if empty, missing_reason may say why"] if column.missing_reason else []
    return join([text(column.description), *([element("div", "; ".join(notes), class_="note")] if notes else [])])


def _kind_words(column: Column) -> Cell:
    words = KIND_WORDS[column.kind]
    return f"{words} ({column.unit})" if column.unit and column.kind != "day" else words


def _allowed(column: Column) -> Html:
    parts: list[Html] = []
    if column.values:
        parts.append(text(", ".join(f"{value:g}" for value in column.values)))
    if column.limits and column.kind != "flag":
        parts.append(text(f"{_range(column.limits)}{_grid(column)}"))
    if column.usual:
        parts.append(element("div", f"a warning outside {_range(column.usual)}", class_="note"))
    if column.steady:
        words = f"a warning if it differs by more than {column.steady:.0%} from the scan before on the same scanner"
        parts.append(element("div", words, class_="note"))
    if column.limits_by:
        parts.append(_ranges_by(column))
    if column.vocabulary:
        parts.append(_codes(column))
    if column.pattern:
        parts.append(join([text("written like "), code(column.pattern)]))
    return join(parts)


def _codes(column: Column) -> Html:
    told = {which: _told(which, meaning, drug=column.name == "drug") for which, meaning in column.vocabulary.items()}
    if any(told.values()):
        return bullets(join([code(which), text(words)]) for which, words in told.items())
    return Html(", ".join(code(which) for which in told))


def _told(which: str, meaning: str, *, drug: bool) -> str:
    """The meaning of a code, unless the code says it; of a drug also the classes."""
    classes = f" ({' or '.join(DRUGS[which][1])})" if drug and DRUGS[which][1] else ""
    return classes if meaning.lower() == which.replace("_", " ").lower() else f" {meaning}{classes}"


def _range(limits: Limits) -> str:
    return f"{_figure(limits.low)} to {_figure(limits.high)}"


def _figure(value: float) -> str:
    """Years and days without a comma, what is longer with."""
    return f"{value:g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _grid(column: Column) -> str:
    words = f" in steps of {column.step:g}" if column.step else ""
    return words + (f", but never {', '.join(f'{value:g}' for value in column.without)}" if column.without else "")


def _ranges_by(column: Column) -> Html:
    by = column.limits_by
    if by is None:
        return text("")
    only = f", in rows whose {by.only[0]} is {by.only[1]}" if by.only else ""
    lines = (join([code(which), text(f" {_range(limits)} {limits.unit}".rstrip())]) for which, limits in by.limits.items())
    return join([element("div", f"depends on {by.column}{only}:", class_="note"), bullets(lines)])


def _rules(contract: DataContract) -> tuple[Html, ...]:
    said = (
        "An error puts the row into quarantine: it is written to a separate file with the reason and is not used until it is "
        "right. A warning leaves the row in and asks somebody to look. A note only informs."
    )
    rows: list[Sequence[Cell]] = [_rule_row(rule) for rule in RULES if rule.since <= contract.version]
    return paragraph(said), table("All rules", ("rule", "if broken", "what it says", "what to do"), rows, kind="rules")


def _rule_row(rule: Rule) -> Sequence[Cell]:
    return code(rule.name), rule.severity, rule.sentence, rule.remedy
