"""Epsilon per site, as the sites chose to publish it: signed, beside the run, and in MLflow, report and card."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consortium.errors import ConsortiumError
from consortium.identity import SigningKey
from consortium.plan import NOT_PRIVATE
from consortium.roster import Roster, founders_fingerprint, sign_roster
from consortium.statement import EpsilonStatement, sign_statement
from server.card import epsilon_note, epsilon_words
from server.cli import main
from server.errors import ServerError
from server.folder import RunFolder
from server.journal import EpsilonPublished, Journal, read_entries
from server.published import checked, publish
from server.report import status
from server.state import read_state
from server.tracking import points

Make = Callable[..., RunFolder]
SITE = "basel"


@pytest.fixture
def statement(plan: object) -> EpsilonStatement:
    return EpsilonStatement(SITE, plan.digest, 1e-5, 2.5, 40, bytes(32), "2026-03-01T08:00:00Z")  # type: ignore[attr-defined]


@pytest.fixture
def home(tmp_path: Path, roster: Roster, founder_key: SigningKey) -> Path:
    """A lead's folder with the roster in force."""
    folder = tmp_path / "lead"
    (folder / "hub").mkdir(parents=True)
    (folder / "founders.pin").write_text(founders_fingerprint(roster.founders, roster.founders_required))
    (folder / "roster.signed").write_bytes(sign_roster(roster, "founder", founder_key).encode())
    return folder


@pytest.fixture
def file(tmp_path: Path, site_keys: dict[str, SigningKey]) -> Callable[[EpsilonStatement], Path]:
    def write(made: EpsilonStatement) -> Path:
        path = tmp_path / f"{made.site}-{made.entries}.statement"
        path.write_bytes(sign_statement(made, site_keys[made.site]).encode())
        return path

    return write


def rows(home: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(home / "hub" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_a_published_figure_shows_in_status_report_card_and_mlflow(
    run_folder: Make, home: Path, file: Callable[..., Path], statement: EpsilonStatement, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder()
    unbounded = replace(statement, site="oslo", epsilon_exposed=NOT_PRIVATE, entries=7)
    files = [str(file(one)) for one in (statement, unbounded)]
    assert main(["--home", str(home), "publish", str(run.path), *files, "--json"]) == 0
    words = {SITE: "2.50 at delta 1.0e-05 (40 entries, 2026-03-01T08:00:00Z)"}
    words["oslo"] = "NOT PRIVATE at delta 1.0e-05 (7 entries, 2026-03-01T08:00:00Z)"
    assert json.loads(capsys.readouterr().out) == words == status(run.path)["epsilon_published"]
    for page in (run.report.read_text(), (run.model / "card.md").read_text()):
        assert f"Published by the sites of their own ledgers, over all their runs: basel {words[SITE]}; oslo" in page
    assert rows(home, "select key, value, step from metrics where key like 'epsilon%'") == [("epsilon_published.basel", 2.5, 6)]
    tags = rows(home, "select key, value from tags where key like 'wardround.epsilon%' order by key")
    assert tags == [(f"wardround.epsilon_published.{site}", words[site]) for site in (SITE, "oslo")]
    assert rows(home, "select status from runs") == [("FINISHED",)]
    card = next((home / "hub" / "artifacts").rglob("card.md")).read_text()
    assert words["oslo"] in card


def test_a_figure_published_after_the_run_was_mirrored_is_added_to_it(
    run_folder: Make, home: Path, file: Callable[..., Path], statement: EpsilonStatement
) -> None:
    run, first, second = run_folder(), file(statement), file(replace(statement, entries=50, epsilon_exposed=3.25))
    for path in (first, second, second):
        assert main(["--home", str(home), "publish", str(run.path), str(path)]) == 0
    assert rows(home, "select value from metrics where key = 'epsilon_published.basel' order by value") == [(2.5,), (3.25,)]
    assert rows(home, "select count(*) from runs") == [(1,)]
    assert [entry.event.exposed for entry in read_entries(run.events) if isinstance(entry.event, EpsilonPublished)] == [2.5, 3.25]
    assert read_state(run.path).phase == "finished"


def test_what_a_site_published_changes_no_computed_figure(run_folder: Make, statement: EpsilonStatement) -> None:
    run = run_folder()
    plan, before = run.plan(), read_state(run.path)
    publish(run, [statement])
    after = read_state(run.path)
    assert epsilon_words(plan, after, SITE, colluders=1) == epsilon_words(plan, before, SITE, colluders=1)
    assert "Published" in epsilon_note(plan, after)
    assert "Published" not in epsilon_note(plan, before)


def test_while_a_coordinator_holds_the_journal_nothing_is_published(
    run_folder: Make, home: Path, file: Callable[..., Path], statement: EpsilonStatement, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(finished=False)
    before = run.events.read_bytes()
    with Journal(run.events):
        assert main(["--home", str(home), "publish", str(run.path), str(file(statement))]) == 1
    assert "run run-7 is being driven" in capsys.readouterr().err
    assert run.events.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan_digest": bytes(32)}, "is about plan 0000"),
        ({"delta": 1e-6}, "at delta 1e-06, the plan's is 1e-05"),
        ({"site": "zagreb"}, "not a site of run run-7"),
        ({"site": "lead-a"}, "not a site of run run-7"),
    ],
)
def test_a_statement_for_something_else_is_refused(
    run_folder: Make,
    roster: Roster,
    statement: EpsilonStatement,
    site_keys: dict[str, SigningKey],
    changes: dict[str, object],
    says: str,
) -> None:
    changed = replace(statement, **changes)  # type: ignore[arg-type]
    with pytest.raises(ServerError, match=says):
        checked(sign_statement(changed, site_keys[SITE]), run_folder().plan(), roster)


def test_a_statement_that_the_site_did_not_sign_is_refused(
    run_folder: Make, roster: Roster, statement: EpsilonStatement, site_keys: dict[str, SigningKey]
) -> None:
    plan, good = run_folder().plan(), sign_statement(statement, site_keys[SITE])
    assert checked(good, plan, roster) == statement
    by_another = sign_statement(statement, site_keys["oslo"])
    altered = replace(good, body=good.body.replace(b"2.5", b"0.5"))
    for forged in (by_another, altered, replace(good, signatures=()), good.sign("oslo", site_keys["oslo"])):
        with pytest.raises(ConsortiumError):
            checked(forged, plan, roster)


def test_a_ledger_only_grows(run_folder: Make, statement: EpsilonStatement) -> None:
    run = run_folder()
    assert publish(run, [statement]) == (SITE,)
    assert publish(run, [statement]) == ()
    before = run.events.read_bytes()
    oslo = replace(statement, site="oslo")
    with pytest.raises(ServerError, match="ends at entry 38: take the newer one"):
        publish(run, [oslo, replace(statement, entries=39)])
    with pytest.raises(ServerError, match="two histories"):
        publish(run, [oslo, replace(statement, ledger_head=b"\x01" * 32)])
    with pytest.raises(ServerError, match="of one site"):
        publish(run, [oslo, oslo])
    assert run.events.read_bytes() == before


def test_nothing_is_published_beside_a_run_that_has_not_begun(new_folder: Make, statement: EpsilonStatement) -> None:
    with pytest.raises(ServerError, match="has not begun"):
        publish(new_folder(), [statement])


def test_an_unbounded_figure_is_no_number_in_a_chart(run_folder: Make, statement: EpsilonStatement) -> None:
    run = run_folder(private=False)
    plan = run.plan()
    publish(run, [replace(statement, plan_digest=plan.digest, epsilon_exposed=NOT_PRIVATE)])
    last = list(read_entries(run.events))[-1]
    assert points(last) == ()
    assert epsilon_note(plan, read_state(run.path)).count("NOT PRIVATE") == 2


def test_a_file_that_is_no_statement_is_named(run_folder: Make, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder()
    assert main(["--home", str(home), "publish", str(run.path), str(run.plan_file)]) == 2
    assert "is not a signed epsilon-statement" in capsys.readouterr().err
