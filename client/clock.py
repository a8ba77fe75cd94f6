"""The one place where the hospital's side reads the clock."""

import time
from datetime import UTC, datetime
from typing import Final

ALIVE_S: Final = 15.0  # a daemon's display that was not renewed for so long is of one that ended, or hangs


def utc(now: float | None = None) -> str:
    """UTC to the second, like 2026-01-31T12:00:00Z (text order is time order)."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def age_s(at: object, now: float | None = None) -> float:
    """Seconds between `at`, as `utc` writes it, and now, whichever comes first (clocks differ); endless for anything else."""
    try:
        moment = datetime.strptime(str(at), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return float("inf")
    return abs((time.time() if now is None else now) - moment.timestamp())
