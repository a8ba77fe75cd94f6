"""Numbers, shares, masks, encodings: each small enough to check by hand."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import derive, encoding, field, numbers, shamir
from secagg.errors import CODES, SecaggError
from secagg.model import model_digest
from secagg.opening import FINDINGS, Finding, subsets

SITES = st.integers(3, 30)


@pytest.mark.parametrize(
    ("n", "c", "t", "d", "honest"),
    [(3, 1, 3, 0, 2), (4, 1, 3, 1, 2), (5, 1, 4, 1, 3), (6, 2, 5, 1, 3), (7, 2, 5, 2, 3), (8, 2, 6, 2, 4), (10, 3, 7, 3, 4),
     (12, 4, 9, 3, 5), (15, 5, 11, 4, 6), (20, 6, 14, 6, 8), (25, 8, 17, 8, 9), (30, 10, 21, 9, 11)],
)  # fmt: skip
def test_thresholds_are_the_table_of_the_specification(n: int, c: int, t: int, d: int, honest: int) -> None:
    assert (numbers.threshold(n, c), numbers.tolerated(n, c), numbers.honest_in_sum(n, c)) == (t, d, honest)


@given(SITES, st.data())
def test_two_sets_of_t_sites_share_an_honest_one(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n - 2))
    t = numbers.threshold(n, c)
    assert 2 * t > n + c
    assert c + 2 <= t <= n
    assert 2 * numbers.honest_in_sum(n, c) > n - c


@pytest.mark.parametrize(("n", "scale"), [(3, 2**29), (4, 2**28), (7, 2**28), (8, 2**27), (15, 2**27), (16, 2**26), (31, 2**26)])
def test_the_ring_never_wraps_for_any_subset(n: int, scale: int) -> None:
    assert numbers.ring_scale(n) == scale
    assert n * scale < 2**31


@pytest.mark.parametrize(("n", "ring_bits"), [(0, 32), (-1, 32), (2**16, 32), (0, 16), (256, 16), (3, 8), (3, 64)])
def test_there_is_no_scale_for_no_sites_too_many_or_another_ring(n: int, ring_bits: int) -> None:
    with pytest.raises(SecaggError) as refused:
        numbers.ring_scale(n, ring_bits)
    assert refused.value.code == "RANGE"


def test_the_smallest_epoch_is_the_strictest_of_three_rules() -> None:
    assert numbers.smallest_epoch(0, 1) == 3
    assert numbers.smallest_epoch(4, 3) == 6
    assert numbers.smallest_epoch(1, 5) == 5


@pytest.mark.parametrize(("n", "c", "cohort", "said"), [
    (3, 1, 3, ["no dropout", "two honest"]), (3, 0, 3, ["no colluding", "two honest"]), (4, 1, 4, ["two honest"]), (10, 3, 10, []),
    (4, 1, 3, ["with 3 of the 4", "no dropout", "two honest"]),
    (10, 3, 3, ["with 5 of the 10", "no dropout", "two honest"]),  # c + 2: what the roster's cohort does not rule out
])  # fmt: skip
def test_the_limits_of_a_run_are_those_of_its_weakest_epoch(n: int, c: int, cohort: int, said: list[str]) -> None:
    limits = numbers.limits(n, c, cohort)
    assert len(limits) == len(said)
    assert all(words in sentence for words, sentence in zip(said, limits, strict=True))


def test_the_weakest_epoch_has_the_fewest_honest_sites_in_its_sums() -> None:
    assert [numbers.weakest_epoch(n, c, cohort) for n, c, cohort in ((10, 3, 3), (10, 3, 8), (30, 10, 3), (3, 1, 3))] == [
        5,
        8,
        12,
        3,
    ]
    assert numbers.honest_in_sum(5, 3) == 2


def test_every_finding_is_a_sentence_about_its_sites() -> None:
    for what in FINDINGS:
        sites = ("a-site",) if what == "ballot" else ("a-site", "b-site")
        sentence = Finding(what, sites).sentence
        assert all(site in sentence for site in sites)


def test_an_error_names_its_code_and_sites() -> None:
    error = SecaggError("TOO_FEW", "2 sites", ("a",))
    assert error.code in CODES
    assert (str(error), error.sites) == ("TOO_FEW: 2 sites", ("a",))


@given(st.integers(0, field.PRIME - 1), SITES, st.data())
@settings(max_examples=30)
def test_any_t_shares_give_the_secret_back(secret: int, n: int, data: st.DataObject) -> None:
    t = data.draw(st.integers(1, n))
    points = tuple(range(1, n + 1))
    shares = dict(zip(points, shamir.share(secret, t, points, os.urandom), strict=True))
    chosen = tuple(sorted(data.draw(st.permutations(points))[:t]))
    assert shamir.interpolate(shares, chosen) == secret
    assert shamir.interpolate(shares, chosen, at=n) == shares[n]


def test_one_share_less_than_t_fits_every_secret() -> None:
    shares = dict(enumerate(shamir.share(42, 3, (1, 2), os.urandom), start=1))
    for other in (0, 7):  # a polynomial of degree 2 through both shares and any value at 0 exists
        third = shamir.interpolate({0: other, **shares}, (0, 1, 2), at=3)
        assert shamir.interpolate({**shares, 3: third}, (1, 2, 3)) == other


def test_the_same_secret_is_dealt_by_a_fresh_polynomial() -> None:
    assert shamir.share(42, 2, (1, 2), os.urandom) != shamir.share(42, 2, (1, 2), os.urandom)


@pytest.mark.parametrize(("n", "size"), [(1, 1), (4, 2), (6, 3), (7, 7)])
def test_subsets_come_once_each(n: int, size: int) -> None:
    found = list(subsets(tuple(range(n)), size))
    assert len(found) == len(set(found))
    assert set(found) == set(itertools.combinations(range(n), size))


def test_one_liar_among_thirty_is_passed_within_t_plus_one_tries() -> None:
    tries = itertools.takewhile(lambda subset: 1 in subset, subsets(tuple(range(1, 31)), 21))
    assert len(list(tries)) <= 22


def test_sealed_bytes_open_only_under_their_key_and_purpose() -> None:
    sealed = derive.seal(b"k" * 32, b"aad", b"message", os.urandom)
    assert derive.unseal(b"k" * 32, b"aad", sealed) == b"message"
    assert derive.unseal(b"x" * 32, b"aad", sealed) is None
    assert derive.unseal(b"k" * 32, b"other", sealed) is None
    assert derive.unseal(b"k" * 32, b"aad", sealed[:-1]) is None
    assert derive.unseal(b"k" * 32, b"aad", sealed[:20]) is None


def test_a_header_counts_its_site_and_keeps_its_values() -> None:
    words = encoding.encode_header(np.array([1.5, -2.0]), 4)
    assert words.dtype == np.uint64
    count, values = encoding.decode_header((words + words).view(np.int64))
    assert count == 2
    assert values.tolist() == [3.0, -4.0]


@pytest.mark.parametrize("value", [2.0**29, -(2.0**29), np.nan, np.inf])
def test_a_header_value_that_could_wrap_is_refused(value: float) -> None:
    with pytest.raises(SecaggError) as refused:
        encoding.encode_header(np.array([value]), 4)
    assert refused.value.code == "RANGE"
    assert encoding.encode_header(np.array([2.0**29 - 1]), 4)[1] > 0


def test_a_model_is_named_by_its_bytes_not_by_its_chunks() -> None:
    assert model_digest(b"abcd") == model_digest([b"ab", b"", b"cd"]) == model_digest(memoryview(b"abcd"))
    assert model_digest(b"abcd") != model_digest(b"abcde")
