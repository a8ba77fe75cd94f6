"""The programs start, explain themselves, and need no more than their party has installed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PROGRAMS = ("wardround-site", "wardround-lead", "wardround-audit")
ONE_SCREEN = 66  # lines
FRAMEWORKS = ("torch", "flwr", "pandas", "pandera", "mlflow", "hydra", "omegaconf", "grpc", "opacus", "client", "server", "tasks")

BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FRAMEWORKS!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

WRITE_LEDGER = """
import hashlib, pathlib, sys
from datetime import UTC, datetime, timedelta
from consortium.identity import SigningKey
from privacy.entries import SpendDetails
from privacy.events import GaussianEvent, Spend
from privacy.ledger import Ledger

now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
key = SigningKey.from_seed(bytes(range(32)))
path = pathlib.Path(sys.argv[1])
with Ledger.create(path, key, consortium="c", site="aalborg", population="all", split_id="ab" * 8, now=now) as ledger:
    for number in (1, 2, 3):
        how = (1e-5, "ab" * 8, 1.0, 16, 100.0, "none", "aes-ctr", "0.1.0", bytes(32))
        details = SpendDetails("run-1", bytes(32), number, "train", *how)
        ledger.spend(details, [Spend(GaussianEvent(8.0), "train")], now + timedelta(minutes=number))
"""

AUDIT = "from privacy.cli import main; sys.exit(main(sys.argv[1:]))"


def python(code: str, *arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_explains_itself_on_one_screen_with_an_example(run: Run, program: str) -> None:
    done = run(program, "--help")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "example" in done.stdout.lower()
    assert program in done.stdout
    assert len(done.stdout.splitlines()) <= ONE_SCREEN


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_command_is_a_usage_error(run: Run, program: str) -> None:
    done = run(program, "no-such-command")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_blocker_blocks(tmp_path: Path) -> None:
    for name in ("torch", "flwr.server", "pandas"):
        done = python(f"import {name}", folder=tmp_path)
        assert done.returncode == 1
        assert "blocked" in done.stderr


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds' spends of one site, written without any framework at hand."""
    path = tmp_path_factory.mktemp("audit") / "ledger.jsonl"
    done = python(WRITE_LEDGER, str(path), folder=path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


@pytest.mark.parametrize("command", ["verify", "epsilon", "show"])
def test_the_auditor_needs_no_framework(ledger: Path, command: str) -> None:
    done = python(AUDIT, command, str(ledger), folder=ledger.parent)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert done.stdout


def test_the_auditor_refuses_an_altered_ledger_without_any_framework(ledger: Path, tmp_path: Path) -> None:
    altered = tmp_path / "ledger.jsonl"
    altered.write_bytes(ledger.read_bytes().replace(b'"round":2', b'"round":9', 1))
    done = python(AUDIT, "verify", str(altered), folder=tmp_path)
    assert done.returncode == 1, done.stdout[-1000:] + done.stderr[-2000:]


@pytest.mark.parametrize("package", ["consortium", "privacy", "secagg"])
def test_every_module_of_a_pure_package_imports_without_any_framework(tmp_path: Path, package: str) -> None:
    code = f"""
import importlib, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    importlib.import_module(module.name)
    print(module.name)
"""
    done = python(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{package}.errors" in done.stdout.split()


def test_import_contracts_hold(run: Run) -> None:
    done = run("lint-imports")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout
