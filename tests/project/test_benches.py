"""The measurements that READMEs quote can be made: each bench runs at a small size and writes its figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = {
    "atrophy": ("--preset", "demo"),
    "data": ("--scale", "0.02", "--repeats", "2"),
    "hub": ("--sites", "3", "--parameters", "1e5", "--rounds", "1"),
    "import": ("--scale", "0.02"),
    "labels": ("--patients", "60", "--visits", "900", "--repeats", "2"),
    "mri": ("--scans", "6", "--workers", "1", "--repeats", "1"),
    "mri_train": ("--sites", "3", "--patients", "6", "--rounds", "1", "--widths", "4-8", "--arms", "threshold", "federated"),
    "mri_train pairs": (
        *("--task", "new_lesions", "--sites", "3", "--patients", "8", "--rounds", "1", "--widths", "4-8", "--new", "12"),
        *("--arms", "threshold", "federated"),
    ),
    "rounds": ("--sites", "3", "--rounds", "1", "--patients", "40", "--workers", "1"),
    "simulator": ("--only", "demo", "--repeats", "2"),
    "tasks": ("--tasks", "cdp_2y", "--seeds", "1", "2", "--preset", "demo", "--arms", "pooled", "federated", "baseline"),
}


LONG = {"atrophy", "hub", "mri", "mri_train", "mri_train pairs", "tasks"}  # half a minute and more each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in LONG else pytest.mark.slow) for name in sorted(SMALL)]
)
def test_a_bench_runs_and_writes_its_figures(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = [*SMALL[name], *(("--out", str(tmp_path)) if name in ("hub", "tasks") else ())]  # their tables are committed otherwise
    command = [sys.executable, str(SCRIPTS / f"bench_{name.split()[0]}.py"), *words, "--json", str(figures)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=tmp_path)
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(figures.read_text())
    assert found.stdout.strip()


def test_every_bench_has_a_line_in_the_help_and_every_line_a_bench() -> None:
    shown = subprocess.run([str(SCRIPTS / "bench"), "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    named = {line.split()[1] for line in shown.splitlines() if line.strip().startswith("scripts/bench ")} - {"NAME"}
    modules = {path.stem.removeprefix("bench_") for path in SCRIPTS.glob("bench_*.py")} - {"machine"}  # what they share
    benches = {name for name in modules if not name.startswith("tasks_")}  # the parts of one bench
    assert named - {"privacy"} == benches
