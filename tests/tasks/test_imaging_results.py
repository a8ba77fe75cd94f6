"""Results over sessions: parts add up to the whole, order means nothing, intervals know that a patient's sessions are alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.imaging.results import (
    NO_LESIONS,
    NOT_NAMED,
    SIZES,
    Segmented,
    Session,
    by_load,
    by_scanner,
    drawn_of,
    estimate_words,
    load_of,
    ratio,
    results_of,
    row_of,
    scanner_lines,
)
from tasks.imaging.segmentation_scores import SIZES_ML, ScanScores, score_scan
from tasks.imaging.task import load_words


@st.composite
def scores(draw: st.DrawFn) -> ScanScores:
    """Any that a scan can have; without true voxels there are no true lesions."""
    true, predicted = draw(st.integers(0, 400)), draw(st.integers(0, 400))
    both = draw(st.integers(0, min(true, predicted)))
    there = tuple(draw(st.integers(0, 5)) if true else 0 for _ in SIZES)
    guessed = draw(st.integers(0, 9)) if predicted else 0
    return ScanScores(
        2 * both / (true + predicted) if true + predicted else 1.0,
        true / 10,
        predicted / 10,
        both / 10,
        there,
        tuple(draw(st.integers(0, count)) for count in there),
        guessed,
        draw(st.integers(0, guessed)),
    )


@st.composite
def sessions(draw: st.DrawFn) -> list[Session]:
    each = st.tuples(scores(), st.booleans(), st.sampled_from("abcd"), st.sampled_from(["", "A", "B"]))
    found = draw(st.lists(each, min_size=1))
    return [
        Session(f"s{number}", patient, scanner, Segmented(of, drawn)) for number, (of, drawn, patient, scanner) in enumerate(found)
    ]


@given(sessions())
def test_scanners_and_loads_part_the_drawn_sessions_and_their_lesions(given_: list[Session]) -> None:
    whole = row_of("all", given_)
    assert whole.sessions == len(drawn_of(given_))
    for rows in (by_scanner(given_), by_load(given_)):
        assert sum(row.sessions for row in rows) == whole.sessions
        for at, size in enumerate(whole.sizes):
            assert sum(row.sizes[at].there for row in rows) == size.there
            assert sum(row.sizes[at].found for row in rows) == size.found
            assert size.found <= size.there
            assert (size.share is None) == (size.there == 0)
    assert sum(size.there for size in whole.sizes) == sum(sum(one.scores.true_lesions) for one in drawn_of(given_))


@given(sessions(), st.randoms())
def test_the_order_of_sessions_means_nothing(given_: list[Session], lot: object) -> None:
    turned = list(given_)
    lot.shuffle(turned)  # type: ignore[attr-defined]
    assert _rounded(results_of(turned)) == _rounded(results_of(given_))


def _rounded(value: object) -> object:
    """Sums of floats in another order differ in their last bits, and so may the last shown digit."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return pytest.approx(value, abs=2e-4) if isinstance(value, float) else value


@given(sessions())
def test_values_lie_within_their_intervals_and_these_within_what_is_possible(given_: list[Session]) -> None:
    whole = row_of("all", given_)
    for one in (whole.dice, whole.f1, *(size.share for size in whole.sizes)):
        if one is not None:
            assert 0 <= one.value <= 1
            if one.low is not None and one.high is not None:
                assert 0 <= one.low <= one.value <= one.high <= 1


def test_sizes_are_those_that_scans_are_scored_by() -> None:
    """A voxel of 0.05 mL: one voxel is small, two are medium, ten are large."""
    truth = np.zeros((30, 6, 6), np.bool_)
    truth[0, 0, 0] = truth[5:7, 0, 0] = truth[10:20, 3, 3] = True
    found = np.zeros_like(truth)
    found[5, 0, 0] = found[12, 3, 3] = True
    session = Session("s", "p", "", Segmented(score_scan(found, truth, 0.05), True))
    assert [(size.name, size.there, size.found) for size in row_of("all", [session]).sizes] == [
        ("below 0.1 mL", 1, 0), ("0.1 to 0.5 mL", 1, 1), ("from 0.5 mL", 1, 1),
    ]  # fmt: skip
    assert SIZES_ML == (0.1, 0.5)


def scored(dice: float, true_ml: float = 5.0, *, predicted: int = 1) -> ScanScores:
    return ScanScores(
        dice, true_ml, 4.0, 3.0, (0, 1, 0) if true_ml else (0, 0, 0), (0, 1, 0) if true_ml else (0, 0, 0), predicted, 0
    )


def test_the_interval_of_a_mean_is_students_and_one_patient_has_none() -> None:
    dice = [0.2, 0.5, 0.9, 0.4]
    one = [Session(str(at), str(at), "A", Segmented(scored(value), True)) for at, value in enumerate(dice)]
    found = row_of("all", one).dice
    assert found is not None
    low, high = stats.t.interval(0.95, 3, np.mean(dice), stats.sem(dice))
    assert (found.low, found.high) == pytest.approx((max(low, 0.0), min(high, 1.0)))
    alone = row_of("all", [Session(each.name, "the same", "A", each.found) for each in one]).dice
    assert alone is not None
    assert (alone.value, alone.low, alone.high) == (found.value, None, None)


def test_sessions_twice_of_the_same_patients_make_nothing_surer() -> None:
    dice = [0.2, 0.5, 0.9, 0.4]
    once = [Session(str(at), str(at), "A", Segmented(scored(value), True)) for at, value in enumerate(dice)]
    assert row_of("all", once * 2).dice == row_of("all", once).dice


def test_a_share_of_lesions_weighs_patients_by_what_they_have() -> None:
    found = ratio([1, 30], [2, 40], ["p", "q"], least=0.0, most=1.0)
    assert found is not None
    assert found.value == pytest.approx(31 / 42)
    assert ratio([0, 0], [0, 0], ["p", "q"], least=0.0, most=1.0) is None
    alike = ratio([0.1, 0.1, 0.1], [1, 1, 1], ["p", "q", "r"], least=0.0, most=1.0)
    assert alike is not None
    assert (alike.low, alike.high) == (None, None)


def test_what_is_not_drawn_is_in_no_result_and_what_nothing_names_comes_last() -> None:
    given_ = [
        Session("1", "p", "", Segmented(scored(0.5), True)),
        Session("2", "q", "Zeta 3T", Segmented(scored(0.5), True)),
        Session("3", "r", "Alpha 3T", Segmented(scored(0.5), False)),
    ]
    assert [row.name for row in by_scanner(given_)] == ["Zeta 3T", NOT_NAMED]
    assert results_of([given_[2]]) == {}
    assert scanner_lines([given_[2]]) == []
    assert given_[2].found.dice is None
    assert given_[2].found.drawn_ml is None


@pytest.mark.parametrize(("true_ml", "load"), [(0.0, 0), (1.99, 1), (2.0, 2), (11.9, 2), (12.0, 3)])
def test_loads_have_the_cuts_of_the_pooled_figures(true_ml: float, load: int) -> None:
    assert load_of(scored(0.5, true_ml)) == load
    none = by_load([Session("1", "p", "", Segmented(scored(1.0, true_ml, predicted=0), True))])
    assert none[0].name == (load_words()[load - 1] if load else f"{NO_LESIONS}; none found in 1 of 1")
    assert (none[0].dice is None) == (load == 0)


def test_words_of_estimates() -> None:
    assert estimate_words(None) == "–"
    whole = row_of("all", [Session(str(at), str(at), "", Segmented(scored(value), True)) for at, value in enumerate((0.4, 0.6))])
    assert estimate_words(whole.dice) == "0.50 (0.00 to 1.00)"
    assert estimate_words(whole.bias_ml, signed=True) == "-1.00"
