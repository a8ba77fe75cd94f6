"""What release 0.1.0 wrote, opened with today's code: sites spend on, a run that was cut off ends, auditors and models agree."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from client.cli import main as site_main
from client.errors import ConfigError
from client.guard import Guard
from client.home import Home
from client.loopback import open_guards
from client.migrate import WRITTEN_BY
from client.plans import PlanStore
from client.rotation import prepare
from consortium import version
from consortium.approval import Approval
from consortium.identity import fingerprint
from consortium.plan import sign_plan
from consortium.roster import founders_fingerprint
from consortium.wire import Refusal, Reply, Request, decode_reply
from privacy import cli as audit
from privacy.ledger import Ledger, head_path, read_keys
from privacy.verify import verify_ledger
from server import rounds
from server.cli import main as lead_main
from server.config import load_config
from server.folder import RunFolder, create_folder
from server.home import LeadHome
from server.planning import make_plan
from server.state import RunState, read_state
from server.transport import Patience
from tasks.cohorts import open_cohort
from tasks.exported import inputs_of, model_of, outputs_of, read_exported, task_of

RELEASE = Path(__file__).parents[1] / "fixtures" / "releases" / "0.1.0"
SITES = tuple(f"hospital-{number}" for number in range(1, 5))
DELTA = 1e-4
CUT_AFTER = 4  # rounds that counted before the run was cut off


@dataclass
class InProcess:
    """The release's sites, their guards opened by today's code."""

    root: Path
    guards: dict[str, Guard] = field(default_factory=dict)
    codes: set[str] = field(default_factory=set)

    @property
    def failures(self) -> Mapping[str, str]:
        return {}

    def home(self, site: str) -> Home:
        return Home(self.root / "sites" / site)

    @property
    def lead(self) -> LeadHome:
        return LeadHome(self.root / "lead")

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.lead.runs / name)

    def open(self) -> None:
        self.guards = open_guards(self.root / "sites", SITES)

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        for site, request in requests.items():
            control, y = self.guards[site].answer(kind, request.control, request.body)
            if isinstance(found := decode_reply(control), Refusal):
                self.codes.add(found.code)
            yield site, Reply(control, bytes(y))

    def close(self) -> None:
        for guard in self.guards.values():
            guard._site.ledger.close()
        self.guards = {}

    def epsilon(self, site: str) -> float:
        home = self.home(site)
        with Ledger.open(home.ledger, home.load_identity(), datetime.now(UTC)) as ledger:
            return ledger.epsilon(DELTA)


def copied(folder: Path) -> InProcess:
    root = Path(shutil.copytree(RELEASE, folder / "release"))
    for path in root.rglob("*"):  # a version control system keeps no such modes
        if path.is_file() and path.name in ("identity.pem", "population.key", "founder.key", "lead.key", "supernode.key"):
            path.chmod(0o600)
        elif path.is_dir() and root / "sites" in path.parents:
            path.chmod(0o700)
    return InProcess(root)


@pytest.fixture
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    found = copied(tmp_path_factory.mktemp("r"))  # a short folder: the name of a guard's socket has 107 bytes at most
    yield found
    found.close()


@dataclass(frozen=True)
class Resumed:
    world: InProcess
    before: dict[str, float]
    state: RunState


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """The run that 0.1.0 left in the middle of a vote, driven to its end; all ledgers closed."""
    world = copied(tmp_path_factory.mktemp("resumed"))
    before = {site: world.epsilon(site) for site in SITES}
    world.open()
    with contextlib.closing(world):
        state = rounds.run(world.run("cut-off").path, world)
    return Resumed(world, before, state)


def test_the_run_that_was_cut_off_ends_with_every_site(resumed: Resumed) -> None:
    assert (resumed.state.phase, resumed.state.resumes) == ("finished", 1)
    assert resumed.world.codes <= {"EPOCH"}  # the guards' memory is new, nothing else is
    assert len([done for done in resumed.state.done if done.survivors == SITES]) > CUT_AFTER
    assert all(done.survivors == SITES for done in resumed.state.done)


def test_spending_goes_on_from_what_was_spent_and_never_falls(resumed: Resumed) -> None:
    after = {site: resumed.world.epsilon(site) for site in SITES}
    assert min(resumed.before.values()) > 0.0
    assert all(after[site] > resumed.before[site] for site in SITES)


def test_ledgers_verify_from_the_first_line_of_the_old_release_to_the_last_of_this_one(resumed: Resumed) -> None:
    for site in SITES:
        home = resumed.world.home(site)
        old = (RELEASE / "sites" / site / home.ledger.name).read_bytes()
        data = home.ledger.read_bytes()
        assert data.startswith(old)
        assert data.count(b'"kind":"population-changed"') == old.count(b'"kind":"population-changed"')
        plans = [resumed.world.run(name).plan() for name in ("finished", "cut-off")]
        report = verify_ledger(data, home.load_identity().public, head_path(home.ledger).read_bytes(), plans=plans)
        assert report.problems == ()
        assert report.plans_checked == len([line for line in data.splitlines() if b'"kind":"spend"' in line])


def test_the_number_that_is_drawn_once_is_still_the_same(resumed: Resumed) -> None:
    for path in (RELEASE / "sites").rglob("*.once"):
        assert json.loads(path.read_text())["patients"] is not None
        assert (resumed.world.root / path.relative_to(RELEASE)).read_bytes() == path.read_bytes()


def test_auditors_compare_and_report_both_releases_books(
    resumed: Resumed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lead = resumed.world.root, resumed.world.lead
    books = [str(lead.runs), str(root / "sites")]
    founders = ["--founders", lead.founders_pin.read_text().strip()]
    assert audit.main(["compare", *books, *founders]) == 0, capsys.readouterr().out
    assert audit.main(["report", *books, *founders, "--out", str(tmp_path / "page.html")]) == 0


def test_the_leads_commands_read_the_old_home(release: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(release.lead.root)]
    assert lead_main([*home, "roster", "show"]) == 0
    assert lead_main([*home, "status", "cut-off"]) == 0
    assert not (release.lead.root / WRITTEN_BY).exists()  # looking writes nothing
    assert lead_main([*home, "publish", "finished", str(release.root / "published.statement"), "--no-tracking"]) == 0
    assert (release.lead.root / WRITTEN_BY).exists()
    assert lead_main([*home, "report", "finished"]) == 0
    capsys.readouterr()


def test_the_exported_model_of_the_old_release_is_read_and_says_something_of_every_patient(release: InProcess) -> None:
    exported = read_exported(release.run("finished").model)
    task = task_of(exported)
    cohort = open_cohort(task, release.root / "data" / SITES[0])
    logits = outputs_of(model_of(exported, task), inputs_of(exported, task, cohort.values))
    assert exported.run_id == "finished"
    assert len(logits) == cohort.size
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0.0


def test_the_stewards_commands_read_the_old_home(release: InProcess, capsys: pytest.CaptureFixture[str]) -> None:
    home = release.home(SITES[0])
    for words in (["plans", "list"], ["budget"], ["egress", "finished", "--verify"], ["check", "--part", "guard"]):
        assert site_main(["--home", str(home.root), *words]) == 0, (words, capsys.readouterr())
    assert not (home.root / WRITTEN_BY).exists()


def test_a_site_of_the_old_release_changes_its_keys_by_todays_commands(
    release: InProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    site, home, lead = SITES[3], release.home(SITES[3]), release.lead
    old = home.load_identity().public
    asked = prepare(home, site)
    words = ["roster", "rotate-site", str(asked.file), "--told", asked.fingerprint]
    assert lead_main(["--home", str(lead.root), *words]) == 0
    assert "it registers them itself when it starts" in capsys.readouterr().out
    home.follow_roster(lead.signed_roster(), lead.founders_pin.read_text().strip())
    spent = release.epsilon(site)
    for other in SITES[:3]:
        release.home(other).follow_roster(lead.signed_roster(), lead.founders_pin.read_text().strip())
    release.open()
    release.close()
    assert release.epsilon(site) == spent
    assert read_keys(home.ledger).known[0] == old
    key = fingerprint(lead.roster().member(site).identity_key)
    assert audit.main(["verify", str(home.ledger), "--key", key]) == 0
    books = [str(lead.runs), str(release.root / "sites")]
    assert audit.main(["compare", *books]) == 0, capsys.readouterr().out  # the runs' rosters name the key of their time


# --- versions -----------------------------------------------------------------------------------------------------------


def planned(world: InProcess, run_id: str) -> RunFolder:
    """A short run over three of the sites, approved by their stewards."""
    names = SITES[:3]
    config = load_config(["task=cis_conversion", "federation=roster", f"run_id={run_id}", "privacy=epsilon3", "schedule.rounds=2"])
    config = replace(config, federation=replace(config.federation, sites=dict.fromkeys(names, 20), default_patients=0))
    lead, key = world.lead.lead()
    signed = sign_plan(make_plan(config, world.lead.roster(), world.lead.nodes(), lead=lead, now=datetime.now(UTC)), key)
    for name in names:
        own = world.home(name).load_identity()
        store = PlanStore(world.home(name).plans, name, own.public)
        store.add(signed)
        store.decide(Approval(signed.digest, name, "approve", "", "test", "2026-11-30T12:00:00Z"), own)
    return create_folder(world.lead.runs / run_id, signed, world.lead.signed_roster())


def versions(patch: pytest.MonkeyPatch, *, hub: str, sites: str) -> None:
    for module in ("server.planning", "server.rounds", "server.migrate"):
        patch.setattr(f"{module}.code_version", lambda: hub)
    for module in ("client.daemon", "client.cli"):
        patch.setattr(f"{module}.code_version", lambda: sites)


@pytest.mark.parametrize(("hub", "sites"), [("0.2.0", "0.1.0"), ("0.1.0", "0.2.0")])
def test_hub_and_sites_one_minor_apart_train_together(
    release: InProcess, monkeypatch: pytest.MonkeyPatch, hub: str, sites: str
) -> None:
    versions(monkeypatch, hub=hub, sites=sites)
    folder = planned(release, "apart")
    assert folder.plan().code_version == version.plan_version(hub)
    release.open()
    state = rounds.run(folder.path, release)
    assert (state.phase, release.codes) == ("finished", set())
    assert (release.home(SITES[0]).root / WRITTEN_BY).read_bytes() == version.marker(sites)
    assert (folder.path / WRITTEN_BY).read_bytes() == version.marker(hub)


@pytest.mark.parametrize("hub", ["0.4.0", "1.0.0"])
def test_a_hub_that_is_too_far_ahead_gets_no_training_and_costs_nothing(
    release: InProcess, monkeypatch: pytest.MonkeyPatch, hub: str
) -> None:
    versions(monkeypatch, hub=hub, sites="0.2.0")
    before = release.epsilon(SITES[0])
    folder = planned(release, "too-far")
    release.open()
    assert rounds.run(folder.path, release).phase != "finished"
    assert release.codes == {"CODE_VERSION"}
    release.close()
    assert release.epsilon(SITES[0]) == before


@pytest.mark.parametrize("wrote", ["0.3.0", "1.0.0"])
def test_an_older_program_refuses_to_start_on_what_a_newer_one_wrote(
    release: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrote: str
) -> None:
    versions(monkeypatch, hub="0.2.0", sites="0.2.0")
    site, run = release.home(SITES[0]), release.run("cut-off")
    for folder in (site.root, release.lead.root, run.path):
        (folder / WRITTEN_BY).write_bytes(version.marker(wrote))
    ledger = site.ledger.read_bytes()
    with pytest.raises(ConfigError, match=f"version {wrote} wrote this folder"):
        open_guards(release.root / "sites", SITES[:1])
    assert site_main(["--home", str(site.root), "budget"]) == 2
    assert lead_main(["--home", str(release.lead.root), "roster", "show"]) == 2
    with pytest.raises(Exception, match=f"version {wrote} wrote this folder"):
        rounds.run(run.path, release)
    assert "install" in capsys.readouterr().err
    assert site.ledger.read_bytes() == ledger
    assert read_state(run.path).resumes == 0


def test_a_damaged_marker_stops_the_site(release: InProcess) -> None:
    (release.home(SITES[0]).root / WRITTEN_BY).write_bytes(b"")
    with pytest.raises(ConfigError, match="does not say which version"):
        open_guards(release.root / "sites", SITES[:1])


def test_the_fixture_is_what_it_says(release: InProcess) -> None:
    assert (RELEASE / "version").read_text() == "0.1.0\n"
    plans = [release.run(name).plan() for name in ("finished", "cut-off")]
    assert [(plan.version, plan.code_version, plan.privacy.mode) for plan in plans] == [
        (3, "0.1.0", "distributed"),
        (3, "0.1.0", "local"),
    ]
    policies = {(RELEASE / "sites" / site / "policy.yaml").read_text().splitlines()[0] for site in SITES}
    assert policies == {"version: 1", "version: 2"}
    roster = release.lead.roster()
    assert founders_fingerprint(roster.founders, roster.founders_required) == release.lead.founders_pin.read_text().strip()
    assert np.isfinite(read_exported(release.run("finished").model).parameters).all()
