"""What the project's own rules are checked against: the files that git would commit, as text and as syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("client", "consortium", "privacy", "secagg", "server", "tasks")
GENERATED = ("client/guardpb/",)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tracked() -> tuple[Path, ...]:
    """Every file under version control, and every new one that is not ignored; paths relative to the root."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return tuple(sorted(Path(name) for name in set(listed.split("\0")) if name and (ROOT / name).is_file()))


@pytest.fixture(scope="session")
def trees(tracked: tuple[Path, ...]) -> Mapping[str, ast.Module]:
    """The syntax tree of every Python file that a person wrote, scripts included."""
    found = {}
    for path in tracked:
        if str(path).startswith(GENERATED):
            continue
        if path.suffix == ".py" or (path.parent.name == "scripts" and _is_python_script(ROOT / path)):
            found[str(path)] = ast.parse((ROOT / path).read_text("utf-8"), str(path))
    return found


def _is_python_script(path: Path) -> bool:
    return path.suffix == "" and path.read_bytes()[:60].startswith(b"#!") and b"python" in path.read_bytes()[:60].split(b"\n")[0]


@pytest.fixture(scope="session")
def product(trees: Mapping[str, ast.Module]) -> Mapping[str, ast.Module]:
    """Only the packages, without tests and scripts."""
    return {name: tree for name, tree in trees.items() if name.split("/")[0] in PACKAGES}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a program from the environment of this Python and returns what it wrote."""

    def program(*command: str, cwd: Path = ROOT, timeout_s: float = 240) -> "subprocess.CompletedProcess[str]":
        beside = Path(sys.executable).parent / command[0]
        first = str(beside) if beside.exists() else command[0]
        return subprocess.run(
            [first, *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )

    return program
