"""The site's key for patients' pseudonyms: made once, for its owner alone, and never replaced behind anybody's back.

Whoever has it can try out patients' numbers; whoever loses it gives every patient a new pseudonym, so that withdrawals name nobody.
"""

import os
import stat
from pathlib import Path

from client.errors import SiteError
from client.files import private_folder, write_first

KEY_FILE = "pseudonym.key"
KEY_BYTES = 32


def pseudonym_key(path: Path) -> bytes:
    """The key in `path`, made with its first use. `SiteError`: the file is none, or others can read it."""
    try:
        if not path.exists():
            private_folder(path.parent)
            write_first(path, os.urandom(KEY_BYTES))
        mode, key = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    except OSError as error:
        raise SiteError(f"cannot read or make {path}: {error.strerror}; check the folder and its owner") from error
    if mode & 0o077:
        raise SiteError(
            f"{path} can be read by others (mode {mode:o}): set it to 600; whoever has it can try out patients' numbers"
        )
    if len(key) != KEY_BYTES:
        raise SiteError(f"{path} has {len(key)} bytes, expected {KEY_BYTES}: restore it from its copy")
    return key


def key_for_import(path: Path, *, over_earlier: bool, write: bool) -> bytes:
    """The key for one import. Without `write` an absent one is drawn for this time alone: a dry run leaves nothing behind.

    `over_earlier`: tables of an earlier import are there; then an absent key is an error, and none is made.
    """
    if path.exists() or (write and not over_earlier):
        return pseudonym_key(path)
    if not write:
        return os.urandom(KEY_BYTES)
    raise SiteError(
        f"{path} is not there, and --out holds an earlier export: a new key would give every patient a new pseudonym and "
        "withdrawals would name nobody. Restore the key from its copy; or write to a new folder and withdraw anew"
    )
