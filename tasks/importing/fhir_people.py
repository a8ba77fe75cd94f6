"""Patient, Encounter, Condition and Consent: what each says, before references are followed.

Every function gives what it understood, or the rule why the resource is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from tasks.importing.crosswalk import ANSWER_SYSTEM, Crosswalk, Item
from tasks.importing.dating import CalendarDay
from tasks.importing.drafts import Value
from tasks.importing.fhir_json import Json, coding, codings, first_day, part, parts, reference, text
from tasks.ms.schema import SEPARATOR

ASSERTED: Final = "http://hl7.org/fhir/StructureDefinition/condition-assertedDate"
NO_ENCOUNTER: Final = frozenset({"planned", "cancelled", "entered-in-error"})
NO_CONSENT: Final = frozenset({"draft", "proposed", "entered-in-error"})
RESEARCH: Final = ("http://terminology.hl7.org/CodeSystem/consentscope", "research")
ASSERTERS: Final = {"Patient": "patient", "RelatedPerson": "patient", "Practitioner": "physician", "PractitionerRole": "physician"}
Values = tuple[tuple[str, Value], ...]
Faults = tuple[tuple[str, str, str], ...]  # (table, column, rule)


@dataclass(frozen=True, slots=True, repr=False)
class PersonBody:
    number: str  # what the pseudonym is made from
    numbers: tuple[str, ...]  # all identifiers
    values: Values
    faults: Faults


@dataclass(frozen=True, slots=True, repr=False)
class EncounterBody:
    name: str
    subject: str
    day: CalendarDay | None
    visit_type: str


@dataclass(frozen=True, slots=True, repr=False)
class RelapseBody:
    subject: str
    onset: CalendarDay | None
    values: Values
    faults: Faults


@dataclass(frozen=True, slots=True, repr=False)
class HistoryBody:
    """What a condition says of the patient: the diagnosis, or a comorbidity."""

    subject: str
    values: Values
    faults: Faults


@dataclass(frozen=True, slots=True, repr=False)
class ConsentBody:
    subject: str
    day: CalendarDay | None
    scope: str  # of the contract; "withdrawn" if it was taken back


def name_of(resource: Json, *, without: tuple[str, ...] = ()) -> str:
    """The first identifier that is in use, else the id."""
    current = [each for each in parts(resource, "identifier") if text(each, "use") not in ("old", "temp")]
    named = [text(each, "value") for each in current if text(each, "value") and text(each, "system") not in without]
    return named[0] if named else text(resource, "id")


def person(resource: Json, words: Crosswalk) -> PersonBody | str:
    """A patient. The number is the medical record number (type MR), else the first identifier in use, else the id."""
    numbers = tuple(text(each, "value") for each in parts(resource, "identifier") if text(each, "value"))
    records = [
        text(each, "value")
        for each in parts(resource, "identifier")
        if text(each, "value") and any(code == "MR" for _, code in coding(part(each, "type"))) and text(each, "use") != "old"
    ]
    found: list[tuple[str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    gender = ("http://hl7.org/fhir/administrative-gender", text(resource, "gender"))
    if sex := words.answer("patients", "sex", (gender,)):
        found.append(("sex", sex))
    if born := first_day(resource, "birthDate"):
        found.append(("birth_year", born.day.year))
    elif "birthDate" in resource:
        faults.append(("patients", "birth_year", "bad_date"))
    if died := first_day(resource, "deceasedDateTime"):
        found.append(("death_day", died))
    elif resource.get("deceasedBoolean") is True or "deceasedDateTime" in resource:
        faults.append(("patients", "death_day", "dead_without_date"))
    number = records[0] if records else name_of(resource)
    return PersonBody(number, numbers, tuple(found), tuple(faults))


def encounter(resource: Json, words: Crosswalk) -> EncounterBody | str:
    """A contact; whether it is a visit of the contract is seen when its observations are known."""
    if text(resource, "status") in NO_ENCOUNTER:
        return "status"
    visit_type = words.answer("visits", "visit_type", codings(resource, "type"))
    return EncounterBody(name_of(resource), reference(resource, "subject"), first_day(resource, "period"), visit_type or "")


def condition(resource: Json, words: Crosswalk) -> RelapseBody | HistoryBody | str:
    """A relapse, the diagnosis, or a comorbidity."""
    status = {code for _, code in coding(part(resource, "verificationStatus"))}
    if "entered-in-error" in status:
        return "status"
    if "refuted" in status:
        return "refuted"
    codes, subject = coding(part(resource, "code")), reference(resource, "subject")
    item = words.item(codes)
    if item is not None and (item.table, item.column) == ("relapses", "onset_day"):
        return _relapse(resource, subject, words)
    if item is not None and (item.table, item.column) == ("patients", "diagnosis_day"):
        return _diagnosis(resource, subject)
    if (said := words.presence(codes)) is not None:
        return HistoryBody(subject, ((said[1], int(said[2])),), ())
    return "code_not_in_crosswalk"


def _relapse(resource: Json, subject: str, words: Crosswalk) -> RelapseBody:
    found: list[tuple[str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    if (end := _within(resource, "abatement")) is not None:
        found.append(("end_day", end))
    elif "abatementDateTime" in resource:
        faults.append(("relapses", "end_day", "bad_date"))
    if severity := coding(part(resource, "severity")):
        _answered(found, faults, words.answer("relapses", "severity", severity), "severity")
    if sites := codings(resource, "bodySite"):
        known = [words.answer("relapses", "fs_affected", (site,)) for site in sites]
        _answered(found, faults, SEPARATOR.join(dict.fromkeys(each for each in known if each)), "fs_affected")
    said = [words.answer("relapses", "confirmed", codings(each, "code")) for each in parts(resource, "evidence")]
    if confirmed := next((each for each in said if each), _by_asserter(resource)):
        found.append(("confirmed", confirmed))
    return RelapseBody(subject, _within(resource, "onset"), tuple(found), tuple(faults))


def _answered(found: list[tuple[str, Value]], faults: list[tuple[str, str, str]], value: str | None, column: str) -> None:
    if value:
        found.append((column, value))
    else:
        faults.append(("relapses", column, "answer_not_in_crosswalk"))


def _by_asserter(resource: Json) -> str:
    """Who says that it was a relapse, by the kind of the reference."""
    kind = reference(resource, "asserter").rpartition("/")[0].rpartition("/")[2]
    return ASSERTERS.get(kind, "")


def _within(resource: Json, name: str) -> CalendarDay | None:
    """A day, or the middle of a Period: FHIR means by onsetPeriod that the onset lies somewhere within."""
    period = part(resource, f"{name}Period")
    first, last = first_day(period, "start"), first_day(period, "end")
    if first is not None and last is not None and first.day <= last.day:
        length = (last.day - first.day).days
        return CalendarDay(first.day + timedelta(days=length // 2), length - length // 2 + max(first.precision_d, last.precision_d))
    return first_day(resource, f"{name}DateTime") or first or last


def _diagnosis(resource: Json, subject: str) -> HistoryBody:
    found: list[tuple[str, Value]] = []
    faults: tuple[tuple[str, str, str], ...] = ()
    if (onset := _within(resource, "onset")) is not None:
        found.append(("onset_day", onset))
    asserted = [each for each in parts(resource, "extension") if text(each, "url") == ASSERTED]
    day = next((day for each in asserted if (day := first_day(each, "valueDateTime"))), None) or first_day(resource, "recordedDate")
    if day is not None:
        found.append(("diagnosis_day", day))
    else:
        faults = (("patients", "diagnosis_day", "bad_date" if "recordedDate" in resource else "no_value"),)
    return HistoryBody(subject, tuple(found), faults)


def consent(resource: Json, words: Crosswalk) -> ConsentBody | str:
    """A consent to research: of scope research, or with codes of the contract. A denial with exceptions is its exceptions."""
    if text(resource, "status") in NO_CONSENT:
        return "status"
    item = Item("patients", "consent_scope")
    provision = part(resource, "provision")
    nested = list(parts(provision, "provision"))
    permitted = [each for each in (provision, *nested) if text(each, "type") != "deny"]
    codes = [code for each in permitted for code in codings(each, "code")] + list(codings(resource, "category"))
    scopes = [words.answer(item.table, item.column, (code,)) for code in codes]
    known = list(dict.fromkeys(scope for scope in scopes if scope))
    of_contract = bool(known) or any(system == f"{ANSWER_SYSTEM}consent_scope" for system, _ in codes)
    if RESEARCH not in coding(part(resource, "scope")) and not of_contract:
        return "code_not_in_crosswalk"
    taken_back = text(resource, "status") in ("inactive", "rejected") or (text(provision, "type") == "deny" and not nested)
    if taken_back or "withdrawn" in known:
        return ConsentBody(reference(resource, "patient"), first_day(resource, "dateTime"), "withdrawn")
    if not known:
        return "answer_not_in_crosswalk"
    return ConsentBody(reference(resource, "patient"), first_day(resource, "dateTime"), SEPARATOR.join(known))
