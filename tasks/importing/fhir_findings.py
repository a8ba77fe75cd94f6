"""Observation, ImagingStudy and Device: what was examined, before references are followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tasks.importing.crosswalk import ANSWER_SYSTEM, ITEM_SYSTEM, Crosswalk, Item
from tasks.importing.dating import CalendarDay
from tasks.importing.drafts import Value
from tasks.importing.fhir_json import (
    Json,
    coding,
    codings,
    first_day,
    number_of,
    part,
    parts,
    quantity,
    reference,
    references,
    text,
    value_of,
)  # fmt: skip
from tasks.importing.fhir_people import Faults, Values, name_of
from tasks.importing.values import label
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import SEPARATOR

NO_RESULT: Final = frozenset({"registered", "cancelled", "entered-in-error"})
BIDS: Final = {f"{ANSWER_SYSTEM}bids_sub": "bids_sub", f"{ANSWER_SYSTEM}bids_ses": "bids_ses"}
SEQUENCE: Final = f"{ANSWER_SYSTEM}sequences"  # url of an extension of ImagingStudy.series, valueCode
PROTOCOL: Final = f"{ANSWER_SYSTEM}protocol_id"  # system of a procedureCode
MAKERS: Final = {"siemens": "siemens", "philips": "philips", "general electric": "ge", "ge": "ge", "canon": "canon",
                 "toshiba": "canon"}  # fmt: skip
Measures = tuple[tuple[str, str, Value], ...]  # (table, column, value)


@dataclass(frozen=True, slots=True, repr=False)
class ObservationBody:
    subject: str
    encounter: str
    day: CalendarDay | None
    links: tuple[str, ...]  # scan, relapse or treatment that it describes
    device: str
    members: tuple[str, ...]
    measures: Measures
    faults: Faults


@dataclass(frozen=True, slots=True, repr=False)
class StudyBody:
    name: str
    subject: str
    day: CalendarDay | None
    devices: tuple[str, ...]
    known: bool  # as a scan of brain or cord, by itself
    values: Values
    faults: Faults


@dataclass(frozen=True, slots=True, repr=False)
class DeviceBody:
    values: Values
    faults: Faults


def observation(resource: Json, words: Crosswalk) -> ObservationBody | str:
    """All that the Observation and its components measure. One of unknown code is kept for its members alone."""
    if text(resource, "status") in NO_RESULT:
        return "status"
    measures: list[tuple[str, str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    for holder in (resource, *parts(resource, "component")):
        if (item := words.item(coding(part(holder, "code")))) is not None:
            heading = holder is resource and bool(resource.get("component") or resource.get("hasMember"))
            if not heading or _has_value(holder):
                _measure(holder, item, words, measures, faults)
    members = references(resource, "hasMember")
    if not measures and not faults and not members:
        return "code_not_in_crosswalk"
    if any(column == "edss" for _, column, _ in measures):
        measures += _scoring(resource, words)
    links = (*references(resource, "derivedFrom"), *references(resource, "partOf"), *references(resource, "focus"))
    day = first_day(resource, "effectiveDateTime", "effectivePeriod", "effectiveInstant")
    if day is None and any(name in resource for name in ("effectiveDateTime", "effectivePeriod", "effectiveInstant")):
        faults.append(("", "effective", "bad_date"))
    return ObservationBody(
        reference(resource, "subject"), reference(resource, "encounter"), day, links, reference(resource, "device"), members,
        tuple(measures), tuple(faults),
    )  # fmt: skip


def _has_value(holder: Json) -> bool:
    return "dataAbsentReason" in holder or any(name.startswith("value") for name in holder)


def _measure(
    holder: Json, item: Item, words: Crosswalk, measures: list[tuple[str, str, Value]], faults: list[tuple[str, str, str]]
) -> None:
    """One measured value, or why there is none: as the contract's missing_reason, if its code is known."""
    value, rule = value_of(holder, item, words)
    if value is None and rule == "no_value" and item.column == "onset_day" and item.table == "patients":
        value = first_day(holder, "effectiveDateTime")
    reason = coding(part(holder, "dataAbsentReason"))
    if value is None and reason and "missing_reason" in CONTRACT.table(item.table).names:
        value, item = words.answer(item.table, "missing_reason", reason), Item(item.table, "missing_reason")
        rule = "answer_not_in_crosswalk"
    if value is None:
        faults.append((item.table, item.column, rule))
    else:
        measures.append((item.table, item.column, value))


def _scoring(resource: Json, words: Crosswalk) -> Measures:
    """How an EDSS was scored and by whom."""
    found: list[tuple[str, str, Value]] = []
    if method := words.answer("visits", "edss_method", coding(part(resource, "method"))):
        found.append(("visits", "edss_method", method))
    if raters := references(resource, "performer"):
        found.append(("visits", "rater_id", raters[0].rpartition("/")[2].removeprefix("identifier:")))
    return tuple(found)


def study(resource: Json, words: Crosswalk) -> StudyBody | str:
    """An imaging study; it is a scan of the contract if it is MR of brain or cord, or if measures refer to it."""
    if text(resource, "status") in ("cancelled", "entered-in-error"):
        return "status"
    found: list[tuple[str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    series = list(parts(resource, "series"))
    procedures = codings(resource, "procedureCode")
    sites = [(text(part(each, "bodySite"), "system"), text(part(each, "bodySite"), "code")) for each in series]
    region = {region for code in (*procedures, *sites) if (region := words.answer("mri", "region", (code,)))}
    if region:
        found.append(("region", next(iter(region)) if len(region) == 1 else "both"))
    extensions = [extension for each in series for extension in parts(each, "extension")]
    sequences = [text(each, "valueCode") for each in extensions if text(each, "url") == SEQUENCE]
    if sequences:
        known = [words.answer("mri", "sequences", ((SEQUENCE, code),)) for code in dict.fromkeys(sequences)]
        if None in known:
            faults.append(("mri", "sequences", "answer_not_in_crosswalk"))
        found.append(("sequences", SEPARATOR.join(each for each in known if each)))
    _named(found, faults, "protocol_id", next((code for system, code in procedures if system == PROTOCOL), ""))
    for each in parts(resource, "identifier"):
        if column := BIDS.get(text(each, "system")):
            _named(found, faults, column, text(each, "value"))
    devices = tuple(reference(actor, "actor") for each in series for actor in parts(each, "performer"))
    modalities = {text(each, "code") for each in (*parts(resource, "modality"), *(part(each, "modality") for each in series))}
    return StudyBody(
        name_of(resource, without=tuple(BIDS)), reference(resource, "subject"), first_day(resource, "started"),
        tuple(dict.fromkeys(device for device in devices if device)), "MR" in modalities and bool(region),
        tuple(found), tuple(faults),
    )  # fmt: skip


def _named(found: list[tuple[str, Value]], faults: list[tuple[str, str, str]], column: str, written: str) -> None:
    if written:
        value, rule = label(written, Item("mri", column))
        if value is None:
            faults.append(("mri", column, rule))
        else:
            found.append((column, value))


def device(resource: Json, words: Crosswalk) -> DeviceBody:
    """A scanner (maker, field strength, the hospital's name of it) or a program that measures (name, version)."""
    found: list[tuple[str, Value]] = []
    faults: list[tuple[str, str, str]] = []
    versions = [text(each, "value") for each in parts(resource, "version")]
    if versions or (ITEM_SYSTEM, "mri.tool") in coding(part(resource, "type")):
        _named(found, faults, "tool", next((text(each, "name") for each in parts(resource, "deviceName")), ""))
        _named(found, faults, "tool_version", versions[0] if versions else "")
        return DeviceBody(tuple(found), tuple(faults))
    if maker := text(resource, "manufacturer").casefold():
        known = (code for name, code in MAKERS.items() if maker == name or maker.startswith(f"{name} "))
        found.append(("vendor", next(known, "other")))
    _named(found, faults, "scanner_id", next((text(each, "value") for each in parts(resource, "identifier")), ""))
    for each in parts(resource, "property"):
        item = words.item(coding(part(each, "type")))
        if item is not None and (item.table, item.column) == ("mri", "field_t"):
            for stated in parts(each, "valueQuantity"):
                value, rule = quantity(stated, item) if number_of(stated, "value") is not None else (None, "no_value")
                if value is None:
                    faults.append(("mri", "field_t", rule))
                else:
                    found.append(("field_t", value))
    return DeviceBody(tuple(found), tuple(faults))
