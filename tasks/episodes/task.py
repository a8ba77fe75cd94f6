"""A task on episodes: name the contract and what became of an episode, and everything else is here.

Inputs see nothing later than their day; labels come from `outcome`. The two meet in `cohort_of` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tasks import leaks
from tasks.base import Cohort, Column, Contract, Values
from tasks.episodes.extras import tables_for
from tasks.episodes.routine import TABLES
from tasks.errors import DataError
from tasks.metrics import Scale
from tasks.report import ColumnSummary, DataReport
from tasks.tabular import TabularTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from tasks.episodes.outcomes import Outcome
    from tasks.episodes.past import Episodes, Past


@dataclass(frozen=True)
class EpisodeTask(TabularTask, ABC):
    """`tasks.base.Task` and `tasks.cohorts.ReadsTables`. Inputs, models, loss and figures are those of every task on one table,
    unless a task says otherwise."""

    tables: ClassVar[tuple[str, ...]] = TABLES  # that inputs are made of, with those that columns of `extras` need
    most: ClassVar[int] = 4  # episodes of a patient
    population: ClassVar[str] = (
        "Adults with MS or CIS whom their hospital follows: EDSS on two days of the last three years, on one of the last 90 days."
    )
    scale: ClassVar[Scale] = "root_odds"  # most events are rare
    rule: ClassVar[str] = ""  # by which labels are made, for the report
    nobody: ClassVar[str] = "no patient has an episode with a label: see `wardround-site data profile`"

    @property
    def records(self) -> int:
        """Episodes of a patient, at most."""
        return self.most

    @abstractmethod
    def outcome(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> Outcome:
        """What became of each episode."""

    def episodes(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """The days of prediction, chosen by what was known on them."""
        from tasks.episodes.index import index_visits  # here and below: they need pandas, plans do not

        found = index_visits(tables, self.records)
        return found.only(self.served(tables, found))

    def present(self, tables: Mapping[str, pd.DataFrame]) -> Episodes:
        """The last day of prediction of everybody whom the task serves then, whatever becomes of them."""
        from tasks.episodes.index import latest_visits

        found = latest_visits(tables)
        return found.only(self.served(tables, found))

    def served(self, tables: Mapping[str, pd.DataFrame], episodes: Episodes) -> NDArray[np.bool_]:
        """Which episodes the task is about, (n_episodes,), by what was known on their day: all, unless a task says otherwise."""
        return np.ones(len(episodes), dtype=np.bool_)

    def inputs(self, past: Past, columns: Sequence[Column]) -> Values:
        """(n_episodes, n_columns) from what was known."""
        from tasks.episodes.inputs import episode_values

        return episode_values(past, columns)

    def cohort_of(self, tables: Mapping[str, pd.DataFrame]) -> Cohort:
        """Episodes that have a label, a patient's side by side in the order of time.

        `DataError` if no episode is left, or if an input alone tells the label: then the tables hold the future.
        """
        from tasks.episodes.past import past_of
        from tasks.episodes.people import calendar_years

        found = self.episodes(tables)
        outcome = self.outcome(tables, found)
        episodes = found.only(outcome.known)
        if not len(episodes):
            raise DataError(self.nobody)
        past = past_of(tables, episodes, self.contract_tables)
        values = self.inputs(past, self.contract.columns)
        labels, events = self._kept(outcome)
        first = np.unique(episodes.owners, return_index=True)[1]
        check = refuse_leaks(self.contract, values[first], events[first])
        withheld = tuple((f"{count} episodes", reason) for reason, count in outcome.left_out.items() if count)
        report = replace(self._report((len(tables["patients"]), len(first)), values, events), withheld=withheld, leak_check=check)
        return Cohort(episodes.patients, values, labels, report, years=calendar_years(past.tables["patients"], past.days))

    @property
    def contract_tables(self) -> tuple[str, ...]:
        """The tables of the data contract that inputs are made of."""
        return tuple(dict.fromkeys((*self.tables, *tables_for(self.contract.columns))))

    def _kept(self, outcome: Outcome) -> tuple[NDArray[Any], NDArray[np.int8]]:
        labels = outcome.labels[outcome.known]
        events = outcome.happened[outcome.known].astype(np.int8)
        return (events if outcome.events is None else labels.astype(np.float32)), events

    def _report(self, people: tuple[int, int], values: Values, events: NDArray[np.int8]) -> DataReport:
        """`people`: patients in the tables, patients with an episode."""
        present = np.sum(~np.isnan(values), axis=0)
        label = self.contract.label.name + (f" by {self.rule}" if self.rule else "")
        return DataReport(
            task=self.name, version=self.version, table=", ".join(self.contract_tables), rows_read=people[0], patients=people[1],
            label=label, label_counts=(int(np.sum(events == 0)), int(np.sum(events == 1))),
            columns=tuple(
                ColumnSummary(column.name, "the tables" if count else "", int(count), len(values) - int(count))
                for column, count in zip(self.contract.columns, present, strict=True)
            ),
            findings=(), not_read=(), withheld=(), suspects=(), leak_check="",
        )  # fmt: skip


def refuse_leaks(contract: Contract, values: Values, events: NDArray[np.int8]) -> str:
    """What the check of one row a patient could do, for the report. `DataError` for an input that alone tells the label."""
    for column, numbers in zip(contract.columns, values.T, strict=True):
        cells: list[leaks.Cell] = [None if np.isnan(number) else float(number) for number in numbers]
        if reason := leaks.gives_away(cells, events):
            raise DataError(
                f"the input {column.name} gives the answer away: {reason}. Rows of the past were probably written after the "
                "outcome was known: correct them, or take the table they are in out of the folder"
            )
    if leaks.testable(events):
        return f"no input alone separates the label of the first episodes (limit: Youden's J {leaks.J_LIMIT})"
    return f"not possible: it needs {leaks.MIN_PER_CLASS} patients with and without the event"
