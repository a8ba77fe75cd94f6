"""Folders that cannot be written, disks without room or files, keys that others can read: each is caused with real files."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from checked_site import Checked

from client.preflight import folders
from client.preflight.findings import Problem
from client.preflight.machine import Memory, enough, memory, needed_mib

OFFLINE = ("--offline",)


def test_a_folder_in_order_has_no_problem_and_nothing_is_left_in_it(site: Checked) -> None:
    site.joins(443)
    before = sorted(site.home.root.rglob("*"))
    site.check(*OFFLINE, status=0)
    assert sorted(site.home.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("code", "number"),
    [("READ_ONLY", errno.EROFS), ("READ_ONLY", errno.EACCES), ("DISK_FULL", errno.ENOSPC), ("DISK_FULL", errno.EDQUOT)],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_folder_that_takes_nothing(site: Checked, monkeypatch: pytest.MonkeyPatch, code: str, number: int, call: str) -> None:
    """Whichever call the system refuses: a quota shows at the write, a full disk perhaps at the fsync."""
    real = getattr(os, call)

    def refuse(first: object, *rest: object) -> object:
        if call != "open" or ".check." in str(first):
            raise OSError(number, os.strerror(number))
        return real(first, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(Problem) as found:
            folders.writable([site.home.root])
    assert found.value.code == code
    assert str(site.home.root) in found.value.detail
    assert not list(site.home.root.glob(".check.*"))


def test_a_link_in_the_place_of_the_tried_file_is_not_followed(site: Checked) -> None:
    target = site.home.root / "ledger.jsonl"
    target.write_text("kept")
    (site.home.root / f".check.{os.getpid()}.tmp").symlink_to(target)
    with pytest.raises(Problem):
        folders.writable([site.home.root])
    assert target.read_text() == "kept"


def with_disk(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    found = {"f_files": 1_000_000, "f_favail": 900_000, "f_bavail": 10**7, "f_frsize": 4096} | changes
    monkeypatch.setattr(os, "statvfs", lambda path: type("Disk", (), found))


@pytest.mark.parametrize(
    ("code", "words", "changes"),
    [
        ("DISK_LOW", "100 MiB are free", {"f_bavail": 25_600}),
        ("DISK_FULL", "0 MiB are free", {"f_bavail": 0}),
        ("INODES", "7 more files", {"f_favail": 7}),
    ],
)
def test_a_disk_that_is_nearly_full(
    site: Checked, monkeypatch: pytest.MonkeyPatch, code: str, words: str, changes: dict[str, int]
) -> None:
    site.joins(443)
    with_disk(monkeypatch, **changes)
    site.finds("disk", code, words, asked=OFFLINE)


def test_a_disk_that_counts_no_files_is_no_problem(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    site.joins(443)
    with_disk(monkeypatch, f_files=0, f_favail=0)
    site.check(*OFFLINE, status=0)


def _open(site: Checked) -> None:
    site.home.transport_key.chmod(0o640)


def _open_folder(site: Checked) -> None:
    (site.home.root / "gateway").chmod(0o750)


def _linked(site: Checked) -> None:
    key = site.home.transport_key
    key.rename(key.with_name("elsewhere"))
    key.symlink_to("elsewhere")


def _lost(site: Checked) -> None:
    site.home.transport_key.unlink()


@pytest.mark.parametrize(
    ("code", "words", "spoil"),
    [
        ("OPEN_TO_OTHERS", "0640", _open),
        ("OPEN_TO_OTHERS", "0750", _open_folder),
        ("LINKED_KEY", "a link", _linked),
        ("KEY_MISSING", "", _lost),
    ],
)
def test_a_key_or_folder_that_is_not_the_users_alone(
    site: Checked, code: str, words: str, spoil: Callable[[Checked], None]
) -> None:
    site.joins(443)
    spoil(site)
    site.finds("keys", code, words, asked=OFFLINE)


def test_a_key_of_another_user(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    site.joins(443)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    site.finds("keys", "OTHER_OWNER", "user 4242", asked=OFFLINE)


def test_a_socket_path_too_long(tmp_path: Path) -> None:
    folders.socket_path(Path("/" + "x" * 106))
    with pytest.raises(Problem, match="108 bytes, at most 107"):
        folders.socket_path(Path("/" + "x" * 107))


# --- memory -----------------------------------------------------------------------------------------------------------


def machine_with(root: Path, group: str, **files: object) -> Memory:
    """A file system with these files of a process in cgroup line `group`, and 8,000 MiB of which 6,000 are free."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {8000 * 1024} kB\nMemAvailable: {6000 * 1024} kB\n")
    (root / "proc/self/cgroup").write_text(group + "\n")
    for name, value in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return memory(root)


READ = f"anon {50 << 20}\ninactive_file {60 << 20}"  # bytes of files that were read, in a group of 100 MiB
V1 = {"memory__memory_dot_limit_in_bytes": 512 << 20, "memory__memory_dot_usage_in_bytes": 100 << 20}


@pytest.mark.parametrize(
    ("group", "files", "total", "free"),
    [
        ("0::/", {"memory_dot_max": 512 << 20, "memory_dot_current": 100 << 20}, 512, 412),
        ("0::/", {"memory_dot_max": "max"}, 8000, 6000),
        ("0::/a/b", {"a__memory_dot_max": 700 << 20, "a__memory_dot_current": 0, "a__b__memory_dot_max": "max"}, 700, 700),
        ("4:cpu,memory:/docker/1f", V1, 512, 412),
        ("0::/", {"memory_dot_max": 512 << 20, "memory_dot_current": 100 << 20, "memory_dot_stat": READ}, 512, 472),
        ("4:memory:/a", V1 | {"memory__memory_dot_stat": f"{READ}\ntotal_inactive_file {90 << 20}"}, 512, 502),
        ("0::/", {"memory_dot_max": 512 << 20, "memory_dot_current": 10 << 20, "memory_dot_stat": READ}, 512, 512),
        ("4:memory:/", V1 | {"memory__memory_dot_limit_in_bytes": 2**63 - 4096}, 8000, 6000),
    ],
)
def test_the_tightest_limit_counts_in_either_version_of_cgroups(
    tmp_path: Path, group: str, files: dict[str, object], total: int, free: int
) -> None:
    found = machine_with(tmp_path, group, **files)
    assert (found.total, found.free) == (total, free)


def test_too_little_memory_names_both_numbers() -> None:
    needed = needed_mib(guard=True, gateway=False, threads=2, images=False)
    assert needed == 160 + 512 + 2 * 64
    with pytest.raises(Problem, match=f"512 MiB of memory by this container's limit, about {needed} are needed"):
        enough(Memory(512, 400, "this container's limit"), needed, running=True)
    with pytest.raises(Problem, match=f"300 MiB of memory are free of 8000 .* about {needed} are needed"):
        enough(Memory(8000, 300, "this machine"), needed, running=False)
    assert enough(Memory(8000, 300, "this machine"), needed, running=True)
    assert needed_mib(guard=True, gateway=True, threads=2, images=True) == needed + 2_048 + 320


def test_the_check_of_a_small_container_says_so(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    site.joins(443)
    monkeypatch.setattr("client.preflight.machine.memory", lambda: Memory(200, 150, "this container's limit"))
    site.finds("memory", "MEMORY", "200 MiB", "about 320 are needed", asked=OFFLINE)
