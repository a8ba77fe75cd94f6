"""The images of a site, found and judged by name and header: what can be used, whose it is, and what stands in the way.

`open_store` reads no voxel. A file or session that breaks a rule of severity error is not among the scans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tasks.errors import DataError
from tasks.imaging.bids import find_bids, is_bids
from tasks.imaging.errors import ImageError
from tasks.imaging.geometry import overlap, same_grid
from tasks.imaging.header import Header, read_header
from tasks.imaging.layout import CHANGE, MASK, MODALITIES, NEW, Finding, Found, Key, Layout, by_key
from tasks.imaging.links import Links, Owner, folder_words, owned
from tasks.imaging.mapfile import MAP_FILE, find_mapped
from tasks.imaging.rules import rule_called

IMAGES: Final = "images"  # the folder beside the tables
LEAST_OVERLAP: Final = 0.5  # of two fields of view of one head
INDIVIDUAL: Final = frozenset({"", "orig", "individual", "scanner", *MODALITIES})  # names of a session's own space
_Place = tuple[int | None, str]  # day and name of a session


@dataclass(frozen=True)
class Scan:
    """One session of one patient; or two of them, when `pairs.py` made it."""

    patient: str
    session: str  # "" where the folders have none
    day: int | None  # on the axis of the tables; None if nothing says it
    images: Mapping[str, Path]  # by modality: FLAIR, T1w, T2w, T1w_ce; at least one
    mask: Path | None  # of lesions
    scanner: str  # "" if nothing says it
    subject: str = ""  # as the folder names it
    new: Path | None = None  # mask of the lesions that are new since the patient's session before, in this one's space
    before: Scan | None = None  # of a pair: the earlier session
    old_mask: Path | None = None  # of a pair: the truth is those lesions of `mask` that touch none of these


@dataclass(frozen=True)
class Store:
    """Everything usable in one image folder."""

    folder: Path  # resolved; where a map names another tree, that
    scans: tuple[Scan, ...] = field(repr=False)  # sorted by patient, then day, then session
    findings: tuple[Finding, ...] = field(repr=False)
    changes: Mapping[Key, Path] = field(repr=False)  # patient and later session ("": his two) -> mask of what is new, or differs

    def place(self, path: Path) -> str:
        """`path` within the folder, as reports show it."""
        return path.relative_to(self.folder).as_posix()

    @property
    def patients(self) -> tuple[str, ...]:
        """Everybody with a scan, sorted."""
        return tuple(sorted({scan.patient for scan in self.scans}))


def holds_images(folder: Path) -> bool:
    """Whether `folder` is an image folder: BIDS, or with a map."""
    return folder.is_dir() and ((folder / MAP_FILE).is_file() or is_bids(folder))


def images_beside(tables: Path) -> Path | None:
    """The image folder of a site's tables: `images` beside them. It may be a link to another disk; one that leads nowhere is no
    sign that there are no images: `open_store` refuses it."""
    folder = tables / IMAGES
    return folder if folder.is_dir() or folder.is_symlink() else None


def open_store(folder: Path, links: Links | None = None) -> Store:
    """The images in `folder`; with `links`, as the patients and days of the tables.

    `DataError` if it is no image folder, `MappingError` if its map is wrong. What single files lack is in the findings.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(f"{folder} is a link that leads nowhere: is the disk with the images mounted?")
    if not holds_images(folder):
        raise DataError(f"{folder} holds neither {MAP_FILE} nor folders sub-*: it is no image folder")
    root = folder.resolve()
    layout = find_mapped(root) if (root / MAP_FILE).is_file() else find_bids(root)
    usable = owned(layout, links)
    scans = []
    for key, files in by_key(_with_masks_of_only_sessions(layout)).items():
        if key in usable and (scan := _scan(layout, key, files, usable[key])) is not None:
            scans.append(scan)
    changes = _changes(layout, usable)
    for key in sorted(layout.sessions - {each.key for each in layout.files if each.role in MODALITIES}):
        layout.findings.append(Finding(rule_called("no_image"), folder_words(key)))
    ordered = sorted(scans, key=lambda scan: (scan.patient, scan.day is None, scan.day or 0, _counted(scan.session)))
    lost = _lost(layout, usable, {(scan.subject, scan.session) for scan in scans})
    placed = _with_new(layout, ordered, {key: each for key, each in changes.items() if each.role == NEW}, lost)
    paths = {key: each.path for key, each in changes.items()}
    return Store(layout.root, placed, tuple(layout.findings), paths)


def _counted(session: str) -> tuple[tuple[int, str], ...]:
    """The name for sorting, with numbers as numbers: session 10 comes after 2."""
    return tuple((int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"([0-9]+)", session))


def _changes(layout: Layout, usable: Mapping[Key, Owner]) -> dict[Key, Found]:
    """The usable mask of what is new, else of what differs, of each patient and session; one that names no session, or several of
    a patient, has the session ""."""
    owners = {key[0]: owner.patient for key, owner in usable.items()}
    named: dict[Path, list[Found]] = {}
    for role in (NEW, CHANGE):
        for each in sorted((each for each in layout.files if each.role == role), key=lambda found: found.rank):
            named.setdefault(each.path, []).append(each)
    found: dict[Key, Found] = {}
    for path, files in named.items():
        (sub, session), alone = files[0].key, len(files) == 1
        key = owners.get(sub, ""), session if alone else ""
        if key[0] and key not in found and _header(layout, path) is not None:
            found[key] = replace(files[0], key=(sub, key[1]))
    return found


def _lost(layout: Layout, usable: Mapping[Key, Owner], kept: Set[Key]) -> dict[str, list[_Place]]:
    """When and as what each patient has images in a session that is not among those `kept`."""
    owners = {key[0]: owner.patient for key, owner in usable.items()}
    found: dict[str, list[_Place]] = {}
    for key in sorted({each.key for each in layout.files if each.role in MODALITIES} - kept):
        if key[0] in owners:
            found.setdefault(owners[key[0]], []).append((usable[key].day if key in usable else None, key[1]))
    return found


def _with_new(
    layout: Layout, ordered: Sequence[Scan], masks: Mapping[Key, Found], lost: Mapping[str, Sequence[_Place]]
) -> tuple[Scan, ...]:
    """The sessions, each with the mask of what is new since the one before, where there is one and it fits. The one before may be
    one of the `lost`: then what is new since any other session is not known."""
    spaces = {each.path: each.space for each in layout.files}
    own: dict[str, list[int]] = {}
    for at, scan in enumerate(ordered):
        own.setdefault(scan.patient, []).append(at)
    placed = list(ordered)
    for (patient, session), found in masks.items():
        all_of, gone = own.get(patient, []), lost.get(patient, ())
        later = all_of[1:]
        fitting = [at for at in later if (ordered[at].subject, ordered[at].session) == found.key] if session else later
        if len(fitting) != 1 or (gone and not session):
            layout.find("new_unplaced", found.path, "which session, and that there is one before it, is not clear")
            continue
        (at,) = fitting
        others = [*gone, *((ordered[each].day, ordered[each].session) for each in all_of if each not in (at - 1, at))]
        if any(_may_lie_between(each, ordered[at - 1], ordered[at]) for each in others):
            layout.find("new_unplaced", found.path, "another session, which cannot be used or has no day, may be the one before it")
            continue
        image = next(iter(ordered[at].images.values()))
        if _same_space(found.space, spaces[image]) and _in_place(read_header(found.path), read_header(image)):
            placed[at] = replace(ordered[at], new=found.path)
        else:
            layout.find("new_unplaced", found.path, "it does not lie where the images of that session do")
    return tuple(placed)


def _may_lie_between(place: _Place, earlier: Scan, later: Scan) -> bool:
    """Whether a session with this day and name may be the last one before `later`, and not `earlier`."""
    day, name = place
    if day is not None and earlier.day is not None and later.day is not None:
        return earlier.day < day < later.day
    if (day, earlier.day, later.day) != (None, None, None):
        return True  # some have a day and some have none: nobody knows their order
    return _counted(earlier.session) < _counted(name) < _counted(later.session)


def _in_place(header: Header, reference: Header) -> bool:
    """Whether both may show one head: one grid, or fields of view that share half of the smaller one."""
    if same_grid(header.shape, header.affine, reference.shape, reference.affine):
        return True
    shared = overlap(header.shape, header.affine, reference.shape, reference.affine)
    return shared >= LEAST_OVERLAP and header.standard_space == reference.standard_space


def _with_masks_of_only_sessions(layout: Layout) -> list[Found]:
    """The files, a mask without a session given to its subject's only one; other masks without images are findings."""
    with_images: dict[str, set[Key]] = {}
    for each in layout.files:
        if each.role in MODALITIES:
            with_images.setdefault(each.key[0], set()).add(each.key)
    kept = []
    for each in layout.files:
        keys = with_images.get(each.key[0], set())
        if each.role != MASK or each.key in keys:
            kept.append(each)
        elif not each.key[1] and len(keys) == 1:
            kept.append(Found(next(iter(keys)), each.role, each.path, each.space, each.rank))
        else:
            layout.find("mask_without_session", each.path)
    return [each for each in kept if each.role not in (NEW, CHANGE)]


def _scan(layout: Layout, key: Key, files: Sequence[Found], owner: Owner) -> Scan | None:
    """One session: one space, one file of each kind, headers that can be used and fit each other."""
    images, masks = [each for each in files if each.role in MODALITIES], [each for each in files if each.role == MASK]
    space = _space(images, masks)
    chosen = _one_each(layout, [each for each in images if each.space == space])
    for each in images:
        if each.space != space:
            layout.find("other_space", each.path)
    _missing(layout, key, {each.role for each in images})
    headers = {role: header for role, each in chosen.items() if (header := _header(layout, each.path)) is not None}
    if not headers:
        return None
    reference = next(role for role in MODALITIES if role in headers)
    for role in [role for role in headers if role != reference]:
        if not _fits(layout, chosen[role], headers[role], headers[reference], "image"):
            del headers[role]
    mask = _mask(layout, masks, space, headers[reference])
    paths = {role: chosen[role].path for role in MODALITIES if role in headers}
    return Scan(owner.patient, key[1], owner.day, paths, mask, owner.scanner, key[0])


def _space(images: Sequence[Found], masks: Sequence[Found]) -> str:
    """The space of which most can be made: with a mask, with a FLAIR, with most images; else the session's own."""

    def worth(space: str) -> tuple[bool, bool, int, bool, str]:
        roles = {each.role for each in images if each.space == space}
        return any(_same_space(each.space, space) for each in masks), "FLAIR" in roles, len(roles), not space, space

    return max((each.space for each in images), key=worth)


def _same_space(mask: str, image: str) -> bool:
    return mask == image or (mask in INDIVIDUAL and image in INDIVIDUAL)


def _one_each(layout: Layout, images: Sequence[Found]) -> dict[str, Found]:
    """One file for each kind; the others are findings."""
    chosen: dict[str, Found] = {}
    for each in sorted(images, key=lambda found: found.rank):
        if chosen.setdefault(each.role, each) is not each:
            layout.find("several_files", each.path)
    return chosen


def _missing(layout: Layout, key: Key, there: Iterable[str]) -> None:
    lacking = [role for role in MODALITIES if role not in set(there)]
    for rule, roles in (("missing_main", ("FLAIR", "T1w")), ("missing_other", ("T2w", "T1w_ce"))):
        if absent := [role for role in roles if role in lacking]:
            layout.findings.append(Finding(rule_called(rule), folder_words(key), ", ".join(absent)))


def _header(layout: Layout, path: Path) -> Header | None:
    """The header, what is odd about it noted; None if the file cannot be used."""
    try:
        header = read_header(path)
    except ImageError as error:
        layout.find(error.code, path, error.sentence)
        return None
    for remark in header.remarks:
        layout.find(remark.code, path, remark.found)
    return header


def _fits(layout: Layout, each: Found, header: Header, reference: Header, what: str) -> bool:
    """Whether a file lies where the session's reference image does; another grid is a note, another place an error."""
    if same_grid(header.shape, header.affine, reference.shape, reference.affine):
        return True
    if not _in_place(header, reference):
        shared = overlap(header.shape, header.affine, reference.shape, reference.affine)
        layout.find(f"{what}_space", each.path, f"{100 * shared:.0f} % of the fields of view overlap")
        return False
    layout.find(f"{what}_grid", each.path, " x ".join(map(str, header.shape)))
    return True


def _mask(layout: Layout, masks: Sequence[Found], space: str, reference: Header) -> Path | None:
    fitting = [each for each in masks if _same_space(each.space, space)]
    for each in masks:
        if each not in fitting:
            layout.find("mask_space", each.path, "the space- in its name is not that of the images")
    chosen = _one_each(layout, fitting).get(MASK)
    if chosen is None or (header := _header(layout, chosen.path)) is None or not _fits(layout, chosen, header, reference, "mask"):
        return None
    return chosen.path
