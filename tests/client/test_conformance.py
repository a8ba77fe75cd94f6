"""The algorithms are those of their papers: a site's trainer and the hub's strategy against plain loops and closed forms."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import consortium_in_process as inside
from guards_in_process import DECLARED, SALT, SITES, Consortium, tape, terms
from numpy.typing import NDArray
from test_trainer_privacy import buffers, cohort

from client.errors import Refused
from client.job import Job
from client.trainer import Trainer
from consortium.plan import Participant, Plan, StrategyRef
from server import strategy as strategies
from tasks.base import Cohort
from tasks.cis_conversion.synthetic import write_hospitals
from tasks.cis_conversion.task import TASK
from tasks.data import load_cohort
from tasks.features import Design

Floats = NDArray[np.float64]


def planned(consortium: Consortium, strategy: str, *, steps: int, rate: float = 0.5, mode: str = "none", **options: float) -> Plan:
    plan = consortium.plan(privacy=terms(mode), strategy=StrategyRef(strategy, tuple(sorted(options.items()))))
    return replace(plan, schedule=replace(plan.schedule, local_steps=steps, local_rate=rate))


def sized(plan: Plan, sizes: Sequence[int]) -> Plan:
    made = (Participant(site, at + 1, size) for at, (site, size) in enumerate(zip(SITES, sizes, strict=True)))
    return replace(plan, participants=tuple(made))


def trainer(people: Cohort, seed: str = "noise") -> Trainer:
    return Trainer(TASK, people, salt=SALT, held_out_fraction=0.0, entropy=tape(seed))


def update(plan: Plan, site: str, people: Cohort, weights: Floats, *, number: int = 1, seed: str = "noise") -> Floats:
    model = buffers().tobytes() + weights.astype("<f4").tobytes()
    return np.asarray(trainer(people, seed).run(Job(plan, site, number, "train", model)).body)


def design(people: Cohort) -> tuple[Floats, Floats]:
    """(inputs with a column of ones, labels), float64."""
    kind = Design(TASK.contract)
    inputs = kind.encode(people.values, *kind.split_buffers(buffers())).astype(np.float64)
    return np.column_stack([inputs, np.ones(len(inputs))]), people.labels.astype(np.float64)


def gradient(people: Cohort, weights: Floats) -> Floats:
    """Sum over patients of the gradient of the cross-entropy, by its textbook form X'(p - y)."""
    x, y = design(people)
    return np.asarray(x.T @ (1.0 / (1.0 + np.exp(-x @ weights)) - y))


def descended(people: Cohort, start: Floats, *, steps: int, rate: float, normaliser: float, mu: float = 0.0) -> Floats:
    """Plain gradient descent, with the gradient of mu/2 |w - start|^2 added."""
    weights = start.copy()
    for _ in range(steps):
        weights = weights - rate * (gradient(people, weights) / normaliser + mu * (weights - start))
    return weights


def federated(plan: Plan, people: Sequence[Cohort], start: Floats, *, rounds: int) -> Floats:
    """Rounds of all sites that have anybody, as the hub averages them."""
    strategy = strategies.build(plan.strategy.name, dict(plan.strategy.options))
    weights, state = start.astype(np.float32).astype(np.float64), strategy.init(start)
    present = [(site, cohort_of) for site, cohort_of in zip(SITES, people, strict=True) if cohort_of.size]
    for number in range(1, rounds + 1):
        total = sum(plan.weight(site) for site, _ in present)
        mean = sum(plan.weight(site) * update(plan, site, each, weights, number=2 * number - 1) for site, each in present) / total
        state, weights = strategy.step(state, weights, np.asarray(mean))
        weights = weights.astype(np.float32).astype(np.float64)  # as it goes to the sites
    return weights


def nobody() -> Cohort:
    return replace(cohort(1), patient_ids=(), values=cohort(1).values[:0], labels=cohort(1).labels[:0])


def start_of(plan: Plan) -> Floats:
    return np.random.default_rng(3).normal(scale=0.3, size=plan.n_parameters)


def test_fedavg_with_one_site_is_that_sites_local_training(consortium: Consortium) -> None:
    """Three rounds of five steps are fifteen steps."""
    plan, people = planned(consortium, "fedavg", steps=5), cohort(60, 1)
    start = start_of(plan)
    found = federated(plan, [people, nobody(), nobody()], start, rounds=3)
    alone = descended(people, start, steps=15, rate=0.5, normaliser=DECLARED)
    assert found == pytest.approx(alone, abs=2e-6)
    assert np.abs(found - start).max() > 0.1


def test_fedavg_of_one_step_is_gradient_descent_on_everybody(consortium: Consortium) -> None:
    sizes = (20, 50, 90)
    plan = sized(planned(consortium, "fedavg", steps=1), sizes)
    people = [cohort(size, size) for size in sizes]
    everybody = Cohort(
        tuple(f"{at}-{name}" for at, each in enumerate(people) for name in each.patient_ids),
        np.concatenate([each.values for each in people]),
        np.concatenate([each.labels for each in people]),
        people[0].report,
    )
    start = start_of(plan)
    found = federated(plan, people, start, rounds=6)
    assert found == pytest.approx(descended(everybody, start, steps=6, rate=0.5, normaliser=160), abs=2e-6)


def test_fedavg_of_several_steps_is_the_weighted_mean_of_local_trainings(consortium: Consortium) -> None:
    """McMahan et al. 2017, algorithm 1: w <- sum of n_k / n times w_k."""
    sizes = (20, 50, 90)
    plan = sized(planned(consortium, "fedavg", steps=4), sizes)
    people = [cohort(size, size) for size in sizes]
    start = start_of(plan)
    local = [descended(each, start, steps=4, rate=0.5, normaliser=size) for each, size in zip(people, sizes, strict=True)]
    expected = sum(size / 160 * weights for size, weights in zip(sizes, local, strict=True))
    assert federated(plan, people, start, rounds=1) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("mode", ["none", "local"])
def test_fedprox_without_a_pull_is_fedavg_to_the_bit(consortium: Consortium, mode: str) -> None:
    people = cohort(40, 2)
    plain, prox = (planned(consortium, name, steps=4, mode=mode, **options) for name, options in
                   (("fedavg", {}), ("fedprox", {"mu": 0.0})))  # fmt: skip
    start = start_of(plain)
    assert update(prox, SITES[0], people, start).tobytes() == update(plain, SITES[0], people, start).tobytes()
    for name, options in (("fedprox", {"mu": 0.3, "server_rate": 0.7}), ("fedavg", {"server_rate": 0.7})):
        stepped = strategies.build(name, options).step((), start, np.full_like(start, 0.25))[1]
        assert stepped.tolist() == (start + 0.7 * 0.25).tolist()


@pytest.mark.parametrize("mu", [0.05, 0.5, 2.0])
def test_fedprox_steps_follow_the_gradient_of_the_proximal_objective(consortium: Consortium, mu: float) -> None:
    """Li et al. 2020, equation 2: F_k(w) + mu/2 |w - w_t|^2, here by plain gradient descent."""
    plan, people = planned(consortium, "fedprox", steps=6, mu=mu), cohort(50, 3)
    start = start_of(plan).astype(np.float32).astype(np.float64)
    found = update(plan, SITES[0], people, start)
    assert found == pytest.approx(descended(people, start, steps=6, rate=0.5, normaliser=DECLARED, mu=mu) - start, abs=2e-6)


def test_a_stronger_pull_keeps_a_site_nearer_to_the_global_model(consortium: Consortium) -> None:
    people = cohort(50, 4)
    plans = [planned(consortium, "fedprox", steps=30, mu=mu) for mu in (0.0, 0.1, 1.0)]
    moved = [float(np.linalg.norm(update(plan, SITES[0], people, start_of(plan)))) for plan in plans]
    assert moved[0] > 1.1 * moved[1] > 1.2 * moved[2] > 0


def test_the_pull_looks_at_no_patient(consortium: Consortium) -> None:
    """Over nobody an update is noise n1, n2 alone: with the pull it is -r (n1 + n2) + r^2 mu n1, whoever might have been there."""
    one, plain, prox = (planned(consortium, name, steps=steps, mode="local", **options) for name, steps, options in
                        (("fedavg", 1, {}), ("fedavg", 2, {}), ("fedprox", 2, {"mu": 0.4})))  # fmt: skip
    start = start_of(plain)
    first, both, pulled = (update(plan, SITES[0], nobody(), start, seed="same") for plan in (one, plain, prox))
    assert pulled - both == pytest.approx(-0.5 * 0.4 * first, rel=1e-9, abs=1e-15)
    assert np.abs(first).max() > 0


@pytest.mark.parametrize("mu", [-0.1, 2.5, "much"])
def test_a_pull_that_overshoots_is_refused_at_the_site_too(consortium: Consortium, mu: float | str) -> None:
    plan = consortium.plan(strategy=StrategyRef("fedprox", (("mu", mu),)))
    with pytest.raises(Refused, match="MODEL: mu of strategy fedprox"):
        update(plan, SITES[0], cohort(5), start_of(plan))


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_leaving_a_site_out_is_training_without_it(tmp_path: Path, strategy: str) -> None:
    """The same model as of the other sites alone, and figures of the site's patients alone."""
    write_hospitals(tmp_path, 4, (60, 80, 70, 90), 7)
    cohorts = {path.name: load_cohort(path, TASK.contract) for path in sorted(tmp_path.iterdir())}
    last = max(cohorts)
    others = {site: people for site, people in cohorts.items() if site != last}
    words = ["task=cis_conversion", "privacy=none", f"strategy={strategy}", "schedule.rounds=5", "schedule.local_steps=3"]
    left = inside.run(TASK, [*words, f"task.options.leave_out={last}"], cohorts, SALT)
    without = inside.run(TASK, words, others, SALT)
    assert left.model == pytest.approx(without.model, abs=1e-6)
    assert left.figures["auc"] != pytest.approx(without.figures["auc"], abs=1e-3)
