"""What a restart, an old disk, a changed set or another message name gives an attacker: no second answer, and nothing unmasked.

Specification 4.6, 4.7 and 4.10: restart, restored_disk, header_difference, relay_bypass.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from attacking import QUIET, Attack, Round, answer_of, code_of, is_answer
from guards_in_process import terms
from known_numbers import patients_of

from privacy.verify import compare
from secagg.encoding import decode_header
from secagg.messages import KemRequest, KeysRequest


def restart(attack: Attack, site: str) -> None:
    attack.line.stop(site)
    assert attack.line.start(site)


def refuses_the_old_epoch(attack: Attack, site: str, round_: Round) -> None:
    """Every request, also for another view; and all again once the guard has fresh keys under the old epoch's number."""
    update = round_.asking.requests()[site]
    others = [name for name in attack.sites if name != site]
    listing = KemRequest(round_.epoch.keys).encode()
    vote, other = (round_.vote_request(site, view).encode() for view in (attack.sites, others))
    asked = (("sa1_kem", listing), ("sa1_update", update), ("sa1_vote", vote), ("sa1_vote", other))
    assert attack.refusals(site, *asked) == ["EPOCH"] * 4
    fresh = answer_of(attack.ask(site, "sa1_keys", KeysRequest(round_.epoch.roll.number).encode()))
    assert fresh not in round_.epoch.keys
    assert attack.refusals(site, *asked) == ["OWN_KEY", "EPOCH", "EPOCH", "EPOCH"]


# -- restart -----------------------------------------------------------------------------------------------------------


def test_restart_between_upload_and_vote_forgets_the_epoch_and_keeps_the_spend(attack: Attack) -> None:
    round_ = attack.round()
    site, others = attack.honest[0], [name for name in attack.sites if name != attack.honest[0]]
    restart(attack, site)
    refuses_the_old_epoch(attack, site, round_)
    assert attack.spends(site) == 1
    assert round_.opens(attack.sites, round_.votes(attack.sites, others)) == attack.sites
    epoch = attack.epoch(number=2)
    again = attack.open_round(epoch, 1).asking.requests()[site]
    assert attack.refused(site, "sa1_update", again, attack.model) == "ROUND"
    attack.round(2, epoch=epoch).completes()
    assert attack.spends(site) == 2


def test_restart_after_the_vote_gives_no_second_vote(nearby: Attack) -> None:
    round_ = nearby.round()
    site = nearby.honest[0]
    ballots = round_.votes(nearby.sites)
    restart(nearby, site)
    refuses_the_old_epoch(nearby, site, round_)
    assert round_.opens(nearby.sites, ballots) == nearby.sites
    nearby.round(2, epoch=nearby.epoch(number=2)).completes()


# -- restored_disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> "Disk":
    return Disk(tmp_path)


@dataclass(frozen=True)
class Disk:
    """Images of a site's home."""

    folder: Path

    def image(self, attack: Attack, site: str, name: str) -> Path:
        kept = self.folder / name
        shutil.copytree(attack.home(site).root, kept)
        return kept

    def restore(self, attack: Attack, site: str, image: Path) -> None:
        home = attack.home(site).root
        shutil.rmtree(home)
        shutil.copytree(image, home)


def test_restored_disk_of_before_the_round_answers_nothing_of_the_old_epoch(attack: Attack, disk: Disk) -> None:
    """The ledger and its head rolled back together open (its README names the limit); the keys are gone all the same.

    In a new epoch the site is one that never took the round: a sum of its own, with masks that are in no earlier message. The
    charge that its ledger forgot shows as soon as anybody compares it with a copy of the newer one.
    """
    epoch = attack.epoch()
    site = attack.honest[0]
    image = disk.image(attack, site, "before")
    round_ = attack.round(1, epoch=epoch)
    first, ballots = round_.uploads[site], round_.votes(attack.sites)
    newer = attack.home(site).ledger.read_bytes()
    attack.line.stop(site)
    newest = disk.image(attack, site, "newest")
    disk.restore(attack, site, image)
    try:
        assert attack.line.start(site)
        assert attack.spends(site) == 0
        refuses_the_old_epoch(attack, site, round_)
        assert attack.spends(site) == 0
        assert round_.opens(attack.sites, ballots) == attack.sites
        again = attack.epoch(number=2)
        assert again.roll.keys[site] != epoch.roll.keys[site]
        request = attack.open_round(again, 1).asking.requests()[site]
        second = attack.ask(site, "sa1_update", request, attack.model)
        assert (answer_of(second), second.body) != first
        assert attack.spends(site) == 1
        assert "fork" in compare([attack.home(site).ledger.read_bytes(), newer])[0]
    finally:
        attack.line.stop(site)
        disk.restore(attack, site, newest)
        assert attack.line.start(site)
    attack.round(2, epoch=attack.epoch(number=3)).completes()
    assert attack.spends(site) == 2


def test_restored_disk_with_an_older_ledger_alone_is_refused_at_the_start(nearby: Attack, disk: Disk) -> None:
    epoch = nearby.epoch()
    site = nearby.honest[0]
    image = disk.image(nearby, site, "before")
    round_ = nearby.round(1, epoch=epoch)
    nearby.line.stop(site)
    ledger = nearby.home(site).ledger
    newest = ledger.read_bytes()
    ledger.write_bytes((image / ledger.name).read_bytes())
    try:
        assert not nearby.line.start(site)
        others = [name for name in nearby.sites if name != site]
        assert round_.opens(nearby.sites, round_.votes(nearby.sites, others)) == nearby.sites
    finally:
        ledger.write_bytes(newest)
        assert nearby.line.start(site)
    assert nearby.spends(site) == 1
    nearby.round(2, epoch=nearby.epoch(number=2)).completes()


# -- header_difference -------------------------------------------------------------------------------------------------


def patients_in(round_: Round, survivors: tuple[str, ...]) -> float:
    aggregate = round_.open(survivors, round_.votes(survivors))
    assert round_.members(aggregate) == survivors
    return float(decode_header(aggregate.header)[1][0])


def differences(attack: Attack, victim: str, pairs: int) -> list[float]:
    """The victim's patient count as two sums tell it, over everybody and over all but the victim, again and again."""
    epoch = attack.epoch()
    found = []
    for number in range(1, 2 * pairs, 2):
        everybody = patients_in(attack.round(number, epoch=epoch), attack.sites)
        without = attack.round(number + 1, epoch=epoch, lost=[victim])
        found.append(everybody - patients_in(without, tuple(without.uploads)))
    return found


def counted(attack: Attack, numbers: str) -> Attack:
    return attack.another(numbers=numbers, privacy=terms(**QUIET, count_noise=8.0))


def test_header_difference_reads_an_exact_count_off_two_sums(nearby: Attack) -> None:
    """The limit: were counts released exactly, two survivor sets would give one hospital's."""
    exact = counted(nearby, "powers")
    victim = exact.honest[-1]
    assert differences(exact, victim, 1) == [patients_of(exact.plan, victim)]


def test_header_difference_gives_a_count_with_noise_that_no_repetition_takes_away(attack: Attack) -> None:
    """The trainer draws fresh noise in each round; what leaves the guard is the run's first draw."""
    noised = counted(attack, "noised")
    victim = noised.honest[-1]
    first, *again = differences(noised, victim, 2)
    assert first != patients_of(noised.plan, victim)
    assert again == [first]


# -- relay_bypass ------------------------------------------------------------------------------------------------------

OTHER_NAMES = (
    *("train", "train.default", "train.sa1_vote", "train.sa1_keys", "train.sa1_update_", "train.SA1_UPDATE"),
    *("evaluate", "evaluate.default", "evaluate.sa1_update"),
    *("query", "query.default", "query.get_parameters", "query.sa1_update", "query.sa1_votes"),
    *("get_parameters", "get_properties", "reconnect"),
)


def test_relay_bypass_by_any_other_name_gets_a_refusal_and_never_reaches_the_guard(attack: Attack) -> None:
    """An update request that would be answered under its own name. The gateway refuses; so does a guard that is handed it."""
    site = attack.honest[0]
    asking = attack.open_round(attack.epoch(), 1).asking
    request = attack.request("sa1_update", asking.requests()[site], attack.model)
    before = attack.ledger(site), attack.egress(site), attack.line.asked(site)
    carried = attack.line.volley(site, [(name, request) for name in OTHER_NAMES])
    assert [code_of(one.reply) for one in carried] == ["UNKNOWN_KIND"] * len(OTHER_NAMES)
    assert [one.arrays for one in carried] == [()] * len(OTHER_NAMES)
    assert (attack.ledger(site), attack.egress(site), attack.line.asked(site)) == before
    (answered,) = attack.line.volley(site, [("train.sa1_update", request)])
    assert is_answer(answered.reply)
    assert attack.line.asked(site) == before[2] + 1
