"""`scripts/demo` as people use it: to the end, stopped at any moment, and with something wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from consortium_of_four import ROOT, demo, wait_until
from phantom_sites import write_hospital

from server.journal import RoundDone, read_entries
from tasks.cis_conversion.synthetic import write_hospitals

pytestmark = pytest.mark.e2e

MARK = "WARDROUND_TEST_MARK"
FEW = ("schedule.rounds=2", "schedule.evaluate_every=2")
SHORT = ("schedule.rounds=4", "schedule.evaluate_every=2")
SHARED_DATA = ROOT.parent / "shared" / "data"
REAL_SITES = ("catania", "ljubljana")
FULL_RESOLUTION = """format: wardround/images
format_version: 1
root: {root}
scans: "{{patient}}"
images:
  FLAIR: FLAIR.nii.gz
  T1w: T1.nii.gz
mask: "{mask}"
"""


@dataclass
class Running:
    """The demo in a session of its own; everything that it starts inherits `mark`."""

    folder: Path
    process: subprocess.Popen[str]
    mark: str

    def ended(self, limit_s: float = 120.0) -> tuple[int, str]:
        """Exit status and the last line; fails if any process is left."""
        output, _ = self.process.communicate(timeout=limit_s)
        assert self.alive() == [], "processes were left behind"
        return self.process.returncode, (output.strip().splitlines() or [""])[-1]

    def alive(self) -> list[list[str]]:
        return [process.cmdline() for process in psutil.process_iter() if _marked(process, self.mark)]

    def end(self) -> None:
        for process in psutil.process_iter():
            if _marked(process, self.mark):
                process.kill()
        self.process.wait()


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Running]:
    def begin(*words: str, schedule: tuple[str, ...] = SHORT) -> Running:
        mark, folder = uuid.uuid4().hex, tmp_path / "d"
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", str(folder), *words, *schedule],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        running = Running(folder, process, mark)
        request.addfinalizer(running.end)
        return running

    return begin


def check_figure(running: Running, output: str) -> None:
    """The final model was measured on all test patients, and the closing words say what the journal holds: its figure, or, where
    noise left none (by chance, with so few patients), that there is nothing to show."""
    (journal,) = running.folder.glob("lead/runs/*/events.jsonl")
    final = [entry.event for entry in read_entries(journal) if isinstance(entry.event, RoundDone)][-1]
    assert (final.purpose, len(final.survivors)) == ("evaluate", 4)
    assert final.histogram
    measured = "auc" in dict(final.metrics)
    closing = "the final model" if measured else "noise, or too few patients, leave nothing to show"
    assert f"on test patients: {closing}" in " ".join(output.split()), output[-3000:]


def enrolling(folder: Path) -> bool:
    return (folder / "lead" / "roster.signed").exists()


def starting(folder: Path) -> bool:
    return (folder / "logs" / "north-guard.log").exists()


def training(folder: Path) -> bool:
    return any(b"round-done" in path.read_bytes() for path in folder.glob("lead/runs/*/events.jsonl"))


@pytest.mark.parametrize(
    ("moment", "number"),
    [(enrolling, signal.SIGINT), (starting, signal.SIGTERM), pytest.param(training, signal.SIGINT, marks=pytest.mark.soak)],
)
def test_a_stopped_demo_leaves_no_process(
    start: Callable[..., Running], moment: Callable[[Path], bool], number: signal.Signals
) -> None:
    running = start()
    wait_until(lambda: moment(running.folder), moment.__name__, 110)
    time.sleep(0.5)
    os.killpg(running.process.pid, number)  # a terminal's Ctrl-C reaches the whole group
    assert running.ended() == (130, "interrupted: all processes are stopped")


def test_a_port_that_is_taken_ends_the_demo_with_a_clear_line(start: Callable[..., Running]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = str(squatter.getsockname()[1])
        status, last = start("--port", port).ended()
    assert status == 1
    assert last.startswith("error: ")
    assert f"port {port} is taken" in last


def test_a_broken_mapping_ends_the_demo_before_anything_is_started(start: Callable[..., Running], tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    write_hospitals(sites, 4, [60] * 4, seed=2)
    (sites / "hospital-2" / "mapping.yaml").write_text("task: cis_conversion\ncolumns: [\n")
    running = start("--sites", str(sites))
    status, last = running.ended()
    assert status == 1
    assert last.startswith("error: ")
    assert "mapping" in last
    assert not (running.folder / "lead").exists()


def test_the_demo_trains_on_the_tables_of_invented_hospitals(start: Callable[..., Running]) -> None:
    running = start()
    output, _ = running.process.communicate(timeout=800)
    assert running.process.returncode == 0, output[-3000:]
    assert "4 hospitals: east, north, south, west" in output
    assert output.count("whole") == 4
    check_figure(running, output)
    assert running.alive() == []
    (plan,) = [path.read_bytes() for path in running.folder.glob("lead/plans/*.plan")]
    assert b'"name":"cdp_2y"' in plan
    assert b"edss_last" in plan
    assert b"nfl_z_last" not in plan  # the columns that the task's configuration chooses, not all that there are


@pytest.mark.skipif(not (SHARED_DATA / "cis_to_ms").is_dir(), reason=f"the real tables are not at {SHARED_DATA}")
def test_the_demo_runs_on_the_real_hospitals_folders(start: Callable[..., Running], tmp_path: Path) -> None:
    make = [sys.executable, str(ROOT / "scripts" / "make_real_sites.py"), str(tmp_path / "real"), "--data", str(SHARED_DATA)]
    subprocess.run(make, check=True, capture_output=True)
    running = start("--sites", str(tmp_path / "real" / "cis"))
    output, _ = running.process.communicate(timeout=800)
    assert running.process.returncode == 0, output[-3000:]
    assert output.count("whole") == 4
    check_figure(running, output)
    assert running.alive() == []


@pytest.mark.soak
def test_the_demo_trains_on_the_scans_of_invented_hospitals(start: Callable[..., Running]) -> None:
    running = start("--task", "lesion_seg", schedule=FEW)
    output, _ = running.process.communicate(timeout=800)
    assert running.process.returncode == 0, output[-3000:]
    assert output.count("whole") == 4
    assert "Dice" in output
    assert running.alive() == []
    for site in running.folder.glob("sites/*"):
        assert list(site.glob("**/prepared/*/*.npy")), f"{site.name} prepared no scan"
    assert not list(running.folder.glob("lead/**/*.npy"))


@pytest.mark.soak
@pytest.mark.skipif(not (SHARED_DATA / "ms_mri").is_dir(), reason=f"the real scans are not at {SHARED_DATA}")
@pytest.mark.timeout(900)
def test_two_real_centres_and_an_invented_one_train_and_segment_whatever_there_is(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    sites = tmp_path / "sites"
    for name in REAL_SITES:
        shutil.copytree(SHARED_DATA / "ms_mri" / f"site-{name}", sites / name)
    write_hospital(sites, "invented", 6)
    running = start("--task", "lesion_seg", "--sites", str(sites), schedule=FEW)
    output, _ = running.process.communicate(timeout=800)
    assert running.process.returncode == 0, output[-3000:]
    assert output.count("whole") == 3
    (run,) = running.folder.glob("lead/runs/*")
    model = tmp_path / "model"
    subprocess.run([demo.BIN / "wardround-lead", "model", "export", run, "--out", model], check=True, capture_output=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    folders = {name: sites / name for name in (*REAL_SITES, "invented")}
    folders["pairs"] = SHARED_DATA / "ms_mri_longitudinal" / "site-ljubljana"
    for mask in ("MASK", "mask_mni"):  # each centre names its own
        folders[mask] = whole / mask
        folders[mask].mkdir()
        text = FULL_RESOLUTION.format(root=SHARED_DATA / "ms_mri_fullres", mask=f"{mask}.nii.gz")
        (folders[mask] / "images.yaml").write_text(text)
    home = next(running.folder.glob("sites/catania"))
    for name, folder in folders.items():
        words = ["--home", home, "segment", model, "--folder", folder, "--out", tmp_path / "masks" / name, "--json"]
        done = subprocess.run([demo.BIN / "wardround-site", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
        found = json.loads(done.stdout)
        assert found["sessions"] == found["segmented"] == len(list((tmp_path / "masks" / name).glob("**/*.nii.gz"))) > 0, name


def test_a_hub_whose_port_is_taken_says_so_at_once(tmp_path: Path) -> None:
    lead = [demo.BIN / "wardround-lead", "--home", tmp_path / "lead"]
    made = [*lead, "hub", "init", "--consortium", "demo", "--lead", "lead-a", "--host", "127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = str(squatter.getsockname()[1])
        subprocess.run([made[0], *made[3:], *made[1:3]], check=True, capture_output=True)
        found = subprocess.run(
            [lead[0], "hub", "start", "--port", port, *lead[1:]], capture_output=True, text=True, check=False, timeout=60
        )
    assert found.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
