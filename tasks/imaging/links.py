"""Which patient of the tables a subject in the image folder is, and which day a session: the table `mri` says so.

`mri.bids_sub` and `mri.bids_ses` name the folders. A subject that no row names is the patient of that very pseudonym.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.imaging.layout import MODALITIES, Finding, Key, Layout
from tasks.imaging.rules import rule_called

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scanned:
    """One row of the table `mri` that names a folder of images."""

    patient: str
    day: int
    sub: str
    ses: str  # "" if the row names no session
    scanner: str


@dataclass(frozen=True)
class Links:
    """The patients of the accepted tables, and their scans."""

    patients: frozenset[str] = field(repr=False)
    rows: tuple[Scanned, ...] = field(repr=False)


@dataclass(frozen=True)
class Owner:
    """Whose a session is, on which day, from which scanner."""

    patient: str
    day: int | None
    scanner: str


def links_of(tables: Mapping[str, pd.DataFrame]) -> Links:
    """Links from the accepted tables of a site (`validate_folder(...).accepted`)."""
    patients = frozenset(str(name) for name in tables["patients"]["patient_id"]) if "patients" in tables else frozenset()
    if "mri" not in tables:
        return Links(patients, ())
    named = tables["mri"][tables["mri"]["bids_sub"].notna()]
    cells = (named[name] for name in ("patient_id", "day", "bids_sub", "bids_ses", "scanner_id"))
    rows = [
        Scanned(str(patient), int(day), str(sub), _text(ses), _text(scanner))
        for patient, day, sub, ses, scanner in zip(*cells, strict=True)
    ]
    return Links(patients, tuple(rows))


def _text(cell: object) -> str:
    return cell if isinstance(cell, str) else ""


def folder_words(key: Key) -> str:
    """A session as reports show it."""
    return f"subject {key[0]}, session {key[1]}" if key[1] else f"subject {key[0]}"


def owned(layout: Layout, links: Links | None) -> dict[Key, Owner]:
    """Whose each session is, and its day; sessions that contradict the tables are findings and left out."""
    with_images = {each.key for each in layout.files if each.role in MODALITIES}
    keys = sorted(layout.sessions | with_images)
    if links is None:
        found = {key: Owner(key[0], layout.days.get(key), layout.scanners.get(key, "")) for key in keys}
    else:
        found = _by_tables(layout, links, keys)
        _unseen(layout, links, keys, found)
    for key, owner in found.items():
        if owner.day is None and key in with_images:
            layout.findings.append(Finding(rule_called("no_day"), folder_words(key)))
    return found


def _by_tables(layout: Layout, links: Links, keys: Sequence[Key]) -> dict[Key, Owner]:
    rows: dict[str, list[Scanned]] = {}
    for row in links.rows:
        rows.setdefault(row.sub, []).append(row)
    sessions = Counter(sub for sub, _ in keys)
    strange: set[str] = set()
    found = {}
    for key in keys:
        sub = key[0]
        owners = {row.patient for row in rows.get(sub, ())} or links.patients & {sub}
        if len(owners) == 1:
            owner = _linked(layout, key, next(iter(owners)), [row for row in rows.get(sub, ()) if _about(row, key, sessions)])
            if owner is not None:
                found[key] = owner
        elif sub not in strange:
            strange.add(sub)
            layout.findings.append(Finding(rule_called("two_patients" if owners else "no_such_patient"), f"subject {sub}"))
    return found


def _about(row: Scanned, key: Key, sessions: Mapping[str, int]) -> bool:
    """Whether a row is about this session; one without a session is about its subject's only one."""
    return row.sub == key[0] and (row.ses == key[1] or (not row.ses and sessions[key[0]] == 1))


def _linked(layout: Layout, key: Key, patient: str, rows: Sequence[Scanned]) -> Owner | None:
    days = {row.day for row in rows} | ({layout.days[key]} if key in layout.days else set())
    if len(days) > 1:
        layout.findings.append(Finding(rule_called("days_differ"), folder_words(key)))
        return None
    scanner = next((row.scanner for row in rows if row.scanner), layout.scanners.get(key, ""))
    return Owner(patient, next(iter(days), None), scanner)


def _unseen(layout: Layout, links: Links, keys: Sequence[Key], found: Mapping[Key, Owner]) -> None:
    """Rows and patients of the tables without images."""
    there, sessions = set(keys), Counter(sub for sub, _ in keys)
    for row in links.rows:
        if (row.sub, row.ses) not in there and not (not row.ses and sessions[row.sub] == 1):
            place = f"patient {row.patient}, day {row.day}"
            layout.findings.append(Finding(rule_called("row_without_images"), place))
    seen = {owner.patient for owner in found.values()} | {row.patient for row in links.rows} | {sub for sub, _ in keys}
    for patient in sorted(links.patients - seen):
        layout.findings.append(Finding(rule_called("patient_without_images"), f"patient {patient}"))
