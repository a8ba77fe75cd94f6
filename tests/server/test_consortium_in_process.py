"""The consortium in one process computes what the product computes, and without noise what one hospital with everybody would."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import consortium_in_process as inside

from client.batches import Encoder
from client.trainer import Trainer
from consortium.plan import Plan
from privacy.terms import honest_minimum
from server.checkpoint import latest_checkpoint
from server.cli_run import simulate
from server.folder import RunFolder
from server.progress import latest_metric
from server.state import read_state
from server.strategy import build
from tasks.base import Cohort
from tasks.cis_conversion.synthetic import write_hospitals
from tasks.data import load_cohort
from tasks.features import Design
from tasks.models import initial_parameters, join_parameters, load_parameters
from tasks.registry import get_task

TASK = get_task("cis_conversion")
SALT = bytes(range(16))
SITES = ("hospital-1", "hospital-2", "hospital-3", "hospital-4")
NONE = ("task=cis_conversion", "privacy=none", "schedule.rounds=6", "schedule.evaluate_every=3")
QUIET = 2e-3  # near the least noise that a grid takes
EPSILON8 = ("task=cis_conversion", "schedule.rounds=6", "schedule.evaluate_every=3")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_hospitals(folder, 4, [60, 90, 75, 120], 3)
    return folder


@pytest.fixture(scope="module")
def cohorts(hospitals: Path) -> dict[str, Cohort]:
    found = {path.name: load_cohort(path, TASK.contract) for path in sorted(hospitals.iterdir())}
    assert tuple(found) == SITES
    return found


def planned(words: tuple[str, ...], cohorts: dict[str, Cohort], *, exact: bool = False) -> tuple[Plan, dict[str, Trainer]]:
    roster = inside.roster_of(sorted(cohorts), SALT)
    trainers = inside.trainers_of(TASK, cohorts, roster, words)
    sizes = {site: trainer.sides.training.patients for site, trainer in trainers.items()}
    return inside.plan_of(words, roster, sizes if exact else inside.declared(trainers)), trainers


def pooled_by_hand(plan: Plan, trainers: dict[str, Trainer]) -> np.ndarray:
    """Plain autograd on all training rows in one place, with the plan's strategy."""
    sides = [trainer.sides.training for trainer in trainers.values()]
    values, labels = np.concatenate([side.values for side in sides]), np.concatenate([side.labels for side in sides])
    design = Design(TASK.contract, plan.task.columns)
    buffers = design.statistics_to_buffers(design.describe_vectors(values).sum(axis=0))
    inputs, truth = torch.from_numpy(design.encode(values, *buffers)), torch.from_numpy(labels.astype(np.float32))
    model = TASK.build_model(plan.model.name, {}, plan.task.columns)
    weights = initial_parameters(model, plan.model.init_seed).astype(np.float64)
    strategy = build(plan.strategy.name, dict(plan.strategy.options))
    state = strategy.init(weights)
    for _ in range(plan.schedule.rounds):
        load_parameters(model, weights.astype(np.float32))
        model.zero_grad()
        TASK.loss(model(inputs), truth).mean().backward()
        gradient = join_parameters({name: parameter.grad for name, parameter in model.named_parameters()})
        state, weights = strategy.step(state, weights, -gradient.astype(np.float64))
    return np.concatenate([design.buffer_vector(*buffers), strategy.release(state, weights)]).astype(np.float32)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_without_noise_it_is_the_pooled_computation(strategy: str, cohorts: dict[str, Cohort]) -> None:
    plan, trainers = planned((*NONE, f"strategy={strategy}"), cohorts, exact=True)
    found = inside.train(plan, trainers).model
    assert found == pytest.approx(pooled_by_hand(plan, trainers), abs=2e-5)
    assert np.abs(found[plan.n_buffers :]).max() > 0.05  # it did move


def test_declared_sizes_that_are_rounded_only_scale_the_step(cohorts: dict[str, Cohort]) -> None:
    words = (*NONE, "strategy=fedavg", "schedule.rounds=1")
    (exact, trainers), (rounded, _) = planned(words, cohorts, exact=True), planned(words, cohorts)
    start = inside.train(replace(exact, schedule=replace(exact.schedule, local_rate=1e-9)), trainers).model
    steps = [(inside.train(plan, trainers).model - start)[exact.n_buffers :] for plan in (exact, rounded)]
    sizes = [sum(one.declared_patients for one in plan.participants) for plan in (exact, rounded)]
    assert steps[0] * sizes[0] == pytest.approx(steps[1] * sizes[1], rel=1e-3, abs=1e-4)


def test_sites_that_are_absent_have_no_part(cohorts: dict[str, Cohort]) -> None:
    """Survivors alone are in the mean, whatever the others declared."""
    plan, trainers = planned((*NONE, "strategy=fedavg"), cohorts, exact=True)
    some = {site: trainers[site] for site in SITES[:3]}
    assert inside.train(plan, some).model == pytest.approx(pooled_by_hand(plan, some), abs=2e-5)


def test_a_round_s_figures_are_of_validation_patients_and_the_last_ones_of_test_patients(cohorts: dict[str, Cohort]) -> None:
    plan, trainers = planned(NONE, cohorts)
    found = inside.train(plan, trainers)
    assert [each.purpose for each in found.rounds] == ["describe", *["train"] * 6, "evaluate"]
    assert [bool(each.figures) for each in found.rounds] == [number % 3 == 0 or number == 8 for number in range(1, 9)]
    side = {"validation": 0, "test": 0}
    events = dict.fromkeys(side, 0)
    for trainer in trainers.values():
        for name in side:
            chosen = getattr(trainer.sides, name)
            side[name] += chosen.patients
            events[name] += int(chosen.labels.sum())
    shares = {name: events[name] / side[name] for name in side}
    assert shares["validation"] != shares["test"]
    assert found.rounds[2].figures["prevalence"] == pytest.approx(shares["validation"], abs=1e-6)
    assert found.figures["prevalence"] == pytest.approx(shares["test"], abs=1e-6)


def test_distributed_noise_is_what_the_plan_says_and_no_more(cohorts: dict[str, Cohort]) -> None:
    """One step of plain averaging: model minus the step without noise is the noise of all sites over all declared patients."""
    words = (*EPSILON8, "privacy=distributed8", "strategy=fedavg", "schedule.rounds=1")
    plan, trainers = planned(words, cohorts)
    quiet = replace(plan, privacy=replace(plan.privacy, train_noise=QUIET, describe_noise=QUIET))
    loud = replace(quiet, privacy=replace(quiet.privacy, train_noise=plan.privacy.train_noise))
    noise = inside.train(loud, trainers).model - inside.train(quiet, trainers).model
    terms, patients = plan.privacy, sum(one.declared_patients for one in plan.participants)
    assert terms.honest == honest_minimum(4, colluders=1, minimum_cohort=3)
    expected = terms.train_noise * terms.clip * np.sqrt(len(SITES)) / patients
    many = np.concatenate([noise[plan.n_buffers :], *(_again(loud, quiet, cohorts, number) for number in range(8))])
    assert many.std() == pytest.approx(expected, rel=0.15)


def _again(loud: Plan, quiet: Plan, cohorts: dict[str, Cohort], number: int) -> np.ndarray:
    roster = inside.roster_of(sorted(cohorts), SALT)
    found = [
        inside.train(plan, inside.trainers_of(TASK, cohorts, roster, "again", number, at)).model
        for at, plan in enumerate((loud, quiet))
    ]
    return (found[0] - found[1])[loud.n_buffers :]


def test_both_private_modes_clip_alike(cohorts: dict[str, Cohort]) -> None:
    found = []
    for mode in ("distributed8", "epsilon8"):
        plan, trainers = planned((*EPSILON8, f"privacy={mode}", "strategy=fedavg"), cohorts)
        quiet = replace(plan, privacy=replace(plan.privacy, train_noise=QUIET, describe_noise=QUIET, evaluate_noise=QUIET))
        found.append(inside.train(quiet, trainers))
    assert found[0].model == pytest.approx(found[1].model, abs=1e-3)
    assert found[0].figures["auc"] == pytest.approx(found[1].figures["auc"], abs=0.02)
    plain, trainers = planned((*NONE, "strategy=fedavg"), cohorts)
    assert not np.allclose(found[0].model, inside.train(plain, trainers).model, atol=1e-2)  # the clip is felt


def test_the_same_seed_gives_the_same_noise_and_another_seed_another(cohorts: dict[str, Cohort]) -> None:
    words = (*EPSILON8, "privacy=distributed8", "schedule.rounds=2")
    found = [inside.run(TASK, words, cohorts, SALT, seed).model for seed in (1, 1, 2)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_models_on_the_way_are_those_of_shorter_runs(cohorts: dict[str, Cohort]) -> None:
    plan, trainers = planned((*NONE, "strategy=fedadam", "strategy.options.ema_decay=0.5"), cohorts)
    kept = inside.train(plan, trainers, keep=(2, 6)).kept
    short = replace(plan, schedule=replace(plan.schedule, rounds=2))
    assert np.array_equal(kept[2], inside.train(short, trainers).model)
    assert np.array_equal(kept[6], inside.train(plan, trainers).model)


def test_records_are_encoded_in_the_order_of_the_side(cohorts: dict[str, Cohort]) -> None:
    """The bench pairs outputs with a side's labels: for this task, of one record a patient, order is that of the cohort."""
    plan, trainers = planned(NONE, cohorts)
    side = trainers[SITES[0]].sides.test
    design = Design(TASK.contract, plan.task.columns)
    buffers = design.buffer_vector(*design.neutral_buffers()).astype(np.float32)
    batch = Encoder(TASK).batch(plan, side, side.values, buffers)
    assert len(batch) == side.patients == len(side.labels)


@pytest.mark.slow
def test_it_is_what_the_product_s_simulation_computes(hospitals: Path, cohorts: dict[str, Cohort], tmp_path: Path) -> None:
    """Real guards, ledgers, masks and worker processes on one side."""
    sizes = dict(zip(SITES, (40, 60, 50, 80), strict=True))
    words = [*NONE, *(f"federation.sites.{site}={size}" for site, size in sizes.items())]
    state = simulate(tmp_path / "out", words, data=hospitals, show=False, split_salt=SALT)
    assert state.phase == "finished"
    run = RunFolder(tmp_path / "out" / "run")
    whole = run.plan()
    roster = inside.roster_of(SITES, SALT, held_out_fraction=run.roster().held_out_fraction)
    trainers = inside.trainers_of(TASK, cohorts, roster)
    plan = inside.plan_of(NONE, roster, sizes)
    assert (plan.model, plan.schedule, plan.strategy, plan.task) == (whole.model, whole.schedule, whole.strategy, whole.task)
    found = inside.train(plan, trainers)
    product = latest_checkpoint(run.checkpoints, whole.digest, model_size=whole.model_size).checkpoint
    assert product is not None
    assert found.model == pytest.approx(product.model, abs=2e-4)  # the ring's step, and tau = 1e-3 of the strategy magnifies it
    reported = latest_metric(read_state(run.path), "auc")
    assert reported is not None
    assert found.figures["auc"] == pytest.approx(reported, abs=1e-3)
