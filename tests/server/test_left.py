"""A lead reads which site left a run for good, in which round, why and what to do about it; a site that is back has not left."""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sites_in_process import DROP_REPLY, World, make_world

from consortium.wire import SENTENCES
from server import rounds
from server.cli import main
from server.journal import EpochAsked, EpochReady, Journal, RunResumed, Waiting, read_entries
from server.leaving import CAN, departure_sentences, departures
from server.report import status, write_report
from server.state import FOR_GOOD, Left, RunState, read_state

Make = Callable[..., World]
FIRST_TRAIN = 2  # after the statistics
ROUND_2, ROUND_4 = 4, 10  # the exchange that asks for its updates: two for each round and each epoch


@pytest.fixture
def world(tmp_path: Path) -> Make:
    counter = itertools.count()
    return lambda **options: make_world(tmp_path / f"run-{next(counter)}", **options)


def drive(world: World) -> RunState:
    return rounds.run(world.folder.path, world.transport, clock=world.clock)


def refusing(world: World, *sites: str, kind: str = "sa1_update", code: str = "BUDGET", since: int = 0) -> None:
    for site in sites:
        world.sites[site].refuses = lambda asked, number: code if asked == kind and number >= since else ""


def shown(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["--home", str(world.folder.path.parent), "status", str(world.folder.path), *words]) == 0
    return capsys.readouterr().out


def test_a_site_that_refuses_a_round_for_good_left_in_that_round(world: Make) -> None:
    found = world(rounds=3)
    refusing(found, "oslo", since=3)
    assert drive(found).left == {"oslo": Left(3, "update", "BUDGET")}


@pytest.mark.parametrize("code", ["TRAINING", "PAUSED", "BUSY"])
def test_a_site_that_refuses_for_a_reason_that_passes_has_not_left(world: Make, code: str) -> None:
    found = world()
    refusing(found, "oslo", code=code)
    assert drive(found).left == {}


def test_the_epochs_that_name_it_again_do_not_move_the_round_in_which_it_left(world: Make) -> None:
    found = world(rounds=4)
    refusing(found, "oslo", since=3)
    found.transport.fault = lambda number, kind, site: DROP_REPLY if (number, kind, site) == (ROUND_4, "sa1_update", "lyon") else ""
    state = drive(found)
    assert [(failed.round, failed.code) for failed in state.failed] == [(4, "TOO_FEW")]
    assert state.last_epoch == 3
    assert state.left == {"oslo": Left(3, "update", "BUDGET")}


def test_a_site_that_refuses_to_join_again_left_after_the_last_round_begun(world: Make) -> None:
    """It was only lost in round 2; when it is asked for new keys its budget has no room for another round."""
    found = world(rounds=3)
    found.transport.fault = lambda number, kind, site: DROP_REPLY if (number, kind, site) == (ROUND_2, "sa1_update", "oslo") else ""
    refusing(found, "oslo", kind="sa1_keys", since=2)
    state = drive(found)
    assert state.left == {"oslo": Left(2, "keys", "BUDGET")}
    assert departure_sentences(state)[0].startswith("oslo left after round 2 (BUDGET): ")


def test_sites_of_which_too_few_remain_have_left_although_no_epoch_followed(world: Make) -> None:
    found = world()
    refusing(found, "lyon", "oslo")
    state = drive(found)
    assert (state.stopped, sorted(state.left)) == ("REFUSED", ["lyon", "oslo"])
    assert set(state.left) < set(state.epoch_sites), "the epoch is still the one that they left"


def test_a_site_that_refused_from_the_start_never_joined(world: Make) -> None:
    found = world()
    refusing(found, "lyon", "oslo", kind="sa1_keys", code="DECLINED")
    state = drive(found)
    assert state.left == {site: Left(0, "keys", "DECLINED") for site in ("lyon", "oslo")}
    assert [sentence.partition(":")[0] for sentence in departure_sentences(state)] == [
        "lyon never joined (DECLINED)",
        "oslo never joined (DECLINED)",
    ]


def test_a_site_whose_policy_changed_between_the_two_exchanges_of_an_epoch_never_joined(world: Make) -> None:
    found = world()
    refusing(found, "oslo", kind="sa1_kem", code="POLICY")
    assert drive(found).left == {"oslo": Left(0, "kem", "POLICY")}


def test_a_site_that_is_in_an_epoch_again_has_not_left(world: Make) -> None:
    found = world()
    refusing(found, "lyon", "oslo")
    assert drive(found).left
    refusing(found, "lyon", "oslo", code="")
    state = drive(found)
    assert (state.phase, state.left) == ("finished", {})
    assert status(found.folder.path)["left"] == []
    assert "left for good" not in write_report(found.folder.path).read_text("utf-8")


def test_a_steward_who_changes_his_mind_while_the_run_waits_has_not_left(world: Make) -> None:
    """Two others never decide, so that no epoch says it too."""
    found = world()
    refusing(found, "oslo", kind="sa1_keys", code="DECLINED")
    refusing(found, "kaunas", "lyon", kind="sa1_keys", code="NOT_APPROVED")

    def fault(number: int, _: str, __: str) -> str:
        if number == 3:
            refusing(found, "oslo", code="")
        return ""

    found.transport.fault = fault
    state = drive(found)
    events = [entry.event for entry in read_entries(found.folder.events)]
    assert Waiting("oslo", "DECLINED") in events
    assert (state.stopped, state.epoch_sites, state.left) == ("NOT_APPROVED", (), {})


def test_a_resumed_run_says_it_until_the_site_is_in_an_epoch(world: Make) -> None:
    found = world()
    refusing(found, "lyon", "oslo")
    before = drive(found).left
    with Journal(found.folder.events) as journal:
        journal.append(RunResumed(0))
        journal.append(EpochAsked(9, found.plan.sites))
        assert read_state(found.folder.path).left == before
        journal.append(EpochReady(9, ("basel", "kaunas", "lyon"), 3, (), 0.1))
    assert set(read_state(found.folder.path).left) == {"oslo"}


def test_status_says_which_site_left_when_why_and_what_can_be_done(world: Make, capsys: pytest.CaptureFixture[str]) -> None:
    found = world()
    refusing(found, "lyon", "oslo", since=FIRST_TRAIN)
    drive(found)
    printed = shown(found, capsys)
    why = "The round would exceed this site's privacy budget. Ask its steward whether the budget in its policy may grow."
    for site in ("lyon", "oslo"):
        assert f"{site} left in round 2 (BUDGET): {why}" in printed
    assert printed.count("Once that is settled, `wardround-lead resume run-7` asks the site again.") == 2
    document = json.loads(shown(found, capsys, "--json"))["left"]
    assert [(one["site"], one["round"], one["phase"], one["code"]) for one in document] == [
        ("lyon", 2, "update", "BUDGET"),
        ("oslo", 2, "update", "BUDGET"),
    ]
    assert all(one["why"] == SENTENCES["BUDGET"] and "steward" in one["then"] for one in document)


def test_the_list_of_all_runs_names_the_sites_that_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = make_world(tmp_path / "lead" / "runs" / "run-7")
    refusing(found, "oslo")
    drive(found)
    assert main(["--home", str(tmp_path / "lead"), "status", "--json"]) == 0
    assert [row["left"] for row in json.loads(capsys.readouterr().out)] == [["oslo"]]


def test_the_report_has_a_table_of_the_sites_that_left(world: Make) -> None:
    found = world()
    refusing(found, "oslo", since=FIRST_TRAIN, code="POLICY")
    drive(found)
    page = write_report(found.folder.path).read_text("utf-8")
    _, _, table = page.partition("<h2>Sites that left for good</h2>")
    row = table.partition("</table>")[0]
    for words in ("<td>oslo</td><td>left in round 2</td><td>POLICY</td>", "more than this site&#x27;s policy allows", "run-note"):
        assert words in row


def test_a_finished_run_is_not_offered_to_be_resumed(world: Make) -> None:
    found = world()
    refusing(found, "oslo")
    state = drive(found)
    (one,) = departures(state)
    assert state.phase == "finished"
    assert "resume" not in str(one["then"])
    assert "only a new plan asks the site again" in str(one["then"])


def test_a_limit_that_the_plan_set_is_not_offered_to_be_settled(world: Make) -> None:
    found = world()
    refusing(found, "lyon", "oslo", code="LIMIT")
    assert all("resume" not in str(one["then"]) for one in departures(drive(found)))


def test_every_code_for_good_has_words_and_advice() -> None:
    assert set(CAN) == FOR_GOOD
    assert set(SENTENCES) >= FOR_GOOD


def test_a_site_without_room_on_its_disk_is_named_and_asked_again(world: Make) -> None:
    found = world(rounds=10)
    room = False

    def code(asked: str, number: int) -> str:
        return "LEDGER" if not room and (asked == "sa1_keys" or asked == "sa1_update") and number >= FIRST_TRAIN else ""

    def freed(number: int, _: str, __: str) -> str:
        nonlocal room
        room = room or number > ROUND_4
        return ""

    found.sites["oslo"].refuses = code
    found.transport.fault = freed
    state = drive(found)
    assert (state.phase, state.left) == ("finished", {})
    assert Waiting("oslo", "LEDGER") in [entry.event for entry in read_entries(found.folder.events)]
    assert "oslo" not in state.done[2].survivors
    assert "oslo" in state.done[-1].survivors, "nobody had to resume the run for it"
    assert state.failed == ()
