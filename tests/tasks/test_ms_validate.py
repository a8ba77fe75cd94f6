"""Validation of contract tables: every rule is broken once and named at the right row; right tables pass; no cell is quoted."""

import math
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_tables import ALL_COLUMNS, Tables, first_rows, right_tables, told

from tasks.errors import ContractError, DataError
from tasks.ms.contract import CONTRACT
from tasks.ms.manifest import MANIFEST_FILE
from tasks.ms.rows import edss_from_scores
from tasks.ms.rules import RULES
from tasks.ms.samples import SMALL, invent_tables, write_tables
from tasks.ms.schema import Column
from tasks.ms.validate import validate_folder
from tasks.simulator import Schedule, SiteSpec, simulate_site
from tasks.simulator.writer import encoded

Told = set[tuple[str, str, str, tuple[int, ...]]]
VISITS, RELAPSES, TREATMENTS, MRI = (first_rows(name) for name in ("visits", "relapses", "treatments", "mri"))


# -- every rule, broken once ---------------------------------------------------------------------------------------------------


def one_cell(rule: str, table: str, row: int, column: str, value: str) -> tuple[str, Callable[[Tables], Told]]:
    def spoil(tables: Tables) -> Told:
        tables.put(table, row, **{column: value})
        return {(rule, table, column, (row,))}

    return rule, spoil


def twice(tables: Tables) -> Told:
    row = tables.add("oct", like=3)
    return {("duplicate_row", "oct", "patient_id, day, eye", (row,))}


def two_under_one_key(tables: Tables) -> Told:
    tables.put("oct", 3, prnfl_um="80")
    row = tables.add("oct", like=3, prnfl_um="81")
    return {("duplicate_key", "oct", "patient_id, day, eye", (3, row))}


def wrong_unit(tables: Tables) -> Told:
    tables.put("biomarkers", 2, value="5", unit="mg/dL")
    return {("unit", "biomarkers", "unit", (2,))}


def class_of_another_drug(tables: Tables) -> Told:
    tables.put("treatments", TREATMENTS[0], drug="natalizumab", dmt_class="platform")
    tables.put("treatments", TREATMENTS[1], drug="ocrelizumab", dmt_class="high")
    return {("drug_class", "treatments", "dmt_class", (TREATMENTS[0],))}


def edss_without_signs(tables: Tables) -> Told:
    systems = [name for name in CONTRACT.table("visits").names if name.startswith("fs_")]
    tables.put("visits", 4, edss="3", missing_reason="", **dict.fromkeys(systems, "0"))
    return {("fs_edss", "visits", "edss", (4,))}


def reason_for_nothing(tables: Tables) -> Told:
    measured = {"latency_ms": "100", "amplitude_uv": "9", "cct_ms": "15"}
    tables.put("evoked_potentials", 5, missing_reason="refused", **measured)
    return {("reason_without_gap", "evoked_potentials", "missing_reason", (5,))}


def nobody(tables: Tables) -> Told:
    tables.put("oct", 5, patient_id="p99999")
    return {("no_such_patient", "oct", "patient_id", (5,))}


def two_of_a_class(tables: Tables) -> Told:
    first, second, third = TREATMENTS[:3]
    tables.put("treatments", first, drug="fingolimod", dmt_class="moderate")
    tables.put("treatments", second, drug="ozanimod", dmt_class="moderate")
    tables.put("treatments", third, drug="ocrelizumab", dmt_class="high")
    tables.put("treatments", first, end_day=str(int(tables.get("treatments", second, "start_day")) + 1))
    return {("dmt_overlap", "treatments", "start_day", (second,))}


def too_soon(tables: Tables) -> Told:
    first, second = RELAPSES[:2]
    day = int(tables.get("relapses", first, "onset_day"))
    tables.put("relapses", second, onset_day=str(day + 29), end_day="")
    return {("relapse_gap", "relapses", "onset_day", (second,))}


def shrinking_brain(tables: Tables) -> Told:
    first, second = MRI[-2:]
    same = {"scanner_id": "s1", "vendor": "ge", "field_t": "3"}
    tables.put("mri", first, thalamus_ml="12", **same).put("mri", second, thalamus_ml="10.1", **same)
    for row in MRI[:-2]:
        tables.put("mri", row, thalamus_ml="")
    return {("volume_jump", "mri", "thalamus_ml", (second,))}


def after_the_end(tables: Tables) -> Told:
    tables.only("patients", "visits")
    days = sorted((int(tables.get("visits", row, "day")), row) for row in VISITS)
    tables.put("patients", 2, death_day=str(days[-1][0] - 1))
    return {("after_death", "visits", "day", (days[-1][1],))}


def too_few_scores(tables: Tables) -> Told:
    for row in VISITS[2:]:
        tables.put("visits", row, edss="")
    return {("few_edss", "patients", "patient_id", (2,))}


ROWS: tuple[tuple[str, Callable[[Tables], Told]], ...] = (
    one_cell("required", "visits", 3, "source", ""),
    one_cell("required", "mri", 3, "scan_id", ""),
    one_cell("not_a_number", "visits", 3, "t25fw_s", "5,1"),
    one_cell("not_a_number", "visits", 3, "ambulation_m", "nan"),
    one_cell("not_a_number", "visits", 3, "ambulation_m", "1e999"),
    one_cell("not_a_number", "visits", 3, "day", "12.03.2019"),
    one_cell("not_whole", "visits", 3, "sdmt_n", "51.5"),
    one_cell("range", "patients", 3, "birth_year", "1919"),
    one_cell("range", "visits", 3, "day", "20190312"),
    one_cell("range", "biomarkers", 2, "value", "1000000"),
    one_cell("range", "proms", 2, "score", "101"),
    one_cell("range", "wearables", 2, "value", "-1"),
    one_cell("grid", "visits", 3, "edss", "0.5"),
    one_cell("grid", "visits", 3, "edss", "2.3"),
    one_cell("grid", "mri", 3, "field_t", "2"),
    one_cell("vocabulary", "patients", 3, "sex", "W"),
    one_cell("vocabulary", "patients", 3, "phenotype_entry", "rrms"),
    one_cell("vocabulary", "relapses", 3, "fs_affected", "visual|legs"),
    one_cell("vocabulary", "treatments", 3, "drug", "Tysabri"),
    one_cell("pattern", "oct", 3, "patient_id", "Anna Muster"),
    one_cell("pattern", "treatments", 3, "atc", "l04"),
    one_cell("pattern", "proms", 3, "item", "item 1"),
    one_cell("unusual", "patients", 3, "height_cm", "210"),
    one_cell("order", "relapses", 3, "end_day", "-9999"),
    one_cell("order", "patients", 3, "diagnosis_day", "-9999"),
    ("duplicate_row", twice),
    ("duplicate_key", two_under_one_key),
    ("unit", wrong_unit),
    ("drug_class", class_of_another_drug),
    ("fs_edss", edss_without_signs),
    ("reason_without_gap", reason_for_nothing),
    ("no_such_patient", nobody),
    ("dmt_overlap", two_of_a_class),
    ("relapse_gap", too_soon),
    ("volume_jump", shrinking_brain),
    ("after_death", after_the_end),
    ("few_edss", too_few_scores),
)


@pytest.mark.parametrize(("rule", "spoil"), ROWS, ids=[f"{number}-{rule}" for number, (rule, _) in enumerate(ROWS)])
def test_a_row_that_breaks_a_rule_is_named_and_no_other(rule: str, spoil: Callable[[Tables], Told], tmp_path: Path) -> None:
    tables = Tables()
    expected = spoil(tables)
    validated = tables.check(tmp_path)
    assert told(validated.report.findings) == expected
    (finding,) = [each for each in validated.report.findings if each.rule.name == rule]
    assert len(finding.keys) == len(finding.rows)
    spoilt = finding.rows if finding.severity == "error" else ()
    (table,) = [each for each in validated.report.tables if each.table == finding.table]
    assert (table.quarantined, table.read) == (len(spoilt), table.accepted + table.held + len(spoilt))


def csv_with(line: str, table: str = "oct") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with (folder / f"{table}.csv").open("a", encoding="utf-8") as file:
            file.write(line)

    return spoil


def header_with(extra: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "genetics.csv"
        head, *rest = path.read_text("utf-8").splitlines()
        path.write_text("\n".join([f"{head},{extra}", *(f"{line},1" for line in rest)]) + "\n", "utf-8")

    return spoil


def without_header(folder: Path) -> None:
    path = folder / "oct.csv"
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[1:]), "utf-8")


def in_latin_1(folder: Path) -> None:
    (folder / "oct.csv").write_bytes((folder / "oct.csv").read_bytes() + "Müller\n".encode("latin-1"))


def as_parquet_too(folder: Path) -> None:
    (folder / "oct.parquet").write_bytes(b"")


def without_patients(folder: Path) -> None:
    (folder / "patients.csv").unlink()


LAST = SMALL["oct"] + 2
FILES: tuple[tuple[str, Callable[[Path], None], tuple[str, str, tuple[int, ...]]], ...] = (
    ("blank_row", csv_with(" , ,\n"), ("oct", "", (LAST,))),
    ("malformed_row", csv_with("p00001,5\n"), ("oct", "", (LAST,))),
    ("missing_column", without_header, ("oct", "patient_id, day, eye, source", ())),
    ("unknown_column", header_with("edss_score"), ("genetics", "", ())),
    ("unreadable", header_with("panel"), ("genetics", "panel", ())),
    ("unreadable", in_latin_1, ("oct", "", ())),
    ("unreadable", csv_with('"open'), ("oct", "", ())),
    ("two_files", as_parquet_too, ("oct", "", ())),
    ("no_patients", without_patients, ("patients", "", ())),
)


@pytest.mark.parametrize(("rule", "spoil", "where"), FILES, ids=[f"{n}-{rule}" for n, (rule, _, _) in enumerate(FILES)])
def test_a_file_that_breaks_a_rule_is_named(
    rule: str, spoil: Callable[[Path], None], where: tuple[str, str, tuple[int, ...]], tmp_path: Path
) -> None:
    folder = Tables().write(tmp_path)
    spoil(folder)
    report = validate_folder(folder).report
    assert told(report.findings) == {(rule, *where)}
    assert report.passed(allow_quarantine=True) == (rule in {"blank_row", "malformed_row"})


def test_every_rule_is_broken_by_one_of_these_tables() -> None:
    broken = {rule for rule, _ in ROWS} | {rule for rule, _, _ in FILES}
    assert broken | {"manifest", "no_manifest"} == {rule.name for rule in RULES}


# -- the manifest ---------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_what_its_manifest_says_has_no_findings(tmp_path: Path) -> None:
    write_tables(tmp_path, right_tables(), site="aalborg")
    report = validate_folder(tmp_path).report
    assert (report.findings, report.site, report.contract_version) == ((), "aalborg", CONTRACT.version)


@pytest.mark.parametrize(
    ("spoil", "table", "words"),
    [
        (lambda folder: csv_with("p00001,0,L,,,,,,,,,,,,rwd,,\n")(folder), "oct", "has changed"),
        (lambda folder: (folder / "oct.csv").unlink(), "oct", "not there"),
        (lambda folder: write_tables(folder, {"oct": right_tables()["oct"]}) or (folder / MANIFEST_FILE), "genetics", "not listed"),
    ],
)
def test_tables_that_are_not_those_of_the_manifest_are_named(
    spoil: Callable[[Path], object], table: str, words: str, tmp_path: Path
) -> None:
    write_tables(tmp_path, right_tables())
    spoil(tmp_path)
    found = [each for each in validate_folder(tmp_path).report.findings if each.rule.name == "manifest"]
    assert [each.table for each in found if words in each.demand and each.table == table] == [table]


def test_without_a_manifest_the_report_says_so_and_passes(tmp_path: Path) -> None:
    report = Tables().check(tmp_path).report
    assert [each.rule.name for each in report.findings] == ["no_manifest"]
    assert report.passed(allow_quarantine=False)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format":"wardround/site-tables","format_version":1,"site_id":"a",'
    '"contract_version":1,"modalities":[],"tables":{"oct":{"file":"oct.csv"}}}', '{"format":"x","format_version":1,"site_id":"a",'
    '"contract_version":1,"modalities":[],"tables":{}}'],
)  # fmt: skip
def test_a_manifest_that_is_none_stops_the_check(content: str, tmp_path: Path) -> None:
    Tables().write(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        validate_folder(tmp_path)


def test_a_version_of_the_contract_from_the_future_is_refused(tmp_path: Path) -> None:
    write_tables(tmp_path, right_tables())
    path = tmp_path / MANIFEST_FILE
    path.write_text(path.read_text().replace('"contract_version": 1', '"contract_version": 99'))
    with pytest.raises(ContractError, match="version 99 is not known here"):
        validate_folder(tmp_path)


# -- what is right passes -------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ending=st.sampled_from([".csv", ".parquet"]))
def test_tables_made_from_the_contract_pass_whatever_the_seed(seed: int, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), invent_tables(SMALL, seed), ending=ending)
        validated = validate_folder(Path(folder))
    assert [each for each in validated.report.findings if each.severity != "note"] == []
    assert {name: len(rows) for name, rows in validated.accepted.items()} == dict(SMALL)


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    accepted = []
    for ending in (".csv", ".parquet"):
        write_tables(tmp_path / ending, right_tables(), ending=ending)
        accepted.append(validate_folder(tmp_path / ending).accepted)
    for name in SMALL:
        assert accepted[0][name].equals(accepted[1][name]), name


def test_a_spreadsheets_whole_numbers_with_a_point_are_whole(tmp_path: Path) -> None:
    tables = Tables().put("visits", 3, sdmt_n="51.0", fs_visual="1.0")
    tables.put("visits", 3, edss="")
    assert told(tables.check(tmp_path).report.findings) == set()


# -- one wrong cell is one finding ----------------------------------------------------------------------------------------------


def wrong_value(column: Column, chance: random.Random) -> tuple[str, str]:
    """A cell that the declaration of `column` forbids, and the rule that must say so."""
    if column.kind in {"code", "codes"}:
        return chance.choice(["no_such_code", "X Y", "|"]), "vocabulary"
    if column.kind in {"id", "label"}:
        return chance.choice(["§", "-", "a\tb", "x" * 200]), "pattern"
    if column.values:
        return f"{max(column.values) + chance.randint(1, 9)}", "grid"
    bounds = [column.limits] if column.limits else list(column.limits_by.limits.values()) if column.limits_by else []
    low, high = math.floor(min(each.low for each in bounds)), math.ceil(max(each.high for each in bounds))
    return str(chance.choice([low - chance.randint(1, 1000), high + chance.randint(1, 1000)])), "range"


def assert_found_alone(place: tuple[str, str], chance: random.Random) -> None:
    """A wrong cell in a random row of one column is one finding, and its row alone is set aside."""
    table, column = place
    row = chance.randrange(2, SMALL[table] + 2)
    value, rule = wrong_value(CONTRACT.table(table).column(column), chance)
    others = {"patients", "visits", table} if place != ("patients", "patient_id") else {"patients"}
    tables = (
        Tables().only(*sorted(others)).put(table, row, **{column: value})
    )  # without its pseudonym a patient is missed elsewhere
    with tempfile.TemporaryDirectory() as folder:
        validated = tables.check(Path(folder))
    found = [each for each in validated.report.findings if each.severity != "note"]
    assert told(found) == {(rule, table, column, (row,))}
    assert {name: [number for number, _, _ in aside.rows] for name, aside in validated.set_aside.items()} == {table: [row]}
    for each in validated.report.tables:
        assert each.read == each.accepted + each.held + each.quarantined + each.blank


@settings(max_examples=30, deadline=None)
@given(place=st.sampled_from(ALL_COLUMNS), chance=st.randoms(use_true_random=False))
def test_any_wrong_cell_is_found_at_its_row_and_nowhere_else(place: tuple[str, str], chance: random.Random) -> None:
    assert_found_alone(place, chance)


@pytest.mark.slow
@pytest.mark.parametrize("place", ALL_COLUMNS, ids=".".join)
def test_a_wrong_cell_of_each_column_is_found_at_its_row_and_nowhere_else(place: tuple[str, str]) -> None:
    chance = random.Random(".".join(place))
    for _ in range(2):
        assert_found_alone(place, chance)


def test_both_ends_of_every_range_are_within_it(tmp_path: Path) -> None:
    tables = Tables()
    for table, name in ALL_COLUMNS:
        column = CONTRACT.table(table).column(name)
        if column.limits is not None and not column.key and column.limits_by is None:
            tables.put(table, 2, **{name: f"{column.limits.low:g}"}).put(table, 3, **{name: f"{column.limits.high:g}"})
    found = {each.rule.name for each in tables.check(tmp_path).report.findings}
    assert found & {"range", "grid", "not_a_number", "not_whole"} == set()


# -- details of single rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "edss"),
    [
        ((0, 0, 0, 0, 0, 0, 0), 0.0),
        ((1, 0, 0, 0, 0, 0, 0), 1.0),
        ((1, 1, 0, 0, 0, 0, 0), 1.5),
        ((2, 1, 1, 1, 0, 0, 0), 2.0),
        ((2, 2, 0, 0, 0, 0, 0), 2.5),
        ((2, 2, 2, 0, 0, 0, 0), 3.0),
        ((3, 1, 0, 0, 0, 0, 0), 3.0),
        ((3, 2, 0, 0, 0, 0, 0), 3.5),
        ((3, 3, 0, 0, 0, 0, 0), 3.5),
        ((2, 2, 2, 2, 2, 0, 0), 3.5),
        ((3, 2, 2, 2, 0, 0, 0), 4.0),
        ((4, 0, 0, 0, 0, 0, 0), 4.0),
    ],
)
def test_the_edss_follows_from_the_functional_systems(scores: tuple[int, ...], edss: float) -> None:
    assert edss_from_scores(np.array([scores])).tolist() == [edss]


@pytest.mark.parametrize("system", ["fs_visual", "fs_bowel_bladder"])
def test_visual_and_bladder_scores_are_converted_before_the_edss_is_read_off(system: str, tmp_path: Path) -> None:
    systems = {name: "0" for name in CONTRACT.table("visits").names if name.startswith("fs_")} | {"missing_reason": ""}
    tables = Tables().put("visits", 3, **systems | {system: "4", "edss": "3"})  # raw 4 counts as 3
    tables.put("visits", 4, **systems | {system: "4", "edss": "2"})
    assert told(tables.check(tmp_path).report.findings) == {("fs_edss", "visits", "edss", (4,))}


def test_rows_whose_keys_cannot_be_read_are_not_taken_for_one_row(tmp_path: Path) -> None:
    first, second = VISITS[:2]
    tables = Tables().put("visits", first, day="early", visit_id="v9").put("visits", second, day="late", visit_id="v9")
    assert told(tables.check(tmp_path).report.findings) == {("not_a_number", "visits", "day", (first, second))}


def test_a_part_of_a_key_that_is_wrong_is_shown_as_a_question_mark(tmp_path: Path) -> None:
    tables = Tables().put("treatments", TREATMENTS[0], drug="Tysabri").put("oct", 3, patient_id="Anna Muster", day="x")
    keys = {each.table: each.keys for each in tables.check(tmp_path).report.of("error")}
    day, eye = tables.get("treatments", TREATMENTS[0], "start_day"), tables.get("oct", 3, "eye")
    assert keys == {"treatments": (f"p00001, {day}, ?",), "oct": (f"?, ?, {eye}",)}


def test_a_row_that_is_wrong_in_itself_takes_no_part_in_rules_between_rows(tmp_path: Path) -> None:
    tables = Tables()
    two_of_a_class(tables)
    tables.put("treatments", TREATMENTS[0], source="")
    assert told(tables.check(tmp_path).report.findings) == {("required", "treatments", "source", (TREATMENTS[0],))}


@pytest.mark.parametrize("change", [{"scanner_id": "s2"}, {"vendor": "philips"}, {"field_t": "1.5"}])
def test_a_volume_may_jump_when_the_scanner_changed(change: dict[str, str], tmp_path: Path) -> None:
    tables = Tables()
    shrinking_brain(tables)
    tables.put("mri", MRI[-1], **change)
    assert told(tables.check(tmp_path).report.findings) == set()


def test_a_long_therapy_overlaps_with_all_of_its_class_within_it(tmp_path: Path) -> None:
    tables = Tables().only("patients", "treatments")
    for row in TREATMENTS[3:]:
        tables.put("treatments", row, drug="none", dmt_class="")
    for row, (start, end) in zip(TREATMENTS[:3], ((0, 100), (10, 20), (30, 40)), strict=True):
        tables.put("treatments", row, drug="natalizumab", dmt_class="high", start_day=str(start), end_day=str(end))
    assert told(tables.check(tmp_path).report.of("error")) == {("dmt_overlap", "treatments", "start_day", tuple(TREATMENTS[1:3]))}


def test_the_day_of_death_itself_may_have_a_visit(tmp_path: Path) -> None:
    tables = Tables().only("patients", "visits")
    tables.put("patients", 2, death_day=max((tables.get("visits", row, "day") for row in VISITS), key=int))
    assert told(tables.check(tmp_path).report.findings) == set()


def test_an_item_of_a_questionnaire_is_not_held_to_the_range_of_its_total(tmp_path: Path) -> None:
    (row,) = [row for row in first_rows("proms") if right_tables()["proms"]["instrument"][row - 2] == "EQ5D"][:1] or [2]
    tables = Tables().put("proms", row, instrument="EQ5D", item="mobility", score="5")
    assert told(tables.check(tmp_path).report.findings) == set()
    tables.put("proms", row, item="total")
    assert told(tables.check(tmp_path).report.findings) == {("range", "proms", "score", (row,))}


def test_a_volume_may_differ_by_fifteen_percent(tmp_path: Path) -> None:
    tables = Tables()
    shrinking_brain(tables)
    tables.put("mri", MRI[-2], thalamus_ml="20").put("mri", MRI[-1], thalamus_ml="17")
    assert told(tables.check(tmp_path).report.findings) == set()


def test_a_relapse_thirty_days_after_another_is_one(tmp_path: Path) -> None:
    tables = Tables()
    day = int(tables.get("relapses", RELAPSES[0], "onset_day"))
    tables.put("relapses", RELAPSES[1], onset_day=str(day + 30), end_day="")
    assert told(tables.check(tmp_path).report.findings) == set()


def test_a_relapse_too_soon_does_not_hide_the_next_one(tmp_path: Path) -> None:
    """Days 0, 20, 40: the second is too soon after the first, the third is 40 days after it."""
    tables = Tables().only("patients", "relapses")
    for row, day in zip(RELAPSES[:3], (-3000, -2980, -2960), strict=True):
        tables.put("relapses", row, onset_day=str(day), end_day="")
    assert told(tables.check(tmp_path).report.findings) == {("relapse_gap", "relapses", "onset_day", (RELAPSES[1],))}


def test_a_therapy_may_begin_on_the_day_another_of_its_class_ends(tmp_path: Path) -> None:
    tables = Tables()
    two_of_a_class(tables)
    tables.put("treatments", TREATMENTS[0], end_day=tables.get("treatments", TREATMENTS[1], "start_day"))
    assert told(tables.check(tmp_path).report.findings) == set()


@pytest.mark.parametrize(("days", "eligible"), [((0, 365, 730), True), ((0, 365), False), ((0, 700, 1400), False)])
def test_labels_of_progression_need_three_scores_and_one_a_year(days: tuple[int, ...], eligible: bool, tmp_path: Path) -> None:
    tables = Tables().only("patients", "visits")
    for row in VISITS:
        tables.put("visits", row, edss="")
    for row, day in zip(VISITS, days, strict=False):
        tables.put("visits", row, day=str(day), edss="8")
    report = tables.check(tmp_path).report
    assert report.eligible == SMALL["patients"] - (not eligible)
    assert [each.rows for each in report.of("note") if each.rule.name == "few_edss"] == ([] if eligible else [(2,)])


def test_rows_of_a_patient_in_quarantine_are_held_and_counted(tmp_path: Path) -> None:
    validated = Tables().put("patients", 2, sex="W").check(tmp_path)
    held = {each.table: each.held for each in validated.report.tables if each.held}
    assert held == {name: len(first_rows(name)) for name in SMALL if name != "patients"}
    assert "p00001" not in set(validated.accepted["visits"]["patient_id"])
    assert validated.report.quarantined == 1


# -- whatever a file holds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables_without_rows_are_no_error(ending: str, tmp_path: Path) -> None:
    write_tables(tmp_path, {name: {column: [] for column in cells} for name, cells in right_tables().items()}, ending=ending)
    report = validate_folder(tmp_path).report
    assert told(report.findings) == set()
    assert report.eligible == 0


def test_a_table_may_have_its_required_columns_alone_in_any_order(tmp_path: Path) -> None:
    tables = Tables()
    for name, cells in tables.cells.items():
        tables.cells[name] = {column: cells[column] for column in reversed(CONTRACT.table(name).required)}
    report = tables.check(tmp_path).report
    assert {each.rule.name for each in report.findings} == {"no_manifest", "few_edss"}


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["patients", "treatments", "biomarkers"]),
    at=st.integers(0, 3000),
    put=st.one_of(st.binary(max_size=4), st.sampled_from([b"\0", b'"', b"\n", b",", b"\r\n\r\n", b"\xef\xbb\xbf", b"1e400", b"|"])),
    ending=st.sampled_from([".csv", ".parquet"]),
)
def test_a_damaged_file_ends_in_findings_whatever_the_damage(name: str, at: int, put: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        few = {table: right_tables()[table] for table in ("patients", name)}
        write_tables(Path(folder), few, ending=ending)
        (Path(folder) / MANIFEST_FILE).unlink()
        path = Path(folder) / f"{name}{ending}"
        data = path.read_bytes()
        path.write_bytes(data[:at] + put + data[at + 1 :])
        report = validate_folder(Path(folder)).report
    for each in report.tables:
        assert each.refused or each.read == each.accepted + each.held + each.quarantined + each.blank


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_that_come_later_take_no_earlier_row_away(seed: int, tmp_path: Path) -> None:
    """Else an input made of accepted rows would know the future."""
    tables = simulate_site(SiteSpec("clinic", 60, Schedule.REGISTRY), seed)[0].tables
    again = tables["treatments"].dropna(subset=["dmt_class"]).assign(end_day=pd.NA)
    again["start_day"] = again["start_day"] + 400  # every therapy, begun once more while it may go on
    later = tables["relapses"].assign(end_day=pd.NA)
    later["onset_day"] = later["onset_day"] + 10
    whole = {**tables, "treatments": pd.concat([tables["treatments"], again]), "relapses": pd.concat([tables["relapses"], later])}
    whole = {name: rows.drop_duplicates(KEYS_OF[name]) if name in KEYS_OF else rows for name, rows in whole.items()}
    accepted = accepted_of(whole, tmp_path / "whole")
    for day in (-400, 0, 500, 1500):
        cut = {name: rows[rows[DAY_OF[name]] <= day] if name in DAY_OF else rows for name, rows in whole.items()}
        known = accepted_of(cut, tmp_path / str(day))
        for name, column in DAY_OF.items():
            later_known = accepted[name][accepted[name][column] <= day]
            assert keys(known.get(name), name) == keys(later_known, name)


KEYS_OF = {"treatments": ["patient_id", "start_day", "drug"], "relapses": ["patient_id", "onset_day"]}
DAY_OF = {"visits": "day", "relapses": "onset_day", "treatments": "start_day", "mri": "day"}


def keys(rows: pd.DataFrame | None, name: str) -> set[tuple[object, ...]]:
    if rows is None:
        return set()
    named = [column for column in ("patient_id", DAY_OF[name], "drug", "scan_id", "visit_id") if column in rows]
    return set(rows[named].itertuples(index=False, name=None))


def accepted_of(tables: Mapping[str, pd.DataFrame], folder: Path) -> Mapping[str, pd.DataFrame]:
    folder.mkdir()
    for name in ("patients", *DAY_OF):
        if len(tables[name]):
            (folder / f"{name}.csv").write_bytes(encoded(tables[name], "csv"))
    return validate_folder(folder).accepted
