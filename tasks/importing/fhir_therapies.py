"""MedicationStatement, MedicationAdministration, Medication and Procedure: what was given, before references are followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tasks.importing.crosswalk import Coding, Crosswalk, Item
from tasks.importing.dating import CalendarDay
from tasks.importing.drafts import Value, day_after
from tasks.importing.fhir_json import Json, coding, codings, first_day, number_of, part, parts, quantity, reference, text
from tasks.importing.fhir_people import Faults, Values
from tasks.importing.values import end_day

NOT_GIVEN: Final[Mapping[str, frozenset[str]]] = {
    "MedicationStatement": frozenset({"entered-in-error", "intended", "not-taken"}),
    "MedicationAdministration": frozenset({"entered-in-error", "not-done", "on-hold"}),
    "Procedure": frozenset({"entered-in-error", "not-done", "preparation", "on-hold"}),
}
WITHOUT_DRUG: Final = frozenset({"none", "washout"})  # "not-taken" is what they say
DAYS: Final = {"h": 1 / 24, "d": 1.0, "wk": 7.0}  # of months and years the length varies: they are left empty


@dataclass(frozen=True, slots=True, repr=False)
class Named:
    """How a drug is written: codes, and the text for somebody to look at if no code says which it is."""

    codes: Coding
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class MedicationBody:
    named: Named


@dataclass(frozen=True, slots=True, repr=False)
class TherapyBody:
    subject: str
    named: Named
    medication: str  # reference, if the drug is a resource of its own
    day: CalendarDay | None
    end: CalendarDay | None  # first day without it
    single: bool  # one administration of perhaps many
    not_taken: bool
    values: Values
    faults: Faults


def named(concept: Json) -> Named:
    """A drug's CodeableConcept."""
    shown = next((text(each, "display") for each in parts(concept, "coding") if text(each, "display")), "")
    return Named(coding(concept), text(concept, "text") or shown)


def medication(resource: Json) -> MedicationBody:
    """A drug that statements refer to."""
    return MedicationBody(named(part(resource, "code")))


def therapy(resource: Json, words: Crosswalk) -> TherapyBody | str:
    """A stated therapy or one administration. An end is inclusive in FHIR: the contract's end_day is the day after."""
    kind, status = text(resource, "resourceType"), text(resource, "status")
    if status in NOT_GIVEN[kind] and status != "not-taken":
        return "status"
    single = kind == "MedicationAdministration"
    found: list[tuple[str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    stated_end = "" if single else text(part(resource, "performedPeriod" if kind == "Procedure" else "effectivePeriod"), "end")
    for column, name in (("reason_start", "reasonCode"), ("reason_stop", "statusReason")):
        if (codes := codings(resource, name)) and (reason := words.answer("treatments", column, codes)):
            found.append((column, reason))
    _dosage(resource, found, faults)
    drug = named(part(resource, "code" if kind == "Procedure" else "medicationCodeableConcept"))
    return TherapyBody(
        reference(resource, "subject"), drug, reference(resource, "medicationReference"),
        first_day(resource, "effectivePeriod", "effectiveDateTime", "performedDateTime", "performedPeriod"),
        day_after(end_day(stated_end)), single,
        status == "not-taken", tuple(found), tuple(faults),
    )  # fmt: skip


def procedure(resource: Json, words: Crosswalk) -> TherapyBody | str:
    """A procedure that is a therapy by the crosswalk, such as a stem cell transplantation."""
    if not words.answer("treatments", "drug", coding(part(resource, "code"))):
        return "code_not_in_crosswalk"
    return therapy(resource, words)


def _dosage(resource: Json, found: list[tuple[str, Value]], faults: list[tuple[str, str, str]]) -> None:
    """The first dosage: a dose that converts to mg, and the days from dose to dose."""
    stated: list[Json] = list(parts(resource, "dosage"))
    dose: Json = next((part(each, "doseQuantity") for each in parts(stated[0], "doseAndRate")), {}) if stated else {}
    if not stated:
        dose = part(part(resource, "dosage"), "dose")
    if dose:
        value, rule = quantity(dose, Item("treatments", "dose_mg"))
        if value is None:
            faults.append(("treatments", "dose_mg", rule))
        else:
            found.append(("dose_mg", value))
    repeat = part(part(stated[0], "timing"), "repeat") if stated else {}
    if (interval := _interval(repeat)) is not None:
        found.append(("interval_d", interval))
    elif repeat:
        faults.append(("treatments", "interval_d", "unit"))


def _interval(repeat: dict[str, Any]) -> float | None:
    period, unit = number_of(repeat, "period"), DAYS.get(text(repeat, "periodUnit"))
    times = number_of(repeat, "frequency")
    if period is None or unit is None:
        return None
    return float(f"{period * unit / (times or 1.0):.12g}")
