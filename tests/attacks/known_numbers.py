"""A hospital whose training is replaced by numbers that a test can recompute; all else of its guard is the real one.

Also in a process of its own: `known_numbers.py FOLDER SITE SOCKET`. What the guard draws at random and what it is asked is
written beside the site's home, never into it, so that a test knows every secret that must not be found elsewhere.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.daemon import harden_process, log_to, open_site
from client.guard import Guard, Site
from client.guard_rpc import serve_guard
from client.home import Home
from client.job import Job, Result
from client.release import Bound, noised
from consortium.plan import Plan, body_length, header_fields

NOW = 1_900_000_000.0
TASK_NAME = "cis_conversion"
TOO_LARGE = 1e30  # for every coordinate clip and every header


def number_of(plan: Plan, site: str) -> float:
    """2^place: a sum of these tells whose are in it."""
    return 2.0 ** plan.sites.index(site)


def patients_of(plan: Plan, site: str) -> float:
    return 40.0 + 7 * plan.sites.index(site)


def _noised_patients(plan: Plan, site: str) -> float:
    """As the real trainer: fresh noise at each call."""
    bound = Bound(1.0, plan.privacy.grid_bits)
    grid = np.array([int(patients_of(plan, site)) << plan.privacy.grid_bits], dtype=np.int64)
    return float(noised(grid, noise_multiplier=plan.privacy.count_noise, bound=bound, entropy=os.urandom)[0] * bound.step)


def _too_large(_plan: Plan, _site: str) -> float:
    return TOO_LARGE


def _zero(_plan: Plan, _site: str) -> float:
    return 0.0


Numbers = tuple[Callable[[Plan, str], float], Callable[[Plan, str], float], Callable[[Plan, str], float]]
# run ids begin with a name of this table: (patient count, other header values, body values)
NUMBERS: dict[str, Numbers] = {
    "powers": (patients_of, number_of, number_of),
    "noised": (_noised_patients, number_of, number_of),
    "zero": (patients_of, _zero, _zero),
    "largebody": (patients_of, number_of, _too_large),
    "largeheader": (patients_of, _too_large, number_of),
}


def train_known_numbers(job: Job, deadline_s: float = 0.0) -> Result:
    """A `Train`."""
    del deadline_s
    patients, header, body = NUMBERS[job.plan.run_id.partition("-")[0]]
    parts: list[NDArray[np.float64]] = [np.zeros(0)]
    for item in header_fields(job.plan, job.round_number, job.purpose):
        source = patients if item.name == "patients" else header
        parts.append(np.full(item.length, source(job.plan, job.site)))
    return Result(np.concatenate(parts), np.full(body_length(job.plan, job.purpose), body(job.plan, job.site)))


def entropy_record(folder: Path, site: str) -> Path:
    return folder / f"{site}.entropy"


def asked_record(folder: Path, site: str) -> Path:
    return folder / f"{site}.asked"


def open_guard(folder: Path, site: str) -> tuple[Site, Guard]:
    """The guard of `folder/site`, with recorded entropy and a clock that stands."""

    def draw(size: int) -> bytes:
        data = os.urandom(size)
        with entropy_record(folder, site).open("a") as record:
            record.write(data.hex() + "\n")
        return data

    opened = open_site(Home(folder / site), site=site, tasks=(TASK_NAME,), train=train_known_numbers, now=NOW)
    opened = replace(opened, now=lambda: NOW, entropy=draw)
    return opened, Guard(opened)


def main(arguments: list[str]) -> int:
    folder, site, socket = Path(arguments[0]), arguments[1], Path(arguments[2])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    harden_process()
    log_to(Home(folder / site).log, console=False)
    _, guard = open_guard(folder, site)

    def answer(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes | bytearray | memoryview]:
        with asked_record(folder, site).open("a") as record:
            record.write(f"{kind}\n")
        return guard.answer(kind, control, body)

    server = serve_guard(answer, socket, guard.status)
    stop.wait()
    server.stop(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
