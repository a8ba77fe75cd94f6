"""A masked vector is the same bytes however it is cut into chunks and threads, and every mask comes off again."""

import hashlib
import os
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import masks
from secagg.errors import SecaggError
from secagg.masks import BLOCK_BYTES, BODY_SECTION, CHUNK_BYTES, HEADER_SECTION, MaskKeys, mask_section

DELTA = b"d" * 32
WORDS = {16: np.uint16, 32: np.uint32}
BORDERS = sorted({
    border + step
    for border in (0, CHUNK_BYTES // 4, BLOCK_BYTES // 4, BLOCK_BYTES // 4 + CHUNK_BYTES // 4, 2 * BLOCK_BYTES // 4)
    for step in (-1, 0, 1)
    if border + step >= 0
})  # fmt: skip


def keys_of(added: int, removed: int) -> MaskKeys:
    return MaskKeys.of(DELTA, added=range(1, added + 1), removed=range(100, 100 + removed))


def reference(words: NDArray[Any], section: int, keys: MaskKeys) -> NDArray[Any]:
    """The specification's sentence: add and take off each key's CTR stream, as little-endian words."""
    total = words.copy()
    for key in keys.added:
        total += np.frombuffer(masks.keystream(key, section, words.nbytes), words.dtype)
    for key in keys.removed:
        total -= np.frombuffer(masks.keystream(key, section, words.nbytes), words.dtype)
    return total


def counted(length: int, word: Any) -> NDArray[Any]:
    return (np.arange(length, dtype=np.uint64) * np.uint64(2654435761)).astype(word)


@pytest.mark.parametrize("section", [HEADER_SECTION, BODY_SECTION, 7])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096, 100_001])
def test_the_stream_of_gcm_is_the_stream_of_ctr(section: int, size: int) -> None:
    fast = masks.stream(b"k" * 32, section).update(bytes(size))
    assert fast == masks.keystream(b"k" * 32, section, size)


def test_a_stream_taken_in_pieces_is_the_whole_stream() -> None:
    whole, pieces = masks.keystream(b"k" * 32, 1, 1000), masks.stream(b"k" * 32, 1)
    assert b"".join(pieces.update(bytes(size)) for size in (16, 1, 15, 500, 468)) == whole
    assert masks.keystream(b"k" * 32, 1, 680, first_block=20) == whole[320:]


@pytest.mark.parametrize("length", BORDERS)
@pytest.mark.parametrize("word", [np.uint32, np.uint64])
def test_threads_and_borders_do_not_change_a_byte(length: int, word: Any) -> None:
    words, keys = counted(length, word), keys_of(3, 2)
    expected = reference(words, BODY_SECTION, keys)
    for threads in (1, 2, 3):
        masked = words.copy()
        mask_section(masked, BODY_SECTION, keys, threads=threads)
        assert np.array_equal(masked, expected), threads


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize(("added", "removed"), [(1, 0), (0, 1), (2, 0), (1, 1), (4, 3)])
def test_any_number_of_threads_shares_out_any_number_of_masks(added: int, removed: int, threads: int) -> None:
    words, keys = counted(BLOCK_BYTES // 2 + 3, np.uint16), keys_of(added, removed)
    expected = reference(words, BODY_SECTION, keys)
    mask_section(words, BODY_SECTION, keys, threads=threads)
    assert np.array_equal(words, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_masks_leave_a_vector_as_it_is(threads: int) -> None:
    words = counted(BLOCK_BYTES // 4 + 1, np.uint32)
    expected = words.copy()
    mask_section(words, BODY_SECTION, MaskKeys(()), threads=threads)
    assert np.array_equal(words, expected)


@pytest.mark.parametrize("parts", [[5], [2, 3], [1, 1, 1, 1, 1], [3, 1, 1], [0, 5]])
def test_parts_of_the_keys_are_the_keys(parts: list[int]) -> None:
    keys = keys_of(3, 2)
    split = list(keys.split(parts))
    assert [len(part) for part in split] == parts
    assert tuple(key for part in split for key in part.added) == keys.added
    assert tuple(key for part in split for key in part.removed) == keys.removed


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_before_writes_and_after_reads_every_block_once_in_order(threads: int) -> None:
    length = 2 * BLOCK_BYTES // 4 + 5
    source, keys = counted(length, np.uint32), keys_of(3, 2)
    words, written, digest = np.zeros(length, np.uint32), [], hashlib.sha256()

    def before(at: int, block: NDArray[Any]) -> None:
        written.append((at, len(block)))
        block[:] = source[at : at + len(block)]

    mask_section(words, BODY_SECTION, keys, before=before, after=lambda _, block: digest.update(block.data), threads=threads)
    assert written == [(0, BLOCK_BYTES // 4), (BLOCK_BYTES // 4, BLOCK_BYTES // 4), (2 * BLOCK_BYTES // 4, 5)]
    assert np.array_equal(words, reference(source, BODY_SECTION, keys))
    assert digest.digest() == hashlib.sha256(words.tobytes()).digest()


@pytest.mark.parametrize("step", ["before", "after"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_error_in_a_step_comes_out_and_leaves_no_thread(threads: int, step: str) -> None:
    def fail(at: int, _: NDArray[Any]) -> None:
        if at:
            raise SecaggError("RANGE", "not a number")

    before = set(threading.enumerate())
    words = np.zeros(3 * BLOCK_BYTES // 4, np.uint32)
    with pytest.raises(SecaggError, match="not a number"):
        mask_section(words, BODY_SECTION, keys_of(2, 2), **{step: fail}, threads=threads)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("ring_bits", [16, 32])
@pytest.mark.parametrize("length", [0, 1, 15, CHUNK_BYTES // 4 - 1, CHUNK_BYTES // 4, CHUNK_BYTES // 2 + 1])
def test_masks_of_a_pair_cancel(length: int, ring_bits: int) -> None:
    header, body = np.arange(3, dtype=np.uint64), np.arange(length).astype(WORDS[ring_bits])
    unmasked = body.copy()
    masks.apply_masks(header, body, MaskKeys.of(DELTA, added=[7, 8]))
    assert header.tolist() != [0, 1, 2]
    assert length < 2 or not np.array_equal(body, unmasked)
    masks.apply_masks(header, body, MaskKeys.of(DELTA, removed=[8, 7]), threads=2)
    assert header.tolist() == [0, 1, 2]
    assert np.array_equal(body, unmasked)


@pytest.mark.parametrize("ring_bits", [16, 32])
def test_a_mask_is_its_keystream_over_all_chunks(ring_bits: int) -> None:
    header, body = np.zeros(2, np.uint64), np.zeros(2 * CHUNK_BYTES // 2 + 5, WORDS[ring_bits])
    masks.apply_masks(header, body, MaskKeys.of(DELTA, added=[7]))
    key = masks.mask_key(7, DELTA)
    assert body.tobytes() == masks.keystream(key, BODY_SECTION, body.nbytes)
    assert header.tobytes() == masks.keystream(key, HEADER_SECTION, 16)


def test_rounds_values_and_sections_have_unrelated_masks() -> None:
    streams = {
        masks.keystream(masks.mask_key(value, delta), section, 64)
        for value in (7, 8)
        for delta in (DELTA, b"e" * 32)
        for section in (HEADER_SECTION, BODY_SECTION)
    }
    assert len(streams) == 8


def test_a_section_that_would_repeat_its_counter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MAX_SECTION_BYTES", 8)
    with pytest.raises(SecaggError) as refused:
        masks.apply_masks(np.zeros(1, np.uint64), np.zeros(3, np.uint32), MaskKeys.of(DELTA, added=[1]))
    assert refused.value.code == "RANGE"


@pytest.mark.parametrize("ring_bits", [0, 8, 24, 33, 64])
def test_there_are_two_rings(ring_bits: int) -> None:
    with pytest.raises(SecaggError) as refused:
        masks.body_type(ring_bits)
    assert refused.value.code == "RANGE"


def test_mask_keys_do_not_show() -> None:
    secret = os.urandom(32)
    assert repr(secret)[2:-1] not in repr(MaskKeys((secret,), (secret,)))
