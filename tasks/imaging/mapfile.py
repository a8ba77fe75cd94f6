"""`images.yaml`: where the images of a plain folder tree lie, said once by the person who knows.

    format: wardround/images
    format_version: 1
    root: /mnt/archive/ms                 # may be left out: the tree that the rest is about, if it is not the map's own folder
    scans: "{patient}/{session}"          # the folder of one session, from there
    images:                               # names in that folder; at least one of FLAIR, T1w, T2w, T1w_ce
      FLAIR: FLAIR.nii.gz
      T1w: [T1.nii.gz, MPRAGE.nii.gz]     # the first that exists
    mask: lesions.nii.gz                  # may be left out; so may the next two
    new: new_lesions.nii.gz               # a mask of the lesions that are new since the session before, and of nothing else
    change: /masks/{patient}.nii.gz       # a mask of all that differs between two sessions; a leading / means: from the top
    sessions: sessions.tsv                # may be left out: a table with tabs: patient_id, session, day, scanner

Names are taken as they are; `{patient}` and `{session}` are the only things that vary. Nothing leads out of the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.errors import MappingError
from tasks.imaging.bids import PREDICTED
from tasks.imaging.header import ENDINGS
from tasks.imaging.layout import MASKS, MODALITIES, Finding, Found, Key, Layout
from tasks.imaging.rules import rule_called
from tasks.imaging.sidecars import SideFileError, day_of, read_table, scanner_of
from tasks.ms.schema import PATTERNS
from tasks.strict_yaml import Document, parse

MAP_FILE: Final = "images.yaml"
FORMAT: Final = "wardround/images"
FORMAT_VERSION: Final = "1"
KNOWN: Final = ("format", "format_version", "root", "scans", "images", *MASKS, "sessions")
PLACES: Final = {"{patient}": f"(?P<patient>{PATTERNS['id']})", "{session}": "(?P<session>[A-Za-z0-9][A-Za-z0-9.-]{0,39})"}
ANYTHING: Final = {"{patient}": "(?P<patient>.+)", "{session}": "(?P<session>.+)"}


@dataclass(frozen=True)
class ImageMap:
    """The file, checked. Templates are paths within the tree."""

    root: Path  # resolved
    scans: str
    files: Mapping[str, tuple[str, ...]]  # by role, first choice first
    sessions: str  # "" if there is no table


def read_map(folder: Path) -> ImageMap:
    """`images.yaml` of `folder`; `MappingError` says which key is wrong and how."""
    try:
        content = parse((folder / MAP_FILE).read_text(encoding="utf-8"), MAP_FILE)
    except (OSError, UnicodeError) as error:
        raise MappingError(f"{MAP_FILE} cannot be read as UTF-8 text") from error
    if not isinstance(content, dict) or not {"format", "format_version", "scans", "images"} <= content.keys() <= set(KNOWN):
        raise MappingError(
            f"{MAP_FILE} must have the keys format, format_version, scans, images, and may have root, mask, new, change, sessions"
        )
    if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
        raise MappingError(f"{MAP_FILE} is of a format that this version does not read: expected {FORMAT} {FORMAT_VERSION}")
    images = content["images"]
    if not isinstance(images, dict) or not images or not images.keys() <= set(MODALITIES):
        raise MappingError(f"{MAP_FILE}: images must name at least one of {', '.join(MODALITIES)} and nothing else")
    roles: dict[str, Document] = {**images, **{role: content[role] for role in MASKS if role in content}}
    return ImageMap(
        root=_root(folder, content.get("root", ".")),
        scans=_template(content["scans"], "scans", needs="{patient}"),
        files={role: _names(given, role) for role, given in roles.items()},
        sessions=_template(content["sessions"], "sessions") if "sessions" in content else "",
    )


def _root(folder: Path, given: Document) -> Path:
    root = (folder / given).resolve() if isinstance(given, str) else folder
    if not isinstance(given, str) or not root.is_dir():
        raise MappingError(f"{MAP_FILE}: root must be a folder that is there")
    return root


def _names(given: Document, role: str) -> tuple[str, ...]:
    names = tuple(_template(each, role) for each in (given if isinstance(given, list) else [given]))
    if not names or not all(name.endswith(ENDINGS) for name in names):
        raise MappingError(f"{MAP_FILE}: {role} must name files that end in {' or '.join(ENDINGS)}")
    if any(f"desc-{PREDICTED}_" in name for name in names):
        raise MappingError(
            f"{MAP_FILE}: {role} names files with desc-{PREDICTED}: a model drew them, and they are nothing to learn from"
        )
    return names


def _template(given: Document, key: str, needs: str = "") -> str:
    if not isinstance(given, str) or not given.strip("/"):
        raise MappingError(f"{MAP_FILE}: {key} must be a text")
    bare = given.replace("{patient}", "").replace("{session}", "")
    if "{" in bare or "}" in bare or "\\" in bare:
        raise MappingError(f"{MAP_FILE}: {key} may vary by {{patient}} and {{session}} alone, and has / between folders")
    if any(part in ("", ".", "..") for part in given.removeprefix("/").split("/")):
        raise MappingError(f"{MAP_FILE}: {key} has an empty part, . or ..: write the path from the image folder down")
    if needs and needs not in given:
        raise MappingError(f"{MAP_FILE}: {key} must contain {needs}, else nobody knows whose images they are")
    return given


def find_mapped(folder: Path) -> Layout:
    """What lies in the tree that the `images.yaml` of `folder` describes."""
    given = read_map(folder)
    root, layout = given.root, Layout(given.root)
    for key, folder in _scans(layout, given.scans):
        layout.sessions.add(key)
        for role, names in given.files.items():
            for rank, name in enumerate(names):
                path = _filled(root if name.startswith("/") else folder, name, key)
                if (path.exists() or path.is_symlink()) and layout.within(path):
                    layout.files.append(Found(key, role, path, "", (rank,)))
    if layout.sessions:  # no side file could say otherwise
        said = f"{len(layout.sessions)} of {len(layout.sessions)} sessions"
        layout.findings.append(Finding(rule_called("faces_unknown"), "", said))
    if given.sessions:
        _sessions(layout, root / given.sessions.removeprefix("/"))
    return layout


def _filled(folder: Path, name: str, key: Key) -> Path:
    return folder / name.removeprefix("/").replace("{patient}", key[0]).replace("{session}", key[1])


def _scans(layout: Layout, template: str) -> Iterator[tuple[Key, Path]]:
    """Every folder that fits the template, with whose it is."""
    found: list[tuple[Path, dict[str, str]]] = [(layout.root, {})]
    for part in template.removeprefix("/").split("/"):
        found = [each for folder, known in found for each in _fitting(layout, folder, part, known)]
    for folder, known in found:
        yield (known["patient"], known.get("session", "")), folder


def _fitting(layout: Layout, folder: Path, part: str, known: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    pattern, loose = _pattern(part, known, PLACES), _pattern(part, known, ANYTHING)
    for path in layout.folders(folder):
        if match := pattern.fullmatch(path.name):
            yield path, {**known, **match.groupdict()}
        elif loose.fullmatch(path.name):
            layout.find("name", path, "a patient or a session has letters, digits and . - alone, a patient also _, at most 40")


def _pattern(part: str, known: Mapping[str, str], places: Mapping[str, str]) -> re.Pattern[str]:
    """One part of the template; what is known already, or stands there twice, must be the same again."""
    pieces, seen = [], set(known)
    for piece in re.split(r"(\{patient\}|\{session\})", part):
        name = piece.strip("{}")
        if piece not in places:
            pieces.append(re.escape(piece))
        elif name in known:
            pieces.append(re.escape(known[name]))
        else:
            pieces.append(f"(?P={name})" if name in seen else places[piece])
            seen.add(name)
    return re.compile("".join(pieces))


def _sessions(layout: Layout, path: Path) -> None:
    """Days and scanners from the table that the map names."""
    if not layout.within(path):
        layout.find("side_file", path, "it is not there")
        return
    try:
        rows = read_table(path, "patient_id", "session")
        days = {(row["patient_id"], row.get("session", "")): day_of(row.get("day", "")) for row in rows}
    except SideFileError as error:
        layout.find("side_file", path, str(error))
        return
    layout.days |= {key: day for key, day in days.items() if day is not None}
    for row in rows:
        if scanner := scanner_of(row.get("scanner"), ""):
            layout.scanners[row["patient_id"], row.get("session", "")] = scanner
