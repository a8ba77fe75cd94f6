"""A patient's rows, labels and dates in any task's cohort are the same to the last bit, whoever else is in the hospital's tables.

Sums are bounded one patient at a time: that says nothing if a patient moves what others contribute. (`cis_conversion` reads another
table, with one row for each patient.)
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from tasks.base import Cohort
from tasks.cohorts import ReadsTables
from tasks.registry import BUILT_IN, find_task
from tasks.simulator import simulate

TASKS = [task for task in map(find_task, BUILT_IN) if isinstance(task, ReadsTables)]


@pytest.fixture(scope="module")
def tables() -> Mapping[str, pd.DataFrame]:
    return simulate("demo", 3).sites[0].tables


def rows_of(cohort: Cohort) -> dict[str, list[bytes]]:
    """What each patient adds, in order."""
    years = np.zeros(len(cohort.patient_ids)) if cohort.years is None else cohort.years
    found: dict[str, list[bytes]] = {}
    for at, name in enumerate(cohort.patient_ids):
        found.setdefault(name, []).append(cohort.values[at].tobytes() + cohort.labels[[at]].tobytes() + years[[at]].tobytes())
    return found


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_nobody_changes_anothers_rows(task: ReadsTables, tables: Mapping[str, pd.DataFrame]) -> None:
    """Without the first patient of the tables, and without the one of most rows."""
    whole = rows_of(task.cohort_of(tables))
    most = max(whole, key=lambda name: len(whole[name]))
    gone = {most, str(tables["patients"]["patient_id"].iloc[0])}
    left = rows_of(task.cohort_of({name: rows[~rows["patient_id"].isin(gone)] for name, rows in tables.items()}))
    assert left == {name: rows for name, rows in whole.items() if name not in gone}
    assert len(left) > 20
