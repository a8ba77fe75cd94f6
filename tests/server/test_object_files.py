"""Every value is in a file of its own until it is removed; what a killed process left is gone after the next start."""

from pathlib import Path

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


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path)
    with pytest.raises(TypeError):
        files.write("no bytes")  # type: ignore[arg-type]
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(OSError, match="No space"):
            full.write_bytes(b"x" * 10)
