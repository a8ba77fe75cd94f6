"""What became of each episode: of this task the only module that reads what comes after the day of prediction, for labels alone."""

from __future__ import annotations

from tasks.cdp_time.task import GRID, RULE
from tasks.episodes.outcomes import Outcome
from tasks.episodes.past import Episodes, Tables
from tasks.hazards.outcomes import first_worsening


def outcome_of(tables: Tables, episodes: Episodes) -> Outcome:
    """When the first worsening began that `RULE` confirms; the engine is started anew on each day of prediction."""
    return first_worsening(tables, episodes, RULE, ("CDP",)).outcome(GRID)
