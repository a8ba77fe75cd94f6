"""The one place where the hospital's side reads the clock."""

import time
from datetime import UTC, datetime


def utc(now: float | None = None) -> str:
    """UTC to the second, like 2026-01-31T12:00:00Z (text order is time order)."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
