"""A FHIR R4 export becomes the core tables of the contract; every resource is used or left out for a stated reason.

Patients, visits with EDSS and functional systems, relapses, treatments and MRI measures. What stands for what: FHIR_OMOP.md
and crosswalk.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from tasks.importing.assembling import assemble, check_recorded
from tasks.importing.base import Imported
from tasks.importing.bookkeeping import Book
from tasks.importing.courses import Exposure, Reviews, add_courses, add_stated, identify, last_days
from tasks.importing.crosswalk import read_crosswalk
from tasks.importing.drafts import Draft, Drafts, Fact, Value
from tasks.importing.fhir_findings import DeviceBody, ObservationBody, StudyBody
from tasks.importing.fhir_people import ConsentBody, EncounterBody, Faults, HistoryBody, PersonBody, RelapseBody
from tasks.importing.fhir_source import read_entries
from tasks.importing.fhir_store import Held, Store
from tasks.importing.fhir_therapies import WITHOUT_DRUG, MedicationBody, Named, TherapyBody


def read_fhir(
    source: Path, key: bytes, *, keep_ids: bool = False, crosswalk: Path | None = None, recorded: str = "rwd"
) -> Imported:
    """The export at `source` (a bundle, or a folder of bundles or NDJSON files) as tables of the contract.

    `key`: the site's secret for pseudonyms, at least 16 bytes; `keep_ids`: the export holds pseudonyms already.
    `crosswalk`: the hospital's own codes, over those of the package. `recorded`: how the rows were recorded, if they do not
    say so. `ImportRefused`: no FHIR R4, truncated, or a wrong crosswalk.
    """
    return read_with_book(source, key, keep_ids=keep_ids, crosswalk=crosswalk, recorded=recorded)[0]


def read_with_book(
    source: Path, key: bytes, *, keep_ids: bool = False, crosswalk: Path | None = None, recorded: str = "rwd"
) -> tuple[Imported, Book]:
    """As `read_fhir`, with what became of each resource."""
    check_recorded(recorded)
    book = Book()
    store = Store(read_crosswalk(crosswalk), book)
    for entry in read_entries(source):
        store.take(entry)
    linking = _Linking(store, Drafts(book))
    linking.run()
    tables = assemble(linking.drafts, key, keep_ids=keep_ids, recorded=recorded)
    return Imported(tables, book.problems(), linking.reviews.listed(), dict(book.read)), book


class _Linking:
    """One import: from resources in short form to rows and facts."""

    def __init__(self, store: Store, drafts: Drafts) -> None:
        self._store, self._book, self.drafts = store, drafts.book, drafts
        self.reviews = Reviews("medication")
        self._panels: dict[str, ObservationBody] = {}

    def run(self) -> None:
        """Patients first, then rows, then what belongs to rows."""
        for place, rule in self._store.left_out():
            self._book.leave(place, rule)
        self._store.number_people()
        self._people()
        self._encounters()
        self._relapses_and_history()
        self._consents()
        self._studies()
        facts = list(self._facts())
        self._therapies(last_days(self.drafts, ((fact.person, fact.day) for fact in facts)))
        self.drafts.join(facts)
        self._unused()

    def _subject(self, held: Held, reference: str) -> str:
        """The patient, "" after saying that it is unknown."""
        person = self._store.patient(reference, held.key)
        if person not in self.drafts.people:
            self._book.leave(held.place, "unknown_patient")
            return ""
        return person

    def _fault(self, held: Held, faults: Faults) -> None:
        for table, column, rule in faults:
            self._book.leave(held.place, rule, table, column)

    def _people(self) -> None:
        numbers: dict[str, list[tuple[Held, PersonBody]]] = {}
        for held, body in self._store.all_of(PersonBody):
            numbers.setdefault(body.number, []).append((held, body))
        for number, same in numbers.items():
            rule = "" if number and len(same) == 1 else "two_patients_one_number" if number else "no_patient_number"
            for held, body in same:
                if rule:
                    self._book.leave(held.place, rule)
                    continue
                draft = self.drafts.add_person(held.key, number, held.place)
                self._fault(held, body.faults)
                for column, value in body.values:
                    draft.put(column, value, held.place)

    def _encounters(self) -> None:
        times = Counter((body.subject, body.day, body.name) for _, body in self._store.all_of(EncounterBody))
        for held, body in self._store.all_of(EncounterBody):
            if person := self._subject(held, body.subject):
                self.drafts.was_seen(person, body.day)
                name = body.name if times[body.subject, body.day, body.name] == 1 else ""  # a case number of several contacts
                draft = Draft("visits", person, held.key, name or held.key, [held.place], body.day, latent=not body.visit_type)
                draft.put("visit_type", body.visit_type, held.place)
                self.drafts.add_row(draft)

    def _relapses_and_history(self) -> None:
        for held, body in self._store.all_of(RelapseBody):
            if person := self._subject(held, body.subject):
                self._fault(held, body.faults)
                draft = self.drafts.add_event("relapses", person, held.key, body.onset, held.place)
                for column, value in body.values:
                    draft.put(column, value, held.place)
        for holder, said in self._store.all_of(HistoryBody):
            if person := self._subject(holder, said.subject):
                self._fault(holder, said.faults)
                for column, value in said.values:
                    self.drafts.people[person].put(column, value, holder.place)

    def _consents(self) -> None:
        """The newest consent counts, for a version that was replaced is inactive too; one without a date, if it is a withdrawal."""
        found: dict[str, list[tuple[date, bool, str, Held]]] = {}
        for held, body in self._store.all_of(ConsentBody):
            if person := self._subject(held, body.subject):
                withdrawn = body.scope == "withdrawn"
                day = body.day.day if body.day is not None else date.max if withdrawn else date.min
                found.setdefault(person, []).append((day, withdrawn, body.scope, held))
        for person, consents in found.items():
            newest = max(consents, key=lambda each: each[:2])
            for day, withdrawn, scope, held in consents:
                if (day, withdrawn) == newest[:2]:
                    self.drafts.people[person].put("consent_scope", scope, held.place)
                else:
                    self._book.leave(held.place, "superseded", "patients", "consent_scope")

    def _studies(self) -> None:
        for held, body in self._store.all_of(StudyBody):
            if person := self._subject(held, body.subject):
                self._fault(held, body.faults)
                draft = Draft("mri", person, held.key, body.name or held.key, [held.place], body.day, latent=not body.known)
                for column, value in (*body.values, *(value for name in body.devices for value in self._device(held, name))):
                    draft.put(column, value, held.place)
                self.drafts.add_row(draft)

    def _device(self, holder: Held, reference: str) -> tuple[tuple[str, Value], ...]:
        found = self._store.find(reference, holder.key) if reference else None
        if found is None or not isinstance(found.body, DeviceBody):
            return ()
        self._book.use(found.place)
        self._fault(found, found.body.faults)
        return found.body.values

    def _facts(self) -> Iterator[Fact]:
        for held, body in self._store.all_of(ObservationBody):
            for member in body.members:
                if (child := self._store.find(member, held.key)) is not None and isinstance(child.body, ObservationBody):
                    self._panels[child.key] = body
                    if child.body.measures:
                        self._book.use(held.place)
        for held, body in self._store.all_of(ObservationBody):
            if body.measures or body.faults:
                yield from self._facts_of(held, body, self._panels.get(held.key, body))
            elif self._book.fates[held.place]:
                self._book.leave(held.place, "code_not_in_crosswalk")

    def _facts_of(self, held: Held, body: ObservationBody, panel: ObservationBody) -> Iterator[Fact]:
        """An Observation's values by the row they belong to; a member inherits what its panel alone states."""
        if not (person := self._subject(held, body.subject or panel.subject)):
            return
        self._fault(held, body.faults)
        for table in dict.fromkeys(table for table, _, _ in body.measures):
            values = tuple((column, value) for name, column, value in body.measures if name == table)
            if table == "mri":
                values += self._device(held, body.device or panel.device)
            link, name = self._link(table, held, body, panel)
            yield Fact(table, person, link, body.day or panel.day, values, held.place, name)

    def _link(self, table: str, held: Held, body: ObservationBody, panel: ObservationBody) -> tuple[str, str]:
        """Key and name of the row it says it belongs to, "" if it does not say."""
        if table == "visits":
            reference = body.encounter or panel.encounter
            found = self._store.find(reference, held.key) if reference else None
            return (found.key, "") if found is not None else (reference, reference)
        wanted = {"mri": StudyBody, "relapses": RelapseBody, "treatments": TherapyBody}.get(table)
        for reference in (*body.links, *panel.links):
            found = self._store.find(reference, held.key)
            if found is not None and wanted is not None and isinstance(found.body, wanted):
                return found.key, ""
            if found is None and table == "mri" and "ImagingStudy/" in reference:
                return reference, reference
        return "", ""

    def _therapies(self, last_seen: dict[str, date]) -> None:
        stated: list[Exposure] = []
        doses: list[Exposure] = []
        for held, body in self._store.all_of(TherapyBody):
            if (exposure := self._exposure(held, body)) is not None:
                (doses if exposure.single else stated).append(exposure)
        add_stated(stated, self.drafts)
        add_courses(doses, self.drafts, last_seen, stated=stated)

    def _exposure(self, held: Held, body: TherapyBody) -> Exposure | None:
        named = self._named(held, body)
        drug, atc, rule = identify(named.codes, self._store.words)
        if body.not_taken and drug not in WITHOUT_DRUG:
            rule = "status"
        if rule:
            if rule == "drug_without_code":
                self.reviews.add(held.place.source.partition(",")[0], named.text)
            self._book.leave(held.place, rule, "treatments", "drug")
            return None
        if not (person := self._subject(held, body.subject)):
            return None
        if body.day is None:
            self._book.leave(held.place, "no_date", "treatments", "start_day")
            return None
        self._fault(held, body.faults)
        values = (*body.values, ("atc", atc)) if atc else body.values
        return Exposure(person, drug, body.day, body.end, body.single, held.key, held.place, values)

    def _named(self, held: Held, body: TherapyBody) -> Named:
        found = self._store.find(body.medication, held.key) if body.medication else None
        if found is None or not isinstance(found.body, MedicationBody):
            return body.named
        self._book.use(found.place)
        return Named((*body.named.codes, *found.body.named.codes), body.named.text or found.body.named.text)

    def _unused(self) -> None:
        """Say why an encounter, a study, a device or a medication stands in no row."""
        for table, place in self.drafts.unused():
            self._book.leave(place, "no_visit" if table == "visits" else "no_scan")
        for held, _ in (*self._store.all_of(DeviceBody), *self._store.all_of(MedicationBody)):
            if self._book.fates[held.place]:
                self._book.leave(held.place, "not_referred_to")
