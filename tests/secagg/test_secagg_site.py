"""A site refuses whatever the coordinator invents, with the code of the first check that fails, and stays as it was."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from consortium.canonical import text
from consortium.identity import SigningKey
from secagg.coordinator import Epoch, VotePhase
from secagg.errors import SecaggError
from secagg.messages import Ballot, Kem, KemEntry, KemRequest, Keys, KeysRequest, Masked, UpdateRequest, Upload, VoteRequest, sign
from secagg.model import model_digest
from secagg.site import Asked, Repeated, SiteSession

NOW = 1_000_000.0
DAY = 24 * 3600.0
MODEL = model_digest(b"model")
HEADER, BODY = np.array([1, 5], np.uint64), np.array([7, 8, 9], np.uint32)


def code_of(call: Callable[[], object], *sites: str) -> str:
    """The code of the refusal, which names exactly these sites if any are given."""
    with pytest.raises(SecaggError) as refused:
        call()
    if sites:
        assert refused.value.sites == sites
    return refused.value.code


def memory_of(session: SiteSession) -> tuple[Any, ...]:
    """All that a session remembers, by identity."""
    return session._epoch, session._round, session._last_round


@pytest.fixture
def me(four: Any) -> SiteSession:
    """The third of four sites: it has lower and higher peers."""
    return four.sessions["site-02"]


# --- epochs: keys ---------------------------------------------------------------------------------------------------


def test_the_same_epoch_number_gets_the_same_keys(me: SiteSession) -> None:
    assert me.keys(KeysRequest(4).encode(), NOW) == me.keys(KeysRequest(4).encode(), NOW + 5)


def test_a_lower_epoch_is_refused_and_a_higher_one_has_fresh_keys(me: SiteSession) -> None:
    first = Keys.decode(me.keys(KeysRequest(4).encode(), NOW))
    assert code_of(lambda: me.keys(KeysRequest(3).encode(), NOW)) == "EPOCH"
    second = Keys.decode(me.keys(KeysRequest(5).encode(), NOW))
    assert first.x25519 != second.x25519
    assert first.mlkem != second.mlkem


def test_a_site_outside_the_plan_or_with_another_key_has_no_session(four: Any) -> None:
    other = SigningKey.from_seed(b"x" * 32)
    for site, key in (("stranger", other), ("site-00", other)):
        assert code_of(lambda site=site, key=key: SiteSession(four.context, site, key, 0, bytes)) == "STRANGER"


# --- epochs: the list of peers --------------------------------------------------------------------------------------


@pytest.fixture
def listing(four: Any) -> list[Keys]:
    return [Keys.decode(session.keys(KeysRequest(1).encode(), NOW)) for session in four.sessions.values()]


def resign(four: Any, keys: Keys, **changes: Any) -> Keys:
    unsigned = replace(keys, **changes)
    return replace(unsigned, signature=sign(four.keys[keys.site], "keys", *unsigned.signed_fields()))


def asked(keys: list[Keys]) -> bytes:
    return KemRequest(tuple(one.encode() for one in keys)).encode()


def test_kem_before_keys_is_refused(me: SiteSession) -> None:
    assert code_of(lambda: me.kem(KemRequest(()).encode(), NOW)) == "EPOCH"


def test_kem_after_a_day_is_refused(me: SiteSession, listing: list[Keys]) -> None:
    assert code_of(lambda: me.kem(asked(listing), NOW + DAY + 1)) == "EPOCH"
    assert code_of(lambda: me.kem(asked(listing), NOW - 1)) == "EPOCH"


def test_one_list_is_taken_and_no_other(me: SiteSession, listing: list[Keys]) -> None:
    answer = me.kem(asked(listing), NOW)
    assert me.kem(asked(listing), NOW) == answer
    assert code_of(lambda: me.kem(asked(listing[:3]), NOW)) == "EPOCH"


def kem_defects(four: Any, keys: list[Keys]) -> dict[str, tuple[list[Keys], str, tuple[str, ...]]]:
    """Lists in the order of the checks; each one also breaks every later check that it can."""
    bad, own = keys[0], keys[2]
    stranger = replace(bad, site="stranger")
    bad_key = resign(four, bad, mlkem=b"\xff" * 1184)
    own_altered = resign(four, own, x25519=b"\x09" + bytes(31))
    return {
        "another roster": ([stranger, replace(bad, roster_digest=b"x" * 32)], "EPOCH", ("site-00",)),
        "another plan": ([stranger, replace(bad, plan_digest=b"x" * 32)], "EPOCH", ("site-00",)),
        "another epoch": ([stranger, replace(bad, epoch=2)], "EPOCH", ("site-00",)),
        "a stranger": ([stranger, replace(bad, x25519=b"")], "STRANGER", ("stranger",)),
        "a substituted key": ([bad_key, replace(bad, x25519=b"y" * 32)], "SIGNATURE", ("site-00",)),
        "another site's signature": ([bad_key, replace(bad, site="site-01")], "SIGNATURE", ("site-01",)),
        "no ML-KEM key": ([bad, bad_key, own_altered], "ENCODING", ("site-00",)),
        "a short X25519 key": ([bad, resign(four, bad, x25519=b"y" * 31)], "ENCODING", ("site-00",)),
        "a duplicate": ([bad, bad, own_altered], "PEERS", ("site-00", "site-00")),
        "descending": ([keys[1], keys[0]], "PEERS", ("site-01", "site-00")),
        "own key altered": ([bad, own_altered], "OWN_KEY", ("site-02",)),
        "own key missing": ([keys[0], keys[1], keys[3]], "OWN_KEY", ("site-02",)),
        "only itself": ([own], "TOO_FEW", ()),
        "two sites": ([bad, own], "TOO_FEW", ()),
    }


@pytest.mark.parametrize("defect", list(range(14)))
def test_a_list_of_peers_is_refused_by_its_first_defect(four: Any, me: SiteSession, listing: list[Keys], defect: int) -> None:
    name, (keys, code, sites) = list(kem_defects(four, listing).items())[defect]
    before = memory_of(me)
    assert code_of(lambda: me.kem(asked(keys), NOW), *sites) == code, name
    assert memory_of(me) == before


def test_a_small_list_does_not_shrink_the_colluders(rig: Any) -> None:
    many = rig(6, 3)
    few = [Keys.decode(many.sessions[site].keys(KeysRequest(1).encode(), NOW)) for site in many.sites[:4]]
    assert code_of(lambda: many.sessions["site-00"].kem(asked(few), NOW)) == "TOO_FEW"


def test_sites_that_were_shown_other_lists_share_no_epoch(rig: Any) -> None:
    """two_lists: an epoch over four of five, another over the other four; nobody answers in the wrong one."""
    five = rig(5, 1)
    keys = [Keys.decode(session.keys(KeysRequest(1).encode(), NOW)) for session in five.sessions.values()]
    first = Kem.decode(five.sessions["site-00"].kem(asked(keys[:4]), NOW))
    second = Kem.decode(five.sessions["site-04"].kem(asked(keys[1:]), NOW))
    assert first.epoch_id != second.epoch_id
    request = UpdateRequest(second.epoch_id, 1, "train", ()).encode()
    assert code_of(lambda: five.sessions["site-00"].begin_update(request, MODEL, NOW)) == "EPOCH"


# --- joining --------------------------------------------------------------------------------------------------------


def update_request(epoch: Epoch, site: str, number: int = 1, purpose: str = "train", **changes: Any) -> bytes:
    request = UpdateRequest(epoch.roll.epoch_id, number, purpose, epoch.routed[site])
    return replace(request, **changes).encode()


def kem_entry(four: Any, epoch: Epoch, sender: str, receiver: str, ciphertext: bytes) -> KemEntry:
    fields = KemEntry.signed_fields(epoch.roll.epoch_id, sender, receiver, ciphertext)
    return KemEntry(sender, ciphertext, sign(four.keys[sender], "kem", *fields))


@pytest.mark.parametrize("message", ["update", "vote"])
def test_ciphertexts_of_other_peers_or_signers_are_refused_at_first_use(four: Any, message: str) -> None:
    epoch = four.epoch()
    voting = four.uploads(epoch, lost=["site-02"]).close()
    first, second = epoch.routed["site-02"]
    swapped = replace(first, ciphertext=second.ciphertext)
    short = kem_entry(four, epoch, "site-00", "site-02", first.ciphertext[:-1])
    me = four.sessions["site-02"]
    before = memory_of(me)

    def ask(kems: tuple[KemEntry, ...]) -> bytes | Asked | Repeated:
        if message == "update":
            return me.begin_update(update_request(epoch, "site-02", kems=kems), MODEL, NOW)
        vote = VoteRequest.decode(voting.requests()["site-02"])
        return me.vote(replace(vote, kems=kems).encode(), NOW)

    assert code_of(lambda: ask((second,)), "site-00", "site-01") == "PEERS"
    assert code_of(lambda: ask((second, first))) == "PEERS"
    assert code_of(lambda: ask((first, second, second))) == "PEERS"
    assert code_of(lambda: ask((swapped, second)), "site-00") == "SIGNATURE"
    assert code_of(lambda: ask((short, swapped))) == "PEERS"
    assert code_of(lambda: ask((short, replace(second, signature=bytes(64)))), "site-01") == "SIGNATURE"
    assert code_of(lambda: ask((short, second)), "site-00") == "ENCODING"
    assert memory_of(me) == before
    assert ask((first, second))


def test_an_x25519_key_that_agrees_on_zero_is_refused(four: Any) -> None:
    keys = [Keys.decode(session.keys(KeysRequest(1).encode(), NOW)) for session in four.sessions.values()]
    keys[3] = resign(four, keys[3], x25519=bytes(32))
    me = four.sessions["site-00"]
    epoch_id = Kem.decode(me.kem(asked(keys), NOW)).epoch_id
    request = UpdateRequest(epoch_id, 1, "train", ()).encode()
    assert code_of(lambda: me.begin_update(request, MODEL, NOW), "site-03") == "ENCODING"


def test_a_joined_site_ignores_later_ciphertexts_and_has_no_private_keys_left(four: Any) -> None:
    epoch = four.epoch()
    me = four.sessions["site-02"]
    first = me.begin_update(update_request(epoch, "site-02"), MODEL, NOW)
    second = me.begin_update(update_request(epoch, "site-02", kems=()), MODEL, NOW)
    assert isinstance(first, Asked)
    assert isinstance(second, Asked)
    assert first.joined is second.joined
    assert not hasattr(first.joined, "secrets")


# --- updates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def epoch(four: Any) -> Epoch:
    return four.epoch()


def test_an_update_request_is_refused_by_its_first_defect(four: Any, epoch: Epoch, me: SiteSession) -> None:
    before = memory_of(me)
    cases = {
        "another epoch": (update_request(epoch, "site-02", 101, "predict", epoch_id=b"x" * 32, kems=()), NOW, "EPOCH"),
        "keys older than a day": (update_request(epoch, "site-02", 101, "predict", kems=()), NOW + DAY + 1, "EPOCH"),
        "clock behind the keys": (update_request(epoch, "site-02", 101, "predict", kems=()), NOW - 1, "EPOCH"),
        "unknown purpose": (update_request(epoch, "site-02", 101, "predict", kems=()), NOW, "ENCODING"),
        "beyond the plan": (update_request(epoch, "site-02", 101, kems=()), NOW, "ROUND"),
        "round 0": (update_request(epoch, "site-02", 0, kems=()), NOW, "ROUND"),
        "no ciphertexts": (update_request(epoch, "site-02", 1, kems=()), NOW, "PEERS"),
    }
    for name, (request, now, code) in cases.items():
        assert code_of(lambda request=request, now=now: me.begin_update(request, MODEL, now)) == code, name
    assert memory_of(me) == before


@pytest.mark.parametrize("purpose", ["train", "evaluate", "describe"])
def test_every_purpose_is_taken_up_to_the_last_second_of_a_day(epoch: Epoch, me: SiteSession, purpose: str) -> None:
    request = update_request(epoch, "site-02", 1, purpose)
    assert isinstance(me.begin_update(request, MODEL, NOW + DAY), Asked)


def test_a_restarted_site_takes_no_round_of_its_ledger_and_no_old_epoch(four: Any, epoch: Epoch) -> None:
    four.restart("site-02", last_round=5)
    me = four.sessions["site-02"]
    assert code_of(lambda: me.begin_update(update_request(epoch, "site-02", 6), MODEL, NOW)) == "EPOCH"
    fresh = four.epoch(2)
    assert code_of(lambda: me.begin_update(update_request(fresh, "site-02", 5), MODEL, NOW)) == "ROUND"
    assert isinstance(me.begin_update(update_request(fresh, "site-02", 6), MODEL, NOW), Asked)


def test_asking_takes_nothing_so_that_policy_may_refuse(epoch: Epoch, me: SiteSession) -> None:
    request = update_request(epoch, "site-02")
    me.begin_update(request, MODEL, NOW)
    assert me.last_round == 0
    assert isinstance(me.begin_update(request, MODEL, NOW), Asked)
    assert isinstance(me.begin_update(update_request(epoch, "site-02", 1, "evaluate"), MODEL, NOW), Asked)


def begin(session: SiteSession, epoch: Epoch, number: int = 1, site: str = "site-02") -> Asked:
    asked = session.begin_update(update_request(epoch, site, number), MODEL, NOW)
    assert isinstance(asked, Asked)
    return asked


def test_a_round_is_taken_once_whatever_happens_next(epoch: Epoch, me: SiteSession) -> None:
    first, second = begin(me, epoch), begin(me, epoch)
    me.take(first)
    assert me.last_round == 1
    assert code_of(lambda: me.take(second)) == "ROUND"
    assert code_of(lambda: begin(me, epoch)) == "ROUND"


def test_a_permission_ends_with_its_epoch(epoch: Epoch, me: SiteSession) -> None:
    asked, taken = begin(me, epoch, 2), me.take(begin(me, epoch, 1))
    me.keys(KeysRequest(2).encode(), NOW)
    assert code_of(lambda: me.take(asked)) == "EPOCH"
    assert code_of(lambda: me.finish_update(taken, HEADER, BODY)) == "ROUND"


def test_a_permission_gives_one_upload(epoch: Epoch, me: SiteSession) -> None:
    taken = me.take(begin(me, epoch))
    me.finish_update(taken, HEADER, BODY)
    assert code_of(lambda: me.finish_update(taken, HEADER, BODY)) == "ROUND"


def test_a_later_round_closes_the_one_in_training(epoch: Epoch, me: SiteSession) -> None:
    taken = me.take(begin(me, epoch, 1))
    me.take(begin(me, epoch, 2))
    assert code_of(lambda: me.finish_update(taken, HEADER, BODY)) == "ROUND"


def test_words_that_were_not_encoded_are_refused(epoch: Epoch, me: SiteSession) -> None:
    taken = me.take(begin(me, epoch))
    assert code_of(lambda: me.finish_update(taken, HEADER.astype(float), BODY)) == "ENCODING"  # type: ignore[arg-type]
    assert me.finish_update(taken, HEADER, BODY)


def test_the_same_request_gets_the_same_bytes_before_and_after_the_vote(four: Any, epoch: Epoch) -> None:
    phase = epoch.open_round(1, "train", MODEL, header_length=2, body_length=3)
    request = phase.requests()["site-02"]
    first = four.answer("site-02", request, 4.0)
    me = four.sessions["site-02"]
    again = me.begin_update(request, MODEL, NOW)
    assert isinstance(again, Repeated)
    assert (again.control, again.y) == first
    for site in ("site-00", "site-01"):
        phase = phase.receive(site, *four.answer(site, phase.requests()[site], 1.0))
    voting = phase.receive("site-02", *first).close()
    me.vote(voting.requests()["site-02"], NOW)
    after = me.begin_update(request, MODEL, NOW)
    assert isinstance(after, Repeated)
    assert (after.control, after.y) == first


def test_another_model_in_the_same_round_is_refused(four: Any, epoch: Epoch) -> None:
    """other_model: one bit of the model differs."""
    request = update_request(epoch, "site-02")
    four.answer("site-02", request, 4.0)
    assert code_of(lambda: four.sessions["site-02"].begin_update(request, b"x" * 32, NOW)) == "ROUND"


def test_the_vector_given_to_finish_is_not_changed(epoch: Epoch, me: SiteSession) -> None:
    header, body = HEADER.copy(), BODY.copy()
    _, y = me.finish_update(me.take(begin(me, epoch)), header, body)
    assert header.tolist() == HEADER.tolist()
    assert body.tolist() == BODY.tolist()
    assert y[:16] != header.tobytes()
    assert len(y) == 16 + 12


# --- votes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def voting(four: Any, epoch: Epoch) -> VotePhase:
    """Round 2, all four uploaded."""
    return four.uploads(epoch, 2).close()


def vote_request(voting: VotePhase, site: str = "site-02", **changes: Any) -> bytes:
    return replace(VoteRequest.decode(voting.requests()[site]), **changes).encode()


def masked(four: Any, voting: VotePhase, site: str, digest: bytes) -> Masked:
    """A survivor's entry over this round with any digest, truly signed by the site."""
    signature = sign(four.keys[site], "upload", voting.view.delta, text(site), digest)
    return Masked(site, digest, signature)


def test_a_vote_request_is_refused_by_its_first_defect(four: Any, voting: VotePhase, me: SiteSession) -> None:
    a, b, c, d = VoteRequest.decode(voting.requests()["site-02"]).survivors
    unsigned = replace(a, signature=bytes(64))
    not_mine = masked(four, voting, "site-02", b"z" * 32)
    stranger = replace(a, site="zzz")
    before = memory_of(me)
    cases: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
        "another epoch": ({"epoch_id": b"x" * 32, "round_number": 1, "survivors": (b, a)}, "EPOCH", ()),
        "a past round": ({"round_number": 1, "survivors": (b, a)}, "ROUND", ()),
        "beyond the plan": ({"round_number": 101, "survivors": (b, a)}, "ROUND", ()),
        "another model": ({"model_hash": b"x" * 32, "survivors": (b, a)}, "ROUND", ()),
        "another purpose": ({"purpose": "evaluate", "survivors": (b, a)}, "ROUND", ()),
        "descending": ({"survivors": (b, unsigned, stranger)}, "PEERS", ("site-01", "site-00")),
        "a duplicate": ({"survivors": (a, a, b)}, "PEERS", ("site-00", "site-00")),
        "a stranger": ({"survivors": (unsigned, stranger)}, "STRANGER", ("zzz",)),
        "a small view": ({"survivors": (unsigned, b)}, "TOO_FEW", ()),
        "an empty view": ({"survivors": ()}, "TOO_FEW", ()),
        "an unsigned upload": ({"survivors": (unsigned, b, not_mine), "sealed_shares": ()}, "SIGNATURE", ("site-00",)),
        "an upload of another round": ({"survivors": (replace(a, digest=b"q" * 32), b, c)}, "SIGNATURE", ("site-00",)),
        "not its own upload": ({"survivors": (a, b, not_mine), "sealed_shares": ()}, "OWN_UPLOAD", ("site-02",)),
        "too few shares": ({"sealed_shares": (b"", b"")}, "ENCODING", ()),
        "too many shares": ({"sealed_shares": (b"",) * 4}, "ENCODING", ()),
    }
    for name, (changes, code, sites) in cases.items():
        assert code_of(lambda changes=changes: me.vote(vote_request(voting, **changes), NOW), *sites) == code, name
    assert memory_of(me) == before
    assert me.vote(vote_request(voting, survivors=(a, b, c, d)), NOW)


def test_a_site_that_made_no_upload_is_not_counted_as_a_member(four: Any, epoch: Epoch) -> None:
    """phantom_member, and the same while the site is still training."""
    voting = four.uploads(epoch, 1, lost=["site-02"]).close()
    listed = VoteRequest.decode(voting.requests()["site-02"])
    phantom = (*listed.survivors[:2], masked(four, voting, "site-02", b"z" * 32))
    me = four.sessions["site-02"]
    assert code_of(lambda: me.vote(replace(listed, survivors=phantom).encode(), NOW)) == "OWN_UPLOAD"
    me.take(begin(me, epoch, 1))
    assert code_of(lambda: me.vote(replace(listed, survivors=phantom).encode(), NOW)) == "OWN_UPLOAD"


def test_a_second_view_gets_no_second_vote(four: Any, voting: VotePhase, me: SiteSession) -> None:
    request = VoteRequest.decode(voting.requests()["site-02"])
    smaller = replace(request, survivors=request.survivors[:3], sealed_shares=request.sealed_shares[:2]).encode()
    ballot = me.vote(request.encode(), NOW)
    assert me.vote(request.encode(), NOW) == ballot
    assert code_of(lambda: me.vote(smaller, NOW)) == "VOTED"
    assert me.vote(request.encode(), NOW + 10 * DAY) == ballot


def test_the_vote_is_checked_before_the_shares_are_counted(voting: VotePhase, me: SiteSession) -> None:
    me.vote(vote_request(voting), NOW)
    request = VoteRequest.decode(voting.requests()["site-02"])
    assert code_of(lambda: me.vote(replace(request, survivors=request.survivors[:3], sealed_shares=()).encode(), NOW)) == "VOTED"


def test_a_site_without_an_upload_votes_and_then_no_longer_uploads(four: Any, epoch: Epoch) -> None:
    voting = four.uploads(epoch, 1, lost=["site-02"]).close()
    me = four.sessions["site-02"]
    taken = me.take(begin(me, epoch, 1))
    ballot = me.vote(voting.requests()["site-02"], NOW)
    assert Ballot.decode(ballot).view == voting.view_id
    assert code_of(lambda: me.finish_update(taken, HEADER, BODY)) == "ROUND"
    assert code_of(lambda: begin(me, epoch, 1)) == "ROUND"


def test_a_vote_in_a_fresh_round_uses_it_up(four: Any, epoch: Epoch) -> None:
    voting = four.uploads(epoch, 3, lost=["site-02"]).close()
    me = four.sessions["site-02"]
    me.vote(voting.requests()["site-02"], NOW)
    assert me.last_round == 3
    assert code_of(lambda: begin(me, epoch, 3)) == "ROUND"
    assert code_of(lambda: begin(me, epoch, 2)) == "ROUND"
    assert code_of(lambda: me.vote(vote_request(voting, model_hash=b"x" * 32), NOW)) == "ROUND"


def test_a_restarted_site_does_not_vote_in_the_old_epoch(four: Any, voting: VotePhase) -> None:
    four.restart("site-02", last_round=2)
    assert code_of(lambda: four.sessions["site-02"].vote(voting.requests()["site-02"], NOW)) == "EPOCH"


def test_no_vote_in_a_round_of_the_epoch_before(four: Any, voting: VotePhase, me: SiteSession) -> None:
    fresh = four.epoch(2)
    assert code_of(lambda: me.vote(voting.requests()["site-02"], NOW)) == "EPOCH"
    request = vote_request(voting, epoch_id=fresh.roll.epoch_id)
    assert code_of(lambda: me.vote(request, NOW)) == "ROUND"


def test_racing_votes_for_two_views_give_one_view(four: Any, voting: VotePhase, me: SiteSession) -> None:
    """vote_race: sixteen requests at once."""
    request = VoteRequest.decode(voting.requests()["site-02"])
    smaller = replace(request, survivors=request.survivors[:3], sealed_shares=request.sealed_shares[:2])
    requests = [request.encode(), smaller.encode()] * 8
    answers: list[bytes] = []
    refusals: list[str] = []
    barrier = threading.Barrier(len(requests))

    def ask(data: bytes) -> None:
        barrier.wait()
        try:
            answers.append(me.vote(data, NOW))
        except SecaggError as error:
            refusals.append(error.code)

    threads = [threading.Thread(target=ask, args=(data,)) for data in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals == ["VOTED"] * 8
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_nothing_secret_shows_in_what_a_person_may_print(four: Any, voting: VotePhase, me: SiteSession) -> None:
    state = me._round
    joined = me._epoch
    shown = f"{me!r} {state!r} {joined!r} {voting!r}"
    for secret in [*joined.pairs.values(), state.sent.y]:  # type: ignore[union-attr]
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    for share in state.own_shares:  # type: ignore[union-attr]
        assert str(share) not in shown


def test_an_upload_shows_its_dealer_only_commitments(four: Any, epoch: Epoch) -> None:
    phase = four.uploads(epoch, 1)
    upload = Upload.decode(phase.uploads["site-00"])
    assert len(upload.commitments) == 4
    assert len(upload.sealed_shares) == 3
    assert len(set(upload.commitments)) == 4
