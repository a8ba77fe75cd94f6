"""Rows of the contract in the making: what a reader found, still with calendar dates, brought together by visit, scan and event.

FHIR and OMOP readers both end here. `tasks.importing.assembling` turns drafts into tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from tasks.importing.bookkeeping import Book, Place
from tasks.importing.dating import CalendarDay

KEY_DAY: Final[Mapping[str, str]] = {"visits": "day", "relapses": "onset_day", "treatments": "start_day", "mri": "day"}
# A certified examination outranks one of routine care, and a telephone call; a method that is not stated stands in between.
EDSS_METHODS: Final = ("neurostatus", "escore", "clinic", "", "remote", "patient")

Value = str | int | float | CalendarDay


@dataclass(frozen=True, slots=True, repr=False)  # none of these shows what it holds
class Cell:
    """One value that a record gives for a column."""

    value: Value
    place: Place
    day: CalendarDay | None = None  # when it was found, where that decides between values


@dataclass(slots=True, repr=False)
class Draft:
    """One row: `link` is the source's own name of the visit, scan, relapse or treatment, "" if its day alone holds it together."""

    table: str
    person: str
    link: str
    name: str  # what its id is made from, "" if it has no name
    places: list[Place]
    day: CalendarDay | None
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    latent: bool = False  # a row only if a fact joins it

    def put(self, column: str, value: Value | None, place: Place, day: CalendarDay | None = None) -> None:
        """Add a value, unless there is none."""
        if value is not None and value != "":
            self.cells.setdefault(column, []).append(Cell(value, place, day))


@dataclass(frozen=True, slots=True, repr=False)
class Fact:
    """Values that one record gives for one row of `table`, which `link` or the day names."""

    table: str
    person: str
    link: str
    day: CalendarDay | None
    values: tuple[tuple[str, Value], ...]
    place: Place
    name: str = ""  # of a row that has to be made for it


@dataclass
class Drafts:
    """All rows and facts of one import, and when its patients were seen."""

    book: Book
    people: dict[str, Draft] = field(default_factory=dict, repr=False)
    seen: dict[str, list[CalendarDay]] = field(default_factory=dict, repr=False)  # by patient: every encounter
    rows: list[Draft] = field(default_factory=list, repr=False)
    _linked: dict[tuple[str, str], Draft] = field(default_factory=dict, repr=False)
    _by_day: dict[tuple[str, str, CalendarDay], list[Draft]] = field(default_factory=dict, repr=False)
    _events: dict[tuple[str, str, CalendarDay], Draft] = field(default_factory=dict, repr=False)
    _extra: dict[tuple[str, str, CalendarDay | None], Draft] = field(default_factory=dict, repr=False)

    def add_person(self, person: str, number: str, place: Place) -> Draft:
        """A patient, whose pseudonym will be made from `number`."""
        draft = Draft("patients", person, person, number, [place], None)
        self.people[person] = draft
        return draft

    def add_row(self, draft: Draft) -> Draft:
        """A row that a record of its own stands for."""
        self.rows.append(draft)
        if draft.link:
            self._linked[draft.table, draft.link] = draft
        if draft.day is not None:
            self._by_day.setdefault((draft.table, draft.person, draft.day), []).append(draft)
        return draft

    def alias(self, table: str, link: str, draft: Draft) -> None:
        """Let another record's name lead to the same row."""
        self._linked[table, link] = draft

    def add_event(self, table: str, person: str, link: str, day: CalendarDay | None, place: Place) -> Draft:
        """The row of an event that begins on `day`: records that state the same one again share it."""
        if day is None:
            return self.add_row(Draft(table, person, link, "", [place], None))
        known = self._events.get((table, person, day))
        if known is None:
            known = self._events[table, person, day] = self.add_row(Draft(table, person, link, "", [], day))
        known.places.append(place)
        self.alias(table, link, known)
        return known

    def was_seen(self, person: str, day: CalendarDay | None) -> None:
        """Remember an encounter, even one that is no visit of the contract: the first may be the index date."""
        if day is not None:
            self.seen.setdefault(person, []).append(day)

    def join(self, facts: Iterable[Fact]) -> None:
        """Bring facts to their rows, after all rows are known: first those that name a row, which may make one for a day."""
        for fact in sorted(facts, key=lambda fact: not fact.link):
            if fact.person not in self.people:
                self.book.leave(fact.place, "unknown_patient", fact.table)
                continue
            row = self._row_of(fact)
            if isinstance(row, str):
                self.book.leave(fact.place, row, fact.table)
                continue
            row.latent = False
            row.day = row.day or fact.day
            for column, value in fact.values:
                row.put(column, value, fact.place, fact.day)

    def unused(self) -> Iterator[tuple[str, Place]]:
        """Table and place of each record that could have been a row and is none."""
        used = {place for row in self.rows if not row.latent for place in row.places}
        return ((row.table, place) for row in self.rows if row.latent for place in row.places if place not in used)

    def _row_of(self, fact: Fact) -> Draft | str:
        """The row that a fact belongs to, made if need be; or the rule why there is none."""
        if fact.table == "patients":
            return self.people[fact.person]
        base = self._linked.get((fact.table, fact.link)) if fact.link else None
        if base is not None and base.person != fact.person:
            return "two_patients"
        if fact.table in ("relapses", "treatments"):
            return base if base is not None else "no_row_to_belong_to"
        if base is not None and (fact.table == "mri" or _same_day(base.day, fact.day)):
            return base
        day = fact.day or (base.day if base is not None else None)
        if day is None:
            return "no_date"
        return self._by_link(fact, base, day) if fact.link else self._on_day(fact, day)

    def _by_link(self, fact: Fact, base: Draft | None, day: CalendarDay) -> Draft:
        """A row of its own for each day of a visit of several days; one row for a scan that was not exported itself."""
        key = (fact.table, fact.link, day if fact.table == "visits" else None)
        if key not in self._extra:
            made = Draft(fact.table, fact.person, "", base.name if base is not None else fact.name, [], day)
            if base is not None:
                made.places, made.cells = list(base.places), {column: list(cells) for column, cells in base.cells.items()}
                made.cells = {column: cells for column, cells in made.cells.items() if column == "visit_type"}
            self._extra[key] = self.add_row(made)
        return self._extra[key]

    def _on_day(self, fact: Fact, day: CalendarDay) -> Draft:
        """The patient's visit or scan of that day: one that counts already, else one that does not yet, else a new one."""
        there = self._by_day.get((fact.table, fact.person, day), [])
        if there:
            return min(there, key=lambda row: (row.latent, row.name))
        return self.add_row(Draft(fact.table, fact.person, "", "", [], day))


def _same_day(base: CalendarDay | None, day: CalendarDay | None) -> bool:
    """Whether a fact's day can be that of its visit: none, the same, or a month that holds it."""
    if base is None:
        return day is None
    return day is None or base.day == day.day or abs((base.day - day.day).days) <= day.precision_d


def day_after(day: CalendarDay | None) -> CalendarDay | None:
    """The first day after an inclusive last day: periods of FHIR and OMOP hold their ends, the contract's therapies do not."""
    return None if day is None else replace(day, day=day.day + timedelta(days=1))


def edss_rank(method: Value | None) -> int:
    """How good the method of an EDSS is; 0 = best."""
    return EDSS_METHODS.index(method) if isinstance(method, str) and method in EDSS_METHODS else EDSS_METHODS.index("")
