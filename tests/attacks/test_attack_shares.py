"""Shares given to the wrong site, uploads that come too late, and colluders who deal, vote or mask falsely.

Specification 4.5 and 4.10: reflected_share, swapped_share, withheld_upload, bad_shares, bad_answer, bad_release, garbage_mask.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
from attacking import Attack, Round, answer_of, reseal, resign_ballot, step_of, uniform, wide_model
from known_numbers import number_of

from consortium.canonical import pack, unpack
from secagg import derive
from secagg.errors import SecaggError
from secagg.masks import MaskKeys, apply_masks, body_type
from secagg.messages import Ballot, Upload, VoteRequest
from secagg.opening import Finding

WIDE = 20_000  # parameters: enough bytes to tell uniform from not


def with_share(request: VoteRequest, dealer: str, voter: str, sealed: bytes) -> VoteRequest:
    """The same request, with other bytes as what `dealer` dealt to `voter`."""
    dealers = [one.site for one in request.survivors if one.site != voter]
    row = list(request.sealed_shares)
    row[dealers.index(dealer)] = sealed
    return replace(request, sealed_shares=tuple(row))


def share_of(round_: Round, dealer: str, receiver: str) -> bytes:
    return round_.message(dealer).sealed_shares[round_.epoch.roll.others(dealer).index(receiver)]


def opened_with(round_: Round, voter: str, request: VoteRequest) -> tuple[Finding, ...]:
    """The voter answers this request, all others the true one: the sum opens, and these are its findings."""
    everybody = round_.attack.sites
    others = [site for site in everybody if site != voter]
    ballot = answer_of(round_.attack.ask(voter, "sa1_vote", request.encode()))
    aggregate = round_.open(everybody, round_.votes(everybody, others) | {voter: ballot})
    assert round_.members(aggregate) == everybody
    return aggregate.findings


# -- reflected_share, swapped_share ------------------------------------------------------------------------------------


def test_reflected_share_is_an_empty_field_and_the_sum_opens(attack: Attack) -> None:
    """What k itself dealt to i is handed to k as if i had dealt it: else k would decrypt its own secrets for the coordinator."""
    round_ = attack.round()
    voter, dealer = attack.honest[:2]
    request = with_share(round_.vote_request(voter, attack.sites), dealer, voter, share_of(round_, voter, dealer))
    assert opened_with(round_, voter, request) == (Finding("deal", (dealer, voter)),)


def test_swapped_share_of_another_receiver_dealer_or_round_is_an_empty_field(attack: Attack) -> None:
    before = attack.round(1)
    round_ = attack.round(2, epoch=before.epoch)
    voter, dealer, other = attack.honest[:3]
    true = round_.vote_request(voter, attack.sites)
    swapped = with_share(true, dealer, voter, share_of(round_, dealer, other))
    swapped = with_share(swapped, other, voter, share_of(before, other, voter))
    findings = opened_with(round_, voter, swapped)
    assert set(findings) == {Finding("deal", (dealer, voter)), Finding("deal", (other, voter))}


def test_swapped_share_of_two_dealers_is_two_empty_fields(nearby: Attack) -> None:
    round_ = nearby.round()
    voter, one, two = nearby.honest[:3]
    request = round_.vote_request(voter, nearby.sites)
    request = with_share(request, one, voter, share_of(round_, two, voter))
    request = with_share(request, two, voter, share_of(round_, one, voter))
    assert set(opened_with(round_, voter, request)) == {Finding("deal", (one, voter)), Finding("deal", (two, voter))}


def test_swapped_share_that_is_no_ciphertext_is_an_empty_field_and_a_missing_one_a_refusal(nearby: Attack) -> None:
    round_ = nearby.round()
    voter, dealer = nearby.honest[:2]
    true = round_.vote_request(voter, nearby.sites)
    assert round_.refused_vote(voter, replace(true, sealed_shares=true.sealed_shares[1:])) == "ENCODING"
    assert round_.refused_vote(voter, replace(true, sealed_shares=(*true.sealed_shares, b"x"))) == "ENCODING"
    assert opened_with(round_, voter, with_share(true, dealer, voter, b"")) == (Finding("deal", (dealer, voter)),)


# -- withheld_upload ---------------------------------------------------------------------------------------------------


def test_withheld_upload_that_comes_after_the_vote_stays_masked_by_b_alone(attack: Attack) -> None:
    """Every e_ij of the late site is public by then; what is left is uniform, and only b_j (which nobody has) opens it."""
    wide = attack.another(model=wide_model(WIDE))
    late = wide.honest[-1]
    round_ = wide.round(lost=[late])
    counted = tuple(round_.uploads)
    ballots = round_.votes(counted, counted)
    assert round_.opens(counted, ballots) == counted
    pair_masks = round_.pair_masks(counted, ballots)
    round_.upload([late])
    ballots |= round_.votes(counted, [late])
    assert round_.opens(counted, ballots) == counted
    header, body = without_pair_masks(round_, late, {peer: pair_masks[peer, late] for peer in counted})
    known = np.int64(np.rint(number_of(wide.plan, late) * step_of(wide))).astype(body.dtype)
    assert uniform(body)
    assert uniform(body - known)
    assert header[0] != 1
    apply_masks(header, body, MaskKeys.of(round_.delta, removed=[round_.secret_mask(late)]))
    assert header[0] == 1
    assert np.abs((body - known).view(np.int32)).max() <= 1
    assert not uniform(body)


def without_pair_masks(round_: Round, site: str, masks: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(header, body) of the site's y with all its pair masks off."""
    y = np.frombuffer(round_.uploads[site][1], np.uint8).copy()
    size = 8 * (1 + round_header(round_))
    header, body = y[:size].view("<u8"), y[size:].view(body_type(round_.attack.plan.ring_bits))
    added = [mask for peer, mask in masks.items() if peer < site]
    removed = [mask for peer, mask in masks.items() if peer > site]
    apply_masks(header, body, MaskKeys.of(round_.delta, added=added, removed=removed))
    return header, body


def round_header(round_: Round) -> int:
    return len(round_.asking.total.header) - 1


# -- bad_shares, bad_answer, bad_release, garbage_mask -----------------------------------------------------------------


def test_bad_shares_for_one_site_are_passed_and_dealer_and_voter_named(attack: Attack) -> None:
    round_ = attack.round()
    voter, (dealer, *_) = attack.honest[0], attack.colluders
    false = reseal(round_, dealer, voter, range(7, 7 + len(attack.sites)))
    request = with_share(round_.vote_request(voter, attack.sites), dealer, voter, false)
    assert opened_with(round_, voter, request) == (Finding("share", (dealer, voter)),)


def test_bad_shares_that_are_no_field_elements_are_an_empty_field(nearby: Attack) -> None:
    round_ = nearby.round()
    voter, (dealer, *_) = nearby.honest[0], nearby.colluders
    false = reseal(round_, dealer, voter, [2**255 - 19] * len(nearby.sites))
    request = with_share(round_.vote_request(voter, nearby.sites), dealer, voter, false)
    assert opened_with(round_, voter, request) == (Finding("deal", (dealer, voter)),)


def test_bad_shares_for_everybody_name_the_dealer_and_the_round_goes_on_without_it(attack: Attack) -> None:
    round_ = attack.round()
    (dealer, *_) = attack.colluders
    control, y = round_.uploads[dealer]
    peers = round_.epoch.roll.others(dealer)
    false = tuple(reseal(round_, dealer, peer, range(at, at + len(attack.sites))) for at, peer in enumerate(peers, 11))
    round_.uploads[dealer] = replace(Upload.decode(control), sealed_shares=tuple(with_own(round_, dealer, false))).encode(), y
    ballots = round_.votes(attack.sites)
    with pytest.raises(SecaggError) as refused:
        round_.open(attack.sites, ballots)
    assert (refused.value.code, refused.value.sites) == ("NOT_OPENABLE", (dealer,))
    after = attack.round(2, epoch=round_.epoch, lost=[dealer])
    counted = tuple(after.uploads)
    assert after.opens(counted, after.votes(counted)) == counted


def with_own(round_: Round, dealer: str, false: tuple[bytes, ...]) -> list[bytes]:
    """False shares for honest sites, the true ones for other colluders (who keep quiet about them anyway)."""
    peers = round_.epoch.roll.others(dealer)
    true = round_.message(dealer).sealed_shares
    return [true[at] if peer in round_.attack.colluders else false[at] for at, peer in enumerate(peers)]


def test_bad_answer_names_the_voter_and_the_sum_opens(attack: Attack) -> None:
    """Bytes that nobody sealed, of any length."""
    round_ = attack.round()
    (voter, *_) = attack.colluders
    ballots = round_.votes(attack.sites)
    for size in (0, 12, 28, 500):
        false = replace(Ballot.decode(ballots[voter]), sealed_answer=os.urandom(size))
        aggregate = round_.open(attack.sites, ballots | {voter: resign_ballot(attack, false)})
        assert round_.members(aggregate) == attack.sites
        assert aggregate.findings == (Finding("ballot", (voter,)),)


def test_bad_answer_with_a_false_share_names_dealer_and_voter(nearby: Attack) -> None:
    """Sealed as it must be; the false value is another site's share, so that even its form is right."""
    round_ = nearby.round()
    (voter, *_), dealer = nearby.colluders, nearby.honest[0]
    ballots = round_.votes(nearby.sites)
    view_id = round_.view(nearby.sites).view_id
    answer = list(unpack(round_.crack(voter, view_id, ballots.values()) or b""))
    answer[0], answer[1] = answer[1], answer[1]
    kappa = round_.kappa(voter, view_id, ballots.values())
    sealed = derive.seal(derive.answer_key(kappa, view_id, voter), derive.answer_aad(view_id, voter), pack(*answer), os.urandom)
    false = resign_ballot(nearby, replace(Ballot.decode(ballots[voter]), sealed_answer=sealed))
    aggregate = round_.open(nearby.sites, ballots | {voter: false})
    assert round_.members(aggregate) == nearby.sites
    assert aggregate.findings == (Finding("share", (dealer, voter)),)


def test_bad_release_names_the_pair_and_the_sum_opens(attack: Attack) -> None:
    round_ = attack.round()
    (liar, *_), voter = attack.colluders, attack.honest[0]
    ballots = round_.votes(attack.sites)
    ballot = Ballot.decode(ballots[liar])
    place = round_.epoch.roll.others(liar).index(voter)
    releases = [bytes(32) if at == place else release for at, release in enumerate(ballot.releases)]
    aggregate = round_.open(attack.sites, ballots | {liar: resign_ballot(attack, replace(ballot, releases=tuple(releases)))})
    assert round_.members(aggregate) == attack.sites
    assert aggregate.findings == (Finding("box", (voter, liar)),)


def test_bad_release_under_another_signature_is_refused_by_name(nearby: Attack) -> None:
    round_ = nearby.round()
    site = nearby.honest[0]
    ballots = round_.votes(nearby.sites)
    ballot = Ballot.decode(ballots[site])
    altered = replace(ballot, releases=(bytes(32), *ballot.releases[1:]))
    with pytest.raises(SecaggError) as refused:
        round_.open(nearby.sites, ballots | {site: altered.encode()})
    assert (refused.value.code, refused.value.sites) == ("SIGNATURE", (site,))
    assert round_.opens(nearby.sites, ballots) == nearby.sites


def test_garbage_mask_spoils_the_round_and_names_nobody(attack: Attack) -> None:
    """Random words in place of the colluder's header, or of its body: of 2000 such values some leave the range of a sum."""
    wide = attack.another(model=wide_model(2000))
    epoch = wide.epoch()
    (liar, *_) = wide.colluders
    for number, part in enumerate(("header", "body"), 1):
        round_ = wide.open_round(epoch, number)
        round_.upload([site for site in wide.sites if site != liar])
        round_.uploads[liar] = round_.colluders_upload(wide.colluders[liar], liar, garbage=part)
        ballots = round_.votes(wide.sites)
        with pytest.raises(SecaggError) as refused:
            round_.open(wide.sites, ballots)
        assert (refused.value.code, refused.value.sites) == ("SPOILED", ())
    wide.round(3, epoch=epoch).completes()
