"""A guard's memory: a round needs the masked vector and a few MiB, and nobody but its own process may look into it."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from guards_in_process import SITES, Consortium, answered

from client.guard_rpc import read_frames, write_frames
from client.guardpb import guard_pb2
from client.job import Job, Result
from consortium.plan import ParameterSpec, Plan

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = 2**22
MIB = 2**20

HARDENED = """
import ctypes, os, resource, signal
from client.daemon import harden_process
harden_process()
dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
print(dumpable, resource.getrlimit(resource.RLIMIT_CORE), flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def large_plan(consortium: Consortium, **changes: object) -> Plan:
    plan = consortium.plan()
    model = plan.model
    specs = (*model.parameters, ParameterSpec("padding", (PARAMETERS - plan.n_parameters,)))
    large = type(model)(model.name, model.options, model.buffers, specs, model.init_seed)
    return consortium.plan(model=large, **changes)


@pytest.mark.parametrize("ring_bits", [32, 16])
def test_a_round_needs_the_masked_vector_and_less_than_8_mib_beside_it(consortium: Consortium, ring_bits: int) -> None:
    body = np.linspace(-1, 1, PARAMETERS, dtype=np.float32)
    consortium.train[SITES[0]] = lambda job, deadline_s: Result(np.zeros(0), body)
    run = consortium.run(large_plan(consortium, ring_bits=ring_bits))
    model, phase = run.model(), run.open_round(run.epoch(), 1)
    request = run.request(phase.requests()[SITES[0]])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        control, y = consortium.guard().answer("sa1_update", request, model)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert answered((control, bytes(y)))
    assert len(y) == 8 + PARAMETERS * ring_bits // 8
    assert peak < len(y) + 8 * MIB


def test_a_body_is_in_memory_once_on_its_way_through_the_socket() -> None:
    body = bytes(16 * MIB)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _, _, found = read_frames(write_frames(guard_pb2.SA1_UPDATE, b"control", memoryview(body)))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found == body
    assert peak < len(body) * 1.3  # the buffer grows by an eighth at a time


def test_a_guard_leaves_no_core_and_opens_its_memory_to_nobody(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", HARDENED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == "0 (0, 0)", found.stderr
    assert found.returncode < 0
    assert list(tmp_path.iterdir()) == []


def test_the_trainer_gets_the_model_and_gives_the_update_as_they_are(training: Consortium) -> None:
    """Any buffer goes in, and what comes out is the array, not a copy of another type."""
    job = Job(training.plan(), SITES[0], 1, "train", memoryview(bytes(4 * training.plan().model_size)))
    result = training.train[SITES[0]](job, 10.0)
    assert result.body.shape == (training.plan().n_parameters,)
