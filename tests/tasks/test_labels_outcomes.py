"""Outcomes beside confirmed EDSS worsening: timed tests, SDMT, the composite, milestones, SPMS, PIRMA, NEDA-3 and ARR."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plain_labels import Patient, history_of
from scipy.optimize import minimize
from scipy.stats import nbinom

from tasks.labels.engine import label
from tasks.labels.errors import LabelError
from tasks.labels.events import Events
from tasks.labels.history import FUNCTIONAL_SYSTEMS, History, Relapses, Scans, Visits
from tasks.labels.neda import Neda, neda3
from tasks.labels.relapse_rate import annualised_relapse_rate, relapse_counts
from tasks.labels.rule import SPMS_RULE, LabelRule, Outcome

NAN = math.nan


def found(events: Events) -> list[tuple[str, int, int]]:
    return list(zip(events.event.tolist(), events.event_day.tolist(), events.confirm_day.tolist(), strict=True))


def history(
    days: list[int],
    edss: list[float],
    *,
    relapses: tuple[int, ...] = (),
    scans: list[tuple[int, float, float, float]] | None = None,
    **columns: Any,
) -> History:
    """One patient."""
    others = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    mri = None if scans is None else Scans(np.zeros(len(scans), dtype=np.int64), *map(np.array, zip(*scans, strict=True)))
    onset = np.array(relapses, dtype=np.int64)
    visits = Visits(np.zeros(len(days), dtype=np.int64), np.array(days), np.array(edss, dtype=np.float64), **others)
    return History(1, visits, Relapses(np.zeros_like(onset), onset), mri)


def timed(outcome: Outcome, values: list[float], **options: Any) -> list[str]:
    patient = Patient(list(zip([0, 182, 364], values, strict=True)))
    rule = LabelRule(outcome=outcome, **options)
    return label(history_of([patient], outcome), rule).events.event.tolist()


@pytest.mark.parametrize("outcome", ["t25fw", "nhpt"])
def test_a_timed_test_worsens_by_20_percent_and_not_by_less(outcome: Outcome) -> None:
    name = outcome.upper()
    assert timed(outcome, [20.0, 24.0, 24.0]) == [name, f"{name}_PIRA"]
    assert timed(outcome, [20.0, 23.9, 24.0]) == []
    assert timed(outcome, [20.0, 16.0, 16.0]) == [f"{name}_IMPR"]
    assert timed(outcome, [20.0, 23.0, 23.0], timed_change=0.15) == [name, f"{name}_PIRA"]


def test_exactly_20_percent_counts_whatever_binary_fractions_make_of_it() -> None:
    assert 13.2 - 11.0 < 0.2 * 11.0
    assert timed("nhpt", [11.0, 13.2, 13.2]) == ["NHPT", "NHPT_PIRA"]


def test_sdmt_worsens_by_losing_four_points_and_improves_by_gaining_them() -> None:
    assert timed("sdmt", [50.0, 46.0, 46.0]) == ["SDMT", "SDMT_PIRA"]
    assert timed("sdmt", [50.0, 47.0, 47.0]) == []
    assert timed("sdmt", [50.0, 54.0, 54.0]) == ["SDMT_IMPR"]


def test_sdmt_of_a_low_reference_may_count_by_its_share() -> None:
    assert timed("sdmt", [10.0, 8.0, 8.0]) == []
    assert timed("sdmt", [10.0, 8.0, 8.0], sdmt_rule="points_or_share") == ["SDMT", "SDMT_PIRA"]
    assert timed("sdmt", [0.0, 0.0, 0.0], sdmt_rule="points_or_share") == []


def test_labels_of_timed_tests_hold_no_edss() -> None:
    events = label(history_of([Patient([(0, 5.0), (182, 7.0), (364, 7.0)])], "t25fw"), LabelRule(outcome="t25fw")).events
    assert np.isnan(events.ref_edss).all()
    assert np.isnan(events.event_edss).all()
    assert (events.ref_value.tolist(), events.event_value.tolist()) == ([5.0] * 2, [7.0] * 2)


def composite(**columns: list[float]) -> Events:
    given = {"edss": [2.0] * 4, "t25fw_s": [5.0] * 4, "nhpt_s": [20.0] * 4, **columns}
    return label(history([0, 182, 364, 546], **given), LabelRule(outcome="composite")).events  # type: ignore[arg-type]


def test_the_composite_is_the_first_of_its_components() -> None:
    assert found(composite()) == []
    assert found(composite(nhpt_s=[20, 24, 24, 24])) == [("CDA", 182, 364), ("CDA_PIRA", 182, 364)]
    first = composite(edss=[2, 2, 3, 3], t25fw_s=[5, 7, 7, 7], nhpt_s=[20, 20, 24, 24])
    assert found(first) == [("CDA", 182, 364), ("CDA_PIRA", 182, 364)]
    assert np.isnan(first.ref_edss).all()


def test_components_do_not_confirm_one_another() -> None:
    assert found(composite(edss=[2, 3, 2, 2], t25fw_s=[5, 5, 7, 5])) == []


def test_of_two_components_on_one_day_edss_is_named() -> None:
    both = composite(edss=[2, 3, 3, 3], t25fw_s=[5, 7, 7, 7])
    assert both.ref_edss.tolist() == [2.0, 2.0]


def test_a_milestone_is_reached_once_and_confirmed() -> None:
    events = label(history([0, 182, 364, 546, 728], [2.5, 4, 3, 4.5, 6.0]), LabelRule()).events.only("EDSS3", "EDSS4", "EDSS6")
    assert found(events) == [("EDSS3", 182, 364), ("EDSS4", 546, 728)]
    assert events.ref_edss.tolist() == [2.5, 3.0]


def test_a_milestone_of_the_first_visit_has_no_reference() -> None:
    events = label(history([0, 182], [4, 4]), LabelRule()).events
    assert found(events) == [("EDSS3", 0, 182), ("EDSS4", 0, 182)]
    assert np.isnan(events.ref_edss).all()


def systems(**scores: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n_visits, 7), 0 where not given."""
    length = len(next(iter(scores.values())))
    return np.stack([np.array(scores.get(name, [0.0] * length)) for name in FUNCTIONAL_SYSTEMS], axis=1)


def spms(edss: list[float], fs: Any, relapses: tuple[int, ...] = (), **options: Any) -> list[tuple[str, int, int]]:
    rule = replace(SPMS_RULE, **options)
    return found(label(history([0, 182, 364, 546], edss, relapses=relapses, fs=fs), rule).events)


PYRAMIDAL = systems(pyramidal=[2, 3, 3, 3])


def test_the_transition_is_a_confirmed_pyramidal_worsening_to_4_or_more() -> None:
    assert spms([3.5, 4.5, 4.5, 4.5], PYRAMIDAL) == [("SPMS", 182, 364)]


@pytest.mark.parametrize(
    ("edss", "fs", "relapses"),
    [
        pytest.param([2.5, 3.5, 3.5, 3.5], PYRAMIDAL, (), id="below-4"),
        pytest.param([2.5, 4.0, 4.0, 4.0], PYRAMIDAL, (), id="reference-below-3"),
        pytest.param([3.5, 4.0, 4.0, 4.0], PYRAMIDAL, (), id="half-a-point"),
        pytest.param([5.5, 6.0, 6.0, 6.0], PYRAMIDAL, (), id="half-a-point-from-5.5"),
        pytest.param([3.5, 4.5, 3.5, 3.5], PYRAMIDAL, (), id="unconfirmed"),
        pytest.param([3.5, 4.5, 4.5, 4.5], systems(cerebellar=[2, 3, 3, 3], pyramidal=[1, 1, 1, 1]), (), id="not-pyramidal"),
        pytest.param([3.5, 4.5, 4.5, 4.5], PYRAMIDAL, (150,), id="relapse"),
        pytest.param([3.5, 4.5, 4.5, 4.5], systems(pyramidal=[2, 3, 2, 2]), (), id="leading-system-falls"),
        pytest.param([3.5, 4.5, 4.5, 4.5], systems(pyramidal=[2, NAN, 3, 3]), (), id="pyramidal-unknown"),
        pytest.param([3.5, 4.5, 4.5, 4.5], systems(pyramidal=[2, 3, NAN, NAN]), (), id="confirmation-unknown"),
    ],
)
def test_no_transition(edss: list[float], fs: Any, relapses: tuple[int, ...]) -> None:
    assert spms(edss, fs, relapses) == []


def test_half_a_point_is_enough_from_6() -> None:
    assert spms([6.0, 6.5, 6.5, 6.5], PYRAMIDAL) == [("SPMS", 182, 364)]


def test_the_leading_system_is_the_one_that_rose_most() -> None:
    other_falls = systems(pyramidal=[2, 4, 4, 4], sensory=[2, 3, 2, 2])
    assert spms([3.5, 4.5, 4.5, 4.5], other_falls) == [("SPMS", 182, 364)]
    leading_falls = systems(pyramidal=[2, 3, 3, 3], sensory=[1, 3, 1, 1])
    assert spms([3.5, 4.5, 4.5, 4.5], leading_falls) == []
    assert spms([3.5, 4.5, 4.5, 4.5], leading_falls, leading_fs="not_required") == [("SPMS", 182, 364)]


def test_of_systems_that_rose_alike_one_may_hold() -> None:
    equal = systems(pyramidal=[2, 3, 2, 2], sensory=[1, 2, 2, 2])
    assert spms([3.5, 4.5, 4.5, 4.5], equal) == [("SPMS", 182, 364)]


def test_the_leading_system_holds_above_its_reference() -> None:
    half_lost = systems(pyramidal=[2, 4, 3, 3])
    assert spms([3.5, 4.5, 4.5, 4.5], half_lost) == [("SPMS", 182, 364)]


def test_where_no_system_rose_walking_may_lead() -> None:
    days, edss, fs = [0, 182, 364], [4.5, 5.5, 5.5], systems(pyramidal=[3, 3, 3])
    assert len(label(history(days, edss, fs=fs), SPMS_RULE).events) == 0
    walking = history(days, edss, fs=fs, ambulation=[3, 5, 5])
    assert found(label(walking, SPMS_RULE).events) == [("SPMS", 182, 364)]


def test_the_leading_system_may_not_fall_between() -> None:
    fs = systems(pyramidal=[2, 3, 2, 3])
    late: dict[str, Any] = {"confirm_days": 336}
    assert spms([3.5, 4.5, 4.5, 4.5], fs, **late) == []
    assert spms([3.5, 4.5, 4.5, 4.5], fs, **late, sustained="confirmation_visit") == [("SPMS", 182, 546)]


def test_a_rise_from_below_3_moves_the_reference_that_a_later_transition_is_measured_from() -> None:
    fs = systems(pyramidal=[2, 3, 3, 4, 4])
    events = label(history([0, 100, 200, 300, 400], [2, 3.5, 3.5, 4.5, 4.5], fs=fs), SPMS_RULE).events
    assert found(events) == [("SPMS", 300, 400)]
    assert events.ref_edss.tolist() == [3.5]


def pirma(*scans: tuple[int, float, float, float]) -> bool:
    events = label(history([0, 182, 364], [2, 3, 3], scans=list(scans)), LabelRule()).events
    return "PIRMA" in events.event.tolist()


def test_pirma_needs_a_read_scan_without_activity_between_reference_and_confirmation() -> None:
    assert pirma((200, 0, 0, 0))
    assert pirma((200, 0, NAN, NAN))
    assert pirma((364, 0, 0, 0))
    assert not pirma((200, 1, 0, 0))
    assert not pirma((200, 0, 1, 0))
    assert not pirma((200, 0, 0, 1))
    assert not pirma((200, NAN, 0, 0))
    assert not pirma((200, 0, 0, 0), (300, 0, 0, 1))


def test_scans_of_the_reference_day_or_after_the_confirmation_do_not_bear_on_pirma() -> None:
    assert pirma((0, 5, 0, 0), (200, 0, 0, 0), (365, 5, 0, 0))
    assert not pirma((0, 0, 0, 0), (365, 0, 0, 0))


QUIET = [(150, 0.0, 0.0, 0.0), (364, 0.0, 0.0, 0.0), (728, 0.0, 0.0, 0.0)]
STABLE = [2.0, 2.0, 2.0, 2.0, 2.0]


def neda(edss: list[float], scans: list[tuple[int, float, float, float]], relapses: tuple[int, ...] = (), start: float = 0) -> Neda:
    days = [0, 182, 364, 546, 728]
    return neda3(history(days, edss, relapses=relapses, scans=scans), np.array([start]), LabelRule())


def test_neda_is_kept_without_any_activity() -> None:
    kept = neda(STABLE, QUIET)
    assert np.isnan(kept.loss_day).all()
    assert len(kept.events) == 0
    assert (kept.rebaseline_day.tolist(), kept.shown_until.tolist()) == ([150.0], [728.0])


def test_neda_is_lost_by_the_first_activity_and_says_which() -> None:
    lost = neda([2, 2, 3, 3, 3], QUIET, relapses=(500,))
    assert found(lost.events) == [("NEDA_loss", 364, 546)]
    assert (lost.by_worsening.tolist(), lost.by_relapse.tolist(), lost.by_mri.tolist()) == ([True], [False], [False])
    assert lost.events.ref_edss.tolist() == [2.0]
    relapsed = neda([2, 2, 3, 3, 3], QUIET, relapses=(300,))
    assert found(relapsed.events) == [("NEDA_loss", 300, 300)]
    assert np.isnan(relapsed.events.ref_edss).all()
    scanned = neda(STABLE, [*QUIET[:1], (364, 1, 0, 0), (728, 0, 0, 0)])
    assert (scanned.loss_day.tolist(), scanned.by_mri.tolist()) == ([364.0], [True])


def test_lesions_count_from_the_new_scan_about_six_months_after_the_start() -> None:
    early = [(100, 4.0, 0.0, 2.0), (150, 3.0, 0.0, 0.0)]
    assert np.isnan(neda(STABLE, [*early, *QUIET[1:]]).loss_day).all()
    assert neda(STABLE, [(100, 0, 0, 0), (300, 3, 0, 0), (400, 1, 0, 0)]).loss_day.tolist() == [400.0]


def test_without_a_scan_to_count_from_neda_is_not_shown() -> None:
    unshown = neda(STABLE, [(100, 0.0, 0.0, 0.0)])
    assert np.isnan(unshown.loss_day).all()
    assert np.isnan(unshown.shown_until).all()
    assert np.isnan(unshown.rebaseline_day).all()


def test_what_was_before_the_start_is_not_the_treatments() -> None:
    before = neda([2, 3, 3, 3, 3], [(500, 0, 0, 0), (728, 0, 0, 0)], relapses=(150,), start=200)
    assert np.isnan(before.loss_day).all()
    assert np.isnan(neda(STABLE, QUIET, relapses=(0,)).loss_day).all()  # of the day of the start
    assert neda(STABLE, QUIET, relapses=(1,)).loss_day.tolist() == [1.0]
    nobody = neda([2, 3, 3, 3, 3], QUIET, relapses=(150,), start=NAN)
    assert np.isnan(nobody.loss_day).all()


def test_relapses_are_counted_in_the_time_they_could_be_seen_in() -> None:
    patients = [Patient([], [(0, None), (10, None), (365, None), (400, None)]), Patient([], [(5, None)]), Patient([], [])]
    counts, years = relapse_counts(history_of(patients), np.array([0.0, NAN, 0.0]), np.array([365.25, 100.0, 730.5]))
    assert counts.tolist() == [2, 0, 0]
    assert years.tolist() == [1.0, 0.0, 2.0]
    last_day = relapse_counts(history_of(patients), np.array([10.0, NAN, 0.0]), np.array([365.0, 100.0, 730.5]))[0]
    assert last_day.tolist() == [1, 0, 0]  # after the first day, and on the last one too


def test_two_rows_of_one_onset_are_one_relapse() -> None:
    counts, _ = relapse_counts(history_of([Patient([], [(5, None), (5, 9)])]), np.array([0.0]), np.array([100.0]))
    assert counts.tolist() == [1]


def test_the_rate_and_its_dispersion_have_the_highest_likelihood() -> None:
    random = np.random.default_rng(3)
    years = random.uniform(0.5, 6.0, 400)
    counts = random.poisson(0.4 * years * random.gamma(2.0, 0.5, 400))

    def loss(logs: Any) -> float:
        rate, dispersion = np.exp(logs)
        return -float(nbinom.logpmf(counts, 1 / dispersion, 1 / (1 + dispersion * rate * years)).sum())

    best = np.exp(minimize(loss, [-1.0, -1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000}).x)
    found_rate = annualised_relapse_rate(counts, years)
    np.testing.assert_allclose([found_rate.nb_rate, found_rate.dispersion], best, rtol=1e-4)
    assert found_rate.rate == pytest.approx(counts.sum() / years.sum())
    assert found_rate.low < found_rate.nb_rate < found_rate.high
    assert found_rate.low < 0.4 < found_rate.high
    assert abs(found_rate.dispersion - 0.5) < 0.2


def test_counts_no_more_spread_than_chance_have_no_dispersion() -> None:
    even = annualised_relapse_rate(np.array([1] * 50), np.ones(50))
    assert (even.rate, even.nb_rate, even.dispersion) == (1.0, 1.0, 0.0)
    assert even.high == pytest.approx(math.exp(1.959964 / math.sqrt(50)))


def test_no_relapse_is_a_rate_of_zero_without_an_upper_limit() -> None:
    none = annualised_relapse_rate(np.array([0, 0]), np.array([1.0, 2.0]))
    assert (none.relapses, none.person_years, none.rate, none.low, none.high) == (0, 3.0, 0.0, 0.0, math.inf)


@pytest.mark.parametrize(
    ("counts", "years", "words"),
    [([1], [1.0, 2.0], "equally many"), ([-1], [1.0], "negative"), ([1], [NAN], "unknown"), ([0], [0.0], "nobody")],
)
def test_a_rate_of_nothing_is_refused(counts: list[int], years: list[float], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        annualised_relapse_rate(np.array(counts), np.array(years))


def test_follow_up_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(LabelError, match="row 0: last_day is before"):
        relapse_counts(history_of([Patient([])]), np.array([5.0]), np.array([4.0]))
    with pytest.raises(LabelError, match="the history has 1"):
        relapse_counts(history_of([Patient([])]), np.array([5.0, 6.0]), np.array([7.0]))
