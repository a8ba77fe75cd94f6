"""The data dictionary says everything that the contract declares, and the committed one is the contract's."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from client.cli import main
from tasks.ms.contract import CONTRACT
from tasks.ms.dictionary import dictionary_json, dictionary_page
from tasks.ms.rules import RULES
from tasks.ms.schema import Table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return dictionary_page(CONTRACT)


def rows_of(page: str, table: Table) -> dict[str, str]:
    """The text of each column's row in one table's section."""
    section = page.split(f'<h2 id="{table.name}">')[1].split("</section>")[0]
    rows = section.split("<tr>")[2:]
    return {re.findall(r"<code>([a-z0-9_]+)</code>", row)[0]: unescape(re.sub(r"<[^>]+>", " ", row)) for row in rows}


@pytest.mark.parametrize("table", CONTRACT.tables, ids=lambda table: table.name)
def test_every_column_has_a_row_with_its_meaning_unit_range_and_codes(page: str, table: Table) -> None:
    rows = rows_of(page, table)
    assert tuple(rows) == table.names
    for column in table.columns:
        told = rows[column.name]
        assert column.description in told
        assert column.source in told
        assert ("required" in told) == (not column.nullable and not column.key)
        assert not [code for code in column.vocabulary if code not in told]
        if column.unit and column.kind != "day":
            assert f"({column.unit})" in told
        if column.kind == "flag":
            assert "0 = no, 1 = yes" in told
        elif column.limits:
            assert f"{column.limits.low:g} to {column.limits.high:.15g}" in told.replace(",", "")
        for which, limits in column.limits_by.limits.items() if column.limits_by else ():
            assert f"{which}  {limits.low:g} to {limits.high:.15g}" in told.replace(",", ""), which


def test_every_rule_is_explained(page: str) -> None:
    text = unescape(re.sub(r"<[^>]+>", " ", page.split('<h2 id="rules">')[1]))
    for rule in RULES:
        for words in (rule.name, rule.severity, rule.sentence, rule.remedy):
            assert words in text


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"<script|<link|<img|src=|https?://|url\(|@import", page)


def test_the_json_form_holds_every_declaration() -> None:
    found = json.loads(json.dumps(dictionary_json(CONTRACT)))
    assert (found["format"], found["format_version"], found["contract_version"]) == (
        "wardround/data-dictionary",
        1,
        CONTRACT.version,
    )
    assert [each["table"] for each in found["tables"]] == list(CONTRACT.names)
    for table in CONTRACT.tables:
        columns = {
            column["column"]: column for each in found["tables"] if each["table"] == table.name for column in each["columns"]
        }
        assert tuple(columns) == table.names
        for column in table.columns:
            told = columns[column.name]
            assert told.get("codes", {}) == dict(column.vocabulary)
            assert told.get("range") == ([column.limits.low, column.limits.high] if column.limits else None)
            assert (told["required"], told["key"]) == (not column.nullable, column.key)
    assert {rule["name"] for rule in found["rules"]} == {rule.name for rule in RULES}


def test_the_committed_dictionary_is_the_one_of_the_contract(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_dictionary.py", "--out", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    for name in ("dictionary.html", "dictionary.json"):
        same = (tmp_path / name).read_bytes() == (ROOT / "tasks" / "ms" / name).read_bytes()
        assert same, f"run scripts/make_dictionary.py: tasks/ms/{name} is not that of the contract"


def test_the_command_writes_the_same_page(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "dictionary", "--html", str(tmp_path / "d.html")]) == 0
    assert (tmp_path / "d.html").read_text("utf-8") == page
    capsys.readouterr()
    assert main(["data", "dictionary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(dictionary_json(CONTRACT)))
    assert main(["data", "dictionary"]) == 0
    assert "evoked_potentials" in capsys.readouterr().out
