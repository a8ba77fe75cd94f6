"""What is read of a FHIR export before anything is understood of it, and what is refused."""

import json
import tracemalloc
from pathlib import Path

import pytest

from tasks.importing.errors import ImportRefused
from tasks.importing.fhir_source import read_entries

PATIENT = {"resourceType": "Patient", "id": "secret7"}


def bundle(*resources: object, **more: object) -> str:
    entries = [{"fullUrl": f"urn:uuid:{number}", "resource": each} for number, each in enumerate(resources)]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries, **more})


def refused(path: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        list(read_entries(path))
    assert caught.value.__cause__ is None
    assert "secret7" not in str(caught.value)
    return str(caught.value)


def test_bundles_and_lines_are_read_in_order_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(bundle(PATIENT, {"resourceType": "Encounter"}))
    (tmp_path / "a.ndjson").write_text(json.dumps(PATIENT) + "\n\n" + json.dumps({"resourceType": "Condition"}) + "\n")
    found = [(each.source[:6], each.number, each.full_url, each.resource["resourceType"]) for each in read_entries(tmp_path)]
    assert found == [
        ("file 1", 1, "", "Patient"), ("file 1", 3, "", "Condition"),
        ("file 2", 1, "urn:uuid:0", "Patient"), ("file 2", 2, "urn:uuid:1", "Encounter"),
    ]  # fmt: skip


def test_a_truncated_line_is_named_by_its_number_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "Patient.ndjson").write_text(json.dumps(PATIENT) + "\n" + json.dumps(PATIENT)[:-3] + "\n")
    assert "line 2, is not valid JSON" in refused(tmp_path)


def test_a_file_named_after_a_patient_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "secret7.json").write_text("{")
    assert refused(tmp_path).startswith("file 1 of 1")


@pytest.mark.parametrize("version", ["5.0.0", "3.0.2", "4.3.0", "4.01", "", 4])
def test_another_version_of_fhir_is_refused(tmp_path: Path, version: object) -> None:
    (tmp_path / "x.json").write_text(bundle(PATIENT, fhirVersion=version))
    assert "another version" in refused(tmp_path / "x.json")


@pytest.mark.parametrize("version", ["4.0", "4.0.0", "4.0.1"])
def test_r4_is_read(tmp_path: Path, version: str) -> None:
    (tmp_path / "x.json").write_text(bundle(PATIENT, fhirVersion=version))
    assert [each.resource for each in read_entries(tmp_path / "x.json")] == [PATIENT]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps(PATIENT), "no FHIR bundle"), ("[]", "no FHIR bundle"), ('{"secret7": NaN}', "not valid JSON"),
        ("[" * 200_000, "not valid JSON"), ('{"resourceType":"Bundle","entry":{}}', "must be a list"),
        ('{"resourceType":"Bundle","entry":[7]}', "entry 1"), ('{"resourceType":"Bundle","entry":[{}]}', "no resource"),
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert told in refused(tmp_path / "x.json")


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    assert "no .json" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "absent")


@pytest.mark.slow
def test_a_bulk_export_of_some_100_mb_is_streamed(tmp_path: Path) -> None:
    line = json.dumps({"resourceType": "Observation", "note": "x" * 400}) + "\n"
    with (tmp_path / "Observation.ndjson").open("w") as file:
        for _ in range(250):
            file.write(line * 1000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_entries(tmp_path)) == 250_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_half_a_character_is_refused_and_a_whole_one_read(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(bundle({"resourceType": "Patient", "id": "\U0001f9e0"}), encoding="utf-8")
    assert [entry.resource["id"] for entry in read_entries(path)] == ["\U0001f9e0"]
    path.write_text(bundle({"resourceType": "Patient", "id": "\ud83e"}), encoding="utf-8")
    assert "not valid JSON" in refused(path)
