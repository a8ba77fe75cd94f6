"""A run's page with pictures, in a real Chromium: everything in it is shown, nothing lies over anything else, at every width."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from image_plans import plan_of_images
from image_runs import finding_model, run_with

from server.cli import main as lead
from tasks.imaging.results import Segmented, Session
from tasks.imaging.segmentation_scores import ScanScores
from tasks.imaging.segmented_page import segmented_page

from .test_report_page import CONTRAST, CONTRAST_LEAST, DESKTOP, TELEPHONE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

OVER_EACH_OTHER = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text:not([transform])')].map(t => [t.getBoundingClientRect(), t.textContent]);
  return boxes.flatMap(([a, x], i) => boxes.slice(i + 1).filter(([b]) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2).map(([, y]) => x + ' / ' + y));
})"""
OUTSIDE = """() => [...document.querySelectorAll('svg')].flatMap(svg => { const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const box = t.getBoundingClientRect();
    return box.left < whole.left - 1 || box.right > whole.right + 1; }).map(t => t.textContent); })"""
SCANNERS = ("", "Philips Gamma 3T", "GE Delta with a name of many letters 1.5T")
UNSHOWN = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length"
WIDTH = "() => document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_with(tmp_path_factory.mktemp("runs") / "run", model=finding_model(plan_of_images("privacy=none")))
    assert lead(["report", str(run.path)]) == 0
    return run.report


@pytest.fixture(scope="module")
def site_page(tmp_path_factory: pytest.TempPathFactory, run_page: Path) -> Path:
    """Volumes whose limits of agreement lie close to each other."""
    from server.folder import RunFolder
    from server.phantoms import known_trial

    run = RunFolder(run_page.parent)
    trial = known_trial(run, run.plan())
    assert trial is not None
    pictures = trial.sessions[0].found.pictures
    sessions = []
    for at in range(9):
        scores = ScanScores(0.3 + at / 20, 2.0 * at + 1, 2.02 * at + 1, 1.0 * at, (1, 2, 1), (0, 1, 1), 3, 2)
        sessions.append(Session(f"P{at:03d}, day 0", f"P{at:03d}", SCANNERS[at % 3], Segmented(scores, True, pictures)))
    path = tmp_path_factory.mktemp("site") / "segmented.html"
    path.write_text(segmented_page(sessions, model="lesion_seg, run r; epsilon 8", made="Made 2026-01-02"), "utf-8")
    return path


@pytest.mark.parametrize("size", [DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
@pytest.mark.parametrize("which", ["run_page", "site_page"])
def test_pictures_are_shown_and_nothing_lies_over_anything_else(
    which: str, size: dict[str, int], browser: "Browser", request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    page, asked, said = browser.new_page(viewport=size), list[str](), list[str]()  # type: ignore[arg-type]
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: said.append(one.text))
    page.goto(path.as_uri(), wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:image/png")] == [path.as_uri()]
    assert said == []
    assert len(page.query_selector_all("img")) >= 9
    assert page.evaluate(UNSHOWN) == 0
    assert page.evaluate(OVER_EACH_OTHER) == []
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(WIDTH) <= size["width"]
    assert [words for ratio, words in page.evaluate(CONTRAST) if ratio < CONTRAST_LEAST] == []
    page.close()


def test_the_section_can_be_reached_and_says_that_heads_are_invented(browser: "Browser", run_page: Path) -> None:
    page = browser.new_page(viewport=DESKTOP)  # type: ignore[arg-type]
    page.goto(f"{run_page.as_uri()}#phantoms")
    assert page.locator("#phantoms").is_visible()
    shown = page.locator("main").inner_text()
    assert "no clinical evidence" in shown
    assert "No picture of a patient is in this page" in shown
    assert page.locator(".slices figure").count() == 16
    page.close()
