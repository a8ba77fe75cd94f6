"""The lead's folders remember the newest version that wrote them: an older program refuses them instead of misreading them.

Both kinds do, the home and each run folder: a run folder is copied, moved and resumed by itself. Every file that release 0.1.0
wrote is read as it is (the table in `server/README.md`), so nothing is rewritten.
"""

import importlib.metadata
from pathlib import Path
from typing import Final

from consortium import version
from consortium.errors import DocumentError
from server.errors import ConfigError
from server.folder import write_durably

WRITTEN_BY: Final = "written-by"


def code_version() -> str:
    """Of the installed distribution. Raises `ConfigError`."""
    try:
        return importlib.metadata.version("wardround")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("the distribution wardround is not installed: pip install it (or -e .), then try again") from error


def check(root: Path, own: str) -> bool:
    """Whether `written-by` is to be written anew. Raises `ConfigError` for a folder that a newer version wrote. Changes nothing."""
    path = root / WRITTEN_BY
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check its owner") from error
    try:
        return version.newest(found, own, str(path))
    except DocumentError as error:
        raise ConfigError(str(error)) from error


def forward(root: Path, own: str) -> None:
    """From now on this version writes the folder; durable before it does. Raises `ConfigError` where a newer one did."""
    if check(root, own):
        write_durably(root / WRITTEN_BY, version.marker(own))
