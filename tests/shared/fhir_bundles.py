"""Core tables as FHIR R4 resources, by the conventions that tasks/importing/FHIR_OMOP.md documents; the reader is not used for it.

On purpose in more than one manner: EDSS as quantity, integer or decimal, functional systems as components or as members,
references relative, absolute or by urn:uuid, drugs within statements, contained or on their own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.shared.core_tables import UNITS, Hospital, rows_of

Resource = dict[str, Any]
SERVER = "https://fhir.hospital.example/r4"
ITEM, OWN = "urn:wardround:ms:item", "urn:wardround:ms:"
SNOMED, UCUM, ATC = "http://snomed.info/sct", "http://unitsofmeasure.org", "http://www.whocc.no/atc"
GENDER = {"F": "female", "M": "male", "X": "other"}
SEVERITY = {"mild": "255604002", "moderate": "6736007", "severe": "24484000"}
SITES = {"brain": ["12738006"], "cord": ["2748008"], "both": ["12738006", "2748008"]}
FS = ("visual", "brainstem", "pyramidal", "cerebellar", "sensory", "bowel_bladder", "cerebral")
FLAGS = {"comorbid_cardio", "comorbid_psych", "comorbid_autoimmune", "infection", "steroid", "hospitalised"}
MEASURED = ("ambulation_m", "t25fw_s", "nhpt_dom_s", "nhpt_nondom_s", "sdmt_n", "pasat3_n")
AT_VISIT = ("t25fw_aid", "phenotype", "pregnancy", "infection", "quality")
OF_PATIENT = (
    "criteria",
    "phenotype_entry",
    "onset_topography",
    "education_years",
    "smoking",
    "height_cm",
    "weight_kg",
    "comorbid_cardio",
    "comorbid_psych",
    "comorbid_autoimmune",
    "ocb",
    "ancestry",
    "quality",
)
OF_SCAN = (
    "t2_vol_ml",
    "t2_count",
    "new_t2",
    "enlarging_t2",
    "interval_d_to_prev",
    "gd_count",
    "bhole_vol_ml",
    "nbv_ml",
    "bpf",
    "gm_ml",
    "cortical_gm_ml",
    "thalamus_ml",
    "lat_ventricle_ml",
    "pbvc_pct_y",
    "cord_csa_mm2",
    "prl_count",
    "sel_count",
    "qc",
    "quality",
)


def concept(system: str, *codes: object) -> Resource:
    return {"coding": [{"system": system, "code": str(code)} for code in codes]}


def item(table: str, column: str) -> Resource:
    return concept(ITEM, f"{table}.{column}")


def quantity(value: object, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def valued(column: str, value: object) -> Resource:
    """value[x] of a column."""
    if column in FLAGS:
        return {"valueBoolean": bool(value)}
    if column == "arm":
        return {"valueString": value}
    if isinstance(value, str):
        return {"valueCodeableConcept": concept(OWN + column, value)}
    if column in UNITS:
        return {"valueQuantity": quantity(value, UNITS[column])}
    return {"valueInteger": int(value)} if float(str(value)).is_integer() else {"valueDecimal": value}


def component(table: str, column: str, value: object) -> Resource:
    return {"code": item(table, column), **valued(column, value)}


class Export:
    """All resources of a hospital, in an order in which references point forward and backward."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital
        self._devices: dict[tuple[str, ...], str] = {}
        self.resources: list[Resource] = []
        for table in ("mri", "treatments", "relapses", "visits", "patients"):
            for number, row in enumerate(rows_of(hospital.tables[table])):
                getattr(self, f"_{table}")(row, number)

    def _on(self, row: Resource, day: str) -> str:
        return self._hospital.on(row["patient_id"], row[day]).isoformat()

    def _add(self, kind: str, number: str, **more: object) -> str:
        self.resources.append({"resourceType": kind, "id": number, **more})
        return f"{kind}/{number}"

    def _observation(self, number: str, row: Resource, **more: object) -> str:
        ways = (f"Patient/{row['patient_id']}", f"{SERVER}/Patient/{row['patient_id']}", uuid_of(f"Patient/{row['patient_id']}"))
        return self._add("Observation", number, status="final", subject={"reference": ways[len(self.resources) % 3]}, **more)

    def _patients(self, row: Resource, number: int) -> None:
        name = row["patient_id"]
        died = {"deceasedDateTime": self._on(row, "death_day")} if "death_day" in row else {}
        self._add(
            "Patient",
            name,
            gender=GENDER[row["sex"]],
            birthDate=f"{row['birth_year']}-06" if number % 2 else f"{row['birth_year']}",
            name=[{"family": "Musterfrau", "given": ["Erika"]}],
            **died,
        )
        asserted = "http://hl7.org/fhir/StructureDefinition/condition-assertedDate"
        self._add(
            "Condition",
            f"{name}-ms",
            subject={"reference": f"Patient/{name}"},
            code=concept("http://hl7.org/fhir/sid/icd-10", "G35"),
            onsetDateTime=self._on(row, "onset_day"),
            extension=[{"url": asserted, "valueDateTime": self._on(row, "diagnosis_day")}],
        )
        index = self._hospital.index[name].isoformat()
        for column in OF_PATIENT:
            if column in row:
                code = item("patients", column) if column != "height_cm" else concept("http://loinc.org", "8302-2")
                self._observation(
                    f"{name}-{column.replace('_', '')}", row, code=code, effectiveDateTime=index, **valued(column, row[column])
                )
        if "consent_scope" in row:
            provision = {"type": "permit", "code": [concept(OWN + "consent_scope", *row["consent_scope"].split("|"))]}
            self._add(
                "Consent",
                f"{name}-c",
                status="active",
                patient={"reference": f"Patient/{name}"},
                dateTime=index,
                provision=provision,
            )

    def _visits(self, row: Resource, number: int) -> None:
        name, day = f"{row['patient_id']}-{row['visit_id']}", f"{self._on(row, 'day')}T09:30:00+02:00"
        kind = [concept(OWN + "visit_type", row["visit_type"])] if "visit_type" in row else []
        encounter = self._add(
            "Encounter",
            name,
            status="finished",
            subject={"reference": f"Patient/{row['patient_id']}"},
            type=kind,
            period={"start": day},
            identifier=[{"system": "urn:hospital:visit", "value": row["visit_id"]}],
        )
        about = {"encounter": {"reference": encounter}, "effectiveDateTime": day}
        scores = [component("visits", f"fs_{each}", row[f"fs_{each}"]) for each in FS if f"fs_{each}" in row]
        if "edss" in row:
            self._edss(row, name, number, scores, about)
        else:
            for each, score in enumerate(scores):
                self._observation(f"{name}-fs{each}", row, **score, **about)
        if "missing_reason" in row:
            empty = next(each for each in ("edss", *(f"fs_{each}" for each in FS), *MEASURED) if each not in row)
            reason = concept(OWN + "missing_reason", row["missing_reason"])
            self._observation(f"{name}-why", row, code=item("visits", empty), dataAbsentReason=reason, **about)
        for column in MEASURED:
            if column in row:
                self._observation(
                    f"{name}-{column.replace('_', '')}", row, code=item("visits", column), **valued(column, row[column]), **about
                )
        parts = [component("visits", column, row[column]) for column in AT_VISIT if column in row]
        if parts:
            self._observation(f"{name}-state", row, code=concept("urn:hospital", "state"), component=parts, **about)

    def _edss(self, row: Resource, name: str, number: int, scores: list[Resource], about: Resource) -> None:
        """The EDSS; every other visit has its functional systems as members that state no patient, day or visit themselves."""
        edss = float(row["edss"])
        stated = ({"valueQuantity": quantity(edss, "{score}")}, {"valueDecimal": edss}, {"valueInteger": int(edss)})
        way = stated[number % 3] if edss.is_integer() else stated[number % 2]
        method = {"method": concept(OWN + "edss_method", row["edss_method"])} if "edss_method" in row else {}
        rater = {"performer": [{"reference": f"Practitioner/{row['rater_id']}"}]} if "rater_id" in row else {}
        if number % 2:
            below: Resource = {"component": scores} if scores else {}
        else:
            members = [self._add("Observation", f"{name}-fs{each}", status="final", **score) for each, score in enumerate(scores)]
            below = {"hasMember": [{"reference": member} for member in members]} if members else {}
        self._observation(f"{name}-edss", row, code=item("visits", "edss"), **way, **method, **rater, **below, **about)

    def _relapses(self, row: Resource, number: int) -> None:
        name = f"{row['patient_id']}-r{number}"
        ended = {"abatementDateTime": self._on(row, "end_day")} if "end_day" in row else {}
        severity = {"severity": concept(SNOMED, SEVERITY[row["severity"]])} if "severity" in row else {}
        sites = [concept(OWN + "fs_affected", *row["fs_affected"].split("|"))] if "fs_affected" in row else []
        evidence = [{"code": [concept(OWN + "confirmed", row["confirmed"])]}] if "confirmed" in row else []
        relapse = self._add(
            "Condition",
            name,
            subject={"reference": f"Patient/{row['patient_id']}"},
            code=concept(SNOMED, "192929006"),
            evidence=evidence,
            onsetDateTime=self._on(row, "onset_day"),
            bodySite=sites,
            verificationStatus=concept("urn:ver", "confirmed"),
            **severity,
            **ended,
        )
        columns = ("steroid", "hospitalised", "recovery", "onset_precision_d", "quality")
        parts = [component("relapses", column, row[column]) for column in columns if column in row]
        if parts:
            self._observation(
                f"{name}-more", row, code=concept("urn:hospital", "relapse"), component=parts, focus=[{"reference": relapse}]
            )

    def _treatments(self, row: Resource, number: int) -> None:
        name = f"{row['patient_id']}-t{number}"
        period = {"start": self._on(row, "start_day")}
        if "end_day" in row:  # FHIR's end is the last day, the contract's the day after
            last = self._hospital.on(row["patient_id"], row["end_day"]) - timedelta(days=1)
            period["end"] = last.isoformat()
        subject = {"reference": f"Patient/{row['patient_id']}"}
        code = concept(ATC, row["atc"]) if "atc" in row else concept(OWN + "drug", row["drug"])
        dosage: Resource = {}
        if "dose_mg" in row:
            dosage["doseAndRate"] = [{"doseQuantity": quantity(row["dose_mg"], "mg")}]
        if "interval_d" in row:
            dosage["timing"] = {"repeat": {"frequency": 1, "period": row["interval_d"], "periodUnit": "d"}}
        reasons = {
            name: [concept(OWN + column, row[column])]
            for name, column in (("reasonCode", "reason_start"), ("statusReason", "reason_stop"))
            if column in row
        }
        if row["drug"] == "ahsct":
            therapy = self._add(
                "Procedure", name, status="completed", subject=subject, code=code, performedPeriod=period, **reasons
            )
        else:
            drug: Resource = {"medicationCodeableConcept": code}
            if number % 3 == 1:
                drug = {"medicationReference": {"reference": self._add("Medication", name, code=code)}}
            elif number % 3 == 2:
                contained = {"resourceType": "Medication", "id": "m", "code": code}
                drug = {"contained": [contained], "medicationReference": {"reference": "#m"}}
            status = "completed" if "end_day" in row else "active"
            therapy = self._add(
                "MedicationStatement",
                name,
                status=status,
                subject=subject,
                effectivePeriod=period,
                dosage=[dosage],
                **drug,
                **reasons,
            )
        parts = [component("treatments", column, row[column]) for column in ("dmt_class", "arm", "quality") if column in row]
        if parts:
            code = concept("urn:hospital", "therapy")
            self._observation(f"{name}-more", row, code=code, component=parts, focus=[{"reference": therapy}])

    def _mri(self, row: Resource, number: int) -> None:
        name = f"{row['patient_id']}-{row['scan_id']}"
        series: list[Resource] = [
            {"uid": f"1.{number}.{each}", "modality": {"code": "MR"}, "bodySite": {"system": SNOMED, "code": code}}
            for each, code in enumerate(SITES[row["region"]])
        ]
        if "sequences" in row:
            series[0]["extension"] = [{"url": OWN + "sequences", "valueCode": code} for code in row["sequences"].split("|")]
        if scanner := self._scanner(row):
            series[0]["performer"] = [{"actor": {"reference": scanner}}]
        protocol = [concept(OWN + "protocol_id", row["protocol_id"])] if "protocol_id" in row else []
        bids = [{"system": OWN + column, "value": row[column]} for column in ("bids_sub", "bids_ses") if column in row]
        study = self._add(
            "ImagingStudy",
            name,
            status="available",
            subject={"reference": f"Patient/{row['patient_id']}"},
            started=self._on(row, "day"),
            identifier=[*bids, {"system": "urn:dicom:uid", "value": row["scan_id"]}],
            series=series,
            procedureCode=protocol,
        )
        tool = {"device": {"reference": found}} if (found := self._tool(row)) else {}
        about = {"derivedFrom": [{"reference": study}], **tool}
        for column in OF_SCAN:
            if column in row:
                self._observation(
                    f"{name}-{column.replace('_', '')}", row, code=item("mri", column), **valued(column, row[column]), **about
                )
        if "missing_reason" in row:
            empty = next(column for column in OF_SCAN if column not in row)
            reason = concept(OWN + "missing_reason", row["missing_reason"])
            self._observation(
                f"{name}-why", row, code=item("mri", empty), dataAbsentReason=reason, derivedFrom=about["derivedFrom"]
            )

    def _scanner(self, row: Resource) -> str:
        names = {
            "siemens": "SIEMENS Healthineers",
            "philips": "Philips",
            "ge": "GE Medical Systems",
            "canon": "Canon",
            "other": "Hitachi",
        }
        maker = {"manufacturer": names[row["vendor"]]} if "vendor" in row else {}
        own = {"identifier": [{"value": row["scanner_id"]}]} if "scanner_id" in row else {}
        field = [{"type": item("mri", "field_t"), "valueQuantity": [quantity(row["field_t"], "T")]}] if "field_t" in row else []
        return self._device({**maker, **own, "property": field})

    def _tool(self, row: Resource) -> str:
        name = [{"name": row["tool"], "type": "user-friendly-name"}] if "tool" in row else []
        version = [{"value": row["tool_version"]}] if "tool_version" in row else []
        return self._device({"type": item("mri", "tool"), "deviceName": name, "version": version}) if name or version else ""

    def _device(self, content: Resource) -> str:
        key = (json.dumps(content, sort_keys=True),)
        if key not in self._devices:
            self._devices[key] = self._add("Device", f"d{len(self._devices)}", **content)
        return self._devices[key]


def uuid_of(reference: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, reference)}"


def entries(resources: list[Resource]) -> Iterator[Resource]:
    for each in resources:
        yield {"fullUrl": uuid_of(f"{each['resourceType']}/{each.get('id', '')}"), "resource": each}


def write_bundle(path: Path, resources: list[Resource], kind: str = "collection") -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"resourceType": "Bundle", "type": kind})[:-1] + ', "entry": [')
        for number, each in enumerate(entries(resources)):
            file.write((",\n" if number else "") + json.dumps(each))
        file.write("]}")
    return path


def write_ndjson(folder: Path, resources: list[Resource]) -> Path:
    """A bulk export: one file for each type. It has no addresses, so that references by urn:uuid become relative ones."""
    folder.mkdir(parents=True, exist_ok=True)
    relative = {uuid_of(f"{each['resourceType']}/{each['id']}"): f"{each['resourceType']}/{each['id']}" for each in resources}
    kinds = sorted({each["resourceType"] for each in resources})
    for kind in kinds:
        with (folder / f"{kind}.ndjson").open("w", encoding="utf-8") as file:
            for each in resources:
                if each["resourceType"] == kind:
                    subject = each.get("subject", {}).get("reference", "")
                    fixed = {**each, "subject": {"reference": relative[subject]}} if subject in relative else each
                    file.write(json.dumps(fixed) + "\n")
    return folder
