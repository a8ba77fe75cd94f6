"""No more bytes than fit are in memory at once, however many want to be; whoever waits for room waits until its time is over."""

import threading
import time

from server.transport import TransportError


class Room:
    """`limit` bytes, shared by threads. What is larger than that comes in where nothing else is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    def enter(self, size: int, end: float) -> None:
        """Take room for `size` bytes; `TransportError` if there is none until `end` (`time.monotonic`)."""
        with self._changed:
            fits = self._changed.wait_for(
                lambda: not self._taken or self._taken + size <= self._limit, max(0.0, end - time.monotonic())
            )
            if not fits:
                raise TransportError(f"no room for {size} bytes beside {self._taken} of {self._limit} in time")
            self._taken += size

    def leave(self, size: int) -> None:
        """Give it back."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()
