"""`wardround-audit report` makes one page that tells the whole truth, takes markup from nobody, and comes out the same twice."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from consortium.identity import fingerprint
from consortium.plan import Plan
from consortium.roster import Roster
from privacy import report_words
from privacy.cli import main
from privacy.entries import NOT_PRIVATE, PlanApproved, PlanRefused, SpendRecord, Withdrawn
from privacy.events import NonPrivateEvent, SharedGaussianEvent, Spend
from privacy.ledger import Ledger, read_entries
from privacy.report import Step
from privacy.report_charts import budget_chart, round_ticks
from privacy.report_html import Html, table, text
from server.journal import Waiting

from .conftest import KEY, NOW, TRAIN, details, make_ledger
from .two_books import ROUNDS, SITES, Told, TwoBooks, key_of

VOID = {"meta", "br", "hr", "img", "input", "link", "line", "rect", "circle", "path"}
CANARY = {
    "kind": "canary",
    "run_id": "run-1",
    "claimed_epsilon": 2.5,
    "delta": 1e-5,
    "estimate": 2.31,
    "lower_bound": 0.92,
    "confidence": 0.95,
    "canaries": 1000,
    "rounds": 80,
    "verdict": "pass",
    "words": "Nothing contradicts the claim.",
}


class Read(HTMLParser):
    """What a reader of the page sees: its text, its elements, and whether every element ends where it should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def books(tmp_path: Path, roster: Roster, make_plan: Callable[..., Plan]) -> TwoBooks:
    return TwoBooks(tmp_path, roster, make_plan(roster_digest=roster.digest))


@pytest.fixture
def make_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; exit status and the page."""

    def build(*arguments: object) -> tuple[int, str]:
        out = tmp_path / "report.html"
        out.unlink(missing_ok=True)
        status = main(["report", *map(str, arguments), "--out", str(out)])
        said = capsys.readouterr()
        return status, out.read_text("utf-8") if out.exists() else said.err

    return build


def last_epsilon(path: Path) -> float:
    records = [entry.content for entry in read_entries(path.read_bytes())[0] if isinstance(entry.content, SpendRecord)]
    return records[-1].epsilon_after


def test_the_page_shows_what_was_spent_approved_and_done(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    status, page = make_page(books.run, *books.ledgers, "--budget", "a", 10, "--key", "a", fingerprint(key_of("a").public))
    seen, spent = Read(page).text, last_epsilon(books.ledger("a"))
    assert status == 0
    for expected in (
        "Every ledger verified",
        f"{spent:.3f}",
        f"{10 - spent:.3f}",
        "✓ approved",
        "lead-anna",
        "steward",
        "All 4 rounds of run-1",
        "a sum with Gaussian noise of 8 times one patient's bound, about the training patients",
        "No contradiction was found",
        "agrees",
        books.plan.digest.hex(),
        fingerprint(key_of("d").public),
    ):
        assert expected in seen, expected


def test_the_page_is_whole_and_asks_nobody_for_anything(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    _, page = make_page(books.run, *books.ledgers)
    read = Read(page)
    assert read.open == []
    assert {"script", "link", "img", "iframe", "object", "form", "base"} & set(read.tags) == set()
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    linked = [value for name, value in read.attributes if name in ("src", "href", "action", "srcset")]
    assert all(value and value.startswith("#") for value in linked)
    assert not re.search(r"url\(|@import|https?:", page)
    assert "default-src 'none'" in dict(read.attributes)["content"] or "default-src &#x27;none&#x27;" in page
    assert ("lang", "en") in read.attributes


def test_every_table_says_what_it_is_and_heads_its_columns_and_rows(
    books: TwoBooks, make_page: Callable[..., tuple[int, str]]
) -> None:
    books.write()
    read = Read(make_page(books.run, *books.ledgers)[1])
    tables = read.tags.count("table")
    assert tables >= 8
    assert read.tags.count("caption") == read.tags.count("thead") == tables
    assert {value for name, value in read.attributes if name == "scope"} == {"col", "row"}
    assert read.tags.count("svg") == [name for name, _ in read.attributes].count("aria-label") - read.tags.count("nav") - tables


def test_the_same_books_give_the_same_bytes(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    first = make_page(books.run, *books.ledgers, "--date", "2026-12-01")
    assert make_page(books.run, *books.ledgers, "--date", "2026-12-01") == first
    assert "as of 2026-12-01" in first[1]
    assert "as of 2026-11-21" in make_page(books.run, *books.ledgers)[1]  # the newest entry; no clock is asked


HOSTILE = "</td></table><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;--><!--"


def test_no_text_of_a_ledger_becomes_markup(tmp_path: Path, make_page: Callable[..., tuple[int, str]]) -> None:
    path = tmp_path / "hostile.jsonl"
    names = {"consortium": HOSTILE, "site": HOSTILE, "population": HOSTILE, "split_id": "aa" * 32}
    plan = bytes([7]) * 32
    with Ledger.create(path, KEY, now=NOW, **names) as ledger:
        ledger.append("plan-approved", PlanApproved(plan, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1e-5, 1.0), NOW)
        ledger.append("plan-refused", PlanRefused(plan, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE), NOW)
        ledger.append("withdrawn", Withdrawn(plan, HOSTILE, HOSTILE), NOW)
        ledger.spend(details(1, run_id=HOSTILE, sampler=HOSTILE, code_version=HOSTILE), (TRAIN,), NOW)
    evidence = tmp_path / "evil.json"
    evidence.write_text(json.dumps({**CANARY, "words": f"{HOSTILE}\u202e\x00", "verdict": HOSTILE, "run_id": [HOSTILE]}), "utf-8")
    status, page = make_page(path, "--evidence", evidence, "--title", HOSTILE)
    read = Read(page)
    assert status == 0
    assert read.open == []
    assert {"script", "img"} & set(read.tags) == set()
    assert page.count("<table>") == page.count("</table>")
    assert HOSTILE in read.text
    assert "\u202e" not in page
    assert "\x00" not in page


def test_a_run_folders_texts_do_not_become_markup_either(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write(Told(more=(Waiting("a", HOSTILE), Waiting("<b>site</b>", "POLICY"))))
    read = Read(make_page(books.run, *books.ledgers)[1])
    assert read.open == []
    assert {"script", "img", "b"} & set(read.tags) == set()
    assert "<b>site</b>" in read.text


def test_a_damaged_ledger_is_named_at_the_top_with_its_first_problem(
    books: TwoBooks, make_page: Callable[..., tuple[int, str]]
) -> None:
    books.write()
    path = books.ledger("b")
    path.write_bytes(path.read_bytes().replace(b'"round":4', b'"round":5'))
    status, page = make_page(*books.ledgers)
    top = Read(page).text.partition("What is promised to a patient")[0]
    assert status == 1
    assert "NOT everything in these books holds" in top
    assert "✗ FAILED" in top
    assert "ledger entry 5: not signed by the ledger's key" in top


def test_another_key_than_the_one_told_is_named_at_the_top(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    status, page = make_page(*books.ledgers, "--key", "a", fingerprint(key_of("b").public))
    assert status == 1
    assert "DIFFERS" in page
    assert "the key is not the one that was told" in page


def test_a_contradiction_with_the_coordinator_stands_at_the_top_and_in_full_below(
    books: TwoBooks, make_page: Callable[..., tuple[int, str]]
) -> None:
    books.write(Told(unjournaled=(3,)))
    status, page = make_page(books.run, *books.ledgers)
    seen = Read(page).text
    assert status == 1
    assert "✗ DISAGREE Coordinator against hospitals, runs compared: 1; contradictions: 4" in seen
    assert "NOT IN THE JOURNAL" in seen
    assert "a round that the coordinator does not show" in seen


def test_a_release_without_noise_is_written_all_over_the_page(tmp_path: Path, make_page: Callable[..., tuple[int, str]]) -> None:
    path = make_ledger(tmp_path, rounds=2)
    with Ledger.open(path, KEY, NOW) as ledger:
        record = ledger.spend(details(3), (Spend(NonPrivateEvent(), "train"),), NOW).content
    assert isinstance(record, SpendRecord)
    assert record.epsilon_after == NOT_PRIVATE
    status, page = make_page(path, "--budget", "aachen", 10)
    seen = Read(page).text
    assert status == 0  # the ledger is in order: it says itself that it is not private
    assert report_words.NOT_PRIVATE in seen
    assert "NOT PRIVATE from here" in seen
    assert "✗ OVERSPENT" in seen
    assert "a sum WITHOUT NOISE" in seen
    assert "What can be learnt about one patient" not in seen


def test_both_epsilons_of_a_shared_noise_are_shown(tmp_path: Path, make_page: Callable[..., tuple[int, str]]) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1), (Spend(SharedGaussianEvent(4.0, 4), "train"),), NOW)  # charged as noise 8, exposed as noise 4
        charged = ledger.epsilon(1e-5)
    alone = make_ledger(tmp_path, name="alone.jsonl")
    with Ledger.open(alone, KEY, NOW) as ledger:
        ledger.spend(details(1), (replace(TRAIN, event=type(TRAIN.event)(4.0)),), NOW)
        exposed = ledger.epsilon(1e-5)
    seen = Read(make_page(path)[1]).text
    assert charged < exposed
    assert f"highest epsilon charged {charged:.3f}" in seen
    assert f"highest epsilon if exposed {exposed:.3f}" in seen
    assert "share of the noise, 4 times one patient's bound, one of at least 4" in seen


def test_refusals_and_withdrawals_are_listed_with_their_reasons(
    books: TwoBooks, tmp_path: Path, make_page: Callable[..., tuple[int, str]]
) -> None:
    books.write(Told(lost={2: {"d": "BUDGET"}}, more=(Waiting("c", "NOT_APPROVED"),)))
    with Ledger.open(books.ledger("a"), key_of("a"), NOW) as ledger:
        ledger.append("plan-refused", PlanRefused(bytes(32), "run-0", "lead-bert", "steward", "DECLINED", "no consent for it"), NOW)
        ledger.append("withdrawn", Withdrawn(books.plan.digest, "run-1", "patients objected"), NOW + timedelta(hours=1))
    seen = Read(make_page(books.run, *books.ledgers)[1]).text
    for expected in (
        "no consent for it",
        "This site's steward refused the plan. (DECLINED)",
        "patients objected",
        "The round would exceed this site's privacy budget. (BUDGET)",
        "Waiting for this site's approval. (NOT_APPROVED)",
        "Rounds of run-1 over fewer hospitals (1 of 4 opened)",
        "d: BUDGET at update",
    ):
        assert expected in seen, expected


def test_what_left_is_listed_by_kind_in_bytes(books: TwoBooks, tmp_path: Path, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write(Told(left=[("d", number) for number in ROUNDS]))
    parts = [
        {"what": "protocol message", "bytes": 842, "sha256": "00" * 32, "masked": False},
        {"what": "masked header and body", "bytes": 4_000_000, "sha256": "11" * 32, "masked": True},
    ]
    said = {"run": "run-1", "plan": books.plan.digest.hex(), "kind": "update (train)", "parts": parts}
    lines = "".join(json.dumps({**said, "round": number}) + "\n" for number in (2, 3))
    (tmp_path / "a-egress.jsonl").write_text(lines, "ascii")
    seen = Read(make_page(*books.ledgers, "--egress", "a", tmp_path / "a-egress.jsonl")[1]).text
    assert "a run-1 update (train) 2 8 MB 1.68 kB" in seen
    assert "d run-1 update 4 no manifest no manifest" in seen
    assert "nobody vouches for these lines" in seen


def test_measurements_are_shown_with_what_they_can_and_cannot_say(
    books: TwoBooks, tmp_path: Path, make_page: Callable[..., tuple[int, str]]
) -> None:
    books.write()
    (tmp_path / "canary.json").write_text(json.dumps(CANARY), "ascii")
    (tmp_path / "odd.json").write_text("{", "ascii")
    (tmp_path / "other.json").write_text('{"kind":"weather"}', "ascii")
    (tmp_path / "member.json").write_text(json.dumps({"kind": "membership", "run_id": "run-1", "verdict": "alarm"}), "ascii")
    names = [tmp_path / f"{name}.json" for name in ("canary", "odd", "other", "member")]
    seen = Read(make_page(*books.ledgers, "--evidence", *names)[1]).text
    assert "run-1 canary ✓ pass 2.5 2.31 0.92 0.95 1000 80" in seen
    assert "Nothing contradicts the claim." in seen
    assert report_words.CANARY in seen
    assert report_words.MEMBERSHIP in seen
    assert "run-1 membership ✗ alarm not stated" in seen
    assert "odd.json unreadable ✗ not JSON" in seen
    assert "other.json unreadable ✗ no measurement that this version knows" in seen


def test_measurements_in_a_runs_audit_folder_are_found(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    (books.run / "audit").mkdir()
    (books.run / "audit" / "canary.json").write_text(json.dumps(CANARY), "ascii")
    assert "Nothing contradicts the claim." in make_page(books.run, *books.ledgers)[1]


def test_a_long_ledger_stays_small_and_folded_and_lists_every_round(
    tmp_path: Path, make_page: Callable[..., tuple[int, str]]
) -> None:
    rounds = 600
    path = make_ledger(tmp_path, rounds=rounds)
    status, page = make_page(path)
    assert status == 0
    assert "<details><summary>All 600 rounds" in page
    assert len(re.findall(r'<tr><th scope="row" class="n">', page)) >= rounds
    assert len(page.encode()) < 60_000 + 400 * rounds  # 10,000 rounds stay below 5 MB


def test_sites_alone_or_in_folders_give_the_same_figures(books: TwoBooks, make_page: Callable[..., tuple[int, str]]) -> None:
    books.write()
    home = books.folder / "home"
    home.mkdir()
    (home / "ledger.jsonl").write_bytes(books.ledger("a").read_bytes())
    seen = [Read(make_page(given)[1]).text for given in (books.ledger("a"), home)]
    assert all(f"highest epsilon charged {last_epsilon(books.ledger('a')):.3f}" in one for one in seen)
    assert "no head file beside it" in seen[1]


def test_the_json_says_what_the_page_says(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    out = tmp_path / "page.html"
    assert main(["report", str(books.run), *map(str, books.ledgers), "--out", str(out), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["private"], document["studies"]) == (True, True, ["run-1"])
    assert [site["site"] for site in document["sites"]] == list(SITES)
    assert document["sites"][0]["charged"] == pytest.approx(last_epsilon(books.ledger("a")), abs=2e-3)


def test_wrong_usage_is_said_and_writes_nothing(books: TwoBooks, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books.write()
    taken = tmp_path / "taken.html"
    taken.write_text("mine", "ascii")
    ledger = books.ledger("a")
    for arguments, said in (
        ([ledger, "--out", taken], "exists"),
        ([ledger, "--out", tmp_path / "x.html", "--date", "tomorrow"], "a date is like"),
        ([ledger, "--out", tmp_path / "x.html", "--budget", "a", "-1"], "a number above 0"),
        ([ledger, "--out", tmp_path / "x.html", "--budget", "z", "1"], "the ledgers that were given are of a"),
        ([ledger, "--out", tmp_path / "x.html", "--key", "a", "abc"], "8 groups of 4 hex digits"),
        ([books.run, "--out", tmp_path / "x.html"], "no ledger was given"),
    ):
        assert main(["report", *map(str, arguments)]) == 2, said
        assert said in capsys.readouterr().err
    assert taken.read_text("ascii") == "mine"
    assert not (tmp_path / "x.html").exists()


def test_belief_after_follows_from_belief_before_and_epsilon() -> None:
    unchanged = [("1%", "1.0 %", "1.0 %"), ("10%", "10.0 %", "10.0 %"), ("50%", "50.0 %", "50.0 %"), ("90%", "90.0 %", "90.0 %")]
    assert report_words.odds_rows(0.0) == unchanged
    half = report_words.odds_rows(1.0986122886681098)[2]  # ln 3: odds of 1 become at most 3, or at least 1/3
    assert half == ("50%", "25.0 %", "75.0 %")
    assert (report_words.factor_text(1.0), report_words.factor_text(9.0), report_words.factor_text(30.0)) == (
        "2.72",
        "8,103",
        "10^13",
    )
    assert (report_words.delta_text(1e-5), report_words.delta_text(3.21e-7)) == ("0.00001", "0.000000321")
    assert report_words.odds_rows(1e6)[2] == ("50%", "less than 0.1 %", "more than 99.9 %")


def test_a_chart_ends_at_the_last_figure_and_stays_inside_its_frame() -> None:
    steps = [Step("run-1", 0.5), Step("run-1", 1.0), Step("run-2", 2.0)]
    chart = budget_chart(steps, budget=4.0, name="aachen")
    assert "after 3 releases epsilon 2.000, of a budget of 4" in chart
    assert "budget 4" in chart
    heights = [float(value) for value in re.findall(r"V([0-9.]+)", chart)]
    assert heights == sorted(heights, reverse=True)
    assert all(0.0 < value < 232.0 for value in heights)
    assert round_ticks(2.0)[-1] >= 2.0
    assert round_ticks(1e-9)[0] == 0.0


def test_text_is_escaped_unless_it_is_markup_made_here() -> None:
    assert text("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert text(Html("<b>x</b>")) == "<b>x</b>"
    assert "<b>x</b>" not in text(Html("<b>x") + Html("</b>"))  # joined as text it is text again, on the safe side
    assert "&lt;i&gt;" in table("<i>", ("a",), [("<i>",)])
