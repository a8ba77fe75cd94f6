"""A number that a run releases again and again is drawn once: what repeats with fresh noise would average to the truth.

One file per plan beside the plan itself. It holds the noised number, as it was drawn, not the noise: a patient who joins the
hospital in the middle of a run must not move a release that was charged once. Written before the number is used; where the
file is missing, the number is charged and drawn anew.
"""

import json
import math
from pathlib import Path

from client.errors import SiteError
from client.files import write_first


class Once:
    """Files `<plan digest>.once` in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, plan_digest: bytes) -> bool:
        """Whether this plan's number was drawn: then it costs nothing more."""
        return self._path(plan_digest).exists()

    def keep(self, plan_digest: bytes, drawn: float) -> float:
        """The number that this plan releases: `drawn`, if none was kept before. Durable when this returns."""
        path = self._path(plan_digest)
        write_first(path, json.dumps({"patients": drawn}).encode("ascii"))
        try:
            kept = json.loads(path.read_bytes())["patients"]
        except (ValueError, KeyError, TypeError) as error:
            raise SiteError(f"{path.name} is damaged: remove it, and the count is charged and drawn anew") from error
        if not isinstance(kept, float) or not math.isfinite(kept):
            raise SiteError(f"{path.name} holds no number: remove it, and the count is charged and drawn anew")
        return kept

    def _path(self, plan_digest: bytes) -> Path:
        return self._folder / f"{plan_digest.hex()}.once"
