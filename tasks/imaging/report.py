"""What the check of a site's images found, for people and programs. It names files and pseudonyms: a local report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tasks.imaging.layout import Finding
from tasks.ms.rules import SEVERITIES, Rule, Severity

FORMAT: Final = "wardround/image-report"
FORMAT_VERSION: Final = 1
PLACES_SHOWN: Final = 5  # in the terminal; the page and the JSON form have more
NOT_EXCUSED: Final = frozenset({"same_image"})  # nothing is left out for it, so no leave can excuse it
Json = dict[str, object]


@dataclass(frozen=True)
class ImageReport:
    """What can be used, and what was found."""

    patients: int
    sessions: int
    images: Mapping[str, int]  # usable files by modality
    masks: int
    changes: int  # masks of what differs between two sessions
    scanners: Mapping[str, int]  # sessions by scanner; "" where nothing says it
    voxels_read: bool
    findings: tuple[Finding, ...]

    def grouped(self, severity: Severity) -> Mapping[Rule, list[Finding]]:
        """Findings of one severity by rule, in the order in which they were found."""
        found: dict[Rule, list[Finding]] = {}
        for each in self.findings:
            if each.severity == severity:
                found.setdefault(each.rule, []).append(each)
        return found

    def count(self, severity: Severity) -> int:
        """Rules of one severity that something breaks."""
        return len(self.grouped(severity))

    def passed(self, *, allow_quarantine: bool) -> bool:
        """Whether all images may be used; with leave, whether those may that are left."""
        errors = self.grouped("error")
        return not errors or (allow_quarantine and all(rule.name not in NOT_EXCUSED for rule in errors))

    def to_dict(self) -> Json:
        """The whole report for programs."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "patients": self.patients,
            "sessions": self.sessions,
            "images": dict(self.images),
            "masks": self.masks,
            "change_masks": self.changes,
            "scanners": dict(self.scanners),
            "voxels_read": self.voxels_read,
            "findings": [
                {
                    "rule": rule.name,
                    "severity": severity,
                    "says": rule.sentence,
                    "remedy": rule.remedy,
                    "count": len(found),
                    "places": [{"place": each.place, "found": each.found} for each in found],
                }
                for severity in SEVERITIES
                for rule, found in self.grouped(severity).items()
            ],
        }

    def to_text(self) -> str:
        """The report for a terminal."""
        return "\n".join([*_head(self), "", *_lines(self)]) + "\n"


def _head(report: ImageReport) -> Iterable[str]:
    counts = ", ".join(
        f"{report.count(severity)} {severity}{'' if report.count(severity) == 1 else 's'}" for severity in SEVERITIES
    )
    yield f"images: {counts}"
    files = ", ".join(f"{role} {count}" for role, count in report.images.items())
    changes = f", {report.changes} of change" if report.changes else ""
    whose = f"{number(report.sessions, 'session')} of {number(report.patients, 'patient')}"
    yield f"{whose} can be used: {files}; masks {report.masks}{changes}"
    scanners = ", ".join(f"{name or 'not said'} {count}" for name, count in report.scanners.items())
    yield f"sessions by scanner: {scanners or 'none'}"
    if not report.voxels_read:
        yield "Headers alone were read: damage, empty images and copies are not told."


def _lines(report: ImageReport) -> Iterable[str]:
    for severity in SEVERITIES:
        for rule, found in report.grouped(severity).items():
            yield f"{severity.upper():<8} images: {rule.name}, {number(len(found), 'time')}"
            yield f"         {rule.sentence}"
            yield from (f"           {where(each)}" for each in found[:PLACES_SHOWN])
            if len(found) > PLACES_SHOWN:
                yield f"           and {len(found) - PLACES_SHOWN} more"
            yield f"         {rule.remedy}"


def number(count: int, what: str) -> str:
    """`1 time`, `1,200 times`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def where(finding: Finding) -> str:
    """`sub-01/anat/sub-01_FLAIR.nii.gz: it breaks off`; letters of a file's name that do not print are replaced."""
    said = ": ".join(part for part in (finding.place or "the folder", finding.found) if part)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)
