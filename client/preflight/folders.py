"""Can the site's folders be written to, is there room, and are keys closed to everybody else? Found by trying, not by asking."""

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from client.home import Home
from client.preflight.findings import NotTried, Problem
from privacy.ledger import NO_ROOM

ROOM_MIB: Final = 512  # the ledger must never fail to write
INODES_LEAST: Final = 1_000
TRIED_BYTES: Final = 4_096
SOCKET_PATH_LIMIT: Final = 107  # bytes, as in `client.guard_rpc`, which needs grpc


def guard_folders(home: Home) -> list[Path]:
    """Where the guard and the steward's commands write; what is not there yet is made in a folder that is."""
    names = ("", "plans", "egress", "populations", "log", "socket", "prepared", "personal", "audit")
    return [path for path in (home.root / name if name else home.root for name in names) if path.exists()]


def gateway_folders(home: Home) -> list[Path]:
    """Where the gateway writes."""
    gateway = home.root / "gateway"
    return [path for path in (gateway, gateway / "state") if path.exists()]


def writable(folders: Sequence[Path]) -> str:
    """Writes a small file into each folder, waits for the disk, and removes it. Raises `Problem`."""
    if not folders:
        raise NotTried("no folder of the site is here")
    for folder in folders:
        _try_writing(folder)
    return f"{len(folders)} folders written to, fsync done"


def _try_writing(folder: Path) -> None:
    path = folder / f".check.{os.getpid()}.tmp"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(handle, bytes(TRIED_BYTES))
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _cannot_write(folder: Path, error: OSError) -> Problem:
    if error.errno in NO_ROOM:
        return room_problem(folder) or Problem("DISK_FULL", f"{folder} takes no more bytes ({os.strerror(error.errno)})")
    words = os.strerror(error.errno or 0)
    return Problem("READ_ONLY", f"{folder} cannot be written to by user {os.geteuid()} ({words})")


def room(folders: Sequence[Path]) -> str:
    """Free space and free files of every disk that holds a folder of the site. Raises `Problem`."""
    disks = {folder.stat().st_dev: folder for folder in reversed(folders)}
    if not disks:
        raise NotTried("no folder of the site is here")
    for folder in disks.values():
        if problem := room_problem(folder):
            raise problem
    return ", ".join(f"{_free_mib(folder)} MiB free at {folder}" for folder in disks.values())


def room_problem(folder: Path) -> Problem | None:
    """What is short on the disk of `folder`, if anything: files come first, since then free bytes help nobody."""
    disk, free = os.statvfs(folder), _free_mib(folder)
    if disk.f_files and disk.f_favail < INODES_LEAST:
        return Problem(
            "INODES",
            f"{disk.f_favail} more files can be made at {folder}, at least {INODES_LEAST} are needed ({free} MiB are free)",
        )
    if free == 0:
        return Problem("DISK_FULL", f"0 MiB are free at {folder}, at least {ROOM_MIB} are needed")
    if free < ROOM_MIB:
        return Problem("DISK_LOW", f"{free} MiB are free at {folder}, at least {ROOM_MIB} are needed")
    return None


def _free_mib(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize // 2**20


def closed(keys: Sequence[Path], folders: Sequence[Path], *, private: Sequence[Path], user: int) -> str:
    """Keys are plain files of `user` with mode 0600, private folders 0700, others not writable by others. Raises `Problem`."""
    for key in keys:
        _check_key(key, user)
    for folder in folders:
        found = folder.stat()
        open_to = 0o077 if folder in private else 0o022
        if found.st_uid != user:
            raise Problem("OTHER_OWNER", f"{folder} belongs to user {found.st_uid}, this is user {user}")
        if stat.S_IMODE(found.st_mode) & open_to:
            raise Problem(
                "OPEN_TO_OTHERS", f"{folder} has mode {stat.S_IMODE(found.st_mode):04o}, at most {0o777 & ~open_to:04o} is right"
            )
    return f"{len(keys)} keys and {len(folders)} folders belong to this user alone"


def _check_key(key: Path, user: int) -> None:
    try:
        found = key.lstat()
    except FileNotFoundError as error:
        raise Problem("KEY_MISSING", f"{key} is missing") from error
    if not stat.S_ISREG(found.st_mode):
        raise Problem("LINKED_KEY", f"{key} is {'a link' if stat.S_ISLNK(found.st_mode) else 'no plain file'}")
    if found.st_uid != user:
        raise Problem("OTHER_OWNER", f"{key} belongs to user {found.st_uid}, this is user {user}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise Problem("OPEN_TO_OTHERS", f"{key} has mode {stat.S_IMODE(found.st_mode):04o}, 0600 is right")


def socket_path(path: Path) -> str:
    """Raises `Problem` for a path that no socket can have."""
    length = len(os.fsencode(path.absolute()))
    if length > SOCKET_PATH_LIMIT:
        raise Problem(
            "SOCKET_PATH", f"the socket's path has {length} bytes, at most {SOCKET_PATH_LIMIT} are allowed: {path.absolute()}"
        )
    return f"{length} of {SOCKET_PATH_LIMIT} bytes"
