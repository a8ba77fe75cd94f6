"""Whatever a plan asks in its run options: one patient, with any records, moves a sum by its bound at most, and nobody else."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from guards_in_process import SALT, SITES, Consortium, tape, terms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_trainer_privacy import Episodes, cohort

from client import trainer as module
from client.job import Job
from client.release import Bound
from client.sides import Side, Split
from client.trainer import Trainer
from consortium.plan import ParameterSpec, Plan
from tasks.base import Cohort
from tasks.cis_conversion.task import TASK as CIS
from tasks.features import Design
from tasks.models import parameter_specs
from tasks.run_options import run_options
from tasks.splits import TEST, TRAINING, VALIDATION, part_of

Options = dict[str, str | int | float]
ASKED: list[Options] = [
    {},
    {"drop_rate": 0.5},
    {"leave_out": SITES[0]},
    {"leave_out": SITES[1]},
    {"train_until_year": 2014},
    {"train_until_year": 2014, "drop_rate": 0.3, "leave_out": SITES[0]},
    {"score_by": "age,sex", "score_bins": 4},
]
COLUMNS = tuple(
    replace(column, modality="mri", nullable=True) if at > 1 and column.name != "age_years" else column
    for at, column in enumerate(CIS.contract.columns)
)
TASK = Episodes(replace(CIS.contract, columns=COLUMNS))
DESIGN = Design(TASK.contract)
TRAINS, VALIDATES, TESTS = "new-2", "new-11", "new-1"
STRANGE = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e19, -3.0, 0.5, 5e-324)
SLACK = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Sums:
    """Exact sums on their way to the noise, in the order in which they came."""

    seen: list[NDArray[np.int64]]

    def of(self, people: Cohort, plan: Plan, purpose: str, weights: NDArray[np.float32], site: str) -> list[NDArray[np.int64]]:
        made = Trainer(TASK, people, salt=SALT, held_out_fraction=0.5, entropy=tape("n"), engine="loop")
        vector = np.concatenate(DESIGN.neutral_buffers()).astype("<f4").tobytes() + weights.astype("<f4").tobytes()
        made.run(Job(plan, site, 2, purpose, vector))
        found, self.seen[:] = list(self.seen), []
        return found


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Sums:
    seen: list[NDArray[np.int64]] = []

    def none(grid_sum: NDArray[np.int64], *, noise_multiplier: float, bound: Bound, entropy: object) -> NDArray[np.int64]:
        seen.append(grid_sum.copy())
        return grid_sum

    monkeypatch.setattr(module, "noised", none)
    return Sums(seen)


def plan_for(consortium: Consortium, options: Options, mode: str = "local") -> Plan:
    plan = consortium.plan(privacy=terms(mode))
    asked = run_options(options)
    half = TASK.scoring(asked.bins or plan.histogram_bins, asked.by).cells // 2
    specs = tuple(ParameterSpec(*spec) for spec in parameter_specs(TASK.build_model("logistic", {})))
    kept = tuple(ParameterSpec(*spec) for spec in DESIGN.buffer_specs)
    return replace(
        plan,
        histogram_bins=half,
        statistics=DESIGN.n_statistics,
        task=replace(
            plan.task, columns=TASK.contract.column_names, modalities=TASK.contract.modalities(TASK.contract.column_names)
        ),
        model=replace(plan.model, parameters=specs, buffers=kept, options=tuple(sorted(options.items()))),
    )


def others(seed: int) -> Cohort:
    """Twelve patients of one to three rows, in disorder."""
    people, stream = cohort(12, seed), np.random.default_rng(seed)
    owners = stream.permutation(np.repeat(np.arange(12), 1 + np.arange(12) % 3))
    years = stream.integers(2010, 2020, len(owners)).astype(float)
    ids = tuple(people.patient_ids[at] for at in owners)
    return Cohort(ids, people.values[owners], people.labels[owners], people.report, years=years)


def joined(people: Cohort, name: str, rows: int, seed: int) -> Cohort:
    """One more patient with any number of rows, anything in them, scattered among the others' rows."""
    stream = np.random.default_rng(seed)
    values = np.where(
        stream.random((rows, people.values.shape[1])) < 0.5, stream.choice(STRANGE, (rows, people.values.shape[1])), 1.0
    )
    labels = stream.choice(np.array([0, 1, -1, 7], dtype=np.int8), rows)
    years = stream.choice([2012.0, 2018.0, np.nan, np.inf, -np.inf, 1e18], rows)
    at = np.sort(stream.integers(0, len(people.patient_ids) + 1, rows))
    ids = np.insert(np.array(people.patient_ids, dtype=object), at, name)
    assert people.years is not None
    return Cohort(
        tuple(ids), np.insert(people.values, at, values, axis=0), np.insert(people.labels, at, labels), people.report,
        years=np.insert(people.years, at, years),
    )  # fmt: skip


def length(moved: NDArray[np.int64]) -> float:
    return float(np.sqrt(float((moved.astype(object) ** 2).sum())))


def weights_of(plan: Plan, scale: float, seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=plan.n_parameters) * scale
    return np.clip(drawn, -3e38, 3e38).astype(np.float32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("options", ASKED, ids=lambda options: ",".join(map(str, options)) or "nothing")
@SLACK
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 9), scale=st.sampled_from([0.0, 1.0, 1e6, 1e38]))
def test_one_patient_moves_what_is_summed_by_at_most_its_bound(
    consortium: Consortium, sums: Sums, options: Options, seed: int, rows: int, scale: float
) -> None:
    """Header and body of a training round with figures, and the last histogram; at the site that is left out and at another."""
    plan, people = plan_for(consortium, options), others(seed % 1000)
    weights, steps = weights_of(plan, scale, seed), 2**plan.privacy.grid_bits
    for name, site in ((TRAINS, SITES[2]), (VALIDATES, SITES[0]), (TESTS, SITES[0]), (TRAINS, SITES[0]), (TESTS, SITES[2])):
        more = joined(people, name, rows, seed)
        for purpose in ("train", "evaluate", "describe"):
            before, after = (sums.of(each, plan, purpose, weights, site) for each in (people, more))
            assert [one.shape for one in before] == [one.shape for one in after]
            for one, other in zip(before, after, strict=True):
                assert length(other - one) <= steps * (1 + 1e-5) + np.sqrt(len(one))


def test_the_names_above_are_on_the_three_sides() -> None:
    """The control: without it the property could be about patients who are on no side that is summed."""
    assert [part_of(name, SALT, 0.5) for name in (TRAINS, VALIDATES, TESTS)] == [TRAINING, VALIDATION, TEST]


@pytest.mark.parametrize("options", ASKED, ids=lambda options: ",".join(map(str, options)) or "nothing")
@SLACK
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 9), name=st.text(min_size=1, max_size=8))
def test_nobody_changes_anothers_side_or_records(options: Options, seed: int, rows: int, name: str) -> None:
    people = others(seed % 1000)
    asked = run_options(options)
    for site in SITES[:2]:
        alone, among = (
            Split(each, salt=SALT, held_out_fraction=0.5, at_most=2).asked(asked, site=site)
            for each in (people, joined(people, f"new-{name}", rows, seed))
        )
        for before, after in ((alone.training, among.training), (alone.validation, among.validation), (alone.test, among.test)):
            assert records_of(after, without=f"new-{name}") == records_of(before)


def records_of(side: Side, without: str = "") -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for row, owner in enumerate(side.owners):
        found.setdefault(side.ids[owner], []).append(side.values[row].tobytes() + side.labels[[row]].tobytes())
    return {name: rows for name, rows in found.items() if name != without}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("options", ASKED[:2] + ASKED[-1:], ids=lambda options: ",".join(map(str, options)) or "nothing")
def test_rounds_look_at_the_validation_half_alone_and_the_last_histogram_at_the_test_half(
    consortium: Consortium, sums: Sums, options: Options
) -> None:
    plan, people = plan_for(consortium, options), others(5)
    weights = weights_of(plan, 1.0, 5)
    changed = {}
    for name in (TRAINS, VALIDATES, TESTS):
        more = joined(people, name, 2, 8)
        mine = np.array([each == name for each in more.patient_ids])
        more.values[mine] = 1.0  # nothing that a gradient would be left out for
        for purpose in ("train", "evaluate"):
            before, after = (sums.of(each, plan, purpose, weights, SITES[0]) for each in (people, more))
            changed[name, purpose] = [bool((one != other).any()) for one, other in zip(before, after, strict=True)]
    assert changed[TRAINS, "train"] == [False, True], "histogram, then gradient"
    assert changed[VALIDATES, "train"] == [True, False]
    assert changed[TESTS, "train"] == [False, False]
    assert [changed[name, "evaluate"] for name in (TRAINS, VALIDATES, TESTS)] == [[False], [False], [True]]
