"""Where a command may write: never over a table of the hospital, nor over anything that the same command did not write before."""

from collections.abc import Callable
from pathlib import Path

from client.errors import ConfigError
from tasks.ms.contract import CONTRACT

PAGE = b"<!doctype html>"


def free(path: Path, option: str, ours: Callable[[Path], bool]) -> Path:
    """`path`, `~` expanded, if nothing is lost by writing there: nothing is there, or a file of which `ours` is true.

    `ConfigError` for a folder, for a folder around it that is not there, and for any other file.
    """
    found = path.expanduser()
    if not found.parent.is_dir():
        raise ConfigError(f"{option}: {found.parent} is no folder: make it, or name another file")
    if found.exists() and not (found.is_file() and ours(found)):
        raise ConfigError(f"{option}: {found} exists and was not written by this command: name another file")
    return found


def page(path: Path, option: str = "--html") -> Path:
    """The same for a page."""
    return free(path, option, beginning_with(PAGE))


def beginning_with(head: bytes) -> Callable[[Path], bool]:
    """Whether a file begins with these bytes; one that cannot be read does not."""

    def ours(path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(head)) == head
        except OSError:
            return False

    return ours


def table_of_patients(path: Path, head: bytes, such_as: str) -> Path:
    """A .csv that begins with `head` if it was there before, and never bears the name of a table of the data contract."""
    if path.suffix != ".csv":
        raise ConfigError("--out must end in .csv")
    if path.stem in CONTRACT.names:
        raise ConfigError(f"--out {path.name} is the name of a table of the data contract: choose another, such as {such_as}")
    return free(path, "--out", beginning_with(head))
