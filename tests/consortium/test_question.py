"""Who asks the hub for the roster holds the key that they name, asks this hub, and asks now."""

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consortium.errors import ConsortiumError, EncodingError, SignatureError
from consortium.question import Question, ask, bare_key, check_question, read_question

HUB = bytes(range(32))
KEY = ec.derive_private_key(7, ec.SECP384R1())
OTHER = ec.derive_private_key(8, ec.SECP384R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())


def line(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


QUESTION = Question(line(KEY), HUB, 1_700_000_000, 7)


def test_a_question_comes_back_as_it_was_asked() -> None:
    question, signature = read_question(ask(QUESTION, pem(KEY)))
    assert question == QUESTION
    check_question(question, signature, hub=HUB)


def test_who_does_not_hold_the_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by the key"):
        check_question(*read_question(ask(QUESTION, pem(OTHER))), hub=HUB)


def test_a_question_to_one_hub_is_worth_nothing_at_another() -> None:
    with pytest.raises(SignatureError, match="another hub"):
        check_question(*read_question(ask(QUESTION, pem(KEY))), hub=bytes(32))


ASKED = base64.b64decode(ask(QUESTION, pem(KEY)))


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(ASKED) - 1), change=st.integers(1, 255))
@example(at=111, change=1)  # the key's point is said to be compressed
def test_a_question_with_any_byte_altered_is_refused(at: int, change: int) -> None:
    data = bytearray(ASKED)
    data[at] ^= change
    with pytest.raises(ConsortiumError):
        check_question(*read_question(base64.b64encode(bytes(data)).decode()), hub=HUB)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_what_is_no_question_raises_only_our_error(header: str) -> None:
    with pytest.raises(ConsortiumError):
        check_question(*read_question(header), hub=HUB)


def test_a_question_is_bounded() -> None:
    with pytest.raises(EncodingError, match="limit is 2048"):
        read_question("A" * 2049)


def test_the_comment_of_a_key_line_does_not_count() -> None:
    assert bare_key(f"{line(KEY)} gateway of hospital-a") == line(KEY)
