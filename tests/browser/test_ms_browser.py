"""Dictionary, validation report and profile in a real Chromium: they ask nobody for anything, fit the screen, and print whole."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dirty_export import make
from ms_tables import Tables

from client.cli import main
from tasks.ms.contract import CONTRACT
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

DESKTOP, TELEPHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
PAPER = {"width": 688, "height": 1000}  # what A4 leaves between the margins, at 96 dots an inch
CUT = (
    "[...document.querySelectorAll('p, h1, h2, h3, h4, li, dd, pre, summary, .bar')]"
    ".filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map(e => e.textContent)"
)


@dataclass
class Seen:
    page: "Page"
    file: Path
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The dictionary, and the report on tables with every kind of finding."""
    folder = tmp_path_factory.mktemp("pages")
    tables = Tables().put("patients", 3, height_cm="210").put("patients", 4, sex="W")
    for row in range(2, 62):
        tables.put("visits", row, edss="" if row % 2 else "0.5").put("biomarkers", row, unit="mg/dL")
    (tables.write(folder / "tables") / "genetics.csv").write_text("patient\n1\n")
    made = {name: folder / f"{name}.html" for name in ("report", "dictionary", "profile", "preview")}
    assert main(["data", "validate", "--folder", str(folder / "tables"), "--html", str(made["report"])]) == 1
    assert main(["data", "dictionary", "--html", str(made["dictionary"])]) == 0
    write(simulate(Preset("one", (SiteSpec("clinic", 60, Schedule.CLINNOVA, language="fr"),)), 4), folder / "invented")
    tables_of = str(folder / "invented" / "sites" / "clinic")
    assert main(["data", "profile", "--folder", tables_of, "--criteria", "clinnova", "--html", str(made["profile"])]) == 0
    mapping = make().write(folder / "export")
    words = [str(mapping), "--from", str(mapping.parent), "--out", str(folder / "out"), "--dry-run"]
    assert main(["--home", str(folder / "home"), "data", "import", *words, "--html", str(made["preview"])]) == 1
    return made


@pytest.fixture(params=["report", "dictionary", "profile"])
def file(request: pytest.FixtureRequest, pages: dict[str, Path]) -> Path:
    return pages[request.param]


@pytest.fixture(params=[DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
def seen(request: pytest.FixtureRequest, browser: "Browser", file: Path) -> Iterator[Seen]:
    page = browser.new_page(viewport=request.param)
    found = Seen(page, file)
    page.on("request", lambda asked: found.requests.append(asked.url))
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.goto(file.as_uri(), wait_until="networkidle")
    yield found
    page.close()


def test_a_page_loads_nothing_but_itself_and_says_no_error(seen: Seen) -> None:
    assert seen.requests == [seen.file.as_uri()]
    assert seen.messages == []


def test_nothing_is_wider_than_the_screen(seen: Seen) -> None:
    assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert seen.page.evaluate(CUT) == []


def test_the_contents_lead_to_their_sections(seen: Seen) -> None:
    links = seen.page.locator("nav a").all()
    assert links
    for link in links:
        assert seen.page.locator(link.get_attribute("href") or "").count() == 1


def test_long_lists_are_folded_until_they_are_asked_for(seen: Seen, pages: dict[str, Path]) -> None:
    if seen.file != pages["report"]:
        assert seen.page.locator("details").count() == 0
        return
    folded = seen.page.locator("details").first
    last = folded.locator("tbody tr").last
    assert not last.is_visible()
    folded.locator("summary").click()
    assert last.is_visible()


def test_verdict_and_warning_to_keep_it_here_are_on_the_first_screen(browser: "Browser", pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(pages["report"].as_uri())
    for words in ("it does not leave the hospital", "The tables need work", "rows in quarantine"):
        box = page.get_by_text(words).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= DESKTOP["height"], words
    page.close()


def test_no_table_is_cut_at_the_papers_edge(browser: "Browser", file: Path) -> None:
    page = browser.new_page(viewport=PAPER)
    page.emulate_media(media="print")
    page.goto(file.as_uri())
    wide = f"[...document.querySelectorAll('table, td, th')].filter(t => t.scrollWidth > {PAPER['width']}).map(t => t.textContent)"
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_the_dictionary_prints_on_a4_with_every_column(browser: "Browser", pages: dict[str, Path]) -> None:
    from pypdf import PdfReader

    page = browser.new_page()
    page.goto(pages["dictionary"].as_uri())
    printed = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True, print_background=True)))
    page.close()
    size = printed.pages[0].mediabox
    assert (round(float(size.width)), round(float(size.height))) == (595, 842)
    text = "".join("".join(each.extract_text().split()) for each in printed.pages)  # a long name may be broken over two lines
    assert not [column.name for table in CONTRACT.tables for column in table.columns if column.name not in text]


def test_the_profile_writes_no_figure_that_a_data_manager_cannot_read(pages: dict[str, Path], browser: "Browser") -> None:
    page = browser.new_page(viewport=DESKTOP)
    page.goto(pages["profile"].as_uri())
    text = page.inner_text("body")
    page.close()
    assert "they stay here" in text
    assert not re.search(r"\de[+-]\d|\bnan\b|(?<![\d.])-0(?![\d.])|\b[01]\.0 \d", text, re.IGNORECASE)


@pytest.mark.parametrize("screen", [DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
def test_an_import_that_is_tried_out_shows_both_sides_on_any_screen(
    pages: dict[str, Path], browser: "Browser", screen: dict[str, int]
) -> None:
    page = browser.new_page(viewport=screen)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages["preview"].as_uri(), wait_until="networkidle")
    assert asked == [pages["preview"].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(CUT) == []
    text = page.inner_text("body").lower()
    assert all(words in text for words in ("for the hospital's own eyes", "before", "after", "ambiguous_date", "unknown_drug"))
    page.close()
