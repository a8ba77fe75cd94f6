"""A gateway knows itself again after a restart, and no copy of it takes itself for the first."""

import shutil
from pathlib import Path

from client.instance import instance_of


def booted(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(f"boot of {name}\n")
    return path


def test_a_restart_is_the_same_instance(tmp_path: Path) -> None:
    here = booted(tmp_path, "here")
    first = instance_of(tmp_path, here)
    assert (len(first), instance_of(tmp_path, here)) == (32, first)
    assert instance_of(tmp_path, booted(tmp_path, "elsewhere")) != first  # another machine, or another boot


def test_a_copied_folder_is_another_instance(tmp_path: Path) -> None:
    here = booted(tmp_path, "here")
    state = tmp_path / "state"
    state.mkdir()
    first = instance_of(state, here)
    shutil.copytree(state, tmp_path / "copy")
    assert instance_of(tmp_path / "copy", here) != first


def test_an_instance_does_not_give_its_secret_away(tmp_path: Path) -> None:
    shown = instance_of(tmp_path, booted(tmp_path, "here"))
    assert shown not in (tmp_path / "instance").read_text()
    assert (tmp_path / "instance").read_text() not in shown
