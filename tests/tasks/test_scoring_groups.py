"""Figures by sex and age are those of the group's own patients, and nobody counts more for being in several groups."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.base import Column, Contract, Label
from tasks.cdp_2y.task import TASK as PROGRESSION
from tasks.cis_conversion.task import TASK as CIS
from tasks.errors import ContractError
from tasks.scoring.base import Calibrated, Scored, Scoring, shares, summed
from tasks.scoring.binary import BinaryScoring, probabilities
from tasks.scoring.groups import Grouping, groupings, refuse_unread
from tasks.scoring.names import NOISE_DOMINATES, Name, group_words, groups_of, meaning, parsed, shown, words

GRID = 20
CONTRACT = Contract(
    "toy",
    "1",
    (
        Column("female", "binary", "sex"),
        Column("age_years", "numeric", "age", unit="years", low=10, high=90),
    ),
    Label("event", "it happened"),
)
SCORING = BinaryScoring(8, groupings(CONTRACT, ("age", "sex")))


def people(n: int, seed: int = 1) -> Scored:
    """Some of unknown sex or age; women are easier to foretell."""
    stream = np.random.default_rng(seed)
    female = stream.choice([0.0, 1.0, np.nan], n, p=[0.4, 0.5, 0.1])
    age = np.where(stream.random(n) < 0.1, np.nan, stream.uniform(18, 70, n))
    logits = stream.normal(0.0, np.where(female == 1.0, 2.0, 0.7))
    labels = (stream.random(n) < probabilities(logits)).astype(np.int8)
    return Scored(logits, labels, np.column_stack([female, age]))


def part(scored: Scored, chosen: np.ndarray) -> Scored:
    return Scored(scored.outputs[chosen], scored.labels[chosen], scored.values[chosen])


def histogram(scoring: Scoring, scored: Scored) -> np.ndarray:
    return summed(scoring, scored, np.ones(len(scored), np.intp), GRID) / 2.0**GRID


def test_the_scoring_without_groups_is_the_histogram_of_old() -> None:
    alone = BinaryScoring(8)
    assert (alone.cells, alone.weights) == (16, (1.0,))
    scored = people(50)
    expected = np.zeros(16)
    for logit, label in zip(scored.outputs, scored.labels, strict=True):
        expected[8 * label + min(int(8 / (1 + np.exp(-logit))), 7)] += 1
    assert histogram(alone, scored).tolist() == expected.tolist()


def test_groups_come_from_the_contracts_columns() -> None:
    age, sex = groupings(CONTRACT, ("age", "sex"))
    assert age.keys() == ("age=below_35", "age=35_to_49", "age=from_50", "age=unknown")
    values = np.array([[1.0, 34.9], [0.0, 35.0], [np.nan, 50.0], [1.0, np.nan]])
    assert [age.names[at] for at in age.which(values)] == ["below_35", "35_to_49", "from_50", "unknown"]
    assert [sex.names[at] for at in sex.which(values)] == ["F", "M", "unknown", "F"]


def test_a_sex_in_codes_is_read_as_its_codes_say() -> None:
    sex = groupings(CIS.contract, ("sex",))[0]
    codes = CIS.contract.column("sex").categories
    values = np.zeros((2, len(CIS.contract.columns)))
    values[:, CIS.contract.column_names.index("sex")] = [codes.index("M"), codes.index("F")]
    assert [sex.names[at] for at in sex.which(values)] == ["M", "F"]


def test_a_task_names_the_column_that_its_contract_lacks() -> None:
    bare = Contract("bare", "1", (CONTRACT.columns[1],), CONTRACT.label)
    with pytest.raises(ContractError, match="task bare has no figures by sex: its contract has no column female or sex"):
        groupings(bare, ("sex",))
    with pytest.raises(ContractError, match="figures by 'site': known are age, sex"):
        groupings(CONTRACT, ("site",))
    with pytest.raises(ContractError, match="need the codes F and M"):
        groupings(Contract("x", "1", (Column("sex", "categorical", "sex", categories=("1", "2")),), CONTRACT.label), ("sex",))
    with pytest.raises(ContractError, match="age_years in years"):
        groupings(
            Contract("x", "1", (Column("age_years", "numeric", "age", unit="months", low=0, high=9),), CONTRACT.label), ("age",)
        )


def test_what_groups_read_must_be_among_the_plans_columns() -> None:
    refuse_unread(("age", "sex"), CONTRACT, ("female", "age_years"))
    refuse_unread((), CONTRACT, ())
    with pytest.raises(ContractError, match="figures by sex read the column female, which the plan does not"):
        refuse_unread(("age", "sex"), CONTRACT, ("age_years",))


@pytest.mark.parametrize("task", [CIS, PROGRESSION])
def test_tasks_of_one_table_serve_both_groupings(task: object) -> None:
    scoring = task.scoring(16, ("age", "sex"))  # type: ignore[attr-defined]
    assert scoring.cells == 2 * 16 * (1 + 4 + 3)
    assert isinstance(scoring, Scoring)
    assert isinstance(scoring, Calibrated)


@given(st.integers(1, 4), st.sampled_from([(), ("age",), ("sex",), ("age", "sex")]), st.integers(0, 1000))
def test_a_patient_moves_the_sum_by_at_most_1_however_many_records_and_groups(records: int, by: tuple[str, ...], seed: int) -> None:
    scoring, scored = BinaryScoring(8, groupings(CONTRACT, by)), people(records, seed)
    places = scoring.places(scored)
    assert [len(set(row)) for row in places.tolist()] == [1 + len(by)] * records
    parts = shares(scoring, places, np.full(records, records), GRID)
    moved = np.zeros(scoring.cells)
    np.add.at(moved, places, parts / 2.0**GRID)
    assert 0.9 < np.linalg.norm(moved) <= 1.0 or records > 1
    assert np.linalg.norm(moved) <= 1.0


def test_a_groups_figures_are_those_of_its_patients_alone() -> None:
    scored = people(4000)
    found = SCORING.figures(histogram(SCORING, scored))
    alone = BinaryScoring(8)
    chosen = {
        "": np.ones(4000, bool),
        "[sex=F]": scored.values[:, 0] == 1,
        "[sex=unknown]": np.isnan(scored.values[:, 0]),
        "[age=35_to_49]": (scored.values[:, 1] >= 35) & (scored.values[:, 1] < 50),
    }
    for name, mask in chosen.items():
        expected = alone.figures(histogram(alone, part(scored, mask)))
        for figure in ("auc", "auc_low", "auc_high", "brier", "calibration_slope", "prevalence"):
            assert found[figure + name] == pytest.approx(expected[figure], abs=1e-4), figure + name
    assert found["auc[sex=F]"] > found["auc[sex=M]"] + 0.1


def test_a_group_of_few_is_not_shown() -> None:
    scored = people(400)
    old = scored.values[:, 1] >= 50
    few = np.flatnonzero(old & (scored.labels == 1))[:9]
    kept = np.union1d(np.flatnonzero(~old | (scored.labels == 0)), few)
    names = SCORING.figures(histogram(SCORING, part(scored, kept)))
    assert not [name for name in names if "age=from_50" in name]
    assert "auc[age=35_to_49]" in names


def test_groups_drown_before_all_patients_do() -> None:
    stream = np.random.default_rng(3)
    cells = histogram(SCORING, people(1200))
    noisy = SCORING.figures(cells + stream.normal(0.0, 2.5, SCORING.cells), noise_std=2.5)
    assert noisy[NOISE_DOMINATES] == 0.0
    assert "auc" in noisy
    assert not [name for name in noisy if "age=unknown" in name]


def test_the_noise_of_all_patients_is_less_than_that_of_their_own_block() -> None:
    stream, std = np.random.default_rng(4), 1.5
    cells = histogram(SCORING, people(3000))
    found = [SCORING.figures(cells + stream.normal(0.0, std, SCORING.cells), noise_std=std) for _ in range(300)]
    stated = found[0]["auc_noise_se"]
    assert np.std([one["auc"] for one in found]) == pytest.approx(stated, rel=0.2)
    own = BinaryScoring(8).figures(cells[:16] * np.sqrt(2), noise_std=std * np.sqrt(2))["auc_noise_se"]
    assert stated < 0.95 * own
    assert np.mean([one["auc"] for one in found]) == pytest.approx(SCORING.figures(cells)["auc"], abs=3 * stated / np.sqrt(300))


def test_calibration_is_that_of_all_patients() -> None:
    scored = people(500)
    alone = BinaryScoring(8)
    expected = alone.calibration(histogram(alone, scored))
    for found, one in zip(SCORING.calibration(histogram(SCORING, scored)), expected, strict=True):
        assert found.patients == pytest.approx(one.patients, abs=1e-2)
        assert found.observed == pytest.approx(one.observed, abs=1e-4)


def test_a_histogram_of_another_size_is_refused() -> None:
    with pytest.raises(ContractError, match="has 128 cells here"):
        SCORING.figures(np.zeros(16))
    with pytest.raises(ContractError, match="at least 2"):
        BinaryScoring(1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auc", Name("auc")),
        ("auc_low[sex=F]", Name("auc", "low", "sex=F")),
        ("auc_noise_se", Name("auc", "noise_se")),
        ("ece_noise", Name("ece", "noise")),
        ("net_benefit_10_high[age=35_to_49]", Name("net_benefit_10", "high", "age=35_to_49")),
        ("AUC, of old", Name("AUC, of old")),
    ],
)
def test_names_come_apart_and_together(name: str, expected: Name) -> None:
    assert parsed(name) == expected
    assert str(expected) == name


def test_names_for_other_programs_hold_no_brackets() -> None:
    assert parsed("auc_low[sex=F]").plain == "auc_low/sex.F"
    names = SCORING.figures(histogram(SCORING, people(4000)))
    plain = [parsed(name).plain for name in names]
    assert Counter(plain).most_common(1)[0][1] == 1
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzFM0123456789_./") for name in plain)


def test_people_read_words_and_all_patients_come_first() -> None:
    found = shown(
        {
            "brier[sex=F]": 0.2,
            "auc[sex=F]": 0.7,
            "new_thing": 1.0,
            "auc": 0.8,
            "auc_low": 0.7,
            "auc_high": 0.9,
            NOISE_DOMINATES: 0.0,
        }
    )
    assert [str(one.name) for one in found] == ["auc", "new_thing", "auc[sex=F]", "brier[sex=F]"]
    assert (found[0].low, found[0].high, found[2].low) == (0.7, 0.9, None)
    assert groups_of(found) == ["sex=F"]
    assert (words("new_thing"), group_words("sex=F"), group_words("arm=high_dose")) == ("new thing", "women", "arm high dose")


def test_a_grouping_is_a_public_constant() -> None:
    assert groupings(CONTRACT, ("sex",)) == (Grouping("sex", 0, ("M", "F", "unknown"), (0.5,)),)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("auc", "AUC"),
        ("auc_2y", "AUC at 2 years"),
        ("brier_1y", "Brier score at 1 year"),
        ("calibration_slope_5y", "calibration slope at 5 years"),
        ("auc_pira", "AUC, pira"),
        ("mae_last", "mean absolute error of the last value"),
        ("log_likelihood_gain_states_alone", "gain in log-likelihood, states alone"),
        ("aucx", "aucx"),
    ],
)
def test_a_horizon_or_a_cause_behind_a_known_name_is_said_in_words(name: str, said: str) -> None:
    assert words(name) == said


def test_how_to_read_a_figure_holds_for_its_horizons_too() -> None:
    assert meaning("auc_2y") == meaning("auc") == "0.5 is chance, 1 is perfect"
    assert meaning("net_benefit_20") == "0 is treating nobody"
    assert meaning("new_thing") == ""
