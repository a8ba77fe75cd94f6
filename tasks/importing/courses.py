"""Exposures to drugs become the contract's treatments: from start to stop, whether they are stated, dispensed or infused.

Exposures of one drug are one course if the next begins within the drug's longest usual gap, unless a reason to stop is stated in
between. Statements of one drug whose periods overlap are one treatment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from statistics import median, multimode
from typing import Final

from tasks.importing.base import Review
from tasks.importing.bookkeeping import Place
from tasks.importing.crosswalk import Coding, Crosswalk
from tasks.importing.dating import CalendarDay
from tasks.importing.drafts import Draft, Drafts, Value
from tasks.importing.drugs import suggestion
from tasks.ms.contract import CONTRACT

ATC: Final = "http://www.whocc.no/atc"
# Systems in which a core drug has a code that the crosswalk can list: what it does not list is another drug.
STANDARD: Final = frozenset({ATC, "http://www.nlm.nih.gov/research/umls/rxnorm", "http://snomed.info/sct"})
# Twice the longest interval in use, so that a late dose does not end a course: days
USUAL_GAP_D: Final = 90
GAP_D: Final[Mapping[str, int]] = {
    "ocrelizumab": 400, "rituximab": 400, "ublituximab": 400, "alemtuzumab": 800, "cladribine": 800, "mitoxantrone": 200,
}  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class Exposure:
    """One record of a drug. `end`: first day without it, None = open or not stated; `single`: one dose, whose end says nothing."""

    person: str
    drug: str
    start: CalendarDay
    end: CalendarDay | None
    single: bool
    link: str
    place: Place
    values: tuple[tuple[str, Value], ...]

    @property
    def stopped(self) -> bool:
        """Whether a reason to stop is stated."""
        return any(column == "reason_stop" for column, _ in self.values)


def identify(codes: Coding, words: Crosswalk) -> tuple[str, str, str]:
    """(drug, ATC code as written, rule why there is no drug) of a drug's codes."""
    known = words.answers.get(("treatments", "drug"), {})
    found = {known[code] for code in codes if code in known}
    if len(found) > 1:
        return "", "", "two_drugs"
    if not found:
        return "", "", "not_a_core_drug" if any(system in STANDARD for system, _ in codes) else "drug_without_code"
    pattern = CONTRACT.table("treatments").column("atc").text_pattern
    atc = next((code for system, code in codes if system == ATC and _fits(code, pattern)), "")
    return found.pop(), atc, ""


def _fits(code: str, pattern: str) -> bool:
    return re.fullmatch(pattern, code) is not None


def add_stated(exposures: Iterable[Exposure], drafts: Drafts) -> None:
    """One treatment for each stated period; statements of one drug whose periods overlap state one therapy again."""
    by_drug: dict[tuple[str, str], list[Exposure]] = {}
    for each in exposures:
        by_drug.setdefault((each.person, each.drug), []).append(each)
    for stated in by_drug.values():
        chain: list[Exposure] = []
        for each in sorted(stated, key=lambda each: (each.start.day, each.place)):
            if chain and not _goes_on(chain, each.start.day):
                _add_chain(chain, drafts)
                chain = []
            chain.append(each)
        _add_chain(chain, drafts)


def _goes_on(chain: Sequence[Exposure], day: date) -> bool:
    """Whether the therapy is still taken on `day`, by what was stated of it last; a stated end outweighs an open one."""
    ends = [each.end.day for each in chain if each.start == chain[-1].start and each.end is not None]
    return day == chain[-1].start.day or not ends or day < max(ends)


def _add_chain(chain: Sequence[Exposure], drafts: Drafts) -> None:
    """The therapy begins as first stated and ends, if it does, as last stated; values of one day that differ are a problem."""
    first = chain[0]
    draft = drafts.add_row(Draft("treatments", first.person, first.link, "", [each.place for each in chain], first.start))
    draft.put("drug", first.drug, first.place)
    for each in chain:
        drafts.alias("treatments", each.link, draft)
        if each.start == chain[-1].start:
            draft.put("end_day", each.end, each.place)
    for column in dict.fromkeys(column for each in chain for column, _ in each.values):
        stating = [each for each in chain if any(name == column for name, _ in each.values)]
        decisive = stating[0 if column == "reason_start" else -1].start
        for each in stating:
            if each.start == decisive:
                draft.put(column, dict(each.values)[column], each.place)


def add_courses(
    exposures: Sequence[Exposure], drafts: Drafts, last_seen: Mapping[str, date], *, stated: Sequence[Exposure] = ()
) -> None:
    """Courses of exposures; a dose within a stated treatment of the same drug belongs to that, and says nothing more."""
    periods: dict[tuple[str, str], list[Exposure]] = {}
    for each in stated:
        periods.setdefault((each.person, each.drug), []).append(each)
    by_drug: dict[tuple[str, str], list[Exposure]] = {}
    for each in exposures:
        if any(_holds(period, each.start.day) for period in periods.get((each.person, each.drug), ())):
            drafts.book.leave(each.place, "part_of_stated_treatment", "treatments")
        else:
            by_drug.setdefault((each.person, each.drug), []).append(each)
    starts: dict[str, list[date]] = {}
    for each in (*exposures, *stated):
        starts.setdefault(each.person, []).append(each.start.day)
    for (person, _), doses in by_drug.items():
        for course in _courses(sorted(doses, key=lambda dose: (dose.start.day, dose.place))):
            _add_course(course, drafts, last_seen.get(person), starts[person])


def _holds(period: Exposure, day: date) -> bool:
    return period.start.day <= day and (period.end is None or day <= period.end.day)


def _courses(doses: Sequence[Exposure]) -> list[list[Exposure]]:
    courses: list[list[Exposure]] = []
    for dose in doses:
        before = courses[-1][-1] if courses else None
        if before is not None and not before.stopped:
            going_on = before.end is None and not before.single
            end = before.start.day if before.end is None else max(before.start.day, before.end.day)
            if going_on or (dose.start.day - end).days <= GAP_D.get(dose.drug, USUAL_GAP_D):
                courses[-1].append(dose)
                continue
        courses.append([dose])
    return courses


def _add_course(course: Sequence[Exposure], drafts: Drafts, last_seen: date | None, starts: Sequence[date]) -> None:
    first, last = course[0], course[-1]
    draft = drafts.add_row(Draft("treatments", first.person, first.link, "", [each.place for each in course], first.start))
    for each in course:
        drafts.alias("treatments", each.link, draft)
    days = sorted({each.start.day for each in course})
    gaps = [(later - earlier).days for earlier, later in pairwise(days)]
    values = {column: value for each in course for column, value in each.values if column not in ("dose_mg", "interval_d")}
    for column in ("dose_mg", "interval_d"):
        if stated := [value for each in course for name, value in each.values if name == column]:
            values[column] = multimode(stated)[0]
    if gaps and "interval_d" not in values:
        values["interval_d"] = float(median(gaps))
    end = _end(last, gaps, last_seen, starts) if last.single else last.end
    for name, value in (("drug", first.drug), ("end_day", end), *values.items()):
        draft.put(name, value, last.place)


def _end(last: Exposure, gaps: Sequence[int], last_seen: date | None, starts: Sequence[date]) -> CalendarDay | None:
    """Nobody says when infusions end: open if the patient was last seen within the gap, else one interval after the last."""
    day = last.start.day
    if not last.stopped and last_seen is not None and (last_seen - day).days <= GAP_D.get(last.drug, USUAL_GAP_D):
        return None
    end = day + timedelta(days=round(median(gaps)) if gaps else 1)
    later = [start for start in starts if start > day]
    return CalendarDay(min([end, *later]), last.start.precision_d)


def last_days(drafts: Drafts, facts: Iterable[tuple[str, CalendarDay | None]]) -> dict[str, date]:
    """By patient, the last day of anything in the export."""
    last: dict[str, date] = {}
    seen = [(person, day) for person, days in drafts.seen.items() for day in days]
    for person, day in (*seen, *((row.person, row.day) for row in drafts.rows), *facts):
        if day is not None and day.day > last.get(person, date.min):
            last[person] = day.day
    return last


class Reviews:
    """Texts of drugs that a person must decide about, counted."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._times: dict[tuple[str, str], int] = {}

    def add(self, source: str, text: str) -> None:
        """Remember a text; an empty one is nothing to decide about."""
        if text.strip():
            self._times[source, text.strip()] = self._times.get((source, text.strip()), 0) + 1

    def listed(self) -> tuple[Review, ...]:
        """Each text once."""
        return tuple(
            Review("drug", source, self._column, text, times, suggestion(text))
            for (source, text), times in sorted(self._times.items())
        )
