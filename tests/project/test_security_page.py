"""A claim names a test that exists: the page and the tests cannot drift apart."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def claims() -> list[tuple[str, str]]:
    return NAMED.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8"))


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_the_page_makes_claims() -> None:
    assert len(claims()) > 40


@pytest.mark.parametrize(("file", "name"), sorted(set(claims())))
def test_a_named_test_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file(), f"SECURITY.md names {file}, which does not exist"
    assert name in functions(ROOT / file), f"SECURITY.md names {name}, which {file} does not have"


def test_every_claim_in_a_table_names_a_test() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    claimed = [row for row in rows if not row.startswith(("| claim", "| ---"))]
    assert claimed
    assert [row for row in claimed if not NAMED.search(row)] == []
