"""A number that a run releases again and again is drawn once: what repeats with fresh noise would average to the truth.

One file per plan beside the plan itself. It holds the noised number, as it was drawn, not the noise: a patient who joins the
hospital in the middle of a run must not move a release that was charged once. The file is there from the charge on, without a
number until one is drawn, and the number is in it before it is used. Where the file is lost, the number is charged and drawn
anew.
"""

import json
import math
from pathlib import Path

from client.errors import SiteError
from client.files import write_atomic, write_first


class Once:
    """Files `<plan digest>.once` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, plan_digest: bytes) -> bool:
        """Whether this plan's number was charged. Raises `SiteError` for a damaged file, before anything is charged for it."""
        path = self._path(plan_digest)
        if not path.exists():
            return False
        self._read(path)
        return True

    def charged(self, plan_digest: bytes) -> None:
        """The number was charged, and may be drawn. Durable when this returns."""
        write_first(self._path(plan_digest), _written(None))

    def keep(self, plan_digest: bytes, drawn: float) -> float:
        """The number that this plan releases: `drawn`, if none was kept before. Durable when this returns."""
        path = self._path(plan_digest)
        kept = self._read(path)
        if kept is None:
            write_atomic(path, _written(drawn))
        return drawn if kept is None else kept

    def _read(self, path: Path) -> float | None:
        try:
            kept = json.loads(path.read_bytes())["patients"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SiteError(f"{path.name} is damaged: remove it, and the count is charged and drawn anew") from error
        if kept is not None and not (isinstance(kept, float) and math.isfinite(kept)):
            raise SiteError(f"{path.name} holds no number: remove it, and the count is charged and drawn anew")
        return kept

    def _path(self, plan_digest: bytes) -> Path:
        return self._folder / f"{plan_digest.hex()}.once"


def _written(number: float | None) -> bytes:
    return json.dumps({"patients": number}).encode("ascii")
