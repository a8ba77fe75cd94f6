"""Files that outlast a power cut."""

import os
from pathlib import Path


def write_new(path: Path, content: str) -> None:
    """UTF-8 text in a new file that its owner alone reads, on disk when this returns. Raises `FileExistsError`."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in `folder` is on disk when this returns."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
