"""Events of a hospital's accepted tables by one of the named rules: the table `events`, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.labels.engine import label
from tasks.labels.events import Events
from tasks.labels.neda import neda3
from tasks.labels.rule import KAPPOS2020_RULE, SPMS_RULE, LabelRule
from tasks.ms.crossing import without_label
from tasks.ms.histories import Numbered, history_of

NEDA3: Final = "neda3"
NAMED: Final[Mapping[str, LabelRule]] = {
    "default": LabelRule(), "kappos2020": KAPPOS2020_RULE, "spms": SPMS_RULE, NEDA3: LabelRule(),
}  # fmt: skip
NO_THERAPY: Final = ("none", "washout")
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Labelled:
    """`events`: the contract's table of that name. `counts`: events and patients by name. `few_visits`: patients whose EDSS scores
    are too few or too rare to judge. `contradictions`: see `Numbered`."""

    rule_id: str
    events: pd.DataFrame = field(repr=False)
    counts: Mapping[str, tuple[int, int]]
    patients: int
    few_visits: int
    contradictions: Mapping[str, int]

    def to_dict(self) -> dict[str, object]:
        """For programs; without patients."""
        counts = {name: {"events": events, "patients": people} for name, (events, people) in self.counts.items()}
        return {
            "rule_id": self.rule_id, "events": counts, "patients": self.patients,
            "patients_with_few_visits": self.few_visits, "contradictions": dict(self.contradictions),
        }  # fmt: skip


def label_tables(tables: Tables, rule: str) -> Labelled:
    """Events of everybody in `tables` by the rule of that name in `NAMED`.

    `DataError` without visits, or without scans where the rule needs them.
    """
    if "visits" not in tables or (rule == NEDA3 and "mri" not in tables):
        raise DataError(
            f"the rule {rule} needs the tables visits{' and mri' if rule == NEDA3 else ''}: see `wardround-site data validate`"
        )
    numbered = history_of(tables)
    found = _events(numbered, tables, rule)
    columns = found.columns()
    names = np.array(numbered.patients, dtype=object)
    frame = pd.DataFrame({"patient_id": names[columns.pop("patient")], **columns})
    grouped = frame.groupby("event")["patient_id"].agg(["size", "nunique"])
    counts = {str(name): (int(events), int(people)) for name, events, people in grouped.itertuples()}
    return Labelled(NAMED[rule].rule_id, frame, counts, len(names), int(_few(tables).sum()), numbered.contradictions)


def worsened(tables: Tables) -> dict[str, int]:
    """1 for patients with a confirmed worsening of EDSS by the default rule, 0 for others who were seen often enough to tell."""
    if "visits" not in tables:
        return {}
    numbered = history_of(tables)
    events = label(numbered.history, LabelRule()).events
    worse = ~np.isnan(events.first_day("CDP", len(numbered.patients)))
    told = worse | ~_few(tables)
    return {name: int(event) for name, event, known in zip(numbered.patients, worse, told, strict=True) if known}


def _events(numbered: Numbered, tables: Tables, rule: str) -> Events:
    if rule == NEDA3:
        return neda3(numbered.history, _first_therapy(numbered, tables), NAMED[rule]).events
    return label(numbered.history, NAMED[rule]).events


def _first_therapy(numbered: Numbered, tables: Tables) -> NDArray[np.float64]:
    """First day of each patient's first therapy, (n_patients,), NaN for those without one."""
    if "treatments" not in tables:
        return np.full(len(numbered.patients), np.nan)
    rows = tables["treatments"]
    first = rows[~rows["drug"].isin(NO_THERAPY)].groupby("patient_id")["start_day"].min().reindex(list(numbered.patients))
    return np.asarray(first.to_numpy(dtype=np.float64, na_value=np.nan))


def _few(tables: Tables) -> NDArray[np.bool_]:
    """Patients whose EDSS scores are too few or too rare, (n_patients,), by the rule of the contract's check."""
    patients = tables["patients"].reset_index(drop=True)
    few = np.zeros(len(patients), dtype=bool)
    for fault in without_label(patients, tables["visits"]):
        few[fault.positions] = True
    return few
