"""All resources of an export in short form, one version of each, and the way from a reference to what it points to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

from tasks.importing import fhir_findings, fhir_people, fhir_therapies
from tasks.importing.bookkeeping import Book, Place
from tasks.importing.crosswalk import Crosswalk
from tasks.importing.fhir_findings import DeviceBody, ObservationBody, StudyBody
from tasks.importing.fhir_json import Json, part, parts, text
from tasks.importing.fhir_people import ConsentBody, EncounterBody, HistoryBody, PersonBody, RelapseBody
from tasks.importing.fhir_source import Entry
from tasks.importing.fhir_therapies import MedicationBody, TherapyBody

Body = (
    PersonBody | EncounterBody | RelapseBody | HistoryBody | ConsentBody | ObservationBody | StudyBody | DeviceBody | MedicationBody
    | TherapyBody
)  # fmt: skip
B = TypeVar("B", bound=Body)
PARSERS: Final[Mapping[str, Callable[[Json, Crosswalk], Body | str]]] = {
    "Patient": fhir_people.person,
    "Encounter": fhir_people.encounter,
    "Condition": fhir_people.condition,
    "Consent": fhir_people.consent,
    "Observation": fhir_findings.observation,
    "ImagingStudy": fhir_findings.study,
    "Device": fhir_findings.device,
    "Medication": lambda resource, _: fhir_therapies.medication(resource),
    "MedicationStatement": fhir_therapies.therapy,
    "MedicationAdministration": fhir_therapies.therapy,
    "Procedure": fhir_therapies.procedure,
}


@dataclass(slots=True, repr=False)
class Held:
    """One resource: what it says, or the rule why it is left out."""

    key: str
    place: Place
    updated: datetime | None
    body: Body | str


@dataclass
class Store:
    """Resources by key: Type/id, else the address of the bundle entry."""

    words: Crosswalk
    book: Book
    held: dict[str, Held] = field(default_factory=dict, repr=False)
    _urls: dict[str, str] = field(default_factory=dict, repr=False)
    _numbers: dict[str, str] = field(default_factory=dict, repr=False)  # identifier -> key of the patient, "" if of two

    def take(self, entry: Entry) -> None:
        """Understand one resource, and keep the newest version of it."""
        kind = text(entry.resource, "resourceType")
        place = Place(kind if entry.source == "the file" else f"{kind}, {entry.source}", entry.number)
        self.book.open(place, kind)
        if (parse := PARSERS.get(kind)) is None:
            self.book.leave(place, "bundle_in_bundle" if kind == "Bundle" else "type_not_used")
            return
        number = text(entry.resource, "id")
        key = f"{kind}/{number}" if number else entry.full_url or f"{kind}/?{place.source}/{place.number}"
        if entry.full_url:
            self._urls[entry.full_url] = key
        if self._keep(Held(key, place, _updated(entry.resource), parse(entry.resource, self.words))):
            self._contain(key, place, entry.resource)

    def _keep(self, new: Held) -> bool:
        """Hold the resource unless another version of it is the right one."""
        old = self.held.get(new.key)
        if old is None:
            self.held[new.key] = new
            return True
        if old.updated is not None and new.updated is not None and old.updated != new.updated:
            newer, older = (new, old) if new.updated > old.updated else (old, new)
            self.book.leave(older.place, "superseded")
            self.held[new.key] = newer
            return newer is new
        if old.body == new.body:
            self.book.leave(new.place, "repeated")
        else:
            self.book.leave(new.place, "two_versions")
            old.body = "two_versions"
        return False

    def _contain(self, key: str, place: Place, resource: Json) -> None:
        """Hold what a resource carries within itself; it has no fate of its own."""
        for each in parts(resource, "contained"):
            if (parse := PARSERS.get(text(each, "resourceType"))) is not None:
                self.held[f"{key}#{text(each, 'id')}"] = Held(f"{key}#{text(each, 'id')}", place, None, parse(each, self.words))

    def number_people(self) -> None:
        """Make patients known by their identifiers, for references that name one; after everything was taken."""
        for key, held in self.held.items():
            if "#" not in key and isinstance(held.body, PersonBody):
                for number in {held.body.number, *held.body.numbers}:
                    self._numbers[number] = key if self._numbers.get(number, key) == key else ""

    def all_of(self, kind: type[B]) -> Iterator[tuple[Held, B]]:
        """The resources of one kind that stand for themselves, in the order they were read."""
        for key, held in self.held.items():
            if "#" not in key and isinstance(held.body, kind):
                yield held, held.body

    def left_out(self) -> Iterator[tuple[Place, str]]:
        """Place and rule of those that were not understood."""
        for key, held in self.held.items():
            if "#" not in key and isinstance(held.body, str):
                yield held.place, held.body

    def find(self, reference: str, holder: str) -> Held | None:
        """What `reference` in the resource `holder` points to: contained, by identifier, by address, or by type and id."""
        if reference.startswith("#"):
            return self.held.get(f"{holder}{reference}")
        if reference.startswith("identifier:"):
            return self.held.get(self._numbers.get(reference.removeprefix("identifier:"), ""))
        key = self._urls.get(reference, reference)
        if key not in self.held and reference.startswith(("http://", "https://")):
            key = "/".join(reference.split("/")[-2:])
        return self.held.get(key)

    def patient(self, reference: str, holder: str) -> str:
        """Key of the patient a reference means, "" if the export has none."""
        found = self.find(reference, holder)
        if found is None or not isinstance(found.body, PersonBody):
            return ""
        return found.key if "#" not in found.key else next((self._numbers.get(n, "") for n in found.body.numbers), "")


def _updated(resource: Json) -> datetime | None:
    written = text(part(resource, "meta"), "lastUpdated")
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
