"""A BIDS folder by its names: which file is whose FLAIR, which mask belongs to it, what the side files add.

Read: `sub-*/[ses-*/]anat`, lesion masks there or under `derivatives/[TOOL/]sub-*/[ses-*/]anat`, JSON side files with inheritance,
`participants.tsv` and `sub-*_sessions.tsv`. Other kinds of data are passed over. (BIDS 1.10; derivatives for masks.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.imaging.header import ENDINGS
from tasks.imaging.layout import CHANGE, MASK, MASKS, NEW, Finding, Found, Key, Layout, is_image, nearly_image
from tasks.imaging.rules import rule_called
from tasks.imaging.sidecars import IDENTIFYING, Json, SideFileError, day_of, read_json, read_table, scanner_of

ENTITY: Final = re.compile(r"([a-z]+)-([A-Za-z0-9+]+)")
SUFFIX: Final = re.compile(r"[A-Za-z0-9]+")
LABEL: Final = re.compile(r"[A-Za-z0-9+]+")
MAX_NAME: Final = 255
MASK_NAME: Final = re.compile(r"label-(?:lesion|newlesion)", re.IGNORECASE)
ENDING_WORDS: Final = f"endings are {' or '.join(ENDINGS)}, in small letters"
LABELS: Final = {"lesion": MASK, "lesions": MASK, "newlesion": NEW, "newlesions": NEW, "lesionchange": CHANGE}
PREDICTED: Final = "predicted"  # desc- of masks that a model drew
PLAIN: Final = frozenset({"sub", "ses", "space", "ce"})  # what tells images of one session apart without a choice


@dataclass(frozen=True)
class BidsName:
    """`sub-01_ses-02_ce-gad_T1w.nii.gz`, taken apart."""

    entities: tuple[tuple[str, str], ...]  # in the order of the name; sub first, none twice
    suffix: str
    ending: str

    def get(self, key: str) -> str:
        """The label of one entity, "" if the name lacks it."""
        return dict(self.entities).get(key, "")

    @property
    def key(self) -> Key:
        """Subject and session."""
        return self.get("sub"), self.get("ses")

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{label}" for key, label in self.entities), self.suffix]) + self.ending


def parse_name(name: str, endings: tuple[str, ...] = ENDINGS) -> BidsName | None:
    """`name` taken apart, None if it is no BIDS name with one of `endings`. `str` of the result is `name`."""
    ending = next((each for each in endings if name.endswith(each)), None)
    if ending is None or len(name) > MAX_NAME:
        return None
    *parts, suffix = name.removesuffix(ending).split("_")
    matches = [ENTITY.fullmatch(part) for part in parts]
    entities = [(match[1], match[2]) for match in matches if match]
    if len(entities) != len(parts) or not SUFFIX.fullmatch(suffix):
        return None
    keys = [key for key, _ in entities]
    if keys[:1] != ["sub"] or len(set(keys)) != len(keys):
        return None
    return BidsName(tuple(entities), suffix, ending)


def is_bids(folder: Path) -> bool:
    """Whether `folder` has at least one folder of a subject."""
    return any(path.name.startswith("sub-") and path.is_dir() for path in folder.iterdir())


def find_bids(root: Path) -> Layout:
    """What lies in the BIDS folder `root`."""
    layout = Layout(root)
    sides = _SideFiles(layout)
    for place in _places(layout, root):
        layout.sessions.add(place.key)
        for path in layout.entries(place.anat):
            _take_raw(layout, sides, place, path)
    derived = root / "derivatives"  # of one tool, where somebody left out the folder with its name
    for tool in [derived, *layout.folders(derived)] if layout.within(derived) and derived.is_dir() else ():
        for place in _places(layout, tool):
            for path in layout.entries(place.anat):
                _take_mask(layout, place, path)
    _participants(layout)
    sides.conclude()
    return layout


@dataclass(frozen=True)
class _Place:
    key: Key
    anat: Path


def _places(layout: Layout, top: Path) -> Iterator[_Place]:
    """Every `anat` folder of subjects and sessions under `top`."""
    for subject in layout.folders(top, "sub-"):
        sub = subject.name.removeprefix("sub-")
        if not LABEL.fullmatch(sub):
            layout.find("name", subject, "a subject's label has letters and digits alone")
            continue
        sessions, plain = list(layout.folders(subject, "ses-")), layout.within(subject / "anat") and (subject / "anat").is_dir()
        if plain:
            yield _Place((sub, ""), subject / "anat")
        elif not sessions and top == layout.root and not any(subject.glob("ses-*")) and not (subject / "anat").is_symlink():
            layout.sessions.add((sub, ""))
        for session in sessions:
            ses = session.name.removeprefix("ses-")
            if not LABEL.fullmatch(ses):
                layout.find("name", session, "a session's label has letters and digits alone")
            elif layout.within(session / "anat") and (session / "anat").is_dir():
                yield _Place((sub, ses), session / "anat")
            elif top == layout.root:
                layout.sessions.add((sub, ses))


def _take_raw(layout: Layout, sides: _SideFiles, place: _Place, path: Path) -> None:
    """One file of a raw `anat` folder."""
    if nearly_image(path):
        layout.find("name", path, ENDING_WORDS)
    if not is_image(path):
        return
    name = parse_name(path.name)
    if name is None:
        layout.find("name", path)
    elif name.key != place.key:
        layout.find("misplaced", path)
    elif (role := _role(name)) is not None:
        layout.files.append(Found(place.key, role, path, name.get("space"), _rank(name)))
        sides.read(place.key, path, name)
    elif name.suffix == "defacemask":
        sides.defaced.add(place.key)
    else:
        _take_mask(layout, place, path)  # BIDS has masks under derivatives; many sites keep them beside the image


def _role(name: BidsName) -> str | None:
    """FLAIR, T1w, T2w or T1w_ce; None for what is none of them."""
    if name.get("part") not in ("", "mag") or name.suffix not in ("FLAIR", "T1w", "T2w"):
        return None
    if not name.get("ce"):
        return name.suffix
    return "T1w_ce" if name.suffix == "T1w" else None


def _rank(name: BidsName) -> tuple[object, ...]:
    """Plain names first, then the lowest run, then the name."""
    more = [key for key, _ in name.entities if key not in PLAIN]
    run = name.get("run")
    return len(more), int(run) if run.isdecimal() and run.isascii() else 0, str(name)


def _take_mask(layout: Layout, place: _Place, path: Path) -> None:
    """One file of an `anat` folder under derivatives: a mask of lesions, of new ones, or of all change."""
    if nearly_image(path) and MASK_NAME.search(path.name):
        layout.find("name", path, ENDING_WORDS)
    if not is_image(path) or (name := parse_name(path.name)) is None or name.suffix not in ("mask", "dseg"):
        return
    label, by = name.get("label").lower(), name.get("desc").lower()
    if label not in LABELS or by == PREDICTED:  # what a model drew is nothing to learn from
        return
    if name.key != place.key:
        layout.find("misplaced", path)
        return
    agreed = 0 if name.get("desc").lower().startswith("consensus") else 1  # several raters
    layout.files.append(Found(place.key, LABELS[label], path, name.get("space"), (agreed, str(name))))


def _participants(layout: Layout) -> None:
    path = layout.root / "participants.tsv"
    if not path.is_symlink() and not path.exists():
        return
    if not layout.within(path):
        return
    try:
        listed = {row["participant_id"].removeprefix("sub-") for row in read_table(path, "participant_id")}
    except SideFileError as error:
        layout.find("side_file", path, str(error))
        return
    there = {sub for sub, _ in layout.sessions}
    for sub in sorted(listed ^ there):
        what = "has no folder with images" if sub in listed else "is not in the list"
        place = f"sub-{sub}" if LABEL.fullmatch(sub) else ""
        layout.findings.append(Finding(rule_called("participants"), place, what))


def _applies(side: str, image: BidsName) -> bool:
    """Whether a side file is about `image`: the same suffix, and no entity that the image lacks."""
    *parts, suffix = side.removesuffix(".json").split("_")
    return suffix == image.suffix and set(parts) <= {f"{key}-{label}" for key, label in image.entities}


class _SideFiles:
    """Collects what side files say of each session, each file read once; `conclude` writes it into the layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._listed: dict[Path, list[Path]] = {}
        self._read: dict[Path, Json | None] = {}
        self._facts: dict[Key, dict[str, object]] = {}
        self._unsaid: set[Key] = set()
        self.defaced: set[Key] = set()

    def read(self, key: Key, image: Path, name: BidsName) -> None:
        """Take in what applies to `image`: side files beside it and above, the nearest first (BIDS' inheritance)."""
        facts = self._facts.setdefault(key, {})
        folder = image.parent
        while True:
            for path in self._json_in(folder):
                if _applies(path.name, name):
                    for word, value in (self._content(path) or {}).items():
                        facts.setdefault(word, value)
            if folder == self._layout.root:
                return
            folder = folder.parent

    def _json_in(self, folder: Path) -> list[Path]:
        """JSON files of `folder`, those with most entities first; listed once."""
        if folder not in self._listed:
            found = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name != "dataset_description.json")
            self._listed[folder] = sorted(found, key=lambda path: -path.name.count("_"))
        return self._listed[folder]

    def _content(self, path: Path) -> Json | None:
        if path not in self._read:
            self._read[path] = self._checked(path)
        return self._read[path]

    def _checked(self, path: Path) -> Json | None:
        if not self._layout.within(path):
            return None
        try:
            content = read_json(path)
        except SideFileError as error:
            self._layout.find("side_file", path, str(error))
            return None
        if named := sorted(key for key in IDENTIFYING & content.keys() if content[key] not in ("", None, [], {})):
            self._layout.find("identifies", path, ", ".join(named))
        return content

    def conclude(self) -> None:
        """Scanners, days and faces of every session."""
        keys = sorted({each.key for each in self._layout.files if each.role not in MASKS})
        rows = self._session_rows()
        for key in keys:
            facts, row = self._facts.get(key, {}), rows.get(key, {})
            said = scanner_of(facts.get("Manufacturer"), facts.get("ManufacturersModelName"), facts.get("MagneticFieldStrength"))
            model = row.get("manufacturers_model_name") or row.get("model")
            if scanner := said or scanner_of(row.get("manufacturer"), model):
                self._layout.scanners[key] = scanner
            self._face(key, facts)
        if self._unsaid:
            said = f"{len(self._unsaid)} of {len(keys)} sessions"
            self._layout.findings.append(Finding(rule_called("faces_unknown"), "", said))

    def _face(self, key: Key, facts: Mapping[str, object]) -> None:
        stated = [facts[word] for word in ("SkullStripped", "Defaced") if isinstance(facts.get(word), bool)]
        folder = "/".join([f"sub-{key[0]}", *([f"ses-{key[1]}"] if key[1] else [])])
        if True in stated or key in self.defaced:
            self._layout.findings.append(Finding(rule_called("defaced"), folder))
        elif stated:
            self._layout.findings.append(Finding(rule_called("faces"), folder))
        else:
            self._unsaid.add(key)

    def _session_rows(self) -> dict[Key, Mapping[str, str]]:
        """Rows of `sub-*_sessions.tsv`; their column `day` goes into the layout."""
        rows: dict[Key, Mapping[str, str]] = {}
        for sub in sorted({sub for sub, _ in self._layout.sessions}):
            path = self._layout.root / f"sub-{sub}" / f"sub-{sub}_sessions.tsv"
            if not path.is_file() or not self._layout.within(path):
                continue
            try:
                table = read_table(path, "session_id")
                days = {row["session_id"].removeprefix("ses-"): day_of(row.get("day", "")) for row in table}
            except SideFileError as error:
                self._layout.find("side_file", path, str(error))
                continue
            rows |= {(sub, row["session_id"].removeprefix("ses-")): row for row in table}
            self._layout.days |= {(sub, ses): day for ses, day in days.items() if day is not None}
        return rows
