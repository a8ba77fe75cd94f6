"""Has this machine or container the memory that the site's tasks need, and can a process close its memory here?"""

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.preflight.findings import Problem

GUARD_MIB: Final = 160  # the guard itself, with its ledger and the bodies of small models
TRAINER_MIB: Final = 512  # torch and pandas with a registry's tables: 300 measured with 600 patients of `cis_conversion`
IMAGES_MIB: Final = 2_048  # more for tasks on images: patches, their passes, a scan being prepared
THREAD_MIB: Final = 64  # buffers of each processor that computes
GATEWAY_MIB: Final = 320  # SuperNode 190, relay 100, messages of small models
UNLIMITED: Final = 2**60  # a cgroup's word for no limit is a number above any memory

GET_DUMPABLE: Final = 3  # PR_GET_DUMPABLE, linux/prctl.h


@dataclass(frozen=True)
class Memory:
    """MiB. `total`: what this process may have at all, by the machine or the tightest cgroup, named in `bound`; `free`: now."""

    total: int
    free: int
    bound: str


def memory(root: Path = Path("/")) -> Memory:
    """Of the machine and of every cgroup, version 1 or 2, that this process is in."""
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
    found = Memory(_kib(lines["MemTotal"]), _kib(lines["MemAvailable"]), "this machine")
    for folder, limit_file, used_file in _cgroups(root):
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and limit // 2**20 < found.total:
            total, held = limit // 2**20, (used or 0) - _reclaimable(folder)
            found = Memory(total, min(found.free, total - max(0, held) // 2**20), "this container's limit")
    return found


def needed_mib(*, guard: bool, gateway: bool, threads: int, images: bool) -> int:
    """An estimate, of the tasks that site.yaml lists; large models need more."""
    trainer = GUARD_MIB + TRAINER_MIB + THREAD_MIB * threads + (IMAGES_MIB if images else 0)
    return (trainer if guard else 0) + (GATEWAY_MIB if gateway else 0)


def enough(found: Memory, needed: int, *, running: bool) -> str:
    """Raises `Problem`. `running`: the daemons have their part already, so that what is free now says nothing."""
    if found.total < needed:
        raise Problem("MEMORY", f"{found.total} MiB of memory by {found.bound}, about {needed} are needed")
    if not running and found.free < needed:
        raise Problem("MEMORY", f"{found.free} MiB of memory are free of {found.total} by {found.bound}, about {needed} are needed")
    return f"{found.free} of {found.total} MiB free by {found.bound}, about {needed} needed"


def closable() -> str:
    """Whether the guard can close its memory to other processes and leave no core dump, as it does at its start."""
    if not sys.platform.startswith("linux"):
        raise Problem("MEMORY_OPEN", f"this is {sys.platform}")
    if ctypes.CDLL(None, use_errno=True).prctl(GET_DUMPABLE, 0, 0, 0, 0) < 0:
        raise Problem("MEMORY_OPEN", f"prctl is refused (errno {ctypes.get_errno()}: {os.strerror(ctypes.get_errno())})")
    return "the guard leaves no core dump, and no process of this user reads its memory"


def _kib(text: str) -> int:
    return int(text.split()[0]) // 1024


def _number(path: Path) -> int | None:
    try:
        value = int(path.read_text())
    except (OSError, ValueError):  # `max`, or a file that this kernel has not
        return None
    return value if value < UNLIMITED else None


def _reclaimable(folder: Path) -> int:
    """Bytes of files that were read and are kept in case they are read again: they count as used, and are given up on demand."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdecimal()}
    # version 1 says both, of the group alone and with the groups below it; version 2 counts those below under the plain name
    return stat.get("total_inactive_file", stat.get("inactive_file", 0))


def _cgroups(root: Path) -> Sequence[tuple[Path, str, str]]:
    """Folders of this process's groups and of those above them, with their files of limit and use."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [(folder, "memory.max", "memory.current") for folder in _upwards(root / "sys/fs/cgroup", path)]
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            found += [(folder, *files) for folder in _upwards(root / "sys/fs/cgroup/memory", path)]
    return found


def _upwards(base: Path, path: str) -> list[Path]:
    """Inside a container the path may be the host's, and the folders are at the top."""
    inner = Path(path.lstrip("/"))
    return [base / inner, *(base / above for above in inner.parents)] if str(inner) != "." else [base]
