"""`wardround-site`: what a person at a hospital types, what they read, and with which status it ends."""

import json
import stat
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from guards_in_process import ENDLESS, SITES, Consortium, answered, code_of, terms
from invites import invite_to

from client.cli import main
from client.config import load_config
from client.home import Home
from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import TaskRef
from consortium.roster import Founder, Roster, founders_fingerprint, sign_roster
from consortium.statement import EpsilonStatement, verify_statement
from privacy.entries import SpendDetails
from privacy.events import NonPrivateEvent, Spend
from privacy.verify import verify_ledger

SITE = SITES[0]
WAITING = ENDLESS.replace("auto_approve: true", "auto_approve: false")


class Site:
    """The program, as the people of one site call it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = Home(root)
        self._capsys = capsys

    def __call__(self, *words: object, status: int = 0) -> str:
        self._capsys.readouterr()
        assert main(["--home", str(self.home.root), *map(str, words)]) == status
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        return shown.out if status == 0 else shown.out + shown.err

    def read(self, *words: object) -> object:
        return json.loads(self("--json", *words))


@pytest.fixture
def site(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> Site:
    """The first hospital, joined, its policy wanting a steward."""
    consortium.policy(WAITING)
    return Site(consortium.folder / SITE, capsys)


@pytest.fixture
def fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path / "fresh", capsys)


def invite(consortium: Consortium, folder: Path, roster: Signed | None = None, **changes: str) -> Path:
    path = folder / "invite.json"
    path.write_bytes(invite_to(roster or consortium.signed_roster, "lead-a", consortium.lead, **changes).encode())
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- becoming a site -------------------------------------------------------------------------------------------------------


def test_init_makes_keys_that_only_their_owner_reads_and_prints_public_halves_alone(fresh: Site, hospitals: Path) -> None:
    shown = fresh("init", "--id", "new", "--task", "cis_conversion", "--data", hospitals / SITE)
    home = fresh.home
    assert {path: mode(path) for path in (home.identity, home.transport_key)} == {home.identity: 0o600, home.transport_key: 0o600}
    assert mode(home.root) == 0o700
    request = json.loads((home.root / "join-request.json").read_text())
    assert request["fingerprint"] in shown
    assert request["identity_key"] == home.load_identity().public.hex()
    secrets = home.identity.read_text().splitlines()[1], home.transport_key.read_text().splitlines()[1]
    assert not [secret for secret in secrets if secret in shown + json.dumps(request)]


def test_init_twice_is_refused_and_keeps_the_keys(fresh: Site, hospitals: Path) -> None:
    words = ("init", "--id", "new", "--task", "cis_conversion", "--data", hospitals / SITE)
    fresh(*words)
    before = fresh.home.identity.read_bytes()
    assert "already a site" in fresh(*words, status=2)
    assert fresh.home.identity.read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("site id", ("--id", "Bad Id", "--task", "cis_conversion")), ("stroke", ("--id", "ok", "--task", "stroke"))],
)
def test_init_says_what_is_wrong(fresh: Site, tmp_path: Path, wrong: str, words: tuple[str, ...]) -> None:
    assert wrong in fresh("init", *words, "--data", tmp_path, status=2)
    assert not fresh.home.identity.exists()


def test_join_pins_the_founders_and_can_be_repeated(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    before = consortium.ledger_bytes()
    path = invite(consortium, tmp_path)
    for _ in range(2):
        assert "joined test" in site("join", path, "--founders", consortium.pin)
    assert consortium.ledger_bytes() == before
    assert "hub.example.org:443" in site.home.config.read_text()
    assert site.home.founders_pin.read_text().strip() == consortium.pin


def test_a_fingerprint_that_was_told_otherwise_stops_the_join(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    told = "0000-" * 7 + "0000"
    assert "do not join" in site("join", invite(consortium, tmp_path), "--founders", told, status=2)


def other_founders(consortium: Consortium) -> tuple[Signed, str]:
    mallory = SigningKey.from_seed(b"m" * 32)
    forged = replace(consortium.roster, version=9, founders=(Founder("mallory", mallory.public),))
    return sign_roster(forged, "mallory", mallory), founders_fingerprint(forged.founders, 1)


def test_other_founders_are_refused_also_when_they_are_told(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    """A second invite with its own fingerprint, and somebody on the telephone who reads it out."""
    forged, pin = other_founders(consortium)
    before = site.home.roster.read_bytes()
    path = invite(consortium, tmp_path, forged)
    assert "other founders" in site("join", path, "--founders", pin, status=2)
    assert "names founders" in site("join", path, "--founders", consortium.pin, status=2)
    site.home.roster.unlink()
    assert site("join", path, "--founders", pin, status=2)
    site.home.roster.write_bytes(before)
    assert site.home.load_roster() == consortium.roster


def signed_again(consortium: Consortium, **changes: object) -> Signed:
    changed: Roster = replace(consortium.roster, **changes)  # type: ignore[arg-type]
    return sign_roster(changed, "founder", consortium.founder)


def test_rosters_only_rise(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    second = signed_again(consortium, version=2, colluders=1)
    site("join", invite(consortium, tmp_path, second), "--founders", consortium.pin)
    assert "older" in site("join", invite(consortium, tmp_path), "--founders", consortium.pin, status=2)
    twin = signed_again(consortium, version=2, colluders=0)
    assert "two different rosters" in site("join", invite(consortium, tmp_path, twin), "--founders", consortium.pin, status=2)
    assert site.home.load_roster().version == 2
    assert site.home.load_roster().colluders == 1


def test_a_roster_without_this_site_or_with_another_key_writes_nothing(
    consortium: Consortium, fresh: Site, hospitals: Path, tmp_path: Path
) -> None:
    path = invite(consortium, tmp_path)
    for name, said in (("stranger", "not on the roster"), (SITE, "another key"), ("lead-a", "another key")):
        home = Site(tmp_path / f"as-{name}", fresh._capsys)
        home("init", "--id", name, "--task", "cis_conversion", "--data", hospitals / SITE)
        assert said in home("join", path, "--founders", consortium.pin, status=1 if name == "stranger" else 2)
        assert not home.home.roster.exists()
        assert not home.home.ledger.exists()


def test_a_lost_ledger_is_not_replaced_by_joining_again(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    """Else a site's whole budget would come back with two deleted files and an invite."""
    home = site.home
    home.ledger.unlink()
    home.ledger.with_name("ledger.jsonl.head").unlink()
    assert "restore" in site("join", invite(consortium, tmp_path), "--founders", consortium.pin, status=2)
    assert not home.ledger.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"hub": "h:1", "ca": "x", "founders": "PIN", "roster": "00"}',
        '{"format": "wardround/invite/2"}',
        '{"format": "wardround/invite/2", "invite": 5, "roster": "00"}',
        '{"format": "wardround/invite/2", "invite": "zz", "roster": "00"}',
        '{"format": "wardround/invite/1", "invite": "00", "roster": "00"}',
    ],
)
def test_an_invite_that_is_none_is_a_usage_error(consortium: Consortium, site: Site, tmp_path: Path, content: str) -> None:
    path = tmp_path / "invite.json"
    path.write_text(content.replace("PIN", consortium.pin))
    before = site.home.config.read_bytes()
    assert "invite" in site("join", path, "--founders", consortium.pin, status=2)
    assert site.home.config.read_bytes() == before


# -- is everything ready? ----------------------------------------------------------------------------------------------------


def test_check_names_every_problem_on_a_line_of_its_own(site: Site) -> None:
    rows = site.read("check", "--offline")
    assert isinstance(rows, list)
    assert {row["state"] for row in rows} == {"ok"}
    assert {"configuration", "identity key", "roster", "policy", "ledger", "data", "device", "disk"} <= {
        row["check"] for row in rows
    }
    site.home.policy.unlink()
    site.home.identity.chmod(0o644)
    lines = site("check", "--offline", status=1).splitlines()
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 2
    assert "chmod 600" in problems[0]
    assert "policy.yaml" in problems[1]
    assert "2 problems" in lines[-1]


def test_data_validate_shows_findings_and_no_values(site: Site, hospitals: Path) -> None:
    shown = site("data", "validate")
    ids = [line.split(";")[0] for line in (hospitals / SITE / "cis_export.csv").read_text("cp1252").splitlines()[1:]]
    assert "different rows with one patient id" in shown or "no patient id" in shown
    assert not [name for name in ids if len(name) > 4 and name in shown]
    report = site.read("data", "validate")
    assert isinstance(report, dict)
    assert report["patients"] == 60


# -- plans -------------------------------------------------------------------------------------------------------------------


def ask(consortium: Consortium) -> str:
    run = consortium.run()
    code = code_of(run.ask_keys())
    assert code == "NOT_APPROVED"
    return run.plan.run_id


def test_a_steward_lists_reads_approves_and_withdraws(consortium: Consortium, site: Site) -> None:
    assert "none has reached" in site("plans", "list")
    run = ask(consortium)
    assert site.read("plans", "list")[0]["decision"] == "waiting"  # type: ignore[index]
    facts = site.read("plans", "show", run)
    assert isinstance(facts, dict)
    assert facts["leaves to train"].startswith("update[16], histogram[8]: masked, at most 4 times")
    assert facts["leaves to describe"].startswith("statistics[3]: masked, at most 1 times")
    assert facts["policy and budget"] == "nothing speaks against it"
    assert "2.2" in facts["epsilon, one update exposed"]
    site("plans", "approve", facts["digest"][:8])
    assert answered(consortium.run().ask_keys())
    site("withdraw", run, "--reason", "the ethics board asked")
    assert code_of(consortium.run().ask_keys()) == "DECLINED"
    assert site.read("plans", "list")[0]["decision"] == "refuse"  # type: ignore[index]


def test_a_steward_is_told_that_a_plan_tests_one_site_alone(consortium: Consortium, site: Site) -> None:
    usual = consortium.plan()
    plan = replace(usual, model=replace(usual.model, options=(("leave_out", SITES[1]),)))
    consortium.policy(ENDLESS.replace("version: 1", "version: 2").replace("auto_approve: true", "tested_alone: true"))
    assert code_of(consortium.run(plan).ask_keys()) == "NOT_APPROVED"
    facts = site.read("plans", "show", plan.run_id)
    assert isinstance(facts, dict)
    assert facts["MIND, figures"].startswith(f"of {SITES[1]} alone")
    assert facts["policy and budget"] == "nothing speaks against it"
    consortium.policy(ENDLESS)
    assert site.read("plans", "show", plan.run_id)["policy and budget"].startswith("tested-alone: leave_out is")  # type: ignore[index, call-overload]


def test_refusing_needs_a_reason_and_until_needs_a_time(
    consortium: Consortium, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ask(consortium)
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(site.home.root), "plans", "refuse", run])
    assert ended.value.code == 2
    assert "until" in site("plans", "approve", run, "--until", "tomorrow", status=2)
    assert site.read("plans", "list")[0]["decision"] == "waiting"  # type: ignore[index]
    site("plans", "approve", run, "--until", "2020-01-01T00:00:00Z")
    assert code_of(consortium.run().ask_keys()) == "NOT_APPROVED"


def test_a_run_id_that_two_plans_share_must_be_told_apart_by_digest(consortium: Consortium, site: Site) -> None:
    run = ask(consortium)
    consortium.run(consortium.plan(schedule=replace(consortium.plan().schedule, max_evaluate=2))).ask_keys()
    assert "2 plans match" in site("plans", "approve", run, status=2)
    assert "0 plans match" in site("plans", "approve", "nothing", status=2)


def test_a_plan_without_privacy_says_so_wherever_it_is_shown(consortium: Consortium, site: Site) -> None:
    consortium.policy(WAITING + "allow_non_private: true\n")
    run = consortium.run(consortium.plan(privacy=terms("none")))
    run.ask_keys()
    for words in (("plans", "list"), ("plans", "show", "run-1"), ("plans", "approve", "run-1")):
        assert "NOT PRIVATE" in site(*words)
    for other in SITES[1:]:
        consortium.policy(ENDLESS + "allow_non_private: true\n", other)
    consortium.approve(run, *SITES[1:])
    run.round(run.epoch(), 1)
    assert "NOT PRIVATE" in site("budget")


def test_what_a_plan_says_is_shown_and_never_obeyed(consortium: Consortium, site: Site) -> None:
    """Words in a signed plan must not colour, hide or link anything on the steward's screen."""
    words = "[red]1[/red][link=http://x]y[/link] [/]"
    consortium.run(consortium.plan(task=TaskRef("cis_conversion", words, ("sex",), ("clinical",)))).ask_keys()
    shown = site("plans", "list").replace("\n", "").replace(" ", "")
    for part in ("[red]", "[/red]", "[/]"):
        assert part in "".join(letter for letter in shown if letter not in "│┃")


def test_a_stray_file_among_the_plans_stops_nobody(consortium: Consortium, site: Site) -> None:
    ask(consortium)
    (site.home.plans / "notes.plan").write_text("remember the milk")
    assert len(site.read("plans", "list")) == 1  # type: ignore[arg-type]


def test_pause_stops_every_answer_until_it_is_taken_off(consortium: Consortium, site: Site) -> None:
    ask(consortium)
    site("pause")
    assert code_of(consortium.run().ask_keys()) == "PAUSED"
    site("pause", "--off")
    site("pause", "--off")
    assert code_of(consortium.run().ask_keys()) == "NOT_APPROVED"


# -- what was spent, what left -------------------------------------------------------------------------------------------------


@pytest.fixture
def after_a_round(consortium: Consortium, site: Site) -> Site:
    consortium.policy(ENDLESS)
    run = consortium.run()
    run.round(run.epoch(), 2)
    return site


def test_budget_shows_what_was_spent_and_what_is_left_while_the_guard_runs(consortium: Consortium, after_a_round: Site) -> None:
    (row,) = after_a_round.read("budget")  # type: ignore[misc]
    spent = consortium.sites_open[SITE].ledger.epsilon(1e-5)
    assert float(row["epsilon spent"]) == pytest.approx(spent, abs=0.005)
    assert float(row["left"]) == pytest.approx(50 - spent, abs=0.005)


def test_a_site_publishes_one_figure_and_what_it_is_of_and_nothing_else(
    consortium: Consortium, after_a_round: Site, tmp_path: Path
) -> None:
    file, ledger = tmp_path / "a.statement", consortium.sites_open[SITE].ledger
    egress, whole = after_a_round.read("egress"), after_a_round.home.ledger.read_bytes()
    shown = after_a_round("budget", "--publish", file, "--run", "run-1")
    signed = Signed.decode(file.read_bytes(), "epsilon-statement")
    made = verify_statement(signed, SITE, consortium.roster.member(SITE).identity_key)
    assert json.loads(signed.body).keys() == {field.name for field in fields(EpsilonStatement)}
    plan = consortium.run().plan
    assert (made.plan_digest, made.delta, made.entries, made.ledger_head) == (plan.digest, 1e-5, ledger.entries, ledger.head)
    assert made.epsilon_exposed == ledger.epsilon(1e-5) > 0.0
    assert f"{made.epsilon_exposed:.4f}" in shown
    assert (after_a_round.read("egress"), after_a_round.home.ledger.read_bytes()) == (egress, whole)
    assert "name a new file" in after_a_round("budget", "--publish", file, "--run", "run-1", status=2)


def test_a_statement_says_the_total_over_all_runs_and_not_private_where_nothing_bounds_it(
    consortium: Consortium, after_a_round: Site, tmp_path: Path
) -> None:
    ledger = consortium.sites_open[SITE].ledger
    other = SpendDetails("run-0", bytes(32), 1, "train", 1e-5, "s", 0.25, 20, 400.0, "all/1", "grid/1", "0.1.0", bytes(32))
    ledger.spend(other, (Spend(NonPrivateEvent(), "train"),), datetime.now(UTC))
    assert "NOT PRIVATE" in after_a_round("budget", "--publish", tmp_path / "a.statement", "--run", "run-1")
    signed = Signed.decode((tmp_path / "a.statement").read_bytes(), "epsilon-statement")
    assert signed.document(EpsilonStatement).epsilon_exposed == -1.0


def test_a_damaged_ledger_or_an_unknown_run_publishes_nothing(after_a_round: Site, tmp_path: Path) -> None:
    file = tmp_path / "a.statement"
    assert "0 plans match" in after_a_round("budget", "--publish", file, "--run", "unheard-of", status=2)
    assert "--publish" in after_a_round("budget", "--run", "run-1", status=2)
    path = after_a_round.home.ledger
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":3'))
    assert "does not verify" in after_a_round("budget", "--publish", file, "--run", "run-1", status=1)
    assert not file.exists()


def test_egress_shows_each_part_that_left(after_a_round: Site) -> None:
    (row,) = after_a_round.read("egress")  # type: ignore[misc]
    assert (row["run"], row["answers"], row["refusals"]) == ("run-1", 4, 0)
    lines = after_a_round.read("egress", "run-1", "--round", "2")
    assert [line["kind"] for line in lines] == ["update (train)", "vote"]  # type: ignore[index]
    assert lines[0]["parts"][1]["what"] == "masked header and body"  # type: ignore[index]
    assert "egress of run-1" in after_a_round("egress", "run-1")


def test_an_exported_ledger_verifies_and_is_never_written_over_a_file(after_a_round: Site, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    after_a_round("ledger", "export", copy)
    assert verify_ledger(copy.read_bytes(), after_a_round.home.load_identity().public).ok
    assert "name a new file" in after_a_round("ledger", "export", copy, status=2)


def test_an_export_during_a_write_ends_at_the_last_whole_entry(after_a_round: Site, tmp_path: Path) -> None:
    with after_a_round.home.ledger.open("ab") as ledger:
        ledger.write(b'{"half":')
    after_a_round("ledger", "export", tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_bytes().endswith(b"}\n")


def test_a_damaged_ledger_is_exported_and_budgeted_by_nobody(after_a_round: Site, tmp_path: Path) -> None:
    path = after_a_round.home.ledger
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for words in (("budget",), ("ledger", "export", tmp_path / "copy")):
        assert "does not verify" in after_a_round(*words, status=1)
    assert not (tmp_path / "copy").exists()


# -- the program itself --------------------------------------------------------------------------------------------------------


COMMANDS = (
    "", "init", "join", "check", "data validate", "plans list", "plans show", "plans approve", "plans refuse", "withdraw", "pause",
    "budget", "egress", "ledger export", "guard", "gateway", "status", "roster", "leave",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_on_one_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: wardround-site" in shown
    assert len(shown.splitlines()) <= 45


@pytest.mark.parametrize("words", [(), ("nonsense",), ("plans",), ("init", "--id", "x"), ("egress", "run", "--round", "x")])
def test_wrong_input_ends_with_status_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("plans", "list"), ("budget",), ("data", "validate"), ("guard",), ("gateway",)])
def test_a_folder_that_is_no_site_is_a_configuration_error(fresh: Site, words: tuple[str, ...]) -> None:
    assert "init" in fresh(*words, status=2) or words == ("budget",)


@pytest.mark.parametrize(
    "content", ["site: x\nunknown: 1\n", "site: [", "- a\n", "threads: many\nsite: a\ntask: b\ndata: c\n", "site: a\n"]
)
def test_a_site_yaml_with_a_mistake_names_it(site: Site, content: str) -> None:
    site.home.config.write_text(content)
    assert "site.yaml" in site("plans", "list", status=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
@pytest.mark.parametrize("words", [("guard",), ("audit", "--rounds", "1", "--canaries", "200")])
def test_what_computes_says_that_the_machine_has_no_accelerator(site: Site, words: tuple[str, ...]) -> None:
    written = site.home.config.read_text()
    assert 'device: "auto"' in written
    site.home.config.write_text(written.replace('device: "auto"', "device: cuda"))
    program = [sys.executable, "-m", "client.cli", "--home", str(site.home.root), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    assert "site.yaml asks for device cuda, and " in done.stderr
    assert "ready" not in done.stderr


def test_a_hub_from_an_invite_is_read_back_as_it_was_written(consortium: Consortium, site: Site, tmp_path: Path) -> None:
    for hub in ("127.0.0.1:9092", "[::1]:443", "hub.example.org:443"):
        site("join", invite(consortium, tmp_path, hub=hub), "--founders", consortium.pin)
        assert load_config(site.home).hub == hub


def test_the_installed_program_runs_and_says_json(site: Site) -> None:
    program = [sys.executable, "-m", "client.cli", "--home", str(site.home.root), "--json", "plans", "list"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")
    refused = subprocess.run([*program[:-2], "plans", "show", "none"], capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: 0 plans match")


def test_looking_at_a_site_imports_nothing_that_computes_or_connects(tmp_path: Path) -> None:
    """Such an import takes longer than the command, on every call."""
    program = (
        "import sys; from client.cli import main; "
        "main(['--home', sys.argv[1], 'init', '--id', 'hospital-a', '--task', 'cis_conversion', '--data', sys.argv[1]]); "
        "main(['--home', sys.argv[1], 'status']); "
        "slow = ('torch', 'flwr', 'mlflow', 'hydra', 'pandas', 'nibabel', 'scipy', 'dp_accounting', 'opacus', 'server'); "
        "print([name for name in slow if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout.splitlines()[-1] == "[]", found.stdout
