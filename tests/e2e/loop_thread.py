"""What taps share: an event loop in a thread of its own, and bytes that are kept on their way from one end to the other."""

import asyncio
import threading
from collections.abc import Coroutine

CHUNK = 1 << 16
WAIT_S = 10


class LoopThread:
    """Runs coroutines between `start` and `end`, which cancels those that still run and closes the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self, first: Coroutine[None, None, None]) -> None:
        """Returns once `first` has; raises what it raises."""
        self._thread.start()
        self._done(first)

    def end(self) -> None:
        self._done(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _done(self, what: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(WAIT_S)


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    """Everything that `reader` has, to `writer` and into `kept`, until either end is gone; errors of TLS are `OSError` too."""
    try:
        while data := await reader.read(CHUNK):
            kept += data
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
