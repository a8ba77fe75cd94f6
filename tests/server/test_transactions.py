"""Transactions of the hub's database take turns, and one within another joins it."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.flower import _at_once, _one_at_a_time


class Database:
    """Opens transactions as Flower does: deferred, so that who only reads locks nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE counts (n INTEGER)")
            connection.execute("INSERT INTO counts VALUES (0)")

    @contextlib.contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60.0, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")


def count_up(database: Database, *, times: int, threads: int) -> list[Exception]:
    """Each thread reads and writes what it read plus one; the errors that came of it."""
    errors: list[Exception] = []
    started = threading.Barrier(threads)

    def work() -> None:
        started.wait()
        for _ in range(times):
            try:
                with database.session() as connection:
                    (found,) = connection.execute("SELECT n FROM counts").fetchone()
                    connection.execute("UPDATE counts SET n = ?", (found + 1,))
            except sqlite3.OperationalError as error:
                errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return errors


def test_who_reads_and_then_writes_is_never_refused_for_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "session", _one_at_a_time(Database.session))
    database = Database(tmp_path / "counts.db")
    assert count_up(database, times=50, threads=4) == []
    with database.session() as connection:
        assert connection.execute("SELECT n FROM counts").fetchone() == (200,)


def test_a_transaction_that_is_turned_back_lets_the_next_one_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "session", _one_at_a_time(Database.session))
    database = Database(tmp_path / "counts.db")
    with pytest.raises(ValueError, match="inside"), database.session():
        raise ValueError("inside")
    assert count_up(database, times=1, threads=1) == []


def test_a_transaction_within_a_transaction_joins_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "session", _one_at_a_time(Database.session))
    database = Database(tmp_path / "counts.db")
    inside = threading.Event()

    def nested() -> None:
        with database.session(), database.session():
            inside.set()

    worker = threading.Thread(target=nested, daemon=True)
    worker.start()
    assert inside.wait(30)
    worker.join(30)


def test_only_what_looks_at_the_request_alone_runs_without_a_thread() -> None:
    threaded: list[str] = []

    async def in_thread(call: object, *_: object, **__: object) -> str:
        threaded.append(getattr(call, "__name__", type(call).__name__))
        return "in a thread"

    def get_linkstate(request: str) -> str:
        return f"looked at {request}"

    def get_task(request: str) -> str:
        raise AssertionError(request)

    class VersionDependency:
        def __call__(self, request: str) -> str:
            return f"read {request}"

    async def ask(dependency: Callable[..., Any]) -> Any:
        return await _at_once(in_thread)(dependency, request="it")

    assert asyncio.run(ask(get_linkstate)) == "looked at it"
    assert asyncio.run(ask(VersionDependency())) == "read it"
    assert asyncio.run(ask(get_task)) == "in a thread"
    assert threaded == ["get_task"]
