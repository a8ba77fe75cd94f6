"""The fifteen known defects of Flower 1.42 SecAgg+ (specification, section 2): the same move fails here.

What a defect shares with an attack script is only touched here; the script's own test goes into it.
"""

import base64
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from attacking import (
    CLIP,
    Attack,
    Round,
    answer_of,
    code_of,
    is_answer,
    pairs,
    secrets_of,
    step_of,
    uniform,
    wide_model,
)

from client.relay import INLINE_LIMIT
from consortium.canonical import integer, pack, unpack
from consortium.documents import to_document
from consortium.plan import Participant
from consortium.wire import Request, encode_keys_request
from secagg import derive
from secagg import field as element
from secagg.encoding import Update, decode_body
from secagg.errors import SecaggError
from secagg.masks import BODY_SECTION, HEADER_SECTION, MaskKeys, apply_masks, keystream, mask_key
from secagg.messages import Ballot, Kem, KemRequest, Keys, KeysRequest, UpdateRequest, Upload

WIDE = 20_000  # parameters: enough bytes to tell uniform from not
LARGE = 70_000  # parameters: a y that does not ride beside the control bytes
InProcess = Callable[[int, int], Attack]


# -- F1 to F5: names, peers, lists, ring, keys -------------------------------------------------------------------------


def test_f01_another_name_of_the_message_gets_no_update(attack: Attack) -> None:
    names = ("train.default", "train", "get_parameters", "evaluate")
    site = attack.honest[0]
    asking = attack.open_round(attack.epoch(), 1).asking
    request = attack.request("sa1_update", asking.requests()[site], attack.model)
    carried = attack.line.volley(site, [(name, request) for name in names])
    assert [code_of(one.reply) for one in carried] == ["UNKNOWN_KIND"] * len(names)
    assert [one.arrays for one in carried] == [()] * len(names)
    assert attack.spends(site) == 0


def test_f02_the_server_cannot_choose_a_peer_set_of_one(nearby: Attack) -> None:
    """{itself} and threshold 1: no pair mask, and a self mask that the server may open."""
    site = nearby.honest[0]
    messages = nearby.keys_messages(1)
    assert nearby.refused(site, "sa1_kem", KemRequest((messages[site],)).encode()) == "TOO_FEW"
    round_ = nearby.round(epoch=nearby.epoch(number=1))
    assert round_.refused_vote(site, round_.vote_request(site, [site])) == "TOO_FEW"
    round_.completes()


def test_f03_no_site_is_counted_twice_or_as_both_present_and_gone(nearby: Attack) -> None:
    """What opens of one site is b where it is in the set, pair masks where it is not; of no site both."""
    round_ = nearby.round()
    site, gone = nearby.honest[0], nearby.honest[-1]
    present = [name for name in nearby.sites if name != gone]
    request = round_.vote_request(site, nearby.sites)
    twice = tuple(sorted((*request.survivors, request.survivors[0]), key=lambda one: one.site))
    assert round_.refused_vote(site, replace(request, survivors=twice)) == "PEERS"
    ballots = round_.votes(present)
    assert round_.refused_vote(site, round_.vote_request(site, nearby.sites)) == "VOTED"
    assert round_.opens(present, ballots) == tuple(present)
    assert set(round_.pair_masks(present, ballots)) == {(name, gone) for name in present}
    view_id = round_.view(present).view_id
    answers = unpack(round_.crack(site, view_id, ballots.values()) or b"")
    assert [len(one) for one in answers] == [2 * element.ELEMENT_SIZE] * len(present)


def test_f04_the_server_does_not_choose_the_ring(attack: Attack) -> None:
    """No request has a place for it, and the plan's is under the lead's signature; masks fill every byte of the words."""
    wide = attack.another(numbers="zero", model=wide_model(WIDE))
    site = wide.honest[0]
    epoch = wide.epoch()
    request = UpdateRequest(epoch.roll.epoch_id, 1, "train", epoch.routed[site])
    with_ring = pack(*unpack(request.encode()), integer(2))
    assert wide.refused(site, "sa1_update", with_ring, wide.model) == "ENCODING"
    altered = to_document(wide.plan) | {"ring_bits": 2 if wide.plan.ring_bits == 32 else 32}
    signed = replace(wide.signed, body=json.dumps(altered, sort_keys=True, separators=(",", ":")).encode("ascii"))
    keys = Request(encode_keys_request(signed.encode(), KeysRequest(2).encode()))
    (reply,) = wide.line.exchange("sa1_keys", {site: keys}).values()
    assert code_of(reply) in ("PLAN_SIGNATURE", "UNDECODABLE")
    round_ = wide.round(epoch=epoch)
    assert all(uniform(np.frombuffer(y, np.uint8)) for _, y in round_.uploads.values())


def test_f05_the_server_cannot_put_its_keys_in_a_sites_place(nearby: Attack) -> None:
    messages = nearby.keys_messages(1)
    site, peer, (colluder, *_) = nearby.honest[0], nearby.honest[1], nearby.colluders
    theirs, ours = Keys.decode(messages[peer]), Keys.decode(messages[colluder])
    middle = replace(theirs, x25519=ours.x25519, mlkem=ours.mlkem).encode()
    listed = KemRequest(tuple((messages | {peer: middle}).values())).encode()
    assert nearby.refused(site, "sa1_kem", listed) == "SIGNATURE"
    nearby.round(epoch=nearby.epoch(number=1)).completes()


# -- F6: seeds ---------------------------------------------------------------------------------------------------------


def test_f06_every_mask_has_a_key_of_256_bits_that_occurs_once(attack: Attack) -> None:
    """b, e and their AES keys of all honest sites in two rounds. A value below 2^128 would be one chance in 2^127."""
    first = attack.round(1)
    rounds = (first, attack.round(2, epoch=first.epoch))
    found = [secrets_of(round_) for round_ in rounds]
    values = [
        value
        for secrets in found
        for value in (*secrets.self_masks.values(), *{tuple(sorted(k)): v for k, v in secrets.pair_masks.items()}.values())
    ]
    keys = [mask_key(value, round_.delta) for round_ in rounds for value in values]
    pair_keys = list(found[0].pair_keys.values())
    assert len(set(values)) == len(values)
    assert len(set(keys)) == len(keys)
    assert len(set(pair_keys)) == len(pair_keys)
    assert {len(key) for key in (*keys, *pair_keys)} == {32}
    assert min(values) > 2**128
    assert min(int.from_bytes(key, "big") for key in (*keys, *pair_keys)) > 2**128


def test_f06_the_known_word_of_a_header_is_all_that_the_passive_break_gets(nearby: Attack) -> None:
    """Word 0 of a header is 1, and b is opened: what remains of y's first word is the sum of the pair masks' first words.

    In Flower it fell to a search over 2^28 seeds. Here a colluder takes its own mask off, and holds eight bytes of a keystream
    whose key is none of 2^32, of 2^64: it is 256 bits of HKDF.
    """
    three = nearby.another(max(3, nearby.c + 2))
    round_ = three.round()
    assert round_.opens(three.sites, round_.votes(three.sites)) == three.sites
    site = three.honest[0]
    secrets = secrets_of(round_)
    delta, peers = round_.delta, round_.epoch.roll.others(site)
    known = {name: derive.pair_mask(pairs(session)[site], delta) for name, session in three.colluders.items()}
    unknown = {peer: secrets.pair_masks[site, peer] for peer in peers if peer not in known}
    header = np.frombuffer(round_.uploads[site][1][:8], "<u8").copy()
    apply_masks(header, np.zeros(0, "<u4"), off(site, delta, known, secrets.self_masks[site]))
    remaining = int(header[0]) - 1
    words = {peer: first_word(mask_key(value, delta)) for peer, value in unknown.items()}
    assert remaining % 2**64 == sum(word if peer > site else -word for peer, word in words.items()) % 2**64
    assert all(value > 2**128 for value in unknown.values())


def off(site: str, delta: bytes, masks: dict[str, int], self_mask: int) -> MaskKeys:
    """What takes these pair masks of `site`, and its b, off its y."""
    added = [value for peer, value in masks.items() if peer < site]
    removed = [value for peer, value in masks.items() if peer > site]
    return MaskKeys.of(delta, added=added, removed=[*removed, self_mask])


def first_word(key: bytes) -> int:
    return int.from_bytes(keystream(key, HEADER_SECTION, 8), "little")


def test_f06_no_seed_that_a_program_can_set_moves_a_key(in_process: InProcess) -> None:
    attack = in_process(5, 1)
    seen = []
    for number in (1, 2):
        random.seed(7)
        np.random.seed(7)  # the very generator that Flower's masks come from
        round_ = attack.round(number, epoch=attack.epoch(number=number))
        secrets = secrets_of(round_)
        seen.append({*secrets.pair_keys.values(), *map(element.encode, secrets.self_masks.values()), *round_.epoch.keys})
    assert seen[0].isdisjoint(seen[1])


# -- F7 to F9: repeats, clear text, sets -------------------------------------------------------------------------------


def test_f07_the_same_model_is_not_answered_again_with_other_peers(nearby: Attack) -> None:
    """Another epoch of fewer peers, the same round, the same model: the number is used, and each new number is charged."""
    schedule = replace(nearby.plan.schedule, rounds=2, max_train=2)
    bounded = nearby.another(schedule=schedule)
    site, outside = bounded.honest[0], bounded.honest[-1]
    bounded.round(1).completes()
    fewer = bounded.epoch([name for name in bounded.sites if name != outside])
    repeated = bounded.open_round(fewer, 1).asking.requests()[site]
    assert bounded.refused(site, "sa1_update", repeated, bounded.model) == "ROUND"
    bounded.round(2, epoch=fewer).completes()
    assert bounded.spends(site) == 2
    third = bounded.open_round(fewer, 3).asking.requests()[site]
    assert bounded.refused(site, "sa1_update", third, bounded.model) == "LIMIT"
    assert bounded.spends(site) == 2


def test_f08_no_count_or_metric_leaves_in_clear_beside_the_vector(attack: Attack) -> None:
    """Every byte that left is in the manifest: as one message of the protocol, or as the masked vector of it."""
    round_ = attack.round(2)
    round_.completes()
    assert round_.asking.total.header.size > 1, "a round with metrics"
    for site in attack.honest:
        left = [(kind, reply) for name, kind, reply in attack.left if name == site and is_answer(reply)]
        listed = [json.loads(line) for line in attack.egress(site).splitlines()]
        parts = [part for line in listed for part in line["parts"]]
        manifest = {(part["sha256"], part["bytes"], part["masked"]) for part in parts}
        seen = {(sha(reply.control), len(reply.control), False) for _, reply in left}
        seen |= {(sha(reply.body), len(reply.body), True) for _, reply in left if reply.body}
        assert seen == manifest
        assert {part["what"] for part in parts} == {"protocol message", "masked header and body"}
        for kind, reply in left:
            decoders = {"sa1_keys": Keys, "sa1_kem": Kem, "sa1_update": Upload, "sa1_vote": Ballot}
            assert decoders[kind].decode(answer_of(reply)).encode() == answer_of(reply)
            assert bool(reply.body) == (kind == "sa1_update")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_f09_a_set_that_is_too_small_or_not_the_same_for_all_opens_nothing(nearby: Attack) -> None:
    round_ = nearby.round()
    site = nearby.honest[0]
    others = [name for name in nearby.sites if name != site]
    assert round_.refused_vote(site, round_.vote_request(site, others[: nearby.t - 1])) == "TOO_FEW"
    shown = {name: nearby.sites if at % 2 else others for at, name in enumerate(nearby.honest)}
    ballots = round_.vote(shown)
    for view in (nearby.sites, others):
        mine = {name: ballots[name] for name in nearby.honest if shown[name] == view}
        with pytest.raises(SecaggError, match="NOT_OPENABLE"):
            round_.open(view, mine)


# -- F10, F11: derivations and keystream -------------------------------------------------------------------------------


def test_f10_masks_are_bound_to_run_epoch_round_model_and_purpose() -> None:
    """One pair key, one thing changed at a time: another value, and a keystream that has nothing to do with the first."""
    pair = b"\x07" * 32
    base = (b"T" * 32, 1, b"M" * 32, "train")
    changed = [base, (b"U" * 32, *base[1:]), (base[0], 2, *base[2:]), (*base[:2], b"N" * 32, "train"), (*base[:3], "evaluate")]
    deltas = [derive.round_id(*one) for one in changed]
    streams = []
    for delta in deltas:
        key = mask_key(derive.pair_mask(pair, delta), delta)
        streams += [np.frombuffer(keystream(key, section, 1 << 18), np.uint8) for section in (HEADER_SECTION, BODY_SECTION)]
    assert len(streams) == 10
    for one, other in combinations(streams, 2):
        assert uniform(one ^ other)
        assert uniform(one - other)


def test_f10_runs_rounds_and_models_that_a_server_repeats_show_no_difference(nearby: Attack) -> None:
    """Updates of zero, the same model or one of one bit more: the difference of any two vectors of a site is still uniform."""
    runs = [nearby.another(numbers="zero", model=wide_model(WIDE)) for _ in range(2)]
    site = runs[0].honest[0]
    first = runs[0].round(1)
    again = runs[0].round(3, epoch=first.epoch)
    altered = runs[0].open_round(first.epoch, 5, model=runs[0].model[:-4] + b"\x01\x00\x00\x00")
    altered.upload([site])
    vectors = [np.frombuffer(one.uploads[site][1], np.uint8) for one in (first, again, altered, runs[1].round(1))]
    assert len({len(vector) for vector in vectors}) == 1
    for one, other in combinations(vectors, 2):
        assert uniform(one - other)
        assert uniform(one ^ other)


def test_f10_a_sealed_share_is_bound_to_its_round_dealer_receiver_and_upload(nearby: Attack) -> None:
    first = nearby.round(1)
    second = nearby.round(2, epoch=first.epoch)
    dealer, (receiver, *_) = nearby.honest[0], nearby.colluders
    roll, key = first.epoch.roll, pairs(nearby.colluders[receiver])[dealer]
    sealed = first.message(dealer).sealed_shares[roll.others(dealer).index(receiver)]
    true = (first.delta, dealer, receiver, first.message(dealer).masked)
    others = [
        (second.delta, *true[1:]),
        (first.delta, receiver, dealer, true[3]),
        (*true[:3], second.message(dealer).masked),
        (*true[:3], first.message(receiver).masked),
    ]
    directed = {derive.share_key(key, first.delta, *pair) for pair in ((dealer, receiver), (receiver, dealer))}
    assert len(directed) == 2
    assert opened(key, sealed, *true) is not None
    assert [opened(key, sealed, *one) for one in others] == [None] * 4


def opened(pair: bytes, sealed: bytes, delta: bytes, dealer: str, receiver: str, masked: bytes) -> bytes | None:
    return derive.unseal(derive.share_key(pair, delta, dealer, receiver), derive.share_aad(delta, dealer, receiver, masked), sealed)


@pytest.mark.parametrize(("word", "block", "place"), [(2**32 - 2, 193_647_112, 2), (2**32 - 1, 310_682_151, 2)])
def test_f11_mask_words_reach_the_two_values_that_flower_leaves_out(word: int, block: int, place: int) -> None:
    """Found by a search of five gigabytes of one mask's body keystream; the stream is seekable, so the test looks there."""
    delta = derive.round_id(bytes(32), 1, bytes(32), "train")
    words = np.frombuffer(keystream(mask_key(1, delta), BODY_SECTION, 16, first_block=block), "<u4")
    assert int(words[place]) == word


# -- F12, F13: what is not what it should be ---------------------------------------------------------------------------


def damaged(message: bytes) -> Iterator[bytes]:
    """Each field empty, a zero byte, or a list of one empty item; a field left out; one more that is empty."""
    fields = list(unpack(message))
    for at in range(1, len(fields)):
        for falsy in (b"", b"\x00", *([pack(b"")] if len(fields[at]) != len(pack(b"")) else [])):  # else a number
            yield pack(*fields[:at], falsy, *fields[at + 1 :])
    yield pack(*fields[:-1])
    yield pack(*fields, b"")


def test_f12_empty_and_wrong_typed_elements_are_refused_in_every_request(nearby: Attack) -> None:
    """Also where Flower's check of a list took any element that is false. Kem entries are not read once a site has its keys."""
    round_ = nearby.round()
    site = nearby.honest[0]
    vote = round_.vote_request(site, nearby.sites).encode()
    update = round_.asking.requests()[site]
    requests = {
        "sa1_keys": [*damaged(KeysRequest(2).encode())],
        "sa1_kem": [*damaged(KemRequest(round_.epoch.keys).encode())],
        "sa1_update": [*damaged(update)],
        "sa1_vote": [*damaged(vote)],
    }
    before = nearby.ledger(site), nearby.egress(site)
    for kind, messages in requests.items():
        body = nearby.model if kind == "sa1_update" else b""
        names = {"sa1_update": "train.sa1_update"}
        sent = [(names.get(kind, f"query.{kind}"), nearby.request(kind, message, body)) for message in messages]
        codes = [code_of(one.reply) for one in nearby.line.volley(site, sent)]
        assert set(codes) <= ({"ENCODING", "EPOCH"} if kind == "sa1_kem" else {"ENCODING"})
    assert (nearby.ledger(site), nearby.egress(site)) == before
    round_.completes()


def test_f13_a_weight_or_an_update_beyond_its_limit_never_wraps(nearby: Attack) -> None:
    """Bodies of 1e30 from every site saturate at the clip: the sum is the clip, not some value of the ring."""
    large = nearby.another(numbers="largebody")
    round_ = large.round()
    aggregate = round_.open(large.sites, round_.votes(large.sites))
    assert np.allclose(decode_body(aggregate.body, CLIP, len(large.sites), ring_bits=large.plan.ring_bits), CLIP, rtol=1e-6)
    assert step_of(large) * CLIP * len(large.sites) ** 2 <= 2.0 ** (large.plan.ring_bits - 1)


def test_f13_a_metric_beyond_its_limit_leaves_no_vector_and_stays_charged(attack: Attack) -> None:
    large = attack.another(numbers="largeheader")
    site = large.honest[0]
    epoch = large.epoch()
    request = large.open_round(epoch, 2).asking.requests()[site]
    before = large.egress(site)
    assert code_of(large.ask(site, "sa1_update", request, large.model)) == "RANGE"
    assert large.egress(site) == before
    assert large.spends(site) == 1
    assert large.refused(site, "sa1_update", request, large.model) == "ROUND"


def test_f13_weights_are_shares_of_one_whatever_sizes_a_plan_declares(nearby: Attack) -> None:
    sizes = [10**7, 1, *[50] * (len(nearby.sites) - 2)]
    participants = tuple(Participant(site, at + 1, size) for at, (site, size) in enumerate(zip(nearby.sites, sizes, strict=True)))
    plan = nearby.another(participants=participants).plan
    assert sum(plan.weight(site) for site in plan.sites) == pytest.approx(1.0)
    for weight in (1.0 + 1e-9, 2.0, 0.0, -1.0, float("nan")):
        with pytest.raises(SecaggError, match="RANGE"):
            Update(np.zeros(1), weight=weight, clip=1.0, n=5, entropy=os.urandom)


# -- F14, F15: storage -------------------------------------------------------------------------------------------------


def spellings(secret: bytes) -> Iterator[bytes]:
    """As bytes, in hex, and in base64 at any alignment, of either alphabet."""
    yield secret
    yield secret[::-1]
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        for encoded in (base64.b64encode, base64.urlsafe_b64encode):
            yield encoded(bytes(shift) + secret)[4 * bool(shift) : -4]


def found_in(folder: Path, secrets: dict[str, bytes]) -> list[tuple[str, str]]:
    """(file, secret's name) of every secret that any file below the folder holds, in any spelling."""
    forms = [(name, form) for name, secret in secrets.items() for form in spellings(secret)]
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += [(path.name, name) for name, form in forms if form in data]
    return found


def named_secrets(round_: Round) -> dict[str, bytes]:
    secrets = secrets_of(round_)
    named = {f"x25519 {site}": keys[0] for site, keys in secrets.private_keys.items()}
    named |= {f"mlkem {site}": keys[1] for site, keys in secrets.private_keys.items()}
    named |= {f"pair {pair}": key for pair, key in secrets.pair_keys.items()}
    named |= {f"pair mask {pair}": element.encode(value) for pair, value in secrets.pair_masks.items()}
    named |= {f"self mask {site}": element.encode(value) for site, value in secrets.self_masks.items()}
    for pair, row in secrets.shares.items():
        named |= {f"share {place} of {pair}": element.encode(value) for place, value in enumerate(row)}
    for site in round_.honest:  # all that was drawn, whatever for, but nonces: coefficients, kappa, dither
        named |= {f"draw {at} of {site}": draw for at, draw in enumerate(round_.attack.drawn(site)[-60:]) if len(draw) >= 32}
    return named


def test_f14_no_secret_of_the_protocol_is_in_any_file_of_a_site(attack: Attack) -> None:
    """Keys, masks, shares and everything else the guard drew, as bytes, hex and base64, after a whole round and a vote."""
    round_ = attack.round()
    secrets = named_secrets(round_)
    round_.completes()
    secrets |= {f"later {name}": secret for name, secret in named_secrets(round_).items() if secret not in secrets.values()}
    assert len(secrets) > 100
    for site in attack.honest:
        assert found_in(attack.home(site).root, secrets) == []
        gateway = attack.line.folder / f"{site}-gateway"
        assert found_in(gateway, secrets) == []


@pytest.mark.parametrize("spelled", [bytes, lambda key: key.hex().encode(), lambda key: base64.b64encode(b"k=" + key + b"!")])
def test_f14_the_scan_finds_a_secret_that_is_there(tmp_path: Path, spelled: Callable[[bytes], bytes]) -> None:
    key = os.urandom(32)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "state").write_bytes(b"key: " + spelled(key) + b" end of it")
    assert found_in(tmp_path, {"key": key, "other": os.urandom(32)})[0] == ("state", "key")


def test_f15_a_large_vector_travels_in_the_chunked_store_and_a_small_one_beside_its_control(attack: Attack) -> None:
    for parameters, arrays in ((100, ()), (LARGE, ("body",))):
        wide = attack.another(model=wide_model(parameters))
        site = wide.honest[0]
        round_ = wide.open_round(wide.epoch(), 1)
        request = wide.request("sa1_update", round_.asking.requests()[site], wide.model)
        (carried,) = wide.line.volley(site, [("train.sa1_update", request)])
        assert carried.arrays == arrays
        assert (len(carried.reply.body) > INLINE_LIMIT) == bool(arrays)
        round_.uploads[site] = answer_of(carried.reply), carried.reply.body
    round_.upload([name for name in wide.sites if name != site])
    round_.completes()
