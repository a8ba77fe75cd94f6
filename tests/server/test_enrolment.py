"""A lead adds and removes sites with one command each; where founders must agree, the last of them finishes what was begun."""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.enrol import read_invite
from consortium.documents import Signed
from consortium.identity import SigningKey, fingerprint
from consortium.leave import LeaveNotice, sign_leave
from consortium.roster import Founder, Member, Roster, founders_fingerprint, sign_roster
from consortium.rotation import RotateRequest, sign_request
from server import flower
from server.cli import main
from server.enrolment import Founding, init_hub
from server.errors import ServerError
from server.home import LeadHome
from server.registrar import Registrar, agree
from server.rosters import keep_roster, kept_rosters

Cli = Callable[..., tuple[int, str, str]]
HUB = "hub.example.org:443"
SITES = ("a", "b", "c", "d")


def key_of(site: str) -> SigningKey:
    return SigningKey.from_seed(site.encode().ljust(32, b"."))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: object, home: str = "lead") -> tuple[int, str, str]:
        code = main(["--home", str(tmp_path / home), *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def home(tmp_path: Path) -> LeadHome:
    return LeadHome(tmp_path / "lead")


def add(site: str, folder: Path, *words: object, key: SigningKey | None = None, told: str = "") -> tuple[object, ...]:
    """Words of `roster add-site` for the join request of `site`."""
    own = key or key_of(site)
    path = folder / f"{site}.json"
    path.write_text(json.dumps({"id": site, "identity_key": own.public.hex(), "transport_key": f"ecdsa-sha2-nistp384 {site}"}))
    return ("roster", "add-site", path, "--told", told or fingerprint(own.public), *words)


@pytest.fixture
def founded(cli: Cli, tmp_path: Path) -> Cli:
    assert cli("hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "hub.example.org")[0] == 0
    for site in SITES:
        assert cli(*add(site, tmp_path))[0] == 0
    return cli


def said(answer: tuple[int, str, str]) -> dict[str, object]:
    code, out, err = answer
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    return found


# -- one command -------------------------------------------------------------------------------------------------------


def test_one_command_puts_a_site_on_the_roster_and_writes_an_invite_that_verifies(
    founded: Cli, home: LeadHome, tmp_path: Path
) -> None:
    made = said(founded(*add("e", tmp_path, "--hub", HUB, "--out", tmp_path / "invite.json", "--json")))
    assert (made["changes"], made["in force"], made["version"]) == (["joined: e (site)"], True, home.roster().version)
    assert "it registers them itself when it starts" in str(made["gateways at the hub"])
    invite, roster = read_invite(tmp_path / "invite.json").verify(str(made["founders"]))
    assert (invite.hub, roster) == (HUB, home.roster())


def test_both_fingerprints_are_the_same_words_wherever_they_are_shown(cli: Cli, tmp_path: Path) -> None:
    begun = said(cli("hub", "init", "--consortium", "n", "--lead", "lead-a", "--host", "h", "--json"))
    added = said(cli(*add("a", tmp_path, "--hub", HUB, "--out", tmp_path / "i.json", "--json")))
    invited = said(cli("roster", "invite", "--out", tmp_path / "j.json", "--json"))
    for name in ("founders", "hub certificate authority"):
        assert begun[name] == added[name] == invited[name]
    shown = cli("roster", "show")[1]
    assert str(begun["founders"]) in shown
    assert str(begun["hub certificate authority"]) in shown


def test_asked_twice_there_is_no_second_version(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    before = home.roster_file.read_bytes()
    assert said(founded(*add("a", tmp_path, "--json")))["changes"] == "none"
    assert home.roster_file.read_bytes() == before


def test_a_told_fingerprint_may_be_typed_in_capitals_and_without_dashes(founded: Cli, tmp_path: Path) -> None:
    told = fingerprint(key_of("e").public).upper().replace("-", " ")
    assert founded(*add("e", tmp_path, told=told))[0] == 0
    code, _, err = founded(*add("f", tmp_path, told="1f0c"))
    assert (code, "expected 32" in err) == (2, True)


def test_an_invite_without_a_hub_address_changes_nothing(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    before = home.roster_file.read_bytes()
    for words, says in ((("--out", tmp_path / "i.json"), "--hub HOST:PORT"), (("--hub", "https://x", "--out", "i"), "host:port")):
        code, _, err = founded(*add("e", tmp_path, *words))
        assert (code, says in err) == (2, True)
    assert home.roster_file.read_bytes() == before


# -- founders who must agree -------------------------------------------------------------------------------------------


@pytest.fixture
def two_founders(home: LeadHome, tmp_path: Path) -> Sequence[LeadHome]:
    """A hub whose founder is anna, and bruno on another machine, with three sites; both must sign."""
    first, _ = init_hub(home, Founding("north", "anna", "lead-a", ("h",), 1, 3, 0.4), now=datetime.now(UTC))
    bruno = SigningKey.from_seed(b"bruno".ljust(32))
    founders = (*first.founders, Founder("bruno", bruno.public))
    pin = founders_fingerprint(founders, 2)
    signed = sign_roster(replace(first, founders=founders, founders_required=2), "anna", home.founder()[1])
    signed = sign_roster(signed, "bruno", bruno)
    other = LeadHome(tmp_path / "bruno")
    other.root.mkdir()
    bruno.save(other.founder_key)
    other.founder_name.write_text("bruno\n")
    for each in (home, other):
        each.founders_pin.write_text(f"{pin}\n")
        each.roster_file.write_bytes(signed.encode())
    return home, other


def test_where_founders_must_agree_the_command_says_who_what_file_and_how(
    cli: Cli, two_founders: Sequence[LeadHome], tmp_path: Path
) -> None:
    home, bruno = two_founders
    made = said(cli(*add("a", tmp_path, "--hub", HUB, "--out", tmp_path / "invite.json", "--json")))
    assert (made["in force"], made["signatures"], made["still to sign"]) == (False, "1 of 2", "1 of: bruno")
    assert made["with"] == f"wardround-lead roster sign roster-2.partly-signed --invite {tmp_path / 'invite.json'} --hub {HUB}"
    assert not (tmp_path / "invite.json").exists()
    assert home.roster().version == 1
    file = Path(str(made["file"]))
    shown = said(cli("roster", "show", file, "--json", home="bruno"))
    assert (shown["changes"], shown["signed by (not checked)"]) == (["joined: a (site)"], ["anna"])
    signed = said(cli("roster", "sign", file, "--json", home="bruno"))
    assert (signed["in force"], bruno.roster().version) == (True, 2)
    finished = said(cli("roster", "sign", bruno.roster_file, "--invite", tmp_path / "invite.json", "--hub", HUB, "--json"))
    assert finished["in force"] is True  # the hub's machine: nothing to sign any more, the rest is done here
    invite, roster = read_invite(tmp_path / "invite.json").verify(str(finished["founders"]))
    assert (invite.hub, roster.version, home.roster().version) == (HUB, 2, 2)


def test_a_founder_signs_nothing_that_could_not_come_into_force(cli: Cli, two_founders: Sequence[LeadHome], tmp_path: Path) -> None:
    home, bruno = two_founders
    mallory = SigningKey.from_seed(b"m" * 32)
    foreign = replace(home.roster(), version=2, founders=(Founder("mallory", mallory.public),), founders_required=1)
    (tmp_path / "foreign").write_bytes(sign_roster(foreign, "mallory", mallory).encode())
    code, _, err = cli("roster", "sign", tmp_path / "foreign", home="bruno")
    assert (code, "do not sign it" in err) == (1, True)
    bruno.founder_name.write_text("clara\n")
    (tmp_path / "next").write_bytes(sign_roster(replace(home.roster(), version=2), "anna", home.founder()[1]).encode())
    code, _, err = cli("roster", "sign", tmp_path / "next", home="bruno")
    assert (code, "not the key of a founder called 'clara'" in err) == (1, True)
    assert bruno.roster().version == 1


# -- removal and return ------------------------------------------------------------------------------------------------


def test_a_site_is_removed_with_its_reason_on_record(founded: Cli, home: LeadHome) -> None:
    made = said(founded("roster", "remove-site", "b", "--reason", "ethics vote", "--json"))
    assert made["changes"] == ["removed: b (site)"]
    assert [site.id for site in home.roster().sites] == ["a", "c", "d"]
    line = json.loads(home.removed.read_text())
    assert (line["site"], line["reason"], line["roster_version"]) == ("b", "ethics vote", home.roster().version)


def test_a_removal_that_leaves_too_few_is_refused_and_says_what_can_be_done(founded: Cli, home: LeadHome) -> None:
    assert founded("roster", "remove-site", "a", "--reason", "x")[0] == 0
    before = home.roster_file.read_bytes()
    code, _, err = founded("roster", "remove-site", "b", "--reason", "x")
    assert (code, "2 sites are left, and a run needs 3" in err, "--allow-too-few" in err) == (1, True, True)
    assert home.roster_file.read_bytes() == before
    assert founded("roster", "remove-site", "b", "--reason", "key stolen", "--allow-too-few")[0] == 0
    assert [site.id for site in home.roster().sites] == ["c", "d"]


def test_what_is_tolerated_stays_as_it_was_unless_founders_change_it(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    for site in ("e", "f"):
        assert founded(*add(site, tmp_path))[0] == 0
    assert home.roster().colluders == 2
    for site in ("e", "f"):
        assert founded("roster", "remove-site", site, "--reason", "x")[0] == 0
    assert home.roster().colluders == 2
    assert "a run needs 4" in founded("roster", "remove-site", "a", "--reason", "x")[2]
    assert founded("roster", "remove-site", "a", "--reason", "x", "--colluders", "1")[0] == 0
    assert home.roster().colluders == 1


def test_a_former_id_comes_back_with_its_old_key_or_by_the_founders_word(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    assert founded("roster", "remove-site", "b", "--reason", "x")[0] == 0
    other = SigningKey.from_seed(b"another machine".ljust(32))
    code, _, err = founded(*add("b", tmp_path, key=other))
    assert (code, "its ledger would begin anew" in err) == (1, True)
    assert founded(*add("b", tmp_path))[0] == 0
    assert founded("roster", "remove-site", "b", "--reason", "x")[0] == 0
    assert founded(*add("b", tmp_path, "--as-new-site", key=other))[0] == 0
    assert home.roster().member("b").identity_key == other.public


def rotate(site: str, folder: Path) -> tuple[tuple[object, ...], SigningKey]:
    """Words of `roster rotate-site` for the request of `site`, and its new key."""
    new = SigningKey.from_seed(b"new".ljust(32))
    request = RotateRequest("north", site, key_of(site).public, new.public, f"ecdsa-sha2-nistp384 new-{site}")
    (path := folder / "rotate-request.json").write_text(
        json.dumps({"request": sign_request(request, new, key_of(site)).encode().hex()})
    )
    return ("roster", "rotate-site", path, "--told", fingerprint(new.public).upper().replace("-", " "), "--json"), new


def test_a_site_that_was_taken_off_for_a_stolen_key_comes_back_with_the_new_one_and_asked_twice_nothing_changes(
    founded: Cli, home: LeadHome, tmp_path: Path
) -> None:
    assert founded("roster", "remove-site", "b", "--reason", "key stolen")[0] == 0
    words, new = rotate("b", tmp_path)
    assert said(founded(*words))["changes"] == ["joined: b (site)"]
    assert home.roster().member("b").identity_key == new.public
    before = home.roster_file.read_bytes()
    assert said(founded(*words))["changes"] == "none"
    assert home.roster_file.read_bytes() == before


def test_every_founder_says_that_a_site_comes_back_with_another_key(
    cli: Cli, two_founders: Sequence[LeadHome], tmp_path: Path
) -> None:
    home, bruno = two_founders
    site = Member("b", "site", key_of("b").public, "ecdsa-sha2-nistp384 b")
    for version, members in ((2, (site, *home.roster().members)), (3, home.roster().members)):
        signed = Signed.of("roster", replace(home.roster(), version=version, members=members))
        for founder in two_founders:
            signed = sign_roster(signed, *founder.founder())
        for founder in two_founders:
            founder.follow(signed)
    words, new = rotate("b", tmp_path)
    made = said(cli(*words))
    assert str(made["with"]).endswith("roster-4.partly-signed --as-new-site")
    assert "its ledger would begin anew" in cli("roster", "sign", made["file"], home="bruno")[2]
    assert said(cli("roster", "sign", made["file"], "--as-new-site", "--json", home="bruno"))["in force"] is True
    assert bruno.roster().member("b").identity_key == new.public


@pytest.mark.parametrize(("words", "says"), [(("nobody",), "not on the roster"), (("lead-a",), "is a lead")])
def test_only_a_site_on_the_roster_is_removed(founded: Cli, words: tuple[str, ...], says: str) -> None:
    code, _, err = founded("roster", "remove-site", *words, "--reason", "x")
    assert (code, says in err) == (1, True)


def test_a_leave_notice_counts_from_the_site_itself_alone(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    notice = LeaveNotice("north", "b", 5, 3, bytes(32), "moved", "2026-07-01T09:00:00Z")
    path = tmp_path / "leave.signed"
    for wrong, key in ((notice, "c"), (replace(notice, consortium="south"), "b"), (replace(notice, site="c"), "c")):
        path.write_bytes(sign_leave(wrong, key_of(key)).encode())
        assert founded("roster", "remove-site", "b", "--reason", "x", "--notice", path)[0] == 1
    path.write_bytes(sign_leave(notice, key_of("b")).encode())
    assert founded("roster", "remove-site", "b", "--reason", "x", "--notice", path)[0] == 0
    assert json.loads(home.removed.read_text())["notice"] == path.read_bytes().hex()


# -- the hub and the roster agree --------------------------------------------------------------------------------------


class FakeHub:
    """Gateways by key; `down` plays a hub that does not answer."""

    def __init__(self) -> None:
        self.registered: dict[bytes, flower.Node] = {}
        self.down = False

    def nodes(self) -> tuple[flower.Node, ...]:
        if self.down:
            raise ServerError("the hub cannot be reached")
        return tuple(self.registered.values())

    def register_node(self, file: Path, *, name: str) -> int:
        key = file.read_bytes()
        node = self.registered.setdefault(key, flower.Node(100 + len(self.registered), name, "registered", key))
        return node.node_id

    def unregister_node(self, node_id: int) -> None:
        self.registered = {key: node for key, node in self.registered.items() if node.node_id != node_id}

    def close(self) -> None:
        pass


def names(hub: FakeHub) -> set[str]:
    return {node.name for node in hub.registered.values()}


def test_registered_gateways_are_those_of_the_roster_however_often_it_is_asked(founded: Cli, home: LeadHome) -> None:
    hub = FakeHub()
    first = agree(home, hub, Path.read_bytes)
    assert (names(hub), first.shut_out, agree(home, hub, Path.read_bytes)) == (set(SITES), (), first)
    assert home.nodes() == first.nodes
    founded("roster", "remove-site", "b", "--reason", "x")
    second = agree(home, hub, Path.read_bytes)
    assert (names(hub), second.shut_out) == (set(SITES) - {"b"}, ("b",))
    assert home.nodes() == {site: node for site, node in first.nodes.items() if site != "b"}


def test_a_key_that_the_hub_does_not_take_keeps_no_other_site_out(
    founded: Cli, home: LeadHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, register = FakeHub(), FakeHub.register_node

    def picky(self: FakeHub, file: Path, *, name: str) -> int:
        if name == "b":
            raise ServerError("the hub refuses to register a node")
        return register(self, file, name=name)

    with monkeypatch.context() as patch:
        patch.setattr(FakeHub, "register_node", picky)
        with pytest.raises(ServerError, match="b: the hub refuses to register a node"):
            agree(home, hub, Path.read_bytes)
    assert names(hub) == set(home.nodes()) == set(SITES) - {"b"}
    assert set(agree(home, hub, Path.read_bytes).nodes) == set(SITES)  # as the hub tries again by itself


def test_a_running_hub_follows_the_roster_by_itself_and_after_an_outage(
    founded: Cli, home: LeadHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.registrar.LOOK_S", 0.01)
    monkeypatch.setattr("server.registrar.RETRY_S", 0.01)
    hub, changed = FakeHub(), threading.Event()
    hub.down = True

    class Watched(FakeHub):
        def nodes(self) -> tuple[flower.Node, ...]:
            changed.set()
            return hub.nodes()

        def register_node(self, file: Path, *, name: str) -> int:
            return hub.register_node(file, name=name)

        def unregister_node(self, node_id: int) -> None:
            hub.unregister_node(node_id)

    with Registrar(home, Watched, Path.read_bytes):
        assert changed.wait(30.0)
        hub.down = False
        _until(lambda: names(hub) == set(SITES))
        founded("roster", "remove-site", "b", "--reason", "x")
        _until(lambda: names(hub) == set(SITES) - {"b"})


def _until(claim: Callable[[], bool]) -> None:
    for _ in range(3000):
        if claim():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not within 30 s")


def test_every_roster_that_was_in_force_is_kept(founded: Cli, home: LeadHome) -> None:
    kept = [signed.document(Roster).version for signed in kept_rosters(home.rosters)]
    assert kept == list(range(1, home.roster().version + 1))


def test_a_hub_and_a_command_that_keep_a_roster_at_the_same_moment_do_not_meet(
    founded: Cli, home: LeadHome, tmp_path: Path
) -> None:
    signed, together = home.signed_roster(), threading.Barrier(8)

    def keep(_: int) -> None:
        for version in range(5):
            together.wait(30.0)
            keep_roster(tmp_path / f"kept-{version}", signed)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(keep, range(8))) == [None] * 8
    assert [each.digest for each in kept_rosters(tmp_path / "kept-4")] == [signed.digest]
