"""Describing a consortium: every patient counts once, is bounded by construction, and few look like none."""

import math
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cohort_description.columns import FINE_BINS, ROW_WORDS, described
from tasks.cohort_description.result import quantiles
from tasks.cohort_description.task import TASK
from tasks.cohort_description.vectors import patient_values
from tasks.disclosure import FLOOR, HIDDEN, Sharpness
from tasks.errors import ContractError, DataError
from tasks.ms.contract import CONTRACT
from tasks.simulator import simulate
from tasks.sums import Choice, Opened, Records, SumsTask, layout, stage_vectors

COLUMNS = (
    "patients__sex", "patients__birth_year", "visits__edss", "visits__t25fw_s", "relapses__fs_affected", "treatments__dmt_class",
    "mri__t2_vol_ml", "mri__gd_count", "biomarkers__value__nfl", "proms__score__msis29_phys", "wearables__value__steps_day",
    "relapses__steroid",
)  # fmt: skip
CHOICE = Choice("tables", {"bins": 20}, COLUMNS)


@pytest.fixture(scope="module")
def tables() -> Mapping[str, pd.DataFrame]:
    return simulate("demo", 3).sites[0].tables


def summed(tables: Mapping[str, pd.DataFrame], choice: Choice = CHOICE, noise: float = 0.0) -> Mapping[str, object]:
    cohort = TASK.cohort_of(tables)
    rows = TASK.vectors(choice, (), Records(cohort.values, cohort.owners, cohort.size))
    assert np.linalg.norm(rows, axis=1).max() <= TASK.bound(choice) + 1e-9
    return TASK.result(choice, [Opened(rows.sum(axis=0), noise)])


def row(result: Mapping[str, object], kind: str, **found: object) -> dict[str, object]:
    rows = result["tables"][kind]  # type: ignore[index]
    (one,) = [each for each in rows if all(each[name] == value for name, value in found.items())]
    return one


def test_it_is_a_task_of_sums_that_needs_no_pandas_to_plan() -> None:
    assert isinstance(TASK, SumsTask)
    code = (
        "import sys; from tasks.registry import find_task; find_task('cohort_description').contract; print('pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert found.stdout.split() == ["False"]


def test_every_column_of_numbers_or_codes_can_be_described_and_no_pseudonym_can() -> None:
    names = {(each.table, each.column) for each in described()}
    for table in CONTRACT.tables:
        for column in table.columns:
            assert ((table.name, column.name) in names) == (column.kind not in ("id", "label"))
    assert set(TASK.contract.modalities(TASK.contract.column_names)) == {table.modality for table in CONTRACT.tables}


def test_the_numbers_are_those_of_a_plain_count(tables: Mapping[str, pd.DataFrame]) -> None:
    found = summed(tables)
    visits = tables["visits"]
    means = visits.dropna(subset=["edss"]).groupby("patient_id")["edss"].mean()
    edss = row(found, "numbers", column="visits__edss")
    assert edss["patients"] == len(means)
    assert edss["mean"] == pytest.approx(means.mean(), abs=0.006)
    filled = visits.groupby("patient_id")["edss"].apply(lambda cells: cells.notna().mean())
    assert edss["filled"] == pytest.approx(filled.mean(), abs=0.006)
    sexes = tables["patients"]["sex"].value_counts(normalize=True)
    assert row(found, "codes", column="patients__sex", code="F")["share"] == pytest.approx(sexes["F"], abs=0.006)
    assert row(found, "tables", table="visits")["patients"] == visits["patient_id"].nunique()
    volumes = tables["mri"].dropna(subset=["t2_vol_ml"])
    assert row(found, "numbers", column="mri__t2_vol_ml")["patients"] == volumes["patient_id"].nunique()
    panels = pd.concat([each.tables["biomarkers"] for each in simulate("demo", 3).sites])
    nfl = panels.query("analyte == 'nfl'").dropna(subset=["value"])["patient_id"]
    people = pd.DataFrame({"patient_id": panels["patient_id"].unique()})
    measured = row(summed({"patients": people, "biomarkers": panels}), "numbers", column="biomarkers__value__nfl")
    assert measured["patients"] == nfl.nunique() > 10


def test_quantiles_are_of_patients_to_the_width_of_a_bin(tables: Mapping[str, pd.DataFrame]) -> None:
    years = tables["patients"]["birth_year"].dropna().to_numpy(float)
    found = row(summed(tables), "numbers", column="patients__birth_year")
    for name, q in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        assert abs(float(found[name]) - np.quantile(years, q)) <= 100 / 20  # type: ignore[arg-type]


def test_somebody_with_a_hundred_visits_counts_as_much_as_somebody_with_one(tables: Mapping[str, pd.DataFrame]) -> None:
    patients = tables["patients"].head(1)
    one = tables["visits"][tables["visits"]["patient_id"] == patients["patient_id"].iloc[0]].head(1).assign(edss=3.0)
    many = pd.concat([one] * 100, ignore_index=True)
    column = next(each for each in described() if each.name == "visits__edss")
    values = [patient_values({"patients": patients, "visits": rows}, ["x"], ["visits"], [column])[0] for rows in
              (one.assign(patient_id="x"), many.assign(patient_id="x"))]  # fmt: skip
    assert np.allclose(values[0][1 + len(ROW_WORDS) :], values[1][1 + len(ROW_WORDS) :])
    assert values[0][1] == values[1][5] == 1.0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_patient_s_vector_exceeds_the_bound_whatever_the_rows(data: st.DataObject) -> None:
    number = st.one_of(st.none(), st.floats(-1e6, 1e6))
    n = data.draw(st.integers(1, 30))
    owners = data.draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=n, max_size=n))
    draw = lambda kind: data.draw(st.lists(kind, min_size=n, max_size=n))  # noqa: E731 - one line is enough
    edss, t25 = (pd.array(np.array(draw(number), dtype=float)) for _ in range(2))
    visits = pd.DataFrame({"patient_id": owners, "edss": edss, "t25fw_s": t25})
    affected = draw(st.sampled_from([None, "visual", "visual|sensory", "strange"]))
    relapses = pd.DataFrame({"patient_id": owners, "fs_affected": affected, "steroid": draw(st.sampled_from([None, 0, 1]))})
    patients = pd.DataFrame({"patient_id": ["a", "b", "c"], "sex": ["F", None, "M"], "birth_year": [1980, None, 2300]})
    cohort = TASK.cohort_of({"patients": patients, "visits": visits, "relapses": relapses})
    rows = TASK.vectors(CHOICE, (), Records(cohort.values, cohort.owners, cohort.size))
    assert np.isfinite(rows).all()
    assert rows.min() >= 0.0
    assert np.linalg.norm(rows, axis=1).max() <= TASK.bound(CHOICE) + 1e-9


def test_a_patient_s_vector_depends_on_nobody_else(tables: Mapping[str, pd.DataFrame]) -> None:
    whole = TASK.cohort_of(tables)
    half = set(whole.patient_ids[::2])
    part = TASK.cohort_of({name: rows[rows["patient_id"].isin(half)] for name, rows in tables.items()})
    assert np.array_equal(whole.values[::2], part.values)


@pytest.mark.parametrize("noise", [0.0, 9.0])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_fewer_than_the_floor_and_none_look_alike(tables: Mapping[str, pd.DataFrame], noise: float, count: int) -> None:
    """Whoever reads both reports cannot tell a hospital with `count` men from one with none."""
    people = tables["patients"].head(80).assign(sex="F", birth_year=None)
    some = people.assign(sex=["M"] * count + ["F"] * (80 - count), birth_year=[1970] * count + [None] * (80 - count))
    choice = Choice("tables", {"bins": 5}, ("patients__sex", "patients__birth_year"))
    assert summed({"patients": some}, choice, noise)["tables"] == summed({"patients": people}, choice, noise)["tables"]


@pytest.mark.parametrize("few", [1, 4, 9])
def test_a_few_cannot_be_found_by_subtraction_from_classes_or_shares(tables: Mapping[str, pd.DataFrame], few: int) -> None:
    people = tables["patients"].head(80).assign(sex=["F"] * 50 + ["M"] * (30 - few) + ["X"] * few)
    names = people["patient_id"].tolist()
    visits = tables["visits"].drop_duplicates("patient_id").set_index("patient_id").reindex(names).reset_index()
    visits = pd.concat(
        [visits, *[visits.head(30)] * 2, visits.tail(few)]
    )  # 30 with three visits, `few` with two, the rest with one
    choice = Choice("tables", {"bins": 5}, ("patients__sex", "visits__edss"))
    found = summed({"patients": people, "visits": visits.assign(edss=2.0)}, choice)
    shares = {each["code"]: each["share"] for each in found["tables"]["codes"]}  # type: ignore[index]
    assert [code for code, share in shares.items() if share == HIDDEN] == ["M", "X"]
    assert isinstance(shares["F"], float)
    seen = row(found, "tables", table="visits")
    counts = [seen[f"patients with {words}"] for words in ROW_WORDS]
    assert seen["patients"] == 80
    assert sum(count for count in counts if isinstance(count, float)) <= 80 - FLOOR
    assert {count for count in counts if not isinstance(count, float)} == {HIDDEN}


def test_the_floor_rises_with_the_noise() -> None:
    assert Sharpness(0.0).floor == 10
    assert Sharpness(20.0).floor == 60
    assert Sharpness(20.0).patients(59.0) == Sharpness(20.0).patients(-70.0) == "fewer than 60, or none"


def test_noise_never_gives_a_figure_outside_the_range_or_a_crash(tables: Mapping[str, pd.DataFrame]) -> None:
    cohort = TASK.cohort_of(tables)
    total = TASK.vectors(CHOICE, (), Records(cohort.values, cohort.owners, cohort.size)).sum(axis=0)
    for seed in range(30):
        noisy = total + np.random.default_rng(seed).normal(0, 40, total.size)
        for found in TASK.result(CHOICE, [Opened(noisy, 1.0)])["tables"]["numbers"]:  # type: ignore[index]
            column = TASK.columns[found["column"]]
            figures = [found[name] for name in ("mean", "p10", "p25", "p50", "p75", "p90") if isinstance(found[name], float)]
            assert all(column.edges[0] - 1e-3 <= value <= column.edges[-1] + 1e-3 for value in figures)
            assert figures[1:] == sorted(figures[1:])
            assert all(math.isfinite(value) for value in figures)


def test_quantiles_of_nothing_are_the_lower_end_and_not_an_error() -> None:
    column = TASK.columns["visits__edss"]
    assert quantiles(column, np.full(20, -3.0)) == [0.0] * 5


@pytest.mark.parametrize("bins", [5, 8, 10, 20, 40])
def test_coarser_bins_hold_the_same_patients(tables: Mapping[str, pd.DataFrame], bins: int) -> None:
    choice = Choice("tables", {"bins": bins}, ("visits__edss",))
    cohort = TASK.cohort_of(tables)
    records = Records(cohort.values, cohort.owners, cohort.size)
    (fine,) = (TASK.vectors(Choice("tables", {"bins": FINE_BINS}, ("visits__edss",)), (), records),)
    coarse = TASK.vectors(choice, (), records)
    head = 1 + len(ROW_WORDS) + 3
    assert np.allclose(coarse[:, head:].sum(axis=1), fine[:, head:].sum(axis=1))
    assert layout(TASK, choice)[-1] == ("visits__edss", (3 + bins,))


def test_the_vector_stands_at_its_stage_in_the_model(tables: Mapping[str, pd.DataFrame]) -> None:
    cohort = TASK.cohort_of(tables)
    records = Records(cohort.values, cohort.owners, cohort.size)
    size = sum(math.prod(shape) for _, shape in layout(TASK, CHOICE))
    whole = stage_vectors(TASK, CHOICE, np.zeros(size), records)
    assert (whole[:, 0] == 0).all()
    assert np.array_equal(whole[:, 1:], TASK.vectors(CHOICE, (), records))
    with pytest.raises(ContractError, match="all 1 stages are done"):
        stage_vectors(TASK, CHOICE, np.concatenate([[1.0], np.zeros(size - 1)]), records)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("other", {}, COLUMNS), "no model 'other'"),
        (Choice("tables", {"bin": 20}, COLUMNS), "option 'bin' is unknown"),
        (Choice("tables", {"bins": 7}, COLUMNS), "bins is 7"),
        (Choice("tables", {}, ("visits__patient_id",)), "no column"),
        (Choice("tables", {}, ()), "no stage|at least one"),
    ],
)
def test_a_plan_that_asks_for_what_there_is_not_is_refused(choice: Choice, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        layout(TASK, choice)


def test_a_site_without_patients_says_so() -> None:
    with pytest.raises(DataError, match="no patient is left"):
        TASK.cohort_of({"patients": pd.DataFrame({"patient_id": []})})
