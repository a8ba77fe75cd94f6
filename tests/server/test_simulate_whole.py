"""Whole simulated runs, with real guards, ledgers and trainers in worker processes. Without noise they equal the pooled one."""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import pooled_reference as pooled

from consortium.roster import HELD_OUT
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.entries import SpendRecord
from privacy.events import SharedGaussianEvent, as_exposed
from privacy.ledger import read_entries as read_ledger
from privacy.terms import honest_minimum, round_spends
from privacy.verify import verify_ledger
from server import rounds
from server.checkpoint import latest_checkpoint
from server.cli import main
from server.cli_run import plan_simulated, prepare_simulated, simulate
from server.config import load_config
from server.folder import RunFolder
from server.journal import read_entries
from server.simulate import PipeTransport, site_folders
from server.spent import site_epsilon
from server.state import read_state
from tasks.cis_conversion.synthetic import write_hospitals
from tasks.data import load_cohort
from tasks.registry import get_task
from tasks.splits import TEST, TRAINING, parts_of

pytestmark = pytest.mark.slow

SALT = bytes(range(16))
TASK = "cis_conversion"
STEPS = 5
Cli = Callable[..., tuple[int, str, str]]


def one_class(folder: Path) -> None:
    """Leave only converters in this hospital's table."""
    task = get_task(TASK)
    cohort = load_cohort(folder, task.contract)
    gone = {patient for patient, label in zip(cohort.patient_ids, cohort.labels, strict=True) if label == 0}
    table = next(path for path in folder.iterdir() if path.suffix in (".csv", ".tsv", ".txt"))
    raw = table.read_bytes()
    encoding = "utf-8" if _decodes(raw) else "cp1252"
    lines = raw.decode(encoding).splitlines(keepends=True)
    kept = [lines[0], *(line for line in lines[1:] if not any(patient in line for patient in gone))]
    table.write_bytes("".join(kept).encode(encoding))
    assert set(load_cohort(folder, task.contract).labels) == {1}


def _decodes(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def training_sizes(data: Path) -> dict[str, int]:
    """Exact numbers of training patients: nobody would declare these in public, but with them the two sums are one."""
    cohorts = {site: load_cohort(data / site, get_task(TASK).contract) for site in site_folders(data)}
    return {site: int((parts_of(cohort.patient_ids, SALT, HELD_OUT) == TRAINING).sum()) for site, cohort in cohorts.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three hospitals, one of them with converters only, five steps of plain gradient descent without noise."""
    folder = tmp_path_factory.mktemp("plain")
    data = folder / "data"
    write_hospitals(data, 3, [60, 80, 70], 3)
    one_class(data / site_folders(data)[1])
    sizes = [f"federation.sites.{site}={count}" for site, count in training_sizes(data).items()]
    words = ["privacy=none", "strategy=fedavg", f"schedule.rounds={STEPS}", "schedule.evaluate_every=2", *sizes]
    state = simulate(folder / "out", words, data=data, show=False, split_salt=SALT)
    assert state.phase == "finished"
    return RunFolder(folder / "out" / "run")


def reference(run: RunFolder) -> tuple[pooled.Sides, np.ndarray, pooled.Recipe]:
    """(all patients in one place, the model trained on them, how)."""
    plan, task = run.plan(), get_task(TASK)
    recipe = pooled.Recipe(
        model=plan.model.name,
        options=dict(plan.model.options),
        rounds=STEPS,
        local_rate=plan.schedule.local_rate,
        strategy="fedavg",
        strategy_options={},
        seed=plan.model.init_seed,
        salt=SALT,
        held_out_fraction=HELD_OUT,
        bins=plan.histogram_bins,
    )
    data = run.path.parents[1] / "data"
    sides = pooled.pool(pooled.load_sites([data / site for site in plan.sites], task), task, recipe)
    return sides, pooled.train(sides, task, recipe), recipe


def test_without_noise_a_run_is_the_pooled_computation(plain: RunFolder) -> None:
    plan = plain.plan()
    sides, parameters, _ = reference(plain)
    found = latest_checkpoint(plain.checkpoints, plan.digest, model_size=plan.model_size).checkpoint
    assert found is not None
    assert found.model[: plan.n_buffers] == pytest.approx(sides.buffers, rel=1e-6)
    assert found.model[plan.n_buffers :] == pytest.approx(parameters, abs=2e-6)  # ring step 6e-8, float32 between rounds
    assert np.abs(parameters).max() > 0.1  # it did move


def test_the_final_histogram_counts_every_test_patient_once(plain: RunFolder) -> None:
    sides, parameters, recipe = reference(plain)
    task = get_task(TASK)
    expected = pooled.evaluate(sides, task, recipe, parameters)
    done = read_state(plain.path).done[-1]
    assert done.purpose == "evaluate"
    assert sum(done.histogram) == expected.test_patients
    assert dict(done.metrics)["auc"] == pytest.approx(expected.metrics.auc)
    assert dict(done.metrics)["brier"] == pytest.approx(expected.metrics.brier)


def test_a_site_with_one_class_is_in_the_pooled_figures(plain: RunFolder) -> None:
    data = plain.path.parents[1] / "data"
    site = plain.plan().sites[1]
    cohort = load_cohort(data / site, get_task(TASK).contract)
    tested = int((parts_of(cohort.patient_ids, SALT, HELD_OUT) == TEST).sum())
    done = read_state(plain.path).done[-1]
    bins = plain.plan().histogram_bins
    converters = sum(done.histogram[bins:])
    assert site in done.survivors
    assert tested > 0
    assert converters >= tested


def test_everything_about_a_run_without_noise_says_so(plain: RunFolder) -> None:
    sites = plain.path.parent / "sites"
    logs = "".join(path.read_text() for path in sites.glob("loopback-*.log"))
    assert logs.count("privacy=NOT-PRIVATE") == 3 * (STEPS + 2)
    assert all("not-private" in (sites / site / "ledger.jsonl").read_text() for site in plain.plan().sites)


# a run with noise


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("private")
    write_hospitals(folder / "data", 4, [60] * 4, 4)
    words = ["privacy=epsilon3", "schedule.rounds=4", "schedule.evaluate_every=2"]
    assert simulate(folder / "out", words, data=folder / "data", show=False).phase == "finished"
    return RunFolder(folder / "out" / "run")


def test_the_tables_epsilon_is_what_the_sites_ledgers_say(private: RunFolder) -> None:
    plan, state = private.plan(), read_state(private.path)
    for site in plan.sites:
        entries, _ = read_ledger((private.path.parent / "sites" / site / "ledger.jsonl").read_bytes())
        spends = [entry.content for entry in entries if isinstance(entry.content, SpendRecord)]
        assert [(one.details.round, one.details.purpose) for one in spends] == [(one.round, one.purpose) for one in state.asked]
        found = site_epsilon(plan, state, site, colluders=private.roster().colluders)
        assert found.exposed == pytest.approx(spends[-1].epsilon_after, abs=1e-9)
        assert found.exposed <= plan.privacy.epsilon_exposed
        assert found.model < found.exposed


def test_the_whole_plan_would_have_cost_more(private: RunFolder) -> None:
    plan, state = private.plan(), read_state(private.path)
    asked = [spend for one in state.asked for spend in round_spends(plan, one.round, one.purpose)]
    assert epsilon(asked, plan.privacy.delta, interval=ENFORCE_INTERVAL) < plan.privacy.epsilon_exposed


def test_a_distributed_run_is_charged_for_its_sums_and_says_what_one_update_would_cost(tmp_path: Path) -> None:
    """Seven hospitals, three honest shares certain: same policy, same budget, real guards; ledgers and table agree."""
    write_hospitals(tmp_path / "data", 7, [60] * 7, 4)
    words = ["privacy=distributed3", "federation=roster", "schedule.rounds=4", "schedule.evaluate_every=2"]
    assert simulate(tmp_path / "out", words, data=tmp_path / "data", show=False).phase == "finished"
    folder = RunFolder(tmp_path / "out" / "run")
    plan, state, colluders = folder.plan(), read_state(folder.path), folder.roster().colluders
    honest = honest_minimum(7, colluders=colluders, minimum_cohort=folder.roster().minimum_cohort)
    assert plan.privacy.mode == "distributed"
    assert plan.privacy.honest == honest >= 2
    for site in plan.sites:
        entries, _ = read_ledger((folder.path.parent / "sites" / site / "ledger.jsonl").read_bytes())
        records = [entry.content for entry in entries if isinstance(entry.content, SpendRecord)]
        spends = [spend for record in records for spend in record.spends]
        assert {type(spend.event) for spend in spends} == {SharedGaussianEvent}
        charged = epsilon(spends, plan.privacy.delta, interval=ENFORCE_INTERVAL)
        assert records[-1].epsilon_after == pytest.approx(charged, abs=1e-9)
        found = site_epsilon(plan, state, site, colluders=colluders)
        assert found.exposed == pytest.approx(epsilon(as_exposed(spends), plan.privacy.delta, interval=ENFORCE_INTERVAL))
        assert found.model <= charged < found.exposed <= plan.privacy.epsilon_exposed
        assert charged <= plan.privacy.epsilon_model
    assert verify_ledger((folder.path.parent / "sites" / plan.sites[0] / "ledger.jsonl").read_bytes()).ok


def test_killed_workers_cost_their_sites_and_not_the_run(tmp_path: Path) -> None:
    """kill -9 in the middle: the rest goes on, the lost site is named, and its ledger is whole."""
    write_hospitals(tmp_path / "data", 4, [60] * 4, 5)
    config = load_config(["federation=roster", "privacy=epsilon3", "schedule.rounds=6"])
    prepared = prepare_simulated(tmp_path, config, data=tmp_path / "data")
    run = plan_simulated(tmp_path, config, prepared, data=tmp_path / "data")
    transport = PipeTransport(prepared.folder, prepared.sites, workers=4)
    lost = transport.workers[2].sites[0]
    exchanges, exchange = [0], transport.exchange

    def counted(*arguments: object) -> object:
        exchanges[0] += 1
        if exchanges[0] == 7:  # keys, kem, three rounds begun
            threading.Thread(target=transport.workers[2].kill).start()
        return exchange(*arguments)  # type: ignore[arg-type]

    transport.exchange = counted  # type: ignore[method-assign, assignment]
    try:
        state = rounds.run(run.path, transport)
    finally:
        transport.close()
    assert state.phase == "finished"
    named = {(drop.site, drop.code) for entry in read_entries(run.events) for drop in getattr(entry.event, "dropped", ())}
    assert named == {(lost, "UNREACHABLE")}
    assert state.done[-1].survivors == tuple(site for site in run.plan().sites if site != lost)
    ledger = (tmp_path / "sites" / lost / "ledger.jsonl").read_bytes()
    assert read_ledger(ledger)[1] == b""


# the program


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


def test_the_program_simulates_shows_and_exports(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "tried"
    words = ("--sites", "3", "--patients", "40", "privacy=none", "schedule.rounds=2", "--out", str(out))
    code, shown, progress = cli("simulate", *words)
    assert code == 0, progress
    card, page = (out / "run" / "model" / "card.md").read_text(), (out / "run" / "report.html").read_text()
    for text in (shown, progress, card, page):
        assert "NOT PRIVATE" in text
    assert "4 rounds done, 0 lost" in shown
    assert cli("simulate", *words)[0] == 2  # the folder is not empty
    assert cli("status", str(out / "run"), "--json")[0] == 0


def test_the_program_prints_one_json_document_for_programs(cli: Cli, tmp_path: Path) -> None:
    words = ("--sites", "3", "--patients", "40", "schedule.rounds=2", "--json", "--out", str(tmp_path / "tried"))
    code, shown, _ = cli("simulate", *words)
    found = json.loads(shown)
    assert (code, found["phase"], found["rounds_done"], found["private"]) == (0, "finished", 2, True)
    assert all(float(exposed) <= 3.0 for exposed, _ in found["epsilon"].values())
    assert "computed from the plan and the rounds asked" in found["epsilon_basis"]
