"""secagg computes: no clock, network, file, environment or random source of its own, and nothing below it but consortium."""

import ast
import sys
from pathlib import Path

import secagg

FOLDER = Path(secagg.__file__).parent
ALLOWED_STANDARD = {
    "collections",
    "concurrent",
    "contextlib",
    "dataclasses",
    "functools",
    "hashlib",
    "itertools",
    "threading",
    "typing",
}
ALLOWED = ALLOWED_STANDARD | {"consortium", "cryptography", "numpy", "secagg"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_only_computing_modules_are_imported() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert len(files) > 10
    assert {path.name: imported(path) - ALLOWED for path in files if imported(path) - ALLOWED} == {}
    assert sys.stdlib_module_names >= ALLOWED_STANDARD


def test_numpy_generators_are_not_touched() -> None:
    for path in FOLDER.glob("*.py"):
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not attributes & {"random", "default_rng", "urandom", "RandomState"}, path.name


def test_no_function_is_longer_than_sixty_lines() -> None:
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name}"
