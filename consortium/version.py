"""Which versions of this program work together: one rule, for hub and sites, for plans and for folders on disk. Pure.

A version is MAJOR.MINOR.PATCH. Versions of one major that are at most one minor apart speak the same protocol and read each
other's documents: so a hospital updates within a release, not in an hour that all agree on. What must not differ is what a plan
computes. The version of its task stands in the plan. Everything around a task (trainer, clip-and-sum engines, noise, sides of the
split, encoding) is numbered as one *computation*, and a plan names its number behind the version: `0.2.0+computation.1`.

Raise `COMPUTATION` with every change after which the same plan, data and random bytes give other numbers, a task's own code
aside: that raises the task's version. A plan without a number is of release 0.1.0, which is computation 1.
"""

import re
from dataclasses import dataclass
from typing import Final

from consortium.errors import DocumentError

COMPUTATION: Final = 1
APART: Final = 1  # minors
_FORM: Final = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})(?:\+computation\.([1-9][0-9]{0,5}))?")
_MARKER: Final = re.compile(r"wardround ([0-9.]{5,20})\n")


@dataclass(frozen=True, order=True)
class Version:
    """Ordered as releases follow each other."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def series(self) -> tuple[int, int]:
        """Patches of one series write the same formats and compute the same."""
        return self.major, self.minor


@dataclass(frozen=True)
class Code:
    """What a plan says about code: who made it, and which computation it asks for."""

    version: Version
    computation: int

    def __str__(self) -> str:
        return f"{self.version}+computation.{self.computation}"


def parse_version(text: str) -> Version:
    """Raises `DocumentError`."""
    code = parse_code(text)
    if "+" in text:
        raise DocumentError(f"version {text!r} must be MAJOR.MINOR.PATCH")
    return code.version


def parse_code(text: str) -> Code:
    """Raises `DocumentError`."""
    if (match := _FORM.fullmatch(text)) is None:
        raise DocumentError(f"version {text!r} must be like 0.2.0, or 0.2.0+computation.1")
    major, minor, patch, computation = match.groups()
    return Code(Version(int(major), int(minor), int(patch)), int(computation or 1))


def plan_version(own: str) -> str:
    """What a plan made by this program says about its code. `own`: the distribution's version."""
    return str(Code(parse_version(own), COMPUTATION))


def refusal(asked: str, own: str) -> str:
    """Why a site that runs `own` does not take a plan of `asked`, and which side must be updated, to what; empty if it does."""
    try:
        plan, site = parse_code(asked), parse_version(own)
    except DocumentError as error:
        return f"{error}: whether hub and site fit together cannot be told; plan again with a released version"
    made, older = plan.version, "this site" if site.series < plan.version.series else "the hub"
    if made.major != site.major or abs(made.minor - site.minor) > APART:
        least = _oldest_fitting(max(made, site))
        return f"the hub made this plan with {made}, this site runs {site}: update {older} to {least} or later, then plan again"
    if plan.computation != COMPUTATION:
        late = "this site" if plan.computation > COMPUTATION else "the hub"
        newer = made if plan.computation > COMPUTATION else site
        return (
            f"the plan of {made} asks for computation {plan.computation}, this site's {site} has {COMPUTATION} and would "
            f"compute other numbers than the others: update {late} to {newer.major}.{newer.minor}, then plan again"
        )
    return ""


def _oldest_fitting(newer: Version) -> str:
    return f"{newer.major}.{max(newer.minor - APART, 0)}"


def marker(own: str) -> bytes:
    """The content of a folder's `written-by`."""
    return f"wardround {parse_version(own)}\n".encode("ascii")


def newest(found: bytes | None, own: str, where: str) -> bool:
    """Whether `written-by` of a folder must be written by this program: `found` is None (release 0.1.0 wrote none) or older.

    Raises `DocumentError` where a newer program wrote the folder, or the marker says nothing that can be read: this program would
    misread what it does not know.
    """
    if found is None:
        return True
    match = _MARKER.fullmatch(found.decode("ascii", "replace"))
    try:
        wrote = parse_version(match[1] if match else "")
    except DocumentError as error:
        raise DocumentError(
            f"{where} does not say which version wrote this folder (damaged, or another program's): restore it from your backup"
        ) from error
    program = parse_version(own)
    if wrote.series > program.series:
        raise DocumentError(
            f"{where}: version {wrote} wrote this folder, this program is {program} and could misread it: install "
            f"{wrote.major}.{wrote.minor} or later again. No older copy is a way back: what was spent since is not in it"
        )
    return wrote < program
