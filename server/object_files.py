"""What messages carry lies in files beside the hub's database, each once, and goes when its message was fetched.

A database keeps large values badly: each is written twice (log, then table), passes through its cache, and holds up every other
writer meanwhile. Here a value is written before the database is asked, under a name of its own that the database then keeps,
and unlinked after the transaction that forgot it. Nothing is synchronised: a power cut may cost a round, a killed process nothing.

The last of the disk is not for them: whoever sends too much loses his message, and database, journals and checkpoints go on.
"""

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

LEFT_BYTES = 256 << 20  # of the disk, or a twentieth of a small one


class ObjectFiles:
    """Values under `folder`, which this process alone writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, content: bytes) -> str:
        """Keep a value; its name, never used before. Raises OSError, and leaves nothing then."""
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize - len(content) < min(LEFT_BYTES, disk.f_blocks * disk.f_frsize // 20):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        name = secrets.token_hex(16)
        try:
            with os.fdopen(os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        except OSError:
            self.remove(name)
            raise
        return name

    def read(self, name: str) -> bytes | None:
        """The value; None where there is none (any more)."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def keep_only(self, names: Iterable[str]) -> int:
        """After a start: remove what the database does not name, as a killed process left it; how many there were."""
        known = set(names)
        strangers = [path for path in self._folder.iterdir() if path.name not in known]
        for path in strangers:
            path.unlink(missing_ok=True)
        return len(strangers)
