"""A process that kills itself, -9, before any chosen line of our code: what is on disk then is all that a restart has."""

import os
import signal
import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def kill_at(line: int, files: Collection[str]) -> None:
    """From now on this process kills itself before the `line`-th line of `files` that it comes to."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
        return trace

    sys.settrace(trace)


def in_child(act: Callable[[], None]) -> int:
    """`act` in a process of its own; 0 if it came to its end, the signal's number below 0 if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
