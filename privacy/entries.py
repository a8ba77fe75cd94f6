"""A ledger line is signed, chained to the line before, and decodes in exactly one way.

Pure: bytes in, entries out. Line = canonical JSON + newline. Signature: the site's Ed25519 identity over
label "wardround/ledger-entry/1" and the canonical bytes of the line without its signature. `previous` = SHA-256 under the
label "wardround/ledger-line/1" of the whole previous line, signature included, newline excluded; 32 zero bytes at entry 0.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from consortium.canonical import Json, decode_json, digest, encode_json
from consortium.documents import from_document, to_document
from consortium.errors import DocumentError, EncodingError, SignatureError
from consortium.identity import SIGNATURE_SIZE, SigningKey, fingerprint, verify
from privacy.errors import EventError, LedgerError
from privacy.events import Spend, spend_from_document, spend_to_document

ENTRY_LABEL: Final = "wardround/ledger-entry/1"
LINE_LABEL: Final = "wardround/ledger-line/1"
VERSION: Final = 1
HASH_SIZE: Final = 32
PROOF_LABEL: Final = "wardround/ledger-key-proof/1"
FIRST_PREVIOUS: Final = bytes(HASH_SIZE)
NO_POPULATION: Final = bytes(HASH_SIZE)  # what stands before a task's first population
LINE_MOST: Final = 64 * 1024  # bytes; a spend is about 1 KiB
NOT_PRIVATE: Final = -1.0  # how "no bound" is written where a number must stand
LEFT: Final = "left:"  # how the code of a run-note begins that says that, and why, the site left the run
UNIT: Final = "patient, with all visits and scans"
NEIGHBOURS: Final = "add or remove one patient"
_TEXT_MOST: Final = 2_000
_TIME_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_KEYS: Final = {"body", "index", "kind", "previous", "signature", "time"}
_TEXT: Final = rf'"([ !#-\[\]-~]{{0,{_TEXT_MOST}}})"'  # as JSON writes it, with nothing escaped
_NUMBER: Final = "([1-9][0-9]{0,17})"
_HASH: Final = f'"([0-9a-f]{{{2 * HASH_SIZE}}})"'
_EGRESS_LINE: Final = re.compile(
    rf'{{"body":{{"answer":{_TEXT},"head":{_HASH},"lines":{_NUMBER},"plan_digest":{_HASH},"round":{_NUMBER},"run_id":{_TEXT}}},'
    rf'"index":{_NUMBER},"kind":"egress","previous":{_HASH},"signature":"([0-9a-f]{{128}})","time":"([0-9TZ:-]{{20}})"}}'
)


@dataclass(frozen=True)
class Genesis:
    """What the ledger is about, for ever: one site, one patient population; and the key that signs it first."""

    version: int
    consortium: str
    site: str
    identity_key: bytes
    population: str
    split_id: str
    unit: str = UNIT
    neighbours: str = NEIGHBOURS


@dataclass(frozen=True)
class PlanApproved:
    plan_digest: bytes
    run_id: str
    lead: str
    by: str  # "steward" or "policy"
    until: str  # time, or empty for no end
    delta: float
    epsilon_exposed: float  # of the whole plan as the budget is charged (its old name stands), NOT_PRIVATE for none


@dataclass(frozen=True)
class PlanRefused:
    plan_digest: bytes
    run_id: str
    lead: str
    by: str
    code: str
    reason: str


@dataclass(frozen=True)
class Withdrawn:
    plan_digest: bytes
    run_id: str
    reason: str


@dataclass(frozen=True)
class Recovered:
    """Bytes after the last complete line were cut off: an append that never returned, so nothing was released for it."""

    removed_bytes: int
    removed_sha256: bytes


@dataclass(frozen=True)
class RunNote:
    plan_digest: bytes
    run_id: str
    code: str  # LEFT and the code of an objection where the site leaves a run that had begun; a later spend says that it is back
    text: str  # never patient values: the ledger is shown to auditors

    @property
    def left(self) -> str:
        """The objection's code by which the site left the run; empty for a note about anything else."""
        return self.code.removeprefix(LEFT) if self.code.startswith(LEFT) else ""


@dataclass(frozen=True)
class Egress:
    """An answer that is about to leave, and how far the run's egress manifest goes with it (`privacy.manifest`)."""

    run_id: str
    plan_digest: bytes
    round: int
    answer: str  # as the manifest's line says it: "update (<purpose>)" or "vote"
    lines: int  # of the manifest, this answer's included
    head: bytes  # over all of them


POPULATION_CHANGES: Final = ("first", "joined", "left", "unknown", "withdrawn")


@dataclass(frozen=True)
class PopulationChanged:
    """The patients that a task's computations are about are others from here on. No number and no name of anybody is in it.

    `digest`: keyed by a secret of the site, over the patients' pseudonyms, so that nobody can confirm a guess. `how`: "withdrawn"
    if somebody took consent back, "left" if somebody is gone for another reason, "joined" if somebody is new, "unknown" if the
    site lost its record of the patients before; "first" alone where there were none before.
    """

    task: str
    before: bytes  # the digest that this task's last entry has; 32 zero bytes if this is the first
    digest: bytes
    how: tuple[str, ...]  # of `POPULATION_CHANGES`, in ascending order

    @property
    def words(self) -> str:
        """For people."""
        said = {
            "first": "the patients that it begins with", "joined": "patients joined", "left": "patients left",
            "unknown": "how is not known: the site's record of the patients before is lost",
            "withdrawn": "patients took their consent back and are gone",
        }  # fmt: skip
        return f"population of {self.task}: {', '.join(said[how] for how in self.how)}"


@dataclass(frozen=True)
class KeyRotated:
    """The old key's last entry: from the next one on `new_key` signs, which roster `roster_digest` lists for this site.

    `proof`: the new key's signature over the entry before this one, the old key and that roster (`proof_fields`). So nobody hands a
    ledger to a key that he does not hold, and no proof can be put behind another history.
    """

    old_key: bytes
    new_key: bytes
    roster_version: int
    roster_digest: bytes
    proof: bytes

    def proof_fields(self, previous: bytes) -> tuple[bytes, ...]:
        """What the proof is over, behind `PROOF_LABEL`; `previous`: hash of the entry before."""
        return previous, self.old_key, self.new_key, self.roster_digest


@dataclass(frozen=True)
class KeyReplaced:
    """`new_key`, which signs this very entry, goes on without the old key, which is lost. Nothing but the roster vouches for it."""

    old_key: bytes
    new_key: bytes
    roster_version: int
    roster_digest: bytes
    reason: str


@dataclass(frozen=True)
class SpendDetails:
    """What a round's releases belong to: with the spends, all that an auditor needs to recompute them."""

    run_id: str
    plan_digest: bytes
    round: int
    purpose: str
    delta: float
    split_id: str
    clip: float  # L2 bound on one patient, in the units of what is summed
    grid_bits: int
    normaliser: float  # the public constant that the noisy sum is divided by
    sampler: str
    rng: str
    code_version: str
    model_hash: bytes  # of the incoming model


@dataclass(frozen=True)
class SpendRecord:
    """A spend as the ledger keeps it: the releases, and what the site's accountant said after them."""

    details: SpendDetails
    spends: tuple[Spend, ...]
    epsilon_after: float  # of the whole ledger at the details' delta; NOT_PRIVATE for none


Content = (
    Genesis
    | PlanApproved
    | PlanRefused
    | Withdrawn
    | Recovered
    | RunNote
    | SpendRecord
    | Egress
    | PopulationChanged
    | KeyRotated
    | KeyReplaced
)

_CONTENTS: Final[Mapping[str, type[Content]]] = {
    "genesis": Genesis,
    "plan-approved": PlanApproved,
    "plan-refused": PlanRefused,
    "spend": SpendRecord,
    "withdrawn": Withdrawn,
    "recovered": Recovered,
    "run-note": RunNote,
    "egress": Egress,
    "population-changed": PopulationChanged,
    "key-rotated": KeyRotated,
    "key-replaced": KeyReplaced,
}
KINDS: Final[tuple[str, ...]] = tuple(_CONTENTS)


@dataclass(frozen=True)
class Entry:
    """One line. `hash` is what the next line's `previous` must be."""

    index: int
    kind: str
    time: str
    previous: bytes
    content: Content
    signature: bytes = field(repr=False)
    hash: bytes = field(repr=False)

    @property
    def body(self) -> dict[str, Json]:
        return body_of(self.content)

    @property
    def line(self) -> bytes:
        """Canonical bytes with the signature, without the newline."""
        return encode_json({**_unsigned(self), "signature": self.signature.hex()})


def line_hash(line: bytes) -> bytes:
    """What the next line's `previous` must be."""
    return digest(LINE_LABEL, line)


def make_entry(index: int, content: Content, *, previous: bytes, now: datetime, key: SigningKey) -> Entry:
    """The signed entry. Raises `LedgerError` if its own decoder would refuse it: nothing unreadable is ever written."""
    kind = next(name for name, kind in _CONTENTS.items() if isinstance(content, kind))
    try:
        entry = Entry(index, kind, time_text(now), previous, content, b"", b"")
        signed = replace(entry, signature=key.sign(ENTRY_LABEL, encode_json(_unsigned(entry))))
    except (EncodingError, DocumentError) as error:
        raise LedgerError(f"{kind} cannot be written: {error}", index) from error
    return parse_entry(signed.line, index)


def body_of(content: Content) -> dict[str, Json]:
    """The JSON document of an entry's content."""
    if isinstance(content, SpendRecord):
        scalars: dict[str, Json] = {name: to_document(value) for name, value in vars(content.details).items()}
        spends: list[Json] = [spend_to_document(spend) for spend in content.spends]
        return {**scalars, "spends": spends, "epsilon_after": content.epsilon_after}
    document = to_document(content)
    assert isinstance(document, dict)  # noqa: S101 - a dataclass always becomes an object
    return document


def parse_body(kind: str, body: Json) -> Content:
    """Strict inverse of `body_of`; raises `DocumentError` or `EventError`."""
    if kind not in _CONTENTS:
        raise DocumentError(f"kind {kind!r} is not one of {', '.join(KINDS)}: written by newer code, or altered")
    if not isinstance(body, dict):
        raise DocumentError(f"body is a {type(body).__name__}, expected an object")
    content = _spend_record(body) if kind == "spend" else from_document(_CONTENTS[kind], body, kind)
    _check(content)
    return content


def _spend_record(body: Mapping[str, Json]) -> SpendRecord:
    spends, after = body.get("spends"), body.get("epsilon_after")
    if not isinstance(spends, list) or not spends:
        raise DocumentError("spend.spends must be a list with at least one spend")
    if not isinstance(after, float):
        raise DocumentError(f"spend.epsilon_after is a {type(after).__name__}, expected a float")
    rest = {name: value for name, value in body.items() if name not in ("spends", "epsilon_after")}
    return SpendRecord(from_document(SpendDetails, rest, "spend"), tuple(map(spend_from_document, spends)), after)


def _check(content: Content) -> None:
    """Rules that types cannot say; raises `DocumentError`."""
    for name, value in vars(content.details if isinstance(content, SpendRecord) else content).items():
        if isinstance(value, str):
            if len(value) > _TEXT_MOST or not (value.isascii() and value.isprintable()):
                raise DocumentError(f"{name} must be printable ASCII of at most {_TEXT_MOST} characters")
        elif isinstance(value, bytes) and len(value) != (size := SIGNATURE_SIZE if name == "proof" else HASH_SIZE):
            raise DocumentError(f"{name} has {len(value)} bytes, expected {size}")
    if isinstance(content, Genesis):
        _check_genesis(content)
    elif isinstance(content, SpendRecord):
        _check_spend(content)
    elif isinstance(content, Egress) and (content.round < 1 or content.lines < 1):
        raise DocumentError(f"egress of round {content.round} with {content.lines} lines, both are 1 or more")
    elif isinstance(content, PopulationChanged):
        _check_population(content)
    elif isinstance(content, KeyRotated | KeyReplaced):
        _check_handover(content)
    elif isinstance(content, Recovered) and content.removed_bytes < 1:
        raise DocumentError(f"removed_bytes {content.removed_bytes}, must be at least 1")


def _check_handover(content: KeyRotated | KeyReplaced) -> None:
    if content.old_key == content.new_key:
        raise DocumentError("new_key is the old one: nothing changed")
    if content.roster_version < 1:
        raise DocumentError(f"roster_version {content.roster_version}, the first is 1")


def _check_population(changed: PopulationChanged) -> None:
    how = changed.how
    if not changed.task:
        raise DocumentError("task must not be empty")
    if not how or list(how) != sorted(set(how)) or not set(how) <= set(POPULATION_CHANGES):
        raise DocumentError(f"how must be one or more of {', '.join(POPULATION_CHANGES)}, ascending, each once")
    if ("first" in how) != (changed.before == NO_POPULATION) or ("first" in how and len(how) > 1):
        raise DocumentError("the first population of a task has nothing before it, and no later one is the first")
    if changed.digest in (changed.before, NO_POPULATION):
        raise DocumentError("the population is the one before: nothing changed")


def _check_genesis(genesis: Genesis) -> None:
    if genesis.version != VERSION:
        raise DocumentError(f"ledger version {genesis.version}, this code knows {VERSION}: use newer code")
    if (genesis.unit, genesis.neighbours) != (UNIT, NEIGHBOURS):
        raise DocumentError("the ledger counts another unit or neighbourhood than this code: epsilons would not be comparable")
    if not (genesis.site and genesis.population and genesis.consortium):
        raise DocumentError("site, population and consortium must not be empty")


def _check_spend(record: SpendRecord) -> None:
    details = record.details
    if details.round < 1:
        raise DocumentError(f"round {details.round}, the first is 1")
    if details.purpose not in ("describe", "train", "evaluate"):
        raise DocumentError(f"purpose {details.purpose!r} is not one of describe, train, evaluate")
    if not 0.0 < details.delta < 1.0:
        raise DocumentError(f"delta {details.delta} outside (0, 1)")
    if not (record.epsilon_after >= 0.0 or record.epsilon_after == NOT_PRIVATE):
        raise DocumentError(f"epsilon_after {record.epsilon_after}, must be 0 or more, or {NOT_PRIVATE} for not private")


def time_text(now: datetime) -> str:
    """UTC to the second; refuses a time without a zone."""
    if now.tzinfo is None:
        raise LedgerError("the time has no zone: pass datetime.now(UTC)")
    return now.astimezone(UTC).strftime(_TIME_FORM)


def parse_entry(line: bytes, index: int) -> Entry:
    """The entry in exactly these bytes (no newline), which must stand at `index`. The signature is not checked here."""
    if len(line) > LINE_MOST:
        raise LedgerError(f"line of {len(line)} bytes, limit is {LINE_MOST}: not a ledger line", index)
    if (entry := _plain_egress(line, index)) is not None:
        return entry
    try:
        document = decode_json(line)
        if not isinstance(document, dict) or set(document) != _KEYS:
            raise LedgerError(f"a line has exactly the keys {', '.join(sorted(_KEYS))}: altered, or another file", index)
        return _entry(document, index, line_hash(line))
    except (EncodingError, DocumentError, EventError) as error:
        raise LedgerError(f"line cannot be read: {error}", index) from error


def _plain_egress(line: bytes, index: int) -> Entry | None:
    """The entry of an `egress` line, two of three lines of a ledger, at a third of the price; None leaves it to the rules.

    What matches is canonical, and passes every rule: keys, order, types, sizes and what may stand in a text are in the pattern.
    """
    if not line.isascii() or (match := _EGRESS_LINE.fullmatch(line.decode("ascii"))) is None:
        return None
    answer, head, lines, plan, number, run_id, at, previous, signature, time = match.groups()
    if int(at) != index or not _is_time(time):
        return None
    content = Egress(run_id, bytes.fromhex(plan), int(number), answer, int(lines), bytes.fromhex(head))
    return Entry(index, "egress", time, bytes.fromhex(previous), content, bytes.fromhex(signature), line_hash(line))


def _entry(document: Mapping[str, Json], index: int, own_hash: bytes) -> Entry:
    kind, time, body = document["kind"], document["time"], document["body"]
    if type(document["index"]) is not int or document["index"] != index:
        raise LedgerError(f"the line says it is entry {document['index']!r}: lines were removed, added or reordered", index)
    if not isinstance(kind, str) or not isinstance(time, str) or not isinstance(body, dict):
        raise LedgerError("kind and time must be texts and body an object: line altered", index)
    if not _is_time(time):
        raise LedgerError("time must look like 2026-01-31T12:00:00Z", index)
    previous = _fixed_hex(document["previous"], HASH_SIZE, "previous", index)
    signature = _fixed_hex(document["signature"], 64, "signature", index)
    return Entry(index, kind, time, previous, parse_body(kind, body), signature, own_hash)


@functools.lru_cache(maxsize=64)  # the answers of a round often leave within one second
def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).strftime(_TIME_FORM) == text  # many times faster than strptime
    except ValueError:
        return False


def _fixed_hex(value: Json, size: int, name: str, index: int) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size or data.hex() != value:  # capitals or spaces
        raise LedgerError(f"{name} must be {2 * size} lower-case hex digits: line altered", index)
    return data


def check_signature(entry: Entry, public: bytes) -> None:
    """Raises `LedgerError` unless the key `public` signed exactly this entry."""
    try:
        verify(public, entry.signature, ENTRY_LABEL, encode_json(_unsigned(entry)))
    except SignatureError as error:
        message = f"not signed by the ledger's key {fingerprint(public)}: line altered or forged"
        raise LedgerError(message, entry.index) from error


def check_link(entry: Entry, before: Entry | None) -> None:
    """Raises `LedgerError` unless `entry` may follow `before` (None: `entry` is the first)."""
    if (entry.kind == "genesis") != (before is None):
        raise LedgerError("a ledger starts with exactly one genesis entry: lines were removed or joined", entry.index)
    if entry.previous != (FIRST_PREVIOUS if before is None else before.hash):
        raise LedgerError("does not follow from the entry before it: lines were edited, removed or reordered", entry.index)


def check_population(changed: PopulationChanged, populations: Mapping[str, bytes], index: int) -> None:
    """Raises `LedgerError` unless it goes on from the last population of its task: `populations` (task -> digest)."""
    if changed.before != populations.get(changed.task, NO_POPULATION):
        raise LedgerError(
            f"the population of {changed.task} does not follow from the one before it: an entry was removed or altered", index
        )


def recorded(epsilon: float) -> float:
    """Epsilon as it is written: `NOT_PRIVATE` for infinity."""
    return NOT_PRIVATE if math.isinf(epsilon) else epsilon


def _unsigned(entry: Entry) -> dict[str, Json]:
    return {
        "body": entry.body,
        "index": entry.index,
        "kind": entry.kind,
        "previous": entry.previous.hex(),
        "time": entry.time,
    }
