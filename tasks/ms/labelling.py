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
from tasks.labels.errors import LabelError
from tasks.labels.events import Events
from tasks.labels.neda import neda3, neda4
from tasks.labels.protocol_relapses import protocol_defined
from tasks.labels.rule import KAPPOS2020_RULE, SPMS_RULE, LabelRule
from tasks.ms.crossing import without_label
from tasks.ms.histories import Numbered, history_of

SPMS: Final = "spms"
NEDA: Final = {"neda3": neda3, "neda4": neda4}
NAMED: Final[Mapping[str, LabelRule]] = {
    "default": LabelRule(), "kappos2020": KAPPOS2020_RULE, SPMS: SPMS_RULE, **{name: LabelRule() for name in NEDA},
}  # fmt: skip
PHYSICIAN: Final = "v1-physician"  # `rule_id` of a transition that a physician wrote down
BY_PHYSICIAN: Final = "SPMS, physician"  # in the counts, beside those of the rule
PROGRESSIVE: Final = ("SPMS", "PPMS")
NO_THERAPY: Final = ("none", "washout")
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Labelled:
    """`events`: the contract's table of that name. `counts`: events and patients by name, what a physician wrote down
    apart. `few_visits`: patients whose EDSS scores are too few or too rare to judge. `contradictions`: see `Numbered`. `relapses`:
    how many the examinations bear out, do not, or do not tell."""

    rule_id: str
    events: pd.DataFrame = field(repr=False)
    counts: Mapping[str, tuple[int, int]]
    patients: int
    few_visits: int
    contradictions: Mapping[str, int]
    relapses: Mapping[str, int]

    def to_dict(self) -> dict[str, object]:
        """For programs; without patients."""
        counts = {name: {"events": events, "patients": people} for name, (events, people) in self.counts.items()}
        return {
            "rule_id": self.rule_id, "events": counts, "patients": self.patients,
            "patients_with_few_visits": self.few_visits, "contradictions": dict(self.contradictions),
            "relapses": dict(self.relapses),
        }  # fmt: skip


def label_tables(tables: Tables, rule: str) -> Labelled:
    """Events of everybody in `tables` by the rule of that name in `NAMED`.

    `DataError` without visits, or without scans where the rule needs them.
    """
    if "visits" not in tables or (rule in NEDA and "mri" not in tables):
        raise DataError(
            f"the rule {rule} needs the tables visits{' and mri' if rule in NEDA else ''}: see `wardround-site data validate`"
        )
    numbered = history_of(tables)
    found = _events(numbered, tables, rule)
    columns = found.columns()
    names = np.array(numbered.patients, dtype=object)
    frame = pd.DataFrame({"patient_id": names[columns.pop("patient")], **columns})
    if rule == SPMS and len(written := physicians_spms(tables)):
        frame = pd.concat([frame, written], ignore_index=True)
    told_by = frame["event"].where(frame["rule_id"] != PHYSICIAN, BY_PHYSICIAN)
    grouped = frame.groupby(told_by)["patient_id"].agg(["size", "nunique"])
    counts = {str(name): (int(events), int(people)) for name, events, people in grouped.itertuples()}
    few, relapses = int(_few(tables).sum()), _borne_out(numbered)
    return Labelled(NAMED[rule].rule_id, frame, counts, len(names), few, numbered.contradictions, relapses)


def physicians_spms(tables: Tables) -> pd.DataFrame:
    """Each patient's first visit at which a physician wrote SPMS, after a course that was not progressive: rows of `events`.

    The objective rule is years earlier (Lorscheider 2016); both dates stand beside each other, told apart by `rule_id`.
    """
    courses = tables["visits"].loc[:, ["patient_id", "day", "phenotype", "edss"]]
    courses = courses[courses["phenotype"].notna()].sort_values(["patient_id", "day"], kind="stable")
    entry = tables["patients"].set_index("patient_id")["phenotype_entry"] if "phenotype_entry" in tables["patients"] else None
    first = courses.drop_duplicates("patient_id")
    at_entry = first["phenotype"] if entry is None else first["patient_id"].map(entry).fillna(first["phenotype"])
    begun = at_entry.where(first["day"] >= 0, first["phenotype"])  # a visit before entry says what was before it
    other = first["patient_id"][~begun.isin(PROGRESSIVE).to_numpy(bool)]
    found = courses[courses["phenotype"].eq("SPMS") & courses["patient_id"].isin(other)].drop_duplicates("patient_id")
    days = found["day"].to_numpy(dtype=np.int64)
    return pd.DataFrame(
        {
            "patient_id": found["patient_id"].to_numpy(dtype=object), "event_day": days, "event": "SPMS", "rule_id": PHYSICIAN,
            "ref_edss": np.nan, "event_edss": found["edss"].to_numpy(dtype=np.float64, na_value=np.nan),
            "confirm_day": days, "confirmed_weeks": 0,
        }
    )  # fmt: skip


def _borne_out(numbered: Numbered) -> dict[str, int]:
    told = protocol_defined(numbered.history, LabelRule())
    return {
        "reported": len(told), "examination_worse": int((told == 1.0).sum()), "examination_not_worse": int((told == 0.0).sum()),
        "not_examined": int(np.isnan(told).sum()),
    }  # fmt: skip


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
    if rule in NEDA:
        try:
            return NEDA[rule](numbered.history, _first_therapy(numbered, tables), NAMED[rule]).events
        except LabelError as error:
            raise DataError(str(error)) from error
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
