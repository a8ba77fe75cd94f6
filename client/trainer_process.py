"""The trainer in a process of its own: it may crash, hang or run out of memory, and the guard goes on.

Spawned, never forked: the child starts from nothing and is told only where the data is, so no key or protocol secret of the
guard is ever in its memory. One request at a time over a pipe; a child that is late, whatever it hangs in, is killed and replaced.
Model and update cross the pipe as they lie in memory, beside the small message they belong to, and are copied nowhere else.
"""

import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.errors import ConfigError, Refused, TrainerError, place_of
from client.job import Job, Population, Result
from client.logs import Logs
from client.patients import DataSource, Patients
from consortium.logs import about
from tasks.errors import TaskError

START_DEADLINE_S = 120.0

log = logging.getLogger("wardround.trainer")


class TrainerProcess:
    """Keeps one child alive and hands it jobs. Thread-safe: one job at a time."""

    def __init__(self, source: DataSource, log: Callable[[str], None], logs: Logs | None = None) -> None:
        """`logs`: what the child's log looks like."""
        self._source = source
        self._log = log
        self._logs = logs or Logs("trainer")
        self._lock = threading.Lock()
        self._child: tuple[Any, Connection] | None = None

    def start(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Start the child and wait until the data is loaded. Raises `TrainerError` naming what failed, never data."""
        with self._lock:
            self._ready(deadline_s)

    def __call__(self, job: Job, deadline_s: float) -> Result:
        with self._lock:
            self._ready(START_DEADLINE_S)
            return self._ask(job, deadline_s)

    def population(self, task: str, deadline_s: float) -> Population:
        """Whose data the next job of `task` would use; the child looks at the folder first. Raises `TrainerError`."""
        with self._lock:
            self._ready(START_DEADLINE_S)
            answer = self._exchange(lambda pipe: pipe.send(_AskPopulation(task)), deadline_s)[0]
        if isinstance(answer, Population):
            return answer
        raise TrainerError(answer if isinstance(answer, str) else f"the trainer answered with a {type(answer).__name__}")

    def alive(self) -> bool:
        """Whether the child lives; one that died is started again by the next round."""
        child = self._child
        return child is not None and bool(child[0].is_alive())

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def _ready(self, deadline_s: float) -> None:
        if self._child is None or not self._child[0].is_alive():
            self._stop()
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            process = context.Process(target=_child_main, args=(there, self._source, self._logs), daemon=True, name="trainer")
            process.start()
            there.close()
            self._child = (process, here)
            self._ask(None, deadline_s)

    def _ask(self, job: Job | None, deadline_s: float) -> Result:
        """The child's answer to `job`; without one, its word that the data is loaded."""

        def say(pipe: Connection) -> None:
            if job is not None:
                pipe.send(replace(job, model=b""))
                pipe.send_bytes(job.model)

        answer, body = self._exchange(say, deadline_s)
        if isinstance(answer, _Update):
            return Result(answer.header, np.frombuffer(body, answer.body_type))
        if isinstance(answer, Refused):
            raise answer
        if isinstance(answer, str):
            raise TrainerError(answer)
        raise TrainerError(f"the trainer answered with a {type(answer).__name__}")

    def _exchange(self, say: Callable[[Connection], None], deadline_s: float) -> tuple[object, bytes]:
        """One message to the child and its answer, with the bytes that follow an update."""
        assert self._child is not None, "asked only after it was started"  # noqa: S101 - cannot happen
        process, pipe = self._child
        late = threading.Event()
        watchdog = threading.Timer(deadline_s, _end_late, (process, late))
        watchdog.daemon = True
        watchdog.start()
        in_step = False
        try:
            say(pipe)
            answer = pipe.recv()
            body = pipe.recv_bytes() if isinstance(answer, _Update) else b""
            in_step = True
        except (EOFError, OSError) as error:
            if late.is_set():
                raise TrainerError(f"the trainer gave no answer within {deadline_s:.0f} s and was ended") from error
            raise TrainerError("the trainer died (out of memory, or killed); it is started again at the next round") from error
        finally:
            watchdog.cancel()
            if not in_step:  # half a message is left in the pipe: never may it be read as another one
                self._stop()
        return answer, body

    def _stop(self) -> None:
        if self._child is not None:
            process, pipe = self._child
            self._child = None
            pipe.close()
            process.kill()
            process.join(5)


@dataclass(frozen=True)
class _Update:
    """A `Result` whose body follows as bytes."""

    header: NDArray[np.float64] | NDArray[np.int64]
    body_type: str


@dataclass(frozen=True)
class _AskPopulation:
    """A question about the patients; no bytes follow it."""

    task: str


def _send(pipe: Connection, result: Result) -> None:
    body = np.ascontiguousarray(result.body)
    pipe.send(_Update(result.header, body.dtype.str))
    pipe.send_bytes(body.data.cast("B") if body.size else b"")


def _end_late(process: Any, late: threading.Event) -> None:
    late.set()
    process.kill()


def _child_main(pipe: Connection, source: DataSource, logs: Logs) -> None:
    """The child: load, then answer jobs until the pipe closes. What nobody foresaw ends it with its place, never its text."""
    logs.start()
    try:
        _serve(pipe, source)
    except Exception as error:  # multiprocessing would print its text
        log.critical("state=ended reason=%s", place_of(error))
        os._exit(1)


def _serve(pipe: Connection, source: DataSource) -> None:
    """Load, then answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the guard decides when the trainer ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch

    torch.set_num_threads(source.threads)
    patients = Patients(source)
    try:
        source.device.told()  # said now, not in a round that is charged
        patients.trainer(source.tasks[0])
    except (TaskError, ConfigError) as error:
        pipe.send(str(error))  # what is wrong with mapping or table, by rule and row: never a cell's content
        return
    except Exception as error:
        pipe.send(place_of(error))
        return
    log.info("state=ready task=%s", source.tasks[0])
    _send(pipe, Result(np.zeros(0), np.zeros(0)))
    while True:
        try:
            asked = pipe.recv()
            job = None if isinstance(asked, _AskPopulation) else replace(asked, model=pipe.recv_bytes())
        except EOFError:
            return
        answer = patients_answer(patients, asked if job is None else job)
        try:
            if isinstance(answer, Result):
                _send(pipe, answer)
            else:
                pipe.send(answer.words if isinstance(answer, _Failed) else answer)
        except OSError:
            return  # the guard is gone
        if isinstance(answer, _Failed) and answer.lost:
            return


@dataclass(frozen=True)
class _Failed:
    """`words` never hold a cell's content. `lost`: nothing runs in this process any more."""

    words: str
    lost: bool = False


def patients_answer(patients: Patients, asked: "Job | _AskPopulation") -> "Result | Population | Refused | _Failed":
    """What the child says to one request; an error that nobody foresaw by its class and place alone."""
    import torch

    ids = {} if isinstance(asked, _AskPopulation) else {"request": asked.request, "run": asked.plan.run_id}
    with about(**ids):
        started = time.monotonic()
        try:
            if isinstance(asked, _AskPopulation):
                return patients.population(asked.task)
            log.info("round=%d purpose=%s state=computing", asked.round_number, asked.purpose)
            result = patients.run(asked)
            log.info(
                "round=%d purpose=%s state=computed seconds=%.2f", asked.round_number, asked.purpose, time.monotonic() - started
            )
        except Refused as refusal:
            log.warning("state=refused code=%s", refusal.code)
            return refusal
        except (TaskError, TrainerError, ConfigError) as error:
            log.warning("state=failed reason=%s", type(error).__name__)
            return _Failed(str(error))  # what is wrong with data, machine or what was asked, as it is now: never a cell's content
        except Exception as error:
            log.error("state=failed reason=%s", place_of(error))  # noqa: TRY400 - no text
            return _Failed(place_of(error), isinstance(error, torch.AcceleratorError))  # the next round gets a new process
        return result
