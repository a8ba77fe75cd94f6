"""A daemon that is told to end while it still reads its files ends, also as the first process of a container.

Such a process hears no signal that it did not ask for. Each is caught at a file of its home that is a pipe nobody writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRST = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
DAEMONS = {
    "guard": ("client.cli", "site.yaml", ["guard"]),
    "gateway": ("client.cli", "site.yaml", ["gateway"]),
    "hub": ("server.cli", "founders.pin", ["hub", "start"]),
}


def may_be_first() -> bool:
    try:
        return subprocess.run([*FIRST, "true"], capture_output=True, timeout=30).returncode == 0
    except FileNotFoundError:
        return False


def opened_to_read(pipe: Path, process: subprocess.Popen[str]) -> IO[bytes]:
    """The other end of a pipe, once the daemon has opened its own."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
        except OSError:  # nobody reads yet
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.skipif(not may_be_first(), reason="no namespace of processes may be made here (unshare)")
@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_first_process_that_still_reads_its_files_ends_when_it_is_told(tmp_path: Path, daemon: str) -> None:
    module, file, arguments = DAEMONS[daemon]
    os.mkfifo(tmp_path / file)
    command = [*FIRST, sys.executable, "-m", module, "--home", str(tmp_path), *arguments]
    outer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with opened_to_read(tmp_path / file, outer):
            inner = int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii").split()[0])
            os.kill(inner, signal.SIGTERM)
            output, _ = outer.communicate(timeout=60)
        assert outer.returncode == 0, output
    finally:
        outer.kill()
        outer.wait(30)
