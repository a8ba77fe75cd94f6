"""One patient moves what is summed by at most the clip, whoever else is there and whatever weights a coordinator sends."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from guards_in_process import SALT, SITES, Consortium, tape, terms, truthful
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from client import plan_model
from client import trainer as module
from client.engines import NAMES, Engine, choose_engine
from client.errors import Refused
from client.job import Job, Result
from client.release import Bound, clipped_grid_sum
from client.trainer import Trainer, outputs_of
from consortium.plan import Plan
from privacy.noise import sensitivity_factor
from tasks.base import Cohort, Task
from tasks.cis_conversion.task import TASK
from tasks.features import Design
from tasks.models import parameter_specs
from tasks.report import DataReport
from tasks.tabular import TabularTask

QUICK = settings(deadline=None, max_examples=150)
N_COLUMNS = len(TASK.contract.columns)
BOUND = Bound(0.5, 20)
FLOATS = st.floats(-1e308, 1e308) | st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1e308, -1e308, np.inf, -np.inf, np.nan])


def cohort(n: int, seed: int = 0) -> Cohort:
    stream = np.random.default_rng(seed)
    values = (stream.random((n, N_COLUMNS)) < 0.5).astype(float)
    age = TASK.contract.column_names.index("age_years")
    values[:, age] = stream.uniform(10, 80, n)
    values[stream.random(values.shape) < 0.1] = np.nan
    values[:, [0, age]] = np.nan_to_num(values[:, [0, age]], nan=30.0)
    values[:, 0] = values[:, 0] % 2
    report: DataReport = None  # type: ignore[assignment]  # never looked at by a trainer
    return Cohort(tuple(f"p{at}" for at in range(n)), values, (stream.random(n) < 0.4).astype(np.int8), report)


def without(people: Cohort, at: int) -> Cohort:
    keep = np.arange(people.size) != at
    ids = tuple(name for name, kept in zip(people.patient_ids, keep, strict=True) if kept)
    return Cohort(ids, people.values[keep], people.labels[keep], people.report)


def trainer(
    people: Cohort, entropy: Callable[[int], bytes] | None = None, held_out: float = 0.0, task: Task = TASK, engine: str = ""
) -> Trainer:
    return Trainer(task, people, salt=SALT, held_out_fraction=held_out, entropy=entropy or tape("noise"), engine=engine)


def with_model(plan: Plan, name: str, options: tuple[tuple[str, str | int], ...]) -> Plan:
    specs = parameter_specs(TASK.build_model(name, dict(options)))
    spec = type(plan.model.parameters[0])
    return replace(plan, model=replace(plan.model, name=name, options=options, parameters=tuple(spec(*each) for each in specs)))


def buffers() -> NDArray[np.float32]:
    return np.concatenate(Design(TASK.contract).neutral_buffers()).astype(np.float32)


def job(plan: Plan, weights: NDArray[np.float32] | None = None, purpose: str = "train", number: int = 1) -> Job:
    chosen = np.zeros(plan.n_parameters, "<f4") if weights is None else weights.astype("<f4")
    return Job(plan, SITES[0], number, purpose, buffers().astype("<f4").tobytes() + chosen.tobytes())


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[np.int64]]:
    """No noise; every grid sum on its way to the noise is kept here."""
    seen: list[NDArray[np.int64]] = []

    def none(grid_sum: NDArray[np.int64], *, noise_multiplier: float, bound: Bound, entropy: object) -> NDArray[np.int64]:
        seen.append(grid_sum)
        return grid_sum

    monkeypatch.setattr(module, "noised", none)
    return seen


# -- the sum ---------------------------------------------------------------------------------------------------------------


@QUICK
@given(rows=arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOATS), at=st.integers(0, 5))
def test_any_row_moves_the_grid_sum_by_at_most_the_bound_that_the_noise_is_scaled_to(rows: NDArray[np.float64], at: int) -> None:
    whole, rest = clipped_grid_sum(rows, BOUND), clipped_grid_sum(np.delete(rows, at % len(rows), axis=0), BOUND)
    moved = np.sqrt(float(np.square((whole - rest).astype(object)).sum()))
    assert moved <= 2**BOUND.grid_bits * sensitivity_factor(rows.shape[1], BOUND.grid_bits)
    assert moved <= 2**BOUND.grid_bits * (1 + 1e-5) + np.sqrt(rows.shape[1])


@QUICK
@given(rows=arrays.arrays(np.float64, (7, 4), elements=FLOATS), order=st.permutations(range(7)), cut=st.integers(1, 6))
def test_neither_order_nor_chunks_change_the_sum(rows: NDArray[np.float64], order: list[int], cut: int) -> None:
    whole = clipped_grid_sum(rows, BOUND)
    shuffled = rows[order]
    assert (whole == clipped_grid_sum(shuffled[:cut], BOUND) + clipped_grid_sum(shuffled[cut:], BOUND)).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_patient_with_a_value_that_is_no_number_counts_as_absent(broken: float) -> None:
    rows = np.array([[0.1, 0.2], [broken, 0.1], [0.3, -0.4]])
    assert (clipped_grid_sum(rows, BOUND) == clipped_grid_sum(rows[[0, 2]], BOUND)).all()


def test_a_row_within_the_bound_is_left_as_it_is_and_a_longer_one_keeps_its_direction() -> None:
    assert clipped_grid_sum(np.array([[0.3, 0.4]]), BOUND).tolist() == [629146, 838861]  # 0.6 and 0.8 of 2^20
    assert clipped_grid_sum(np.array([[3e200, 4e200]]), BOUND).tolist() == [629146, 838861]


@pytest.mark.parametrize("norm", [5e-324, 7.6e-318, 1e-310, 2.0**-101, 2.0**101, 1e308, 0.0, -1.0, np.inf, np.nan])
def test_a_bound_where_doubles_lose_digits_is_refused(norm: float) -> None:
    """At 7.6e-318 the grid step rounds to two thirds of itself, and every patient would count half as much again."""
    with pytest.raises(Refused, match="POLICY"):
        Bound(norm, 20)


# -- leave one patient out -----------------------------------------------------------------------------------------------------


def adversarial(plan: Plan, name: str, seed: int) -> NDArray[np.float32]:
    """Weights as a hostile coordinator may send them: huge, tiny, and nearly cancelling."""
    stream = np.random.default_rng(seed)
    weights = stream.normal(size=plan.n_parameters)
    if name == "cancel":
        weights *= 1e6
        weights[1::2] = -weights[: len(weights[1::2]) * 2 : 2] * (1 + 1e-7)
    scale = {"plain": 1.0, "huge": 1e4, "largest": 1e38, "cancel": 1.0}[name]
    return np.clip(weights * scale, -3e38, 3e38).astype(np.float32)


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("attack", ["plain", "huge", "largest", "cancel"])
@pytest.mark.parametrize("model", [("logistic", ()), ("mlp", (("hidden", "24,8"),))], ids=["logistic", "mlp"])
def test_removing_a_patient_moves_the_sum_by_at_most_the_clip(
    consortium: Consortium, quiet: list[NDArray[np.int64]], model: tuple[str, tuple[tuple[str, str], ...]], attack: str, engine: str
) -> None:
    """Also where the others' arithmetic could depend on how many patients are computed together."""
    plan = with_model(consortium.plan(), *model)
    weights = adversarial(plan, attack, 3)
    for n in (5, 33, 260):
        people = cohort(n, seed=n)
        trainer(people, engine=engine).run(job(plan, weights))
        for at in (0, n // 2, n - 1):
            trainer(without(people, at), engine=engine).run(job(plan, weights))
            moved = float(np.linalg.norm((quiet[0] - quiet.pop()).astype(float)))
            assert moved <= 2**plan.privacy.grid_bits * (1 + 1e-5) + np.sqrt(plan.n_parameters)
        quiet.clear()


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_weights_that_cancel_do_not_turn_one_patient_into_many(
    consortium: Consortium, quiet: list[NDArray[np.int64]], seed: int, engine: str
) -> None:
    """Equal patients whose logit is rounding error alone: with shared weights, removing one flipped all (4 clips measured)."""
    plan, one = consortium.plan(), cohort(1, seed)
    design = Design(TASK.contract)
    x = design.encode(one.values, *design.neutral_buffers())[0]
    w = (np.random.default_rng(seed).normal(size=len(x)) * 1e20).astype(np.float32)
    total = np.float32(0)
    for product in w * x:
        total = np.float32(total + product)
    weights = np.concatenate([w, [-total]])
    for n in range(1, 6):
        people = Cohort(tuple(map(str, range(n))), np.repeat(one.values, n, axis=0), np.zeros(n, np.int8), one.report)
        trainer(people, engine=engine).run(job(plan, weights))
    moves = [float(np.linalg.norm((after - before).astype(float))) for before, after in itertools.pairwise(quiet)]
    assert max(moves) <= 2**plan.privacy.grid_bits * (1 + 1e-5) + np.sqrt(plan.n_parameters)


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_a_patients_score_does_not_depend_on_who_else_is_there(consortium: Consortium, scale: float, engine: str) -> None:
    """Bit for bit; of the gradients `test_engines.py` tests it."""
    plan, people = with_model(consortium.plan(), "mlp", (("hidden", "64,32"),)), cohort(97)
    weights = (scale * adversarial(plan, "plain", 1)).astype(np.float32)
    seen = trainer(people, engine=engine)
    built, patients = seen._model(plan), seen._encoder_of().batches(plan, seen.sides, buffers()).training
    together = outputs_of(built, weights, patients)
    for start, end in ((0, 1), (96, 97), (0, 7), (1, 17), (3, 67), (5, 97)):
        assert (outputs_of(built, weights, patients.part(start, end)) == together[start:end]).all()


def test_a_patient_with_impossible_features_is_bounded_like_any_other(
    consortium: Consortium, quiet: list[NDArray[np.int64]]
) -> None:
    """Whatever a mapping lets through: huge, infinite, not a number, and the same patient many times."""
    plan, people = consortium.plan(), cohort(20)
    odd = {0: 1e300, 1: np.inf, 2: np.nan, 3: -1e300}
    values = people.values.copy()
    for at, value in odd.items():
        values[at, :] = value
    values[4:10] = values[4]
    strange = replace(people, values=values)
    trainer(strange).run(job(plan))
    for at in range(10):
        trainer(without(strange, at)).run(job(plan))
        moved = float(np.linalg.norm((quiet[0] - quiet.pop()).astype(float)))
        assert moved <= 2**plan.privacy.grid_bits * (1 + 1e-5) + np.sqrt(plan.n_parameters)


@pytest.mark.parametrize("purpose", ["describe", "evaluate"])
def test_removing_a_patient_moves_statistics_and_histograms_within_their_bounds(
    consortium: Consortium, quiet: list[NDArray[np.int64]], purpose: str
) -> None:
    plan, people = consortium.plan(), cohort(30)
    fraction = 0.9 if purpose == "evaluate" else 0.0
    trainer(people, held_out=fraction).run(job(plan, purpose=purpose))
    changes = []
    for at in range(30):
        trainer(without(people, at), held_out=fraction).run(job(plan, purpose=purpose))
        changes.append(float(np.linalg.norm((quiet[0] - quiet.pop()).astype(float))))
    length = plan.statistics if purpose == "describe" else 2 * plan.histogram_bins
    assert max(changes) <= 2**plan.privacy.grid_bits + np.sqrt(length)
    assert max(changes) > 0


def test_a_statistics_vector_longer_than_the_plans_bound_is_clipped(consortium: Consortium, quiet: list[NDArray[np.int64]]) -> None:
    plan = consortium.plan(privacy=terms(describe_clip=0.25))
    trainer(cohort(1)).run(job(plan, purpose="describe"))
    assert np.linalg.norm(quiet[0].astype(float)) <= 2**20 + np.sqrt(plan.statistics)
    assert trainer(cohort(1)).run(job(plan, purpose="describe")).header.max() <= 0.25 * (1 + 1e-5)


@pytest.mark.parametrize("model", [("logistic", ()), ("mlp", (("hidden", 8),))], ids=["logistic", "mlp"])
def test_every_engine_trains_alike(
    consortium: Consortium, quiet: list[NDArray[np.int64]], model: tuple[str, tuple[tuple[str, int], ...]]
) -> None:
    """All patients' sum, to 1e-5 of one patient's bound for each patient."""
    plan, people = with_model(consortium.plan(), *model), cohort(300)
    for engine in ("", *NAMES):
        trainer(people, engine=engine).run(job(plan, adversarial(plan, "plain", 1)))
    allowed = 300 * (1e-5 * 2**plan.privacy.grid_bits + np.sqrt(plan.n_parameters))
    assert max(float(np.linalg.norm(each - quiet[0])) for each in quiet) <= allowed
    assert any(np.linalg.norm(each) > 0 for each in quiet)


def test_an_engine_is_chosen_once_for_all_sites_of_a_process(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never with a patient in sight: the choice is the same with one patient more or less."""
    chosen: list[str] = []

    def choose(*args: object, **rest: str) -> Engine:
        chosen.append(rest["name"])
        return choose_engine(*args, **rest)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(plan_model, "_known", OrderedDict())
    monkeypatch.setattr(plan_model, "choose_engine", choose)
    plan = consortium.plan()
    for people in (cohort(30), cohort(5)):
        for number in (1, 2):
            trainer(people, held_out=0.3).run(job(plan, number=number))
    assert chosen == [""]
    trainer(cohort(5)).run(job(with_model(plan, "mlp", (("hidden", 4),))))
    assert chosen == ["", ""]


def test_a_model_that_was_built_before_answers_for_no_other_options(consortium: Consortium) -> None:
    """16 and 16.0 are equal as keys; the second is no width."""
    plan = with_model(consortium.plan(), "mlp", (("hidden", 16),))
    trainer(cohort(5)).run(job(plan))
    odd = replace(plan, model=replace(plan.model, options=(("hidden", 16.0),)))
    assert odd.model == plan.model
    with pytest.raises(Refused, match=r"hidden is 16\.0"):
        trainer(cohort(5)).run(job(odd))


def test_an_engine_that_does_not_serve_the_model_is_a_clear_refusal(consortium: Consortium) -> None:
    with pytest.raises(Refused, match=r"MODEL: 4 records a patient"):
        trainer(cohort(5), task=Episodes(TASK.contract), engine="outer").run(job(consortium.plan()))


# -- several records a patient -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episodes(TabularTask):
    """A task whose patients have up to four rows."""

    @property
    def records(self) -> int:
        return 4


def episodes(n: int, rows: int, seed: int = 0) -> Cohort:
    """`n` patients with 1 to `rows` rows each, the rows in disorder, all of one patient much alike."""
    stream, people = np.random.default_rng(seed), cohort(n, seed)
    owners = stream.permutation(np.repeat(np.arange(n), 1 + np.arange(n) % rows))
    names = tuple(people.patient_ids[owner] for owner in owners)
    return Cohort(names, people.values[owners], people.labels[owners], people.report)


def without_patient(people: Cohort, name: str) -> Cohort:
    keep = np.array([each != name for each in people.patient_ids])
    ids = tuple(each for each in people.patient_ids if each != name)
    return Cohort(ids, people.values[keep], people.labels[keep], people.report)


@pytest.mark.parametrize("engine", ["loop", "bookkeeping", "functional"])
@pytest.mark.parametrize("purpose", ["train", "describe", "evaluate"])
def test_a_patient_with_one_record_or_many_moves_every_release_by_at_most_its_bound(
    consortium: Consortium, quiet: list[NDArray[np.int64]], purpose: str, engine: str
) -> None:
    """Up to nine rows where the task's limit is four; in the training, also against the same patient with one row."""
    plan, task, people = consortium.plan(), Episodes(TASK.contract), episodes(18, 9)
    fraction, moved = (0.9 if purpose == "evaluate" else 0.0), []
    trainer(people, held_out=fraction, task=task, engine=engine).run(job(plan, purpose=purpose))
    for at in range(18):
        rest = without_patient(people, f"p{at}")
        trainer(rest, held_out=fraction, task=task, engine=engine).run(job(plan, purpose=purpose))
        moved.append(float(np.linalg.norm((quiet[0] - quiet.pop()).astype(float))))
    length = {"train": plan.n_parameters, "describe": plan.statistics, "evaluate": 2 * plan.histogram_bins}[purpose]
    assert max(moved) <= 2**plan.privacy.grid_bits * (1 + 1e-5) + np.sqrt(length)
    assert max(moved) > 0.5 * 2**plan.privacy.grid_bits * (0.5 if purpose == "describe" else 1)


def test_equal_rows_of_a_patient_count_as_one(consortium: Consortium, quiet: list[NDArray[np.int64]]) -> None:
    plan, task, one = consortium.plan(), Episodes(TASK.contract), cohort(30)
    many = Cohort(tuple(np.repeat(one.patient_ids, 3)), np.repeat(one.values, 3, axis=0), np.repeat(one.labels, 3), one.report)
    for purpose, number in (("train", 1), ("describe", 1), ("train", 2)):
        quiet.clear()
        for people in (one, many):
            trainer(people, held_out=0.6, task=task, engine="loop").run(job(plan, purpose=purpose, number=number))
        half = len(quiet) // 2
        for alone, repeated in zip(quiet[:half], quiet[half:], strict=True):
            assert np.abs(alone - repeated).max() <= one.size  # a step of the grid a patient, by rounding
            assert np.abs(alone).max() > 1000


def test_of_more_records_than_the_limit_the_last_ones_count(consortium: Consortium, quiet: list[NDArray[np.int64]]) -> None:
    plan, task, rows = consortium.plan(), Episodes(TASK.contract), cohort(9)
    names = ("a",) * 7 + ("b",) * 2
    whole = Cohort(names, rows.values, rows.labels, rows.report)
    last = Cohort(names[3:], rows.values[3:], rows.labels[3:], rows.report)
    for people in (whole, last):
        trainer(people, task=task, engine="loop").run(job(plan))
    assert (quiet[0] == quiet[1]).all()


def test_the_number_of_patients_counts_patients_and_not_records(consortium: Consortium, quiet: list[NDArray[np.int64]]) -> None:
    plan = consortium.plan(privacy=terms(count_noise=5.0))
    trainer(episodes(40, 4), task=Episodes(TASK.contract)).run(job(plan, number=2))
    assert any(each.tolist() == [40 << plan.privacy.grid_bits] for each in quiet)


def test_all_records_of_a_patient_are_on_one_side_of_the_split_and_the_patient_is_counted_once() -> None:
    people = episodes(40, 4)
    seen = trainer(people, held_out=0.4, task=Episodes(TASK.contract))
    sides = (seen.sides.training, seen.sides.validation, seen.sides.test)
    assert seen.sides.patients == 40
    assert 5 < seen.sides.validation.patients + seen.sides.test.patients < 35
    assert min(side.patients for side in sides) > 0
    for side in sides:
        together = np.bincount(side.owners, side.shares(2**20))
        assert (together <= 2**20).all()
        assert (together > 2**20 - 4).all()
    assert sum(len(side.labels) for side in sides) == len(people.patient_ids)
    assert len(set().union(*(side.ids for side in sides))) == 40


# -- public constants ------------------------------------------------------------------------------------------------------------


def test_the_normaliser_and_the_rate_are_the_plans_and_not_the_datas(
    consortium: Consortium, quiet: list[NDArray[np.int64]]
) -> None:
    """The same sum over twice the declared patients is half the update, whoever is really there."""
    plan, people = consortium.plan(), cohort(20)
    single = trainer(people).run(job(plan)).body
    declared = tuple(replace(each, declared_patients=150) for each in plan.participants)
    assert np.allclose(trainer(people).run(job(replace(plan, participants=declared))).body * 2, single)
    expected = -plan.schedule.local_rate * quiet[0] * Bound(plan.privacy.clip, plan.privacy.grid_bits).step / 75
    assert np.allclose(single, expected, atol=1e-12)


def test_the_rate_divides_and_is_not_replaced_by_who_was_drawn(consortium: Consortium, quiet: list[NDArray[np.int64]]) -> None:
    plan = consortium.plan(privacy=terms(sample_rate=0.25))
    body = trainer(cohort(40), tape("draw")).run(job(plan)).body
    step = Bound(plan.privacy.clip, plan.privacy.grid_bits).step
    assert np.allclose(body, -0.5 * quiet[0] * step / (0.25 * 75), atol=1e-12)


def test_an_empty_sample_releases_noise_alone(consortium: Consortium) -> None:
    plan = consortium.plan(privacy=terms(sample_rate=1e-6))
    released = trainer(cohort(3)).run(job(plan)).body
    assert released.shape == (plan.n_parameters,)
    assert np.abs(released).max() > 0


def test_a_site_without_anybody_to_train_on_releases_noise_too(consortium: Consortium) -> None:
    plan = consortium.plan()
    result = trainer(cohort(3), held_out=0.999999).run(job(plan, number=2))
    assert result.body.shape == (plan.n_parameters,)
    assert result.header.shape == (2 * plan.histogram_bins,)


# -- noise -----------------------------------------------------------------------------------------------------------------------


def released_in_bounds(plan: Plan, seed: str, purpose: str) -> NDArray[np.float64]:
    """One release over nobody, in units of its L2 bound: noise alone."""
    empty = replace(cohort(1), patient_ids=(), values=np.zeros((0, N_COLUMNS)), labels=np.zeros(0, np.int8))
    result = trainer(empty, tape(seed)).run(job(plan, purpose=purpose))
    if purpose == "train":
        return result.body * 75 / plan.schedule.local_rate / plan.privacy.clip
    return result.header / (plan.privacy.describe_clip if purpose == "describe" else 1.0)


@pytest.mark.parametrize(
    ("purpose", "field"), [("train", "train_noise"), ("describe", "describe_noise"), ("evaluate", "evaluate_noise")]
)
def test_the_noise_of_a_release_has_the_plans_standard_deviation(consortium: Consortium, purpose: str, field: str) -> None:
    plan = consortium.plan(histogram_bins=1024, privacy=terms(describe_clip=1.5))
    if purpose == "train":
        plan = with_model(plan, "mlp", (("hidden", 64),))
    repeats = 600 if purpose == "describe" else 3
    released = np.concatenate([released_in_bounds(plan, f"{purpose}{at}", purpose) for at in range(repeats)])
    assert len(released) > 1500
    assert abs(released.std() / getattr(plan.privacy, field) - 1) < 0.03
    assert abs(released.mean()) < 4 * getattr(plan.privacy, field) / np.sqrt(len(released))


def test_several_steps_each_have_their_own_noise(consortium: Consortium) -> None:
    """Two steps over nobody: the released sum has sqrt(2) times the noise of one."""
    plan = with_model(consortium.plan(), "mlp", (("hidden", 128),))
    two = replace(plan, schedule=replace(plan.schedule, local_steps=2))
    ratio = released_in_bounds(two, "b", "train").std() / released_in_bounds(plan, "a", "train").std()
    assert abs(ratio / np.sqrt(2) - 1) < 0.05


def test_the_same_round_run_twice_draws_fresh_noise(consortium: Consortium) -> None:
    people, plan = trainer(cohort(10), os.urandom), consortium.plan()
    first, second = people.run(job(plan, number=2)), people.run(job(plan, number=2))
    assert np.isclose(first.body, second.body, atol=1e-6).mean() < 0.2  # one of sixteen is alike by chance in 4 runs of 10,000
    assert np.isclose(first.header, second.header, atol=1e-6).mean() < 0.2


def test_released_values_lie_on_the_public_grid_whatever_the_data(consortium: Consortium) -> None:
    plan, people = consortium.plan(privacy=terms(clip=0.5)), cohort(20)
    released = trainer(people, tape("g")).run(job(plan)).body
    step = Bound(0.5, plan.privacy.grid_bits).step * plan.schedule.local_rate / 75  # a public number
    assert np.allclose(np.rint(released / step) * step, released, rtol=1e-12, atol=1e-15)
    assert len({round(value) for value in released / step}) > 10


def test_mode_none_has_neither_bound_nor_noise_and_only_the_plan_chooses_it(consortium: Consortium) -> None:
    open_plan = consortium.plan(privacy=terms("none"))
    people = trainer(cohort(40), held_out=0.5)
    first, second = people.run(job(open_plan, number=2)), people.run(job(open_plan, number=2))
    assert (first.body == second.body).all()
    assert first.header.sum() == people.sides.validation.patients > 0
    assert people.run(job(open_plan, purpose="evaluate")).header.sum() == people.sides.test.patients > 0
    private = truthful(replace(open_plan, privacy=terms()))
    assert not (people.run(job(private)).body == people.run(job(private)).body).any()


# -- what a trainer refuses ------------------------------------------------------------------------------------------------------


def test_a_parameter_schema_that_is_not_the_models_is_refused(consortium: Consortium) -> None:
    plan = consortium.plan()
    spec = type(plan.model.parameters[0])
    widened = replace(plan, model=replace(plan.model, parameters=(spec("output.weight", (1, 400)), spec("output.bias", (1,)))))
    with pytest.raises(Refused, match="MODEL"):
        trainer(cohort(5)).run(job(widened))


def test_statistics_that_the_task_does_not_have_are_refused(consortium: Consortium) -> None:
    plan = consortium.plan(statistics=100)
    with pytest.raises(Refused, match="TASK"):
        trainer(cohort(5)).run(job(plan, purpose="describe"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_refused_by_the_trainer_too(consortium: Consortium, bad: float) -> None:
    plan = consortium.plan()
    with pytest.raises(Refused, match="MODEL"):
        trainer(cohort(5)).run(job(plan, np.full(plan.n_parameters, bad, np.float32)))


def test_a_plan_about_columns_or_models_nobody_knows_is_refused_as_a_whole(consortium: Consortium) -> None:
    plan = consortium.plan()
    strange = (
        replace(plan, task=replace(plan.task, columns=("blood_type",))),
        replace(plan, model=replace(plan.model, name="oracle")),
        replace(plan, model=replace(plan.model, buffers=())),
    )
    for each in strange:
        with pytest.raises(Refused, match=r"TASK|MODEL"):
            trainer(cohort(5)).run(Job(each, SITES[0], 1, "train", bytes(4 * each.model_size)))


def test_only_the_plans_columns_are_read(consortium: Consortium) -> None:
    """Everything else in the table may be anything: the release stays the same to the last bit."""
    columns = ("sex", "age_years")
    plan = consortium.plan()
    specs = parameter_specs(TASK.build_model("logistic", {}, columns))
    spec = type(plan.model.parameters[0])
    parameters = tuple(spec(*each) for each in specs)
    task = replace(plan.task, columns=columns, modalities=("clinical",))
    narrow = replace(plan, task=task, model=replace(plan.model, parameters=parameters))
    people = cohort(12)
    scrambled = people.values.copy()
    scrambled[:, 2:] = 1.0 - scrambled[:, 2:]
    changed = replace(people, values=scrambled)
    results: list[Result] = [trainer(each, tape("same")).run(job(narrow)) for each in (people, changed)]
    assert (results[0].body == results[1].body).all()
