"""`wardround-site audit`: this site's own trainer under a plan's terms; planted defects end with status 1, nothing is charged."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from guards_in_process import SITES, Consortium, tape, terms
from planted import clip_records, forget_clipping, halve_noise, take_everybody

from client import cli_audit, trainer
from client.canaries import Canaries, noised_with_canaries
from client.cli import main
from client.engines import Shape
from client.engines.loop import Loop
from client.plans import PlanStore
from client.release import Bound
from consortium.canonical import encode_json
from consortium.plan import ParameterSpec, Plan
from server.export import describe, weights_file

SITE = SITES[0]
Plant = Callable[[pytest.MonkeyPatch], None]


class Program:
    """The program as somebody at the first hospital calls it."""

    def __init__(self, consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = consortium.home(SITE)
        self._capsys = capsys

    def __call__(self, *words: object, status: int = 0) -> str:
        self._capsys.readouterr()
        assert main(["--home", str(self.home.root), *map(str, words)]) == status
        shown = self._capsys.readouterr()
        return shown.out + shown.err

    def results(self, *words: object, status: int = 0) -> list[dict[str, object]]:
        self._capsys.readouterr()
        assert main(["--home", str(self.home.root), "--json", "audit", *map(str, words)]) == status
        found: list[dict[str, object]] = json.loads(self._capsys.readouterr().out)
        return found


@pytest.fixture
def program(consortium: Consortium, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    """With recorded coins: one sound trainer in thirty or so looks as if it wanted looking into, by chance."""
    monkeypatch.setattr(cli_audit, "urandom", tape("audit"))
    return Program(consortium, capsys)


def known(consortium: Consortium, plan: Plan) -> Plan:
    """A plan that has reached the first hospital."""
    home = consortium.home(SITE)
    PlanStore(home.plans, SITE, home.load_identity().public).add(consortium.sign(plan))
    return plan


def test_a_sound_trainer_passes_and_the_result_stays_in_the_sites_folder(consortium: Consortium, program: Program) -> None:
    before = consortium.ledger_bytes()
    [found] = program.results()
    assert (found["kind"], found["verdict"], found["run_id"], found["rounds"], found["canaries"]) == (
        "canary",
        "pass",
        "trial",
        200,
        1000,
    )
    assert found["claimed_epsilon"] == pytest.approx(3.0, abs=0.02)
    assert 2.0 < float(str(found["estimate"])) < 4.0
    path = program.home.root / "audit" / "trial.trainer.json"
    assert json.loads(path.read_text()) == found
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert consortium.ledger_bytes() == before
    assert list(program.home.egress.iterdir()) == []


@pytest.mark.parametrize("plant", [halve_noise, clip_records, take_everybody, forget_clipping])
def test_a_planted_defect_of_the_trainer_ends_with_status_1(
    program: Program, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    plant(monkeypatch)
    [found] = program.results(status=1)
    assert found["verdict"] == "alarm", found["words"]
    assert float(str(found["lower_bound"])) > float(str(found["claimed_epsilon"]))


@pytest.mark.parametrize("changes", [{}, {"sample_rate": 0.3}, {"mode": "distributed", "honest": 2}])
def test_a_plan_is_audited_under_its_own_terms(consortium: Consortium, program: Program, changes: dict[str, object]) -> None:
    """Full batches, samples, and shares of a sum: also a model far too small to carry canaries in its run."""
    plan = known(consortium, replace(consortium.plan(), privacy=replace(terms(train_noise=3.0), **changes)))  # type: ignore[arg-type]
    [found] = program.results(plan.run_id, "--rounds", 20, "--canaries", 800)
    assert (found["verdict"], found["run_id"], found["rounds"], found["canaries"]) == ("pass", plan.run_id, 20, 800)
    assert found["delta"] == plan.privacy.delta


def test_several_local_steps_are_counted_each(consortium: Consortium, program: Program) -> None:
    plan = consortium.plan(privacy=terms(train_noise=6.0))
    several = known(consortium, replace(plan, schedule=replace(plan.schedule, local_steps=3)))
    [found] = program.results(several.run_id, "--rounds", 10)
    assert (found["rounds"], found["verdict"]) == (30, "pass")


def test_what_a_run_showed_is_told_beside_what_the_trainer_shows(consortium: Consortium, program: Program) -> None:
    model = replace(consortium.plan().model, parameters=(ParameterSpec("w", (1000,)),))
    plan = known(consortium, consortium.plan(model=model, privacy=terms(canaries=200, train_noise=4.0)))
    bound, entropy = Bound(plan.privacy.clip, plan.privacy.grid_bits), tape("x")
    engine = Loop(torch.nn.Linear(1, 1), lambda outputs, labels: outputs.squeeze(-1), Shape(1, (1,)))
    for _ in range(3):
        noised_with_canaries(
            np.zeros(1000, np.int64),
            Canaries.of(plan, program.home.root / "audit", entropy),
            sample=lambda n: np.ones(n, dtype=np.bool_),
            clipped=lambda rows: trainer.clipped_like(engine, rows, bound),
            noised=lambda steps: trainer.noised(steps, noise_multiplier=4.0, bound=bound, entropy=entropy),
        )
    in_run, own = program.results(plan.digest.hex()[:12], "--rounds", 20)
    assert (in_run["canaries"], in_run["rounds"]) == (200, 3)
    assert (own["canaries"], own["rounds"]) == (1000, 20)
    assert sorted(path.name for path in (program.home.root / "audit").glob("*.json")) == [
        f"{plan.run_id}.json",
        f"{plan.run_id}.trainer.json",
    ]


def test_a_plan_can_be_named_by_its_file(consortium: Consortium, program: Program, tmp_path: Path) -> None:
    path = tmp_path / "plan.signed"
    path.write_bytes(consortium.sign(consortium.plan()).encode())
    shown = program("audit", path, "--rounds", 5, "--canaries", 300)
    assert "canary, run run-1: PASS" in shown
    assert "cannot prove one" in shown


def test_a_finished_model_is_tried_on_the_sites_own_patients(consortium: Consortium, program: Program, tmp_path: Path) -> None:
    plan = consortium.plan()
    model = np.random.default_rng(0).normal(size=plan.model_size).astype(np.float32)
    (tmp_path / "weights.npz").write_bytes(weights_file(plan, model))
    (tmp_path / "model.json").write_bytes(encode_json(describe(plan, model)))
    [found] = program.results("--membership", tmp_path)
    assert (found["kind"], found["verdict"], found["run_id"]) == ("membership", "pass", plan.run_id)
    assert json.loads((program.home.root / "audit" / f"{plan.run_id}.membership.json").read_text()) == found
    assert "membership, run run-1: PASS" in program("audit", "--membership", tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no-such-run",), "0 plans match"),
        (("--rounds", "0"), "0 rounds"),
        (("--canaries", "99"), "99 canaries"),
        (("--canaries", "3001"), "3001 canaries"),
        (("--membership", "/nowhere"), "cannot read"),
        (("run", "--membership", "/nowhere"), "name no run"),
    ],
)
def test_what_cannot_be_done_is_said_with_status_2(program: Program, words: tuple[str, ...], said: str) -> None:
    assert said in program("audit", *words, status=2)


def test_a_plan_without_privacy_claims_nothing_to_measure(consortium: Consortium, program: Program) -> None:
    plan = known(consortium, consortium.plan(privacy=terms("none")))
    assert "claims nothing" in program("audit", plan.run_id, status=2)
