"""The resources in a FHIR R4 export, one after another: a bundle, a folder of bundles, a folder of NDJSON files.

NDJSON is read line by line, so that a bulk export of any size needs the memory of its longest line. A bundle is one JSON
value and is held whole. Files are named by their place in the folder, because exporters put patients' names into file names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tasks.importing.errors import ImportRefused

R4: Final = "4.0"  # 4.0.0 and 4.0.1; 4.1 and 4.3 are R4B
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character outside the basic plane
REMEDY: Final = "export it again, and check that the transfer was complete"


@dataclass(frozen=True)
class Entry:
    """One resource: where it stood (line of an NDJSON file or entry of a bundle, from 1) and what it is."""

    source: str
    number: int
    full_url: str  # of its bundle entry, "" if there is none
    resource: dict[str, Any] = field(repr=False)


def read_entries(path: Path) -> Iterator[Entry]:
    """Every resource below `path` in a fixed order. `ImportRefused`: no FHIR R4, not JSON, or nothing to read."""
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in (".json", ".ndjson") and each.is_file())
        if not files:
            raise ImportRefused("the folder holds no .json or .ndjson file: name the folder of the export itself")
        for number, each in enumerate(files, 1):
            yield from _file(each, f"file {number} of {len(files)} (by name)")
    elif path.is_file():
        yield from _file(path, "the file")
    else:
        raise ImportRefused("there is no such file or folder: name the export")


def _file(path: Path, source: str) -> Iterator[Entry]:
    return _lines(path, source) if path.suffix == ".ndjson" else _bundle(path, source)


def _lines(path: Path, source: str) -> Iterator[Entry]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _entry(source, number, "", _parsed(line, f"{source}, line {number},"))


def _bundle(path: Path, source: str) -> Iterator[Entry]:
    bundle = _parsed(path.read_bytes(), source)
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise ImportRefused(f"{source} is JSON but no FHIR bundle: its resourceType must be Bundle")
    _check_version(bundle, source)
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise ImportRefused(f"{source}: the bundle's entry must be a list; {REMEDY}")
    for number, each in enumerate(entries, 1):
        if not isinstance(each, dict):
            raise ImportRefused(f"{source}, entry {number}: it must be an object; {REMEDY}")
        url = each.get("fullUrl", "")
        yield _entry(source, number, url if isinstance(url, str) else "", each.get("resource"))


def _entry(source: str, number: int, url: str, resource: object) -> Entry:
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise ImportRefused(f"{source}, line or entry {number}: there is no resource with a resourceType; {REMEDY}")
    _check_version(resource, f"{source}, line or entry {number}")
    return Entry(source, number, url, resource)


def _check_version(resource: dict[str, Any], where: str) -> None:
    version = resource.get("fhirVersion")
    if version is not None and not (isinstance(version, str) and (version == R4 or version.startswith(f"{R4}."))):
        raise ImportRefused(f"{where} declares another version of FHIR than R4 ({R4}.x): export as R4")


def _parsed(data: bytes, where: str) -> object:
    try:
        written = data.decode("utf-8-sig")
        found: object = json.loads(written, parse_constant=_no_number)
        if _HALF.search(written):
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a character, which no file can hold: a ValueError
    except (ValueError, RecursionError):  # chained, the parser's error would carry the text
        raise ImportRefused(f"{where} is not valid JSON in UTF-8: {REMEDY}") from None
    return found


def _no_number(_: str) -> float:
    raise ValueError
