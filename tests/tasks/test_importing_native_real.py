"""The shipped mappings on the published tables: what pandas reads there is what the contract's tables hold."""

import hashlib
import hmac
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from tasks.importing.errors import ImportRefused
from tasks.importing.native import Conversion, convert
from tasks.importing.native_mapping import MAPPINGS, read_native_mapping, shipped
from tasks.importing.native_source import read_sources
from tasks.importing.writing import write_contract
from tasks.ms.validate import Validated, validate_folder

KEY = b"k" * 32
TODAY = date(2026, 11, 29)
PLACES = {"cis_lithuania": "cis_to_ms", "cis_mexico": "cis_to_ms", "mslesseg": "mslesseg_clinical"}
FILES = {"cis_lithuania": "native_lithuania.csv", "cis_mexico": "native_mexico.csv", "mslesseg": "visits.csv"}


def brought(real_data: Path, name: str, out: Path) -> tuple[Conversion, Validated]:
    if not (real_data / PLACES[name]).is_dir():
        pytest.skip(f"no {PLACES[name]}: set WARDROUND_SHARED_DATA to the folder that holds it")
    mapping = read_native_mapping(MAPPINGS / f"{name}.yaml")
    conversion = convert(mapping, read_sources(mapping, real_data / PLACES[name]), KEY, today=TODAY)
    write_contract(conversion.imported, out, site=name)
    return conversion, validate_folder(out)


def table(real_data: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(real_data / PLACES[name] / FILES[name])


def hidden(number: object) -> str:
    return "p" + hmac.new(KEY, str(number).encode(), hashlib.sha256).hexdigest()[:32]


def test_every_shipped_mapping_is_tried_here() -> None:
    assert shipped() == sorted(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_it_passes_the_check_and_loses_no_row(real_data: Path, name: str, tmp_path: Path) -> None:
    conversion, validated = brought(real_data, name, tmp_path / "out")
    assert validated.report.passed(allow_quarantine=False), validated.report.to_text()
    read = sum(conversion.imported.read.values())
    assert read == len(table(real_data, name))
    left = {row for each in conversion.imported.problems if each.action == "row left out" for row in each.rows}
    came = {row.origin.number for rows in conversion.rows.values() for row in rows}
    assert (came & left, len(came | left)) == (set(), read)


def test_the_clinic_of_mexico_has_all_patients_but_the_two_of_one_number(real_data: Path, tmp_path: Path) -> None:
    conversion, validated = brought(real_data, "cis_mexico", tmp_path / "out")
    native = table(real_data, "cis_mexico")
    (problem,) = conversion.imported.problems
    assert (problem.rule, problem.rows) == ("duplicate_key", (89, 151))
    alone = native[~native["Patient"].duplicated(keep=False)]
    patients = validated.accepted["patients"].set_index("patient_id")
    assert set(patients.index) == set(map(hidden, alone["Patient"]))
    bands = {0: "neg", 1: "pos", 2: "unknown"}
    for row in alone.itertuples():
        found = patients.loc[hidden(row.Patient)]
        assert (found["sex"], found["education_years"]) == ({1: "M", 2: "F"}[row.Gender], row[4])
        assert found["ocb"] == bands[row[9]]
    assert (patients["onset_topography"] == "optic").sum() == (alone["initial symptom"] == 1).sum()


def test_no_edss_of_the_mexican_clinic_comes_along_because_it_tells_the_outcome(real_data: Path, tmp_path: Path) -> None:
    conversion, _ = brought(real_data, "cis_mexico", tmp_path / "out")
    native = table(real_data, "cis_mexico")
    assert (native["initial EDSS"].notna() == (native["group"] == 1)).all()
    assert set(conversion.imported.tables) == {"patients"}


def test_the_clinic_of_lithuania_has_all_patients(real_data: Path, tmp_path: Path) -> None:
    conversion, validated = brought(real_data, "cis_lithuania", tmp_path / "out")
    native = table(real_data, "cis_lithuania").set_index("Nr")
    patients = validated.accepted["patients"].set_index("patient_id")
    assert conversion.imported.problems == ()
    assert set(patients.index) == set(map(hidden, native.index))
    for number, row in native.iterrows():
        found = patients.loc[hidden(number)]
        assert found["sex"] == ("M" if row["Sex"] == 1 else "F")
        assert found["ocb"] is None if pd.isna(row["OGB + in CSF"]) else found["ocb"] == ("pos" if row["OGB + in CSF"] else "neg")


def test_mslesseg_keeps_each_edss_and_lesion_volume_on_its_day(real_data: Path, tmp_path: Path) -> None:
    conversion, validated = brought(real_data, "mslesseg", tmp_path / "out")
    native = table(real_data, "mslesseg")
    assert conversion.imported.problems == ()
    native["day"] = (
        ((native["age_years"] - native.groupby("patient_id")["age_years"].transform("min")) * 365.25).round().astype(int)
    )
    native["visit_id"] = "s" + native["session"].astype(str)
    key = ["patient_id", "day"]
    visits = validated.accepted["visits"].merge(native, on=[*key, "visit_id"], suffixes=("", "_native"))
    scans = validated.accepted["mri"].merge(native, on=key, suffixes=("", "_native"))
    assert (len(visits), len(scans), validated.accepted["patients"]["patient_id"].nunique()) == (92, 92, 52)
    assert (visits["edss"] == visits["edss_native"]).all()
    assert (scans["t2_vol_ml"] == scans["lesion_volume_mm3"] / 1000).all()
    assert (scans["t2_count"] == scans["lesion_count"]).all()
    assert (scans["vendor"].isna() == scans["manufacturer"].isna()).all()


def test_a_column_that_is_new_in_an_export_stops_the_import(real_data: Path, tmp_path: Path) -> None:
    text = (real_data / "cis_to_ms" / "native_mexico.csv").read_text(encoding="utf-8")
    first, *rest = text.splitlines()
    (tmp_path / "native_mexico.csv").write_text("\n".join([f"{first},Vitamin D", *(f"{line},30" for line in rest)]))
    mapping = read_native_mapping(MAPPINGS / "cis_mexico.yaml")
    with pytest.raises(ImportRefused, match="says nothing of the column 'Vitamin D'"):
        read_sources(mapping, tmp_path)
