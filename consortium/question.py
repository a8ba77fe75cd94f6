"""How a gateway asks the hub for the roster in force: it proves that it holds a SuperNode key, and learns nothing otherwise.

One header carries key, hub, time and the version held already, all signed (ECDSA, SHA-256) under a label of its own. The hub
is named by its certificate authority's digest, so a question to one hub is worth nothing at another; a question lives minutes.
"""

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from consortium.canonical import digest, integer, pack, parse_integer, parse_text, text, unpack
from consortium.errors import EncodingError, SignatureError

PATH = "/wardround/roster"
HEADER = "wardround-question"
VERSION_HEADER = "wardround-roster-version"  # of the answer: the roster in force
INSTANCE_HEADER = "wardround-instance"  # with every request of a SuperNode: which copy of the site's gateway it is
SINCE_HEADER = "wardround-connected-since"  # of a refusal: when the other gateway connected
LABEL = "wardround/roster-question/1"
MAX_HEADER = 2048  # characters
SKEW_S = 300  # as Flower allows its SuperNodes
NOTHING = 0  # `have` of a site without a roster
NO_SUCH_VERSION = 2**63  # `have` of a gateway that cannot hand a roster on: it only wants to know whether it is listed


@dataclass(frozen=True)
class Question:
    """`key`: the SuperNode's public key line (OpenSSH, without comment). `hub`: SHA-256 of the hub's CA certificate, DER.
    `asked`: seconds since 1970. `have`: version of the roster held already."""

    key: str
    hub: bytes
    asked: int
    have: int

    @property
    def signed_bytes(self) -> bytes:
        return text(LABEL) + b"\0" + digest(LABEL, text(self.key), self.hub, integer(self.asked), integer(self.have))


def bare_key(line: str) -> str:
    """Algorithm and key of an OpenSSH public key line, without the comment."""
    return " ".join(line.split()[:2])


def ask(question: Question, private_key: bytes) -> str:
    """The header's value. `private_key`: OpenSSH PEM of the ECDSA key whose public half the question names."""
    try:
        key = load_ssh_private_key(private_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError) as error:
        raise SignatureError(
            "the SuperNode's key is not an unencrypted OpenSSH private key: restore it from your backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SignatureError("the SuperNode's key is not an ECDSA key")
    signature = key.sign(question.signed_bytes, ec.ECDSA(hashes.SHA256()))
    fields = (text(question.key), question.hub, integer(question.asked), integer(question.have), signature)
    return base64.b64encode(pack(text(LABEL), *fields)).decode("ascii")


def read_question(header: str) -> tuple[Question, bytes]:
    """The question and its signature, which nobody has checked yet. Raises `EncodingError`."""
    if len(header) > MAX_HEADER:
        raise EncodingError(f"question of {len(header)} characters, limit is {MAX_HEADER}")
    try:
        data = base64.b64decode(header, validate=True)
    except (ValueError, binascii.Error) as error:
        raise EncodingError("question is not base64") from error
    label, key, hub, asked, have, signature = unpack(data, 6)
    if parse_text(label) != LABEL or len(hub) != 32:
        raise EncodingError("not a question of version 1")
    return Question(parse_text(key), hub, parse_integer(asked), parse_integer(have)), signature


def check_question(question: Question, signature: bytes, *, hub: bytes) -> None:
    """Returns if the holder of the named key asked this hub. Raises `SignatureError`; whether it is recent is not looked at."""
    if question.hub != hub:
        raise SignatureError("the question is for another hub")
    try:
        public = load_ssh_public_key(text(question.key))
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise SignatureError("the named key is not an ECDSA key")
        public.verify(signature, question.signed_bytes, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm, NotImplementedError) as error:  # the last: a compressed point
        raise SignatureError("the question is not signed by the key that it names") from error
