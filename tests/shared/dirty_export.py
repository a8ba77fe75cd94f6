"""A hospital's export as it should not be: German, wide, with mistakes of every kind, and beside it the truth and each mistake.

Values come from the contract's invented samples. `planted` lists every mistake as the import must report it; `truth` holds the
rows and cells that can be had in spite of them.
"""

import csv
import datetime
import hashlib
import hmac
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from tasks.ms.contract import FUNCTIONAL_SYSTEMS
from tasks.ms.samples import Cells, invent_tables

KEY = b"a key of the hospital, 32 bytes!"
TODAY = datetime.date(2026, 11, 29)
SIZES = {"patients": 24, "visits": 240, "relapses": 96, "treatments": 96, "mri": 120, "evoked_potentials": 96, "biomarkers": 120}
GERMAN = {
    "sex": {"F": "w", "M": "m", "X": "d"},
    "smoking": {"never": "nie", "former": "ehemals", "current": "ja"},
    "ocb": {"pos": "positiv", "neg": "negativ", "unknown": "unklar"},
    "severity": {"mild": "leicht", "moderate": "mittel", "severe": "schwer"},
    "region": {"brain": "Kopf", "cord": "HWS", "both": "Kopf+HWS"},
    "field_t": {"0.5": "0,5 T", "1": "1 T", "1.5": "1,5 T", "3": "3 T", "7": "7 T"},
}
SEQUENCES = {
    "t1w": "T1",
    "t2w": "T2",
    "pdw": "PD",
    "flair": "FLAIR",
    "t1w_gd": "T1 KM",
    "dir": "DIR",
    "psir": "PSIR",
    "swi": "SWI",
    "dwi": "DWI",
    "mtr": "MTR",
    "qsm": "QSM",
}
SYSTEMS = {
    "visual": "visuell",
    "brainstem": "Hirnstamm",
    "pyramidal": "pyramidal",
    "cerebellar": "Kleinhirn",
    "sensory": "sensibel",
    "bowel_bladder": "Blase/Darm",
    "cerebral": "zerebral",
}
BRANDS = {
    "interferon_beta_1a": "Rebif 44 µg",
    "natalizumab": "Tysabry",
    "glatiramer_acetate": "Copaxone® 40 mg",
    "ahsct": "autologe Stammzelltransplantation",
}

Planted = tuple[str, str, str, str, str, int]  # source, table, column, rule, action, row
LEFT, EMPTY, REVIEW = "row left out", "value left empty", "kept for review"

# Cells that the spoiler plants, and that no report may quote.
WRONG = (
    "Zähringer", "Wundermittel", "Copaxonne", "Becken", "vielleicht", "31.02.2015", "12.34,5", "weiblich", "Müller", "4000/0",
)  # fmt: skip


@dataclass
class DirtyExport:
    """`files`: header and rows as texts; `truth`: cells by contract column, "" = empty, patients by their hospital number."""

    files: dict[str, list[list[str]]]
    truth: dict[str, list[dict[str, str]]]
    planted: set[Planted] = field(default_factory=set)
    drugs: list[str] = field(default_factory=list)  # texts for a reviewer

    def mapping(self, kind: str = "csv") -> str:
        return MAPPING.replace("FILES", "\n".join(_file_section(name, kind) for name in self.files))

    def write(self, folder: Path, kind: str = "csv") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        {"csv": _write_csv, "excel": _write_excel, "parquet": _write_parquet}[kind](folder, self.files)
        (folder / "mapping.yaml").write_text(self.mapping(kind), encoding="utf-8")
        return folder / "mapping.yaml"


def pseudonym(number: str) -> str:
    """Written out here once more, so that the import is not its own witness."""
    return "p" + hmac.new(KEY, number.encode(), hashlib.sha256).hexdigest()[:32]


def make(seed: int = 11, sizes: dict[str, int] = SIZES, *, dirty: bool = True) -> DirtyExport:
    tables = invent_tables(sizes, seed)
    names = {name: f"{4000 + number}/{number % 7}" for number, name in enumerate(tables["patients"]["patient_id"])}
    start = {
        number: datetime.date(2006, 1, 1) + datetime.timedelta(days=37 * index % 2200)
        for index, number in enumerate(names.values())
    }
    for cells in tables.values():
        cells["patient_id"] = [names[name] for name in cells["patient_id"]]
    export = DirtyExport({}, {})
    for build in (_patients, _visits, _relapses, _treatments, _mri, _potentials, _lab):
        build(export, tables, start)
    if dirty:
        _Spoiler(export, start).all()
    return export


def _rows(cells: Cells) -> list[dict[str, str]]:
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _date(day: str, patient: str, start: dict[str, datetime.date]) -> str:
    return f"{start[patient] + datetime.timedelta(days=int(day)):%d.%m.%Y}" if day else ""


def _comma(text: str, factor: str = "1") -> str:
    """A number with a decimal comma, in a unit of which one is `factor` of the contract's."""
    if not text:
        return ""
    number = f"{Decimal(text) / Decimal(factor):f}"
    return (number.rstrip("0").rstrip(".") if "." in number else number).replace(".", ",")


def _yes(text: str) -> str:
    return {"": "", "0": "nein", "1": "Ja"}[text]


def _patients(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    rows = [
        [
            "PatNr",
            "Geschlecht",
            "Geburtsdatum",
            "Erstvisite",
            "Größe (m)",
            "Gewicht",
            "Raucher",
            "OKB",
            "Beginn",
            "Diagnose",
            "Herz",
            "Notiz",
        ]
    ]
    truth = []
    for number, row in enumerate(_rows(tables["patients"])):
        patient = row["patient_id"]
        born = f"{1 + number % 28:02d}.{1 + number % 12:02d}.{row['birth_year']}" if row["birth_year"] else ""
        rows.append(
            [
                patient,
                GERMAN["sex"].get(row["sex"], ""),
                born,
                f"{start[patient]:%d.%m.%Y}",
                _comma(row["height_cm"], "100"),
                _comma(row["weight_kg"]),
                GERMAN["smoking"].get(row["smoking"], "k.A."),
                GERMAN["ocb"].get(row["ocb"], ""),
                _date(row["onset_day"], patient, start),
                _date(row["diagnosis_day"], patient, start),
                _yes(row["comorbid_cardio"]),
                "Frau Müller rief an",
            ]
        )
        kept = (
            "patient_id",
            "sex",
            "birth_year",
            "height_cm",
            "weight_kg",
            "smoking",
            "ocb",
            "onset_day",
            "diagnosis_day",
            "comorbid_cardio",
        )
        first = start[patient].year - start[patient].year % 3
        truth.append({name: row[name] for name in kept} | {"source": "rwd", "year_band": f"{first}-{first + 2}"})
    export.files["patienten"], export.truth["patients"] = rows, truth


def _visits(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    scores = [f"fs_{name}" for name in FUNCTIONAL_SYSTEMS]
    rows = [["PatNr", "Datum", "Visite", "EDSS", *SYSTEMS.values(), "Gehtest", "SDMT", "Infekt"]]
    truth = []
    for row in _rows(tables["visits"]):
        rows.append(
            [
                row["patient_id"],
                _date(row["day"], row["patient_id"], start),
                row["visit_id"],
                _comma(row["edss"]),
                *(row[name] or "n.u." for name in scores),
                _comma(row["t25fw_s"], "60") if _terminates(row["t25fw_s"]) else "",
                row["sdmt_n"],
                _yes(row["infection"]),
            ]
        )
        kept = ("patient_id", "day", "visit_id", "edss", *scores, "sdmt_n", "infection")
        walk = row["t25fw_s"] if _terminates(row["t25fw_s"]) else ""
        truth.append({name: row[name] for name in kept} | {"source": "rwd", "t25fw_s": walk})
    export.files["visiten"], export.truth["visits"] = rows, truth


def _terminates(seconds: str) -> bool:
    """Whether so many seconds are minutes with few decimals."""
    return bool(seconds) and (Decimal(seconds) / 60).normalize().as_tuple().exponent > -12  # type: ignore[operator]


def _relapses(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    rows = [["PatNr", "Beginn", "Ende", *SYSTEMS.values(), "Kortison", "Schwere"]]
    truth = []
    for row in _rows(tables["relapses"]):
        affected = row["fs_affected"].split("|")
        rows.append(
            [
                row["patient_id"],
                _date(row["onset_day"], row["patient_id"], start),
                _date(row["end_day"], row["patient_id"], start),
                *("x" if name in affected else "" for name in SYSTEMS),
                _yes(row["steroid"]),
                GERMAN["severity"].get(row["severity"], ""),
            ]
        )
        ordered = "|".join(name for name in SYSTEMS if name in affected)
        kept = ("patient_id", "onset_day", "end_day", "steroid", "severity")
        truth.append({name: row[name] for name in kept} | {"source": "rwd", "fs_affected": ordered, "onset_precision_d": "0"})
    export.files["schuebe"], export.truth["relapses"] = rows, truth


def _treatments(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    rows, truth = [["PatNr", "Medikament", "von", "bis"]], []
    for row in _rows(tables["treatments"]):
        row["drug"] = row["drug"] if row["drug"] not in {"other", "trial_blinded"} else "rituximab"
        patient, text = row["patient_id"], BRANDS.get(row["drug"], row["drug"].replace("_", " ").upper())
        rows.append([patient, text, _date(row["start_day"], patient, start), _date(row["end_day"], patient, start)])
        kept = {name: row[name] for name in ("patient_id", "start_day", "drug", "end_day")}
        truth.append(kept | {"source": "rwd", "dmt_class": row["dmt_class"] if row["drug"] != "rituximab" else "high"})
    export.files["therapien"], export.truth["treatments"] = rows, truth


def _mri(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    rows, truth = [["PatNr", "Datum", "Scan", "Region", "Feldstärke", "Sequenzen", "T2-Volumen (mm³)", "T2-Läsionen"]], []
    for row in _rows(tables["mri"]):
        sequences = [code for code in row["sequences"].split("|") if code]
        rows.append(
            [
                row["patient_id"],
                _date(row["day"], row["patient_id"], start),
                row["scan_id"],
                GERMAN["region"][row["region"]],
                GERMAN["field_t"].get(row["field_t"], ""),
                "; ".join(SEQUENCES[code] for code in sequences),
                _grouped(row["t2_vol_ml"]),
                row["t2_count"],
            ]
        )
        kept = ("patient_id", "day", "scan_id", "region", "field_t", "t2_vol_ml", "t2_count")
        truth.append(
            {name: row[name] for name in kept}
            | {"source": "rwd", "sequences": "|".join(code for code in SEQUENCES if code in sequences)}
        )
    export.files["mrt"], export.truth["mri"] = rows, truth


def _grouped(millilitres: str) -> str:
    """Cubic millimetres with points by the thousand and a decimal comma."""
    if not millilitres:
        return ""
    return f"{Decimal(millilitres) * 1000:,.1f}".replace(",", "'").replace(".", ",").replace("'", ".")


def _potentials(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    """One row for both eyes becomes two."""
    found = {
        (row["patient_id"], row["day"], row["side"]): row for row in _rows(tables["evoked_potentials"]) if row["modality"] == "VEP"
    }
    rows, truth = [["PatNr", "Datum", "VEP_L", "VEP_R"]], []
    for patient, day in dict.fromkeys((patient, day) for patient, day, _ in found):
        both = [found.get((patient, day, side), {}).get("latency_ms", "") for side in "LR"]
        if any(both):
            rows.append([patient, _date(day, patient, start), *map(_comma, both)])
        for side, latency in zip("LR", both, strict=True):
            if latency:
                truth.append(
                    {"patient_id": patient, "day": day, "modality": "VEP", "side": side, "latency_ms": latency, "source": "rwd"}
                )
    export.files["ep"], export.truth["evoked_potentials"] = rows, truth


def _lab(export: DirtyExport, tables: dict[str, Cells], start: dict[str, datetime.date]) -> None:
    found = {(row["patient_id"], row["day"], row["analyte"]): row["value"] for row in _rows(tables["biomarkers"])}
    rows, truth = [["PatNr", "Datum", "nfl (ng/L)", "gfap (ng/L)"]], []
    for patient, day in dict.fromkeys((patient, day) for patient, day, _ in found):
        values = {analyte: found.get((patient, day, analyte), "") for analyte in ("nfl", "gfap")}
        if any(values.values()):
            rows.append([patient, _date(day, patient, start), *map(_comma, values.values())])
        for analyte, value in values.items():
            if value:
                kept = {"patient_id": patient, "day": day, "analyte": analyte, "matrix": "serum", "value": value, "unit": "pg/mL"}
                truth.append(kept | {"source": "rwd"})
    export.files["labor"], export.truth["biomarkers"] = rows, truth


class _Spoiler:
    """Plants mistakes, each in a row of its own, and takes what they cost from the truth."""

    def __init__(self, export: DirtyExport, start: dict[str, datetime.date]) -> None:
        self._export, self._start = export, start
        # file -> its rows' places in the truth; a file whose rows become two is spoilt by hand
        self._gone: dict[str, set[int]] = {}

    def all(self) -> None:
        self._dates()
        self._cells()
        self._relapse_days()
        self._drugs()
        self._wide()
        self._copies()
        for table, places in self._gone.items():
            self._export.truth[table] = [row for place, row in enumerate(self._export.truth[table]) if place not in places]

    def _put(self, file: str, row: int, column: str, text: str) -> None:
        rows = self._export.files[file]
        rows[row - 1][rows[0].index(column)] = text

    def _spoil(self, file: str, table: str, row: int, column: str, text: str, rule: str, *empties: str, action: str = "") -> None:
        """Write `text`, which breaks `rule`: the row goes, or the contract columns `empties` are empty."""
        self._put(file, row, column, text)
        self._export.planted.add((file, table, column, rule, action or (EMPTY if empties else LEFT), row))
        if not empties:
            self._gone.setdefault(table, set()).add(row - 2)
        for name in empties:
            self._export.truth[table][row - 2][name] = ""

    def _dates(self) -> None:
        self._spoil("visiten", "visits", 3, "Datum", "31.02.2015", "no_such_date")
        self._spoil("visiten", "visits", 14, "Datum", "01.01.2090", "future_date")
        self._spoil("visiten", "visits", 25, "Datum", "03/04/2010", "ambiguous_date")
        self._spoil("visiten", "visits", 36, "Datum", "im Frühjahr", "not_a_date")
        self._spoil("visiten", "visits", 47, "Datum", "12.11.1889", "early_date")
        self._spoil("visiten", "visits", 58, "Datum", "", "required")
        self._spoil("patienten", "patients", 5, "Geburtsdatum", "00.00.1960", "no_such_date", "birth_year")
        # not mistakes: one format alone reads them, or an hour is added, or the century is left out
        for row, template in ((70, "%m/%d/%Y"), (71, "%d.%m.%Y %H:%M"), (72, "%d.%m.%y")):
            self._rewrite("visiten", "visits", row, "Datum", template)

    def _rewrite(self, file: str, table: str, row: int, column: str, template: str) -> None:
        patient = self._export.files[file][row - 1][0]
        place = self._export.truth[table][row - 2]
        date = self._start[patient] + datetime.timedelta(days=int(place["day"]))
        if "/" in template and date.day <= 12:  # both formats would read it: move the visit to the 28th
            date = date.replace(day=28)
            place["day"] = str((date - self._start[patient]).days)
        self._put(file, row, column, f"{date:{template}}")

    def _cells(self) -> None:
        self._spoil("visiten", "visits", 80, "EDSS", "3.5", "not_a_number", "edss")
        self._spoil("visiten", "visits", 81, "SDMT", "45,5", "not_whole", "sdmt_n")
        self._spoil("visiten", "visits", 82, "Infekt", "vielleicht", "not_yes_or_no", "infection")
        self._spoil("visiten", "visits", 83, "pyramidal", "2-3", "not_a_number", "fs_pyramidal")
        self._spoil("visiten", "visits", 84, "PatNr", "", "no_patient")
        self._export.planted = {("visiten", "", *each[2:]) if each[3] == "no_patient" else each for each in self._export.planted}
        self._spoil("visiten", "visits", 85, "Visite", "Visite bei Dr. Zähringer!", "pattern")
        self._spoil("patienten", "patients", 7, "Geschlecht", "weiblich?", "unknown_code", "sex")
        self._spoil("patienten", "patients", 8, "Größe (m)", "1.75", "not_a_number", "height_cm")
        self._spoil("patienten", "patients", 9, "OKB", "2", "unknown_code", "ocb")
        self._spoil("mrt", "mri", 4, "T2-Volumen (mm³)", "12.34,5", "not_a_number", "t2_vol_ml")
        self._spoil("mrt", "mri", 5, "T2-Volumen (mm³)", "<100", "not_a_number", "t2_vol_ml")
        self._spoil("mrt", "mri", 6, "Region", "Becken", "unknown_code")
        self._spoil("mrt", "mri", 7, "Sequenzen", "T1; SPAIR", "unknown_code", "sequences")
        self._put("patienten", 10, "Geschlecht", f"  {self._export.files['patienten'][9][1]} ")  # blanks around are no mistake

    def _relapse_days(self) -> None:
        self._spoil("schuebe", "relapses", 4, "Beginn", "2014", "imprecise_date")
        self._spoil("schuebe", "relapses", 9, "visuell", "?", "unknown_code", "fs_affected")
        patient, row = self._export.files["schuebe"][13][0], self._export.truth["relapses"][12]
        date = self._start[patient] + datetime.timedelta(days=int(row["onset_day"]))
        last = (date.replace(day=28) + datetime.timedelta(days=4)).replace(day=1) - datetime.timedelta(days=1)
        middle = date.replace(day=1) + datetime.timedelta(days=(last.day - 1) // 2)
        self._put("schuebe", 14, "Beginn", f"{date:%m.%Y}")
        self._put("schuebe", 14, "Ende", "")
        row |= {
            "onset_day": str((middle - self._start[patient]).days),
            "onset_precision_d": str(last.day - 1 - (last.day - 1) // 2),
            "end_day": "",
        }

    def _drugs(self) -> None:
        for row, text in ((5, "Wundermittel 3000"), (6, "Copaxonne"), (7, "Copaxonne")):
            self._spoil("therapien", "treatments", row, "Medikament", text, "unknown_drug", action=REVIEW)
            self._export.drugs.append(text)

    def _wide(self) -> None:
        """One cell of a wide row costs one of its two rows; a wrong date costs both."""
        rows = self._export.files["ep"]
        row = next(number for number, cells in enumerate(rows[1:], 2) if all(cells))
        patient, date = rows[row - 1][:2]
        self._put("ep", row, "VEP_R", "115 ms")
        day = str((datetime.datetime.strptime(date, "%d.%m.%Y").date() - self._start[patient]).days)
        for truth in self._export.truth["evoked_potentials"]:
            if (truth["patient_id"], truth["day"], truth["side"]) == (patient, day, "R"):
                truth["latency_ms"] = ""
        rows.append([patient, date, "", ""])
        self._export.planted |= {
            ("ep", "evoked_potentials", "VEP_R", "not_a_number", EMPTY, row),
            ("ep", "", "", "not_selected", LEFT, len(rows)),
        }
        patient = self._export.files["labor"][4][0]
        self._put("labor", 5, "Datum", "30.02.2012")
        self._export.planted.add(("labor", "biomarkers", "Datum", "no_such_date", LEFT, 5))
        self._export.truth["biomarkers"] = [row for row in self._export.truth["biomarkers"] if row["patient_id"] != patient]

    def _copies(self) -> None:
        """A row that stands twice, two that contradict each other, and blank rows at the end."""
        rows = self._export.files["visiten"]
        rows.append(list(rows[89]))
        self._export.planted.add(("visiten", "visits", "", "duplicate_row", LEFT, len(rows)))
        other = list(rows[94])
        other[rows[0].index("EDSS")] = "9,5" if other[3] != "9,5" else "9"
        rows.append(other)
        self._export.planted |= {("visiten", "visits", "", "duplicate_key", LEFT, row) for row in (95, len(rows))}
        self._gone.setdefault("visits", set()).add(93)
        rows += [[""] * len(rows[0])] * 2


def _file_section(name: str, kind: str) -> str:
    how = {
        "csv": f'name: {name}.csv, format: csv, encoding: cp1252, delimiter: ";"',
        "excel": f"name: export.xlsx, format: excel, sheet: {name}, header_row: 3",
        "parquet": f"name: {name}.parquet, format: parquet",
    }[kind]
    thousands = ', thousands: "."' if name == "mrt" else ""
    reasons = ", not_mapped: {Notiz: free text about the patient}" if name == "patienten" else ""
    return f'  {name}: {{{how}, decimal: ","{thousands}, patient: PatNr{reasons}}}'


def _write_csv(folder: Path, files: dict[str, list[list[str]]]) -> None:
    for name, rows in files.items():
        with (folder / f"{name}.csv").open("w", encoding="cp1252", newline="") as file:
            csv.writer(file, delimiter=";", lineterminator="\r\n").writerows(rows)


def _write_parquet(folder: Path, files: dict[str, list[list[str]]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, (header, *rows) in files.items():
        columns = {column: [row[place] or None for row in rows] for place, column in enumerate(header)}
        pq.write_table(
            pa.table({column: pa.array(texts, pa.string()) for column, texts in columns.items()}), folder / f"{name}.parquet"
        )


def _write_excel(folder: Path, files: dict[str, list[list[str]]]) -> None:
    """One sheet each, with a title above the header, so that a row stands two lower; whole dates and numbers are typed."""
    from openpyxl import Workbook

    book = Workbook()
    book.remove(book.active)
    for name, (header, *rows) in files.items():
        sheet = book.create_sheet(name)
        sheet.append([f"Export {name}"])
        sheet.append([])
        sheet.append(header)
        for row in rows:
            sheet.append([_typed(text, column) for text, column in zip(row, header, strict=True)])
    book.save(folder / "export.xlsx")


def _typed(text: str, column: str) -> Any:
    if column in {"EDSS", "Gewicht", "VEP_L", "SDMT", "nfl (ng/L)"} and text.replace(",", "", 1).isdigit():
        return float(text.replace(",", "."))
    if column in {"Datum", "von", "bis", "Erstvisite"} and len(text) == 10 and text[2] == text[5] == ".":
        try:
            return datetime.datetime(int(text[6:]), int(text[3:5]), int(text[:2]))
        except ValueError:
            return text
    return text or None


_CODES = {name: ", ".join(f'"{german}": {code}' for code, german in codes.items()) for name, codes in GERMAN.items()}
_SYSTEMS = "\n".join(f"        fs_{name}: {{from: {german}, as: number}}" for name, german in SYSTEMS.items())
_SEQUENCES = ", ".join(f"{german}: {code}" for code, german in SEQUENCES.items())
MAPPING = f"""
source: klinik
version: 1
recorded: rwd
language: de
missing: ["", "k.A.", "n.u."]
dates: ["%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y"]
pivot: 30
pseudonyms: keyed
index:
  date: {{file: patienten, from: Erstvisite}}
files:
FILES
tables:
  patients:
    - file: patienten
      columns:
        sex: {{from: Geschlecht, as: codes, codes: {{{_CODES["sex"]}}}}}
        birth_year: {{from: Geburtsdatum, as: year}}
        height_cm: {{from: Größe (m), as: number, unit: m}}
        weight_kg: {{from: Gewicht, as: number, unit: kg}}
        smoking: {{from: Raucher, as: codes, codes: {{{_CODES["smoking"]}}}}}
        ocb: {{from: OKB, as: codes, codes: {{{_CODES["ocb"]}}}}}
        onset_day: {{from: Beginn, as: date}}
        diagnosis_day: {{from: Diagnose, as: date}}
        comorbid_cardio: {{from: Herz, as: yes_no}}
  visits:
    - file: visiten
      columns:
        day: {{from: Datum, as: date}}
        visit_id: {{from: Visite, as: text}}
        edss: {{from: EDSS, as: number}}
{_SYSTEMS}
        t25fw_s: {{from: Gehtest, as: number, unit: min}}
        sdmt_n: {{from: SDMT, as: number}}
        infection: {{from: Infekt, as: yes_no}}
  relapses:
    - file: schuebe
      columns:
        onset_day: {{from: Beginn, as: date, dates: ["%d.%m.%Y", "%m.%Y", "%Y"]}}
        end_day: {{from: Ende, as: date}}
        fs_affected: {{as: set, of: {{{", ".join(f"{german}: {name}" for name, german in SYSTEMS.items())}}}, yes: [x], no: [""]}}
        steroid: {{from: Kortison, as: yes_no}}
        severity: {{from: Schwere, as: codes, codes: {{{_CODES["severity"]}}}}}
  treatments:
    - file: therapien
      columns:
        drug: {{from: Medikament, as: drug}}
        dmt_class: {{from: Medikament, as: drug_class}}
        start_day: {{from: von, as: date}}
        end_day: {{from: bis, as: date}}
  mri:
    - file: mrt
      columns:
        day: {{from: Datum, as: date}}
        scan_id: {{from: Scan, as: text}}
        region: {{from: Region, as: codes, codes: {{{_CODES["region"]}}}}}
        field_t: {{from: Feldstärke, as: codes, codes: {{{_CODES["field_t"]}}}}}
        sequences: {{from: Sequenzen, as: codes, separator: ";", codes: {{{_SEQUENCES}}}}}
        t2_vol_ml: {{from: T2-Volumen (mm³), as: number, unit: mm3}}
        t2_count: {{from: T2-Läsionen, as: number}}
  evoked_potentials:
    - file: ep
      repeat: {{side: [L, R]}}
      filled: ["VEP_{{side}}"]
      columns:
        day: {{from: Datum, as: date}}
        modality: {{constant: VEP}}
        side: {{constant: "{{side}}"}}
        latency_ms: {{from: "VEP_{{side}}", as: number, unit: ms}}
  biomarkers:
    - file: labor
      repeat: {{analyte: [nfl, gfap]}}
      filled: ["{{analyte}} (ng/L)"]
      columns:
        day: {{from: Datum, as: date}}
        analyte: {{constant: "{{analyte}}"}}
        matrix: {{constant: serum}}
        value: {{from: "{{analyte}} (ng/L)", as: number, unit: ng/L}}
        unit: {{constant: pg/mL}}
"""
