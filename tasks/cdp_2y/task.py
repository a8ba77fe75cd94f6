"""The task `cdp_2y`: from a site's tables to at most four episodes a patient, their inputs and their labels.

Inputs come from `tasks.episodes` and see nothing later than their day; labels come from `outcome.py`. The two meet here alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from tasks import leaks
from tasks.base import Cohort, Contract, Label, Labels, Values
from tasks.episodes.routine import CORE, EXTRAS, TABLES
from tasks.errors import DataError
from tasks.labels.rule import LabelRule
from tasks.report import ColumnSummary, DataReport
from tasks.tabular import TabularTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

NAME: Final = "cdp_2y"
VERSION: Final = "1"
RECORDS: Final = 4
HORIZON_D: Final = 730
RULE: Final = LabelRule()

CONTRACT: Final = Contract(
    task=NAME,
    version=VERSION,
    columns=(*CORE, *EXTRAS),
    label=Label(
        "worsened_2y", f"a confirmed worsening of EDSS began within two years; reference: the day of prediction; {RULE.rule_id}"
    ),
)


class EpisodeTask(TabularTask):
    """`tasks.base.Task` and `tasks.cohorts.ReadsTables`; models and loss are those of every task on one table."""

    @property
    def records(self) -> int:
        """Episodes of a patient, at most."""
        return RECORDS

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """Episodes that have a label, a patient's side by side in the order of time.

        `DataError` if no episode is left, or if an input alone tells the label: then the tables hold the future.
        """
        from tasks.cdp_2y.outcome import outcome_of  # here: they need pandas, plans do not
        from tasks.episodes.features import routine_values
        from tasks.episodes.index import index_visits
        from tasks.episodes.past import past_of

        found = index_visits(tables, self.records)
        outcome = outcome_of(tables, found)
        episodes = found.only(outcome.known)
        if not len(episodes):
            raise DataError(
                "no patient has an episode: it needs an adult (birth_year, year_band) with EDSS on two days of three years, and 30 "
                "months of follow-up or a confirmed worsening. See `wardround-site data profile` and `wardround-site data label`"
            )
        values = routine_values(past_of(tables, episodes, TABLES), self.contract.columns)
        labels = outcome.labels[outcome.known].astype(np.int8)
        first = np.unique(episodes.owners, return_index=True)[1]
        check = refuse_leaks(self.contract, values[first], labels[first])
        withheld = tuple((f"{count} episodes", reason) for reason, count in outcome.left_out.items() if count)
        report = replace(_report((len(tables["patients"]), len(first)), values, labels), withheld=withheld, leak_check=check)
        return Cohort(episodes.patients, values, labels, report)


def refuse_leaks(contract: Contract, values: Values, labels: Labels) -> str:
    """What the check of one row a patient could do, for the report. `DataError` for an input that alone tells the label."""
    for column, numbers in zip(contract.columns, values.T, strict=True):
        cells: list[leaks.Cell] = [None if np.isnan(number) else float(number) for number in numbers]
        if reason := leaks.gives_away(cells, labels):
            raise DataError(
                f"the input {column.name} gives the answer away: {reason}. Rows of the past were probably written after the "
                "outcome was known: correct them, or take the table they are in out of the folder"
            )
    if leaks.testable(labels):
        return f"no input alone separates the label of the first episodes (limit: Youden's J {leaks.J_LIMIT})"
    return f"not possible: it needs {leaks.MIN_PER_CLASS} patients with and without the event"


def _report(people: tuple[int, int], values: Values, labels: Labels) -> DataReport:
    """`people`: patients in the tables, patients with an episode."""
    present = np.sum(~np.isnan(values), axis=0)
    return DataReport(
        task=NAME, version=VERSION, table=", ".join(TABLES), rows_read=people[0], patients=people[1],
        label=f"{CONTRACT.label.name} by {RULE.rule_id}", label_counts=(int(np.sum(labels == 0)), int(np.sum(labels == 1))),
        columns=tuple(
            ColumnSummary(column.name, "the tables" if count else "", int(count), len(values) - int(count))
            for column, count in zip(CONTRACT.columns, present, strict=True)
        ),
        findings=(), not_read=(), withheld=(), suspects=(), leak_check="",
    )  # fmt: skip


TASK: Final = EpisodeTask(CONTRACT)
