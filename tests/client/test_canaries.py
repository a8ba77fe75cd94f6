"""Canaries go through the trainer's own sampler, clip and noise, show every planted defect, and leave no trace in what leaves."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from guards_in_process import Consortium, tape, terms
from numpy.typing import NDArray
from planted import clip_records, forget_clipping, halve_noise, lose_canaries, take_everybody

from client import trainer
from client.canaries import RECORDS, Canaries, canary_result, claimed_epsilon, noised_with_canaries, read_state, state_path
from client.engines import Shape
from client.engines.batch import SLOTS
from client.engines.bookkeeping import Bookkeeping
from client.errors import Refused, SiteError
from client.release import Bound
from consortium.errors import DocumentError
from consortium.plan import ParameterSpec, Plan
from privacy.accountant import epsilon
from privacy.events import PoissonGaussianEvent, SharedPoissonGaussianEvent, Spend

STEPS, CANARIES, RATE = 60, 1000, 0.25
NOISE = 2.915  # epsilon 3 at delta 1e-5 over 60 steps at rate 1/4; `test_the_claim...` recomputes it
PARAMETERS = 12_345
ENGINE = Bookkeeping(torch.nn.Linear(1, 1), lambda outputs, labels: outputs.squeeze(-1), Shape(RECORDS, (1,)), SLOTS)


@pytest.fixture
def plan(consortium: Consortium) -> Plan:
    """A large enough model, and canaries in the plan."""
    made = consortium.plan()
    schedule = replace(made.schedule, rounds=STEPS, max_train=STEPS, max_round=2 * STEPS)
    privacy = terms(canaries=CANARIES, train_noise=NOISE, sample_rate=RATE, epsilon_exposed=3.0, epsilon_model=3.0)
    model = replace(made.model, parameters=(ParameterSpec("weights", (PARAMETERS,)),))
    return replace(made, schedule=schedule, privacy=privacy, model=model)


def patients(plan: Plan, number: int) -> NDArray[np.int64]:
    """A clipped sum of 50 patients who pull the same way in every round."""
    direction = np.random.default_rng(5).standard_normal(plan.n_parameters)
    pull = 50 * 2**plan.privacy.grid_bits * direction / np.linalg.norm(direction)
    return np.rint(pull + number).astype(np.int64)


def released(plan: Plan, canaries: Canaries | None, total: NDArray[np.int64], entropy: Callable[[int], bytes]) -> NDArray[np.int64]:
    """One training step as `client.trainer` takes it, with the names that it uses, so that a defect planted there is met here."""
    bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
    return noised_with_canaries(
        total,
        canaries,
        sample=lambda n: trainer.poisson_mask(n, plan.privacy.sample_rate, entropy),
        clipped=lambda rows: trainer.clipped_like(ENGINE, rows, bound),
        noised=lambda steps: trainer.noised(steps, noise_multiplier=plan.privacy.train_noise, bound=bound, entropy=entropy),
    )


def run(plan: Plan, folder: Path, seed: str, steps: int = STEPS) -> dict[str, object]:
    """A run whose trainer starts anew in every round; the result file as it stands at the end."""
    entropy = tape(seed)
    for number in range(steps):
        released(plan, Canaries.of(plan, folder, entropy), patients(plan, number), entropy)
    found: dict[str, object] = json.loads((folder / f"{plan.run_id}.json").read_text())
    return found


# -- what it finds -------------------------------------------------------------------------------------------------------------


def test_the_claim_is_the_accountants_for_the_steps_that_were_measured(plan: Plan) -> None:
    assert claimed_epsilon(plan, STEPS) == pytest.approx(
        epsilon([Spend(PoissonGaussianEvent(NOISE, RATE), "train", STEPS)], 1e-5), abs=0.01
    )
    assert claimed_epsilon(plan, STEPS) == pytest.approx(3.0, abs=0.05)
    assert claimed_epsilon(plan, STEPS // 2) < claimed_epsilon(plan, STEPS)


def test_in_mode_distributed_the_claim_is_that_of_the_sites_own_share(plan: Plan) -> None:
    shared = replace(plan, privacy=replace(plan.privacy, mode="distributed", honest=2, epsilon_model=2.0))
    alone = epsilon([Spend(SharedPoissonGaussianEvent(NOISE, RATE, 2), "train", STEPS)], 1e-5)
    assert claimed_epsilon(shared, STEPS) == claimed_epsilon(plan, STEPS) > alone


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_a_sound_trainer_passes_and_the_estimate_is_near_the_claim(plan: Plan, tmp_path: Path, seed: str) -> None:
    found = run(plan, tmp_path, seed)
    assert found["verdict"] == "pass"
    assert 2.2 < float(str(found["estimate"])) < 3.8
    assert float(str(found["lower_bound"])) < 3.0
    assert (found["kind"], found["run_id"], found["canaries"], found["rounds"]) == ("canary", plan.run_id, CANARIES, STEPS)


@pytest.mark.parametrize(
    ("plant", "verdict"),
    [
        (halve_noise, "investigate alarm"),
        (clip_records, "alarm"),
        (take_everybody, "alarm"),
        (forget_clipping, "alarm"),
        (lose_canaries, "investigate"),
    ],
)
@pytest.mark.parametrize("seed", ["a", "b"])
def test_a_planted_defect_turns_the_verdict(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    verdict: str,
    seed: str,
) -> None:
    """Noise halved is refuted for certain with more rounds or canaries; here it is at least looked into."""
    plant(monkeypatch)
    found = run(plan, tmp_path, seed)
    assert str(found["verdict"]) in verdict, found["words"]


def test_the_words_name_the_part_that_is_broken(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_records(monkeypatch)
    assert "one patient moves the sum by 4" in str(run(plan, tmp_path, "a")["words"])
    take_everybody(monkeypatch)
    assert "sampled 1 of the time (claimed 0.25)" in str(run(replace(plan, run_id="run-2"), tmp_path, "a")["words"])


# -- what it does not touch ------------------------------------------------------------------------------------------------------


def test_what_leaves_is_to_the_bit_the_patients_sum_and_the_noise(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise is kept apart here: with canaries in the plan the release is the same integers as without."""
    noise = np.random.default_rng(1).integers(-(2**30), 2**30, plan.n_parameters)
    seen = []

    def fixed(total: NDArray[np.int64], **rest: object) -> NDArray[np.int64]:
        seen.append(total)
        return total + noise

    monkeypatch.setattr(trainer, "noised", fixed)
    total = patients(plan, 1)
    left = released(plan, Canaries.of(plan, tmp_path, tape("x")), total, tape("y"))
    assert (left == total + noise).all()
    assert not (seen[0] == total).all()
    assert (total == patients(plan, 1)).all()


def test_one_canary_moves_the_sum_by_one_clip_and_no_two_meet(plan: Plan, tmp_path: Path) -> None:
    canaries = Canaries(plan, tmp_path, tape("x"))
    bound = Bound(plan.privacy.clip, plan.privacy.grid_bits)
    norms = []
    for at in (0, 7, CANARIES - 1):
        seed = next(f"{n}" for n in range(99) if Canaries(plan, tmp_path, tape(f"{n}")).state.included[at])
        one = Canaries(plan, tmp_path, tape(seed))
        step = one.added(
            np.zeros(PARAMETERS, np.int64),
            sample=lambda n, at=at: np.arange(n) == at,
            clipped=lambda rows: trainer.clipped_like(ENGINE, rows, bound),
        )
        norms.append(np.linalg.norm(step.total.astype(float)) / 2**20)
        width = PARAMETERS // CANARIES
        assert set(np.flatnonzero(step.total)) == set(range(at * width, (at + 1) * width))
    assert norms == pytest.approx([1.0] * 3, abs=1e-4)
    assert 400 < int(canaries.state.included.sum()) < 600


def test_a_plan_without_canaries_or_a_trainer_without_a_folder_has_none(plan: Plan, tmp_path: Path) -> None:
    assert Canaries.of(replace(plan, privacy=replace(plan.privacy, canaries=0)), tmp_path / "audit", os.urandom) is None
    assert Canaries.of(plan, None, os.urandom) is None
    assert not (tmp_path / "audit").exists()


# -- files -----------------------------------------------------------------------------------------------------------------------


def test_the_same_canaries_go_on_after_a_restart(plan: Plan, tmp_path: Path) -> None:
    first = Canaries(plan, tmp_path, tape("a"))
    released(plan, first, patients(plan, 0), tape("r"))
    again = Canaries(plan, tmp_path, tape("b"))
    assert again.state.seed == first.state.seed
    assert again.state.steps == 1
    assert (again.state.scores == first.state.scores).all()
    assert (again.state.included == first.state.included).all()


def test_files_are_their_owners_alone_and_hold_no_patient(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    run(plan, folder, "a")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {f"{plan.digest.hex()}.canaries": 0o600, f"{plan.run_id}.json": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    state = json.loads(state_path(folder, plan.digest).read_bytes())
    assert sorted(state) == ["format", "plan", "scores", "seed", "steps", "tally"]
    assert len(state["scores"]) == CANARIES


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-2],
        lambda data: data.replace(b'"steps": 1', b'"step": 1'),
        lambda data: data.replace(b"canaries/1", b"canaries/2"),
        lambda data: data.replace(b'"scores": [', b'"scores": [0.0, '),
        lambda data: data.replace(b'"scores": [', b'"scores": [NaN, '),
        lambda data: b"[]",
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(plan: Plan, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    released(plan, Canaries(plan, tmp_path, tape("a")), patients(plan, 0), tape("r"))
    path = state_path(tmp_path, plan.digest)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refused, match="delete it"):
        Canaries(plan, tmp_path, tape("b"))


def test_too_few_canaries_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="canaries in a model"):
        Canaries(replace(plan, privacy=replace(plan.privacy, canaries=99)), tmp_path / "audit", os.urandom)
    assert list((tmp_path / "audit").iterdir()) == []


def test_a_plan_with_more_canaries_than_parameters_cannot_be_written(plan: Plan) -> None:
    model = replace(plan.model, parameters=(ParameterSpec("weights", (5000,)),))
    with pytest.raises(DocumentError, match="5001 canaries"):
        replace(plan, privacy=replace(plan.privacy, canaries=5001), model=model)


def test_before_the_first_step_there_is_nothing_to_tell(plan: Plan, tmp_path: Path) -> None:
    assert read_state(state_path(tmp_path, plan.digest), plan) is None
    with pytest.raises(SiteError, match="no training step"):
        canary_result(plan, Canaries(plan, tmp_path, tape("a")).state)


def test_the_result_is_written_ten_times_and_at_the_end(plan: Plan, tmp_path: Path) -> None:
    entropy, seen = tape("a"), set()
    for number in range(STEPS):
        released(plan, Canaries.of(plan, tmp_path, entropy), patients(plan, number), entropy)
        if (path := tmp_path / f"{plan.run_id}.json").exists():
            seen.add(json.loads(path.read_text())["rounds"])
    assert seen == set(range(STEPS // 10, STEPS + 1, STEPS // 10))
