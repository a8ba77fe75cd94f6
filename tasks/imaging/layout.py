"""What lies in an image folder, by names alone, and never a step out of it: no link, no `..`, no device is followed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks.imaging.header import ENDINGS
from tasks.imaging.rules import rule_called
from tasks.ms.rules import Rule, Severity

MODALITIES: Final[tuple[str, ...]] = ("FLAIR", "T1w", "T2w", "T1w_ce")
MASK: Final = "mask"
NEW: Final = "new"  # a mask of the lesions that are new since the session before
CHANGE: Final = "change"  # a mask of all that differs between a patient's two sessions: new, grown and shrunk
MASKS: Final = (MASK, NEW, CHANGE)
EARLIER: Final = tuple(f"{name}_before" for name in MODALITIES)  # of the session before, in the same order: `pairs.py`
Key = tuple[str, str]  # subject and session as the folder names them; session "" where there is none


@dataclass(frozen=True)
class Finding:
    """One rule that one file, session or patient breaks. The place names patients by pseudonym: it is for local reports."""

    rule: Rule
    place: str  # path within the image folder, or "patient P001"; "" for the folder
    found: str = ""  # sizes, names of keys, other places; never a date or an intensity

    @property
    def severity(self) -> Severity:
        """error, warning or note."""
        return self.rule.severity


@dataclass(frozen=True)
class Found:
    """One file that may be an image of a session."""

    key: Key
    role: str  # one of MODALITIES or MASKS
    path: Path
    space: str = ""  # the space- of its name
    rank: tuple[object, ...] = ()  # of several files for one role the lowest is used


@dataclass
class Layout:
    """Everything known of an image folder before a header is read."""

    root: Path  # resolved
    files: list[Found] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    days: dict[Key, int] = field(default_factory=dict)
    scanners: dict[Key, str] = field(default_factory=dict)
    sessions: set[Key] = field(default_factory=set)  # all that have a folder, with or without images

    def place(self, path: Path) -> str:
        """`path` as reports show it."""
        return path.relative_to(self.root).as_posix()

    def find(self, rule: str, path: Path, found: str = "") -> None:
        """Note that `path` breaks `rule`."""
        self.findings.append(Finding(rule_called(rule), self.place(path), found))

    def entries(self, folder: Path, start: str = "") -> Iterator[Path]:
        """What in `folder` begins with `start`, sorted, without hidden files; links out or to nowhere are findings instead."""
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            self.find("unreadable", folder, "the folder cannot be listed")
            return
        for name in names:
            path = folder / name
            if name.startswith(start) and not name.startswith(".") and self.within(path):
                yield path

    def within(self, path: Path) -> bool:
        """Whether `path` exists inside the folder, links followed; if a link does not, that is a finding."""
        try:
            target = path.resolve()
        except (OSError, RuntimeError):  # RuntimeError: links that lead in a circle
            self.find("unreadable", path, "a link that leads in a circle")
            return False
        if not target.is_relative_to(self.root):
            self.find("outside", path)
            return False
        if path.is_symlink() and not target.exists():
            self.find("unreadable", path, "a link that leads nowhere")
            return False
        return target.exists()

    def folders(self, folder: Path, start: str = "") -> Iterator[Path]:
        """Folders in `folder` whose names begin with `start`."""
        return (path for path in self.entries(folder, start) if path.is_dir())


def is_image(path: Path) -> bool:
    """Whether the name is that of a NIfTI file."""
    return path.name.endswith(ENDINGS)


def nearly_image(path: Path) -> bool:
    """Whether it would be a NIfTI file's name in small letters."""
    return not is_image(path) and path.name.lower().endswith(ENDINGS)


def by_key(files: list[Found]) -> Mapping[Key, list[Found]]:
    """The files of each session, in the order in which they were found."""
    found: dict[Key, list[Found]] = {}
    for each in files:
        found.setdefault(each.key, []).append(each)
    return found
