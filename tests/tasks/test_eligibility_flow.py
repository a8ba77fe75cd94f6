"""The flow through a study's criteria over hospitals: everybody counts once, and nobody can subtract his way to a few."""

import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.disclosure import FLOOR, Sharpness
from tasks.eligibility.admit import admit
from tasks.eligibility.criteria import load_criteria
from tasks.eligibility.flow import INCLUDED, WITHDRAWN
from tasks.eligibility_flow.task import TASK
from tasks.errors import ContractError, DataError
from tasks.ms.contract import CONTRACT
from tasks.registry import find_task
from tasks.simulator import Schedule, SiteSpec, simulate_site
from tasks.sums import Choice, Opened, Records, SumsTask

BOTH = Choice("flow", {}, ("clinnova", "reclaim"))


@pytest.fixture(scope="module")
def tables() -> Mapping[str, pd.DataFrame]:
    return simulate_site(SiteSpec("clinic", 150, Schedule.CLINNOVA, language="fr"), 4)[0].tables


def records(tables: Mapping[str, pd.DataFrame]) -> Records:
    cohort = TASK.cohort_of(tables)
    return Records(cohort.values, cohort.owners, cohort.size)


def test_it_is_a_task_of_sums_that_needs_no_pandas_to_plan() -> None:
    assert isinstance(find_task("eligibility_flow"), SumsTask)
    code = (
        "import sys; from tasks.registry import find_task; find_task('eligibility_flow').contract; print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


def test_the_sum_is_the_count_of_the_hospitals_own_flow(tables: Mapping[str, pd.DataFrame]) -> None:
    clinical = {name: rows for name, rows in tables.items() if CONTRACT.table(name).modality == "clinical"}
    total = TASK.vectors(BOTH, (), records(tables)).sum(axis=0)
    at = 0
    for name, (length,) in TASK.stages(BOTH)[0]:
        flow = admit(clinical, load_criteria(name)).flow
        counts = {step.name: step.here for step in flow.steps} | {INCLUDED: flow.included}
        states = TASK.contract.column(name).categories
        assert dict(zip(states, total[at : at + length], strict=True)) == {state: counts[state] for state in states}
        at += length
    assert total[:at].sum() > 150


def test_who_gave_no_consent_is_in_no_vector(tables: Mapping[str, pd.DataFrame]) -> None:
    clinnova = Choice("flow", {}, ("clinnova",))
    scopes = tables["patients"]["consent_scope"]
    kept = TASK.vectors(clinnova, (), records(tables))
    assert 0 < (scopes == WITHDRAWN).sum() < len(scopes)
    assert np.array_equal(kept.sum(axis=1), np.where(scopes == WITHDRAWN, 0.0, 1.0))
    unrecorded = {**tables, "patients": tables["patients"].assign(consent_scope=None)}
    assert not TASK.vectors(clinnova, (), records(unrecorded)).any()


def test_other_patients_change_nobodys_vector_and_no_vector_is_longer_than_the_bound(tables: Mapping[str, pd.DataFrame]) -> None:
    whole = TASK.vectors(BOTH, (), records(tables))
    assert np.linalg.norm(whole, axis=1).max() == pytest.approx(TASK.bound(BOTH))
    some = tables["patients"]["patient_id"].iloc[::3]
    part = {name: rows[rows["patient_id"].isin(some)] for name, rows in tables.items()}
    assert np.array_equal(TASK.vectors(BOTH, (), records(part)), whole[::3])


def test_tables_that_the_plan_does_not_name_are_not_looked_at(tables: Mapping[str, pd.DataFrame]) -> None:
    other = {**tables, "proms": tables["proms"].assign(language="it")}
    assert admit(other, load_criteria("clinnova")).states != admit(tables, load_criteria("clinnova")).states
    assert np.array_equal(TASK.vectors(BOTH, (), records(other)), TASK.vectors(BOTH, (), records(tables)))
    assert TASK.contract.modalities(TASK.contract.column_names) == ("clinical",)


def test_the_result_says_each_rule_in_words_and_suppresses_few(tables: Mapping[str, pd.DataFrame]) -> None:
    clinnova = Choice("flow", {}, ("clinnova",))
    total = TASK.vectors(clinnova, (), records(tables)).sum(axis=0)
    rows = TASK.result(clinnova, [Opened(total, 0.0)])["tables"]["flow"]  # type: ignore[index]
    states = TASK.contract.column("clinnova").categories
    assert [row["state"] for row in rows] == list(states)
    assert rows[0]["says"] == "at least 18 years old"
    exact = dict(zip(states, total, strict=True))
    for row in rows:
        assert isinstance(row["patients"], str) or row["patients"] == exact[row["state"]] >= FLOOR
    assert any(isinstance(row["patients"], str) for row in rows)
    assert any("NOT PRIVATE" in note for note in TASK.result(clinnova, [Opened(total, 0.0)])["notes"])  # type: ignore[attr-defined]


@given(st.lists(st.floats(-30, 200), min_size=2, max_size=6), st.floats(0, 8))
def test_what_is_not_shown_is_together_no_fewer_than_the_floor_or_everything(counts: list[float], noise: float) -> None:
    sharp = Sharpness(noise)
    named = {f"s{at}": count for at, count in enumerate(counts)}
    shown = sharp.groups(named)
    hidden = [named[name] for name, count in shown.items() if isinstance(count, str)]
    assert not hidden or len(hidden) == len(counts) or sum(max(count, 0.0) for count in hidden) >= sharp.floor
    assert all(named[name] >= sharp.floor for name, count in shown.items() if not isinstance(count, str))
    if all(count >= sharp.floor for count in counts):
        assert not hidden


def test_a_group_is_not_shown_if_the_few_beside_it_could_be_subtracted() -> None:
    assert Sharpness(0.0).groups({"a": 40.0, "b": 3.0, "c": 25.0}) == {"a": 40.0, "b": "not shown", "c": "not shown"}


@given(st.integers(0, 9))
def test_whoever_knows_the_whole_cannot_tell_few_from_none(few: int) -> None:
    """What is read of 0 and 10 is read of 4 and 6 too, and of every way to part so few: words tell no more than sums."""
    seen = [Sharpness(0.0).groups({"a": 400.0, "b": float(b), "c": float(10 + few - b)}) for b in range(few + 1)]
    assert all(each == seen[0] for each in seen)
    assert seen[0] == {"a": 400.0, "b": "not shown", "c": "not shown"}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice("tables", {}, ("clinnova",)), "has no model"),
        (Choice("flow", {"bins": 3}, ("clinnova",)), "option 'bins' is unknown"),
        (Choice("flow", {}, ("mine",)), "has no column 'mine'"),
    ],
)
def test_what_it_does_not_know_is_refused(choice: Choice, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        TASK.stages(choice)


def test_a_hospital_without_patients_is_refused() -> None:
    with pytest.raises(DataError, match="no patient is left"):
        TASK.cohort_of({})
