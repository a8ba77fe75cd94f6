"""Every site checks the others' keys itself: a list or a ciphertext that is not exactly right is refused, and changes nothing.

Specification 4.3 and 4.10: shrunk_peers, duplicate_peers, stranger, key_substitution, two_lists, stale_keys, kem_swap.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from attacking import Attack, answers, resign_entry
from known_numbers import NOW

from consortium.identity import SigningKey
from secagg.errors import SecaggError
from secagg.joining import X25519_SEED_SIZE
from secagg.messages import Kem, KemEntry, KemRequest, Keys, KeysRequest, UpdateRequest, sign
from secagg.site import SiteSession


def listing(messages: Iterable[bytes]) -> bytes:
    return KemRequest(tuple(messages)).encode()


def refused_list(attack: Attack, site: str, messages: Iterable[bytes]) -> str:
    return attack.refused(site, "sa1_kem", listing(messages))


def refused_lists(attack: Attack, site: str, lists: Iterable[Iterable[bytes]]) -> list[str]:
    return attack.refusals(site, *(("sa1_kem", listing(messages)) for messages in lists))


def goes_on(attack: Attack, number: int) -> None:
    """The very epoch number that was attacked still makes an epoch of everybody, and a round of it opens."""
    attack.round(1, epoch=attack.epoch(number=number)).completes()


def forged(keys: Keys, key: SigningKey) -> bytes:
    """These keys under somebody's signature."""
    return replace(keys, signature=sign(key, "keys", *keys.signed_fields())).encode()


def own_keys(attack: Attack) -> tuple[bytes, bytes]:
    """(X25519, ML-KEM) public keys whose private ones the attacker has."""
    key = SigningKey.from_seed(b"m" * 32)
    context = replace(attack.run.context, identities={"mallory": key.public})
    made = Keys.decode(SiteSession(context, "mallory", key, 0, lambda size: b"m" * size).keys(KeysRequest(1).encode(), NOW))
    assert X25519_SEED_SIZE == 32
    return made.x25519, made.mlkem


def test_shrunk_peers_are_too_few_for_any_site(attack: Attack) -> None:
    """The site alone, the site and the colluders, two sites: below 3, below c+2, below the roster's smallest cohort."""
    messages = attack.keys_messages(1)
    site = attack.honest[0]
    for peers in ((site,), (site, *attack.colluders), (site, attack.honest[1]), (site, *attack.honest[1:2], *attack.colluders)):
        if len(peers) < max(3, attack.c + 2):
            shrunk = [messages[peer] for peer in sorted(set(peers))]
            assert refused_list(attack, site, shrunk) == "TOO_FEW"
    goes_on(attack, 1)


def test_shrunk_peers_cannot_be_had_by_a_smaller_plan(nearby: Attack) -> None:
    """At the smallest epoch that a site takes, t is still more than c plus one honest site."""
    least = max(3, nearby.c + 2)
    small = nearby.another(least)
    assert small.t - small.c >= 2
    round_ = small.round()
    assert round_.opens(small.sites, round_.votes(small.sites)) == small.sites


def test_duplicate_peers_are_refused(attack: Attack) -> None:
    messages = attack.keys_messages(1)
    site, (colluder, *_) = attack.honest[0], attack.colluders
    twice = [message for peer, message in messages.items() for _ in range(2 if peer == colluder else 1)]
    own_twice = [message for peer, message in messages.items() for _ in range(2 if peer == site else 1)]
    assert refused_lists(attack, site, [twice, own_twice, reversed(messages.values())]) == ["PEERS"] * 3
    goes_on(attack, 1)


def test_duplicate_peers_with_two_keys_of_one_colluder_are_refused(nearby: Attack) -> None:
    messages = nearby.keys_messages(1)
    site, (colluder, *_) = nearby.honest[0], nearby.colluders
    x25519, mlkem = own_keys(nearby)
    other = replace(Keys.decode(messages[colluder]), x25519=x25519, mlkem=mlkem)
    second = forged(other, nearby.home(colluder).load_identity())
    both = [one for peer, message in messages.items() for one in ((message, second) if peer == colluder else (message,))]
    assert refused_list(nearby, site, both) == "PEERS"
    goes_on(nearby, 1)


def test_stranger_in_the_list_is_refused(attack: Attack) -> None:
    """Somebody of no roster, and a site of the roster that the plan does not list."""
    small = attack.another(len(attack.sites) - 1)
    messages = small.keys_messages(1)
    site, outsider = small.honest[0], attack.sites[-1]
    keys = Keys.decode(messages[site])
    unknown = forged(replace(keys, site="zurich"), SigningKey.from_seed(b"z" * 32))
    unlisted = forged(replace(keys, site=outsider), attack.home(outsider).load_identity())
    for one in (unknown, unlisted):
        assert refused_list(small, site, [*messages.values(), one]) == "STRANGER"
    goes_on(small, 1)


def test_key_substitution_of_a_peer_is_refused(attack: Attack) -> None:
    """The coordinator in the middle: its own keys in the name of another, unsigned, signed by itself, signed by a colluder."""
    messages = attack.keys_messages(1)
    site, peer, (colluder, *_) = attack.honest[0], attack.honest[1], attack.colluders
    x25519, mlkem = own_keys(attack)
    keys = Keys.decode(messages[peer])
    middle = replace(keys, x25519=x25519, mlkem=mlkem)
    attempts = [
        middle.encode(),
        replace(keys, x25519=x25519).encode(),
        replace(keys, mlkem=mlkem).encode(),
        forged(middle, SigningKey.from_seed(b"m" * 32)),
        forged(middle, attack.home(colluder).load_identity()),
    ]
    lists = [(messages | {peer: attempt}).values() for attempt in attempts]
    assert refused_lists(attack, site, lists) == ["SIGNATURE"] * len(attempts)
    goes_on(attack, 1)


def test_key_substitution_of_ones_own_keys_is_refused(nearby: Attack) -> None:
    """Left out, altered, and - as if its identity key had been stolen - replaced under its own signature."""
    messages = nearby.keys_messages(1)
    site = nearby.honest[0]
    x25519, mlkem = own_keys(nearby)
    middle = replace(Keys.decode(messages[site]), x25519=x25519, mlkem=mlkem)
    stolen = forged(middle, nearby.home(site).load_identity())
    without = [message for peer, message in messages.items() if peer != site]
    lists = [without, (messages | {site: middle.encode()}).values(), (messages | {site: stolen}).values()]
    assert refused_lists(nearby, site, lists) == ["OWN_KEY", "SIGNATURE", "OWN_KEY"]
    goes_on(nearby, 1)


def test_key_substitution_by_a_key_that_agrees_on_zero_is_refused_where_it_is_used(nearby: Attack) -> None:
    """A colluder's X25519 key of small order: known secret for everybody. Refused when the pair key would be made."""
    messages = nearby.keys_messages(1)
    (colluder, *_) = nearby.colluders
    key = nearby.home(colluder).load_identity()
    weak = forged(replace(Keys.decode(messages[colluder]), x25519=bytes(32)), key)
    shown = [(messages | {colluder: weak})[site] for site in nearby.sites]
    kems = answers(nearby.ask_all("sa1_kem", dict.fromkeys(nearby.honest, listing(shown))))
    site = nearby.honest[0]
    assert site < colluder, "needs no ciphertext of anybody lower"
    request = UpdateRequest(_epoch_id(kems[site]), 1, "train", ()).encode()
    assert nearby.refused(site, "sa1_update", request, nearby.model) == "ENCODING"
    goes_on(nearby, 2)


def _epoch_id(kem: bytes) -> bytes:
    return Kem.decode(kem).epoch_id


def test_two_lists_are_one_too_many_for_a_site(nearby: Attack) -> None:
    messages = nearby.keys_messages(1)
    site = nearby.honest[0]
    whole, part = list(messages.values()), list(messages.values())[:-1]
    first = nearby.ask(site, "sa1_kem", listing(whole))
    assert refused_list(nearby, site, part) == "EPOCH"
    assert nearby.ask(site, "sa1_kem", listing(whole)) == first
    goes_on(nearby, 1)


def test_two_lists_for_two_groups_give_neither_a_round(attack: Attack) -> None:
    """They share no T: what one group signs is refused by the other, whatever the coordinator carries between them."""
    messages = attack.keys_messages(1)
    half = len(attack.honest) // 2
    lower, higher = attack.honest[:half], attack.honest[half:]
    lists = {site: listing(messages.values()) for site in lower}
    lists |= {site: listing(list(messages.values())[1:]) for site in higher}
    kems = answers(attack.ask_all("sa1_kem", lists))
    ids = {site: _epoch_id(kem) for site, kem in kems.items()}
    assert len(set(ids.values())) == 2
    site = higher[-1]
    entries = tuple(_entry_for(kems[peer], peer, site) for peer in attack.honest if peer < site)
    colluding = {name: session.kem(listing(messages.values()), NOW) for name, session in attack.colluders.items()}
    entries = (*entries, *(_entry_for(kem, name, site) for name, kem in colluding.items() if name < site))
    entries = tuple(sorted(entries, key=lambda entry: entry.peer))
    theirs = UpdateRequest(ids[lower[0]], 1, "train", entries)
    ours = UpdateRequest(ids[site], 1, "train", tuple(entry for entry in entries if entry.peer != attack.sites[0]))
    assert attack.refused(site, "sa1_update", theirs.encode(), attack.model) == "EPOCH"
    assert attack.refused(site, "sa1_update", ours.encode(), attack.model) == "SIGNATURE"
    goes_on(attack, 2)


def _entry_for(kem: bytes, sender: str, receiver: str) -> KemEntry:
    return next(replace(entry, peer=sender) for entry in Kem.decode(kem).entries if entry.peer == receiver)


def test_stale_keys_of_an_earlier_epoch_or_another_run_are_refused(attack: Attack) -> None:
    earlier = attack.keys_messages(1)
    elsewhere = attack.another().keys_messages(2)
    messages = attack.keys_messages(2)
    site = attack.honest[0]
    peers = (attack.honest[1], next(iter(attack.colluders)), site)
    mixed = [(messages | {peer: stale[peer]}).values() for stale in (earlier, elsewhere) for peer in peers]
    assert refused_lists(attack, site, [*mixed, earlier.values(), elsewhere.values()]) == ["EPOCH"] * 8
    assert attack.refused(site, "sa1_keys", KeysRequest(1).encode()) == "EPOCH"
    goes_on(attack, 2)


def test_kem_swap_is_refused_at_the_first_use(attack: Attack) -> None:
    """At the highest site: ciphertexts exchanged, meant for another, the coordinator's own, missing, of the epoch before."""
    before = attack.epoch(number=1)
    epoch = attack.epoch(number=2)
    site = attack.honest[-1]
    request = UpdateRequest.decode(attack.run.open_round(epoch, 1).requests()[site])
    first, second, *rest = request.kems
    (colluder, *_) = attack.colluders
    meant_for_another = next(entry for entry in epoch.routed[attack.honest[-2]] if entry.peer == first.peer)
    attempts = {
        "SIGNATURE": [
            (replace(first, ciphertext=second.ciphertext), replace(second, ciphertext=first.ciphertext), *rest),
            (replace(second, peer=first.peer), replace(first, peer=second.peer), *rest),
            (meant_for_another, second, *rest),
            (replace(first, ciphertext=bytes(1088)), second, *rest),
            before.routed[site],
        ],
        "PEERS": [(first, *rest), (second, first, *rest), (), (*request.kems, first)],
        "ENCODING": [
            tuple(
                resign_entry(attack, epoch.roll.epoch_id, colluder, site, bytes(1087)) if entry.peer == colluder else entry
                for entry in request.kems
            )
        ],
    }
    assert colluder < site
    expected = [(code, replace(request, kems=kems).encode()) for code, lists in attempts.items() for kems in lists]
    assert attack.refusals(site, *(("sa1_update", altered) for _, altered in expected)) == [code for code, _ in expected]
    assert attack.spends(site) == 0
    attack.round(1, epoch=epoch).completes()


def test_kem_swap_of_a_colluders_signed_rubbish_costs_the_round_and_nothing_else(nearby: Attack) -> None:
    """A well-formed ciphertext that nobody made: the pair shares no key, the colluder's deal does not open, its name is known."""
    epoch = nearby.epoch()
    site, (colluder, *_) = nearby.honest[-1], nearby.colluders
    rubbish = resign_entry(nearby, epoch.roll.epoch_id, colluder, site, bytes(1088))
    routed = tuple(rubbish if entry.peer == colluder else entry for entry in epoch.routed[site])
    broken = replace(epoch, routed={**epoch.routed, site: routed})
    round_ = nearby.round(1, epoch=broken)
    with pytest.raises(SecaggError, match="SPOILED"):
        round_.open(nearby.sites, round_.votes(nearby.sites))
    without = nearby.round(2, epoch=broken, lost=[colluder])
    opened = without.open(without.uploads, without.votes(without.uploads))
    assert without.members(opened) == tuple(without.uploads)
    assert {frozenset(finding.sites) for finding in opened.findings if finding.what == "box"} == {frozenset({site, colluder})}
