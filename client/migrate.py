"""A site's folder remembers the newest version that wrote it: an older program refuses it instead of misreading it.

Every file that release 0.1.0 wrote is read as it is (the table in `client/README.md`), so nothing is rewritten. What a later
version must rewrite it rewrites here, before anything else is opened: atomically, the original beside it as `NAME.before-VERSION`.
"""

from pathlib import Path
from typing import Final

from client.errors import ConfigError
from client.files import write_atomic
from consortium import version
from consortium.errors import DocumentError

WRITTEN_BY: Final = "written-by"


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
        write_atomic(root / WRITTEN_BY, version.marker(own), mode=0o640)
