"""The profile of a hospital's tables for people: on the terminal, and as one page to read or print. It stays in the hospital."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from privacy.report_html import Cell, Html, bullets, element, paragraph, table
from tasks.eligibility.flow import Flow
from tasks.ms.pages import cards, contents, page, section
from tasks.ms.profile import LOCAL, ColumnProfile, Five, Profile, TableProfile
from tasks.ms.suspects import Suspect

NONE_FOUND = "No column gives the label away."
CODES_SHOWN = 8


def profile_text(profile: Profile, flow: Flow, found: Sequence[Suspect], label: str) -> str:
    """For a terminal; `label` says in words what the columns were tested against, or why they were not."""
    lines = [LOCAL, "", f"{'table':<18}{'rows':>8}{'patients':>10}{'of all':>8}"]
    lines += [f"{each.name:<18}{each.rows:>8}{each.patients:>10}{_share(each.reached):>8}" for each in profile.tables]
    lines += ["", *(f"{what:<34}{figure}" for what, figure in _density(profile))]
    lines += ["", "patients without any row: " + ", ".join(f"{name} {_share(share)}" for name, share in profile.without.items())]
    scanners = profile.scanners.items()
    lines += [f"scanner|protocol {name}: {scans} scans of {patients} patients" for name, (scans, patients) in scanners]
    lines += ["", flow.to_text().rstrip("\n"), "", f"Columns that tell too much. {label}"]
    lines += [f"  {each.sentence}" for each in found] or [f"  {NONE_FOUND}"]
    return "\n".join(lines) + "\n"


def profile_page(profile: Profile, flow: Flow, found: Sequence[Suspect], label: str, made: str) -> str:
    """The whole page; `made`: when, as people read it."""
    links = [("flow", "Who may be in"), ("seen", "How often patients were seen"), ("tables", "The tables")]
    links += [("suspects", "Columns that tell too much"), ("columns", "Every column")]
    body = [
        element("h1", "What the hospital's tables hold"),
        paragraph(made, class_="sub"),
        paragraph(LOCAL, class_="local"),
        cards([("Patients", f"{profile.patients:,}"), ("Included", f"{flow.included:,}"), ("Columns that tell", str(len(found)))]),
        contents(links),
        section("flow", "Who may be in", _flow(flow)),
        section("seen", "How often patients were seen", *_seen(profile)),
        section("tables", "The tables", _tables(profile)),
        section("suspects", "Columns that tell too much", paragraph(label), _suspects(found)),
        section("columns", "Every column", *(_columns(each) for each in profile.tables)),
    ]
    return page("What the hospital's tables hold", body)


def _flow(flow: Flow) -> Html:
    rows: list[list[Cell]] = [["screened", "", f"{flow.screened:,}", "", ""]]
    rows += [[step.name, step.says, f"{-step.here:,}", f"{step.not_known:,}", f"{step.alone:,}"] for step in flow.steps]
    rows.append(["included", f"by {flow.criteria}", f"{flow.included:,}", "", ""])
    return table(
        "Patients, in the order of the criteria", ["Step", "What it says", "#Patients", "#Not known", "#Concerns in all"], rows
    )


def _seen(profile: Profile) -> Iterator[Html]:
    figures: list[list[Cell]] = [[what, figure] for what, figure in _density(profile)]
    yield table("Lowest, quartiles, highest over patients", ["What", "~Figure"], figures)
    lacking: list[list[Cell]] = [[name, _share(share)] for name, share in profile.without.items()]
    yield table("Patients without any row", ["Kind of data", "#Share"], lacking)
    if profile.scanners:
        rows: list[list[Cell]] = [[name, f"{scans:,}", f"{people:,}"] for name, (scans, people) in profile.scanners.items()]
        yield table("Scanners", ["Scanner|protocol", "#Scans", "#Patients"], rows)


def _tables(profile: Profile) -> Html:
    rows: list[list[Cell]] = [
        [each.name, each.modality, f"{each.rows:,}", f"{each.patients:,}", _share(each.reached)] for each in profile.tables
    ]
    return table("Accepted rows that consent covers", ["Table", "Kind of data", "#Rows", "#Patients", "#Of all patients"], rows)


def _suspects(found: Sequence[Suspect]) -> Html:
    return bullets([each.sentence for each in found]) if found else paragraph(NONE_FOUND)


def _columns(each: TableProfile) -> Html:
    rows: list[list[Cell]] = [
        [column.name, _share(column.filled / each.rows if each.rows else 0.0), _range(column)] for column in each.columns
    ]
    return table(each.name, ["Column", "#Filled", "Lowest, quartiles, highest; or codes"], rows)


def _range(column: ColumnProfile) -> str:
    if column.codes:
        most = sorted(column.codes.items(), key=lambda pair: (-pair[1], pair[0]))
        more = f", {len(most) - CODES_SHOWN} more" if len(most) > CODES_SHOWN else ""
        return ", ".join(f"{code} {count:,}" for code, count in most[:CODES_SHOWN]) + more
    return f"{_figures(column.quantiles)} {column.unit}".strip() if column.quantiles else ""


def _density(profile: Profile) -> list[tuple[str, str]]:
    return [
        ("visits of a patient", _figures(profile.visits_each)),
        ("visits with EDSS of a patient", _figures(profile.edss_each)),
        ("years from first to last visit", _figures(profile.follow_up_years)),
        ("visits a year", _figures(profile.visits_a_year)),
    ]


def _figures(values: Five | None) -> str:
    return " / ".join(_figure(value) for value in values) if values else "nobody"


def _figure(value: float) -> str:
    """Whole from a hundred on, and never as a power of ten."""
    return f"{value:.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
