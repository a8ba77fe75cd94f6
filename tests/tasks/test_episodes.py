"""Inputs know nothing that is later than their day: the future is planted in every table, and no input moves."""

import ast
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cdp_2y import outcome
from tasks.cdp_2y.task import TASK
from tasks.episodes import past as past_module
from tasks.episodes.extras import ALL_EXTRAS, GENETICS, VISITS, tables_for
from tasks.episodes.index import ADULT_YEARS, APART_D, FRESH_D, index_visits
from tasks.episodes.inputs import episode_values
from tasks.episodes.past import CELLS, ROWS, Episodes, Past, past_of
from tasks.episodes.people import age_at_entry
from tasks.episodes.routine import CORE, EXTRAS, LOOKBACK_D
from tasks.episodes.routine import TABLES as ROUTINE_TABLES
from tasks.errors import ContractError, DataError
from tasks.features import Design
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import Column
from tasks.simulator import Schedule, SiteSpec, simulate_site

Tables = dict[str, pd.DataFrame]
EVERY = tuple(table.name for table in CONTRACT.tables)
GENETICS_OF_LATER = ("panel", "pc1", "pc2", "pc3", "pc4", "pc5", "dosage_file", "source", "missing_reason")
TIME = {
    "visits": "day", "relapses": "onset_day", "treatments": "start_day", "mri": "day", "oct": "day", "evoked_potentials": "day",
    "biomarkers": "day", "proms": "day", "wearables": "week",
}  # fmt: skip
COLUMNS = (*CORE, *ALL_EXTRAS, *VISITS)
TABLES = tuple(dict.fromkeys((*ROUTINE_TABLES, *tables_for(COLUMNS))))
NAMES = tuple(column.name for column in COLUMNS)


@pytest.fixture(scope="module")
def clinic() -> Tables:
    """A prospective clinic, the only kind that has rows in all eleven tables, and a few cells that the simulator leaves empty."""
    site, _ = simulate_site(SiteSpec("clinic", 22, Schedule.CLINNOVA), 3)
    tables = {name: rows.copy() for name, rows in site.tables.items()}
    tables["wearables"] = tables["wearables"].iloc[::20].reset_index(drop=True)  # enough, and much faster
    tables["proms"] = tables["proms"].iloc[::5].reset_index(drop=True)
    tables["oct"]["on_last_day"] = tables["oct"]["day"] + np.where(np.arange(len(tables["oct"])) % 2, 900, -20)
    tables["oct"]["on_history"] = 1
    return tables


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 45, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def one_each(tables: Tables, seed: int = 0, most: int = 4) -> Episodes:
    """One of the days of each patient, any of them."""
    found = index_visits(tables, most)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found))
    chosen = np.zeros(len(found), dtype=bool)
    chosen[order[np.unique(found.owners[order], return_index=True)[1]]] = True
    return found.only(chosen)


def values_of(tables: Tables, episodes: Episodes) -> np.ndarray:
    return episode_values(past_of(tables, episodes, TABLES), COLUMNS)


def row_days(name: str, rows: pd.DataFrame) -> pd.Series:
    """The first day on which a row is known; said again here, not taken from the code under test."""
    if name == "wearables":
        return 7 * rows["week"] + 6
    if name == "relapses":
        return rows["onset_day"] + rows["onset_precision_d"].fillna(0)
    return rows[TIME[name]]


def wild(column: Column, n: int, rng: np.random.Generator) -> list[object]:
    """Values that the contract allows and nobody would overlook."""
    if column.vocabulary:
        return list(rng.choice(list(column.vocabulary), n))
    if column.kind == "day":
        return list(rng.integers(-3000, 9000, n))
    if column.name == "edss":
        return list(rng.choice([0.0, 9.5], n))
    if column.numeric:
        low, high = (0.0, 9.0) if column.limits is None else (column.limits.low, column.limits.high)
        found = rng.uniform(max(low, -1000.0), min(high, 10000.0), n)
        return list(found if column.kind == "number" else np.rint(found).astype(int))
    return [f"x{at}" for at in rng.integers(0, 99, n)]


def assign(rows: pd.DataFrame, where: pd.Series, name: str, values: list[object]) -> None:
    """Cells of a column, whatever the column can hold."""
    cells = rows[name].astype(object)
    cells[where] = values
    rows[name] = pd.to_numeric(cells) if pd.api.types.is_numeric_dtype(rows[name]) else cells


def scramble(name: str, rows: pd.DataFrame, where: pd.Series, columns: tuple[str, ...], rng: np.random.Generator) -> None:
    for column in columns:
        spec = CONTRACT.table(name).column(column)
        values = wild(spec, int(where.sum()), rng)
        empty = rng.random(len(values)) < (0.3 if spec.nullable else 0.0)
        assign(rows, where, column, [None if none else value for none, value in zip(empty, values, strict=True)])


def other_columns(name: str) -> tuple[str, ...]:
    return tuple(column.name for column in CONTRACT.table(name).columns if not column.key)


def later(rows: pd.DataFrame, where: pd.Series, column: str, t0: pd.Series, rng: np.random.Generator) -> None:
    """A day after t0, or none yet."""
    days = t0[where].to_numpy() + rng.integers(1, 2000, int(where.sum()))
    assign(rows, where, column, [None if none else int(day) for none, day in zip(rng.random(len(days)) < 0.3, days, strict=True)])


def future_rows(name: str, rows: pd.DataFrame, t0: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Rows after t0 deleted, changed and added."""
    rows = rows.assign(_t0=rows["patient_id"].map(t0)).reset_index(drop=True)
    after = (row_days(name, rows) > rows["_t0"]).fillna(value=False).astype(bool)
    rows = rows[~(after & (rng.random(len(rows)) < 0.4))].reset_index(drop=True)
    after = (row_days(name, rows) > rows["_t0"]).fillna(value=False).astype(bool)
    scramble(name, rows, after, tuple(column for column in other_columns(name) if column != "onset_precision_d"), rng)
    added = rows.sample(min(len(rows), 200), random_state=int(rng.integers(1 << 30))).reset_index(drop=True)
    everything = pd.Series(data=True, index=added.index)
    scramble(name, added, everything, other_columns(name), rng)
    offset = rng.integers(1, 900, len(added))
    days = added["_t0"].to_numpy() + offset
    added[TIME[name]] = days // 7 if name == "wearables" else days
    added["source"] = "rwd"
    return pd.concat([rows, added], ignore_index=True)


def future_cells(name: str, rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Of rows that are known on t0, the cells that are not."""
    t0 = rows["_t0"]
    everything = pd.Series(data=True, index=rows.index)
    open_end = everything if "end_day" not in rows else ~(rows["end_day"] <= t0).fillna(value=False).astype(bool)
    if name == "treatments":
        scramble(name, rows, open_end, ("reason_stop",), rng)
        scramble(name, rows, everything, ("arm",), rng)
        later(rows, open_end, "end_day", t0, rng)
    if name == "relapses":
        fresh = open_end & (rows["onset_day"] + 30 > t0)
        scramble(name, rows, open_end, ("recovery",), rng)
        scramble(name, rows, fresh, ("confirmed", "severity", "fs_affected", "steroid", "hospitalised"), rng)
        later(rows, open_end, "end_day", t0, rng)
        rows["end_day"] = rows["end_day"].mask(rows["end_day"] < rows["onset_day"])  # of relapses after t0
    if name == "oct":
        unknown = ~(rows["on_last_day"] <= t0).fillna(value=False).astype(bool)
        scramble(name, rows, unknown, ("on_history",), rng)
        later(rows, unknown, "on_last_day", t0, rng)
    return rows


def future_people(rows: pd.DataFrame, t0: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    rows = rows.assign(_t0=rows["patient_id"].map(t0)).reset_index(drop=True)
    for day, with_it in (("onset_day", "onset_topography"), ("diagnosis_day", "criteria"), ("death_day", None)):
        unknown = ~(rows[day] <= rows["_t0"]).fillna(value=False).astype(bool)
        later(rows, unknown, day, rows["_t0"], rng)
        if with_it:
            scramble("patients", rows, unknown, (with_it,), rng)
    scramble("patients", rows, rows["_t0"] < 0, ("phenotype_entry",), rng)
    undated = (
        "education_years", "smoking", "height_cm", "weight_kg", "comorbid_cardio", "comorbid_psych", "comorbid_autoimmune", "ocb",
        "ancestry", "consent_scope", "missing_reason",
    )  # fmt: skip
    scramble("patients", rows, pd.Series(data=True, index=rows.index), undated, rng)
    return rows


def with_another_future(tables: Tables, episodes: Episodes, seed: int, only: str = "") -> Tables:
    """The same past of every patient up to the episode's day, and another future in all eleven tables, or in one."""
    rng = np.random.default_rng(seed)
    t0 = pd.Series(episodes.days, index=list(episodes.patients))
    found = dict(tables)
    for name in [only] if only else EVERY:
        rows = tables[name][tables[name]["patient_id"].isin(episodes.patients)]
        if name == "patients":
            changed = future_people(rows, t0, rng)
        elif name == "genetics":  # no day: of a genotype only what the patient was born with is not of later
            changed = rows.reset_index(drop=True).assign(_t0=0)
            scramble(name, changed, pd.Series(data=True, index=changed.index), GENETICS_OF_LATER, rng)
        else:
            changed = future_cells(name, future_rows(name, rows, t0, rng), rng)
        found[name] = changed.drop(columns="_t0")
    return found


def same_cells(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Equal cell by cell, whatever the types that hold them."""
    if len(one) != len(other) or list(one) != list(other):
        return False
    left, right = (frame.astype(object).where(frame.notna(), None) for frame in (one, other))
    return bool((left == right).where(left.notna() | right.notna(), other=True).to_numpy().all())


def assert_past_alone(tables: Tables, episodes: Episodes, seed: int, only: str = "") -> None:
    """Neither what `Past` gives of any table nor any input depends on the future."""
    tables = {name: rows[rows["patient_id"].isin(episodes.patients)] for name, rows in tables.items()}
    changed = with_another_future(tables, episodes, seed, only)
    before, after = past_of(tables, episodes, tuple(ROWS)), past_of(changed, episodes, tuple(ROWS))
    for name in ROWS:
        assert same_cells(before.tables[name], after.tables[name]), name
    assert np.array_equal(values_of(tables, episodes), values_of(changed, episodes), equal_nan=True)


def assert_past_alone_for_all(tables: Tables, only: str = "", early: int = 0) -> None:
    """For four draws of days (so many days earlier) and futures: one of them may miss what is rare."""
    for seed in range(4):
        chosen = one_each(tables, seed)
        assert_past_alone(tables, Episodes(chosen.patients, chosen.days - early), seed, only)


@pytest.mark.parametrize("seed", range(2))
def test_another_future_in_all_eleven_tables_moves_no_input(clinic: Tables, registry: Tables, seed: int) -> None:
    for tables in (clinic, registry):
        assert_past_alone(tables, one_each(tables, seed), seed)


@pytest.mark.parametrize("table", EVERY)
def test_another_future_in_one_table_moves_no_input(clinic: Tables, table: str) -> None:
    episodes = one_each(clinic, 9)
    changed = with_another_future(clinic, episodes, 9, table)
    mine = clinic[table][clinic[table]["patient_id"].isin(episodes.patients)]
    assert not same_cells(changed[table], mine.reset_index(drop=True)), "nothing was planted"
    assert_past_alone(clinic, episodes, 9, table)


def test_a_task_gives_the_same_episodes_whatever_comes_after_the_last_of_them(
    registry: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, tables to cohort; labels are taken out of it, for they are of the future."""

    def everybody(_: object, episodes: Episodes) -> outcome.Outcome:
        return outcome.Outcome(np.arange(len(episodes)) % 2.0, {})

    monkeypatch.setattr(outcome, "outcome_of", everybody)
    chosen = index_visits(registry, TASK.records)
    last = chosen.only(np.append(chosen.owners[1:] != chosen.owners[:-1], True))
    registry = {name: rows[rows["patient_id"].isin(last.patients)] for name, rows in registry.items()}
    for seed in range(3):
        before, after = TASK.cohort_of(registry), TASK.cohort_of({**registry, **with_another_future(registry, last, seed)})
        assert after.size == before.size == len(last)
        for owner in range(before.size):
            mine, again = (each.values[each.owners == owner] for each in (before, after))
            assert np.array_equal(mine, again[: len(mine)], equal_nan=True)


@pytest.mark.parametrize(
    "filtered",
    [lambda day, t0: day <= t0 + 365, lambda day, t0: day <= t0 + 1, lambda day, t0: day < np.inf, lambda day, t0: ~(day > t0)],
    ids=["a year late", "a day late", "no filter", "an empty day counts as known"],
)
def test_a_door_that_lets_the_future_in_is_caught(
    clinic: Tables, monkeypatch: pytest.MonkeyPatch, filtered: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    monkeypatch.setattr(past_module, "known", filtered)
    with pytest.raises(AssertionError):
        assert_past_alone_for_all(clinic)


@pytest.mark.parametrize("table", TIME)
def test_a_door_that_does_not_ask_one_table_for_its_day_is_caught(
    clinic: Tables, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setitem(ROWS, table, past_module._always)  # type: ignore[index]
    with pytest.raises(AssertionError):
        assert_past_alone(clinic, one_each(clinic, 1), 1, table)


@pytest.mark.parametrize(("table", "place"), [(name, place) for name, cells in CELLS.items() for place in range(len(cells))])
def test_a_door_that_forgets_one_rule_about_cells_is_caught(
    clinic: Tables, monkeypatch: pytest.MonkeyPatch, table: str, place: int
) -> None:
    rules = CELLS[table]
    monkeypatch.setitem(CELLS, table, rules[:place] + rules[place + 1 :])  # type: ignore[index]
    early = 5000 if table == "patients" else 0  # before there was an onset, a diagnosis or an index date
    with pytest.raises(AssertionError):
        assert_past_alone_for_all(clinic, table, early)


def test_every_day_of_the_contract_has_a_rule() -> None:
    """A new column with a day in it, or a new table, does not slip in."""
    assert set(ROWS) == set(EVERY)
    for table in CONTRACT.tables:
        ruled = {column for cells in CELLS.get(table.name, ()) for column in cells.columns}
        assert ruled <= set(table.names)
        days = {column.name for column in table.columns if column.kind == "day" and not column.key}
        assert days <= ruled, table.name
    people = {column for cells in CELLS["patients"] for column in cells.columns} | set(past_module.ALWAYS_KNOWN["patients"])
    assert people == set(CONTRACT.table("patients").names)
    genes = {column for cells in CELLS["genetics"] for column in cells.columns}
    born_with = {"hla_drb1_1501", "hla_a_0201", "prs_risk", "prs_severity", "rs10191329_a"}
    assert genes | {"patient_id"} | born_with == set(CONTRACT.table("genetics").names)


def planted_before(tables: Tables, table: str, episodes: Episodes) -> Tables:
    """A striking row, or cell, that was known on t0."""
    rows = tables[table]
    if table == "patients":
        return {**tables, table: rows.assign(sex=rows["sex"].map({"F": "M", "M": "F"}))}
    if table == "genetics":
        return {**tables, table: pd.DataFrame({"patient_id": episodes.patients, "prs_risk": 5.5})}
    new: dict[str, Mapping[str, object]] = {
        "visits": {"day": -3, "visit_id": "new", "edss": 9.5, "quality": "ok"},
        "relapses": {"onset_day": -3, "onset_precision_d": 0, "quality": "ok"},
        "treatments": {"start_day": -3, "drug": "ocrelizumab", "dmt_class": "high", "end_day": None, "quality": "ok"},
        "mri": {"day": -3, "scan_id": "new", "region": "brain", "gd_count": 9, "new_t2": 19, "qc": "pass", "quality": "ok"},
        "biomarkers": {"day": -3, "analyte": "nfl", "z_age_bmi": 9.0, "quality": "ok"},
        "oct": {"day": -3, "eye": "L", "gcipl_um": 109.0, "quality": "ok"},
        "evoked_potentials": {"day": -3, "modality": "VEP", "side": "L", "latency_ms": 249.0, "quality": "ok"},
        "proms": {"day": -3, "instrument": "MFIS", "item": "total", "score": 83, "quality": "ok"},
        "wearables": {"week": -10, "feature": "steps_day", "value": 19999.0, "quality": "ok"},  # the week before t0, mostly
    }
    cells = new[table]
    time = TIME[table]
    days = episodes.days + int(str(cells[time]))
    days = days // 7 if time == "week" else days
    same = {name: [value] * len(days) for name, value in cells.items()}
    added = pd.DataFrame({"patient_id": episodes.patients, **same, time: days})
    return {**tables, table: pd.concat([rows, added], ignore_index=True)}


@pytest.mark.parametrize("table", TABLES)
def test_the_same_plant_before_the_day_moves_inputs(clinic: Tables, table: str) -> None:
    """The control: otherwise nothing that is planted would prove anything."""
    episodes = one_each(clinic)
    moved = values_of(clinic, episodes) != values_of(planted_before(clinic, table, episodes), episodes)
    assert moved.any(axis=1).mean() > 0.9


def test_inputs_are_made_of_all_eleven_tables() -> None:
    assert set(TABLES) == set(EVERY)


def test_whether_somebody_was_genotyped_is_no_input_but_the_mean(clinic: Tables) -> None:
    """Nothing dates it: without the row the inputs are 0, as for somebody of average genes, and none says that it is missing."""
    episodes = one_each(clinic)
    design = Design(TASK.contract, tuple(column.name for column in GENETICS))
    assert design.input_names == ("hla_drb1_1501", "prs_risk", "prs_severity", "rs10191329_a")
    assert {column.modality for column in GENETICS} == {"genetics"}
    values = values_of({**clinic, "genetics": clinic["genetics"].head(0)}, episodes)
    everything = np.full((len(episodes), len(TASK.contract.columns)), np.nan)
    for name in design.input_names:
        everything[:, TASK.contract.column_names.index(name)] = values[:, NAMES.index(name)]
    assert np.array_equal(design.encode(everything, *design.neutral_buffers()), np.zeros((len(episodes), 4), np.float32))


@pytest.fixture(scope="module")
def each(clinic: Tables, registry: Tables) -> list[tuple[str, Tables]]:
    """Some patients of both, each with the tables that inputs are made of, as a hospital with one patient would have them."""
    return [
        (patient, {name: tables[name][tables[name]["patient_id"] == patient] for name in TABLES})
        for tables in (clinic, registry)
        for patient in tables["patients"]["patient_id"].head(25)
    ]


def truncated(tables: Tables, t0: int) -> Tables:
    """What the hospital's export would have been on t0: rows of later are not there, cells of later not filled in."""
    found = {}
    for name, rows in tables.items():
        if name in TIME:
            rows = rows[(row_days(name, rows) <= t0).to_numpy(dtype=bool)]
        rows = rows.copy()
        for column, with_it in (("end_day", ("reason_stop", "recovery")), ("death_day", ()), ("diagnosis_day", ("criteria",))):
            if column in rows:
                late = (rows[column] > t0).fillna(value=False).to_numpy(dtype=bool)
                for cleared in (column, *with_it):
                    if cleared in rows:
                        rows[cleared] = rows[cleared].mask(late)
        found[name] = rows
    return found


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_inputs_are_those_of_an_export_made_on_the_day(each: list[tuple[str, Tables]], data: st.DataObject) -> None:
    patient, tables = data.draw(st.sampled_from(each))
    episode = Episodes((patient,), np.array([data.draw(st.integers(-400, 4000))]))
    export = truncated(tables, int(episode.days[0]))
    assert np.array_equal(values_of(tables, episode), values_of(export, episode), equal_nan=True)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_choice_of_days_does_not_know_what_comes_later(each: list[tuple[str, Tables]], data: st.DataObject) -> None:
    _, tables = data.draw(st.sampled_from(each))
    cut = data.draw(st.integers(0, 5000))
    export = truncated(tables, cut)
    assert index_visits(export, 4).days.tolist() == [day for day in index_visits(tables, 4).days if day <= cut]


def test_the_days_are_those_of_a_plain_search(registry: Tables) -> None:
    found = index_visits(registry, 4)
    people, visits = registry["patients"], registry["visits"]
    ages = dict(zip(people["patient_id"], age_at_entry(people), strict=True))
    expected = []
    for patient in people["patient_id"]:
        mine = visits[visits["patient_id"] == patient]
        scored = sorted(mine.loc[mine["edss"].notna(), "day"])
        last, chosen = -np.inf, 0
        for day in sorted(set(mine["day"])):
            recent = [score for score in scored if day - LOOKBACK_D < score <= day]
            right = len(recent) >= 2 and day - recent[-1] <= FRESH_D and ages[patient] + day / 365.25 >= ADULT_YEARS
            if right and chosen < 4 and day - last >= APART_D:
                expected.append((patient, day))
                last, chosen = day, chosen + 1
    assert list(zip(found.patients, found.days.tolist(), strict=True)) == expected
    assert len(expected) > 100


PERSON = {"patient_id": "a", "sex": "F", "birth_year": 1980, "year_band": "2015-2017", "onset_day": -731, "phenotype_entry": "CIS"}


def small(**tables: list[dict[str, object]]) -> Tables:
    """One patient's tables, cells that are not named empty."""
    found = {"patients": pd.DataFrame([PERSON])}
    for name, rows in tables.items():
        frame = pd.DataFrame([{"patient_id": "a", **row} for row in rows])
        found[name] = frame.reindex(columns=list(dict.fromkeys([*CONTRACT.table(name).names, *frame])))
    return found


def inputs_of(tables: Tables, t0: int) -> dict[str, float]:
    return dict(zip(NAMES, values_of(tables, Episodes(("a",), np.array([t0])))[0].tolist(), strict=True))


def test_edss_inputs_are_what_one_counts_by_hand() -> None:
    days = {-400: 1.0, 0: 2.0, 365: 3.0, 700: 2.0, 731: None, 800: 9.0}
    found = inputs_of(small(visits=[{"day": day, "visit_id": str(day), "edss": edss} for day, edss in days.items()]), 731)
    assert (found["edss_first"], found["edss_last"], found["edss_min"], found["edss_max"]) == (2.0, 2.0, 2.0, 3.0)
    assert found["edss_mean"] == pytest.approx(7 / 3)
    assert found["edss_sd"] == pytest.approx(np.std([2, 3, 2], ddof=1))
    assert found["edss_slope"] == pytest.approx(np.polyfit(np.array([0, 365, 700]) / 365.25, [2, 3, 2], 1)[0])
    assert found["edss_months_since"] == pytest.approx(31 / 365.25 * 12)
    assert found["visits_per_year"] == pytest.approx(3 / (731 / 365.25))
    assert found["age_years"] == pytest.approx(2016.5 + 731 / 365.25 - 1980.5)
    assert found["duration_years"] == pytest.approx(1462 / 365.25)
    assert (found["female"], found["phenotype"]) == (1.0, 0.0)


def test_one_score_has_no_spread_and_no_slope() -> None:
    found = inputs_of(small(visits=[{"day": 0, "visit_id": "v", "edss": 2.0}]), 5)
    assert np.isnan([found["edss_sd"], found["edss_slope"]]).all()
    assert found["edss_mean"] == 2.0


def test_two_scores_of_one_day_that_differ_are_no_score() -> None:
    scores = (("v", 0, 2.0), ("w", 9, 3.0), ("x", 9, 5.0))
    visits = [{"day": day, "visit_id": name, "edss": edss} for name, day, edss in scores]
    assert inputs_of(small(visits=visits), 20)["edss_last"] == 2.0


def test_a_worsening_counts_from_the_day_of_its_confirmation_on() -> None:
    tables = small(visits=[{"day": day, "visit_id": str(day), "edss": edss} for day, edss in ((0, 2), (182, 3), (364, 3))])
    assert inputs_of(tables, 363)["progressed"] == 0.0
    found = inputs_of(tables, 364)
    assert found["progressed"] == 1.0
    assert found["progression_months_since"] == pytest.approx(182 / 365.25 * 12)


def test_relapses_are_counted_by_onset_and_told_apart_by_system() -> None:
    onsets = {-1200: "visual", 100: "visual", 600: "sensory|cerebellar", 1000: "pyramidal"}
    tables = small(relapses=[{"onset_day": day, "fs_affected": which} for day, which in onsets.items()])
    found = inputs_of(tables, 900)
    assert (found["relapses_1y"], found["relapses_3y"]) == (1.0, 2.0)
    assert found["relapse_months_since"] == pytest.approx(300 / 365.25 * 12)
    assert [found[f"relapse_{name}_3y"] for name in ("optic", "brainstem", "cord")] == [1.0, 1.0, 1.0]
    later = inputs_of(tables, 1250)
    assert [later[f"relapse_{name}_3y"] for name in ("optic", "brainstem", "cord")] == [0.0, 1.0, 1.0]


def test_an_onset_known_to_the_month_counts_when_the_month_is_over() -> None:
    tables = small(relapses=[{"onset_day": 100, "onset_precision_d": 30}])
    assert inputs_of(tables, 129)["relapses_1y"] == 0.0
    assert inputs_of(tables, 130)["relapses_1y"] == 1.0


def test_what_a_relapse_affected_is_known_after_30_days_or_at_its_end() -> None:
    for end, known_from in ((None, 130), (300, 130), (110, 110)):
        tables = small(relapses=[{"onset_day": 100, "end_day": end, "fs_affected": "visual"}])
        assert inputs_of(tables, known_from - 1)["relapse_optic_3y"] == 0.0
        assert inputs_of(tables, known_from)["relapse_optic_3y"] == 1.0


def test_a_therapy_goes_on_until_the_day_of_its_end() -> None:
    rows = [
        {"start_day": 0, "drug": "glatiramer_acetate", "dmt_class": "platform", "end_day": 200},
        {"start_day": 200, "drug": "washout", "end_day": 260},
        {"start_day": 260, "drug": "ocrelizumab", "dmt_class": "high", "end_day": None},
    ]
    tables = small(treatments=rows)
    on, between, after = (inputs_of(tables, day) for day in (199, 200, 300))
    assert (on["dmt_platform"], on["dmt_past_count"], on["dmt_months"]) == (1.0, 0.0, pytest.approx(199 / 365.25 * 12))
    assert (between["dmt_platform"], between["dmt_past_count"], between["dmt_ever_high"]) == (0.0, 1.0, 0.0)
    assert np.isnan(between["dmt_months"])
    assert (after["dmt_high"], after["dmt_past_count"], after["dmt_ever_high"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("kind", "ever"), [("platform", 0.0), ("moderate", 0.0), ("high", 1.0), ("induction", 1.0)])
def test_high_efficacy_is_that_of_two_classes_and_stays_known(kind: str, ever: float) -> None:
    tables = small(treatments=[{"start_day": 0, "drug": "other", "dmt_class": kind, "end_day": 10}])
    assert inputs_of(tables, 5)[f"dmt_{kind}"] == 1.0
    assert (inputs_of(tables, 2000)[f"dmt_{kind}"], inputs_of(tables, 2000)["dmt_ever_high"]) == (0.0, ever)


def test_scans_that_cannot_be_used_or_are_of_the_cord_do_not_count() -> None:
    rows = [
        {"day": 10, "scan_id": "1", "region": "brain", "gd_count": 1, "new_t2": 2, "qc": "pass"},
        {"day": 20, "scan_id": "2", "region": "both", "new_t2": 3, "t2_vol_ml": 4.5},
        {"day": 30, "scan_id": "3", "region": "cord", "gd_count": 7, "new_t2": 7},
        {"day": 40, "scan_id": "4", "region": "brain", "gd_count": 8, "new_t2": 8, "qc": "fail"},
    ]
    found = inputs_of(small(mri=rows), 50)
    assert (found["gd_count_last"], found["new_t2_1y"], found["t2_volume_ml_last"]) == (1.0, 5.0, 4.5)


def test_what_was_filled_in_by_a_rule_is_not_known() -> None:
    visits = [{"day": 0, "visit_id": "v", "edss": 2.0}, {"day": 9, "visit_id": "w", "edss": 6.0, "quality": "imputed"}]
    tables = small(visits=visits)
    assert inputs_of(tables, 20)["edss_last"] == 2.0
    people = tables["patients"].assign(quality="imputed")
    found = inputs_of({**tables, "patients": people}, 20)
    assert np.isnan([found["duration_years"], found["onset_age_years"], found["phenotype"]]).all()
    assert found["female"] == 1.0


@pytest.mark.parametrize("table", [name for name in TABLES if name != "patients"])
def test_a_table_that_the_hospital_does_not_have_makes_its_inputs_missing(clinic: Tables, table: str) -> None:
    episodes = one_each(clinic)
    found = values_of({name: rows for name, rows in clinic.items() if name != table}, episodes)
    assert found.shape == (len(episodes), len(NAMES))
    of_table = {"visits": "edss_last", "relapses": "relapses_1y", "treatments": "dmt_high", "mri": "gd_count_last",
                "biomarkers": "nfl_z_last", "oct": "gcipl_um_last", "evoked_potentials": "vep_p100_ms_last",
                "proms": "fsmc_last", "wearables": "wearable_weeks_12w", "genetics": "prs_risk"}  # fmt: skip
    assert np.isnan(found[:, NAMES.index(of_table[table])]).all()


def test_no_rows_in_a_table_that_there_is_are_none_and_not_unknown() -> None:
    tables = small(relapses=[{"onset_day": 4000}], treatments=[{"start_day": 4000, "drug": "ocrelizumab", "dmt_class": "high"}])
    found = inputs_of(tables, 10)
    assert [found[name] for name in ("relapses_1y", "relapse_cord_3y", "dmt_high", "dmt_past_count")] == [0.0] * 4


def test_neither_the_order_of_rows_nor_other_episodes_matter(registry: Tables) -> None:
    episodes = index_visits(registry, 4)
    whole = values_of(registry, episodes)
    shuffled = {name: rows.sample(frac=1.0, random_state=1) for name, rows in registry.items()}
    assert np.array_equal(whole, values_of(shuffled, episodes), equal_nan=True)
    chosen = np.arange(len(episodes)) % 3 == 1
    assert np.array_equal(whole[chosen], values_of(registry, episodes.only(chosen)), equal_nan=True)


def test_inputs_are_within_their_public_ranges_and_codes(registry: Tables) -> None:
    values = values_of(registry, index_visits(registry, 4))
    for column, numbers in zip(COLUMNS, values.T, strict=True):
        seen = numbers[~np.isnan(numbers)]
        if column.kind == "numeric":
            assert np.all((seen >= column.limits[0]) & (seen <= column.limits[1])), column.name
        else:
            assert set(seen) <= set(range(max(2, len(column.categories)))), column.name


def test_the_core_has_42_inputs_with_the_contract_s_ranges_and_kinds_of_data() -> None:
    names = Design(TASK.contract, tuple(column.name for column in CORE)).input_names
    assert len([name for name in names if not name.endswith(" missing")]) == 42
    by_name = {column.name: column for column in COLUMNS}
    for table, column, name in [
        ("visits", "edss", "edss_last"), ("visits", "fs_pyramidal", "fs_pyramidal_last"),
        ("visits", "fs_cerebral", "fs_cerebral_last"),
        ("mri", "t2_vol_ml", "t2_volume_ml_last"), ("mri", "nbv_ml", "brain_volume_ml_last"),
        ("biomarkers", "z_age_bmi", "nfl_z_last"),
    ]:  # fmt: skip
        limits = CONTRACT.table(table).column(column).limits
        assert limits is not None
        assert by_name[name].limits == (limits.low, limits.high)
        assert by_name[name].modality == CONTRACT.table(table).modality
    assert {column.modality for column in CORE} == {"clinical", "imaging"}
    assert all(column.nullable for column in EXTRAS)  # so each has an input that says whether it is there


@pytest.mark.parametrize("module", ["features.py", "known.py", "extra_features.py", "sequence.py", "inputs.py"])
def test_the_modules_of_inputs_read_no_table_and_no_label(module: str) -> None:
    source = Path(past_module.__file__).with_name(module).read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    allowed = {
        "__future__", "collections.abc", "functools", "typing", "numpy", "pandas", "tasks.base", "tasks.episodes.past",
        "tasks.episodes.extra_features", "tasks.episodes.extras", "tasks.episodes.features", "tasks.episodes.known",
        "tasks.episodes.sequence", "tasks.errors", "tasks.episodes.people", "tasks.episodes.routine",
        "tasks.labels.engine", "tasks.labels.history", "tasks.labels.rule",
        "tasks.ms.histories", "tasks.ms.schema",
    }  # fmt: skip
    assert found <= allowed
    for word in ("read_csv", "read_parquet", "open(", "Tables", "outcome_of", "outcomes"):
        assert word not in source


def test_a_past_holds_no_pseudonym_and_shows_none(registry: Tables) -> None:
    episodes = one_each(registry)
    past = past_of(registry, episodes, TABLES)
    names = set(registry["patients"]["patient_id"])
    for rows in past.tables.values():
        assert not names & set(rows["patient_id"].astype(str))
    assert not [name for name in names if name in repr(past) or name in repr(episodes)]


@pytest.mark.parametrize(
    ("patients", "days", "message"),
    [(("a",), [1, 2], "1 patients and 2 days"), (("a", "b", "a"), [1, 2, 3], "stand together"), (("a", "a"), [5, 5], "ascend")],
)
def test_episodes_in_disorder_are_refused(patients: tuple[str, ...], days: list[int], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Episodes(patients, np.array(days))


def test_tables_without_days_and_patients_who_are_not_there_or_twice_are_refused(registry: Tables) -> None:
    episodes = one_each(registry)
    with pytest.raises(ContractError, match="events says of no row"):
        past_of(registry, episodes, ("events",))
    people = registry["patients"]
    for wrong in (people[people["patient_id"] != episodes.patients[0]], pd.concat([people, people.head(60)])):
        with pytest.raises(DataError, match="exactly one row") as caught:
            past_of({**registry, "patients": wrong}, episodes, TABLES)
        assert not [name for name in episodes.patients if name in str(caught.value)]


def test_no_visits_and_no_patients_say_what_to_do() -> None:
    with pytest.raises(DataError, match="the table visits has no rows"):
        index_visits({"patients": pd.DataFrame([PERSON])}, 4)
    with pytest.raises(DataError, match="the table patients has no rows"):
        index_visits({}, 4)


@pytest.mark.parametrize(
    ("scored", "seen", "expected"),
    [
        ((0, 300), (390,), [300]),
        ((0, 300, 664), (), [300]),  # 364 days later is not a year
        ((0, 300, 665), (), [300, 665]),
        ((0, 1095), (), [1095]),
        ((0, 1096), (), []),  # the first score is out of the lookback
        ((0, 10), (100,), [10]),
        ((-300, -1), (), [-1]),
    ],
)
def test_days_of_prediction_at_the_limits(scored: tuple[int, ...], seen: tuple[int, ...], expected: list[int]) -> None:
    rows = [{"day": day, "visit_id": str(day), "edss": 2.0 if day in scored else None} for day in (*scored, *seen)]
    assert index_visits(small(visits=rows), 4).days.tolist() == expected


@pytest.mark.parametrize(("day", "expected"), [(99, [99]), (100, [])])
def test_a_score_of_90_days_ago_is_fresh_and_one_of_91_is_not(day: int, expected: list[int]) -> None:
    rows = [{"day": at, "visit_id": str(at), "edss": 2.0, "phenotype": "RIS"} for at in (5, 9)]  # no days of prediction themselves
    rows.append({"day": day, "visit_id": "last", "edss": None, "phenotype": "CIS"})
    assert index_visits(small(visits=rows), 4).days.tolist() == expected


def test_what_is_filled_in_is_no_score_for_the_choice_of_days() -> None:
    rows = [{"day": 0, "visit_id": "v", "edss": 2.0}, {"day": 300, "visit_id": "w", "edss": 2.0, "quality": "imputed"}]
    assert len(index_visits(small(visits=rows), 4)) == 0


def test_the_course_at_entry_says_nothing_of_days_before_it() -> None:
    tables = small(visits=[{"day": day, "visit_id": str(day), "edss": 2.0} for day in (-400, -300, 100)])
    people = tables["patients"].assign(phenotype_entry="RIS")
    assert index_visits({**tables, "patients": people}, 4).days.tolist() == [-300]


def test_a_course_at_entry_that_was_filled_in_by_a_rule_takes_no_day_away() -> None:
    """It may be what became of the patient; an input does not get it either."""
    tables = small(visits=[{"day": day, "visit_id": str(day), "edss": 2.0} for day in (0, 300)])
    people = tables["patients"].assign(phenotype_entry="RIS", quality="imputed")
    assert index_visits({**tables, "patients": people}, 4).days.tolist() == [300]
    assert len(index_visits({**tables, "patients": people.assign(quality="ok")}, 4)) == 0


def test_windows_end_where_they_say() -> None:
    """36 months are 1096 days and a year is 365, each with the day itself and without the first."""
    visits = [{"day": day, "visit_id": str(day), "edss": edss} for day, edss in ((0, 6.0), (1, 5.0), (1096, 2.0))]
    tables = small(visits=visits, relapses=[{"onset_day": 731}, {"onset_day": 1}])
    found = inputs_of(tables, 1096)
    assert (found["edss_first"], found["edss_max"], found["edss_mean"]) == (5.0, 5.0, 3.5)
    assert (found["relapses_1y"], found["relapses_3y"]) == (0.0, 2.0)
    assert inputs_of(tables, 1095)["relapses_1y"] == 1.0
    assert inputs_of(tables, 1097)["relapses_3y"] == 1.0


def test_of_two_findings_of_one_day_the_worse_counts_in_any_order() -> None:
    rows = [{"day": 5, "visit_id": "v", "fs_pyramidal": 4}, {"day": 5, "visit_id": "w", "fs_pyramidal": 2}]
    for visits in (rows, rows[::-1]):
        assert inputs_of(small(visits=visits), 6)["fs_pyramidal_last"] == 4.0
    courses = [{**row, "phenotype": name} for row, name in zip(rows, ("RRMS", "SPMS"), strict=True)]
    for visits in (courses, courses[::-1]):
        assert inputs_of(small(visits=visits), 6)["phenotype"] == 2.0  # of CIS, RRMS, SPMS, PPMS


def test_another_substance_is_no_neurofilament_and_a_drug_taken_twice_is_one() -> None:
    drug = {"drug": "glatiramer_acetate", "dmt_class": "platform"}
    tables = small(
        biomarkers=[{"day": 1, "analyte": "nfl", "z_age_bmi": 1.0}, {"day": 2, "analyte": "gfap", "z_age_bmi": 3.0}],
        treatments=[{"start_day": 0, "end_day": 100, **drug}, {"start_day": 200, "end_day": 300, **drug}],
    )
    found = inputs_of(tables, 400)
    assert (found["nfl_z_last"], found["dmt_past_count"]) == (1.0, 1.0)


def test_children_and_people_of_unknown_age_and_ris_have_no_episode() -> None:
    tables = small(visits=[{"day": day, "visit_id": str(day), "edss": 2.0} for day in (0, 300)])
    assert index_visits(tables, 4).days.tolist() == [300]
    for changed in ({"birth_year": 2000}, {"birth_year": None}, {"year_band": None}, {"phenotype_entry": "RIS"}):
        people = tables["patients"].assign(**changed)
        assert len(index_visits({**tables, "patients": people}, 4)) == 0


def test_an_empty_past_has_no_rows_and_no_error(registry: Tables) -> None:
    nobody = Episodes((), np.zeros(0, dtype=np.int64))
    assert isinstance(past_of(registry, nobody, TABLES), Past)
    assert values_of(registry, nobody).shape == (0, len(NAMES))
