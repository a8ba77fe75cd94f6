"""Encoded sums never wrap, rounding leans to no side, and what is no number is not sent, in either ring."""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from secagg import encoding, masks, numbers
from secagg.coordinator import Epoch, UploadPhase, recompute
from secagg.dealing import Vector, _mask
from secagg.encoding import (
    CHUNK_VALUES,
    Update,
    WholeSteps,
    decode_body,
    decode_header_steps,
    decode_steps,
    encode_body,
    encode_header_steps,
)
from secagg.errors import SecaggError
from secagg.masks import BLOCK_BYTES, MaskKeys
from secagg.messages import UpdateRequest
from secagg.site import Asked

NOW = 1_000_000.0
MODEL = b"M" * 32
RINGS = (16, 32)
FLOATS = (np.float32, np.float64)
SIGNED = {16: np.int16, 32: np.int32}


def words_of(values: Any, *, weight: float = 1.0, clip: float = 1.0, n: int = 4, ring_bits: int = 32) -> NDArray[Any]:
    """Encoded steps as signed numbers."""
    encoded = encode_body(np.asarray(values), weight=weight, clip=clip, n=n, entropy=os.urandom, ring_bits=ring_bits)
    return encoded.view(SIGNED[ring_bits])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SecaggError) as refused:
        call()
    return refused.value.code


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring_bits", RINGS)
@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-4, 4, width=32)), st.integers(3, 30))
@settings(max_examples=50)
def test_a_body_value_is_kept_to_one_step(ring_bits: int, values: NDArray[Any], n: int) -> None:
    for kind in FLOATS:
        decoded = decode_body(words_of(values.astype(kind), clip=4.0, n=n, ring_bits=ring_bits), 4.0, n, ring_bits=ring_bits)
        assert np.abs(decoded - values).max(initial=0.0) <= 4.0 / numbers.ring_scale(n, ring_bits)


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.parametrize("kind", FLOATS)
def test_a_body_saturates_at_the_clip_and_never_leaves_it(kind: Any, ring_bits: int) -> None:
    limit = numbers.ring_scale(3, ring_bits)
    large = float(np.finfo(kind).max)
    words = words_of(np.array([9.0, -9.0, 1.0, -1.0, large, -large, 0.0] * 20_000, kind), n=3, ring_bits=ring_bits)
    assert set(words.tolist()) == {limit, -limit, 0}


def test_zero_and_even_steps_are_not_moved_by_the_dither() -> None:
    """An odd one is, by the one dither of 65536 that is exactly half a step: the tie goes to the even neighbour."""
    steps = np.arange(-1000, 1001, 2)
    assert np.array_equal(words_of(np.tile(steps / 2.0**28, 50), n=4), np.tile(steps, 50))
    assert np.array_equal(words_of(np.tile(steps / 2.0**12, 50), n=4, ring_bits=16), np.tile(steps, 50))


def test_the_weight_scales_the_body() -> None:
    assert decode_body(words_of([0.5], weight=0.25), 1.0, 4)[0] == pytest.approx(0.125, abs=2**-27)


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.parametrize("part", [0.25, -0.25, 0.5, -0.5, 0.9, 1 / 3])
def test_dither_makes_the_rounding_unbiased(part: float, ring_bits: int) -> None:
    """A value between two steps becomes one of them, and the other as often as keeps the mean; ten standard errors are 0.011."""
    count = 200_000
    words = words_of(np.full(count, part / numbers.ring_scale(4, ring_bits)), ring_bits=ring_bits)
    assert set(words.tolist()) == {int(np.floor(part)), int(np.floor(part)) + 1}
    assert abs(float(words.mean()) - part) < 10 * 0.5 / np.sqrt(count)


@pytest.mark.parametrize("ring_bits", RINGS)
def test_over_every_dither_value_the_mean_is_the_value(monkeypatch: pytest.MonkeyPatch, ring_bits: int) -> None:
    """Not a sample: all 2^16 dithers once each. What is left of a bias is at most 2^-16 of a step, and downwards."""

    class Every:
        def update_into(self, zeros: memoryview, room: memoryview) -> None:
            room[:] = np.arange(len(room) // 2, dtype=np.uint16).astype("<u2").tobytes()

    monkeypatch.setattr(encoding, "stream", lambda key, section: Every())
    monkeypatch.setattr(encoding, "CHUNK_VALUES", 2**16)
    for part in (0.0, 0.25, 0.5, -0.5, 0.123, -0.877):
        words = words_of(np.full(2**16, part / numbers.ring_scale(4, ring_bits)), ring_bits=ring_bits)
        assert -(2**-16) <= float(words.astype(np.float64).mean()) - part <= 0.0


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.parametrize("n", range(3, 31))
def test_no_sum_of_any_subset_wraps(n: int, ring_bits: int) -> None:
    """Every site at its clip, up or down: each of the n+1 counts of ups stays what arithmetic without a ring gives."""
    up, down = (words_of(np.full(1, sign), n=n, ring_bits=ring_bits) for sign in (1.0, -1.0))
    scale = numbers.ring_scale(n, ring_bits)
    for ups, downs in itertools.product(range(n + 1), repeat=2):
        if ups + downs <= n:
            total = (up * ups + down * downs).astype(SIGNED[ring_bits])  # in the ring
            assert int(total[0]) == (ups - downs) * scale
    assert n * scale < 2 ** (ring_bits - 1)


# --- one encoding, however it is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("length", [0, 1, CHUNK_VALUES - 1, CHUNK_VALUES, CHUNK_VALUES + 1, 3 * CHUNK_VALUES + 7])
def test_an_update_written_in_blocks_is_the_encoded_body(length: int, kind: Any, ring_bits: int) -> None:
    values = np.linspace(-1.5, 1.5, length).astype(kind)
    whole = encode_body(values, weight=0.7, clip=1.0, n=5, entropy=bytes, ring_bits=ring_bits)
    update = Update(values, weight=0.7, clip=1.0, n=5, entropy=bytes, ring_bits=ring_bits)
    words = np.empty(length, update.word_type)
    for at in range(0, length, CHUNK_VALUES):
        update.write(at, words[at : at + CHUNK_VALUES])
    assert len(update) == length
    assert np.array_equal(words, whole)


def test_float32_and_float64_of_the_same_values_are_the_same_words() -> None:
    values = np.linspace(-1, 1, 5000, dtype=np.float32)
    first, second = (encode_body(values.astype(kind), weight=1.0, clip=1.0, n=4, entropy=bytes) for kind in FLOATS)
    assert np.array_equal(first, second)


def test_two_updates_are_dithered_apart() -> None:
    values = np.full(1000, 0.5 / 2.0**28)
    assert not np.array_equal(words_of(values), words_of(values))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("ring_bits", RINGS)
@pytest.mark.parametrize("kind", FLOATS)
def test_an_update_encoded_on_its_way_is_masked_like_its_words(kind: Any, ring_bits: int, threads: int) -> None:
    values = np.linspace(-1.2, 1.2, BLOCK_BYTES // (ring_bits // 8) + 1001).astype(kind)
    settings = {"weight": 0.5, "clip": 1.0, "n": 4, "entropy": bytes, "ring_bits": ring_bits}
    words, header = encode_body(values, **settings), np.array([1, 5], np.uint64)
    keys = MaskKeys.of(b"d" * 32, added=[1, 2, 3], removed=[4])
    expected_header, expected = header.copy(), words.copy()
    masks.apply_masks(expected_header, expected, keys)
    y = expected_header.tobytes() + expected.tobytes()
    for body in (words, Update(values, **settings)):
        masked, digest = _mask(Vector(header, body), keys, ring_bits, threads)
        assert masked == y
        assert masked.readonly
        assert digest == hashlib.sha256(y).digest()
    assert header.tolist() == [1, 5]


# --- whole rounds of long vectors -----------------------------------------------------------------------------------------


def begin(rig: Any, epoch: Epoch, site: str, number: int = 1) -> Any:
    request = UpdateRequest(epoch.roll.epoch_id, number, "train", epoch.routed[site]).encode()
    asked = rig.sessions[site].begin_update(request, MODEL, NOW)
    assert isinstance(asked, Asked)
    return rig.sessions[site].take(asked)


@pytest.mark.parametrize("ring_bits", RINGS)
def test_long_updates_come_back_as_their_weighted_sum(rig: Any, ring_bits: int) -> None:
    """Four threads' worth of masks, one site lost: lengths that end inside a block."""
    four, length = rig(4, 1, ring_bits=ring_bits), BLOCK_BYTES // (ring_bits // 8) + 4321
    epoch = four.epoch()
    phase = epoch.open_round(1, "train", MODEL, header_length=1, body_length=length)
    wave = np.sin(np.arange(length, dtype=np.float32))
    weights = {"site-00": 0.25, "site-01": 1.0, "site-02": 0.5}
    for threads, (site, weight) in enumerate(weights.items(), start=1):
        update = Update(wave, weight=weight, clip=1.0, n=4, entropy=os.urandom, ring_bits=ring_bits)
        taken = begin(four, epoch, site)
        phase = phase.receive(site, *four.sessions[site].finish_update(taken, np.ones(1, np.uint64), update, threads=threads))
    aggregate = four.votes(phase.close()).close(threads=2)
    assert aggregate.body.dtype == SIGNED[ring_bits]
    decoded = decode_body(aggregate.body, 1.0, 4, ring_bits=ring_bits)
    assert np.abs(decoded - 1.75 * wave.astype(np.float64)).max() <= 3 / numbers.ring_scale(4, ring_bits)
    again = recompute(four.context, aggregate.record, phase_vectors(four, phase), threads=2)
    assert again.data == aggregate.data


def phase_vectors(rig: Any, phase: UploadPhase) -> dict[str, memoryview]:
    """The y that each site keeps for a repeated request."""
    return {site: rig.sessions[site]._round.sent.y for site in phase.uploads}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_far_inside_an_update_sends_nothing_and_the_round_stays_taken(rig: Any, bad: float, threads: int) -> None:
    four, length = rig(4, 1), 2 * BLOCK_BYTES // 4 + 11
    epoch, me = four.epoch(), four.sessions["site-02"]
    taken, values = begin(four, epoch, "site-02"), np.zeros(length, np.float32)
    values[length - 100] = bad
    running = set(threading.enumerate())
    update = Update(values, weight=1.0, clip=1.0, n=4, entropy=os.urandom)
    assert refusal(lambda: me.finish_update(taken, np.ones(1, np.uint64), update, threads=threads)) == "RANGE"
    assert set(threading.enumerate()) <= running
    assert me.last_round == 1
    assert refusal(lambda: begin(four, epoch, "site-02")) == "ROUND"
    begin(four, epoch, "site-02", 2)


# --- what is not encoded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("place", [0, CHUNK_VALUES - 1, CHUNK_VALUES, 2 * CHUNK_VALUES + 1])
def test_a_body_that_is_not_a_number_is_refused(place: int, kind: Any, bad: float) -> None:
    values = np.zeros(2 * CHUNK_VALUES + 2, kind)
    values[place] = bad
    assert refusal(lambda: words_of(values)) == "RANGE"


@pytest.mark.parametrize(
    ("weight", "clip"), [(0.0, 1.0), (-0.5, 1.0), (1.5, 1.0), (np.nan, 1.0), (0.5, 0.0), (0.5, -1.0), (0.5, np.inf), (0.5, np.nan)]
)
def test_a_plan_without_usable_weight_or_clip_is_refused(weight: float, clip: float) -> None:
    assert refusal(lambda: words_of(np.zeros(1), weight=weight, clip=clip)) == "RANGE"


def test_words_of_another_ring_are_refused(rig: Any) -> None:
    """The plan says 16 bits: words and updates of 32 are not sent, and the permission is still good."""
    four = rig(4, 1, ring_bits=16)
    taken, me = begin(four, four.epoch(), "site-02"), four.sessions["site-02"]
    header = np.ones(1, np.uint64)
    wide = Update(np.zeros(3), weight=1.0, clip=1.0, n=4, entropy=os.urandom)
    for body in (np.zeros(3, np.uint32), np.zeros(3, np.int16), wide):
        assert refusal(lambda body=body: me.finish_update(taken, header, body)) == "ENCODING"
    assert refusal(lambda: me.finish_update(taken, header.astype(float), np.zeros(3, np.uint16))) == "ENCODING"
    assert len(me.finish_update(taken, header, np.zeros(3, np.uint16))[1]) == 8 + 6


@given(
    sites=st.lists(st.lists(st.integers(-(2**26), 2**26), min_size=5, max_size=5), min_size=1, max_size=16),
    header=st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=2),
)
def test_whole_steps_of_any_subset_of_sites_come_back_exactly(sites: list[list[int]], header: list[int]) -> None:
    """No weight, no dither, no rounding: the ring's sum is the integer sum, in body and header."""
    n = 16
    body, head = np.zeros(5, np.uint32), np.zeros(3, np.uint64)
    for steps in sites:
        words = np.empty(5, np.uint32)
        WholeSteps(np.array(steps), n=n).write(0, words)
        body += words
        head += encode_header_steps(np.array(header), n)
    assert (decode_steps(body.view(np.int32), 1.0) == np.sum(sites, axis=0)).all()
    count, sums = decode_header_steps(head.view(np.int64), np.array([1.0, 0.5]))
    assert count == len(sites)
    assert (sums == np.array(header) * len(sites) * np.array([1.0, 0.5])).all()


def test_whole_steps_are_written_in_blocks_of_any_size() -> None:
    steps = np.arange(-50, 50)
    whole, blocks = np.empty(100, np.uint16), np.empty(100, np.uint16)
    encoded = WholeSteps(steps, n=3, ring_bits=16)
    encoded.write(0, whole)
    for at in (0, 7, 64):
        end = {0: 7, 7: 64, 64: 100}[at]
        encoded.write(at, blocks[at:end])
    assert (whole == blocks).all()
    assert (whole.view(np.int16) == steps).all()
