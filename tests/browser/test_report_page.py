"""The audit report in a real Chromium: it asks nobody for anything, is readable at every width, and prints whole."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import LONG, LONG_ROUNDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from pypdf import PdfReader

pytestmark = pytest.mark.browser

DESKTOP, TELEPHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
CONTRAST_LEAST = 4.5  # WCAG 2.2, success criterion 1.4.3, level AA
CONTRAST = """() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = rgb => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const numbers = css => css.match(/[0-9.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const own = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll('main *')].filter(own).filter(e => e.tagName !== 'title').map(e => {
    const style = getComputedStyle(e), ink = numbers(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.tagName + ': ' + e.textContent.slice(0, 40)]; });
}"""


@dataclass
class Seen:
    page: "Page"
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(params=[DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
def seen(request: pytest.FixtureRequest, browser: "Browser", report: Path) -> Iterator[Seen]:
    page = browser.new_page(viewport=request.param)
    found = Seen(page)
    page.on("request", lambda asked: found.requests.append(asked.url))
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.goto(report.as_uri(), wait_until="networkidle")
    yield found
    page.close()


def test_the_page_loads_nothing_but_itself_and_says_no_error(seen: Seen, report: Path) -> None:
    assert seen.requests == [report.as_uri()]
    assert seen.messages == []


def test_verdict_and_key_figures_are_on_the_first_screen_of_a_desktop(browser: "Browser", report: Path) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(report.as_uri())
    for words in ("a run that the coordinator does not show", "highest epsilon charged", "highest epsilon if exposed"):
        box = page.get_by_text(words).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= DESKTOP["height"], words
    page.close()


def test_nothing_is_wider_than_the_screen(seen: Seen) -> None:
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    hidden = (
        "[...document.querySelectorAll('p, h1, h2, h3, li, pre, figure')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert seen.page.evaluate(hidden) == 0


def test_every_chart_has_a_size_and_a_text_alternative(seen: Seen) -> None:
    charts = seen.page.locator("svg[role=img]")
    assert charts.count() == 4
    for chart in charts.all():
        box = chart.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 100
        assert "releases" in (chart.get_attribute("aria-label") or "")


def test_long_round_tables_are_folded_until_they_are_asked_for(seen: Seen) -> None:
    folded = seen.page.locator("details", has_text=f"All {LONG_ROUNDS} rounds of {LONG}")
    last = folded.locator("tbody tr").last
    assert not last.is_visible()
    folded.locator("summary").click()
    assert last.is_visible()


def test_every_text_has_enough_contrast(seen: Seen) -> None:
    low = [what for what in seen.page.evaluate(CONTRAST) if what[0] < CONTRAST_LEAST]
    assert low == []


def test_the_contents_lead_to_their_sections(seen: Seen) -> None:
    for link in seen.page.locator("nav a").all():
        target = link.get_attribute("href") or ""
        assert seen.page.locator(target).count() == 1, target


@pytest.fixture(scope="module")
def printed(browser: "Browser", report: Path) -> "PdfReader":
    from pypdf import PdfReader

    page = browser.new_page()
    page.goto(report.as_uri())
    data = page.pdf(prefer_css_page_size=True, print_background=True)
    page.close()
    return PdfReader(io.BytesIO(data))


def test_it_prints_on_a4_with_every_round_in_it(printed: "PdfReader") -> None:
    size = printed.pages[0].mediabox
    assert (round(float(size.width)), round(float(size.height))) == (595, 842)
    text = "\n".join(page.extract_text() for page in printed.pages)
    assert len(printed.pages) >= 8
    assert "9. How to check this page yourself" in text
    rows = {line.split()[0] for line in text.splitlines() if " train " in f" {line} " and line.split()[0].isdigit()}
    assert {str(number) for number in range(1, LONG_ROUNDS + 1)} <= rows


def test_no_table_is_cut_at_the_papers_edge(browser: "Browser", report: Path) -> None:
    page = browser.new_page(viewport={"width": 688, "height": 1000})  # what A4 leaves between the margins, at 96 dots an inch
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    wide = page.evaluate("[...document.querySelectorAll('table')].filter(t => t.scrollWidth > 688).map(t => t.caption.textContent)")
    assert wide == []
    page.close()


def test_a_table_that_goes_on_repeats_its_heads_on_every_page(printed: "PdfReader") -> None:
    inside = [page.extract_text() for page in printed.pages if page.extract_text().count(" train ") > 30]
    assert len(inside) >= 3
    assert all("purpose" in text and "model sent" in text for text in inside)
