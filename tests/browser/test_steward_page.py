"""The steward's page in a real Chromium, served by the real command: read, decide, see budget and record; all on loopback."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from client.plans import PlanStore
from tasks.cis_conversion.synthetic import write_hospitals

from ..client.guards_in_process import ENDLESS, PATIENTS, SITES, Consortium, make_consortium
from .test_report_page import CONTRAST, CONTRAST_LEAST, DESKTOP, TELEPHONE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SITE = SITES[0]
WAITING = ENDLESS.replace("auto_approve: true", "auto_approve: false")
PAGES = ("/", "/plans", "/budget", "/left", "/left/finished-study")


@dataclass
class Served:
    """The command, its link, and everything that a browser asked for or complained about."""

    consortium: Consortium
    process: subprocess.Popen[str]
    link: str
    page: "Page"
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        return self.link.partition("/enter")[0]

    def listed(self) -> str:
        """What `wardround-site plans list` says now."""
        command = [sys.executable, "-m", "client.cli", "--home", str(self.consortium.folder / SITE), "--json", "plans", "list"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """A finished study, an approved plan, and two new plans that wait."""
    hospitals, folder = tmp_path_factory.mktemp("hospitals"), tmp_path_factory.mktemp("sites")
    write_hospitals(hospitals, len(SITES), PATIENTS, 7)
    found = make_consortium(folder, hospitals)
    first = found.run(found.plan(run_id="finished-study"))
    epoch = first.epoch()
    for number in (1, 2, 3):
        first.round(epoch, number)
    found.policy(WAITING)
    for day, run_id in enumerate(("relapse-2027", "second-2027"), 1):
        plan = found.plan(run_id=run_id, created=f"2026-11-2{day}T10:00:00Z")
        waiting = found.run(replace(plan, schedule=replace(plan.schedule, local_steps=3)))
        waiting.ask_keys()
    found.restart(SITE)
    for site in list(found.opened):
        found.stop(site)
    return found


@pytest.fixture(params=[DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
def served(request: pytest.FixtureRequest, browser: "Browser", consortium: Consortium) -> Iterator[Served]:
    command = [sys.executable, "-m", "client.cli", "--home", str(consortium.folder / SITE), "ui", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    context = browser.new_context(viewport=request.param, timezone_id="UTC")
    page = context.new_page()
    made = Served(consortium, process, found[0], page)
    page.on("request", lambda asked: made.requests.append(asked.url))
    page.on("console", lambda message: made.messages.append(message.text))
    page.on("pageerror", lambda error: made.messages.append(str(error)))
    page.goto(made.link)
    yield made
    context.close()
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    assert process.poll() == 0, "Ctrl-C ends it, and that is no error"
    assert not list((consortium.folder / SITE / "log").glob("open-page-*"))


def screenshot(served: Served, name: str) -> None:
    """Kept where a person wants to look at it."""
    if folder := os.environ.get("WARDROUND_SCREENSHOTS"):
        width = served.page.viewport_size
        served.page.screenshot(path=Path(folder) / f"{name}-{width['width'] if width else 0}.png", full_page=True)


def test_every_page_stays_on_loopback_fits_the_screen_and_can_be_read(served: Served) -> None:
    served.page.get_by_role("link", name="Plans", exact=True).click()
    plan = served.page.get_by_role("link", name="relapse-2027").get_attribute("href")
    assert plan
    for path in (*PAGES, plan):
        served.page.goto(served.base + path)
        screenshot(served, path.strip("/").replace("/", "-")[:30] or "overview")
        assert served.page.locator("h1").count() == 1
        assert served.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert [what for what in served.page.evaluate(CONTRAST) if what[0] < CONTRAST_LEAST] == []
        unnamed = "[...document.querySelectorAll('input:not([type=hidden])')].filter(e => !e.labels.length).length"
        assert served.page.evaluate(unnamed) == 0, "every field has its label"
    hosts = {urlsplit(url).hostname for url in served.requests if not url.startswith("data:")}
    assert hosts == {"127.0.0.1"}
    assert served.messages == []


def test_a_steward_reads_approves_and_refuses_and_the_commands_see_it(served: Served) -> None:
    page, home = served.page, served.consortium.home(SITE)
    for path in home.plans.glob("*.approval"):
        path.unlink()  # as it was before another width decided
    page.goto(served.base)
    page.get_by_role("link", name="relapse-2027").first.click()
    text = page.inner_text("main")
    for words in ("This plan waits for your decision", "lead-a", "epsilon", "What would leave this hospital", "masked"):
        assert words in text
    page.get_by_role("button", name="Approve", exact=True).click()
    assert "Approved. It holds from the next message" in page.inner_text("main")
    screenshot(served, "approved")
    assert re.search(r'"decision": "approve"[^}]*"run": "relapse-2027"', served.listed())
    page.get_by_role("link", name="Plans", exact=True).click()
    page.get_by_role("link", name="second-2027").click()
    page.get_by_role("button", name="Refuse", exact=True).click()  # without a reason: the browser says so and sends nothing
    assert "waits for your decision" in page.inner_text("main")
    page.get_by_label("Why (one sentence").fill("the board meets in January")
    page.get_by_role("button", name="Refuse", exact=True).click()
    assert "the board meets in January" in page.inner_text("main")
    assert re.search(r'"decision": "refuse"[^}]*"run": "second-2027"', served.listed())
    store = PlanStore(home.plans, SITE, home.load_identity().public)
    assert {known.plan.run_id: made.decision for known in store.all() if (made := store.decision(known.digest))} == {
        "relapse-2027": "approve",
        "second-2027": "refuse",
    }
    assert served.messages == []


def test_budget_and_record_are_those_of_ledger_and_manifest(served: Served) -> None:
    page = served.page
    page.goto(f"{served.base}/budget")
    assert page.locator("svg[role=img]").count() == 1
    assert "finished-study" in page.inner_text("main")
    page.goto(f"{served.base}/left")
    page.get_by_role("link", name="finished-study").click()
    assert "The ledger vouches for" in page.inner_text("main")
    page.get_by_label("Only this round").fill("2")
    page.get_by_role("button", name="Show").click()
    rounds = page.locator("tbody tr td:nth-of-type(2)").all_inner_texts()
    assert rounds
    assert set(rounds) == {"2"}


def test_pausing_and_going_on_is_one_click_each(served: Served) -> None:
    page, home = served.page, served.consortium.home(SITE)
    page.get_by_role("button", name="Pause this site").click()
    assert home.paused.exists()
    assert "paused since" in page.inner_text("main")
    screenshot(served, "paused")
    page.get_by_role("button", name="Answer again").click()
    assert not home.paused.exists()


def test_another_browser_on_this_machine_gets_nothing(served: Served, browser: "Browser") -> None:
    other = browser.new_context()
    page = other.new_page()
    assert [page.goto(url).status for url in (served.base, served.link)] == [403, 403]  # type: ignore[union-attr]  # http answers
    assert "finished-study" not in page.content()
    other.close()
