"""The rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

Trees = Mapping[str, ast.Module]
PACKAGES = ("client", "consortium", "privacy", "secagg", "server", "tasks")
PURE = ("consortium", "privacy", "secagg")
LONGEST_FUNCTION = 60
USUAL_FUNCTION = 25  # nine of ten are not longer
LANE = r"\bmark\.(slow|e2e|container|browser|gpu|soak)\b"

# Where a failure nobody foresaw must become a fixed sentence, because its text could quote a patient: one place per process.
BOUNDARIES = {
    "client/unexpected.py:without_cells",  # an error's text may quote a patient: only its kind and place are told
    "client/guard.py:_answer_or_refuse",  # guard: every reply to the gateway
    "client/guard_rpc.py:_exchange",  # guard: gRPC would send the error's text
    "client/guard_rpc.py:Status",
    "client/guard_rpc.py:OfferRoster",
    "client/trainer_process.py:_serve",  # the trainer's process: multiprocessing would print the error's text
    "client/trainer_process.py:patients_answer",  # the same, of one request
}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, also inside functions, and of attributes like `numpy.random`."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.name
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield f"{aliases[node.value.id]}.{node.attr}"


def test_no_function_is_longer_than_a_reader_can_hold(trees: Trees) -> None:
    found = [f"{name}:{each.name} {lines(each)}" for name, tree in trees.items() for each in functions(tree)]
    assert [text for text in found if int(text.split()[-1]) > LONGEST_FUNCTION] == []


def test_nine_of_ten_functions_are_short(product: Trees) -> None:
    lengths = [lines(each) for tree in product.values() for each in functions(tree)]
    assert statistics.quantiles(lengths, n=10)[-1] <= USUAL_FUNCTION


def test_all_failures_are_caught_only_at_a_boundary(trees: Trees) -> None:
    """`main` may, and a handler that cleans up and raises again; and the boundaries named above, which must exist."""
    caught = {place for name, tree in trees.items() for place in broad_handlers(name, tree)}
    assert caught - BOUNDARIES == set()
    assert BOUNDARIES - caught == set()


def broad_handlers(name: str, tree: ast.Module) -> Iterator[str]:
    inside: dict[ast.AST, str] = {}
    for function in functions(tree):  # outer functions first: the innermost name is the one that stays
        inside |= dict.fromkeys(ast.walk(function), function.name)
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or not is_broad(handler.type):
            continue
        raised_again = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
        if not raised_again and inside.get(handler) not in {"main", "_child_main"}:
            yield f"{name}:{inside.get(handler)}"


def is_broad(caught: ast.expr | None) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(each is None or (isinstance(each, ast.Name) and each.id in {"Exception", "BaseException"}) for each in names)


def test_no_weak_randomness_in_what_keeps_secrets(product: Trees) -> None:
    weak = [
        f"{name}: {module}"
        for name, tree in product.items()
        if name.startswith(tuple(f"{package}/" for package in PURE))
        for module in imported(tree)
        if re.match(r"(random|numpy\.random|torch|secrets\.SystemRandom)(\.|$)", module)
    ]
    assert weak == []


def test_the_scan_for_weak_randomness_sees_every_way_to_write_it() -> None:
    for source in (
        "import random",
        "from random import gauss",
        "import numpy as np\nnp.random.normal()",
        "from numpy import random",
    ):
        assert any(re.match(r"(random|numpy\.random)(\.|$)", module) for module in imported(ast.parse(source))), source


def test_no_clock_network_or_environment_in_what_must_be_replayed(product: Trees) -> None:
    """Time and entropy are arguments there (the auditor's program and the ledger's file are the shell around it)."""
    impure = re.compile(r"(time\.(time|sleep|monotonic)|datetime\..*\.now|socket|requests|urllib|os\.environ|os\.getenv)(\.|$)")
    found = [
        f"{name}: {module}"
        for name, tree in product.items()
        if name.startswith(tuple(f"{package}/" for package in PURE))
        for module in imported(tree)
        if impure.match(module)
    ]
    assert found == []


def test_the_auditors_command_alone_joins_privacy_and_secagg(product: Trees) -> None:
    """The one exception among the import rules goes no further: its module is reached from the auditor's program only."""

    def importing(package: str, wanted: str) -> list[str]:
        named = re.compile(rf"{re.escape(wanted)}(\.|$)")
        return [name for name, tree in product.items() if name.startswith(package) and any(map(named.match, imported(tree)))]

    assert importing("privacy/", "secagg") == ["privacy/cli_rounds.py"]
    assert importing("secagg/", "privacy") == []
    assert importing("", "privacy.cli_rounds") == ["privacy/cli.py"]


def test_nothing_is_checked_by_an_assert_that_optimisation_removes(product: Trees) -> None:
    """An assert is for what cannot happen, and says why: it has a message, or a comment at its line."""
    silent = []
    for name, tree in product.items():
        source = (Path(__file__).resolve().parents[2] / name).read_text("utf-8").splitlines()
        silent += [
            f"{name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assert) and node.msg is None and "#" not in "".join(source[node.lineno - 2 : node.lineno])
        ]
    assert silent == []


def test_every_module_says_what_it_guarantees(product: Trees) -> None:
    silent = [name for name, tree in product.items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []


def test_packages_explain_and_type_themselves(root: Path) -> None:
    missing = [f"{package}/{name}" for package in PACKAGES for name in ("README.md", "py.typed", "__init__.py")]
    assert [path for path in missing if not (root / path).is_file()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_readme_has_its_decisions(root: Path, package: str) -> None:
    readme = (root / package / "README.md").read_text("utf-8")
    assert re.search(r"^## Decisions$", readme, re.MULTILINE), "a package's README ends with its dated decisions"
    decisions = readme.split("\n## Decisions\n", 1)[1]
    assert re.search(r"\b2\d{3}-\d\d-\d\d\b", decisions), "a decision has a date"


def test_the_project_explains_itself(root: Path) -> None:
    names = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "scripts/demo", "scripts/test", ".ci/run")
    assert [name for name in names if not (root / name).is_file()] == []


def test_the_licence_is_the_apache_licence(root: Path) -> None:
    text = (root / "LICENSE").read_text("ascii")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.split()) == 1581


def test_scripts_can_be_started(root: Path, tracked: tuple[Path, ...]) -> None:
    wanted = [path for path in tracked if str(path) == ".ci/run" or (path.parts[0] == "scripts" and path.suffix == "")]
    assert wanted
    assert [str(path) for path in wanted if not (root / path).stat().st_mode & 0o100] == []


@pytest.mark.parametrize("folder", ["docker", "scripts", "tests"])
def test_no_folder_shadows_an_installed_package(tracked: tuple[Path, ...], folder: str) -> None:
    assert [str(path) for path in tracked if path.parts[0] == folder and path.name == "__init__.py"] == [], folder


RELEASED = ("tests", "fixtures", "releases")  # homes as a release wrote them, with keys that guard nothing


def test_no_generated_or_private_file_is_committed(tracked: tuple[Path, ...]) -> None:
    ending = re.compile(r"\.(pyc|egg-info|whl|db|sqlite|log|key|pem|crt)$")
    assert [str(path) for path in tracked if ending.search(path.name) and path.parts[:3] != RELEASED] == []


def joined(*parts: str) -> str:
    """A word that must not stand in any file, this one included."""
    return "".join(parts)


FORBIDDEN: Mapping[str, str] = {
    "a machine's own folder": rf"(?<![\w.-])/({joined('wo', 'rk')}|{joined('ro', 'ot')}|{joined('ho', 'me')}/\w+)/",
    "a scratch folder by name": rf"(?<![\w.-])/{joined('t', 'mp')}\b",
    "a package registry's host": joined("py", r"pi\.org|python", r"hosted\.org|download\.py", r"torch\.org"),
    "an issue by number": rf"\b{joined('iss', 'ue')}s? #?\d+\b",
    "work left open": rf"\b({joined('TO', 'DO')}|{joined('FIX', 'ME')}|{joined('XX', 'X')})\b",
    "who typed it": rf"(?i)\b({joined('clau', 'de')}|{joined('anthro', 'pic')}|{joined('chat', 'gpt')}|{joined('co', 'pilot')}|"
    rf"{joined('ai ', 'assist')}ant|{joined('language ', 'model')}|generated {joined('by ', 'ai')})\b",
}


# Places inside an image are the same on every machine.
INSIDE_IMAGES: Mapping[str, tuple[str, ...]] = {"a scratch folder by name": ("docker", "tests/container")}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(root: Path, tracked: tuple[Path, ...], what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked:
        if any(path.is_relative_to(folder) for folder in INSIDE_IMAGES.get(what, ())):
            continue
        data = (root / path).read_bytes()
        if b"\0" in data[:8000]:
            continue  # an image
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path}:{number}")
    assert found == []


def test_text_files_are_utf8_with_plain_line_ends(root: Path, tracked: tuple[Path, ...]) -> None:
    text = [path for path in tracked if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ""} and path.parts[:3] != RELEASED]
    assert text
    for path in text:
        data = (root / path).read_bytes()
        assert b"\r" not in data, path
        data.decode("utf-8")


def test_no_hydra_target_is_ever_composed(root: Path, tracked: tuple[Path, ...]) -> None:
    named = [path for path in tracked if path.suffix == ".yaml" and "_target_" in (root / path).read_text("utf-8")]
    assert named == []


def test_the_marker_of_a_lane_stands_in_the_folder_of_its_tests(root: Path, tracked: tuple[Path, ...]) -> None:
    """`scripts/test` looks for a lane's tests only in folders whose text has the marker: one lent from elsewhere is never run."""
    marked = [path for path in tracked if path.suffix == ".py" and re.search(LANE, (root / path).read_text(encoding="utf-8"))]
    assert marked
    assert [str(path) for path in marked if path.parts[0] != "tests" or not re.match(r"(test_\w+|conftest)\.py$", path.name)] == []
