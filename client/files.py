"""Files that survive a killed process: written beside, fsynced, renamed, the folder fsynced. No reader ever sees half of one."""

import os
import threading
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """`path` holds either its old content or all of `data`, whatever happens; durable when this returns."""
    temporary = _written(path, data, mode)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_first(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Like `write_atomic`, but an existing file stays as it is; whether it was written."""
    temporary = _written(path, data, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _written(path: Path, data: bytes, mode: int) -> Path:
    """A durable file beside `path`, of this thread alone; what lies at its name, a link to elsewhere say, is not written to."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # Ctrl-C too: what may be a patient's record is not left lying about
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """A file that was made or renamed in `folder` is found there after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_folder(path: Path) -> Path:
    """`path`, made with mode 0700 if absent."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
