"""A site that left answers nobody again; a roster that the gateway brings counts only if the founders signed a newer one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from guards_in_process import SITES, Consortium, code_of
from invites import authority, invite_to

from client.cli import main
from client.guard_rpc import GuardClient, serve_guard
from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.leave import KIND, LeaveNotice
from consortium.roster import Founder, Roster, sign_roster
from privacy.verify import verify_ledger

SITE = SITES[0]


def newer(consortium: Consortium, version: int = 2, **changes: object) -> Signed:
    roster: Roster = replace(consortium.roster, version=version, **changes)  # type: ignore[arg-type]
    return sign_roster(roster, "founder", consortium.founder)


def without(consortium: Consortium, site: str) -> tuple[object, ...]:
    return tuple(member for member in consortium.roster.members if member.id != site)


def leave(consortium: Consortium, *words: str, status: int = 0) -> None:
    assert main(["--home", str(consortium.folder / SITE), "leave", "--reason", "the study ended", *words]) == status


# -- leaving -----------------------------------------------------------------------------------------------------------


def test_a_site_that_left_refuses_also_after_a_restart_and_under_a_newer_roster(consortium: Consortium) -> None:
    run = consortium.run()
    run.round(run.epoch(), 1)
    leave(consortium, "--yes")
    assert code_of(run.ask_keys(SITE, 2)) == "LEFT"
    assert consortium.guard()._runs == {}
    consortium.restart(SITE)
    assert code_of(run.ask_keys(SITE, 2)) == "LEFT"
    assert consortium.guard().offer_roster(newer(consortium).encode()) == ("taken", 2)  # which still lists this site
    assert code_of(run.ask_keys(SITE, 3)) == "LEFT"
    assert consortium.guard().status()["state"] == "left the consortium"


def test_leaving_while_the_site_trains_keeps_the_update_back(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    consortium.train[SITE].before = lambda job: leave(consortium, "--yes")  # type: ignore[attr-defined]
    assert code_of(run.update(phase, SITE)) == "LEFT"
    assert consortium.spends() == 1  # what was spent stays spent


def test_the_notice_names_the_ledger_as_it_stood_and_the_ledger_stays_whole(consortium: Consortium, tmp_path: Path) -> None:
    consortium.guard()
    consortium.stop(SITE)
    leave(consortium, "--yes", "--out", str(tmp_path / "leave.signed"))
    notice = Signed.decode((tmp_path / "leave.signed").read_bytes(), KIND).document(LeaveNotice)
    home = consortium.home(SITE)
    report = verify_ledger(home.ledger.read_bytes(), home.load_identity().public)
    assert (notice.site, notice.reason, notice.entries, report.problems) == (SITE, "the study ended", report.entries, ())
    before = home.left.read_bytes()
    leave(consortium, "--yes", "--out", str(tmp_path / "again.signed"))
    assert (tmp_path / "again.signed").read_bytes() == before == home.left.read_bytes()  # one notice, whenever it is asked for


def test_leaving_wants_a_word_that_nobody_says_by_accident(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    leave(consortium, status=2)  # nobody at a terminal
    assert "--yes" in capsys.readouterr().err
    assert not consortium.home(SITE).left.exists()


def test_a_site_that_left_cannot_join_again_with_its_folder(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(consortium, "--yes")
    path = tmp_path / "invite.json"
    path.write_bytes(invite_to(consortium.signed_roster, "lead-a", consortium.lead).encode())
    assert main(["--home", str(consortium.folder / SITE), "join", str(path), "--founders", consortium.pin]) == 2
    assert "left the consortium for good" in capsys.readouterr().err


# -- rosters that the gateway brings -----------------------------------------------------------------------------------


def test_a_newer_roster_is_taken_over_the_socket_and_told_to_the_steward(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = consortium.guard()
    socket = tmp_path / "s" / "guard.sock"
    server = serve_guard(guard.answer, socket, guard.status, guard.offer_roster)
    client = GuardClient(socket)
    try:
        assert client.status()["roster"] == "1"
        assert client.offer_roster(newer(consortium, colluders=1).encode()) == ("taken", 2)
        assert client.offer_roster(newer(consortium, colluders=1).encode()) == ("known", 2)
        assert client.status()["roster"] == "2"
    finally:
        client.close()
        server.stop(0)
    assert main(["--home", str(consortium.folder / SITE), "--json", "roster"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["version"] == 2
    assert [line["changes"] for line in shown["changes"]] == [[f"colluders: {consortium.roster.colluders} before, 1 now"]]


def test_nothing_but_a_newer_roster_of_the_pinned_founders_is_taken(consortium: Consortium) -> None:
    consortium.home(SITE).follow_roster(newer(consortium, 5), consortium.pin)
    mallory = SigningKey.from_seed(b"m" * 32)
    foreign = replace(consortium.roster, version=9, founders=(Founder("mallory", mallory.public),))
    unsigned = replace(newer(consortium, 9), signatures=())
    flipped = bytearray(newer(consortium, 9).encode())
    flipped[len(flipped) // 2] ^= 1
    before = consortium.home(SITE).roster.read_bytes()
    for offered in (
        newer(consortium, 4).encode(),
        newer(consortium, 5, colluders=1).encode(),  # a twin of the version in force
        sign_roster(foreign, "mallory", mallory).encode(),
        unsigned.encode(),
        bytes(flipped),
        b"",
        bytes(5 * 2**20),
    ):
        assert consortium.guard().offer_roster(offered)[0] == "refused"
        assert consortium.home(SITE).roster.read_bytes() == before


def test_a_removed_site_starts_refuses_everything_and_is_back_with_the_next_roster(consortium: Consortium) -> None:
    run = consortium.run()
    taken = consortium.guard().offer_roster(newer(consortium, 2, members=without(consortium, SITE)).encode())
    assert taken == ("taken", 2)
    assert code_of(run.ask_keys(SITE, 1)) == "NOT_LISTED"
    consortium.restart(SITE)
    assert code_of(run.ask_keys(SITE, 1)) == "NOT_LISTED"
    assert consortium.guard().offer_roster(newer(consortium, 3).encode()) == ("taken", 3)
    assert code_of(run.ask_keys(SITE, 1)) == "ROSTER"  # listed again; the plan is of the first roster


# -- invites of a hub that moves ---------------------------------------------------------------------------------------


def test_a_later_invite_moves_the_hub_and_an_earlier_one_does_not_move_it_back(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, path = consortium.home(SITE), tmp_path / "invite.json"

    def join(hub: str, made: str, ca: bytes | None = None, status: int = 0) -> str:
        path.write_bytes(invite_to(consortium.signed_roster, "lead-a", consortium.lead, hub=hub, made=made, ca=ca).encode())
        assert main(["--home", str(home.root), "join", str(path), "--founders", consortium.pin.upper()]) == status
        return "".join(capsys.readouterr())

    join("old.example.org:443", "2026-02-01T08:30:00Z")
    before = home.hub_ca.read_bytes()
    join("new.example.org:443", "2026-03-01T08:30:00Z", authority("new.example.org"))
    assert home.hub_ca.read_bytes() != before
    assert "use the newest" in join("old.example.org:443", "2026-02-01T08:30:00Z", status=2)
    assert "new.example.org:443" in home.config.read_text()


def test_an_invite_by_nobody_on_the_roster_writes_nothing(
    consortium: Consortium, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = tmp_path / "invite.json", consortium.home(SITE)
    path.write_bytes(invite_to(consortium.signed_roster, "lead-a", SigningKey.from_seed(b"m" * 32)).encode())
    before = home.config.read_bytes()
    assert main(["--home", str(home.root), "join", str(path), "--founders", consortium.pin]) == 2
    assert "does not match" in capsys.readouterr().err
    assert home.config.read_bytes() == before
    assert not home.hub_ca.exists()
