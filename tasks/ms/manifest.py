"""manifest.json beside the tables: which version of the contract they follow, and that they are the ones it was written for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.errors import DataError

MANIFEST_FILE: Final = "manifest.json"
FORMAT: Final = "wardround/site-tables"
FORMAT_VERSION: Final = 1
BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One table's file as it was when the manifest was written."""

    file: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What the folder holds."""

    site: str
    contract_version: int
    tables: Mapping[str, Entry]
    modalities: tuple[str, ...]

    def to_json(self) -> str:
        """The file's text."""
        tables = {name: vars(entry) for name, entry in self.tables.items()}
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "site_id": self.site, "contract_version": self.contract_version}
        return json.dumps({**head, "modalities": list(self.modalities), "tables": tables}, indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, None if it has none; `DataError` if it is not one."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{MANIFEST_FILE} cannot be read as JSON: write it again") from error
    known = {"format", "format_version", "site_id", "contract_version", "modalities", "tables"}
    if not isinstance(content, dict) or content.keys() != known:
        raise DataError(f"{MANIFEST_FILE} must have the keys {', '.join(sorted(known))} and no other")
    if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
        raise DataError(f"{MANIFEST_FILE} is of a format that this version does not read: expected {FORMAT} {FORMAT_VERSION}")
    try:
        tables = {str(name): _entry(entry) for name, entry in content["tables"].items()}
        modalities = tuple(str(name) for name in content["modalities"])
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{MANIFEST_FILE}: each table needs file, sha256 and rows; modalities is a list") from error
    if not isinstance(version := content["contract_version"], int):
        raise DataError(f"{MANIFEST_FILE}: contract_version must be a whole number")
    return Manifest(str(content["site_id"]), version, tables, modalities)


def _entry(entry: Mapping[str, object]) -> Entry:
    file, digest, rows = entry["file"], entry["sha256"], entry["rows"]
    if not (isinstance(file, str) and isinstance(digest, str) and isinstance(rows, int)):
        raise TypeError("file and sha256 are texts, rows is a whole number")
    return Entry(file, digest, rows)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def differences(
    manifest: Manifest, files: Mapping[str, Path], rows: Mapping[str, int], modalities: Mapping[str, str]
) -> list[tuple[str, str]]:
    """(table, what differs) between the manifest and the folder: `files` and `rows` of each table found."""
    found = [(name, "it is not listed in the manifest") for name in sorted(files.keys() - manifest.tables.keys())]
    for name, entry in sorted(manifest.tables.items()):
        if (path := files.get(name)) is None:
            found.append((name if name in modalities else "", "the manifest lists a file that is not there"))
        elif path.name != entry.file:
            found.append(
                (name, f"the manifest lists {entry.file}" if entry.file.startswith(name) else "the manifest lists another file")
            )
        elif file_digest(path) != entry.sha256:
            found.append((name, "the file has changed since the manifest was written"))
        elif name in rows and rows[name] != entry.rows:
            found.append((name, f"{rows[name]} rows, the manifest says {entry.rows}"))
    if set(manifest.modalities) != {modalities[name] for name in files}:
        found.append(("", "its list of modalities is not that of the tables"))
    return found
