"""The state of a patient's disease and its likely course, beside a risk: from an exported result of the task `disease_states`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from consortium.canonical import decode_json
from consortium.errors import ConsortiumError
from tasks.errors import DataError, ModelFileError
from tasks.states.course import course_of, model_of
from tasks.states.records import rows_of
from tasks.states.structure import STATES

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

RESULT_FILE: Final = "result.json"
WORDS: Final = {  # what people read for states of more than one word
    "radiological": "silent MRI activity",
    "advanced_6": "advanced I",
    "advanced_7": "advanced II",
    "advanced_8": "advanced III",
}


@dataclass(frozen=True)
class Course:
    """Chances of the states on the day of the last row (`now`) and in years to come, by name of the state; sums are 1.

    `edss`: expected score now, then in each of `years`. `worse_in_a_year`: chance of a worse score by rule A; None without a score.
    """

    now: Mapping[str, float]
    years: tuple[float, ...]
    later: tuple[Mapping[str, float], ...]
    edss: tuple[float, ...]
    worse_in_a_year: float | None

    def rows(self) -> list[dict[str, object]]:
        """A line for now and for each year ahead: those of 1 in 100 and more are shown."""
        when = ["now", *(f"in {year:g} y" for year in self.years)]
        lines = zip(when, (self.now, *self.later), self.edss, strict=True)
        return [{"when": name, "states": _likely(chances), "expected EDSS": f"{score:.1f}"} for name, chances, score in lines]


def _likely(chances: Mapping[str, float]) -> str:
    order = sorted(chances, key=lambda name: -chances[name])
    return ", ".join(f"{WORDS.get(name, name)} {100 * chances[name]:.0f} %" for name in order if chances[name] >= 0.01)


def courses_of(folder: Path, tables: Mapping[str, pd.DataFrame], names: Sequence[str]) -> dict[str, Course]:
    """By pseudonym the course of those of `names` who were seen often enough, from all rows of the tables.

    Raises `ModelFileError` for a folder without such a result.
    """
    try:
        result = decode_json((folder / RESULT_FILE).read_bytes())
    except OSError as error:
        raise ModelFileError(f"cannot read {folder / RESULT_FILE}: name an exported run of disease_states") from error
    except ConsortiumError as error:
        raise ModelFileError(f"{folder / RESULT_FILE} is no result of a run: {error}") from error
    if not isinstance(result, dict):
        raise ModelFileError(f"{folder / RESULT_FILE} is no result of a run")
    model = model_of(result)
    try:
        owners, rows = rows_of(tables)
    except DataError:  # nobody was seen often enough: there is a risk, and no course
        return {}
    whose = np.asarray(owners, dtype=object)
    found = {}
    for name in sorted(set(names) & set(owners)):
        course = course_of(model, rows[whose == name])
        found[name] = Course(
            now=_named(course.now),
            years=course.years,
            later=tuple(_named(chances) for chances in course.expected),
            edss=(course.edss_now, *(float(score) for score in course.edss)),
            worse_in_a_year=course.worse_in_a_year,
        )
    return found


def _named(chances: np.ndarray) -> dict[str, float]:
    return {name: float(chance) for name, chance in zip(STATES, chances, strict=True)}
