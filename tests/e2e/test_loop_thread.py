"""The thread under both taps begins with what it is given, says what fails there, and leaves nothing running."""

import asyncio
import threading

import pytest
from loop_thread import LoopThread, passed_on


def test_the_first_act_is_done_when_the_thread_has_started_and_whatever_still_runs_is_cancelled_at_its_end() -> None:
    seen: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def first() -> None:
        seen.append(threading.current_thread().name)
        kept.append(asyncio.create_task(endless()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    before = set(threading.enumerate())
    loop = LoopThread()
    loop.start(first())
    assert len(seen) == 1
    assert seen[0] != threading.current_thread().name
    loop.end()
    assert seen[1:] == ["cancelled"]
    assert kept[0].cancelled()
    assert set(threading.enumerate()) <= before


def test_what_the_first_act_raises_reaches_who_started_it() -> None:
    async def refused() -> None:
        raise OSError("address in use")

    loop = LoopThread()
    with pytest.raises(OSError, match="address in use"):
        loop.start(refused())
    loop.end()


def test_bytes_are_passed_on_unchanged_and_kept_until_either_end_is_gone() -> None:
    kept = bytearray()

    class Far:
        """A receiver that goes away after its first bytes."""

        got = b""
        closed = False

        def write(self, data: bytes) -> None:
            if self.got:
                raise ConnectionResetError
            self.got += data

        async def drain(self) -> None:
            await asyncio.sleep(0)

        def close(self) -> None:
            self.closed = True

    async def both() -> Far:
        reader, far = asyncio.StreamReader(), Far()
        reader.feed_data(b"one")
        copying = asyncio.create_task(passed_on(reader, far, kept))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        reader.feed_data(b"two")
        await copying
        return far

    far = asyncio.run(both())
    assert (far.got, bytes(kept), far.closed) == (b"one", b"onetwo", True)
