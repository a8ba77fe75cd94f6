"""What a start of therapy is described with: the inputs of Falet et al. 2022 that the tables date, and what a policy looks at.

Of the 19 inputs of that study two are missing: height and weight have no day in the data contract, so nobody can say that they were
known on the day of the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base import Column, Values
from tasks.episodes.routine import CORE, EXTRAS
from tasks.ms.contract import CONTRACT as TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.episodes.known import Known
    from tasks.episodes.past import Floats, Past

_ROUTINE: Final = {column.name: column for column in (*CORE, *EXTRAS)}
_CLINICAL: Final = TABLES.table("visits").modality


def _measure(name: str, what: str, low: float, high: float) -> Column:
    what = f"{what}, last of the last 36 months; {high:g} stands for more"
    return Column(name, "numeric", what, unit="s", low=low, high=high, modality=_CLINICAL)


MEASURES: Final = {
    "t25fw_s_last": ("t25fw_s", _measure("t25fw_s_last", "timed 25-foot walk", 2, 60)),
    "nhpt_dom_s_last": ("nhpt_dom_s", _measure("nhpt_dom_s_last", "nine-hole peg test, dominant hand", 10, 100)),
    "nhpt_nondom_s_last": ("nhpt_nondom_s", _measure("nhpt_nondom_s_last", "nine-hole peg test, other hand", 10, 100)),
}
YEAR: Final = Column(
    "calendar_year", "numeric", "year of the start, to a year and a half", unit="year", low=1995, high=2035,
    modality=TABLES.table("patients").modality,
)  # fmt: skip
BASELINE: Final = (
    "female", "age_years", "duration_years", "edss_last", "fs_visual_last", "fs_brainstem_last", "fs_pyramidal_last",
    "fs_cerebellar_last", "fs_sensory_last", "fs_bowel_bladder_last", "fs_cerebral_last",
)  # fmt: skip
IMAGING: Final = ("t2_volume_ml_last", "gd_count_last", "brain_volume_ml_last", "new_t2_1y")
POLICY: Final = ("relapses_1y", "dmt_past_count", "dmt_ever_high", "visits_per_year", "phenotype")
COLUMNS: Final = (
    *(_ROUTINE[name] for name in BASELINE),
    *(column for _, column in MEASURES.values()),
    *(_ROUTINE[name] for name in IMAGING),
    *(_ROUTINE[name] for name in POLICY),
    YEAR,
)


def values_before(past: Past, columns: Sequence[Column]) -> Values:
    """(n_episodes, n_columns) from what was known when the therapy began, itself left out; within the public ranges."""
    from tasks.episodes.inputs import episode_values
    from tasks.episodes.known import Known

    known = Known(_before_the_dose(past))
    routine = [column for column in columns if column.name in _ROUTINE]
    found = dict(zip((column.name for column in routine), episode_values(known.past, routine).T, strict=True))
    blocks = [
        found[column.name] if column.name in found else np.clip(_own(known, column.name), *column.limits) for column in columns
    ]
    return np.stack(blocks, axis=1) if blocks else np.zeros((len(past), 0))


def _before_the_dose(past: Past) -> Past:
    """The past without therapies that begin on t0: which one it is must not be an input."""
    from tasks.episodes.past import Past, numbers

    rows = past.tables["treatments"]
    earlier = numbers(rows, "start_day") < past.days[rows["patient_id"].to_numpy(dtype=np.int64)]
    return Past(past.days, {**past.tables, "treatments": rows[earlier].reset_index(drop=True)})


def _own(known: Known, name: str) -> Floats:
    from tasks.episodes.past import numbers
    from tasks.episodes.people import calendar_years

    if name == YEAR.name:
        return calendar_years(known.past.tables["patients"], known.past.days)
    rows = known.rows("visits")
    if rows is None:
        return known.nothing()
    return known.newest(known.owner(rows), known.ago(rows), numbers(rows, MEASURES[name][0]))
