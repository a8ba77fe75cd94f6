"""`wardround-lead`: found, enrol, plan, sign, look. Exit status 0 done, 1 refused, 2 usage or configuration."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client.enrol import read_invite
from consortium.documents import Signed
from consortium.identity import SigningKey, fingerprint
from consortium.plan import verify_plan
from consortium.roster import sign_roster
from server.cli import COMMANDS, main
from server.errors import ServerError
from server.folder import RunFolder
from server.home import LeadHome

Cli = Callable[..., tuple[int, str, str]]
SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["--home", str(tmp_path / "lead"), *words])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def home(tmp_path: Path) -> LeadHome:
    return LeadHome(tmp_path / "lead")


def request(tmp_path: Path, site: str) -> tuple[str, str]:
    """A join request as a site writes it, and the fingerprint its IT reads out."""
    key = SigningKey.from_seed(site.encode().ljust(32, b"."))
    path = tmp_path / f"{site}.json"
    found = {"id": site, "identity_key": key.public.hex(), "transport_key": f"ecdsa {site}", "fingerprint": "not looked at"}
    path.write_text(json.dumps(found))
    return str(path), fingerprint(key.public)


@pytest.fixture
def founded(cli: Cli, tmp_path: Path) -> Cli:
    assert cli("hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "127.0.0.1")[0] == 0
    files, told = zip(*(request(tmp_path, site) for site in SITES), strict=True)
    assert cli("roster", "add-site", *files, *(word for one in told for word in ("--told", one)))[0] == 0
    (tmp_path / "lead" / "nodes.json").write_text(json.dumps({site: 7 + at for at, site in enumerate(SITES)}))
    return cli


def test_a_consortium_is_founded_once_and_its_keys_are_private(cli: Cli, home: LeadHome) -> None:
    words = ("hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "127.0.0.1")
    assert cli(*words)[0] == 0
    assert [file.stat().st_mode & 0o777 for file in (home.lead_key, home.founder_key)] == [0o600, 0o600]
    before = home.roster_file.read_bytes()
    code, _, err = cli(*words)
    assert (code, "already holds a consortium" in err) == (1, True)
    assert home.roster_file.read_bytes() == before


def test_sites_are_added_and_the_colluders_grow_to_a_third(founded: Cli, home: LeadHome) -> None:
    roster = home.roster()
    assert ([member.id for member in roster.sites], roster.version, roster.colluders) == (list(SITES), 2, 1)
    shown = json.loads(founded("roster", "show", "--json")[1])
    assert [member["id"] for member in shown["members"] if member["role"] == "site"] == list(SITES)


def test_a_site_whose_fingerprint_was_not_told_is_not_added(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    file, _ = request(tmp_path, "oslo")
    code, _, err = founded("roster", "add-site", file, "--told", "0000-0000-0000-0000-0000-0000-0000-0000")
    assert (code, "you were told 0000" in err) == (1, True)
    assert home.roster().version == 2


def test_a_site_cannot_come_back_with_other_keys(founded: Cli, tmp_path: Path) -> None:
    key = SigningKey.from_seed(b"\x09" * 32)
    path = tmp_path / "again.json"
    path.write_text(json.dumps({"id": "hospital-a", "identity_key": key.public.hex(), "transport_key": "ecdsa new"}))
    code, _, err = founded("roster", "add-site", str(path), "--told", fingerprint(key.public))
    assert (code, "with other keys" in err) == (1, True)


def test_a_roster_not_signed_by_the_pinned_founders_is_never_used(founded: Cli, home: LeadHome) -> None:
    home.founders_pin.write_text("0000-0000-0000-0000-0000-0000-0000-0000\n")
    code, _, err = founded("roster", "show")
    assert (code, "do not continue" in err) == (1, True)


def test_a_second_roster_of_the_same_version_is_refused_as_at_the_sites(founded: Cli, home: LeadHome) -> None:
    """Two founders that each add a site make two rosters of one version: taking turns would silence every site."""
    name, key = home.founder()
    before, roster = home.roster_file.read_bytes(), home.roster()
    with pytest.raises(ServerError, match="two different rosters have version 2"):
        home.follow(sign_roster(replace(roster, held_out_fraction=0.5), name, key))
    with pytest.raises(ServerError, match="older"):
        home.follow(sign_roster(replace(roster, version=1), name, key))
    assert home.roster_file.read_bytes() == before
    assert home.follow(sign_roster(roster, name, key)) == roster
    assert home.follow(sign_roster(replace(roster, version=3, held_out_fraction=0.5), name, key)).version == 3


def test_of_two_commands_at_once_the_second_meets_the_firsts_roster(founded: Cli, home: LeadHome) -> None:
    """Without turns both would find version 2, and sites that took the first one's version 3 would refuse the second's."""
    (name, key), roster = home.founder(), home.roster()
    twins = [sign_roster(replace(roster, version=3, held_out_fraction=share), name, key) for share in (0.1, 0.2, 0.3, 0.4)]
    started, outcomes = threading.Barrier(len(twins)), list[str]()

    def follow(signed: Signed) -> None:
        started.wait()
        try:
            outcomes.append(str(home.follow(signed).held_out_fraction))
        except ServerError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=follow, args=(signed,)) for signed in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    won = [outcome for outcome in outcomes if "two different rosters have version 3" not in outcome]
    assert won == [str(home.roster().held_out_fraction)]


def test_an_invite_is_what_a_site_reads(founded: Cli, home: LeadHome, tmp_path: Path) -> None:
    assert founded("roster", "invite", "--hub", "hub.example.org:443", "--out", str(tmp_path / "invite.json"))[0] == 0
    invite, roster = read_invite(tmp_path / "invite.json").verify(home.founders_pin.read_text().strip())
    assert invite.hub == "hub.example.org:443"
    assert invite.ca_pem == home.hub_ca.read_text()
    assert roster == home.roster()


def test_a_plan_is_costed_signed_and_verifies_against_the_roster(founded: Cli, home: LeadHome) -> None:
    code, out, _ = founded("plan", "federation=roster", "privacy=none", "run_id=first", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["cost"]["minimum_survivors"] == 3
    path = home.plans / "first.plan"
    assert found["file"] == str(path)
    assert founded("sign", str(path))[0] == 0
    plan = verify_plan(Signed.decode(path.read_bytes(), "plan"), home.roster())
    assert plan.digest.hex() == found["digest"]
    assert [participant.node_id for participant in plan.participants] == [7, 8, 9, 10]


def test_a_plan_without_privacy_says_so_before_it_is_signed(founded: Cli) -> None:
    assert "NOT PRIVATE" in founded("plan", "federation=roster", "privacy=none")[1]


def test_choices_may_stand_on_either_side_of_options(founded: Cli, home: LeadHome) -> None:
    words = ("plan", "federation=roster", "--json", "privacy=none", "--nodes", str(home.root / "nodes.json"), "run_id=later")
    code, out, _ = founded(*words)
    assert code == 0
    assert json.loads(out)["file"] == str(home.plans / "later.plan")


def test_a_plan_of_another_lead_is_not_signed(
    founded: Cli, home: LeadHome, tmp_path: Path, run_folder: Callable[..., RunFolder]
) -> None:
    home.lead_id.write_text("lead-b\n")
    code, _, err = founded("sign", str(run_folder().plan_file))
    assert (code, "lead-a's" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("invent",), 2),
        (("plan", "--nodes", "absent.json"), 2),
        (("plan", "privacy=epsilon9"), 2),
        (("plan", "--json", "privacy"), 2),
        (("plan", "--jsn", "privacy=none"), 2),
        (("status", "absent", "privacy=none"), 2),
        (("plan", "schedule.round=9"), 2),
        (("sign", "absent.plan"), 2),
        (("simulate", "--out", "x", "--held-out", "1.0"), 2),
        (("simulate", "--out", "x", "--held-out", "a third"), 2),
        (("status", "absent"), 1),
        (("report", "absent"), 1),
        (("model", "export", "absent", "--out", "x"), 1),
        (("roster", "add-site", "absent.json", "--told", "1"), 2),
        (("roster", "add-site", "a.json", "b.json", "--told", "1"), 2),
    ],
)
def test_exit_status_tells_usage_from_refusal(founded: Cli, words: tuple[str, ...], code: int) -> None:
    found, _, err = founded(*words)
    assert found == code
    assert err.startswith(("error: ", "usage: "))
    assert "Traceback" not in err


def test_before_a_consortium_exists_commands_say_what_to_do(cli: Cli) -> None:
    code, _, err = cli("roster", "show")
    assert (code, "hub init" in err) == (2, True)


def test_runs_are_looked_at_by_folder_or_id(cli: Cli, home: LeadHome, run_folder: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = run_folder()
    home.runs.mkdir(parents=True)
    (home.runs / "run-7").symlink_to(folder.path)
    by_id, by_path = cli("status", "run-7", "--json")[1], cli("--json", "status", str(folder.path))[1]
    assert json.loads(by_id)["metrics"] == json.loads(by_path)["metrics"] == {"auc": 0.8, "brier": 0.19}
    assert [row["run_id"] for row in json.loads(cli("status", "--json")[1])] == ["run-7"]
    assert json.loads(cli("compare", "run-7", str(folder.path), "--json")[1])[0]["rounds"] == 3
    assert Path(json.loads(cli("report", "run-7", "--out", str(tmp_path / "r.html"), "--json")[1])["file"]).is_file()
    exported = json.loads(cli("model", "export", "run-7", "--out", str(tmp_path / "m"), "--json")[1])
    assert exported["files"] == ["card.md", "model.json", "weights.npz"]


@pytest.mark.parametrize("verb", sorted(verb for verb, (module, _) in COMMANDS.items() if module != "server.cli_run"))
def test_every_command_has_help(cli: Cli, verb: str) -> None:
    code, out, _ = cli(verb, "--help")
    assert (code, verb in out) == (0, True)


def test_looking_at_a_run_imports_nothing_that_trains_or_connects(run_folder: Callable[..., RunFolder]) -> None:
    program = (
        "import sys; from server.cli import main; main(['status', sys.argv[1]]); "
        "print([name for name in ('torch', 'flwr', 'mlflow', 'hydra', 'pandas', 'nibabel', 'client') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(run_folder().path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout.splitlines()[-1] == "[]"
