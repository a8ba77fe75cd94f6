"""No patient is on two sides, whatever the tables hold; the split of rows, which puts patients on two, is for measuring alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from guards_in_process import SALT, SITES, Consortium, tape, terms
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_trainer_privacy import Episodes, buffers, cohort

from client import batches
from client.errors import Refused
from client.job import Job
from client.plan_model import model_of
from client.sides import Side, Sides, Split
from client.trainer import Trainer
from consortium.plan import ParameterSpec, Plan, TaskRef
from tasks.base import Cohort, Task
from tasks.cdp_2y.task import TASK as CDP
from tasks.cis_conversion.task import TASK
from tasks.errors import ContractError
from tasks.features import Design
from tasks.modalities import dropped
from tasks.models import parameter_specs
from tasks.relapse_activity.task import TASK as RELAPSES
from tasks.run_options import ROWS, RunOptions
from tasks.splits import NOWHERE, TEST, TRAINING, VALIDATION, held_out, part_of, parts_of, parts_of_rows

EPISODES = Episodes(TASK.contract)
names = st.lists(st.sampled_from([f"p{at}" for at in range(12)]), min_size=1, max_size=60)
salts = st.binary(min_size=16, max_size=32)


def planted(n: int, rows: int, seed: int = 0) -> Cohort:
    """`n` patients with `rows` rows each, all in disorder and some of them equal: duplicates as real tables have them."""
    people, stream = cohort(n, seed), np.random.default_rng(seed)
    owners = stream.permutation(np.repeat(np.arange(n), rows))
    ids = tuple(people.patient_ids[owner] for owner in owners)
    years = stream.integers(2005, 2025, len(owners)).astype(float)
    return Cohort(ids, people.values[owners], people.labels[owners], people.report, years=years)


def split(people: Cohort, fraction: float = 0.5, at_most: int = 4) -> Split:
    return Split(people, salt=SALT, held_out_fraction=fraction, at_most=at_most)


def all_of(sides: Sides) -> tuple[Side, Side, Side]:
    return sides.training, sides.validation, sides.test


def on_two_sides(sides: Sides) -> set[str]:
    seen = Counter(name for side in all_of(sides) for name in set(side.ids))
    return {name for name, times in seen.items() if times > 1}


@given(names, salts, st.floats(0, 0.99))
def test_all_rows_of_a_patient_are_on_one_side(ids: list[str], salt: bytes, fraction: float) -> None:
    sides: dict[str, set[int]] = {}
    for name, part in zip(ids, parts_of(ids, salt, fraction).tolist(), strict=True):
        sides.setdefault(name, set()).add(part)
    assert all(len(found) == 1 for found in sides.values())
    assert all((found != {TRAINING}) == held_out(name, salt, fraction) for name, found in sides.items())


@given(st.text(), salts, st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_consortium_that_holds_out_more_moves_nobody_between_the_halves(name: str, salt: bytes, a: float, b: float) -> None:
    low, high = (part_of(name, salt, fraction) for fraction in sorted((a, b)))
    assert low in (TRAINING, high)


def test_the_halves_are_halves() -> None:
    parts = parts_of([str(at) for at in range(8000)], SALT, 0.4)
    assert abs((parts == VALIDATION).mean() - 0.2) < 0.02
    assert abs((parts == TEST).mean() - 0.2) < 0.02


def test_the_rule_of_the_halves_never_changes() -> None:
    assert "".join(str(part_of(f"p{at}", SALT, 0.5)) for at in range(24)) == "222200002000220020022010"


@pytest.mark.parametrize("options", [RunOptions(), RunOptions(train_until_year=2015), RunOptions(leave_out=SITES[0])])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6))
def test_planted_duplicates_are_never_on_two_sides(options: RunOptions, seed: int, rows: int) -> None:
    people = planted(15, rows, seed)
    for site in SITES[:2]:
        assert on_two_sides(split(people).asked(options, site=site)) == set()


def test_the_check_for_patients_on_two_sides_sees_them() -> None:
    """The control: a split of rows leaks, most patients of several rows are on two sides."""
    people = planted(60, 4)
    assert len(on_two_sides(split(people).asked(RunOptions(split=ROWS)))) > 30
    rows = Counter(parts_of_rows(people.patient_ids, SALT, 0.5).tolist())
    assert min(rows[TRAINING], rows[VALIDATION] + rows[TEST]) > 80
    assert rows[NOWHERE] == 0


def test_the_side_of_a_row_depends_on_its_own_patients_rows_alone() -> None:
    alone = parts_of_rows(["a", "a", "a"], SALT, 0.5)
    among = parts_of_rows(["b", "a", "c", "a", "b", "a"], SALT, 0.5)
    assert among[[1, 3, 5]].tolist() == alone.tolist()


def test_a_person_under_two_ids_is_two_patients_and_this_is_said() -> None:
    """Nothing here can know: what pseudonyms hide from the split, the documentation of its limits has to say."""
    sides = {part_of(name, SALT, 0.5) for name in ("p0", "p4")}
    assert sides == {TRAINING, TEST}
    readme = (Path(__file__).resolve().parents[2] / "client" / "README.md").read_text("utf-8")
    assert "**The same patient under two ids**" in readme


# -- what a plan may ask -----------------------------------------------------------------------------------------------------------


def asking(plan: Plan, **options: str | int | float) -> Plan:
    return replace(plan, model=replace(plan.model, options=tuple(sorted(options.items()))))


def trainer(people: Cohort) -> Trainer:
    return Trainer(EPISODES, people, salt=SALT, held_out_fraction=0.5, entropy=tape("noise"), engine="loop")


def job(plan: Plan, purpose: str, site: str = SITES[0], number: int = 2) -> Job:
    return Job(plan, site, number, purpose, buffers().tobytes() + bytes(4 * plan.n_parameters))


def test_rows_are_parted_in_plans_without_privacy_only(consortium: Consortium) -> None:
    people = trainer(planted(30, 3))
    with pytest.raises(Refused, match=r"TASK: split=rows .* only plans of mode none"):
        people.run(job(asking(consortium.plan(), split="rows"), "train"))
    people.run(job(asking(consortium.plan(privacy=terms("none")), split="rows"), "train"))


def test_the_site_that_is_left_out_tests_and_the_others_train(consortium: Consortium) -> None:
    people, plan = planted(80, 3), consortium.plan(privacy=terms("none"))
    left, usual = asking(plan, leave_out=SITES[0]), plan
    inside, outside, plain = (trainer(people).run(job(each, "train", site)) for each, site in
                              ((left, SITES[0]), (left, SITES[1]), (usual, SITES[1])))  # fmt: skip
    assert (inside.body == 0).all()
    assert (inside.header == plain.header).all()
    assert (outside.body == plain.body).all()
    assert np.abs(plain.body).max() > 0
    assert plain.header.sum() > 5
    assert (outside.header == 0).all()
    assert (trainer(people).run(job(left, "describe")).header == 0).all()
    assert trainer(people).run(job(left, "evaluate")).header.sum() == pytest.approx(trainer(people).sides.test.patients, abs=1e-3)
    assert trainer(people).run(job(left, "evaluate", SITES[1])).header.sum() == 0


def test_a_plan_that_leaves_out_nobody_on_it_is_refused(consortium: Consortium) -> None:
    """All held-out halves would be empty, and the run be paid for."""
    for privacy in (terms(), terms("none")):
        with pytest.raises(Refused, match="TASK: leave_out is 'elsewhere', which is no participant"):
            trainer(planted(20, 2)).run(job(asking(consortium.plan(privacy=privacy), leave_out="elsewhere"), "evaluate"))


def test_whoever_is_left_out_releases_noise_like_everybody(consortium: Consortium) -> None:
    """A coordinator sees no zeros: what is charged is what is noised."""
    left = asking(consortium.plan(), leave_out=SITES[0])
    found = trainer(planted(20, 2)).run(job(left, "train"))
    other = trainer(planted(20, 2)).run(job(left, "train", SITES[1]))
    assert np.abs(found.body).max() > 0
    assert np.abs(other.header).max() > 1


def test_a_cut_in_time_trains_before_and_tests_after_it() -> None:
    people = planted(50, 6)
    years = np.where(np.arange(len(people.patient_ids)) % 7 == 0, np.nan, people.years)
    dated = replace(people, years=years, values=np.where(np.isnan(people.values), 0.0, people.values))
    dated.values[:, 1] = np.nan_to_num(years, nan=-1.0)  # a column to know the rows by
    sides = split(dated, at_most=50).asked(RunOptions(train_until_year=2014))
    assert sides.training.values[:, 1].max() == 2014
    assert min(sides.validation.values[:, 1].min(), sides.test.values[:, 1].min()) == 2015
    assert min(side.values[:, 1].min() for side in all_of(sides)) > 0, "rows of an unknown year are on no side"
    whole = split(dated, at_most=50).sides
    for cut, before in zip(all_of(sides), all_of(whole), strict=True):
        assert set(cut.ids) <= set(before.ids)


def test_the_last_records_before_a_cut_are_those_that_count() -> None:
    """The limit of a patient's records is applied to the rows in time: the last of all may lie after the cut."""
    one = cohort(1)
    people = Cohort(("p4",) * 6, np.repeat(one.values, 6, axis=0), np.arange(6, dtype=np.int8) % 2, one.report,
                    years=np.arange(2010.0, 2016.0))  # fmt: skip
    sides = split(people, at_most=2).asked(RunOptions(train_until_year=2012))
    assert sides.training.labels.tolist() == [1, 0]


def test_records_without_a_date_cannot_be_cut_in_time(consortium: Consortium) -> None:
    undated = replace(planted(20, 2), years=None)
    with pytest.raises(ContractError, match="no date"):
        split(undated).asked(RunOptions(train_until_year=2012))
    with pytest.raises(Refused, match="TASK: train_until_year"):
        trainer(undated).run(job(asking(consortium.plan(), train_until_year=2012), "train"))


def test_modality_drop_out_changes_with_the_round_and_with_nobody_else(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a patient loses is drawn for that patient, plan and round: the others' gradients stay to the bit when one is away."""
    imaging = tuple(replace(column, modality="mri", nullable=True) if at > 1 else column for at, column in
                    enumerate(TASK.contract.columns))  # fmt: skip
    task = Episodes(replace(TASK.contract, columns=imaging))
    plan = consortium.plan(privacy=terms("none"), histogram_bins=4)
    design = Design(task.contract)
    model = task.build_model("logistic", {})
    specs = tuple(ParameterSpec(*spec) for spec in parameter_specs(model))
    buffers_of = tuple(ParameterSpec(*spec) for spec in design.buffer_specs)
    plan = replace(
        plan,
        statistics=design.n_statistics,
        task=replace(plan.task, modalities=("clinical", "mri")),
        model=replace(plan.model, parameters=specs, buffers=buffers_of, options=(("drop_rate", 0.5),)),
    )
    seen: list[NDArray[np.float64]] = []

    def watched(values: NDArray[np.float64], *rest: object) -> NDArray[np.float64]:
        seen.append(dropped(values, *rest))  # type: ignore[arg-type]  # passed on
        return seen[-1]

    monkeypatch.setattr(batches, "dropped", watched)
    people = planted(30, 3)
    fewer = [at for at, name in enumerate(people.patient_ids) if name != "p7"]
    rest = Cohort(tuple(people.patient_ids[at] for at in fewer), people.values[fewer], people.labels[fewer], people.report)
    model_bytes = np.concatenate(design.neutral_buffers()).astype("<f4").tobytes() + bytes(4 * plan.n_parameters)
    for each, number in ((people, 1), (people, 1), (people, 3), (rest, 1)):
        made = Trainer(task, each, salt=SALT, held_out_fraction=0.0, entropy=tape("n"), engine="loop")
        made.run(Job(plan, SITES[0], number, "train", model_bytes))
    first, again, later, without = seen
    at_p7 = Split(people, salt=SALT, held_out_fraction=0.0, at_most=4).sides.training
    kept = np.array([at_p7.ids[owner] != "p7" for owner in at_p7.owners])
    assert np.array_equal(first, again, equal_nan=True)
    assert not np.array_equal(first, later, equal_nan=True)
    assert np.array_equal(first[kept], without, equal_nan=True)
    assert np.isnan(first[:, 2:]).all(axis=1).mean() == pytest.approx(0.5, abs=0.25)
    assert not np.isnan(first[:, 0]).any()


@pytest.mark.parametrize(
    ("task", "by", "column"), [(RELAPSES, "sex", "female"), (RELAPSES, "age", "age_years"), (CDP, "sex", "female")]
)
def test_a_plan_cannot_read_a_column_for_groups_that_it_does_not_state(
    consortium: Consortium, task: Task, by: str, column: str
) -> None:
    """A policy allows columns by what a plan states; figures by sex of a task whose scoring hides its groups got past it."""
    columns = tuple(name for name in task.contract.column_names if name != column)
    design = Design(task.contract, columns)
    cells = task.scoring(4, (by,)).cells
    usual = consortium.plan(privacy=terms("none"), histogram_bins=cells // 2, statistics=design.n_statistics)
    model = replace(
        usual.model,
        parameters=tuple(ParameterSpec(*spec) for spec in parameter_specs(task.build_model("logistic", {}, columns))),
        buffers=tuple(ParameterSpec(*spec) for spec in design.buffer_specs),
        options=(("score_bins", 4), ("score_by", by)),
    )
    plan = replace(usual, task=TaskRef(task.name, task.version, columns, task.contract.modalities(columns)), model=model)
    with pytest.raises(ContractError, match=f"figures by {by} read the column {column}, which the plan does not"):
        model_of(task, plan)
    model_of(task, replace(plan, model=replace(model, options=()), histogram_bins=task.scoring(4).cells // 2))


def test_sides_without_anybody_give_figures_of_nobody(consortium: Consortium) -> None:
    plan = consortium.plan(privacy=terms("none"))
    people = planted(3, 1)
    nobody = Trainer(EPISODES, people, salt=SALT, held_out_fraction=0.0, entropy=tape("n"), engine="loop")
    assert nobody.sides.test.patients == nobody.sides.validation.patients == 0
    for purpose in ("train", "evaluate"):
        assert (nobody.run(job(plan, purpose)).header == 0).all()
