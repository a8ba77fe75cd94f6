"""Whole rounds: the sum over the survivors is exact or nothing opens, whoever is lost or lies. Site i submits 2^i."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consortium.canonical import pack, unpack
from secagg import derive, field, numbers, shamir
from secagg.aggregate import Total
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch
from secagg.dealing import Standing, cast_ballot
from secagg.encoding import decode_body, decode_header, encode_body, encode_header
from secagg.errors import SecaggError
from secagg.messages import Ballot, Kem, Keys, Upload, VoteRequest, sign
from secagg.model import model_digest
from secagg.opening import Finding, open_view

NOW = 1_000_000.0
MODEL = model_digest(b"model")


def code_of(call: Callable[[], object], *sites: str) -> str:
    with pytest.raises(SecaggError) as refused:
        call()
    if sites:
        assert refused.value.sites == sites
    return refused.value.code


def opened(rig: Any, voting: VotePhase) -> int:
    """The number in the sum; header and body must agree on it."""
    aggregate = voting.close()
    count, values = decode_header(aggregate.header)
    assert count == len(aggregate.survivors)
    assert rig.number_in(aggregate.body) == int(values[0])
    assert int(values[0]) == rig.expected(aggregate.survivors)
    return int(values[0])


# --- losses ---------------------------------------------------------------------------------------------------------


@given(st.integers(3, 10), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sum_is_exact_over_the_survivors_or_nothing_opens(rig: Any, n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n - 2), label="c")
    sites = rig(n, c)
    d = numbers.tolerated(n, c)
    epoch = sites.epoch()
    for round_number in (1, 2):
        before = data.draw(st.lists(st.sampled_from(sites.sites), unique=True, max_size=d + 1), label="before upload")
        after = data.draw(st.lists(st.sampled_from(sites.sites), unique=True, max_size=d + 1), label="before vote")
        uploading = sites.uploads(epoch, round_number, lost=before)
        if len(before) > d:
            assert code_of(uploading.close) == "TOO_FEW"
            continue
        voting = sites.votes(uploading.close(), lost=after)
        assert voting.openable == (len(after) <= d)
        if voting.openable:
            assert opened(sites, voting) == sites.expected(set(sites.sites) - set(before))
        else:
            assert code_of(voting.close, *sorted(after)) == "NOT_OPENABLE"


@pytest.mark.parametrize(("n", "c"), [(4, 1), (7, 2), (12, 4)])
def test_d_sites_lost_before_the_upload_and_d_before_the_vote_stop_nothing(rig: Any, n: int, c: int) -> None:
    sites = rig(n, c)
    d = numbers.tolerated(n, c)
    voting = sites.uploads(sites.epoch(), lost=sites.sites[:d]).close()
    assert opened(sites, sites.votes(voting, lost=sites.sites[-d:])) == sites.expected(sites.sites[d:])


def test_a_round_with_nobody_lost_takes_only_self_masks_off(rig: Any) -> None:
    three = rig(3, 1)
    voting = three.votes(three.uploads(three.epoch()).close())
    assert opened(three, voting) == 7
    assert open_view(voting.view, {site: Ballot.decode(data) for site, data in voting.ballots.items()}).pair_masks == {}


def test_the_next_round_number_works_after_a_round_that_did_not_open(four: Any) -> None:
    epoch = four.epoch()
    assert code_of(four.uploads(epoch, 1, lost=["site-00", "site-01"]).close, "site-00", "site-01") == "TOO_FEW"
    voting = four.votes(four.uploads(epoch, 2).close(), lost=["site-00", "site-01"])
    assert code_of(voting.close, "site-00", "site-01") == "NOT_OPENABLE"
    assert opened(four, four.votes(four.uploads(epoch, 3).close())) == 15


def test_a_site_that_restarts_between_upload_and_vote_is_gone_for_one_round(four: Any) -> None:
    voting = four.uploads(four.epoch()).close()
    four.restart("site-01", last_round=1)
    assert code_of(lambda: four.sessions["site-01"].vote(voting.requests()["site-01"], NOW)) == "EPOCH"
    assert opened(four, four.votes(voting, lost=["site-01"])) == 15
    assert opened(four, four.votes(four.uploads(four.epoch(2), 2).close())) == 15


def test_an_epoch_of_some_participants_sums_those(rig: Any) -> None:
    five = rig(5, 1)
    voting = five.votes(five.uploads(five.epoch(sites=five.sites[1:])).close())
    assert opened(five, voting) == 30


@pytest.mark.parametrize("purpose", ["train", "evaluate", "describe"])
def test_a_round_without_a_body_opens_its_header(four: Any, purpose: str) -> None:
    phase = four.epoch().open_round(1, purpose, MODEL, header_length=3, body_length=0)
    for number, (site, request) in enumerate(phase.requests().items()):
        session = four.sessions[site]
        taken = session.take(session.begin_update(request, MODEL, NOW))
        header = encode_header(np.array([0.5 * number, -1.0]), len(taken.sites))
        phase = phase.receive(site, *session.finish_update(taken, header, np.zeros(0, np.uint32)))
    aggregate = four.votes(phase.close()).close()
    count, values = decode_header(aggregate.header)
    assert (count, values.tolist(), aggregate.body.tolist()) == (4, [3.0, -4.0], [])


def test_real_updates_come_back_as_their_weighted_sum(four: Any) -> None:
    updates = {site: np.linspace(-0.5, 0.5, 20) * (1 + index) / 4 for index, site in enumerate(four.sites)}
    weights = dict(zip(four.sites, (0.1, 0.2, 0.3, 0.4), strict=True))
    phase = four.epoch().open_round(1, "train", MODEL, header_length=1, body_length=20)
    for site, request in phase.requests().items():
        session = four.sessions[site]
        taken = session.take(session.begin_update(request, MODEL, NOW))
        body = encode_body(updates[site], weight=weights[site], clip=1.0, n=len(taken.sites), entropy=os.urandom)
        phase = phase.receive(site, *session.finish_update(taken, encode_header(np.zeros(0), 4), body))
    aggregate = four.votes(phase.close()).close()
    expected = sum(weights[site] * updates[site] for site in four.sites)
    assert np.abs(decode_body(aggregate.body, 1.0, 4) - expected).max() < 4 * 2**-28


def test_the_masked_vectors_say_nothing_alone(four: Any) -> None:
    """Equal submissions of all sites give unrelated vectors, and their plain sum is still masked."""
    phase = four.uploads(four.epoch())
    assert phase.total.header[0] != 4
    assert four.votes(phase.close()).close().header[0] == 4


# --- a coordinator that is restarted, or loses messages ----------------------------------------------------------------


def test_a_restarted_coordinator_asks_for_the_same_view_and_opens_it(four: Any) -> None:
    voting = four.uploads(four.epoch(), lost=["site-03"]).close()
    stored, total = voting.encode(), bytes(voting.total.data)
    half = four.votes(voting, lost=["site-00", "site-02"])
    again = VotePhase.decode(four.context, stored, total)
    assert again.requests() == voting.requests()
    assert again.encode() == stored
    assert opened(four, four.votes(again)) == 7
    assert code_of(half.close) == "NOT_OPENABLE"


def test_a_restarted_coordinator_goes_on_in_its_epoch(four: Any) -> None:
    epoch = Epoch.decode(four.context, four.epoch().encode())
    assert opened(four, four.votes(four.uploads(epoch).close())) == 15


def test_a_stored_view_with_another_sum_length_or_uploads_is_refused(four: Any) -> None:
    voting = four.uploads(four.epoch()).close()
    stored, total = voting.encode(), bytes(voting.total.data)
    other = total[:-1] + bytes([total[-1] ^ 1])
    for wrong in (total + bytes(4), total[:-4], b"", other):
        assert code_of(lambda wrong=wrong: VotePhase.decode(four.context, stored, wrong)) == "ENCODING"
    longer = replace(voting, total=Total(2, 4, 32))
    assert code_of(lambda: VotePhase.decode(four.context, longer.encode(), longer.total.data)) == "ENCODING"
    first, *rest = voting.uploads.values()
    altered = replace(Upload.decode(first), signature=bytes(64)).encode()
    forged = replace(voting, uploads=dict(enumerate([altered, *rest])))
    assert code_of(lambda: VotePhase.decode(four.context, forged.encode(), total), "site-00") == "SIGNATURE"


def test_messages_that_come_twice_change_nothing(four: Any) -> None:
    keys = start_epoch(four.context, 1, four.sites)
    for site, request in keys.requests().items():
        message = four.sessions[site].keys(request, NOW)
        keys = keys.receive(site, message).receive(site, message)
    phase = four.uploads(four.epoch())
    request = UploadPhase(phase.epoch, phase.terms, {}, phase.total).requests()["site-00"]
    twice = phase.receive("site-00", *four.answer("site-00", request, 1.0))
    assert twice is phase
    voting = four.votes(phase.close())
    again = voting.receive("site-00", voting.ballots["site-00"])
    assert again.ballots == voting.ballots
    assert opened(four, again) == 15


def test_only_missing_sites_are_asked_again(four: Any) -> None:
    keys = start_epoch(four.context, 1, four.sites)
    keys = keys.receive("site-01", four.sessions["site-01"].keys(keys.requests()["site-01"], NOW))
    assert set(keys.requests()) == {"site-00", "site-02", "site-03"} == set(keys.missing)
    phase = four.uploads(four.epoch(2), lost=["site-01"])
    assert set(phase.requests()) == {"site-01"} == set(phase.missing)
    voting = four.votes(phase.close(), lost=["site-02"])
    assert set(voting.requests()) == {"site-02"} == set(voting.missing)


# --- what the coordinator refuses, by name -----------------------------------------------------------------------------


def test_an_epoch_starts_with_participants_only(four: Any) -> None:
    assert code_of(lambda: start_epoch(four.context, 1, ["site-00", "zzz"]), "zzz") == "STRANGER"


def test_keys_are_refused_by_name(four: Any) -> None:
    phase = start_epoch(four.context, 1, four.sites[:3])
    request = phase.requests()["site-00"]
    good = four.sessions["site-00"].keys(request, NOW)
    forged = replace(Keys.decode(good), signature=bytes(64)).encode()
    assert code_of(lambda: phase.receive("site-00", b"garbage"), "site-00") == "ENCODING"
    assert code_of(lambda: phase.receive("site-00", forged), "site-00") == "SIGNATURE"
    assert code_of(lambda: phase.receive("site-01", good), "site-01") == "STRANGER"
    assert code_of(lambda: phase.receive("site-03", good), "site-03") == "STRANGER"
    assert code_of(lambda: replace(phase, number=2).receive("site-00", good), "site-00") == "EPOCH"
    taken = phase.receive("site-00", good)
    four.restart("site-00")
    other = four.sessions["site-00"].keys(request, NOW)
    assert code_of(lambda: taken.receive("site-00", other), "site-00") == "ROUND"
    assert code_of(taken.close, "site-01", "site-02") == "TOO_FEW"


def test_an_epoch_without_one_sites_ciphertexts_is_void(four: Any) -> None:
    keys = start_epoch(four.context, 1, four.sites)
    for site, request in keys.requests().items():
        keys = keys.receive(site, four.sessions[site].keys(request, NOW))
    phase = keys.close()
    request = phase.requests()["site-01"]
    good = Kem.decode(four.sessions["site-01"].kem(request, NOW))
    first, second = good.entries
    assert code_of(lambda: phase.receive("site-01", replace(good, epoch_id=b"x" * 32).encode()), "site-01") == "EPOCH"
    assert code_of(lambda: phase.receive("site-02", good.encode()), "site-02") == "STRANGER"
    assert code_of(lambda: phase.receive("site-01", replace(good, entries=(second, first)).encode()), "site-01") == "PEERS"
    swapped = (replace(first, ciphertext=second.ciphertext), second)
    assert code_of(lambda: phase.receive("site-01", replace(good, entries=swapped).encode()), "site-01") == "SIGNATURE"
    fields = (good.epoch_id, b"site-01", b"site-02", b"short")
    short = replace(first, ciphertext=b"short", signature=sign(four.keys["site-01"], "kem", *fields))
    assert code_of(lambda: phase.receive("site-01", replace(good, entries=(short, second)).encode()), "site-01") == "ENCODING"
    assert code_of(phase.receive("site-01", good.encode()).close, "site-00", "site-02", "site-03") == "EPOCH"


def test_uploads_are_refused_by_name_and_the_round_goes_on(four: Any) -> None:
    epoch = four.epoch()
    phase = epoch.open_round(1, "train", MODEL, header_length=2, body_length=3)
    requests = phase.requests()
    control, y = four.answer("site-00", requests["site-00"], 1.0)
    upload = Upload.decode(control)

    def refused(site: str = "site-00", vector: Any = y, **changes: Any) -> str:
        return code_of(lambda: phase.receive(site, replace(upload, **changes).encode(), vector), site)

    assert refused(delta=b"x" * 32) == "ROUND"
    assert refused("site-01") == "STRANGER"
    assert refused("zzz") == "STRANGER"
    assert refused(commitments=upload.commitments[1:]) == "ENCODING"
    assert refused(sealed_shares=upload.sealed_shares[1:]) == "ENCODING"
    assert refused(commitments=upload.commitments[::-1]) == "SIGNATURE"
    assert refused(vector=y[:-4]) == "ENCODING"
    assert refused(vector=bytes(y[:-1]) + bytes([y[-1] ^ 1])) == "ENCODING"
    for site in four.sites[1:]:
        phase = phase.receive(site, *four.answer(site, requests[site], 2.0 ** four.sites.index(site)))
    assert opened(four, four.votes(phase.close())) == 14


def test_a_vector_of_another_length_is_refused_even_if_signed(four: Any) -> None:
    epoch = four.epoch()
    phase = epoch.open_round(1, "train", MODEL, header_length=2, body_length=4)
    assert code_of(lambda: phase.receive("site-00", *four.answer("site-00", phase.requests()["site-00"], 1.0))) == "ENCODING"


def test_an_upload_that_comes_after_the_survivors_were_fixed_changes_nothing(four: Any) -> None:
    phase = four.uploads(four.epoch(), lost=["site-03"])
    voting = phase.close()
    before = voting.encode()
    late = four.answer("site-03", phase.requests()["site-03"], 8.0)
    assert code_of(lambda: phase.receive("site-03", *late), "site-03") == "ROUND"
    assert voting.encode() == before
    assert opened(four, four.votes(voting)) == 7


def test_a_second_upload_of_a_round_is_refused(rig: Any, four: Any) -> None:
    phase = four.uploads(four.epoch())
    twin = rig(4, 1)
    other = twin.uploads(twin.epoch()).uploads["site-00"]
    assert code_of(lambda: phase.receive("site-00", other, b""), "site-00") in {"ROUND", "ENCODING"}


def test_ballots_are_refused_by_name(four: Any) -> None:
    epoch = four.epoch()
    voting = four.uploads(epoch, 1).close()
    good = Ballot.decode(four.sessions["site-00"].vote(voting.requests()["site-00"], NOW))

    def refused(site: str = "site-00", **changes: Any) -> str:
        return code_of(lambda: voting.receive(site, replace(good, **changes).encode()), site)

    assert refused(view=b"x" * 32) == "VOTED"
    assert refused("site-01") == "STRANGER"
    assert refused("zzz") == "STRANGER"
    assert refused(releases=good.releases[1:]) == "ENCODING"
    assert refused(boxes=good.boxes[1:]) == "ENCODING"
    assert refused(boxes=(b"", *good.boxes[1:])) == "ENCODING"
    assert refused(sealed_answer=good.sealed_answer[:-1]) == "SIGNATURE"


@pytest.mark.parametrize(("purpose", "model_hash"), [("predict", MODEL), ("train", b"short")])
def test_a_round_has_a_known_purpose_and_a_model(four: Any, purpose: str, model_hash: bytes) -> None:
    epoch = four.epoch()
    assert code_of(lambda: epoch.open_round(1, purpose, model_hash, header_length=1, body_length=0)) == "ENCODING"


# --- views that do not agree -------------------------------------------------------------------------------------------


def views_of(rig: Any, phase: UploadPhase, sets: Iterable[Iterable[str]]) -> list[VotePhase]:
    """One vote phase per set of survivors, as a lying coordinator keeps them."""
    return [rig.view(phase, chosen) for chosen in sets]


def test_split_views_open_at_most_one_sum(rig: Any) -> None:
    """Five sites, one colluder that votes for both views: neither reaches four ballots unless three honest ones agree."""
    five = rig(5, 1)
    phase = five.uploads(five.epoch())
    one, two = views_of(five, phase, [five.sites[:4], five.sites[1:]])
    for site in ("site-00", "site-01"):
        one = one.receive(site, five.sessions[site].vote(one.requests()[site], NOW))
    for site in ("site-02", "site-03"):
        two = two.receive(site, five.sessions[site].vote(two.requests()[site], NOW))
    for site, other in (("site-00", two), ("site-02", one)):
        assert code_of(lambda site=site, other=other: five.sessions[site].vote(other.requests()[site], NOW)) == "VOTED"
    assert code_of(one.close) == "NOT_OPENABLE"
    assert code_of(two.close) == "NOT_OPENABLE"


def test_ballots_below_the_threshold_stay_shut_even_to_a_colluders_keys(four: Any) -> None:
    """lone_ballot: t-c-1 honest ballots and everything a colluder holds give t-2 shares of kappa, one too few."""
    voting = four.uploads(four.epoch()).close()
    ballot = Ballot.decode(four.sessions["site-00"].vote(voting.requests()["site-00"], NOW))
    colluder = four.sessions["site-03"]._epoch.pairs["site-00"]
    release = derive.release_key(colluder, voting.view_id, "site-03", "site-00")
    others = four.sites[1:]
    own = [derive.unseal(key, derive.box_aad(voting.view_id, peer, "site-00"), box)
           for key, peer, box in zip(ballot.releases, others, ballot.boxes, strict=True)]  # fmt: skip
    assert own == [None] * 3  # reflected_release: a ballot against its own releases
    part = derive.unseal(release, derive.box_aad(voting.view_id, "site-03", "site-00"), ballot.boxes[2])
    assert part is not None
    kappa_if_one_share_were_enough = field.decode(part)
    assert kappa_if_one_share_were_enough is not None
    key = derive.answer_key(kappa_if_one_share_were_enough, voting.view_id, "site-00")
    assert derive.unseal(key, derive.answer_aad(voting.view_id, "site-00"), ballot.sealed_answer) is None


def test_a_site_that_signs_two_uploads_cannot_open_two_views(four: Any, rig: Any) -> None:
    """equivocating_site: the others were shown different digests of it; each view stays below the threshold."""
    phase = four.uploads(four.epoch())
    voting = phase.close()
    request = VoteRequest.decode(voting.requests()["site-01"])
    liar = request.survivors[0]
    signature = sign(four.keys["site-00"], "upload", phase.delta, b"site-00", b"z" * 32)
    other = replace(liar, digest=b"z" * 32, signature=signature)
    ballot = four.sessions["site-01"].vote(replace(request, survivors=(other, *request.survivors[1:])).encode(), NOW)
    assert code_of(lambda: voting.receive("site-01", ballot), "site-01") == "VOTED"
    assert opened(four, four.votes(voting, lost=["site-01"])) == 15


# --- sites that lie ----------------------------------------------------------------------------------------------------


def row_sealed(rig: Any, phase: UploadPhase, dealer: str, voter: str, change: Callable[[bytes], bytes]) -> UploadPhase:
    """`phase` where the row that `dealer` dealt to `voter` is replaced by a changed one, sealed with the right key."""
    upload = Upload.decode(phase.uploads[dealer])
    index = phase.epoch.roll.others(dealer).index(voter)
    key = derive.share_key(rig.sessions[dealer]._epoch.pairs[voter], phase.delta, dealer, voter)
    aad = derive.share_aad(phase.delta, dealer, voter, upload.masked)
    row = derive.unseal(key, aad, upload.sealed_shares[index])
    assert row is not None
    sealed = list(upload.sealed_shares)
    sealed[index] = derive.seal(key, aad, change(row), os.urandom)
    return replace(phase, uploads={**phase.uploads, dealer: replace(upload, sealed_shares=tuple(sealed)).encode()})


def off_by_one(row: bytes) -> bytes:
    return field.encode((int.from_bytes(row[:32], "big") + 1) % field.PRIME) + row[32:]


def at_random(row: bytes) -> bytes:
    return field.encode(field.random_element(os.urandom)) + row[32:]


def above_p(row: bytes) -> bytes:
    return b"\xff" * 32 + row[32:]


def too_short(row: bytes) -> bytes:
    return row[:-32]


@pytest.mark.parametrize("voter", ["site-01", "site-06"])
def test_a_wrong_share_names_dealer_and_voter_and_the_round_opens(rig: Any, voter: str) -> None:
    seven = rig(7, 2)
    phase = row_sealed(seven, seven.uploads(seven.epoch(), lost=["site-05"]), "site-00", voter, off_by_one)
    voting = seven.votes(phase.close())
    assert opened(seven, voting) == 127 - 32
    assert voting.close().findings == (Finding("share", ("site-00", voter)),)


@pytest.mark.parametrize("change", [above_p, too_short])
def test_an_unusable_row_is_left_empty_and_the_round_opens(rig: Any, change: Callable[[bytes], bytes]) -> None:
    seven = rig(7, 2)
    phase = row_sealed(seven, seven.uploads(seven.epoch()), "site-00", "site-03", change)
    voting = seven.votes(phase.close())
    assert opened(seven, voting) == 127
    assert voting.close().findings == (Finding("deal", ("site-00", "site-03")),)


def test_a_share_reflected_or_handed_to_another_is_left_empty(rig: Any) -> None:
    """reflected_share, swapped_share: site-01 gets its own deal back, and site-02 one that was meant for site-03."""
    seven = rig(7, 2)
    voting = seven.uploads(seven.epoch()).close()
    to_first = VoteRequest.decode(voting.requests()["site-01"])
    reflected = voting.view.uploads["site-01"].sealed_shares[0]
    to_second = VoteRequest.decode(voting.requests()["site-02"])
    swapped = VoteRequest.decode(voting.requests()["site-03"]).sealed_shares[0]
    for site, request, sealed in (("site-01", to_first, reflected), ("site-02", to_second, swapped)):
        altered = replace(request, sealed_shares=(sealed, *request.sealed_shares[1:]))
        voting = voting.receive(site, seven.sessions[site].vote(altered.encode(), NOW))
    voting = seven.votes(voting)
    assert opened(seven, voting) == 127
    assert set(voting.close().findings) == {Finding("deal", ("site-00", "site-01")), Finding("deal", ("site-00", "site-02"))}


def test_a_dealer_whose_shares_open_nothing_is_named(rig: Any) -> None:
    seven = rig(7, 2)
    phase = seven.uploads(seven.epoch())
    for voter in ("site-01", "site-02", "site-03"):
        phase = row_sealed(seven, phase, "site-00", voter, at_random)
    assert code_of(seven.votes(phase.close()).close, "site-00") == "NOT_OPENABLE"


def test_a_dealer_that_gave_too_few_rows_is_named(rig: Any) -> None:
    seven = rig(7, 2)
    phase = seven.uploads(seven.epoch())
    for voter in ("site-01", "site-02", "site-03"):
        phase = row_sealed(seven, phase, "site-00", voter, above_p)
    assert code_of(seven.votes(phase.close()).close, "site-00") == "NOT_OPENABLE"


def forged(rig: Any, ballot: Ballot, **changes: Any) -> bytes:
    """A ballot that its own site altered and signed again."""
    changed = replace(ballot, **changes)
    return replace(changed, signature=sign(rig.keys[ballot.site], "ballot", *changed.signed_fields())).encode()


def test_a_wrong_release_names_the_pair(rig: Any) -> None:
    seven = rig(7, 2)
    voting = seven.uploads(seven.epoch()).close()
    ballot = Ballot.decode(seven.sessions["site-01"].vote(voting.requests()["site-01"], NOW))
    voting = voting.receive("site-01", forged(seven, ballot, releases=(b"x" * 32, *ballot.releases[1:])))
    voting = seven.votes(voting)
    assert opened(seven, voting) == 127
    assert voting.close().findings == (Finding("box", ("site-00", "site-01")),)


def boxes_with(rig: Any, ballot: Ballot, part: bytes, count: int) -> tuple[bytes, ...]:
    """The ballot's boxes, the first `count` of them holding `part` under their right keys."""
    pairs = rig.sessions[ballot.site]._epoch.pairs
    bad = tuple(
        derive.seal(
            derive.release_key(pairs[peer], ballot.view, peer, ballot.site),
            derive.box_aad(ballot.view, peer, ballot.site),
            part,
            os.urandom,
        )
        for peer in sorted(pairs)[:count]
    )
    return bad + ballot.boxes[count:]


@pytest.mark.parametrize(("part", "findings"), [
    (b"\xff" * 32, (Finding("box", ("site-01", "site-00")),)),
    (b"\x01" * 32, ()),  # a wrong share of kappa: another subset opens the ballot
])  # fmt: skip
def test_one_bad_box_does_not_shut_a_ballot(rig: Any, part: bytes, findings: tuple[Finding, ...]) -> None:
    seven = rig(7, 2)
    voting = seven.uploads(seven.epoch()).close()
    ballot = Ballot.decode(seven.sessions["site-01"].vote(voting.requests()["site-01"], NOW))
    voting = seven.votes(voting.receive("site-01", forged(seven, ballot, boxes=boxes_with(seven, ballot, part, 1))))
    assert opened(seven, voting) == 127
    assert voting.close().findings == findings


def answering(rig: Any, ballot: Ballot, answer: bytes) -> bytes:
    """A ballot that opens, with another answer in it: kappa 0, whose shares are all 0."""
    zero = bytes(32)
    sealed = derive.seal(
        derive.answer_key(0, ballot.view, ballot.site), derive.answer_aad(ballot.view, ballot.site), answer, os.urandom
    )
    return forged(rig, ballot, boxes=boxes_with(rig, ballot, zero, len(ballot.boxes)), sealed_answer=sealed)


def test_a_ballot_that_stays_shut_or_holds_no_answer_is_named_and_the_others_open(rig: Any) -> None:
    seven = rig(7, 2)
    voting = seven.uploads(seven.epoch()).close()
    for site, answer in (("site-01", None), ("site-02", pack(b""))):
        ballot = Ballot.decode(seven.sessions[site].vote(voting.requests()[site], NOW))
        altered = forged(seven, ballot, sealed_answer=bytes(40)) if answer is None else answering(seven, ballot, answer)
        voting = voting.receive(site, altered)
    voting = seven.votes(voting)
    assert opened(seven, voting) == 127
    assert set(voting.close().findings) == {Finding("ballot", ("site-01",)), Finding("ballot", ("site-02",))}


def test_too_many_shut_ballots_open_nothing_and_are_named(four: Any) -> None:
    voting = four.uploads(four.epoch()).close()
    for site in ("site-01", "site-02"):
        ballot = Ballot.decode(four.sessions[site].vote(voting.requests()[site], NOW))
        voting = voting.receive(site, forged(four, ballot, sealed_answer=bytes(40)))
    assert code_of(four.votes(voting).close, "site-01", "site-02") == "NOT_OPENABLE"


@pytest.mark.parametrize(("header", "body"), [
    ([2, 0], [0, 0, 0]),  # a count that is not one site
    ([1, 0], [0, 2**31 - 1, 0]),  # beyond what any encoding gives
    ([1, 0], [0, 2**31, 0]),
])  # fmt: skip
def test_a_site_that_masks_garbage_spoils_the_round_and_it_is_seen(four: Any, header: list[int], body: list[int]) -> None:
    phase = four.uploads(four.epoch(), lost=["site-00"])
    session = four.sessions["site-00"]
    taken = session.take(session.begin_update(phase.requests()["site-00"], MODEL, NOW))
    words = np.array(header, np.uint64), np.array(body, np.uint32)
    phase = phase.receive("site-00", *session.finish_update(taken, *words))
    assert code_of(four.votes(phase.close()).close) == "SPOILED"


def test_a_round_without_a_header_cannot_be_told_from_garbage(four: Any) -> None:
    phase = four.epoch().open_round(1, "train", MODEL, header_length=0, body_length=1)
    for site, request in phase.requests().items():
        session = four.sessions[site]
        taken = session.take(session.begin_update(request, MODEL, NOW))
        phase = phase.receive(site, *session.finish_update(taken, np.zeros(0, np.uint64), np.ones(1, np.uint32)))
    assert code_of(four.votes(phase.close()).close) == "SPOILED"


# --- what is dealt -----------------------------------------------------------------------------------------------------


def rows_of(rig: Any, phase: UploadPhase, dealer: str) -> dict[int, tuple[int, ...]]:
    """Every row that `dealer` dealt to the others, by point; only the sites themselves could open these."""
    roll, upload = phase.epoch.roll, Upload.decode(phase.uploads[dealer])
    rows = {}
    for voter, sealed in zip(roll.others(dealer), upload.sealed_shares, strict=True):
        key = derive.share_key(rig.sessions[voter]._epoch.pairs[dealer], phase.delta, dealer, voter)
        opened_row = derive.unseal(key, derive.share_aad(phase.delta, dealer, voter, upload.masked), sealed)
        assert opened_row is not None
        row = field.decode_row(opened_row, roll.n)
        assert row is not None
        rows[roll.point(voter)] = row
    return rows


def test_t_shares_open_every_committed_value_and_t_minus_one_open_none(rig: Any) -> None:
    seven = rig(7, 2)
    phase = seven.uploads(seven.epoch())
    commitments = Upload.decode(phase.uploads["site-02"]).commitments
    rows = rows_of(seven, phase, "site-02")
    for index, committed in enumerate(commitments):
        shares = {point: row[index] for point, row in rows.items()}
        for size in (phase.epoch.threshold - 1, phase.epoch.threshold):
            value = shamir.interpolate(shares, tuple(sorted(shares)[:size]))
            assert (derive.commitment(phase.delta, "site-02", index, value) == committed) == (size == phase.epoch.threshold)


def test_a_voter_gives_no_shares_for_an_upload_that_was_not_dealt_with_them(four: Any) -> None:
    """The dealer signed another digest than the one its shares belong to: the field for it is empty."""
    phase = four.uploads(four.epoch())
    request = VoteRequest.decode(phase.close().requests()["site-01"])
    signature = sign(four.keys["site-00"], "upload", phase.delta, b"site-00", b"z" * 32)
    other = replace(request.survivors[0], digest=b"z" * 32, signature=signature)
    altered = replace(request, survivors=(other, *request.survivors[1:]))
    session = four.sessions["site-01"]
    standing = Standing(phase.delta, b"h" * 32, session._round.own_shares)
    answers = {}
    for name, asked in (("dealt", request), ("other", altered)):
        ballot = Ballot.decode(cast_ballot(session._me, session._epoch, asked, standing, bytes))  # kappa 0, in clear for the test
        key = derive.answer_key(0, b"h" * 32, "site-01")
        opened_answer = derive.unseal(key, derive.answer_aad(b"h" * 32, "site-01"), ballot.sealed_answer)
        assert opened_answer is not None
        answers[name] = unpack(opened_answer, 4)
    assert [len(one) for one in answers["dealt"]] == [32] * 4
    assert answers["other"] == (b"", *answers["dealt"][1:])
