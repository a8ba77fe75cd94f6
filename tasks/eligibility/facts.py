"""What criteria ask about a patient on the index day, from rows up to that day alone, except where a criterion is about follow-up.

Every fact is an array (n_patients,): numbers with NaN, texts with "", or answers 1.0, 0.0 and NaN for unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.labels.engine import label
from tasks.labels.rule import SPMS_RULE

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Tables = Mapping[str, "pd.DataFrame"]
DAYS_A_YEAR: Final = 365.25
NO_THERAPY: Final = ("none", "washout")
FRESH_EDSS_D: Final = 365  # an EDSS older than that is not known on the index day


@dataclass(frozen=True)
class Facts:
    """One site's patients, as they were on the day `day`."""

    tables: Tables = field(repr=False)
    day: int

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """Pseudonyms, in the order of every fact."""
        return tuple(str(name) for name in self.tables["patients"]["patient_id"])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.patients)}

    def number(self, name: str) -> Floats:
        """A number by its name in `NUMBERS`."""
        return NUMBERS[name](self)

    def text(self, name: str) -> NDArray[np.object_]:
        """A code by its name in `TEXTS`; "" for unknown."""
        return TEXTS[name](self)

    def event(self, name: str, within_days: int) -> Floats:
        """Whether what `EVENTS` calls `name` lies within so many days of the index day, as that entry says."""
        return EVENTS[name](self, within_days)

    def rows(self, table: str, day: str) -> pd.DataFrame:
        """Rows of a table with the number of their patient, `_at`, and their day, `_day`; of an absent table none."""
        import pandas as pd  # here: whoever reads criteria alone needs it not

        if table not in self.tables:
            return pd.DataFrame({"_at": np.zeros(0, int), "_day": np.zeros(0)})
        rows = self.tables[table]
        return rows.assign(_at=[self._places[str(name)] for name in rows["patient_id"]], _day=_numeric(rows, day))

    def column(self, name: str) -> Floats:
        """A column of numbers of the table `patients`."""
        return _numeric(self.tables["patients"], name)

    def code(self, name: str) -> NDArray[np.object_]:
        """A column of codes of the table `patients`."""
        patients = self.tables["patients"]
        cells = patients[name] if name in patients else [None] * len(patients)
        return np.array([cell if isinstance(cell, str) else "" for cell in cells], dtype=object)

    def last(self, table: str, name: str, since: float = -np.inf) -> NDArray[np.object_]:
        """Each patient's last filled cell on a day from `since` up to the index day; None where there is none."""
        found = np.full(len(self.patients), None, dtype=object)
        rows = self.rows(table, "day")
        if name not in rows:
            return found
        rows = rows[(rows["_day"] <= self.day) & (rows["_day"] >= since) & rows[name].notna()].sort_values("_day", kind="stable")
        newest = rows.drop_duplicates("_at", keep="last")
        found[newest["_at"].to_numpy(int)] = newest[name].to_numpy(object)
        return found

    def counts(self, table: str, filled: str = "") -> Floats:
        """Rows of each patient, on any day."""
        rows = self.rows(table, "day")
        if filled:
            rows = rows[rows[filled].notna()] if filled in rows else rows.head(0)
        return np.bincount(rows["_at"].to_numpy(int), minlength=len(self.patients)).astype(np.float64)

    def any_row(self, table: str, rows: pd.DataFrame) -> Floats:
        """1.0 for patients with a row among `rows` of the `table`, else 0.0; NaN for all if the hospital has no such table."""
        found = np.full(len(self.patients), 0.0 if table in self.tables else np.nan)
        found[rows["_at"].to_numpy(int)] = 1.0
        return found


def _numeric(rows: pd.DataFrame, name: str) -> Floats:
    import pandas as pd

    if name not in rows:
        return np.full(len(rows), np.nan)
    return np.asarray(pd.to_numeric(rows[name]).to_numpy(dtype=np.float64, na_value=np.nan))


def _age(facts: Facts) -> Floats:
    """The calendar is known to three years, so this is right to a year and a half."""
    middle = [float(band[:4]) + 1.5 if band else np.nan for band in facts.code("year_band")]
    return np.asarray(np.array(middle, dtype=np.float64) + facts.day / DAYS_A_YEAR - facts.column("birth_year") - 0.5)


def _duration(facts: Facts) -> Floats:
    return np.asarray((facts.day - facts.column("onset_day")) / DAYS_A_YEAR)


def _edss(facts: Facts) -> Floats:
    return np.array([np.nan if cell is None else float(cell) for cell in facts.last("visits", "edss", facts.day - FRESH_EDSS_D)])


def _follow_up(facts: Facts) -> Floats:
    """Months from the index day to the last visit."""
    last = np.full(len(facts.patients), np.nan)
    rows = facts.rows("visits", "day")
    np.fmax.at(last, rows["_at"].to_numpy(int), rows["_day"].to_numpy(float))
    return np.asarray(np.maximum(last - facts.day, 0.0) / DAYS_A_YEAR * 12)


def _edss_a_year(facts: Facts) -> Floats:
    """Scores divided by years between the first and the last, as the contract's check counts them; 0 with a single day."""
    rows = facts.rows("visits", "day")
    rows = rows[rows["edss"].notna()] if "edss" in rows else rows.head(0)
    first, last = np.full(len(facts.patients), np.nan), np.full(len(facts.patients), np.nan)
    np.fmin.at(first, rows["_at"].to_numpy(int), rows["_day"].to_numpy(float))
    np.fmax.at(last, rows["_at"].to_numpy(int), rows["_day"].to_numpy(float))
    years = (last - first) / DAYS_A_YEAR
    return np.asarray(np.divide(facts.counts("visits", "edss"), years, out=np.zeros_like(years), where=years > 0))


def _phenotype(facts: Facts) -> NDArray[np.object_]:
    seen, entry = facts.last("visits", "phenotype"), facts.code("phenotype_entry")
    return np.array([now if now is not None else before for now, before in zip(seen, entry, strict=True)], dtype=object)


def _language(facts: Facts) -> NDArray[np.object_]:
    return np.array([cell or "" for cell in facts.last("proms", "language")], dtype=object)


def _relapse(facts: Facts, within: int) -> Floats:
    """A relapse began in the days before the index day."""
    rows = facts.rows("relapses", "onset_day")
    return facts.any_row("relapses", rows[(rows["_day"] <= facts.day) & (rows["_day"] >= facts.day - within)])


def _therapy_change(facts: Facts, within: int) -> Floats:
    """A therapy began, or ended, within the days before or after the index day (a switch visit comes first, the drug later)."""
    rows = facts.rows("treatments", "start_day")
    if "drug" in rows:
        rows = rows[~rows["drug"].isin(NO_THERAPY)]
    ends = _numeric(rows, "end_day")
    near = (rows["_day"] - facts.day).abs().to_numpy(float) <= within
    return facts.any_row("treatments", rows[near | (np.abs(ends - facts.day) <= within)])


def _pregnant(facts: Facts, within: int) -> Floats:
    """Pregnant at the last visit that says so, at most so many days before the index day."""
    cells = facts.last("visits", "pregnancy", facts.day - within)
    sex = facts.code("sex")
    known = [np.nan if cell is None else float(cell == "pregnant") for cell in cells]
    return np.where(sex == "M", 0.0, np.array(known, dtype=np.float64))


def _progression(facts: Facts, within: int) -> Floats:
    """The transition to secondary progression by EDSS (Lorscheider 2016), or a visit that first records SPMS, within the days
    before the index day. Confirmation may come later."""
    from tasks.ms.histories import history_of  # here: it needs pandas

    if "visits" not in facts.tables:
        return np.full(len(facts.patients), np.nan)
    numbered = history_of(facts.tables)
    objective = label(numbered.history, SPMS_RULE).events.first_day("SPMS", len(facts.patients))
    rows = facts.rows("visits", "day")
    rows = rows[rows["phenotype"] == "SPMS"] if "phenotype" in rows else rows.head(0)
    seen = np.full(len(facts.patients), np.inf)
    np.minimum.at(seen, rows["_at"].to_numpy(int), rows["_day"].to_numpy(float))
    recent = [(facts.day - within <= day) & (day <= facts.day) for day in (objective, seen)]
    return np.where(facts.code("phenotype_entry") == "SPMS", 0.0, (recent[0] | recent[1]).astype(np.float64))


NUMBERS: Final[dict[str, Callable[[Facts], Floats]]] = {
    "age_years": _age,
    "duration_years": _duration,
    "edss": _edss,
    "edss_count": lambda facts: facts.counts("visits", "edss"),
    "edss_a_year": _edss_a_year,
    "follow_up_months": _follow_up,
    "mri_count": lambda facts: facts.counts("mri"),
}
TEXTS: Final[dict[str, Callable[[Facts], NDArray[Any]]]] = {
    "sex": lambda facts: facts.code("sex"),
    "phenotype": _phenotype,
    "criteria": lambda facts: facts.code("criteria"),
    "language": _language,
}
EVENTS: Final[dict[str, Callable[[Facts, int], Floats]]] = {
    "relapse": _relapse,
    "therapy_change": _therapy_change,
    "pregnant": _pregnant,
    "progression": _progression,
}
