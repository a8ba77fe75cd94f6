"""The contract of the eleven tables: complete, free of contradiction, and light to import."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.errors import ContractError
from tasks.ms.contract import CONTRACT, DMT_CLASSES, DRUGS, FS_HIGHEST, FUNCTIONAL_SYSTEMS
from tasks.ms.rules import RULES, rule_called
from tasks.ms.schema import Column, DataContract, Limits, LimitsBy, Table

ID = Column("patient_id", "id", "pseudonym", key=True, nullable=False)
ELEVEN = (
    "patients", "visits", "relapses", "treatments", "mri", "oct", "evoked_potentials", "biomarkers", "proms", "wearables",
    "genetics",
)  # fmt: skip
KEYS = {
    "patients": ("patient_id",),
    "visits": ("patient_id", "day", "visit_id"),
    "relapses": ("patient_id", "onset_day"),
    "treatments": ("patient_id", "start_day", "drug"),
    "mri": ("patient_id", "day", "scan_id"),
    "oct": ("patient_id", "day", "eye"),
    "evoked_potentials": ("patient_id", "day", "modality", "side"),
    "biomarkers": ("patient_id", "day", "analyte"),
    "proms": ("patient_id", "day", "instrument", "item"),
    "wearables": ("patient_id", "week", "feature"),
    "genetics": ("patient_id",),
}
LIGHT = """
import sys
for name in ("pandas", "pandera", "pyarrow", "torch", "scipy"):
    sys.modules[name] = None
import tasks.ms.contract, tasks.ms.rules, tasks.ms.dictionary, tasks.ms.findings, tasks.ms.report_page, tasks.ms.reading
print(tasks.ms.contract.CONTRACT.version)
"""


def test_there_are_eleven_tables_with_the_agreed_keys() -> None:
    assert CONTRACT.names == ELEVEN
    assert {table.name: table.key for table in CONTRACT.tables} == KEYS


def test_every_row_says_where_it_is_from_and_may_say_why_something_is_missing() -> None:
    for table in CONTRACT.tables:
        assert table.names[-3:] == ("source", "quality", "missing_reason")
        assert "source" in table.required


def test_declarations_reading_and_pages_need_no_framework() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{CONTRACT.version}\n"), done.stderr[-1500:]


@pytest.mark.parametrize("table", CONTRACT.tables, ids=lambda table: table.name)
def test_every_column_explains_itself(table: Table) -> None:
    for column in table.columns:
        assert column.description[0].isupper() or column.description[0].isdigit() or column.description.startswith("total")
        assert not column.description.endswith(".")
        if column.kind == "number" and not column.unit and not column.values:
            assert column.limits_by is not None, f"{column.name} has no unit"


def test_every_drug_has_a_class_of_the_vocabulary_or_is_none() -> None:
    assert {dmt_class for _, classes in DRUGS.values() for dmt_class in classes} == set(DMT_CLASSES)
    assert {drug for drug, (_, classes) in DRUGS.items() if not classes} == {"none", "washout"}


def test_functional_systems_have_the_scores_of_the_scoring_sheet() -> None:
    visits = CONTRACT.table("visits")
    assert FS_HIGHEST.keys() == FUNCTIONAL_SYSTEMS.keys()
    highest = {name: visits.column(f"fs_{name}").limits for name in FUNCTIONAL_SYSTEMS}
    assert {name: limits.high for name, limits in highest.items() if limits} == dict(FS_HIGHEST)


def test_rules_have_one_name_each_and_say_what_to_do() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.sentence.endswith("."), rule.name
        assert rule.remedy.endswith("."), rule.name
        assert re.fullmatch(r"[a-z_]+", rule.name)
        assert rule_called(rule.name) is rule


def test_an_older_version_lacks_what_came_later() -> None:
    later = Column("new", "flag", "New", limits=Limits(0, 1), since=2)
    both = DataContract(
        2, "2027-01-01", (Table("a", "A", "a", "clinical", (ID, later)), Table("b", "B", "b", "clinical", (ID,), since=2))
    )
    old = both.at(1)
    assert (old.version, old.names, old.table("a").names) == (1, ("a",), ("patient_id",))
    assert both.at(2) == both


@pytest.mark.parametrize("version", [0, CONTRACT.version + 1])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(ContractError, match="not known here"):
        CONTRACT.at(version)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Big"}, "lower case"),
        ({"description": ""}, "say what it holds"),
        ({"kind": "number"}, "needs a range"),
        ({"limits": Limits(0, 1)}, "only a column of numbers"),
        ({"kind": "code"}, "vocabulary"),
        ({"vocabulary": {"a": "a"}}, "vocabulary"),
        ({"kind": "code", "vocabulary": {"a b": "a"}}, "other characters"),
        ({"kind": "number", "limits": Limits(0, 1), "usual": Limits(0, 2)}, "usual range"),
        ({"key": True}, "cannot be empty"),
    ],
)
def test_a_column_that_contradicts_itself_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        replace(Column("a", "label", "A"), **change)  # type: ignore[arg-type]  # wrong on purpose


def test_tables_and_contracts_that_contradict_themselves_are_refused() -> None:
    value = Column("value", "number", "V", limits_by=LimitsBy("what", {"a": Limits(0, 1)}))
    what = Column("what", "code", "W", vocabulary={"a": "a", "b": "b"})
    for columns, words in (((ID, ID), "twice"), ((what,), "no column is a key"), ((ID, what, value), "for each code")):
        with pytest.raises(ContractError, match=words):
            Table("t", "T", "t", "clinical", columns)
    with pytest.raises(ContractError, match="not in its key"):
        DataContract(1, "", (Table("t", "T", "t", "clinical", (replace(ID, name="other"),)),))
    with pytest.raises(ContractError, match="newer than the contract"):
        DataContract(1, "", (Table("t", "T", "t", "clinical", (ID,), since=2),))
    with pytest.raises(ContractError, match="lower end"):
        Limits(1, 1)
    with pytest.raises(ContractError, match="has no column"):
        CONTRACT.table("mri").column("nope")
    with pytest.raises(ContractError, match="has no table"):
        CONTRACT.table("nope")
