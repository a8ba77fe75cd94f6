"""Every value is in a file of its own until it is removed; what a killed process left is gone after the next start."""

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.object_files import ObjectFiles


def test_a_value_stays_until_it_is_removed(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "objects")
    first, second = files.write(b"one"), files.write(b"one")
    assert first != second
    files.remove(first)
    assert (files.read(first), files.read(second)) == (None, b"one")
    files.remove(first)  # again: nothing


def test_only_what_the_database_names_outlives_a_start(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path)
    kept, stranger = files.write(b"kept"), files.write(b"stranger")
    again = ObjectFiles(tmp_path)
    assert again.keep_only([kept, "named but absent"]) == 1
    assert (again.read(kept), again.read(stranger)) == (b"kept", None)


def test_the_folder_is_for_nobody_else(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "objects")
    files.write(b"x")
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "objects").iterdir()} == {0o600}


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectFiles(tmp_path)

    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(handle: int, _: str) -> Full:
        os.close(handle)
        return Full()

    monkeypatch.setattr("server.object_files.os.fdopen", opened)
    with pytest.raises(OSError, match="No space"):
        files.write(b"x" * 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("total", "free", "takes"),
    [(1 << 40, (256 << 20) + 10, True), (1 << 40, (256 << 20) + 9, False), (1000, 60, True), (1000, 59, False), (1000, 0, False)],
)
def test_the_last_of_the_disk_is_left_to_database_and_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, takes: bool
) -> None:
    files = ObjectFiles(tmp_path)
    monkeypatch.setattr("server.object_files.os.statvfs", lambda _: SimpleNamespace(f_frsize=1, f_blocks=total, f_bavail=free))
    if takes:
        assert files.read(files.write(b"x" * 10)) == b"x" * 10
    else:
        with pytest.raises(OSError, match="No space"):
            files.write(b"x" * 10)
        assert list(tmp_path.iterdir()) == []
