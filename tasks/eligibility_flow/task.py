"""The flow of patients through a study's criteria, summed over hospitals: one stage, one vector of ones and zeros each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks.base import Cohort, Column, Contract, Label
from tasks.disclosure import Sharpness
from tasks.eligibility.criteria import Criteria, load_criteria, shipped
from tasks.eligibility.flow import INCLUDED, state_names
from tasks.errors import ContractError, DataError
from tasks.ms.contract import CONTRACT
from tasks.sums import Choice, Floats, NamedShape, Opened, Records, report_of

if TYPE_CHECKING:
    import pandas as pd

NAME: Final = "eligibility_flow"
MODEL: Final = "flow"
MODALITY: Final = "clinical"  # the only kind of data that is looked at


class EligibilityFlow:
    """`tasks.sums.SumsTask`: where each patient ends, by every criteria file that ships with the product."""

    name, version, model_names, records = NAME, "1", (MODEL,), 1

    @cached_property
    def criteria(self) -> Mapping[str, Criteria]:
        """The files by their names, which plans use as columns."""
        return {name: load_criteria(name) for name in shipped()}

    @cached_property
    def contract(self) -> Contract:
        """One column for each study: the first rule that keeps the patient out, or that none does."""
        columns = (
            Column(name, "categorical", f"where a patient ends by {each.title}", categories=_states(each), modality=MODALITY)
            for name, each in self.criteria.items()
        )
        return Contract(NAME, self.version, tuple(columns), Label("nothing", "no outcome is described"))

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """One row for each patient; NaN where a study asks for a recorded consent and the patient has none."""
        from tasks.eligibility.admit import admit

        if "patients" not in tables or tables["patients"].empty:
            raise DataError("no patient is left in the table patients: see `wardround-site data validate`")
        looked_at = {name: rows for name, rows in tables.items() if CONTRACT.table(name).modality == MODALITY}
        patients = tuple(str(patient) for patient in tables["patients"]["patient_id"])
        values = np.full((len(patients), len(self.criteria)), np.nan)
        for at, criteria in enumerate(self.criteria.values()):
            codes = {state: float(code) for code, state in enumerate(_states(criteria))}
            ended = admit(looked_at, criteria).states
            values[:, at] = [codes.get(ended[patient], np.nan) for patient in patients]
        return Cohort(
            patients,
            values,
            np.zeros(len(patients), np.int8),
            report_of(NAME, self.version, ", ".join(sorted(looked_at)), rows=len(patients), patients=len(patients)),
        )

    def stages(self, choice: Choice) -> tuple[tuple[NamedShape, ...], ...]:
        """One stage: a count for each place where a patient can end, for each study."""
        return (tuple((name, (len(_states(self.criteria[name])),)) for name in self._chosen(choice)),)

    def bound(self, choice: Choice) -> float:
        """Each study has one 1 at most: nothing is ever clipped."""
        return math.sqrt(len(self._chosen(choice)))

    def vectors(self, choice: Choice, before: Sequence[Floats], records: Records) -> Floats:
        """A 1 where the patient ended, for each study in the plan."""
        parts = []
        for name in self._chosen(choice):
            ended = records.values[:, list(self.criteria).index(name)]
            parts.append((ended[:, None] == np.arange(len(_states(self.criteria[name])))).astype(np.float64))
        return np.concatenate(parts, axis=1)

    def result(self, choice: Choice, opened: Sequence[Opened]) -> Mapping[str, object]:
        """One row for each rule, in the order in which it is asked."""
        sharp, at, rows = Sharpness(opened[0].noise), 0, []
        for name, (length,) in self.stages(choice)[0]:
            counts = dict(zip(_states(self.criteria[name]), map(float, opened[0].total[at : at + length]), strict=True))
            says = {rule.name: rule.says for rule in self.criteria[name].rules} | {INCLUDED: "kept out by no rule"}
            rows += [
                {"criteria": name, "state": state, "patients": shown, "says": says[state]}
                for state, shown in sharp.groups(counts).items()
            ]
            at += length
        return {"title": "Flow of patients through the criteria", "notes": self._notes(sharp), "tables": {"flow": rows}}

    def _notes(self, sharp: Sharpness) -> list[str]:
        noise = f"Noise of {sharp.noise:.1f} patients (standard deviation) is in every count."
        return [
            "Patients on the training side of the split whose consent allows it; each counts at the first rule that keeps him out.",
            f"Not shown: fewer than {sharp.floor:g} patients, none, or the next smallest count, lest few be found by subtraction.",
            "A rule about another kind of data than clinical tables, such as the language of questionnaires, counts as not known.",
            noise if sharp.noise else "NOT PRIVATE: no noise was added.",
        ]

    def _chosen(self, choice: Choice) -> tuple[str, ...]:
        if choice.model != MODEL:
            raise ContractError(f"task {NAME} has no model {choice.model!r}; it has {MODEL}")
        if choice.options:
            raise ContractError(f"task {NAME}: option {min(choice.options)!r} is unknown; it has none")
        for name in choice.columns:
            self.contract.column(name)
        return tuple(name for name in self.criteria if name in choice.columns)


def _states(criteria: Criteria) -> tuple[str, ...]:
    return state_names([rule.name for rule in criteria.rules])


TASK: Final = EligibilityFlow()
