"""What crosses between coordinator and guard, and nothing else: four kinds of request, an answer or a fixed-sentence refusal.

A refusal carries a code, the site ids it names, a correlation id and the code's fixed sentence; the detail stays in the
site's own log. The sentence is looked up here on both sides: free text never leaves a hospital.
"""

import re
from dataclasses import dataclass

from consortium.canonical import SITE_ID, Bytes, pack, parse_text, text, unpack
from consortium.errors import EncodingError

KINDS = ("sa1_keys", "sa1_kem", "sa1_update", "sa1_vote")
KEYS_REQUEST = text("wardround/keys-request/1")
REQUEST = text("wardround/request/1")
ANSWER = text("wardround/answer/1")
REFUSAL = text("wardround/refusal/1")
DIGEST_SIZE = 32
CORRELATION_SIZE = 16  # hex digits
CORRELATION = re.compile(r"[0-9a-f]{16}")

SENTENCES = {
    # the guard's own
    "UNDECODABLE": "The message could not be decoded.",
    "PLAN_SIGNATURE": "The plan is not signed by a lead on this site's roster, or was altered.",
    "ROSTER": "The plan was made for another roster than this site's.",
    "NOT_LISTED": "This site is not a participant of the plan.",
    "CODE_VERSION": "The versions of hub and site are too far apart, or compute in other ways: one of them must be updated.",
    "TASK": "This site cannot run the plan's task with its data.",
    "NO_POLICY": "This site has no policy file: nothing trains here.",
    "POLICY": "The plan asks for more than this site's policy allows.",
    "NOT_APPROVED": "Waiting for this site's approval.",
    "DECLINED": "This site's steward refused the plan.",
    "PAUSED": "This site has paused.",
    "LEFT": "This site has left the consortium.",
    "UNKNOWN_PLAN": "This site has not seen this plan.",
    "BUDGET": "The round would exceed this site's privacy budget.",
    "LIMIT": "The plan's own limit for this kind of round is used up.",
    "LEDGER": "This site's ledger is not usable: nothing trains here.",
    "MODEL": "The model does not have the plan's size, or holds values that are not finite.",
    "TRAINING": "Training failed at this site.",
    "BUSY": "This site is still working on an earlier request.",
    "INTERNAL": "The site failed to answer.",
    "GUARD_DOWN": "This site's guard cannot be reached by its gateway.",
    "UNKNOWN_KIND": "This kind of message is not answered.",
    # of the secure-aggregation protocol (its specification, 4.3-4.5)
    "EPOCH": "Another epoch is in force at this site.",
    "STRANGER": "A site outside the roster, the plan or the epoch is named.",
    "SIGNATURE": "A signature does not match.",
    "ENCODING": "A protocol message is not well formed.",
    "PEERS": "The list of sites is not the expected one.",
    "OWN_KEY": "This site's own key was altered.",
    "TOO_FEW": "Too few sites take part.",
    "ROUND": "The round number is not the next one.",
    "OWN_UPLOAD": "This site's own upload was altered.",
    "VOTED": "This site has already voted in this round.",
    "RANGE": "A value is outside the range of the plan.",
    "NOT_OPENABLE": "The ballots do not open.",
    "SPOILED": "The sum is not plausible.",
}


@dataclass(frozen=True)
class Request:
    """`body`: the model, float32 little-endian, buffers then parameters (update requests only)."""

    control: bytes
    body: Bytes = b""


@dataclass(frozen=True)
class Reply:
    """`body`: the masked vector (update answers only)."""

    control: bytes
    body: Bytes = b""


@dataclass(frozen=True)
class Refusal:
    code: str
    sites: tuple[str, ...]
    correlation: str

    @property
    def sentence(self) -> str:
        return SENTENCES[self.code]


def encode_keys_request(signed_plan: bytes, sa1: bytes) -> bytes:
    """A run introduces itself with its whole signed plan; every later request names only the plan's digest."""
    return pack(KEYS_REQUEST, signed_plan, sa1)


def decode_keys_request(control: bytes) -> tuple[bytes, bytes]:
    label, signed_plan, sa1 = unpack(control, 3)
    if label != KEYS_REQUEST:
        raise EncodingError("not a keys request of version 1")
    return signed_plan, sa1


def encode_request(plan_digest: bytes, sa1: bytes) -> bytes:
    if len(plan_digest) != DIGEST_SIZE:
        raise EncodingError(f"plan digest of {len(plan_digest)} bytes, expected {DIGEST_SIZE}")
    return pack(REQUEST, plan_digest, sa1)


def decode_request(control: bytes) -> tuple[bytes, bytes]:
    label, plan_digest, sa1 = unpack(control, 3)
    if label != REQUEST or len(plan_digest) != DIGEST_SIZE:
        raise EncodingError("not a request of version 1")
    return plan_digest, sa1


def encode_answer(sa1: bytes) -> bytes:
    return pack(ANSWER, sa1)


def encode_refusal(refusal: Refusal) -> bytes:
    _check_refusal(refusal)  # before it leaves: a slip at a site must not become free text on the wire
    return pack(REFUSAL, text(refusal.code), pack(*map(text, refusal.sites)), text(refusal.correlation))


def decode_reply(control: bytes) -> bytes | Refusal:
    """The protocol message of an answer, or the refusal. Raises `EncodingError` on anything else."""
    fields = unpack(control)
    if len(fields) == 2 and fields[0] == ANSWER:
        return fields[1]
    if len(fields) != 4 or fields[0] != REFUSAL:
        raise EncodingError("neither an answer nor a refusal of version 1")
    refusal = Refusal(parse_text(fields[1]), tuple(map(parse_text, unpack(fields[2]))), parse_text(fields[3]))
    _check_refusal(refusal)
    return refusal


def _check_refusal(refusal: Refusal) -> None:
    if refusal.code not in SENTENCES:
        raise EncodingError("refusal with an unknown code")
    if not all(SITE_ID.fullmatch(site) for site in refusal.sites):
        raise EncodingError("refusal names something that is no site id")
    if not CORRELATION.fullmatch(refusal.correlation):
        raise EncodingError(f"refusal's correlation id is not {CORRELATION_SIZE} lower-case hex digits")
