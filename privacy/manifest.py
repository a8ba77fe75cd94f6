"""What a site says left it in a round: whether its signed ledger vouches for that, and what a round's record has of it. Pure.

The egress manifest is a file of the site, one JSON line per answer or refusal (`client`'s README describes it). No line is
signed. But each carries in `previous` the hash over all lines before it, and the site's ledger, which is signed, has an
`egress` entry for each update and each vote with the number of lines and the hash over them, written before the answer left.
So no line up to the last such entry can be edited, removed, added or moved without `verify_manifest` naming it.

hash(0) = 32 zero bytes; hash(k) = SHA-256 under "wardround/egress-line/1" of hash(k - 1) and line k, newline excluded. A line that
a kill cut short counts as a line. Lines of versions before this one have no `previous`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consortium.canonical import digest
from privacy.entries import Egress, Entry, SpendRecord
from privacy.errors import PrivacyError

MESSAGE: Final = "protocol message"  # the name of that part in every line
REFUSAL: Final = "refusal"  # how the kind of a refusal's line begins
UPDATE: Final = "update"  # how the kind of an update's line begins, its purpose after it
VOTE: Final = "vote"
LINE_LABEL: Final = "wardround/egress-line/1"
_HOW: Final = "edited, removed, added or moved"


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
    """One line: `kind` is "keys", "kem", "update (<purpose>)", "vote" or "refusal (<code>)"."""

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
        if answer.round_number != counted.round_number or answer.kind.startswith(REFUSAL):
            continue  # a refusal says a code and nothing else, and no record has any
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


# What the ledger vouches for.


@dataclass(frozen=True)
class Tip:
    """How far a manifest goes: the number of its lines and the hash over all of them."""

    lines: int = 0
    head: bytes = bytes(32)

    def after(self, line: bytes) -> "Tip":
        """With one more line, given without its newline."""
        return Tip(self.lines + 1, digest(LINE_LABEL, self.head, line))


@dataclass(frozen=True)
class Finding:
    """`line`: the first of the manifest that it is about, from 1. `entry`: of the ledger. None: it is about none."""

    text: str
    line: int | None = None
    entry: int | None = None


@dataclass(frozen=True)
class Linked:
    """What a ledger says of one run's manifest.

    `lines`: whole lines of the manifest. `entries`: how many `egress` entries the ledger has for the run. `linked`: so many
    lines, from the first on, stand as they did when the ledger's entry was written. `problems`: reasons not to believe the
    manifest, the first line that does not fit among them. `remarks`: what an auditor should read all the same.
    """

    run_id: str
    lines: int
    entries: int
    linked: int
    problems: tuple[Finding, ...]
    remarks: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.problems:
            return f"DOES NOT FIT the ledger: {self.problems[0].text}"
        if not (self.entries or self.lines):
            return "nothing left, and the ledger knows of nothing"
        if not self.entries:
            return "not linked: the ledger has no entry about it, nobody vouches for these lines"
        return f"the ledger vouches for {self.linked} of {self.lines} lines, by {self.entries} entries"


@dataclass(frozen=True)
class _Line:
    """One line as it was read: `said` is its JSON object, None for a line cut short. `before`: over the lines before it."""

    number: int
    said: dict[str, Any] | None
    before: bytes

    @property
    def chained(self) -> bool:
        return self.said is not None and "previous" in self.said

    @property
    def follows(self) -> bool:
        """Its `previous`, if it has one, is the hash over the lines before it."""
        return not self.chained or (self.said or {})["previous"] == self.before.hex()

    @property
    def key(self) -> tuple[str, int, str]:
        """Plan, round and kind: what a ledger's entry says of it. Empty where they are not what they should be."""
        said = self.said or {}
        plan, number, kind = said.get("plan"), said.get("round"), said.get("kind")
        if isinstance(plan, str) and type(number) is int and isinstance(kind, str):
            return plan, number, kind
        return "", 0, ""


def verify_manifest(run_id: str, data: bytes, entries: Iterable[Entry]) -> Linked:
    """The bytes of `egress/<run_id>.jsonl` (empty: the site gave none) against the entries of the same site's ledger.

    `entries` are those of `privacy.ledger.read_entries`, which checked chain and signatures; entries of other runs are passed
    over. Take the ledger first and the manifest after it, or a running guard's newest line seems to be missing. Never raises on
    bad data. Found: a line edited, removed, added or moved anywhere up to the last entry, the first such line named; a manifest cut
    short, begun anew or missing; an update that left uncharged. Not found, because nobody vouches for it: what was done
    after the last entry, and to lines of earlier versions before the first one. A line that a kill or a failed write kept from
    leaving is a remark. Whether the digests are those of what travelled is `disagreements`' business.
    """
    entries = tuple(entries)
    links = [
        (entry.index, entry.content) for entry in entries if isinstance(entry.content, Egress) and entry.content.run_id == run_id
    ]
    lines, tips, rest = _read_lines(data)
    linked = _vouched(links, tips)
    misfit = _first_misfit(lines, tips, links)
    problems = [misfit] if misfit else []
    problems += _begun_anew(links)
    problems += _uncharged(links, entries)
    matched, unlisted = _matched(lines, links)
    if misfit is None:
        problems += unlisted
    return Linked(run_id, len(lines), len(links), linked, tuple(problems), tuple(_link_remarks(lines, rest, links, matched)))


def _read_lines(data: bytes) -> tuple[list[_Line], list[Tip], bytes]:
    """Every line, the tips after 0, 1, 2, ... of them, and what stands after the last newline."""
    *whole, rest = data.split(b"\n")
    lines, tips = [], [Tip()]
    for number, line in enumerate(whole, 1):
        lines.append(_Line(number, _object(line), tips[-1].head))
        tips.append(tips[-1].after(line))
    return lines, tips, rest


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _fits(link: Egress, tips: Sequence[Tip]) -> bool:
    return link.lines < len(tips) and tips[link.lines].head == link.head


def _vouched(links: Sequence[tuple[int, Egress]], tips: Sequence[Tip], most: int | None = None) -> int:
    """The most lines, `most` at most, that an entry vouches for as they stand."""
    return max((link.lines for _, link in links if _fits(link, tips) and (most is None or link.lines <= most)), default=0)


def _first_misfit(lines: Sequence[_Line], tips: Sequence[Tip], links: Sequence[tuple[int, Egress]]) -> Finding | None:
    """The first line that is not as it was written, found by what comes after it: the next line, or an entry of the ledger."""
    stray = _stray(lines)
    broken = next((line.number for line in lines if not line.follows), None)
    unfit = next(((index, link) for index, link in links if not _fits(link, tips)), None)
    found = []
    if stray is not None:
        found.append(Finding(f"line {stray} has no `previous`, and lines before it have one: added by hand", stray))
    if broken is not None:  # what its `previous` stands for differs from what is before it, and no `previous` before differs
        first = broken if broken == 1 or _vouched(links, tips, broken - 1) == broken - 1 else broken - 1
        found.append(Finding(f"line {first} does not fit: line {broken} was written after other lines; {_HOW}", first))
    if unfit is not None and (broken is None or unfit[1].lines < broken - 1):
        found.append(_unfit(unfit, tips, _vouched(links, tips, unfit[1].lines - 1)))
    return min(found, key=lambda one: one.line or 0, default=None)


def _unfit(link: tuple[int, Egress], tips: Sequence[Tip], good: int) -> Finding:
    """What an entry says of lines that follow from each other, `good` of which an entry vouches for."""
    entry, known = link[0], link[1].lines
    if known >= len(tips):
        text = f"line {len(tips)} is missing: ledger entry {entry} knows {known}; cut short, removed or begun anew"
        return Finding(text, len(tips), entry)
    where = f"line {known}" if known == good + 1 else f"line {good + 1} or a later one up to line {known}"
    return Finding(f"{where} does not fit: ledger entry {entry} knows other lines up to there; {_HOW}", good + 1, entry)


def _stray(lines: Sequence[_Line]) -> int | None:
    """The first whole line without `previous` after one with it."""
    begun = False
    for line in lines:
        if begun and line.said is not None and not line.chained:
            return line.number
        begun = begun or line.chained
    return None


def _begun_anew(links: Sequence[tuple[int, Egress]]) -> list[Finding]:
    """Entries that know fewer lines than one before them, or other ones."""
    found, most = [], Tip()
    for index, link in links:
        if link.lines < most.lines or (link.lines == most.lines and link.head != most.head):
            text = f"ledger entry {index} knows {link.lines} lines, an entry before it {most.lines}: the manifest was begun anew"
            found.append(Finding(text, None, index))
        else:
            most = Tip(link.lines, link.head)
    return found


def _uncharged(links: Sequence[tuple[int, Egress]], entries: Sequence[Entry]) -> list[Finding]:
    """Updates that left before, or without, an entry that charges their round."""
    charged: dict[tuple[bytes, int], int] = {}
    for entry in entries:
        if isinstance(entry.content, SpendRecord):
            charged.setdefault((entry.content.details.plan_digest, entry.content.details.round), entry.index)
    found = []
    for index, left in links:
        if left.answer.startswith(UPDATE) and charged.get((left.plan_digest, left.round), index) >= index:
            text = f"ledger entry {index}: an update of round {left.round} left, and no entry before it charges that round"
            found.append(Finding(text, None, index))
    return found


def _matched(lines: Sequence[_Line], links: Sequence[tuple[int, Egress]]) -> tuple[set[int], list[Finding]]:
    """The lines that have an entry of their own, and the entries whose answer no line lists."""
    open_lines: dict[tuple[str, int, str], list[int]] = {}
    for line in lines:
        open_lines.setdefault(line.key, []).append(line.number)
    matched, unlisted = set(), []
    for index, link in links:
        numbers = [
            number for number in open_lines.get((link.plan_digest.hex(), link.round, link.answer), ()) if number <= link.lines
        ]
        if not (free := [number for number in numbers if number not in matched]):
            text = (
                f"ledger entry {index}: {link.answer} of round {link.round} left, and none of the first {link.lines} lines lists it"
            )
            unlisted.append(Finding(text, None, index))
        else:
            matched.add(free[-1])
    return matched, unlisted


def _link_remarks(lines: Sequence[_Line], rest: bytes, links: Sequence[tuple[int, Egress]], matched: set[int]) -> list[Finding]:
    remarks = []
    cut = [line.number for line in lines if line.said is None] + ([len(lines) + 1] if rest else [])
    remarks += [
        Finding(f"line {number} was cut short by a kill or a full disk: what it was about did not leave", number) for number in cut
    ]
    older = [line.number for line in lines if line.said is not None and not line.chained]
    if older:
        text = f"lines {older[0]} to {older[-1]} are of a version before manifests were linked: not linked when they were written"
        remarks.append(Finding(text, older[0]))
    for line in lines:
        _, number, kind = line.key
        if line.chained and line.number not in matched and (kind == VOTE or kind.startswith(UPDATE)):
            text = f"line {line.number}: {kind} of round {number} has no entry: written, and stopped before it left"
            remarks.append(Finding(text, line.number))
    last = max((link.lines for _, link in links), default=0)
    if links and len(lines) > last:
        remarks.append(Finding(f"lines from {last + 1} on came after the last entry: nobody vouches for them yet", last + 1))
    return remarks
