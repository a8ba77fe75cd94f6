"""A real Chromium, and a report over books in which about everything happened that a report can show."""

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from consortium.roster import Roster
from privacy.cli import main
from privacy.entries import PlanApproved, PlanRefused, Withdrawn
from privacy.ledger import Ledger
from server.journal import Waiting

from ..privacy.conftest import DELTA, NOW, TRAIN, details, make_plan, roster  # noqa: F401  # fixtures of the same small site
from ..privacy.two_books import ROUNDS, Told, TwoBooks, key_of

if TYPE_CHECKING:  # the other lanes collect this file too, and need no browser for it
    from playwright.sync_api import Browser

LONG, LONG_ROUNDS = "long-study-2025", 300
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic")


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no chromium on this machine: apt-get install chromium"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", *QUIET])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory, roster: Roster, make_plan) -> Path:  # type: ignore[no-untyped-def]  # noqa: F811
    """The page: four hospitals, a study with lost rounds, a long one before it, refusals, manifests, measurements."""
    folder = tmp_path_factory.mktemp("report")
    books = TwoBooks(folder, roster, make_plan(roster_digest=roster.digest))
    left = [("d", number) for number in ROUNDS]
    books.write(Told(lost={2: {"d": "LATE"}, 3: {"c": "BUDGET"}}, more=(Waiting("b", "NOT_APPROVED"),), left=left))
    with Ledger.open(books.ledger("a"), key_of("a"), NOW) as ledger:
        plan = bytes([1]) * 32
        ledger.append("plan-approved", PlanApproved(plan, LONG, "lead-anna", "policy", "2026-12-31T00:00:00Z", DELTA, 2.0), NOW)
        for number in range(1, LONG_ROUNDS + 1):
            ledger.spend(details(number, run_id=LONG, plan_digest=plan), (TRAIN,), NOW + timedelta(hours=number))
        ledger.append("withdrawn", Withdrawn(plan, LONG, "patients objected"), NOW + timedelta(days=20))
        ledger.append("plan-refused", PlanRefused(bytes(32), "run-0", "lead-bert", "steward", "DECLINED", "no consent"), NOW)
    (folder / "canary.json").write_text(json.dumps(_canary()), "ascii")
    page = folder / "report.html"
    given = [books.run, *books.ledgers, "--evidence", folder / "canary.json", "--budget", "a", "60", "--out", page]
    assert main(["report", *map(str, given)]) in (0, 1)
    return page


def _canary() -> dict[str, object]:
    numbers = {"claimed_epsilon": 2.5, "delta": DELTA, "estimate": 2.31, "lower_bound": 0.92, "confidence": 0.95}
    words = "Claimed epsilon 2.50; measured about 2.31, at 95 % confidence no less than 0.92. Nothing contradicts the claim."
    return {"kind": "canary", "run_id": "run-1", "canaries": 1000, "rounds": 80, "verdict": "pass", "words": words, **numbers}
