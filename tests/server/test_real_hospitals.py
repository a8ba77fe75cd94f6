"""Federated equals pooled on real hospitals' tables, also for a task that a third party brought (`tests/heart_task`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("WARDROUND_SHARED_DATA", ROOT.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (SHARED / "cis_to_ms").is_dir(), reason="the real tables are not here (WARDROUND_SHARED_DATA)"),
]

ONE_SPLIT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1] + "/scripts")
from compare_pooled import compare
from make_real_sites import cis_sites, heart_sites

root, data = Path(sys.argv[2]), Path(sys.argv[3])
for name, task, make in (("cis", "cis_conversion", cis_sites), ("heart", "heart_disease", heart_sites)):
    make(data, root / name)
    short = ["schedule.rounds=30", "schedule.evaluate_every=30"]
    row = compare(name, task, root / name, split=1, privacy="none", folder=root / f"{name}-run", overrides=short)
    print(row.data, row.pooled, row.federated, row.reported)
"""


def test_without_noise_four_real_hospitals_learn_what_one_would(tmp_path: Path) -> None:
    """A subprocess, since the heart task is found through the entry point of a distribution on its path alone."""
    command = [sys.executable, "-c", ONE_SPLIT, str(ROOT), str(tmp_path), str(SHARED)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    rows = [line.split() for line in found.stdout.splitlines()]
    assert [row[0] for row in rows] == ["cis", "heart"]
    for name, *figures in rows:
        pooled, federated, reported = map(float, figures)
        assert pooled > 0.7, f"{name}: the yardstick itself learnt nothing"
        assert abs(federated - pooled) <= 0.02
        assert abs(reported - pooled) <= 0.03, f"{name}: the masked histogram's AUC strays from the exact one"
