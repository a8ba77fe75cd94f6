"""The one door through which an input gets rows: what a hospital knew on the day of a prediction, and nothing later.

A row counts from the day it is about; of a row that counts, cells that were only learnt later are empty, as if nobody had filled
them in yet: the end of a therapy that still goes on, how a relapse went back, a death. What the contract does not date is never
given. Whoever makes inputs holds a `Past` and no table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.errors import ContractError, DataError
from tasks.ms.rules import SHORTEST_GAP_D

Tables = Mapping[str, pd.DataFrame]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.object_]
Days = Callable[[pd.DataFrame], Floats]  # of each row, the day from which something is known; NaN = never

DAYS_A_WEEK: Final = 7
IMPUTED: Final = "imputed"


@dataclass(frozen=True)
class Episodes:
    """Predictions, (n,) each: whose, and the day t0 on the patient's own clock. One patient's stand together, in order of time."""

    patients: tuple[str, ...] = field(repr=False)
    days: Ints = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.patients) != len(self.days):
            raise ContractError(f"episodes: {len(self.patients)} patients and {len(self.days)} days, there is one day for each")
        again = np.diff(self.owners) == 0
        if np.any(np.diff(self.owners) < 0) or np.any(np.diff(self.days)[again] <= 0):
            raise ContractError("episodes: one patient's must stand together, on days that ascend")

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def people(self) -> tuple[str, ...]:
        """Each patient once."""
        return tuple(dict.fromkeys(self.patients))

    @property
    def owners(self) -> Ints:
        """Place in `people` of each episode, (n,)."""
        return np.asarray(pd.Index(self.people).get_indexer(pd.Index(self.patients)), dtype=np.int64)

    def only(self, chosen: Bools) -> Episodes:
        """Those that are chosen, (n,)."""
        return Episodes(tuple(name for name, keep in zip(self.patients, chosen, strict=True) if keep), self.days[chosen])


@dataclass(frozen=True)
class Past:
    """Rows known on the day of each episode. `patient_id` in them is the number of the episode, 0 .. n - 1: no pseudonym is here.

    A row of a patient with several episodes is there once for each of those that know it.
    """

    days: Ints = field(repr=False)  # (n_episodes,) t0
    tables: Tables = field(repr=False)

    def __len__(self) -> int:
        return len(self.days)


def known(day: Floats, t0: Ints) -> Bools:
    """Whether what is known from `day` on is known on `t0`; a day that is empty never comes. The one comparison of this package."""
    return np.asarray(day <= t0, dtype=np.bool_)


def past_of(tables: Tables, episodes: Episodes, names: Sequence[str]) -> Past:
    """What was known on the days of the `episodes` in the tables `names`, of those that the hospital has.

    `patients` has exactly one row for each episode, in their order; other tables keep their order. `ContractError` for a table
    whose rows have no day; `DataError` for an episode of nobody in `patients`.
    """
    if undated := sorted(set(names) - set(ROWS)):
        raise ContractError(f"table {undated[0]} says of no row when it was known: nothing of it can be an input")
    found = {name: _known_rows(name, tables[name], episodes) for name in ("patients", *names) if name in tables}
    people = found["patients"].sort_values("patient_id", ignore_index=True)
    if people["patient_id"].tolist() != list(range(len(episodes))):
        raise DataError("table patients: episodes need exactly one row for each patient; see `wardround-site data validate`")
    return Past(episodes.days, {**found, "patients": people})


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that somebody measured: a row filled in by a rule may hold what was measured later."""
    return rows[~imputed(rows)] if "quality" in rows else rows


def numbers(rows: pd.DataFrame, name: str) -> Floats:
    """A column as numbers, (n_rows,), NaN where it is empty or not there."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    return np.asarray(pd.to_numeric(rows[name]).to_numpy(dtype=np.float64, na_value=np.nan))


def texts(rows: pd.DataFrame, name: str) -> Texts:
    """A column as texts, (n_rows,), "" where it is empty or not there."""
    if name not in rows:
        return np.full(len(rows), "", dtype=object)
    return np.asarray(rows[name].astype("string").fillna("").to_numpy(dtype=object))


def _known_rows(name: str, rows: pd.DataFrame, episodes: Episodes) -> pd.DataFrame:
    if name != "patients":  # one row says who somebody is, measured or not: there its cells are left out instead
        rows = measured(rows)
    at, episode = _of_episodes(rows, episodes)
    kept = known(ROWS[name](rows)[at], episodes.days[episode])
    found = rows.iloc[at[kept]].assign(patient_id=episode[kept]).reset_index(drop=True)
    t0 = episodes.days[episode[kept]]
    # All days first: a cell is judged by the row as it was given, not by one that has been emptied already.
    later = [(cells.columns, ~known(cells.days(found), t0)) for cells in CELLS.get(name, ())]
    for columns, unknown in later:
        for column in columns:
            if column in found:
                found[column] = found[column].mask(unknown)
    return found


def _of_episodes(rows: pd.DataFrame, episodes: Episodes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Position of a row, and episode of its patient, for every such pair."""
    owner = np.asarray(pd.Index(episodes.people).get_indexer(pd.Index(rows["patient_id"].astype(str))), dtype=np.intp)
    counts = np.bincount(episodes.owners, minlength=len(episodes.people))
    first = np.cumsum(counts) - counts
    at = np.flatnonzero(owner >= 0)
    times = counts[owner[at]]
    within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return np.repeat(at, times), np.repeat(first[owner[at]], times) + within


def imputed(rows: pd.DataFrame) -> Bools:
    """Which rows were filled in by a rule, (n_rows,)."""
    if "quality" not in rows:
        return np.zeros(len(rows), dtype=np.bool_)
    return np.asarray((rows["quality"] == IMPUTED).fillna(value=False).to_numpy(dtype=bool))


def _on(column: str) -> Days:
    return lambda rows: numbers(rows, column)


def _always(rows: pd.DataFrame) -> Floats:
    return np.full(len(rows), -np.inf)


def _never(rows: pd.DataFrame) -> Floats:
    return np.full(len(rows), np.nan)


def _end_of_week(rows: pd.DataFrame) -> Floats:
    """The last day of the week: its median is not known before."""
    return DAYS_A_WEEK * numbers(rows, "week") + (DAYS_A_WEEK - 1)


def _relapse_begun(rows: pd.DataFrame) -> Floats:
    """The latest day on which it may have begun: an onset known to the month counts when the month is over."""
    return numbers(rows, "onset_day") + np.nan_to_num(numbers(rows, "onset_precision_d"))


def _relapse_settled(rows: pd.DataFrame) -> Floats:
    """When the relapse has shown what it is: at its end, or after the days from which on a new symptom is another relapse."""
    return np.fmin(numbers(rows, "onset_day") + SHORTEST_GAP_D, numbers(rows, "end_day"))


def _about_people(column: str) -> Days:
    """As `_on`, and never where the patient's row was filled in by a rule."""
    return lambda rows: np.where(imputed(rows), np.nan, numbers(rows, column))


def _at_entry(rows: pd.DataFrame) -> Floats:
    """The index date, day 0."""
    return np.where(imputed(rows), np.nan, 0.0)


@dataclass(frozen=True)
class Cells:
    """Columns of a table that are known from another day than their row."""

    columns: tuple[str, ...]
    days: Days


# A genotype is as old as the patient, and when somebody looked is not written down: values are known always, and what else the row
# says never. That there is a row may be news of later, so no input says it (`extras.GENETICS` have no input for "missing").
ROWS: Final[Mapping[str, Days]] = {
    "patients": _always,
    "visits": _on("day"),
    "relapses": _relapse_begun,
    "treatments": _on("start_day"),
    "mri": _on("day"),
    "oct": _on("day"),
    "evoked_potentials": _on("day"),
    "biomarkers": _on("day"),
    "proms": _on("day"),
    "wearables": _end_of_week,
    "genetics": _always,
}
CELLS: Final[Mapping[str, tuple[Cells, ...]]] = {
    "patients": (
        Cells(("onset_day", "onset_topography"), _about_people("onset_day")),
        Cells(("diagnosis_day", "criteria"), _about_people("diagnosis_day")),
        Cells(("death_day",), _about_people("death_day")),
        Cells(("phenotype_entry",), _at_entry),
        Cells(
            (
                "education_years", "smoking", "height_cm", "weight_kg", "comorbid_cardio", "comorbid_psych", "comorbid_autoimmune",
                "ocb", "ancestry", "consent_scope", "source", "quality", "missing_reason",
            ),
            _never,  # as they were whenever the row was last written
        ),
    ),
    "relapses": (
        Cells(("end_day", "recovery"), _on("end_day")),
        Cells(("confirmed", "severity", "fs_affected", "steroid", "hospitalised"), _relapse_settled),
    ),
    "treatments": (
        Cells(("end_day", "reason_stop"), _on("end_day")),
        Cells(("arm",), _never),  # of a blinded trial it is told afterwards
    ),
    "oct": (Cells(("on_last_day", "on_history"), _on("on_last_day")),),
    "genetics": (
        Cells(("panel", "pc1", "pc2", "pc3", "pc4", "pc5", "dosage_file", "source", "quality", "missing_reason"), _never),
    ),
}  # fmt: skip
ALWAYS_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {"patients": ("patient_id", "sex", "birth_year", "year_band")}
