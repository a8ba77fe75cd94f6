"""What is installed is what stands in the repository, and an auditor's installation stands alone."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGES = ("client", "consortium", "privacy", "secagg", "server", "tasks")
HEAVY = ("torch", "flwr", "pandas", "pandera", "mlflow", "hydra-core", "omegaconf", "grpcio", "opacus")
WRITE_LEDGER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from consortium.identity import SigningKey
from privacy.ledger import Ledger

key = SigningKey.from_seed(bytes(range(32)))
now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
Ledger.create(Path(sys.argv[1]), key, consortium="c", site="a", population="all", split_id="ab" * 8, now=now).close()
"""


def checked(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{command[:4]}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, root: Path, tracked: tuple[Path, ...]) -> Path:
    """A copy of the files under version control: nothing that merely lies about can get into the wheel, nor the build into it."""
    copy = tmp_path_factory.mktemp("source")
    for path in tracked:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, copy / path)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), ".", folder=source)
    (made,) = out.glob("wardround-*.whl")
    return made


@pytest.fixture(scope="module")
def contents(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def test_the_wheel_holds_every_module_and_every_setting(contents: frozenset[str], tracked: tuple[Path, ...]) -> None:
    wanted = {
        str(path)
        for path in tracked
        if path.parts[0] in (*PACKAGES, "conf") and path.suffix in {".py", ".yaml", ".md", ".typed", ".html", ".proto"}
    }
    assert wanted - contents == set()


def test_the_wheel_explains_and_types_every_package(contents: frozenset[str]) -> None:
    assert {f"{package}/{name}" for package in PACKAGES for name in ("README.md", "py.typed")} - contents == set()


def test_the_wheel_holds_no_tests_scripts_or_data(contents: frozenset[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in contents} == {*PACKAGES, "conf", "wardround"}


def test_the_wheel_carries_the_licence(contents: frozenset[str]) -> None:
    assert [name for name in contents if name.endswith("licenses/LICENSE")]


def test_an_auditor_installs_and_runs_without_any_framework(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python, audit = str(home / "bin" / "python"), str(home / "bin" / "wardround-audit")
    checked(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        f"wardround[audit] @ {wheel.as_uri()}",
        folder=tmp_path,
    )
    installed = checked(python, "-m", "pip", "list", "--format", "freeze", folder=tmp_path).lower()
    assert [name for name in HEAVY if f"\n{name}==" in f"\n{installed}"] == []
    checked(python, "-c", WRITE_LEDGER, "ledger.jsonl", folder=tmp_path)
    assert "example" in checked(audit, "--help", folder=tmp_path)
    for command in ("verify", "show"):
        assert checked(audit, command, "ledger.jsonl", folder=tmp_path)
