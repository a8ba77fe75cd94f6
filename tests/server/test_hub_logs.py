"""The logs that the hub's processes write for themselves: never longer than a disk that serves for years can bear."""

from pathlib import Path

import pytest

from server.logs import keep_short


def test_a_long_log_begins_anew_while_its_process_goes_on_writing(tmp_path: Path) -> None:
    file = tmp_path / "superlink.log"
    with file.open("ab", buffering=0) as writer:  # as the hub opens it for its processes
        writer.write(b"old" * 100)
        keep_short(file, most_bytes=200)
        writer.write(b"new")
        keep_short(file, most_bytes=200)
        assert file.read_bytes() == b"new"
        assert (tmp_path / "superlink.log.1").read_bytes() == b"old" * 100
        writer.write(b"newer" * 50)
        keep_short(file, most_bytes=200)
    assert file.read_bytes() == b""
    assert (tmp_path / "superlink.log.1").read_bytes() == b"new" + b"newer" * 50


def test_a_log_that_is_not_long_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "superlink.log"
    file.write_bytes(b"x" * 200)
    keep_short(file, most_bytes=200)
    assert [path.name for path in tmp_path.iterdir()] == ["superlink.log"]
    assert file.stat().st_size == 200


def test_nothing_is_lost_and_nobody_is_stopped_where_a_log_cannot_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.logs.shutil.copyfile", full)
    file = tmp_path / "superlink.log"
    file.write_bytes(b"x" * 300)
    keep_short(file, most_bytes=200)
    assert file.stat().st_size == 300
    keep_short(tmp_path / "never written.log")
