"""A coordinator ends with the hub that started it, also one that hears no signal and waits for something."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COORDINATOR = """
import signal, time
from types import SimpleNamespace
from server import flower

signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Flower sends it when its parent is gone

def waits(*_):
    print("waits", flush=True)
    time.sleep(300)

flower.wait_for_writer = waits
flower.coordinate(None, SimpleNamespace(run_config={"nodes": "{}", "run-dir": "nowhere"}))
"""
HUB = """
import subprocess, sys, time

child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
while child.stdout.readline() != "waits\\n":
    assert child.poll() is None
print(child.pid, flush=True)
time.sleep(300)
"""


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's death signal is Linux's")
def test_a_coordinator_ends_when_its_hub_is_killed() -> None:
    hub = subprocess.Popen([sys.executable, "-c", HUB, COORDINATOR], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert hub.stdout is not None
    coordinator = psutil.Process(int(hub.stdout.readline()))
    try:
        assert not gone(coordinator)
        hub.send_signal(signal.SIGKILL)
        hub.wait(30)
        deadline = time.monotonic() + 30
        while not gone(coordinator) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gone(coordinator)
    finally:
        hub.stdout.close()
        if not gone(coordinator):
            coordinator.kill()
