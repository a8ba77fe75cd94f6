"""OMOP CDM v5.4 tables become the core tables of the contract; every row is used or left out for a stated reason.

What stands for what: FHIR_OMOP.md and crosswalk.csv. Tables are read row by row; what is kept of a row is its meaning alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks.importing import omop_values
from tasks.importing.assembling import assemble, check_recorded
from tasks.importing.base import Imported
from tasks.importing.bookkeeping import Book, Place
from tasks.importing.courses import ATC, Exposure, Reviews, add_courses, identify, last_days
from tasks.importing.crosswalk import Coding, Crosswalk, read_crosswalk
from tasks.importing.dating import CalendarDay, read_date
from tasks.importing.drafts import Draft, Drafts, Fact, Value, day_after
from tasks.importing.errors import ImportRefused
from tasks.importing.omop_tables import Cells, read_rows
from tasks.importing.values import end_day
from tasks.ms.contract import CONTRACT

RXNORM: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
YEAR: Final = re.compile(r"\d{4}", re.ASCII)


def read_omop(
    folder: Path, key: bytes, *, keep_ids: bool = False, crosswalk: Path | None = None, recorded: str = "rwd"
) -> Imported:
    """The CDM tables in `folder` (TABLE.csv or TABLE.parquet) as tables of the contract.

    `key`: the site's secret for pseudonyms, at least 16 bytes; `keep_ids`: the tables hold pseudonyms already.
    `crosswalk`: the hospital's own codes, over those of the package. `recorded`: how the rows were recorded, if they do not
    say so. `ImportRefused`: no such tables, truncated, or a wrong crosswalk.
    """
    return read_with_book(folder, key, keep_ids=keep_ids, crosswalk=crosswalk, recorded=recorded)[0]


def read_with_book(
    folder: Path, key: bytes, *, keep_ids: bool = False, crosswalk: Path | None = None, recorded: str = "rwd"
) -> tuple[Imported, Book]:
    """As `read_omop`, with what became of each row."""
    check_recorded(recorded)
    if not folder.is_dir():
        raise ImportRefused("there is no such folder: name the folder that holds person.csv and the other tables")
    reading = _Reading(folder, read_crosswalk(crosswalk))
    reading.run()
    tables = assemble(reading.drafts, key, keep_ids=keep_ids, recorded=recorded)
    book = reading.book
    return Imported(tables, book.problems(), reading.reviews.listed(), dict(book.read)), book


class _Reading:
    """One import: from CDM rows to rows and facts of the contract."""

    def __init__(self, folder: Path, words: Crosswalk) -> None:
        self._folder, self._words = folder, words
        self.book = Book()
        self.drafts = Drafts(self.book)
        self.reviews = Reviews("drug_source_value")
        self._transplants: list[Exposure] = []

    def run(self) -> None:
        """Persons first, then rows, then what belongs to rows."""
        self._people()
        self._visits()
        self._conditions()
        self._procedures()
        facts = [*self._facts("measurement"), *self._facts("observation")]
        exposures = list(self._exposures())
        add_courses(exposures, self.drafts, last_days(self.drafts, ((fact.person, fact.day) for fact in facts)))
        self.drafts.join(facts)
        self._deaths()
        for table, place in self.drafts.unused():
            self.book.leave(place, "no_visit", table)

    def _rows(self, table: str, *, needed: bool = False) -> Iterator[tuple[Place, Cells]]:
        rows = read_rows(self._folder, table)
        if rows is None:
            if needed:
                raise ImportRefused(f"the folder has no {table}.csv or {table}.parquet: every other table belongs to it")
            self.book.absent(table)
            return
        for number, cells in rows:
            place = Place(table, number)
            self.book.open(place, table)
            yield place, cells

    def _known_rows(self, table: str) -> Iterator[tuple[Place, Cells]]:
        """Rows of persons that are in the export."""
        for place, cells in self._rows(table):
            if cells["person_id"] in self.drafts.people:
                yield place, cells
            else:
                self.book.leave(place, "unknown_patient")

    def _people(self) -> None:
        found: list[tuple[Place, Cells]] = []
        seen: dict[str, Cells] = {}
        for place, cells in self._rows("person", needed=True):
            if seen.get(cells["person_id"]) == cells:
                self.book.leave(place, "repeated")
            else:
                seen[cells["person_id"]] = cells
                found.append((place, cells))
        numbers = [cells["person_source_value"] or cells["person_id"] for _, cells in found]
        times, ids = Counter(numbers), Counter(cells["person_id"] for _, cells in found)
        for (place, cells), number in zip(found, numbers, strict=True):
            person = cells["person_id"]
            if not person:
                self.book.leave(place, "no_patient_number")
            elif times[number] > 1 or ids[person] > 1:
                self.book.leave(place, "two_patients_one_number")
            else:
                draft = self.drafts.add_person(person, number, place)
                gender: Coding = (("concept", cells["gender_concept_id"]), ("source", cells["gender_source_value"]))
                draft.put("sex", self._words.answer("patients", "sex", gender), place)
                if YEAR.fullmatch(cells["year_of_birth"]):
                    draft.put("birth_year", int(cells["year_of_birth"]), place)
                else:
                    self.book.note(place, "bad_date", "patients", "birth_year")

    def _visits(self) -> None:
        for place, cells in self._known_rows("visit_occurrence"):
            person, number, day = cells["person_id"], cells["visit_occurrence_id"], read_date(cells["visit_start_date"])
            codes = omop_values.codes(cells["visit_concept_id"], cells["visit_source_value"])
            visit_type = self._words.answer("visits", "visit_type", codes)
            self.drafts.was_seen(person, day)
            draft = self.drafts.add_row(Draft("visits", person, number, number, [place], day, latent=not visit_type))
            draft.put("visit_type", visit_type, place)

    def _conditions(self) -> None:
        for place, cells in self._known_rows("condition_occurrence"):
            person, day = cells["person_id"], read_date(cells["condition_start_date"])
            codes = omop_values.codes(cells["condition_concept_id"], cells["condition_source_value"])
            item, rule = omop_values.item(codes, self._words)
            if item is not None and (item.table, item.column) == ("relapses", "onset_day"):
                number = cells["condition_occurrence_id"]
                draft = self.drafts.add_event("relapses", person, number, day, place)
                draft.put("end_day", end_day(cells["condition_end_date"]), place)
            elif item is not None and (item.table, item.column) == ("patients", "diagnosis_day"):
                if day is None:
                    self.book.leave(place, "no_date", "patients", "diagnosis_day")
                self.drafts.people[person].put("diagnosis_day", day, place)
            elif (said := self._words.presence(codes)) is not None:
                self.drafts.people[person].put(said[1], int(said[2]), place)
            else:
                self.book.leave(place, rule or "code_not_in_crosswalk")

    def _procedures(self) -> None:
        """Scans; procedures that are therapies, such as a transplantation, are exposures."""
        for place, cells in self._known_rows("procedure_occurrence"):
            person, number, day = cells["person_id"], cells["procedure_occurrence_id"], read_date(cells["procedure_date"])
            codes = omop_values.codes(cells["procedure_concept_id"], cells["procedure_source_value"])
            item, rule = omop_values.item(codes, self._words)
            drug = self._words.answer("treatments", "drug", codes)
            if item is not None and (item.table, item.column) == ("mri", "scan_id"):
                self.drafts.add_row(Draft("mri", person, number, number, [place], day))
            elif drug and day is not None:
                end = day_after(end_day(cells["procedure_end_date"]))
                self._transplants.append(Exposure(person, drug, day, end, False, f"procedure {number}", place, ()))
            else:
                self.book.leave(place, ("no_date" if drug else rule) or "code_not_in_crosswalk")

    def _exposures(self) -> Iterator[Exposure]:
        """Drugs of the core. `verbatim_end_date`, if the table uses it anywhere, says whether a therapy has ended."""
        found = [(place, cells, each) for place, cells in self._known_rows("drug_exposure") if (each := self._drug(place, cells))]
        verbatim = any(cells["verbatim_end_date"] for _, cells, _ in found)
        yield from self._transplants
        for place, cells, (drug, atc) in found:
            start = read_date(cells["drug_exposure_start_date"])
            if start is None:
                self.book.leave(place, "no_date", "treatments", "start_day")
                continue
            yield self._exposure(place, cells, drug, atc, start, verbatim=verbatim)

    def _exposure(self, place: Place, cells: Cells, drug: str, atc: str, start: CalendarDay, *, verbatim: bool) -> Exposure:
        last = end_day(cells["verbatim_end_date" if verbatim else "drug_exposure_end_date"])
        values: list[tuple[str, Value]] = [("atc", atc)] if atc else []
        if stop := cells["stop_reason"]:
            if reason := self._words.answer("treatments", "reason_stop", (("source", stop),)):
                values.append(("reason_stop", reason))
            else:
                self.book.note(place, "answer_not_in_crosswalk", "treatments", "reason_stop")
        single = last is not None and last.day == start.day
        number = cells["drug_exposure_id"]
        return Exposure(cells["person_id"], drug, start, day_after(last), single, number, place, tuple(values))

    def _drug(self, place: Place, cells: Cells) -> tuple[str, str] | None:
        written, concept = cells["drug_source_value"], cells["drug_concept_id"]
        codes = [*omop_values.codes(concept, written), *omop_values.codes(cells["drug_source_concept_id"], "")]
        if re.fullmatch(CONTRACT.table("treatments").column("atc").text_pattern, written):
            codes.append((ATC, written))
        if concept not in ("", "0"):
            codes.append((RXNORM, concept))
        drug, atc, rule = identify(tuple(codes), self._words)
        if rule:
            if rule == "drug_without_code":
                self.reviews.add("drug_exposure", written)
            self.book.leave(place, rule, "treatments", "drug")
            return None
        return drug, atc

    def _facts(self, table: str) -> Iterator[Fact]:
        for place, cells in self._known_rows(table):
            codes = omop_values.codes(cells[f"{table}_concept_id"], cells[f"{table}_source_value"])
            item, rule = omop_values.item(codes, self._words)
            if item is None:
                self.book.leave(place, rule or "code_not_in_crosswalk")
                continue
            value, rule = omop_values.value(cells, item, self._words)
            day = read_date(cells[f"{table}_date"])
            if value is None and (item.table, item.column) == ("patients", "onset_day"):
                value = day
            if value is None:
                self.book.leave(place, rule, item.table, item.column)
                continue
            values = [(item.column, value)]
            if item.column == "edss" and cells["provider_id"]:
                values.append(("rater_id", cells["provider_id"]))
            event = cells[f"{table}_event_id"]
            link = "" if item.table == "patients" else cells["visit_occurrence_id"] if item.table == "visits" else event
            yield Fact(item.table, cells["person_id"], link, day, tuple(values), place, link)

    def _deaths(self) -> None:
        if read_rows(self._folder, "death") is None:
            return
        for place, cells in self._known_rows("death"):
            if (day := read_date(cells["death_date"])) is None:
                self.book.leave(place, "dead_without_date", "patients", "death_day")
            self.drafts.people[cells["person_id"]].put("death_day", day, place)
