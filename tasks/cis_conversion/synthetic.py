"""Writes hospitals' folders full of invented patients, as different from one another as real exports are.

Four styles of export take turns: other languages, codes, delimiters, encodings, decimal signs, units of age and missing
columns, each with a mapping file to the same contract and with some rows that a good loader must not swallow. Effects
are plausible, not estimated: age, bands and lesions move the risk, so that a model reaches an AUC of about 0.78.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.errors import ContractError
from tasks.mapping import MAPPING_FILE

Patient = dict[str, float]  # contract columns and label; NaN = not recorded
FINDINGS = (
    "oligoclonal_bands",
    "vep_abnormal",
    "baep_abnormal",
    "mri_periventricular",
    "mri_infratentorial",
    "mri_spinal",
)
PREVALENCE = dict(zip(FINDINGS, (0.62, 0.42, 0.18, 0.58, 0.38, 0.33), strict=True))
LOG_ODDS = dict(zip(FINDINGS, (1.7, 0.5, 0.3, 1.4, 0.9, 1.2), strict=True))
BASE_LOG_ODDS = -2.6
AGE_LOG_ODDS = -0.04  # per year above 34
FEMALE_LOG_ODDS = 0.3
DIRTY_FROM = 20  # hospitals smaller than this get clean files


@dataclass(frozen=True)
class Style:
    """How one hospital writes its table."""

    table: str
    encoding: str
    delimiter: str
    decimal: str
    columns: Mapping[str, str]  # contract column, "id", "label" -> the hospital's own name
    sex: tuple[str, str]  # female, male
    finding: tuple[str, str]  # absent, present
    label: tuple[str, str]  # not converted, converted
    unknown: str
    age_unit: str
    leak: str  # a column that only converters have
    extra: str  # a column nobody needs
    absent: str = ""  # a contract column this hospital does not record


GERMAN = Style(
    "cis_export.csv", "cp1252", ";", ",",
    {
        "id": "Fallnummer", "sex": "Geschlecht", "age_years": "Alter bei Erstereignis",
        "oligoclonal_bands": "Oligoklonale Banden", "vep_abnormal": "VEP pathologisch",
        "baep_abnormal": "AEP pathologisch", "mri_periventricular": "Herde periventrikulär",
        "mri_infratentorial": "Herde infratentoriell", "mri_spinal": "Herde spinal", "label": "MS im Verlauf",
    },
    ("w", "m"), ("nein", "ja"), ("nein", "ja"), "nicht erhoben", "years", "Letzter EDSS", "Händigkeit",
)  # fmt: skip
FRENCH = Style(
    "patients.csv", "utf-8", ";", ",",
    {
        "id": "Numéro", "sex": "Sexe", "age_years": "Âge (mois)", "oligoclonal_bands": "Bandes oligoclonales",
        "vep_abnormal": "PEV", "baep_abnormal": "PEA", "mri_periventricular": "IRM périventriculaire",
        "mri_infratentorial": "IRM sous-tentorielle", "mri_spinal": "IRM médullaire", "label": "Conversion SEP",
    },
    ("F", "H"), ("0", "1"), ("N", "O"), "", "months", "EDSS final", "Profession",
)  # fmt: skip
SPANISH = Style(
    "cohorte.csv", "utf-8", ",", ".",
    {
        "id": "Paciente", "sex": "Sexo", "age_years": "Edad", "oligoclonal_bands": "Bandas oligoclonales",
        "vep_abnormal": "PEV", "baep_abnormal": "PEAT", "mri_periventricular": "RM periventricular",
        "mri_infratentorial": "RM infratentorial", "mri_spinal": "RM medular", "label": "Grupo",
    },
    ("2", "1"), ("0", "1"), ("2", "1"), "9", "years", "EDSS al final", "Escolaridad",
)  # fmt: skip
ENGLISH = Style(
    "registry.tsv", "utf-8", "tab", ".",
    {
        "id": "record", "sex": "sex", "age_years": "age", "oligoclonal_bands": "CSF OCB", "vep_abnormal": "VEP",
        "mri_periventricular": "PV lesions", "mri_infratentorial": "IT lesions", "mri_spinal": "cord lesions",
        "label": "outcome",
    },
    ("female", "male"), ("neg", "pos"), ("CIS", "MS"), "ND", "years", "last EDSS", "referring ward",
    absent="baep_abnormal",
)  # fmt: skip
STYLES = (GERMAN, FRENCH, SPANISH, ENGLISH)


def write_hospitals(out: Path, n: int, patients: Sequence[int], seed: int) -> list[Path]:
    """Write folders `hospital-1` .. `hospital-n` under `out`, each with a table and its mapping; return them.

    `patients[i]` is the number of patients that hospital i has after loading; unusable rows come on top. The same
    arguments write the same bytes. `ContractError` if `patients` has not `n` positive numbers.
    """
    if len(patients) != n or n < 1 or min(patients) < 1:
        raise ContractError(f"{n} hospitals need {n} positive numbers of patients, got {list(patients)}")
    folders = []
    for index, size in enumerate(patients):
        stream = np.random.Generator(np.random.PCG64([seed, index]))  # invented patients; no secret depends on it
        style = STYLES[index % len(STYLES)]
        people = [_patient(stream, spinal_recorded=(1.0, 0.35, 0.9, 0.6)[index % 4]) for _ in range(size)]
        records = [_record(person, style, f"{index + 1}{number:04d}") for number, person in enumerate(people, start=1)]
        folder = out / f"hospital-{index + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        _write_table(folder, style, _soiled(records, style) if size >= DIRTY_FROM else records)
        (folder / MAPPING_FILE).write_text(_mapping(style), encoding="utf-8")
        folders.append(folder)
    return folders


def _patient(stream: np.random.Generator, *, spinal_recorded: float) -> Patient:
    person: Patient = {
        "female": float(stream.random() < 0.68),
        "age_years": float(np.clip(stream.normal(34, 10), 14, 68)),
    }
    odds = BASE_LOG_ODDS + AGE_LOG_ODDS * (person["age_years"] - 34) + FEMALE_LOG_ODDS * person["female"]
    for name in FINDINGS:
        person[name] = float(stream.random() < PREVALENCE[name])
        odds += LOG_ODDS[name] * person[name]
    person["label"] = float(stream.random() < 1 / (1 + np.exp(-odds)))
    for name in FINDINGS:  # after the risk: a finding acts whether or not it was looked for
        if stream.random() > (spinal_recorded if name == "mri_spinal" else 0.93):
            person[name] = np.nan
    return person


def _record(person: Patient, style: Style, number: str) -> dict[str, str]:
    age = person["age_years"] * (12 if style.age_unit == "months" else 1)
    record = {
        "id": number,
        "sex": style.sex[0] if person["female"] else style.sex[1],
        "age_years": f"{age:.1f}".replace(".", style.decimal),
    }
    for name in FINDINGS:
        record[name] = style.unknown if np.isnan(person[name]) else style.finding[int(person[name])]
    record["label"] = style.label[int(person["label"])]
    record["leak"] = "2" if person["label"] else ""
    record["extra"] = "7"
    return record


def _soiled(records: list[dict[str, str]], style: Style) -> list[dict[str, str]]:
    """The records and some that a loader must report: repeated, impossible, unlabelled, unnamed and blank rows."""
    records = [dict(record) for record in records]
    records[3]["vep_abnormal"] = "n"  # a stray code: the value is set missing, the patient stays
    first, other = records[0], records[1]
    impossible = dict(other, id=f"{other['id']}1", age_years="999")
    twins = [dict(other, id=f"{other['id']}2", sex=code) for code in style.sex]
    unlabelled = dict(other, id=f"{other['id']}3", label="")
    unnamed = dict(other, id="")
    blank = dict.fromkeys(other, "")
    middle = len(records) // 2
    return [*records[:middle], first, impossible, blank, *records[middle:], *twins, unlabelled, unnamed]


def _columns(style: Style) -> list[tuple[str, str]]:
    named = {**style.columns, "leak": style.leak, "extra": style.extra}
    return list(named.items())


def _write_table(folder: Path, style: Style, records: Sequence[Mapping[str, str]]) -> None:
    columns = _columns(style)
    delimiter = "\t" if style.delimiter == "tab" else style.delimiter
    with (folder / style.table).open("w", encoding=style.encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([name for _, name in columns])
        writer.writerows([record[key] for key, _ in columns] for record in records)


def _mapping(style: Style) -> str:
    quote: Callable[[str], str] = lambda text: json.dumps(text, ensure_ascii=False)  # noqa: E731  # YAML reads JSON texts
    missing = [""] + ([style.unknown] if style.unknown else [])
    lines = [
        "# Invented patients, written by tasks.cis_conversion.synthetic. No row belongs to anybody.",
        "task: cis_conversion",
        "version: 1",
        f"table: {{name: {style.table}, encoding: {style.encoding}, delimiter: {quote(style.delimiter)}, "
        f"decimal: {quote(style.decimal)}}}",
        f"missing: [{', '.join(quote(text) for text in missing)}]",
        f"id: {{from: {quote(style.columns['id'])}}}",
        f"label: {{from: {quote(style.columns['label'])}, codes: {_codes(style.label, ('0', '1'))}}}",
        "columns:",
        f"  sex: {{from: {quote(style.columns['sex'])}, codes: {_codes(style.sex, ('F', 'M'))}}}",
        f"  age_years: {{from: {quote(style.columns['age_years'])}, unit: {style.age_unit}, "
        f"scale: {1 / 12 if style.age_unit == 'months' else 1}}}",
    ]
    for name in FINDINGS:
        if name == style.absent:
            lines.append(f"  {name}: {{absent: not done at this hospital}}")
        else:
            lines.append(f"  {name}: {{from: {quote(style.columns[name])}, codes: {_codes(style.finding, ('0', '1'))}}}")
    lines += ["leaks:", f"  {quote(style.leak)}: filled in for converters only", "ignored:"]
    lines.append(f"  {quote(style.extra)}: not in the contract")
    return "\n".join(lines) + "\n"


def _codes(native: tuple[str, str], meanings: tuple[str, str]) -> str:
    pairs = zip(native, meanings, strict=True)
    return "{" + ", ".join(f"{json.dumps(code)}: {json.dumps(meaning)}" for code, meaning in pairs) + "}"
