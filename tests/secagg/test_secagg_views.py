"""One sum per round, over more than half of the honest sites, whatever view each site is shown; and where that ends, shown.

split_views, double_vote, withheld_upload, memory_clone and header_difference of the specification's table of attacks.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import derive, field, masks, shamir
from secagg.coordinator import UploadPhase, VotePhase
from secagg.dealing import Standing, _answer, value_index
from secagg.encoding import decode_header, encode_header
from secagg.errors import SecaggError
from secagg.masks import BODY_SECTION, HEADER_SECTION, MaskKeys
from secagg.messages import Ballot, Upload, VoteRequest
from secagg.model import model_digest
from secagg.opening import Finding, _open_boxes, open_view
from secagg.site import Asked, SiteSession

NOW = 1_000_000.0
MODEL = model_digest(b"model")


def clone_of(rig: Any, site: str) -> SiteSession:
    """A resumed snapshot of a site's memory: it knows what the site knew, and not what the site did since."""
    original, session = rig.sessions[site], SiteSession(rig.context, site, rig.keys[site], 0, rig.sessions[site]._entropy)
    session._epoch, session._round, session._last_round = original._epoch, original._round, original._last_round
    return session


def views_of(rig: Any, phase: UploadPhase) -> dict[tuple[str, ...], VotePhase]:
    """Every view that a site would vote for."""
    sites, t = rig.sites, phase.epoch.threshold
    chosen = [view for size in range(t, len(sites) + 1) for view in itertools.combinations(sites, size)]
    return {view: rig.view(phase, view) for view in chosen}


def ballots_of(rig: Any, voting: VotePhase) -> dict[str, bytes]:
    """What each site would answer to this view; the sites themselves stay unvoted, so that other answers can be looked at."""
    return {site: clone_of(rig, site).vote(request, NOW) for site, request in voting.requests().items()}


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What comes back, be it a refusal; anything else fails the test."""
    try:
        return call(*arguments)
    except SecaggError as refusal:
        return refusal


def opened(voting: VotePhase, ballots: Mapping[str, bytes], voters: Iterable[str]) -> tuple[int, int] | None:
    """(number of sites, number) in the sum that these voters open, or None."""
    aggregate = attempt(replace(voting, ballots={site: ballots[site] for site in voters}).close)
    if isinstance(aggregate, SecaggError):
        assert aggregate.code == "NOT_OPENABLE"
        return None
    count, values = decode_header(aggregate.header)
    return count, int(values[0])


def subsets(sites: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(sites, size) for size in range(len(sites) + 1))


# --- split_views, exhaustively --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in range(3, 7) for c in range(n - 1)])
def test_no_two_views_of_a_round_open_however_the_honest_sites_are_split(rig: Any, n: int, c: int) -> None:
    """Colluders vote for every view. For each view, every set of honest voters is tried with real ballots; an assignment of
    views to honest sites opens two sums exactly if two disjoint sets open two views, and all such pairs are looked at."""
    sites = rig(n, c)
    phase = sites.uploads(sites.epoch())
    t, honest, colluders = phase.epoch.threshold, sites.sites[: n - c], sites.sites[n - c :]
    opening: dict[tuple[str, ...], list[frozenset[str]]] = {}
    for view, voting in views_of(sites, phase).items():
        ballots = ballots_of(sites, voting)
        opening[view] = []
        for voters in subsets(honest):
            found = opened(voting, ballots, (*voters, *colluders))
            assert (found is not None) == (len(voters) >= t - c)
            if found is not None:
                assert found == (len(view), sites.expected(view))
                opening[view].append(frozenset(voters))
    assert all(len(set(view) & set(honest)) >= t - c > (n - c) // 2 for view in opening)
    for one, other in itertools.combinations(opening, 2):
        assert not [1 for left in opening[one] for right in opening[other] if not left & right]


@pytest.mark.parametrize(("n", "c"), [(4, 1), (5, 1), (6, 2)])
def test_one_honest_ballot_too_few_leaves_every_honest_ballot_shut(rig: Any, n: int, c: int) -> None:
    """Below the count that `close` looks at: t-c-1 honest votes and c colluding ones give each honest ballot t-2 parts of kappa."""
    sites = rig(n, c)
    voting = sites.uploads(sites.epoch()).close()
    t, ballots = voting.epoch.threshold, ballots_of(sites, voting)
    for voters in itertools.combinations(sites.sites[: n - c], t - c - 1):
        cast = {site: Ballot.decode(ballots[site]) for site in (*voters, *sites.sites[n - c :])}
        findings: list[Finding] = []
        assert [len(_open_boxes(voting.view, site, cast, findings)) for site in voters] == [t - 2] * len(voters)
        assert findings == []


# --- why a ballot is sealed ------------------------------------------------------------------------------------------------


class Ten:
    """Ten sites, the last three collude, t = 7: each honest site is shown another view, that leaves out other honest sites."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig(10, 3)
        self.honest, self.colluders = self.rig.sites[:7], self.rig.sites[7:]
        self.victims, self.rest = self.honest[:2], self.honest[2:]
        self.phase = self.rig.uploads(self.rig.epoch())
        left_out = defaultdict(set)
        for place in range(4 * len(self.rest)):  # each of the five others is outside the views of four honest sites, t - c
            left_out[self.honest[place % 7]].add(self.rest[place // 4])
        assert max(map(len, left_out.values())) == 3  # as many as a view may leave out
        views = {site: [other for other in self.rig.sites if other not in left_out[site]] for site in self.honest}
        self.views = {site: self.rig.view(self.phase, view) for site, view in views.items()}

    def plain_answer(self, voter: str) -> dict[tuple[str, int], int]:
        """What the voter's ballot for its view holds, as if it were not sealed: (dealer, index) -> share."""
        voting, session = self.views[voter], self.rig.sessions[voter]
        request = VoteRequest.decode(voting.requests()[voter])
        standing = Standing(self.phase.delta, voting.view_id, session._round.own_shares)
        roll, shares = voting.epoch.roll, {}
        for one, answer in zip(request.survivors, _answer(session._me, session._epoch, request, standing), strict=True):
            indices = [0, *(value_index(roll, one.site, peer) for peer in voting.view.outside)]
            row = field.decode_row(answer, len(indices))
            assert row is not None
            shares.update({(one.site, index): share for index, share in zip(indices, row, strict=True)})
        return shares

    def colluders_shares(self, colluder: str) -> dict[tuple[str, int], int]:
        """All that the honest sites dealt to it."""
        roll, pairs, shares = self.phase.epoch.roll, self.rig.sessions[colluder]._epoch.pairs, {}
        for dealer in self.honest:
            upload = Upload.decode(self.phase.uploads[dealer])
            sealed = upload.sealed_shares[roll.others(dealer).index(colluder)]
            key = derive.share_key(pairs[dealer], self.phase.delta, dealer, colluder)
            opened_row = derive.unseal(key, derive.share_aad(self.phase.delta, dealer, colluder, upload.masked), sealed)
            assert opened_row is not None
            row = field.decode_row(opened_row, roll.n)
            assert row is not None
            shares.update({(dealer, index): share for index, share in enumerate(row)})
        return shares


@pytest.fixture
def ten(rig: Any) -> Ten:
    return Ten(rig)


def test_plain_shares_in_the_vote_would_open_a_sum_of_two_honest_sites(ten: Ten) -> None:
    """Why kappa exists. Every honest site answers once, for a view of at least t; together the answers open two sites alone."""
    roll, delta = ten.phase.epoch.roll, ten.phase.delta
    shares: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    for voter in ten.honest:
        for value, share in ten.plain_answer(voter).items():
            shares[value][roll.point(voter)] = share
    for colluder in ten.colluders:
        for value, share in ten.colluders_shares(colluder).items():
            shares[value][roll.point(colluder)] = share

    def recovered(dealer: str, index: int) -> int:
        given = shares[dealer, index]
        value = shamir.interpolate(given, tuple(sorted(given)[: roll.threshold]))
        assert derive.commitment(delta, dealer, index, value) == Upload.decode(ten.phase.uploads[dealer]).commitments[index]
        return value

    header = np.zeros(2, np.uint64)
    for victim in ten.victims:
        header += np.frombuffer(ten.rig.sent[delta, victim][1][:16], "<u8")
        known = {peer: derive.pair_mask(ten.rig.sessions[peer]._epoch.pairs[victim], delta) for peer in ten.colluders}
        known |= {peer: recovered(victim, value_index(roll, victim, peer)) for peer in ten.rest}
        added = [recovered(victim, 0), *(mask for peer, mask in known.items() if peer > victim)]
        taken_off = [mask for peer, mask in known.items() if peer < victim]
        masks.mask_section(header, HEADER_SECTION, MaskKeys.of(delta, added=taken_off, removed=added))
    count, values = decode_header(header.view(np.int64))
    assert (count, int(values[0])) == (2, ten.rig.expected(ten.victims))


def test_sealed_ballots_for_these_views_stay_shut(ten: Ten) -> None:
    """The same views with the real ballots: each has one honest vote and three colluding ones, and needs seven."""
    for voter, voting in ten.views.items():
        cast = {voter: ten.rig.sessions[voter].vote(voting.requests()[voter], NOW)}
        cast |= {site: clone_of(ten.rig, site).vote(voting.requests()[site], NOW) for site in ten.colluders}
        assert opened(voting, cast, cast) is None
        ballots = {site: Ballot.decode(ballot) for site, ballot in cast.items()}
        assert len(_open_boxes(voting.view, voter, ballots, [])) == 3 < voting.epoch.threshold - 1


# --- withheld_upload --------------------------------------------------------------------------------------------------------


def chi_square(data: bytes) -> float:
    """Of the 256 byte values; 255 expected, standard deviation 22.6."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("word", [0, 1, 2**31])
def test_an_upload_that_comes_after_the_view_is_uniform_though_its_pair_masks_are_public(rig: Any, word: int) -> None:
    four, length = rig(4, 1), 2**18
    phase = four.epoch().open_round(1, "train", MODEL, header_length=1, body_length=length)
    sent = {}
    for site, request in phase.requests().items():
        session = four.sessions[site]
        asked = session.begin_update(request, MODEL, NOW)
        assert isinstance(asked, Asked)
        body = np.full(length, word if site == "site-02" else 0, np.uint32)
        sent[site] = session.finish_update(session.take(asked), np.ones(1, np.uint64), body)
    for site in ("site-00", "site-01", "site-03"):
        phase = phase.receive(site, *sent[site])
    voting = four.votes(phase.close())
    voting.close()
    ballots = {site: Ballot.decode(data) for site, data in voting.ballots.items()}
    public = {site: mask for (site, other), mask in open_view(voting.view, ballots).pair_masks.items() if other == "site-02"}
    assert set(public) == {"site-00", "site-01", "site-03"}
    late = np.frombuffer(sent["site-02"][1], "<u4", offset=8).copy()
    without_pairs = MaskKeys.of(phase.delta, added=[public["site-00"], public["site-01"]], removed=[public["site-03"]])
    masks.mask_section(late, BODY_SECTION, without_pairs)
    assert abs(chi_square(late.tobytes()) - 255) < 10 * 22.6
    assert len(np.unique(late)) > 0.9999 * length
    assert chi_square((late - stream_of(four, phase, length)).tobytes()) > 1e6  # only b covers it: without b it is the word


def stream_of(rig: Any, phase: UploadPhase, length: int) -> NDArray[Any]:
    """The self mask of site-02, from the shares that all four hold; t of them do not come together for a site outside the view."""
    roll, upload = phase.epoch.roll, rig.sessions["site-02"]._round
    control = Upload.decode(upload.sent.control)
    shares = {}
    for voter, sealed in zip(roll.others("site-02"), control.sealed_shares, strict=True):
        key = derive.share_key(rig.sessions[voter]._epoch.pairs["site-02"], phase.delta, "site-02", voter)
        row = derive.unseal(key, derive.share_aad(phase.delta, "site-02", voter, control.masked), sealed)
        assert row is not None
        shares[roll.point(voter)] = int.from_bytes(row[:32], "big")
    value = shamir.interpolate(shares, tuple(sorted(shares)))
    return np.frombuffer(masks.keystream(masks.mask_key(value, phase.delta), BODY_SECTION, 4 * length), "<u4")


# --- memory_clone: the limit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clones", "sums"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_clones_of_memory_count_as_colluders(rig: Any, clones: int, sums: int) -> None:
    """Seven sites, c = 2, t = 5. Up to two clones vote for both views and one opens; a third makes it two: the limit, shown."""
    seven = rig(7, 2)
    phase = seven.uploads(seven.epoch())
    first, second = seven.view(phase, seven.sites[:5]), seven.view(phase, seven.sites[2:])
    cloned, others = seven.sites[:clones], seven.sites[clones:]
    for_first = others[: 5 - clones]
    resumed = {site: clone_of(seven, site) for site in cloned}
    found = []
    for voting, sessions in (
        (first, {site: seven.sessions[site] for site in (*cloned, *for_first)}),
        (second, {**resumed, **{site: seven.sessions[site] for site in others if site not in for_first}}),
    ):
        cast = {site: session.vote(voting.requests()[site], NOW) for site, session in sessions.items()}
        found.append(opened(voting, cast, cast))
    assert sum(one is not None for one in found) == sums
    assert found[0] == (5, seven.expected(seven.sites[:5]))
    assert sums == 1 or found[1] == (5, seven.expected(seven.sites[2:]))


# --- header_difference: the limit -------------------------------------------------------------------------------------------

PATIENTS = {"site-00": 120, "site-01": 80, "site-02": 41, "site-03": 300, "site-04": 17}
DRAWN_ONCE = {"site-00": 3.25, "site-01": -9.5, "site-02": 6.75, "site-03": 0.5, "site-04": -2.0}


def counted(rig: Any, numbers_of: Mapping[str, float], round_number: int, lost: Sequence[str] = ()) -> float:
    """The sum over the counts in the headers of one round."""
    epoch = rig.epoch(round_number)
    phase = epoch.open_round(round_number, "train", MODEL, header_length=2, body_length=0)
    for site, request in phase.requests().items():
        if site not in lost:
            session = rig.sessions[site]
            asked = session.begin_update(request, MODEL, NOW)
            assert isinstance(asked, Asked)
            header = encode_header(np.array([numbers_of[site]]), len(asked.sites))
            phase = phase.receive(site, *session.finish_update(session.take(asked), header, np.zeros(0, np.uint32)))
    return float(decode_header(rig.votes(phase.close()).close().header)[1][0])


def test_exact_counts_over_two_sets_give_a_sites_count_away(rig: Any) -> None:
    five = rig(5, 1)
    difference = counted(five, PATIENTS, 1) - counted(five, PATIENTS, 2, lost=["site-02"])
    assert difference == PATIENTS["site-02"] == 41


def test_with_noise_drawn_once_every_difference_is_the_same_noised_count(rig: Any) -> None:
    """Over five differences, whose mean would bring the count out if the noise were fresh in each."""
    five = rig(5, 1)
    noised = {site: count + DRAWN_ONCE[site] for site, count in PATIENTS.items()}
    whole = [counted(five, noised, number) for number in range(1, 6)]
    without = [counted(five, noised, number, lost=["site-02"]) for number in range(6, 11)]
    assert {one - other for one, other in zip(whole, without, strict=True)} == {41 + 6.75}
