"""The cohort simulator: reproducible, inside the contract, honest about its truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.eligibility.admit import admit
from tasks.eligibility.criteria import load_criteria
from tasks.errors import ContractError
from tasks.ms.schema import SEPARATOR
from tasks.simulator import (
    PLACEBO_NULL,
    PRESETS,
    RANDOMISED,
    RANDOMISED_NULL,
    Clinic,
    Consortium,
    Preset,
    Schedule,
    SiteSpec,
    simulate,
    simulate_site,
    write,
)
from tasks.simulator import parameters as p
from tasks.simulator.consent import KINDS
from tasks.simulator.people import draw_people
from tasks.simulator.profiles import draw_profile
from tasks.simulator.simulate import SimulatedSite
from tasks.simulator.tables import COLUMNS, EVERY_ROW
from tasks.simulator.truth import SiteTruth
from tasks.simulator.visits import EDSS_GRID, functional_systems
from tasks.simulator.writer import encoded

LARGE = SiteSpec("large", 1500, Schedule.REGISTRY, interval_mo=6.0)
SMALL = (SiteSpec("one", 20), SiteSpec("two", 25, Schedule.CLINNOVA))
HIGH_TO_PLATFORM = 0.31 / 0.68  # section 1.7
FIRST_DAY = -p.LOOK_BACK * p.TICK
SHARED = {"patient_id", "day", "start_day", "end_day", "dmt_class", "reason_start", "phenotype", "value"}  # names, not truths


@pytest.fixture(scope="module")
def demo() -> Consortium:
    return simulate("demo", 11)


@pytest.fixture(scope="module")
def large() -> tuple[SimulatedSite, SiteTruth]:
    return simulate_site(LARGE, 5)


@pytest.fixture(scope="module")
def by_lot() -> tuple[SimulatedSite, SiteTruth]:
    return simulate_site(LARGE, 5, RANDOMISED)


@pytest.fixture(scope="module")
def by_lot_without_effect() -> tuple[SimulatedSite, SiteTruth]:
    return simulate_site(LARGE, 5, RANDOMISED_NULL)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def everything(site: SimulatedSite, truth: SiteTruth) -> dict[str, bytes]:
    return {name: encoded(table, "csv") for name, table in {**site.tables, **truth.tables}.items()}


def rows(consortium: Consortium) -> Iterator[tuple[SimulatedSite, str, pd.DataFrame]]:
    """Every table of every site with the last day of each row's patient."""
    for site in consortium.sites:
        end = consortium.truth[site.site_id].tables["truth_people"].set_index("patient_id")["end_day"]
        for name, table in site.tables.items():
            yield site, name, table.assign(last=table["patient_id"].map(end))


# -- reproducible --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    preset = Preset("small", SMALL)
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write(simulate(preset, seed), tmp_path / name)
    first, again, other = (content(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert {name for name in first if first[name] == other.get(name)} == set()


def test_another_site_and_another_order_change_no_site() -> None:
    alone = simulate(Preset("alone", SMALL[:1]), 3)
    among = simulate(Preset("among", tuple(reversed(SMALL))), 3)
    assert everything(alone.site("one"), alone.truth["one"]) == everything(among.site("one"), among.truth["one"])


def test_sites_of_one_kind_are_not_copies() -> None:
    twins = simulate(Preset("twins", (SiteSpec("a", 30), SiteSpec("b", 30))), 3)
    one, two = (site.tables["patients"] for site in twins.sites)
    assert not one["height_cm"].equals(two["height_cm"])
    assert not set(one["patient_id"]) & set(two["patient_id"])


def test_the_presets_are_of_the_size_that_the_programmes_state() -> None:
    sizes = {name: (len(preset.sites), sum(site.patients for site in preset.sites)) for name, preset in PRESETS.items()}
    assert sizes == {"reclaim": (15, 7500), "clinnova": (4, 800), "demo": (4, 1170)}


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ContractError, match="names a site twice"):
        Preset("twice", (SiteSpec("a", 5), SiteSpec("a", 6)))
    with pytest.raises(ContractError, match="at least one patient"):
        SiteSpec("a", 0)
    with pytest.raises(ContractError, match="no preset is called"):
        simulate("reclaimed", 1)
    with pytest.raises(ContractError, match="seed"):
        simulate("demo", -1)


# -- the contract --------------------------------------------------------------------------------------------------------


def test_the_contract_finds_no_error_in_any_table(demo: Consortium, tmp_path: Path) -> None:
    from tasks.ms.validate import validate_folder

    write(demo, tmp_path)
    for site in demo.sites:
        report = validate_folder(tmp_path / "sites" / site.site_id).report
        errors = {(f.table, f.rule.name, f.column) for f in report.findings if f.rule.severity == "error"}
        assert errors == set(), site.site_id
        assert "no_manifest" not in {f.rule.name for f in report.findings}
        assert {table.table: table.accepted for table in report.tables} == {n: len(t) for n, t in site.tables.items() if len(t)}


def test_every_table_has_the_contracts_columns_in_its_order(demo: Consortium) -> None:
    from tasks.ms.contract import CONTRACT

    assert {table.name: table.names for table in CONTRACT.tables} == {name: (*COLUMNS[name], *EVERY_ROW) for name in COLUMNS}
    for site in demo.sites:
        for name, table in site.tables.items():
            assert tuple(table.columns) == (*COLUMNS[name], *EVERY_ROW), name


def test_every_modality_is_somewhere_and_lies_in_its_range(demo: Consortium) -> None:
    """Section 4.2, written down here once more for the columns that models are made of."""
    ranges = {
        ("visits", "edss"): (0, 10), ("visits", "t25fw_s"): (2, 180), ("visits", "sdmt_n"): (0, 110),
        ("visits", "nhpt_dom_s"): (10, 300),
        ("mri", "t2_vol_ml"): (0, 150), ("mri", "nbv_ml"): (1000, 2000), ("mri", "thalamus_ml"): (5, 25),
        ("mri", "pbvc_pct_y"): (-10, 5), ("mri", "gd_count"): (0, 100), ("oct", "prnfl_um"): (30, 150),
        ("oct", "gcipl_um"): (30, 110),
        ("evoked_potentials", "latency_ms"): (5, 300), ("biomarkers", "value"): (0.1, 1000), ("proms", "score"): (-1, 100),
        ("wearables", "value"): (0, 40000), ("genetics", "hla_drb1_1501"): (0, 2), ("patients", "birth_year"): (1920, 2020),
    }  # fmt: skip
    for (name, column), (low, high) in ranges.items():
        values = pd.concat([site.tables[name][column].dropna().astype(float) for site in demo.sites])
        assert len(values) > 20, (name, column)
        assert values.between(low, high).all(), (name, column)


def test_every_row_belongs_to_a_patient_and_no_key_stands_twice(demo: Consortium) -> None:
    keys = {
        "patients": [], "genetics": [], "visits": ["day", "visit_id"], "relapses": ["onset_day"],
        "treatments": ["start_day", "drug"], "mri": ["day", "scan_id"], "oct": ["day", "eye"],
        "evoked_potentials": ["day", "modality", "side"],
        "biomarkers": ["day", "analyte"], "proms": ["day", "instrument", "item"], "wearables": ["week", "feature"],
    }  # fmt: skip
    for site in demo.sites:
        patients = set(site.tables["patients"]["patient_id"])
        for name, table in site.tables.items():
            assert set(table["patient_id"]) <= patients, name
            assert not table.duplicated(["patient_id", *keys[name]]).any(), name
        assert set(site.tables["visits"]["patient_id"]) == patients


def test_every_day_lies_within_follow_up(demo: Consortium) -> None:
    for _, name, table in rows(demo):
        first = FIRST_DAY if name in ("relapses", "treatments") else 0
        for column in {"day", "onset_day", "start_day", "end_day"} & set(table.columns) - (
            {"onset_day"} if name == "patients" else set()
        ):
            days = table[column].dropna().astype(int)
            assert (days >= first).all(), (name, column)
            assert (days <= table.loc[days.index, "last"]).all(), (name, column)
        if name == "wearables":
            assert (table["week"] * 7 + 6 <= table["last"]).all()
        if name == "patients":
            died = table[table["death_day"].notna()]
            assert (died["death_day"].astype(int) == died["last"]).all()
            assert (table["onset_day"].astype(int) <= table["diagnosis_day"].astype(int)).all()


def test_among_very_many_people_nobody_is_born_before_1920() -> None:
    spec = SiteSpec("crowd", 50_000, clinic=Clinic.PROGRESSIVE)
    people = draw_people(draw_profile(spec, 1), 1)
    assert np.floor(people.index_year - people.age).min() >= 1920
    assert people.age.max() > 75


def test_an_interval_between_scans_is_the_days_between_them(demo: Consortium) -> None:
    for site in demo.sites:
        mri = site.tables["mri"]
        days = mri.groupby("patient_id")["day"].diff()
        assert days.astype(float).equals(mri["interval_d_to_prev"].astype(float))


def test_functional_systems_make_the_edss_that_they_came_from() -> None:
    """Neurostatus up to 3.5, written out: the highest scores and how many there are."""
    edss = np.repeat(EDSS_GRID, 200)
    rng = np.random.default_rng(0)
    scores = functional_systems(edss, rng.gumbel(size=(edss.size, 7)), rng)

    def neurostatus(row: tuple[int, ...]) -> float:
        ones, twos, threes = (sum(score == value for score in row) for value in (1, 2, 3))
        if threes == 1:
            return 3.5 if twos in (1, 2) else 3.0
        if twos:
            return 1.5 + 0.5 * twos
        return 0.0 if not ones else 1.0 if ones == 1 else 1.5

    mild = edss <= 3.5
    assert [neurostatus(tuple(row)) for row in scores[mild]] == edss[mild].tolist()
    highest = np.array([6, 5, 6, 5, 6, 6, 5])
    assert ((scores >= 0) & (scores <= highest)).all()


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    consortium = simulate(Preset("small", SMALL[1:2]), 3)
    write(consortium, tmp_path / "csv")
    write(consortium, tmp_path / "parquet", "parquet")
    for name in ("visits", "mri"):
        text = pd.read_csv(tmp_path / "csv" / "sites" / "two" / f"{name}.csv")
        binary = pd.read_parquet(tmp_path / "parquet" / "sites" / "two" / f"{name}.parquet")
        for column in text:
            assert text[column].astype(str).tolist() == pd.Series(binary[column]).astype(text[column].dtype).astype(str).tolist()


# -- the truth stays apart -----------------------------------------------------------------------------------------------


def test_no_column_of_the_truth_is_in_a_sites_table(demo: Consortium) -> None:
    truths = {column for truth in demo.truth.values() for table in truth.tables.values() for column in table.columns} - SHARED
    assert {"disability", "pira_hazard", "effect_worsening_risk_2y", "progression_frailty", "state", "spms_day"} <= truths
    for site in demo.sites:
        for name, table in site.tables.items():
            assert not truths & set(table.columns), name


def test_no_figure_of_the_truth_is_written_into_a_sites_folder(demo: Consortium, tmp_path: Path) -> None:
    write(demo, tmp_path)
    for site in demo.sites:
        files = content(tmp_path / "sites" / site.site_id)
        assert not [name for name in files if "truth" in name]
        written = b"\n".join(files.values())
        truth = demo.truth[site.site_id].tables
        secrets = [
            *truth["truth_people"]["progression_frailty"],
            *truth["truth_states"]["pira_hazard"][:300],
            demo.truth[site.site_id].profile.rater_bias,
        ]
        assert not [secret for secret in secrets if f"{secret:.6f}".encode() in written]
    assert (tmp_path / "truth" / demo.sites[0].site_id / "truth_states.csv").is_file()
    assert json.loads((tmp_path / "truth" / "simulation.json").read_text())["scenario"] == "routine"


def test_a_simulated_site_gives_no_way_to_its_truth(demo: Consortium) -> None:
    assert set(vars(demo.sites[0])) == {"spec", "tables"}


# -- the truth is true ---------------------------------------------------------------------------------------------------


def test_the_effect_in_the_truth_is_the_difference_of_the_hazards_that_were_used(large: tuple[SimulatedSite, SiteTruth]) -> None:
    starts = large[1].tables["truth_starts"]
    for quantity in ("relapse_hazard", "pira_hazard", "worsening_risk_2y"):
        assert np.array_equal(starts[f"effect_{quantity}"], starts[f"{quantity}_high"] - starts[f"{quantity}_platform"])
    for quantity in ("relapse_hazard", "pira_hazard"):
        given = np.select([starts["dmt_class"] == name for name in p.CLASSES], [starts[f"{quantity}_{name}"] for name in p.CLASSES])
        assert np.allclose(given, starts[f"{quantity}_used"], rtol=1e-12)
    assert (starts["effect_relapse_hazard"] < 0).all()
    assert (starts["effect_pira_hazard"] <= 0).all()


def test_as_many_things_happen_as_the_hazards_say(large: tuple[SimulatedSite, SiteTruth]) -> None:
    """Counts of true events against the hazards of all visits of six-monthly seen people, within four standard errors."""
    people, states, events = (large[1].tables[f"truth_{name}"] for name in ("people", "states", "events"))
    years = people["end_day"].sum() / p.YEAR
    for event, hazard in (("relapse", "relapse_hazard"), ("silent_step", "pira_hazard")):
        happened = ((events["event"] == event) & (events["day"] >= 0)).sum()
        routine = states.sort_values(["patient_id", "day"])
        weight = routine.groupby("patient_id")["day"].diff(-1).abs()
        weight = weight.fillna(0.0)
        expected = (routine[hazard] * weight).sum() / weight.sum() * years
        assert abs(happened - expected) < 4 * np.sqrt(expected) + 0.06 * expected, event


def test_benefit_on_silent_worsening_ends_at_53_and_is_small_in_the_disabled(large: tuple[SimulatedSite, SiteTruth]) -> None:
    starts = large[1].tables["truth_starts"]
    gain = 1 - starts["pira_hazard_high"] / starts["pira_hazard_none"]
    young, disabled = starts["age"] < 40, starts["disability"] >= 6
    assert gain[starts["age"] >= 53].to_numpy() == pytest.approx(0.0, abs=1e-12)
    assert (gain[young & ~disabled & (starts["phenotype"] == "RRMS")] > 0.2).all()
    assert gain[disabled].max() < gain[young & ~disabled].median()


def first_starts(truth: SiteTruth) -> pd.DataFrame:
    """First treatments of relapsing people, high efficacy or platform."""
    starts = truth.tables["truth_starts"]
    chosen = (starts["reason_start"] == "naive") & starts["dmt_class"].isin(("high", "platform"))
    return starts[chosen & starts["phenotype"].isin(("CIS", "RRMS"))]


def bias_of_the_naive_estimate(truth: SiteTruth, true_ratio: float) -> tuple[float, float]:
    """Log ratio of the relapse hazards that the two groups had, less the logarithm of the true one; and its standard error."""
    starts = first_starts(truth)
    groups = [np.log(starts.loc[starts["dmt_class"] == name, "relapse_hazard_used"]) for name in ("high", "platform")]
    error = np.sqrt(sum(group.var() / len(group) for group in groups))
    return float(groups[0].mean() - groups[1].mean() - np.log(true_ratio)), float(error)


def test_treatment_by_indication_makes_the_naive_estimate_wrong(large: tuple[SimulatedSite, SiteTruth]) -> None:
    """Those given high efficacy are sicker: its benefit looks smaller than it is."""
    bias, error = bias_of_the_naive_estimate(large[1], HIGH_TO_PLATFORM)
    assert bias > 4 * error


def test_treatment_by_lot_makes_the_naive_estimate_right(by_lot: tuple[SimulatedSite, SiteTruth]) -> None:
    bias, error = bias_of_the_naive_estimate(by_lot[1], HIGH_TO_PLATFORM)
    assert abs(bias) < 3 * error
    assert set(first_starts(by_lot[1])["high_chance"]) == {0.5}
    assert set(by_lot[0].tables["treatments"]["dmt_class"]) == {"high", "platform"}


def recorded_rate(site: SimulatedSite, truth: SiteTruth, dmt_class: str) -> float:
    """Recorded relapses a year of those who were first given a class, from four weeks later on."""
    starts = first_starts(truth).merge(truth.tables["truth_people"][["patient_id", "end_day"]], on="patient_id")
    starts = starts[starts["dmt_class"] == dmt_class]
    both = site.tables["relapses"][["patient_id", "onset_day"]].merge(starts, on="patient_id")
    happened = (both["onset_day"].astype(int) > both["start_day"] + p.TICK).sum()
    return float(happened / ((starts["end_day"] - starts["start_day"] - p.TICK).clip(lower=0).sum() / p.YEAR))


def rate_ratio(drawn: tuple[SimulatedSite, SiteTruth]) -> float:
    return recorded_rate(*drawn, "high") / recorded_rate(*drawn, "platform")


def test_what_hospitals_record_shows_the_effect_when_treatment_is_by_lot(by_lot: tuple[SimulatedSite, SiteTruth]) -> None:
    assert rate_ratio(by_lot) == pytest.approx(HIGH_TO_PLATFORM, abs=0.08)


def test_without_effect_no_class_differs_from_none(by_lot_without_effect: tuple[SimulatedSite, SiteTruth]) -> None:
    starts = by_lot_without_effect[1].tables["truth_starts"]
    for quantity in ("relapse_hazard", "pira_hazard", "worsening_risk_2y"):
        assert (starts[f"effect_{quantity}"] == 0).all()
        for name in p.CLASSES:
            assert (starts[f"{quantity}_{name}"] == starts[f"{quantity}_none"]).all()
    assert rate_ratio(by_lot_without_effect) == pytest.approx(1.0, abs=0.12)


def test_without_effect_and_by_indication_the_naive_estimate_still_finds_one() -> None:
    bias, error = bias_of_the_naive_estimate(simulate_site(LARGE, 5, PLACEBO_NULL)[1], 1.0)
    assert bias > 4 * error


def test_the_true_state_is_that_of_a_relapse_only_after_one(demo: Consortium) -> None:
    for truth in demo.truth.values():
        states, events = truth.tables["truth_states"], truth.tables["truth_events"]
        relapses = events[events["event"] == "relapse"]
        both = states.merge(relapses[["patient_id", "day"]], on="patient_id", suffixes=("", "_relapse"))
        near = both[(both["day"] - both["day_relapse"]).between(0, 60)]
        expected = set(zip(near["patient_id"], near["day"], strict=True))
        found = states[states["state"] == 5]
        assert set(zip(found["patient_id"], found["day"], strict=True)) == expected
        assert set(states["state"]) <= set(range(1, 9))


# -- sites differ as they should -----------------------------------------------------------------------------------------


def test_missingness_is_what_is_configured_for_each_site() -> None:
    sites = tuple(SiteSpec(f"site{i}", 250, Schedule.REGISTRY, label_poor=i == 0) for i in range(4))
    consortium = simulate(Preset("missing", sites), 8)
    shares = {}
    for site in consortium.sites:
        visits, coverage = site.tables["visits"], consortium.truth[site.site_id].profile.coverage
        shares[site.site_id] = visits["edss"].notna().mean()
        later = visits[visits["day"] > 0]
        assert later["edss"].notna().mean() == pytest.approx(coverage["edss"], abs=0.04)
        assert visits["fs_pyramidal"].notna().mean() == pytest.approx(coverage["fs"], abs=0.04)
        assert visits["sdmt_n"].notna().mean() == pytest.approx(coverage["function"], abs=0.03)
        nfl = (site.tables["biomarkers"]["analyte"] == "nfl").sum() / len(visits)
        assert nfl == pytest.approx(coverage["nfl"], abs=0.02)
        assert len(site.tables["oct"]) > 0 or coverage["oct"] == 0
        assert (site.tables["wearables"].empty, coverage["wearables"]) == (True, 0.0)
    assert shares["site0"] < 0.55 < min(share for name, share in shares.items() if name != "site0")


def test_scores_are_more_often_there_soon_after_a_relapse(large: tuple[SimulatedSite, SiteTruth]) -> None:
    """Missing not at random, by the log odds that are configured."""
    visits = large[0].tables["visits"].merge(large[1].tables["truth_states"], on=["patient_id", "day"])
    visits = visits[visits["day"] > 0]
    soon = visits["transient"] > 0.15
    there = [visits.loc[chosen, "edss"].notna().mean() for chosen in (soon, ~soon)]
    odds = [share / (1 - share) for share in there]
    assert 0.2 < np.log(odds[0] / odds[1]) < 0.8


def test_hospitals_miss_the_share_of_relapses_that_is_configured(large: tuple[SimulatedSite, SiteTruth]) -> None:
    site, truth = large
    events = truth.tables["truth_events"]
    recorded = len(site.tables["relapses"]) / (events["event"] == "relapse").sum()
    assert recorded == pytest.approx(1 - truth.profile.under_reporting, abs=0.03)


def test_a_site_of_another_concept_has_another_slope_of_silent_worsening() -> None:
    usual, shifted = (simulate_site(replace(LARGE, patients=400, concept_shift=shift), 5)[1] for shift in (False, True))
    slopes = []
    for truth in (usual, shifted):
        people = truth.tables["truth_people"]
        states = truth.tables["truth_states"].merge(people[["patient_id", "age", "progression_frailty"]], on="patient_id")
        states = states[(states["dmt_class"] == "none") & (states["phenotype"] == "RRMS")]
        bare = np.log(states["pira_hazard"] / states["progression_frailty"])
        slopes.append(np.polyfit(states["age"] + states["day"] / p.YEAR, bare, 1)[0])
    assert slopes == pytest.approx([p.PIRA_AGE, p.SHIFTED_PIRA_AGE], abs=0.002)


def test_a_progressive_clinic_has_progressive_patients() -> None:
    shares = {}
    for clinic in Clinic:
        patients = simulate_site(SiteSpec("clinic", 150, clinic=clinic), 2)[0].tables["patients"]
        shares[clinic] = patients["phenotype_entry"].isin(("SPMS", "PPMS")).mean()
    assert shares[Clinic.EARLY] < 0.1 < shares[Clinic.MIXED] < 0.4 < shares[Clinic.PROGRESSIVE]


def test_raters_and_scanners_leave_the_marks_that_the_truth_lists(large: tuple[SimulatedSite, SiteTruth]) -> None:
    site, truth = large
    visits = site.tables["visits"].merge(truth.tables["truth_states"], on=["patient_id", "day"])
    felt = visits["disability"] + visits["transient"] + visits["fluctuation"]
    middle = felt.between(1.5, 5.5) & visits["edss"].notna()
    assert (visits["edss"] - felt)[middle].mean() == pytest.approx(truth.profile.rater_bias, abs=0.03)
    gamma = {scanner.scanner_id: scanner.gamma[0] * p.BRAIN_ML["F"][1] for scanner in truth.profile.scanners}
    quantified = site.tables["mri"][site.tables["mri"]["nbv_ml"].notna()]
    added = quantified["scanner_id"].map(gamma).groupby(quantified["patient_id"]).diff()
    measured = quantified.groupby("patient_id")["nbv_ml"].diff()
    changed = added.abs() > 0
    assert changed.sum() > 200
    assert (added * measured)[changed].sum() / (added**2)[changed].sum() == pytest.approx(1.0, abs=0.1)


def test_clinnova_follows_its_visit_schedule() -> None:
    site, truth = simulate_site(SiteSpec("clinic", 200, Schedule.CLINNOVA, language="fr"), 4)
    visits = site.tables["visits"]
    annual = visits[visits["visit_type"] == "annual"]["day"].astype(int)
    assert (np.abs(annual - np.rint(annual / p.YEAR) * p.YEAR) <= 41).all()
    assert annual.max() <= 5 * p.YEAR + 41
    unscheduled = visits[visits["visit_type"].str.startswith("unscheduled")]
    assert unscheduled.groupby("patient_id").size().max() == 1
    assert (unscheduled["day"] <= 366 + 21).all()
    patients = site.tables["patients"].merge(truth.tables["truth_people"], on="patient_id")
    assert (patients["age"] >= 18).all()
    worn = site.tables["wearables"].groupby("week")["patient_id"].nunique()
    assert worn.loc[:4].mean() > 1.5 * worn.loc[30:52].mean()


def test_a_prospective_cohort_records_what_everybody_agreed_to_and_a_registry_does_not() -> None:
    site, _ = simulate_site(SiteSpec("clinic", 400, Schedule.CLINNOVA, language="fr"), 4)
    scopes = site.tables["patients"].set_index("patient_id")["consent_scope"]
    assert 0 < (scopes == "withdrawn").sum() < 20
    staying = scopes[scopes != "withdrawn"]
    for kind, names in KINDS.items():
        may = staying[staying.str.split(SEPARATOR).map(set) >= {"routine", kind}].index
        assert 0 < len(may) <= len(staying)
        for name in names:
            assert set(site.tables[name]["patient_id"]) <= {*may, *scopes[scopes == "withdrawn"].index}
    assert not staying.str.contains("devices").all()
    assert simulate_site(SMALL[0], 4)[0].tables["patients"]["consent_scope"].isna().all()


def test_clinnovas_criteria_admit_most_of_a_simulated_clinnova_clinic_and_none_of_those_who_withdrew() -> None:
    tables = simulate_site(SiteSpec("clinic", 200, Schedule.CLINNOVA, language="fr"), 4)[0].tables
    found = admit(tables, load_criteria("clinnova"), withdrawn=frozenset())
    withdrawn = tables["patients"][tables["patients"]["consent_scope"] == "withdrawn"]["patient_id"]
    assert not set(withdrawn) & set(found.patients)
    assert len(found.patients) > 100


# -- any size ------------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    patients=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    schedule=st.sampled_from(Schedule),
    clinic=st.sampled_from(Clinic),
)
def test_a_site_of_any_size_is_whole(patients: int, seed: int, schedule: Schedule, clinic: Clinic) -> None:
    site, truth = simulate_site(SiteSpec("any", patients, schedule, clinic), seed)
    assert len(site.tables["patients"]) == site.tables["patients"]["patient_id"].nunique() == patients
    assert set(site.tables) == set(COLUMNS)
    visits = site.tables["visits"]
    assert len(visits) == len(truth.tables["truth_states"])
    assert (visits.groupby("patient_id")["day"].min() == 0).all()
    assert set(visits["edss"].dropna()) <= set(EDSS_GRID)
    assert (site.tables["relapses"].groupby("patient_id")["onset_day"].diff().dropna() >= p.RELAPSE_GAP_D).all()


@pytest.mark.slow
def test_reclaim_has_fifteen_sites_some_fifty_five_thousand_scans_and_no_error(tmp_path: Path) -> None:
    from tasks.ms.validate import validate_folder

    consortium = simulate("reclaim", 1)
    write(consortium, tmp_path)
    reports = [validate_folder(tmp_path / "sites" / site.site_id).report for site in consortium.sites]
    assert not [found for report in reports for found in report.findings if found.rule.severity == "error"]
    assert len(consortium.sites) == 15
    assert sum(len(site.tables["patients"]) for site in consortium.sites) == 7500
    assert sum(len(site.tables["mri"]) for site in consortium.sites) == pytest.approx(55_000, rel=0.05)
