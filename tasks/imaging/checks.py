"""Every voxel of a store read once, one file at a time: damage, emptiness, masks that are none, images that stand twice, sessions
of a patient that do not show one head in one place.

Headers were judged when the store was opened; this adds what only the voxels tell. Memory is that of one volume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.imaging.errors import ImageError
from tasks.imaging.layout import CHANGE, MASK, MODALITIES, Finding
from tasks.imaging.measures_alignment import Sight, apart, sight_of
from tasks.imaging.pairs import MAIN, pairs_of
from tasks.imaging.report import NOT_EXCUSED, ImageReport
from tasks.imaging.rules import rule_called
from tasks.imaging.store import Scan, Store
from tasks.imaging.volume import read_image, read_lesions


@dataclass(frozen=True)
class _File:
    patient: str
    role: str
    path: Path


def n_files(store: Store) -> int:
    """How many files `check_voxels` reads."""
    return sum(1 for _ in _files(store))


def _files(store: Store) -> Iterator[_File]:
    for scan in store.scans:
        yield from (_File(scan.patient, role, path) for role, path in scan.images.items())
        if scan.mask is not None:
            yield _File(scan.patient, MASK, scan.mask)
    yield from (_File(patient, CHANGE, path) for (patient, _), path in store.changes.items())


def check_voxels(store: Store, tick: Callable[[], None]) -> tuple[Finding, ...]:
    """What the voxels of all files of `store` add to its findings; `tick` is called after each file."""
    found: list[Finding] = []
    first: dict[str, _File] = {}  # by digest
    told: set[Path] = set()
    before = {pair.images[MAIN]: pair.before.images[MAIN] for pair in pairs_of(store.scans) if pair.before is not None}
    compared, seen = {*before, *before.values()}, dict[Path, Sight]()
    for each in _files(store):
        try:
            read = read_image(each.path) if each.role in MODALITIES else read_lesions(each.path)
        except ImageError as error:
            found.append(Finding(rule_called(error.code), store.place(each.path), error.sentence))
        else:
            new = [remark for remark in read.remarks if remark not in read.header.remarks]
            if each.role == CHANGE:  # most patients have nothing new, or a few voxels that another one may have too
                new = [remark for remark in new if remark.code != "empty_mask"]
            elif all(remark.code != "empty_mask" for remark in new):  # empty masks of one size are all alike
                found += _twice(store, first.setdefault(read.digest, each), each, told)
            found += [Finding(rule_called(remark.code), store.place(each.path), remark.found) for remark in new]
            if each.path in compared:
                found += _apart(store, each.path, sight_of(read.volume), seen, before)
            del read  # before the next is read: one volume at a time
        tick()
    return tuple(found)


def _apart(store: Store, path: Path, sight: Sight, seen: dict[Path, Sight], before: Mapping[Path, Path]) -> Iterator[Finding]:
    """A finding if the image shows the head elsewhere than that of the session before; `seen` keeps the last sight alone."""
    earlier = seen.get(before[path]) if path in before else None
    seen.clear()
    seen[path] = sight
    if earlier is None:
        return
    try:
        found = apart(earlier, sight)
    except ImageError:  # an image without contrast: other rules tell, and a pair of it is not prepared
        return
    if not found.together:
        yield Finding(rule_called("not_registered"), store.place(path), found.words)


def _twice(store: Store, first: _File, second: _File, told: set[Path]) -> Iterator[Finding]:
    """Findings about two files with the same voxels; both are named if they are of two patients."""
    if first.path == second.path:
        return
    if first.patient == second.patient:
        yield Finding(rule_called("same_image_again"), store.place(second.path), f"the same as {store.place(first.path)}")
        return
    pairs = [(second, first)] if first.path in told else [(first, second), (second, first)]
    told |= {first.path, second.path}
    for one, other in pairs:
        yield Finding(rule_called("same_image"), store.place(one.path), f"the same as {store.place(other.path)}")


def report_of(store: Store, voxels: tuple[Finding, ...] | None) -> ImageReport:
    """The report on `store`; `voxels` is what `check_voxels` found, None if it did not run. Files that it refused do not count."""
    refused = {each.place for each in voxels or () if each.severity == "error" and each.rule.name not in NOT_EXCUSED}
    left = [(scan, kinds) for scan in store.scans if (kinds := _kinds(store, scan, refused))]
    return ImageReport(
        patients=len({scan.patient for scan, _ in left}),
        sessions=len(left),
        images={role: sum(role in kinds for _, kinds in left) for role in MODALITIES},
        masks=sum(scan.mask is not None and store.place(scan.mask) not in refused for scan, _ in left),
        changes=sum(store.place(path) not in refused for path in store.changes.values()),
        scanners=dict(sorted(Counter(scan.scanner for scan, _ in left).items())),
        voxels_read=voxels is not None,
        findings=(*store.findings, *(voxels or ())),
    )


def _kinds(store: Store, scan: Scan, refused: set[str]) -> frozenset[str]:
    """The modalities of a scan that are left."""
    return frozenset(role for role, path in scan.images.items() if store.place(path) not in refused)
