"""The check of the images as a part of the page that the hospital's data manager reads, or as a page of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from privacy.report_html import Cell, Html, code, element, join, paragraph, table, text
from tasks.imaging.layout import Finding
from tasks.imaging.report import ImageReport, number
from tasks.ms.findings import LOCAL
from tasks.ms.pages import cards, page
from tasks.ms.report_page import TAGS
from tasks.ms.rules import SEVERITIES, Rule, Severity

OPEN: Final = 10  # shown at once; more are folded
MOST: Final = 200  # on the page; the JSON form has all
TITLE: Final = "The images"


def image_part(report: ImageReport) -> Html:
    """Verdict, figures and findings, to stand under a heading."""
    passed = report.passed(allow_quarantine=False)
    said = "All images can be used." if passed else "Some images cannot be used; the others can."
    if not report.passed(allow_quarantine=True):
        said = "Two patients share an image: find out whose it is before any of them is used."
    return join(
        [
            element("div", paragraph(element("b", said)), class_="verdict good" if passed else "verdict bad"),
            cards(_figures(report)),
            _scanners(report),
            *(() if report.voxels_read else [paragraph("Headers alone were read: damage, empty images and copies are not told.")]),
            *(_found(severity, rule, found) for severity in SEVERITIES for rule, found in report.grouped(severity).items()),
        ]
    )


def image_page(report: ImageReport, made: str) -> str:
    """A page for a folder of images without tables; `made`: when, as people read it."""
    body = [element("h1", "Check of the hospital's images"), paragraph(made, class_="sub"), paragraph(LOCAL, class_="local")]
    return page("Check of the hospital's images", [*body, image_part(report)])


def _figures(report: ImageReport) -> list[tuple[str, str]]:
    figures = [("patients", f"{report.patients:,}"), ("sessions", f"{report.sessions:,}")]
    figures += [(role, f"{count:,}") for role, count in report.images.items()]
    figures.append(("lesion masks", f"{report.masks:,}"))
    return [*figures, ("masks of change", f"{report.changes:,}")] if report.changes else figures


def _scanners(report: ImageReport) -> Html:
    rows: list[Sequence[Cell]] = [(name or "not said", f"{count:,}") for name, count in report.scanners.items()]
    return table("Sessions by scanner", ("scanner", "#sessions"), rows, kind="small") if rows else text("")


def _found(severity: Severity, rule: Rule, found: Sequence[Finding]) -> Html:
    parts = [
        element("h4", join([TAGS[severity], text(f" {number(len(found), 'time')} "), code(rule.name)])),
        paragraph(element("b", "Rule: "), rule.sentence),
        paragraph(element("b", "What to do: "), rule.remedy),
        _where(severity, found),
    ]
    return element("div", join(parts), class_="finding" if severity == "note" else f"finding {severity}")


def _where(severity: Severity, found: Sequence[Finding]) -> Html:
    rows: list[Sequence[Cell]] = [(each.place or "the folder", each.found or "-") for each in found[:MOST]]
    shown = table("Where, and what was found", ("place", "found"), rows, kind="small rows")
    if len(found) > MOST:
        shown = join([shown, paragraph(f"And {len(found) - MOST:,} more: the JSON form of this report lists all.", class_="note")])
    if len(found) <= OPEN and (severity != "note" or len(found) == 1):
        return shown
    return element("details", join([element("summary", f"Show {len(rows):,}"), shown]))
