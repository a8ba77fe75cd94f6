"""One measure's scores out of tables, whoever's they are: a hospital's for days and labels, a `Past`'s for inputs."""

from __future__ import annotations

import pandas as pd

from tasks.cognition_prom.measures import Measure
from tasks.episodes.past import Tables, measured, numbers, texts


def scores_of(tables: Tables, measure: Measure) -> pd.DataFrame:
    """`patient_id`, `day`, `score` of everything that somebody measured, by patient and day, one a day.

    Two scores of one day that differ tell nothing: none counts. Without the table there are no rows.
    """
    rows = measured(tables.get(measure.table, _NOTHING))
    if measure.instrument:
        rows = rows[(texts(rows, "instrument") == measure.instrument) & (texts(rows, "item") == "total")]
    found = pd.DataFrame({"patient_id": rows["patient_id"], "day": numbers(rows, "day"), "score": numbers(rows, measure.column)})
    found = found[found["score"].between(measure.low, measure.high)].drop_duplicates()
    found = found[~found.duplicated(["patient_id", "day"], keep=False)].sort_values(["patient_id", "day"], ignore_index=True)
    return found.astype({"day": "int64"})


def visits_with(tables: Tables, measure: Measure, fresh_d: int) -> pd.DataFrame:
    """Rows of the visits whose patient had a score on their day or in the `fresh_d` days before: later scores have no say."""
    visits, scores = tables["visits"], scores_of(tables, measure)
    asked = pd.DataFrame({"patient_id": visits["patient_id"].astype(str), "day": numbers(visits, "day").astype("int64")})
    scored = scores[["day"]].assign(patient_id=scores["patient_id"].astype(str), score_day=scores["day"])
    found = pd.merge_asof(
        asked.assign(row=range(len(asked))).sort_values("day"), scored.sort_values("day"),
        on="day", by="patient_id", tolerance=fresh_d,
    )  # fmt: skip
    return visits.iloc[found.loc[found["score_day"].notna(), "row"].sort_values().to_numpy()]


_NOTHING = pd.DataFrame({"patient_id": [], "day": []})
