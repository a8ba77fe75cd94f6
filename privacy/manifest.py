"""What a site says left it in a round, compared with what the round's record has of that site. Pure.

The egress manifest is a file of the site, one JSON line per answer (`client`'s README describes it). It is not signed: it is
worth what the way is worth by which it came from the site.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from privacy.errors import PrivacyError

MESSAGE: Final = "protocol message"  # the name of that part in every line


class ManifestError(PrivacyError):
    """A file that is no egress manifest."""


@dataclass(frozen=True)
class Part:
    what: str
    bytes: int
    sha256: str
    masked: bool


@dataclass(frozen=True)
class Answer:
    """One line: `kind` is "keys", "kem", "update (<purpose>)" or "vote"."""

    round_number: int
    kind: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Manifest:
    """A site's answers under one plan, and how many of the file's lines were cut short by a kill or a full disk."""

    site: str
    answers: tuple[Answer, ...]
    cut_short: int


@dataclass(frozen=True)
class Upload:
    """An upload by SHA-256 in hex: of the message as it travelled, and of the masked vector of so many bytes."""

    message: str
    vector: str
    vector_bytes: int


@dataclass(frozen=True)
class Counted:
    """What a record has of one site in one round; None where it has nothing. `ballot`: SHA-256 in hex, as it travelled."""

    round_number: int
    purpose: str
    upload: Upload | None
    ballot: str | None


def read_manifest(data: bytes, site: str, plan: bytes) -> Manifest:
    """The lines under the plan of this digest. Raises `ManifestError` naming the first line that is JSON but no line of it."""
    answers, cut_short = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            cut_short += 1
            continue
        try:
            if found["plan"] == plan.hex():
                answers.append(_answer(found))
        except (KeyError, TypeError) as error:
            raise ManifestError(f"line {number} is no line of an egress manifest: give the file egress/RUN.jsonl") from error
    if cut_short and not answers:
        raise ManifestError(f"lines that are not JSON: {cut_short}, and none is about this plan: give the file egress/RUN.jsonl")
    return Manifest(site, tuple(answers), cut_short)


def _answer(line: dict[str, Any]) -> Answer:
    parts = tuple(
        Part(_typed(part["what"], str), _typed(part["bytes"], int), _typed(part["sha256"], str), _typed(part["masked"], bool))
        for part in _typed(line["parts"], list)
    )
    return Answer(_typed(line["round"], int), _typed(line["kind"], str), parts)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:  # exact: True is no round number
        raise TypeError
    return value


def disagreements(manifest: Manifest, counted: Counted) -> tuple[str, ...]:
    """Every way in which what left the site is not what the record has of it, in words."""
    site, number = manifest.site, counted.round_number
    uploads, ballots, others = _listed(manifest, counted)
    found = []
    if counted.upload is not None:
        found += _upload_disagreement(site, number, counted.upload, uploads)
    if len(uploads) > 1:
        found.append(f"{site} lists {len(uploads)} different uploads in round {number}, one is allowed: ask {site}")
    if counted.ballot is not None and counted.ballot not in ballots:
        said = f"lists {' and '.join(ballots)}" if ballots else "lists no vote"
        found.append(f"the record holds a vote of {site} in round {number} with SHA-256 {counted.ballot}; {site} {said}")
    if len(ballots) > 1:
        found.append(f"{site} lists {len(ballots)} different votes in round {number}, one is allowed: ask {site}")
    if others:
        found.append(f"{site} lists {others} more answers in round {number}, which are no upload and no vote of it: ask {site}")
    return tuple(found)


def uncounted(manifest: Manifest, counted: Counted) -> tuple[str, ...]:
    """What left the site and is not in the record, which deadlines explain, and a coordinator that leaves out sites too."""
    site, number = manifest.site, counted.round_number
    uploads, ballots, _ = _listed(manifest, counted)
    remarks = []
    if uploads and counted.upload is None:
        remarks.append(f"an upload left {site} in round {number} and is not in the sum: late, lost, or left out by the coordinator")
    if ballots and counted.ballot is None:
        remarks.append(f"a vote left {site} in round {number} and is not in the record: late, lost, or left out by the coordinator")
    if manifest.cut_short:
        remarks.append(f"lines of the manifest that a kill or a full disk cut short: {manifest.cut_short}")
    return tuple(remarks)


def _upload_disagreement(site: str, number: int, counted: Upload, uploads: Sequence[Upload]) -> list[str]:
    if counted in uploads:
        return []
    if not uploads:
        return [f"the record counts {site} in the sum of round {number}, and {site} lists no upload in it: ask {site}"]
    if any((one.vector, one.vector_bytes) == (counted.vector, counted.vector_bytes) for one in uploads):
        return [f"the vector of {site} in round {number} is the one it lists, the message beside it is not: altered after it left"]
    said = " and ".join(f"{one.vector_bytes} bytes with SHA-256 {one.vector}" for one in uploads)
    return [
        f"the record says {site} uploaded {counted.vector_bytes} bytes with SHA-256 {counted.vector} in round {number}; "
        f"{site} says {said} left it"
    ]


def _listed(manifest: Manifest, counted: Counted) -> tuple[list[Upload], list[str], int]:
    """The different uploads and votes that the site lists in this round, and how many answers are neither."""
    uploads: set[Upload] = set()
    ballots: set[str] = set()
    others = 0
    for answer in manifest.answers:
        if answer.round_number != counted.round_number:
            continue
        if (upload := _as_upload(answer)) and answer.kind == f"update ({counted.purpose})":
            uploads.add(upload)
        elif answer.kind == "vote" and [part.what for part in answer.parts] == [MESSAGE]:
            ballots.add(answer.parts[0].sha256)
        else:
            others += 1
    return sorted(uploads, key=lambda one: one.message), sorted(ballots), others


def _as_upload(answer: Answer) -> Upload | None:
    """The upload, if the answer has exactly its two parts."""
    masked = [part for part in answer.parts if part.masked]
    plain = [part for part in answer.parts if not part.masked]
    if len(masked) != 1 or [part.what for part in plain] != [MESSAGE]:
        return None
    return Upload(plain[0].sha256, masked[0].sha256, masked[0].bytes)
