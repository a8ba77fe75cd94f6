"""A consortium lives: a hospital joins while the others are up, a copy of one is refused, one leaves, is removed and told why.

Real programs over TLS on loopback, enrolled as in life: three commands at a site, one at the hub. Nobody touches the others.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from books import check_books
from consortium_of_four import PATIENTS, Consortium, demo, wait_until

from client.guard_rpc import GuardClient
from client.home import Home
from client.hub_roster import RosterQuestions
from consortium.wire import Refusal, decode_reply, encode_keys_request
from privacy.ledger import read_keys
from privacy.verify import verify_ledger
from server.home import LeadHome
from tasks.cis_conversion.synthetic import write_hospitals

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # of busy machines; on an idle one it takes a tenth
FOLLOWED_S = 180.0  # the gateways ask every 20 s
NEWCOMER = "hospital-4"
LEAVES = "hospital-3"
ROTATES = "hospital-1"


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A consortium of its own: what happens to it here cannot be undone."""

    def write_patients(folder: Path) -> None:
        write_hospitals(folder, len(PATIENTS), PATIENTS, seed=1)
        (folder / NEWCOMER).rename(folder.parent / NEWCOMER)

    with Consortium(tmp_path_factory.mktemp("alive") / "c", write_patients=write_patients) as consortium:
        yield consortium


def board(consortium: Consortium, name: str) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(consortium.board(name).read_text())
    except (OSError, ValueError):
        return {}
    return found


def roster_at(consortium: Consortium, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(demo.run(*consortium.sites[name].command("--json", "roster")))
    return found


def version_at(consortium: Consortium, name: str) -> int:
    return Home(consortium.sites[name].home).load_roster().version


def answer_of(consortium: Consortium, name: str) -> str:
    """The code by which the guard refuses a keys request."""
    with closing(GuardClient(consortium.sites[name].home / "socket" / "guard.sock")) as guard:
        reply = decode_reply(guard.exchange("sa1_keys", encode_keys_request(b"no plan", b""), b"", 30.0)[0])
    assert isinstance(reply, Refusal)
    return reply.code


def test_a_site_joins_a_running_consortium_and_the_others_follow_untouched(alive: Consortium) -> None:
    site = demo.Site(NEWCOMER, alive.folder / "sites" / NEWCOMER, alive.folder / NEWCOMER, 80)
    told = json.loads(
        demo.run(*site.command("--json", "init", "--id", NEWCOMER, "--task", "cis_conversion", "--data", str(site.data)))
    )
    invite = alive.folder / "invite-4.json"
    request = str(site.home / "join-request.json")
    words = ("roster", "add-site", request, "--told", told["fingerprint"].upper(), "--out", str(invite), "--json")
    added = json.loads(demo.run(*alive.enrolment.lead(*words)))
    assert (added["version"], added["gateways at the hub"]) == (3, "4 registered, all others shut out")
    joined = json.loads(demo.run(*site.command("--json", "join", str(invite), "--founders", added["founders"].replace("-", " "))))
    same = ("founders", "hub certificate authority", "hub")
    assert [joined[name] for name in same] == [added[name] for name in same]
    (site.home / "policy.yaml").write_text(alive.enrolment.policy(), encoding="utf-8")
    alive.sites[NEWCOMER] = site
    alive.mend()
    for name in alive.sites:
        wait_until(lambda name=name: version_at(alive, name) == 3, f"{name} follows version 3", FOLLOWED_S)
    assert [line["changes"] for line in roster_at(alive, "hospital-1")["changes"]] == [[f"joined: {NEWCOMER} (site)"]]  # type: ignore[attr-defined]


def test_a_copy_of_a_site_is_refused_while_the_first_lives_and_both_sides_say_so(alive: Consortium) -> None:
    first = alive.sites["hospital-2"]
    copy = demo.Site("hospital-2", alive.folder / "copy", first.data, first.declared)
    shutil.copytree(first.home, copy.home, ignore=shutil.ignore_patterns("socket", "*.lock", "*.new"))
    alive.enrolment.processes.start("copy-gateway", *copy.command("gateway"))
    shown = copy.home / "gateway" / "state" / "gateway.json"
    wait_until(lambda: "another gateway with this site's key" in shown.read_text(), "the copy is told", 60.0)
    process = alive.enrolment.processes.started.pop()[1]
    process.terminate()
    process.wait(30)
    assert board(alive, "hospital-2")["supernode"] == "connected"
    log = (alive.lead_home / "hub" / "superlink.log").read_text()
    assert "site=hospital-2 state=second-gateway-refused" in log
    alive.kill("hospital-2-gateway")
    alive.start("hospital-2-gateway")
    wait_until(lambda: alive.connected("hospital-2"), "the first one is back", 40.0)  # a copy would have to wait for 45 s


def test_a_site_changes_its_keys_while_everything_runs_and_its_ledger_goes_on(alive: Consortium) -> None:
    """One command at the site, one at the lead; nothing is restarted, and the old key is let in no more."""
    before = alive.begin(alive.plan("schedule.rounds=1"))
    assert before.status(400.0) == 0, before.output
    site = alive.sites[ROTATES]
    home, parts = Home(site.home), {name: alive.parts[f"{ROTATES}-{name}"] for name in ("guard", "gateway")}
    old, old_node, spent = home.load_identity(), board(alive, ROTATES)["node_id"], entries_of(home)
    former = alive.folder / "former-supernode.key"
    shutil.copy(home.transport_key, former)
    asked = json.loads(demo.run(*site.command("--json", "rotate")))
    words = ("roster", "rotate-site", str(home.root / "rotate-request.json"), "--told", asked["new fingerprint"], "--json")
    rotated = json.loads(demo.run(*alive.enrolment.lead(*words)))
    version = LeadHome(alive.lead_home).roster().version
    assert rotated["version"] == version
    for name in alive.sites:
        wait_until(lambda name=name: version_at(alive, name) == version, f"{name} follows version {version}", FOLLOWED_S)
    wait_until(lambda: home.load_identity().public != old.public, "the guard signs with its new key", FOLLOWED_S)
    wait_until(lambda: alive.connected(ROTATES) and board(alive, ROTATES)["node_id"] != old_node, "connected with it", FOLLOWED_S)
    for name, process in parts.items():
        assert process.poll() is None, f"the {name} was not to be restarted"
    assert f"this site's key is not on roster version {version}" in told_at_the_hub(alive, former, version)
    assert entries_of(home)[: len(spent)] == spent
    assert read_keys(home.ledger).known[0] == old.public


def entries_of(home: Home) -> list[bytes]:
    return home.ledger.read_bytes().splitlines()


def told_at_the_hub(alive: Consortium, key: Path, have: int) -> str:
    """How a SuperNode key stands there, in words; `have`: version of the roster that its site follows."""
    tls = alive.lead_home / "hub" / "tls" / "ca.pem"
    with closing(RosterQuestions(f"127.0.0.1:{alive.enrolment.port}", tls, key)) as questions:
        return questions.ask(have).standing.words


def test_a_site_that_leaves_answers_nobody_is_told_that_it_was_removed_and_the_others_go_on(alive: Consortium) -> None:
    site, notice = alive.sites[LEAVES], alive.folder / "leave.signed"
    left = json.loads(demo.run(*site.command("--json", "leave", "--reason", "moved", "--out", str(notice), "--yes")))
    assert left["reason"] == "moved"
    assert answer_of(alive, LEAVES) == "LEFT"
    words = ("roster", "remove-site", LEAVES, "--reason", "left by itself", "--notice", str(notice), "--json")
    removed = json.loads(demo.run(*alive.enrolment.lead(*words)))
    assert removed["changes"] == [f"removed: {LEAVES} (site)"]
    assert removed["gateways at the hub"] == "3 registered, all others shut out"
    roster = LeadHome(alive.lead_home).roster()
    told = f"not on roster version {roster.version}: ask the lead"
    log = alive.folder / "logs" / f"{LEAVES}-gateway.log"
    wait_until(lambda: told in str(board(alive, LEAVES).get("roster")), "told in words", FOLLOWED_S)
    assert told in log.read_text()
    assert "Traceback" not in log.read_text()
    home = Home(site.home)
    remaining = {member.id for member in roster.sites}
    for name in remaining:
        wait_until(lambda name=name: version_at(alive, name) == roster.version, f"{name} follows", FOLLOWED_S)
    assert answer_of(alive, LEAVES) == "LEFT"
    alive.kill(f"{LEAVES}-guard", f"{LEAVES}-gateway")
    del alive.sites[LEAVES]
    assert verify_ledger(home.ledger.read_bytes(), home.load_identity().public).problems == ()
    last = alive.begin(alive.plan("schedule.rounds=1"))
    assert last.status(400.0) == 0, last.output
    assert set(last.done()[-1].survivors) == remaining
    assert {NEWCOMER, ROTATES} < remaining
    check_books(alive, last)
    for name in remaining:
        home = Home(alive.sites[name].home)
        assert verify_ledger(home.ledger.read_bytes(), home.load_identity().public).problems == ()
