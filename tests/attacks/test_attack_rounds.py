"""Each round is answered once, about one model, among sites that signed it; the same question gets the same bytes.

Specification 4.4 and 4.10: other_model, phantom_member, own_entry, equivocating_site, replay_upload, replay_ballot, past_round,
other_epoch, repeat_request.
"""

from dataclasses import replace

import numpy as np
import pytest
from attacking import Attack, Round, clone, resign_upload

from secagg import derive
from secagg.errors import SecaggError
from secagg.messages import Ballot, KemRequest, KeysRequest, Masked, UpdateRequest, VoteRequest
from secagg.model import model_digest


def update_request(round_: Round, site: str) -> bytes:
    return round_.asking.requests()[site]


def split(attack: Attack) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """t-c honest sites, and the fewer other honest ones."""
    return attack.honest[: attack.t - attack.c], attack.honest[attack.t - attack.c :]


# -- other_model -------------------------------------------------------------------------------------------------------


def test_other_model_for_some_sites_opens_the_one_round_that_enough_sites_share(attack: Attack) -> None:
    many, few = split(attack)
    epoch = attack.epoch()
    before = {site: clone(session) for site, session in attack.colluders.items()}
    first = attack.open_round(epoch, 1)
    first.upload([*many, *attack.colluders])
    other = attack.open_round(epoch, 1, model=attack.run.model(0.25))
    other.upload(few)
    for site, session in before.items():
        other.uploads[site] = other.colluders_upload(session, site)
    assert len(other.uploads) < attack.t
    here, there = many[0], few[0]
    assert other.refused_vote(there, other.vote_request(there, other.uploads)) == "TOO_FEW"
    mixed = replace(
        other.vote_request(there, other.uploads), survivors=ascending(*first.entries(many), *other.entries(other.uploads))
    )
    assert other.refused_vote(there, mixed) == "SIGNATURE"
    assert first.refused_vote(there, first.vote_request(there, first.uploads)) == "ROUND"
    assert other.refused_vote(here, other.vote_request(here, other.uploads)) == "ROUND"
    voters = (*many, *attack.colluders)
    assert first.opens(first.uploads, first.votes(first.uploads, voters)) == tuple(sorted(voters))


def test_other_model_in_a_round_that_was_answered_is_refused_and_costs_nothing(nearby: Attack) -> None:
    round_ = nearby.round()
    site = nearby.honest[0]
    request = update_request(round_, site)
    for altered in (nearby.run.model(1.0), nearby.model[:-1] + b"\x01"):
        assert nearby.refused(site, "sa1_update", request, altered) == "ROUND"
    changed = replace(round_.vote_request(site, nearby.sites), model_hash=model_digest(nearby.run.model(1.0)))
    assert round_.refused_vote(site, changed) == "ROUND"
    assert nearby.spends(site) == 1
    round_.completes()


# -- phantom_member, own_entry, equivocating_site ----------------------------------------------------------------------


def test_phantom_member_without_an_upload_or_an_identity_is_refused(attack: Attack) -> None:
    absent, voter, (colluder, *_) = attack.honest[-1], attack.honest[0], attack.colluders
    round_ = attack.round(lost=[absent])
    request = round_.vote_request(voter, round_.uploads)
    digest = round_.message(colluder).masked
    invented = [
        resign_upload(attack, colluder, absent, round_.delta, digest),
        Masked(absent, digest, round_.message(colluder).signature),
        resign_upload(attack, absent, absent, derive.hash_of("round", b"another"), digest),
    ]
    row = round_.message(colluder).sealed_shares[0]
    for one in invented:
        with_phantom = replace(request, survivors=ascending(*request.survivors, one), sealed_shares=(*request.sealed_shares, row))
        assert round_.refused_vote(voter, with_phantom) == "SIGNATURE"
    ghost = resign_upload(attack, colluder, "zurich", round_.delta, digest)
    assert round_.refused_vote(voter, replace(request, survivors=ascending(*request.survivors, ghost))) == "STRANGER"
    present = tuple(round_.uploads)
    assert round_.opens(present, round_.votes(present)) == present


def ascending(*entries: Masked) -> tuple[Masked, ...]:
    return tuple(sorted(entries, key=lambda one: one.site))


def test_phantom_member_of_the_plan_but_not_of_the_epoch_is_refused(nearby: Attack) -> None:
    outside, inside = nearby.sites[-1], nearby.sites[:-1]
    round_ = nearby.round(epoch=nearby.epoch(inside))
    voter = nearby.honest[0]
    request = round_.vote_request(voter, inside)
    phantom = resign_upload(nearby, outside, outside, round_.delta, bytes(32))
    assert round_.refused_vote(voter, replace(request, survivors=ascending(*request.survivors, phantom))) == "STRANGER"
    round_.completes()


def test_phantom_member_listed_twice_is_refused(nearby: Attack) -> None:
    round_ = nearby.round()
    voter = nearby.honest[0]
    request = round_.vote_request(voter, nearby.sites)
    for twice in (ascending(*request.survivors, request.survivors[1]), tuple(reversed(request.survivors))):
        assert round_.refused_vote(voter, replace(request, survivors=twice)) == "PEERS"
    round_.completes()


def test_own_entry_that_is_altered_is_refused(attack: Attack) -> None:
    """Not signed by the site; and - as if its identity key had been stolen - signed."""
    round_ = attack.round()
    voter, (colluder, *_) = attack.honest[0], attack.colluders
    request = round_.vote_request(voter, attack.sites)
    others = [one for one in request.survivors if one.site != voter]
    digest = derive.hash_of("masked", b"another upload")
    own = round_.entries([voter])[0]
    for altered in (replace(own, digest=digest), resign_upload(attack, colluder, voter, round_.delta, digest)):
        assert round_.refused_vote(voter, replace(request, survivors=ascending(*others, altered))) == "SIGNATURE"
    stolen = resign_upload(attack, voter, voter, round_.delta, digest)
    assert round_.refused_vote(voter, replace(request, survivors=ascending(*others, stolen))) == "OWN_UPLOAD"
    round_.completes()


def test_own_entry_of_a_site_that_uploaded_nothing_is_refused(nearby: Attack) -> None:
    absent = nearby.honest[-1]
    round_ = nearby.round(lost=[absent])
    stolen = resign_upload(nearby, absent, absent, round_.delta, bytes(32))
    request = round_.vote_request(absent, round_.uploads)
    assert round_.refused_vote(absent, replace(request, survivors=ascending(*request.survivors, stolen))) == "OWN_UPLOAD"
    present = tuple(round_.uploads)
    assert round_.opens(present, round_.votes(present)) == present


def test_equivocating_site_with_two_uploads_of_one_round_gets_one_view_open(attack: Attack) -> None:
    many, few = split(attack)
    (colluder, *_) = attack.colluders
    epoch = attack.epoch()
    twin = clone(attack.colluders[colluder])
    one = attack.round(epoch=epoch)
    two = replace(one, attack=replace(attack, colluders={**attack.colluders, colluder: twin}), uploads=dict(one.uploads))
    two.uploads[colluder] = two.colluders_upload(twin, colluder)
    assert one.message(colluder).masked != two.message(colluder).masked
    first = one.votes(attack.sites, (*many, *attack.colluders))
    second = two.votes(attack.sites, (*few, *attack.colluders))
    assert {Ballot.decode(ballot).view for ballot in first.values()}.isdisjoint(
        {Ballot.decode(ballot).view for ballot in second.values()}
    )
    assert two.refused_vote(many[0], two.vote_request(many[0], attack.sites)) == "VOTED"
    assert one.opens(attack.sites, first) == attack.sites
    with pytest.raises(SecaggError, match="NOT_OPENABLE"):
        two.open(attack.sites, second)


# -- replay_upload, replay_ballot --------------------------------------------------------------------------------------


def test_replay_upload_of_an_earlier_round_is_refused_in_every_place(attack: Attack) -> None:
    first = attack.round(1)
    first.completes()
    second = attack.round(2, epoch=first.epoch)
    voter, peer = attack.honest[0], attack.honest[1]
    with pytest.raises(SecaggError, match="ROUND"):
        second.asking.receive(peer, *first.uploads[peer])
    request = second.vote_request(voter, attack.sites)
    stale = first.entries([peer])[0]
    entries = ascending(*(stale if one.site == peer else one for one in request.survivors))
    assert second.refused_vote(voter, replace(request, survivors=entries)) == "SIGNATURE"
    own = first.entries([voter])[0]
    entries = ascending(*(own if one.site == voter else one for one in request.survivors))
    assert second.refused_vote(voter, replace(request, survivors=entries)) == "SIGNATURE"
    second.completes()


def test_replay_upload_in_the_name_of_another_is_refused(nearby: Attack) -> None:
    round_ = nearby.round()
    one, other = nearby.honest[:2]
    with pytest.raises(SecaggError, match="STRANGER"):
        round_.asking.receive(other, *round_.uploads[one])
    with pytest.raises(SecaggError, match="ENCODING"):
        round_.asking.receive(one, round_.uploads[one][0], round_.uploads[other][1])
    round_.completes()


def test_replay_ballot_of_an_earlier_round_counts_nowhere(attack: Attack) -> None:
    first = attack.round(1)
    old = first.votes(attack.sites)
    second = attack.round(2, epoch=first.epoch)
    phase = second.view(attack.sites)
    for site, ballot in old.items():
        with pytest.raises(SecaggError, match="VOTED"):
            phase.receive(site, ballot)
    site, view_id = attack.honest[0], second.view(attack.sites).view_id
    alone = second.votes(attack.sites, [site])
    assert second.crack(site, view_id, [*alone.values(), *old.values()]) is None
    second.completes()


# -- past_round, other_epoch, repeat_request ---------------------------------------------------------------------------


def test_past_round_and_a_round_beyond_the_plan_are_refused(attack: Attack) -> None:
    epoch = attack.epoch()
    third = attack.round(3, epoch=epoch)
    site = attack.honest[0]
    asked = []
    for number in (0, 1, 2, attack.plan.schedule.max_round + 1, 2**63):
        asked.append(("sa1_update", UpdateRequest(epoch.roll.epoch_id, number, "train", epoch.routed[site]).encode()))
        asked.append(("sa1_vote", replace(third.vote_request(site, attack.sites), round_number=number).encode()))
    assert attack.refusals(site, *asked) == ["ROUND"] * 10
    assert attack.spends(site) == 1
    third.completes()
    assert attack.refused(site, "sa1_update", update_request(attack.open_round(epoch, 2), site), attack.model) == "ROUND"


def test_past_round_cannot_be_had_for_another_purpose(nearby: Attack) -> None:
    round_ = nearby.round(1)
    site = nearby.honest[0]
    asked = UpdateRequest(round_.epoch.roll.epoch_id, 1, "evaluate", round_.epoch.routed[site]).encode()
    assert nearby.refused(site, "sa1_update", asked, nearby.model) == "ROUND"
    round_.completes()


def test_other_epoch_is_refused_in_every_request(attack: Attack) -> None:
    old = attack.round(1)
    epoch = attack.epoch()
    site = attack.honest[0]
    asked = (
        ("sa1_keys", KeysRequest(epoch.roll.number - 1).encode()),
        ("sa1_kem", KemRequest(old.epoch.keys).encode()),
        ("sa1_update", update_request(old, site)),
        ("sa1_update", update_request(attack.open_round(old.epoch, 2), site)),
        ("sa1_vote", old.vote_request(site, attack.sites).encode()),
    )
    assert attack.refusals(site, *asked) == ["EPOCH"] * 5
    assert attack.spends(site) == 1
    attack.round(2, epoch=epoch).completes()


def test_other_epoch_of_another_run_is_refused(nearby: Attack) -> None:
    """The ids of one run say nothing in another, and one plan's request is not another's."""
    here, there = nearby.round(1), nearby.another().round(1)
    site = nearby.honest[0]
    assert nearby.refused(site, "sa1_update", update_request(there, site), nearby.model) == "EPOCH"
    assert here.refused_vote(site, there.vote_request(site, nearby.sites)) == "EPOCH"
    here.completes()
    there.completes()


def test_repeat_request_gets_the_same_bytes_and_is_charged_once(attack: Attack) -> None:
    site = attack.honest[0]
    keys = attack.ask(site, "sa1_keys", KeysRequest(1).encode())
    epoch = attack.epoch(number=1)
    listing = KemRequest(epoch.keys).encode()
    kem = attack.ask(site, "sa1_kem", listing)
    round_ = attack.round(1, epoch=epoch)
    update = attack.ask(site, "sa1_update", update_request(round_, site), attack.model)
    vote = round_.vote_request(site, attack.sites).encode()
    ballot = attack.ask(site, "sa1_vote", vote)
    before = attack.ledger(site), attack.egress(site)
    assert attack.ask(site, "sa1_keys", KeysRequest(1).encode()) == keys
    assert attack.ask(site, "sa1_kem", listing) == kem
    assert attack.ask(site, "sa1_update", update_request(round_, site), attack.model) == update
    assert attack.ask(site, "sa1_vote", vote) == ballot
    assert (attack.ledger(site), attack.egress(site)) == before
    assert attack.spends(site) == 1
    assert update.body == round_.uploads[site][1]
    round_.completes()


def test_repeat_request_for_a_whole_round_is_another_number_with_its_own_spend(nearby: Attack) -> None:
    epoch = nearby.epoch()
    site = nearby.honest[0]
    first, second = nearby.round(1, epoch=epoch), nearby.round(2, epoch=epoch)
    assert nearby.spends(site) == 2
    assert first.refused_vote(site, first.vote_request(site, nearby.sites)) == "ROUND"
    one, other = (np.frombuffer(round_.uploads[site][1], np.uint8) for round_ in (first, second))
    size = min(len(one), len(other))
    assert (one[:size] == other[:size]).mean() < 0.25
    second.completes()


def test_repeat_request_with_a_trailing_byte_is_no_request(nearby: Attack) -> None:
    round_ = nearby.round()
    site = nearby.honest[0]
    vote: VoteRequest = round_.vote_request(site, nearby.sites)
    assert nearby.refused(site, "sa1_vote", vote.encode() + b"\x00") == "ENCODING"
    assert nearby.refused(site, "sa1_update", update_request(round_, site) + b"\x00", nearby.model) == "ENCODING"
    round_.completes()
