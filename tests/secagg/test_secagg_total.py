"""The one thing of a coordinator that changes in place: its digest, its range and its memory follow what was added."""

import hashlib
from typing import Any

import numpy as np
import pytest

from secagg.aggregate import Total
from secagg.coordinator import VotePhase
from secagg.encoding import decode_header
from secagg.errors import SecaggError
from secagg.model import model_digest
from secagg.site import Asked

NOW = 1_000_000.0
MODEL = model_digest(b"model")


def y_of(header: list[int], body: list[int], ring_bits: int) -> bytes:
    return np.array(header, "<u8").tobytes() + np.array(body, f"<u{ring_bits // 8}").tobytes()


@pytest.mark.parametrize("ring_bits", [16, 32])
def test_vectors_add_up_in_their_rings(ring_bits: int) -> None:
    total = Total(2, 3, ring_bits)
    most = 2**ring_bits - 1
    total.add("a", y_of([1, 2**64 - 1], [1, most, 7], ring_bits))
    total.add("b", y_of([1, 3], [2, 2, most], ring_bits))
    assert total.header.tolist() == [2, 2]
    assert total.body.tolist() == [3, 1, 6]
    assert bytes(total.data) == y_of([2, 2], [3, 1, 6], ring_bits)
    assert total.sites == {"a", "b"}
    assert total.size == 16 + 3 * ring_bits // 8


def test_the_digest_is_that_of_what_has_been_added_so_far() -> None:
    total = Total(1, 1, 32)
    for site in ("a", "b"):
        total.add(site, y_of([1], [5], 32))
        assert total.digest() == hashlib.sha256(total.data).digest() == total.digest()
    total.restore(frozenset("a"), y_of([1], [5], 32))
    assert total.digest() == hashlib.sha256(y_of([1], [5], 32)).digest()


def test_the_digest_follows_the_opening(four: Any) -> None:
    voting = four.votes(four.uploads(four.epoch()).close())
    masked = voting.total.digest()
    voting.close()
    assert voting.total.digest() == hashlib.sha256(voting.total.data).digest() != masked


def test_lengths_that_nobody_has_memory_for_take_none() -> None:
    """Before a vector of that size is there, a total is two numbers: a record may say anything about its lengths."""
    assert Total(2**60, 2**64 - 1, 32).size == 8 * 2**60 + 4 * (2**64 - 1)


def test_a_sum_that_did_not_open_is_as_it_was_and_opens_later(four: Any) -> None:
    voting = four.uploads(four.epoch()).close()
    held = bytes(voting.total.data)
    with pytest.raises(SecaggError, match="NOT_OPENABLE"):
        four.votes(voting, lost=["site-00", "site-01"]).close()
    assert voting.total.data == held
    opened = four.votes(voting).close()
    assert four.number_in(opened.body) == 15
    assert opened.data == voting.total.data


def test_an_opened_sum_is_opened_once(four: Any) -> None:
    """A second close gives the same sum, not one with the masks taken off twice."""
    voting = four.votes(four.uploads(four.epoch()).close())
    first, second = voting.close(), voting.close()
    assert first.record == second.record
    assert four.number_in(second.body) == 15


@pytest.mark.parametrize(("ring_bits", "value", "spoiled"), [
    (32, 3 * 2**28, False), (32, 3 * 2**28 + 1, True), (32, 2**32 - 3 * 2**28, False), (32, 2**32 - 3 * 2**28 - 1, True),
    (16, 3 * 2**12, False), (16, 3 * 2**12 + 1, True), (16, 2**16 - 3 * 2**12, False), (16, 2**16 - 3 * 2**12 - 1, True),
])  # fmt: skip
def test_a_sum_is_spoiled_beyond_what_its_sites_could_add(rig: Any, ring_bits: int, value: int, spoiled: bool) -> None:
    """Three of four sites: +-3 L, with L = 2^28 or 2^12. One sends the whole value, which a value of its own could not be."""
    four = rig(4, 1, ring_bits=ring_bits)
    phase = four.epoch().open_round(1, "train", MODEL, header_length=1, body_length=1)
    for number, (site, request) in enumerate(list(phase.requests().items())[:3]):
        session = four.sessions[site]
        asked = session.begin_update(request, MODEL, NOW)
        assert isinstance(asked, Asked)
        body = np.array([0 if number else value], f"<u{ring_bits // 8}")
        phase = phase.receive(site, *session.finish_update(session.take(asked), np.ones(1, np.uint64), body))
    voting: VotePhase = four.votes(phase.close())
    if spoiled:
        with pytest.raises(SecaggError, match="SPOILED"):
            voting.close()
    else:
        aggregate = voting.close()
        assert decode_header(aggregate.header)[0] == 3
        assert int(aggregate.body[0]) % 2**ring_bits == value
