"""Protocol-defined relapses, NEDA-4 and the dates that physicians wrote down."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.labels.errors import LabelError
from tasks.labels.history import FUNCTIONAL_SYSTEMS, History, Relapses, Scans, Visits
from tasks.labels.neda import neda3, neda4
from tasks.labels.protocol_relapses import protocol_defined
from tasks.labels.relapse_rate import relapse_counts
from tasks.labels.rule import LabelRule
from tasks.ms.labelling import PHYSICIAN, label_tables, physicians_spms
from tasks.simulator import simulate

NAN = math.nan
QUIET = [0.0] * len(FUNCTIONAL_SYSTEMS)
Examination = tuple[int, float, list[float]]  # day, EDSS, functional systems


def one(visits: list[Examination], onsets: list[int]) -> History:
    """One patient."""
    days, edss, fs = zip(*visits, strict=True) if visits else ((), (), ())
    nobody = np.zeros(len(days), dtype=np.int64)
    scores = np.array(fs, dtype=np.float64).reshape(len(days), len(FUNCTIONAL_SYSTEMS))
    seen = Visits(nobody, np.array(days, dtype=np.int64), np.array(edss, dtype=np.float64), fs=scores)
    onset = np.array(onsets, dtype=np.int64)
    return History(1, seen, Relapses(np.zeros_like(onset), onset))


def systems(**scores: float) -> list[float]:
    return [scores.get(name, 0.0) for name in FUNCTIONAL_SYSTEMS]


@pytest.mark.parametrize(
    ("edss", "fs", "expected"),
    [
        (2.5, QUIET, 1.0),
        (2.0, QUIET, 0.0),
        (2.0, systems(visual=1, sensory=1), 1.0),
        (2.0, systems(visual=1), 0.0),
        (2.0, systems(visual=2), 1.0),
        (1.0, systems(visual=2), 1.0),
        (2.0, systems(visual=NAN), NAN),
        (NAN, QUIET, NAN),
        (NAN, systems(brainstem=2, visual=NAN), 1.0),
    ],
)
def test_a_relapse_is_borne_out_by_half_a_point_or_the_functional_systems(edss: float, fs: list[float], expected: float) -> None:
    found = protocol_defined(one([(0, 2.0, QUIET), (110, edss, fs)], [100]), LabelRule())
    np.testing.assert_array_equal(found, [expected])


def test_only_visits_soon_after_the_onset_are_its_examination() -> None:
    late = one([(0, 2.0, QUIET), (131, 3.0, QUIET)], [100])
    assert np.isnan(protocol_defined(late, LabelRule())).all()
    assert protocol_defined(late, LabelRule(), examined_days=31).tolist() == [1.0]
    on_the_day = one([(0, 2.0, QUIET), (100, 2.5, QUIET)], [100])
    assert protocol_defined(on_the_day, LabelRule()).tolist() == [1.0]


def test_the_visit_compared_with_is_recent_and_not_itself_in_a_relapse() -> None:
    assert np.isnan(protocol_defined(one([(0, 2.0, QUIET), (500, 3.0, QUIET)], [490]), LabelRule())).all()
    again = one([(0, 2.0, QUIET), (60, 4.0, QUIET), (95, 4.0, QUIET)], [50, 90])
    assert protocol_defined(again, LabelRule()).tolist() == [1.0, 1.0]  # day 60 is shielded: the second is measured from day 0 too


def test_without_functional_systems_nothing_is_refuted() -> None:
    visits = Visits(np.zeros(2, dtype=np.int64), np.array([0, 110]), np.array([2.0, 2.0]))
    history = History(1, visits, Relapses(np.zeros(1, dtype=np.int64), np.array([100])))
    assert np.isnan(protocol_defined(history, LabelRule())).all()


@pytest.mark.parametrize("lengths", [{"examined_days": -1}, {"stable_days": 50_001}, {"examined_days": True}])
def test_lengths_out_of_range_are_refused(lengths: dict[str, int]) -> None:
    with pytest.raises(LabelError, match="whole number of days"):
        protocol_defined(one([], []), LabelRule(), **lengths)


def by_loops(visits: list[Examination], onsets: list[int], shield: int) -> list[float]:
    """The same for one patient, visit by visit."""
    found = []
    for onset in onsets:
        steady = [
            visit for visit in visits
            if visit[0] < onset and not math.isnan(visit[1]) and not any(0 <= visit[0] - other < shield for other in onsets)
        ]  # fmt: skip
        answer = NAN
        if steady and onset - steady[-1][0] <= 365:
            _, edss, fs = steady[-1]
            for day, later, scores in visits:
                if not onset <= day <= onset + 30:
                    continue
                rises = [after - before for after, before in zip(scores, fs, strict=True)]
                if later - edss >= 0.5 or sum(rise >= 1 for rise in rises) >= 2 or any(rise >= 2 for rise in rises):
                    answer = 1.0
                elif answer != 1.0 and not math.isnan(later) and not any(map(math.isnan, rises)):
                    answer = 0.0
        found.append(answer)
    return found


scores = st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN])
visits_of_one = st.lists(
    st.tuples(st.integers(0, 900), st.sampled_from([0.0, 1.0, 1.5, 2.0, 2.5, NAN]), st.lists(scores, min_size=7, max_size=7)),
    max_size=8, unique_by=lambda visit: visit[0],
)  # fmt: skip


@given(st.lists(st.tuples(visits_of_one, st.lists(st.integers(0, 900), max_size=4, unique=True)), min_size=1, max_size=3))
def test_many_patients_at_once_are_what_a_loop_says_of_each(people: list[tuple[list[Examination], list[int]]]) -> None:
    rows = [(who, *visit) for who, (visits, _) in enumerate(people) for visit in visits]
    onsets = [(who, onset) for who, (_, days) in enumerate(people) for onset in days]
    fs = np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), 7)
    seen = Visits(*(np.array([row[at] for row in rows], dtype=kind) for at, kind in enumerate((int, int, float))), fs=fs)
    relapses = Relapses(*(np.array([row[at] for row in onsets], dtype=np.int64) for at in (0, 1)))
    expected = [told for visits, days in people for told in by_loops(sorted(visits), sorted(days), 30)]
    np.testing.assert_array_equal(protocol_defined(History(len(people), seen, relapses), LabelRule()), np.array(expected))


def test_the_rate_of_borne_out_relapses_counts_those_alone() -> None:
    history = one([(0, 2.0, QUIET), (110, 3.0, QUIET), (300, 2.0, QUIET), (510, 2.0, QUIET)], [100, 500])
    told = protocol_defined(history, LabelRule())
    assert told.tolist() == [1.0, 0.0]
    first, last = np.array([0.0]), np.array([730.5])
    assert relapse_counts(history, first, last)[0].tolist() == [2]
    assert relapse_counts(history, first, last, chosen=told == 1.0)[0].tolist() == [1]
    with pytest.raises(LabelError, match="one truth value for each"):
        relapse_counts(history, first, last, chosen=np.array([True]))


def scanned(*scans: tuple[int, float, float]) -> History:
    """One stable patient; scans are day, new T2 lesions, % of brain volume a year."""
    day, new, volume = (np.array(column) for column in zip(*scans, strict=True))
    mri = Scans(np.zeros(len(day), dtype=np.int64), day, new.astype(float), pbvc_pct_y=volume.astype(float))
    days = np.array([0, 182, 364, 546, 728])
    return History(1, Visits(np.zeros(5, dtype=np.int64), days, np.full(5, 2.0)), Relapses(day[:0], day[:0]), mri)


START = np.array([0.0])


def test_neda_4_is_lost_by_more_than_0_4_percent_of_the_brain_a_year_and_neda_3_is_not() -> None:
    shrinks = scanned((150, 0, NAN), (364, 0, -0.41), (728, 0, -0.1))
    lost = neda4(shrinks, START, LabelRule())
    assert (lost.loss_day.tolist(), lost.by_brain_loss.tolist(), lost.by_mri.tolist()) == ([364.0], [True], [False])
    kept = neda3(shrinks, START, LabelRule())
    assert np.isnan(kept.loss_day).all()
    assert not kept.by_brain_loss.any()
    assert np.isnan(neda4(scanned((150, 0, NAN), (364, 0, -0.4), (728, 0, 0.2)), START, LabelRule()).loss_day).all()


def test_brain_loss_before_the_scan_to_count_from_is_not_the_treatments() -> None:
    assert np.isnan(neda4(scanned((150, 0, -2.0), (364, 0, -0.1)), START, LabelRule()).loss_day).all()


def test_neda_4_is_shown_only_as_far_as_brain_volume_is_known() -> None:
    history = scanned((150, 0, NAN), (364, 0, -0.1), (728, 0, NAN))
    assert neda4(history, START, LabelRule()).shown_until.tolist() == [364.0]
    assert neda3(history, START, LabelRule()).shown_until.tolist() == [728.0]


def test_the_rule_of_neda_4_names_its_limit() -> None:
    history = scanned((150, 0, NAN), (364, 0, -1.0))
    three = LabelRule().rule_id
    assert neda4(history, START, LabelRule()).events.rule_id.tolist() == [f"{three}+neda4-0.4"]
    assert neda4(history, START, LabelRule(), brain_loss_pct_y=0.5).events.rule_id.tolist() == [f"{three}+neda4-0.5"]


def test_neda_4_without_brain_volume_or_with_a_senseless_limit_is_refused() -> None:
    with pytest.raises(LabelError, match="pbvc_pct_y"):
        neda4(scanned((150, 0, NAN)), START, LabelRule())
    with pytest.raises(LabelError, match="brain_loss_pct_y"):
        neda4(scanned((150, 0, 0.1)), START, LabelRule(), brain_loss_pct_y=0.0)
    with pytest.raises(LabelError, match="pbvc_pct_y is outside -10"):
        scanned((150, 0, -11.0))


def courses(entry: dict[str, str | None], *visits: tuple[str, int, str | None, float]) -> dict[str, pd.DataFrame]:
    patients = pd.DataFrame({"patient_id": list(entry), "phenotype_entry": list(entry.values())})
    rows = pd.DataFrame(visits, columns=["patient_id", "day", "phenotype", "edss"])
    return {"patients": patients, "visits": rows.assign(visit_id=[f"v{at}" for at in range(len(rows))])}


def test_a_physicians_transition_is_the_first_visit_with_spms_of_who_was_not_progressive() -> None:
    found = physicians_spms(
        courses(
            {"late": "RRMS", "always": "SPMS", "primary": None, "unknown": None, "never": "RRMS", "before": "SPMS"},
            ("late", 700, "SPMS", 4.5), ("late", 0, "RRMS", 3.0), ("late", 350, None, 4.0), ("late", 900, "SPMS", 5.0),
            ("always", 10, "SPMS", 6.0), ("primary", 0, "PPMS", 4.0), ("primary", 300, "SPMS", 4.0),
            ("unknown", 0, "SPMS", 4.0), ("never", 0, "RRMS", 1.0),
            ("always", 0, "SPMS", 6.0), ("before", -300, "RRMS", 3.0), ("before", -100, "SPMS", 4.0),
        )
    )  # fmt: skip
    assert found[["patient_id", "event_day", "event", "rule_id", "event_edss"]].to_numpy().tolist() == [
        ["before", -100, "SPMS", PHYSICIAN, 4.0],
        ["late", 700, "SPMS", PHYSICIAN, 4.5],
    ]


def test_both_dates_of_a_transition_stand_beside_each_other_in_the_events() -> None:
    tables = simulate("demo", 2).sites[0].tables
    events = label_tables(tables, "spms").events
    written = physicians_spms(tables)
    assert len(written) > 0
    by_hand = events[events["rule_id"] == PHYSICIAN]
    assert by_hand["patient_id"].tolist() == written["patient_id"].tolist()
    counts = label_tables(tables, "spms").counts
    assert counts == {"SPMS": (len(events) - len(written),) * 2, "SPMS, physician": (len(written),) * 2}  # one each
    assert (events["rule_id"] != PHYSICIAN).any()


def test_relapses_that_no_examination_bears_out_are_counted_apart() -> None:
    tables = simulate("demo", 2).sites[0].tables
    told = label_tables(tables, "default").relapses
    assert told["reported"] == len(tables["relapses"])
    assert told["reported"] == told["examination_worse"] + told["examination_not_worse"] + told["not_examined"]
    assert told["examination_worse"] > 0


def test_neda_counts_from_the_first_therapy_and_a_washout_is_none() -> None:
    days = range(0, 900, 182)
    tables = {
        "patients": pd.DataFrame({"patient_id": ["p"]}),
        "visits": pd.DataFrame([{"patient_id": "p", "day": day, "visit_id": str(day), "edss": 2.0} for day in days]),
        "mri": pd.DataFrame([{"patient_id": "p", "day": day, "scan_id": str(day), "region": "brain", "new_t2": 0} for day in days]),
        "relapses": pd.DataFrame({"patient_id": ["p"] * 2, "onset_day": [-50, 300]}),
        "treatments": pd.DataFrame(
            {"patient_id": ["p"] * 3, "start_day": [500, -90, 0], "drug": ["ocrelizumab", "washout", "glatiramer_acetate"]}
        ),
    }
    events = label_tables(tables, "neda3").events
    assert events[["event", "event_day"]].to_numpy().tolist() == [["NEDA_loss", 300]]


def test_neda_4_of_a_site_that_measures_no_brain_volume_is_refused() -> None:
    tables = dict(simulate("demo", 2).sites[0].tables)
    tables["mri"] = tables["mri"].assign(pbvc_pct_y=np.nan)
    with pytest.raises(DataError, match="pbvc_pct_y"):
        label_tables(tables, "neda4")
