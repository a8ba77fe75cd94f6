"""Which days count, by what was known on them, and what became of them: the only reading of what comes later, for labels alone."""

from __future__ import annotations

import numpy as np

from tasks.episodes.outcomes import Outcome
from tasks.episodes.past import Bools, Episodes, Tables
from tasks.episodes.routine import PHENOTYPES
from tasks.errors import DataError
from tasks.hazards.outcomes import first_worsening, known_on_the_day
from tasks.raw_pira.task import CONTRACT, EVENTS, GRID, RULE

COURSES = tuple(float(PHENOTYPES.index(name)) for name in ("CIS", "RRMS"))


def relapsing(tables: Tables, episodes: Episodes) -> Bools:
    """Days on which the course was CIS or RRMS. `DataError` where no relapses are recorded: there all worsening looks silent."""
    if "relapses" not in tables or tables["relapses"].empty:
        raise DataError("the table relapses has no rows: without them every worsening would count as silent; see `data validate`")
    course = known_on_the_day(tables, episodes, (CONTRACT.column("phenotype"),))[:, 0]
    return np.isin(course, COURSES)


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """When the first worsening began that `RULE` confirms, and of which class; the engine is started anew on each day."""
    return first_worsening(tables, episodes, RULE, EVENTS).outcome(GRID)
