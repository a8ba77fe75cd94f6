"""From accepted tables to the label engine: nothing is guessed, and nobody's rows land at somebody else."""

import numpy as np
import pandas as pd
import pytest

from tasks.errors import DataError
from tasks.labels.engine import label
from tasks.labels.rule import LabelRule
from tasks.ms.histories import history_of
from tasks.ms.labelling import NAMED, label_tables, worsened
from tasks.simulator import simulate


def tables(*visits: tuple[str, int, float | None]) -> dict[str, pd.DataFrame]:
    patients = pd.DataFrame({"patient_id": ["b", "a"]})
    rows = pd.DataFrame(visits, columns=["patient_id", "day", "edss"])
    return {"patients": patients, "visits": rows.astype({"edss": float}).assign(visit_id="v")}


def test_patients_have_the_numbers_of_their_places() -> None:
    found = history_of(tables(("a", 0, 2.0), ("a", 182, 3.0), ("a", 364, 3.0), ("b", 0, 2.0)))
    assert found.patients == ("b", "a")
    assert found.history.visits.patient.tolist() == [0, 1, 1, 1]
    events = label(found.history, LabelRule()).events
    assert (events.patient[0], events.event_day[0]) == (1, 182)


def test_two_scores_of_one_day_that_differ_are_missing_and_counted_and_equal_ones_are_one() -> None:
    found = history_of(tables(("a", 0, 2.0), ("a", 0, 2.0), ("a", 9, 2.0), ("a", 9, 3.0), ("a", 20, None)))
    edss = found.history.visits.edss
    assert np.isnan(edss).sum() == 4
    assert edss[~np.isnan(edss)].tolist() == [2.0]
    assert found.contradictions == {"edss": 2}


def test_a_site_without_relapses_scans_or_visits_is_no_error() -> None:
    found = history_of({"patients": pd.DataFrame({"patient_id": ["a"]})})
    assert (found.history.n_patients, found.history.scans, len(found.history.visits.day)) == (1, None, 0)


def test_scans_of_the_cord_alone_are_left_out() -> None:
    mri = pd.DataFrame({"patient_id": ["a", "a", "b"], "day": [1, 2, 3], "region": ["cord", "both", "brain"], "new_t2": [1, 0, 2]})
    scans = history_of({"patients": pd.DataFrame({"patient_id": ["a", "b"]}), "mri": mri}).history.scans
    assert scans is not None
    assert scans.day.tolist() == [2, 3]


@pytest.mark.parametrize("rule", sorted(NAMED))
def test_every_named_rule_labels_an_invented_hospital(rule: str) -> None:
    found = label_tables(simulate("demo", 2).sites[0].tables, rule)
    assert found.rule_id.startswith("v")
    assert set(found.events) == {
        "patient_id", "event_day", "event", "rule_id", "ref_edss", "event_edss", "confirm_day", "confirmed_weeks",
    }  # fmt: skip
    assert sum(events for events, _ in found.counts.values()) == len(found.events) > 0


def test_a_rule_that_needs_a_table_says_so() -> None:
    patients = {"patients": pd.DataFrame({"patient_id": ["a"]})}
    with pytest.raises(DataError, match="needs the tables visits"):
        label_tables(patients, "default")
    with pytest.raises(DataError, match="visits and mri"):
        label_tables(tables(("a", 0, 2.0)), "neda3")
    assert worsened(patients) == {}


def test_who_was_not_seen_often_enough_has_no_label() -> None:
    found = worsened(tables(("a", 0, 2.0), ("a", 182, 2.0), ("a", 364, 2.0), ("b", 0, 2.0)))
    assert found == {"a": 0}
