"""Bytes in memory at once never exceed the limit, unless one thing alone does; whoever waits is let in, or told."""

import threading
import time

import pytest

from server.room import Room
from server.transport import TransportError


def soon() -> float:
    return time.monotonic() + 0.01


def later() -> float:
    return time.monotonic() + 60.0


def test_what_fits_comes_in_and_what_does_not_waits() -> None:
    room = Room(10)
    room.enter(6, soon())
    room.enter(4, soon())
    with pytest.raises(TransportError, match="no room for 1 bytes beside 10 of 10"):
        room.enter(1, soon())
    room.leave(4)
    room.enter(1, soon())


def test_one_that_is_larger_than_the_room_is_alone_in_it() -> None:
    room = Room(10)
    room.enter(25, soon())
    with pytest.raises(TransportError):
        room.enter(1, soon())
    room.leave(25)
    room.enter(1, soon())
    with pytest.raises(TransportError):
        room.enter(25, soon())


def test_many_threads_never_hold_more_than_the_limit() -> None:
    room, lock, held, most = Room(10), threading.Lock(), [0], [0]

    def visit(size: int) -> None:
        for _ in range(50):
            room.enter(size, later())
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            with lock:
                held[0] -= size
            room.leave(size)

    threads = [threading.Thread(target=visit, args=(size,)) for size in (1, 3, 4, 7, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [0]
    assert 0 < most[0] <= 10
