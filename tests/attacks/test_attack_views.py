"""One round number opens one sum, over at least t-c honest sites, whatever the coordinator shows to whom.

Specification 4.10: split_views, mix_views, double_vote, lone_ballot, reflected_release, vote_race, small_view, memory_clone.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from threading import Barrier

import numpy as np
import pytest
from attacking import Attack, Round, answer_of, clone, code_of, is_answer

from client.guard import Guard
from client.guard_rpc import GuardClient
from consortium.wire import Reply
from secagg import derive
from secagg import field as element
from secagg.encoding import decode_body
from secagg.errors import SecaggError
from secagg.messages import Ballot
from secagg.site import SiteSession

InProcess = Callable[[int, int], Attack]


def shut(round_: Round, survivors: Iterable[str], ballots: dict[str, bytes]) -> bool:
    """Nothing opens: by the protocol's own opening, nor by an attacker who tries everything on each honest ballot."""
    survivors = tuple(survivors)
    view_id = round_.view(survivors).view_id
    mine = {site: ballot for site, ballot in ballots.items() if Ballot.decode(ballot).view == view_id}
    with pytest.raises(SecaggError) as refused:
        round_.open(survivors, mine)
    assert refused.value.code == "NOT_OPENABLE"
    return all(round_.crack(site, view_id, ballots.values()) is None for site in mine if site not in round_.colluding)


def split(attack: Attack) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """t-c honest sites, and the fewer other honest ones."""
    return attack.honest[: attack.t - attack.c], attack.honest[attack.t - attack.c :]


# -- split_views, mix_views, double_vote -------------------------------------------------------------------------------


def test_split_views_with_another_set_for_each_site_opens_none(attack: Attack) -> None:
    round_ = attack.round()
    everybody = set(attack.sites)
    shown = {site: everybody - {attack.sites[at]} for at, site in enumerate(attack.honest)}
    ballots = round_.vote(shown)
    for survivors in shown.values():
        backed = ballots | round_.vote(dict.fromkeys(round_.colluding, survivors))
        assert shut(round_, survivors, backed)


def test_split_views_opens_the_one_that_t_minus_c_honest_sites_voted_for(nearby: Attack) -> None:
    many, few = split(nearby)
    round_ = nearby.round()
    everybody = set(nearby.sites)
    without = everybody - {nearby.honest[0]}
    ballots = round_.vote(dict.fromkeys(many, everybody) | dict.fromkeys(few, without))
    colluders_a = round_.vote(dict.fromkeys(round_.colluding, everybody))
    colluders_b = round_.vote(dict.fromkeys(round_.colluding, without))
    first = {site: ballot for site, ballot in ballots.items() if site in many} | colluders_a
    assert round_.opens(everybody, first) == nearby.sites
    assert shut(round_, without, {site: ballot for site, ballot in ballots.items() if site in few} | colluders_b)


def test_mix_views_ballots_and_releases_of_one_view_are_no_use_in_another(attack: Attack) -> None:
    many, few = split(attack)
    round_ = attack.round()
    everybody = set(attack.sites)
    without = everybody - {attack.honest[0]}
    voted = round_.vote(dict.fromkeys(many[:-1], everybody) | dict.fromkeys((many[-1], *few), without))
    colluders = round_.vote(dict.fromkeys(round_.colluding, everybody))
    assert shut(round_, everybody, voted | colluders)  # releases of all ballots are tried in all boxes
    stray = Ballot.decode(voted[many[-1]])
    phase = round_.view(everybody)
    with pytest.raises(SecaggError, match="VOTED"):
        phase.receive(stray.site, stray.encode())
    relabelled = replace(stray, view=phase.view_id)
    with pytest.raises(SecaggError, match="SIGNATURE"):
        phase.receive(stray.site, relabelled.encode())


def test_double_vote_of_colluders_opens_one_of_two_views(attack: Attack) -> None:
    many, few = split(attack)
    round_ = attack.round()
    everybody, without = set(attack.sites), set(attack.sites) - {few[0]}
    honest = round_.vote(dict.fromkeys(few, everybody) | dict.fromkeys(many, without))
    twice = {view: round_.vote(dict.fromkeys(round_.colluding, survivors)) for view, survivors in ((1, everybody), (2, without))}
    assert shut(round_, everybody, {site: honest[site] for site in few} | twice[1])
    opened = round_.opens(without, {site: honest[site] for site in many} | twice[2])
    assert opened == tuple(sorted(without))


def test_double_vote_of_an_honest_site_is_refused_and_the_first_one_stands(attack: Attack) -> None:
    round_ = attack.round()
    site, everybody = attack.honest[0], set(attack.sites)
    first = round_.vote({site: everybody})[site]
    others = [round_.vote_request(site, everybody - {left_out}).encode() for left_out in attack.sites[1:3]]
    assert attack.refusals(site, *(("sa1_vote", request) for request in others)) == ["VOTED"] * 2
    assert round_.vote({site: everybody})[site] == first
    round_.completes()


def test_double_vote_of_one_colluder_counts_once_in_a_view(nearby: Attack) -> None:
    """Two ballots of one site for one view, the second under its own name or under another's."""
    round_ = nearby.round()
    (site, *_), (honest, *_) = round_.colluding, nearby.honest
    phase = round_.view(nearby.sites)
    one, two = round_.vote({site: nearby.sites})[site], round_.vote({site: nearby.sites})[site]
    assert one != two
    phase = phase.receive(site, one)
    with pytest.raises(SecaggError, match="ROUND"):
        phase.receive(site, two)
    with pytest.raises(SecaggError, match="STRANGER"):
        phase.receive(honest, two)
    with pytest.raises(SecaggError, match="SIGNATURE"):
        phase.receive(honest, replace(Ballot.decode(two), site=honest).encode())
    assert list(phase.ballots) == [site]


def test_split_views_of_ten_sites_of_which_three_vote_twice_open_one(in_process: InProcess) -> None:
    attack = in_process(10, 3)
    assert (attack.t, len(attack.honest), len(attack.colluders)) == (7, 7, 3)
    round_ = attack.round()
    everybody, without = set(attack.sites), set(attack.sites[1:])
    honest = round_.vote(dict.fromkeys(attack.honest[:4], everybody) | dict.fromkeys(attack.honest[4:], without))
    assert round_.opens(everybody, honest_of(honest, attack.honest[:4]) | round_.votes(everybody, round_.colluding)) == attack.sites
    assert shut(round_, without, honest_of(honest, attack.honest[4:]) | round_.votes(without, round_.colluding))


def honest_of(ballots: dict[str, bytes], sites: Iterable[str]) -> dict[str, bytes]:
    return {site: ballots[site] for site in sites}


@pytest.mark.parametrize(("n", "c"), [(3, 1), (4, 1), (5, 1), (6, 2)])
def test_split_views_over_all_views_and_all_voters_never_open_two(in_process: InProcess, n: int, c: int) -> None:
    """Every honest site's ballot for every view, from copies of the guards' memory; colluders vote in all of them.

    An assignment of views to honest sites opens two of them only if disjoint sets of voters open two views: none do.
    """
    attack = in_process(n, c)
    round_ = attack.round()
    sizes = range(attack.t, n + 1)
    views = [frozenset(view) for size in sizes for view in combinations(attack.sites, size)]
    ballots = {
        (site, view): session_of(attack, site).vote(round_.vote_request(site, view).encode(), 0.0)
        for view in views
        for site in attack.sites
    }
    opening: dict[frozenset[str], list[frozenset[str]]] = {view: [] for view in views}
    for view in views:
        for size in range(len(attack.honest) + 1):
            for voters in combinations(attack.honest, size):
                given = {site: ballots[site, view] for site in (*voters, *attack.colluders)}
                if opens(round_, view, given):
                    opening[view].append(frozenset(voters))
    assert all(opening.values())
    assert all(len(voters) >= attack.t - attack.c for found in opening.values() for voters in found)
    for one, other in combinations(views, 2):
        assert all(first & second for first in opening[one] for second in opening[other])


def session_of(attack: Attack, site: str) -> SiteSession:
    """A copy of a site's memory: a colluder's, or taken out of an honest guard in this process."""
    if site in attack.colluders:
        return clone(attack.colluders[site])
    guard: Guard = attack.line.guards[site]  # type: ignore[attr-defined]  # in process only
    return clone(guard._runs[attack.signed.digest].session)


# -- lone_ballot, reflected_release ------------------------------------------------------------------------------------


def test_lone_ballot_and_its_like_stay_shut_with_all_keys_of_the_colluders(attack: Attack) -> None:
    """t-c-1 honest ballots; one more opens."""
    many, _ = split(attack)
    round_ = attack.round()
    colluders = round_.votes(attack.sites, round_.colluding)
    fewer = round_.votes(attack.sites, many[:-1])
    assert shut(round_, attack.sites, fewer | colluders)
    enough = fewer | round_.votes(attack.sites, many[-1:]) | colluders
    view_id = round_.view(attack.sites).view_id
    kappas = {site: round_.kappa(site, view_id, enough.values()) for site in many}
    assert len(set(kappas.values())) == len(many), "each ballot has a key of its own, from its site's random source"
    assert all(kappa in map(element.reduce_wide, attack.drawn(site)) for site, kappa in kappas.items())
    assert round_.opens(attack.sites, enough) == attack.sites


def test_lone_ballot_of_one_honest_site_stays_shut(nearby: Attack) -> None:
    round_ = nearby.round()
    alone = round_.votes(nearby.sites, nearby.honest[:1]) | round_.votes(nearby.sites, round_.colluding)
    assert shut(round_, nearby.sites, alone)
    round_.completes()


def test_reflected_release_opens_no_box_of_its_own_ballot(attack: Attack) -> None:
    round_ = attack.round()
    ballots = {site: Ballot.decode(one) for site, one in round_.votes(attack.sites).items()}
    roll, view_id = round_.epoch.roll, round_.view(attack.sites).view_id
    for voter in attack.honest:
        for own, box, opener in zip(ballots[voter].releases, ballots[voter].boxes, roll.others(voter), strict=True):
            assert derive.unseal(own, derive.box_aad(view_id, opener, voter), box) is None
            assert derive.unseal(own, derive.box_aad(view_id, voter, opener), box) is None
            theirs = ballots[opener].releases[roll.others(opener).index(voter)]
            assert derive.unseal(theirs, derive.box_aad(view_id, opener, voter), box) is not None


# -- vote_race ---------------------------------------------------------------------------------------------------------


def test_vote_race_of_sixteen_votes_for_two_sets_gives_one_set(attack: Attack) -> None:
    round_ = attack.round()
    site, everybody = attack.honest[0], set(attack.sites)
    views = (everybody, everybody - {attack.sites[-1]})
    requests = [attack.request("sa1_vote", round_.vote_request(site, view).encode()) for view in views]
    carried = attack.line.volley(site, [("query.sa1_vote", requests[at % 2]) for at in range(16)])
    chosen = views[winner_of([one.reply for one in carried], 2, others=set())]
    assert round_.opens(chosen, round_.votes(chosen)) == tuple(sorted(chosen))


def test_vote_race_at_the_guards_own_socket_gives_one_set(over_flower: Attack) -> None:
    """A gateway that fell to the attacker asks sixteen at a time; the guard hears two and says BUSY to the others."""
    attack = over_flower
    round_ = attack.round()
    site, everybody = attack.honest[0], set(attack.sites)
    views = (everybody, everybody - {attack.sites[-1]})
    requests = [attack.request("sa1_vote", round_.vote_request(site, view).encode()) for view in views]
    clients = [GuardClient(attack.line.socket(site)) for _ in range(16)]  # type: ignore[attr-defined]  # over Flower only
    together = Barrier(len(clients))

    def ask(at: int) -> list[Reply]:
        together.wait()
        return [Reply(*clients[at].exchange("sa1_vote", requests[at % 2].control, b"", 30.0)) for _ in range(4)]

    with ThreadPoolExecutor(len(clients)) as threads:
        replies = [reply for four in zip(*threads.map(ask, range(16)), strict=True) for reply in four]
    for client in clients:
        client.close()
    chosen = views[winner_of(replies, 2, others={"BUSY"})]
    assert round_.opens(chosen, round_.votes(chosen)) == tuple(sorted(chosen))


def winner_of(replies: Iterable[Reply], views: int, *, others: set[str]) -> int:
    """Reply i is about view i % views. Every ballot is the same one, for one view; all else is `VOTED`, or of `others`."""
    voted = {at % views: answer_of(reply) for at, reply in enumerate(replies) if is_answer(reply)}
    refusals = {code_of(reply) for reply in replies if not is_answer(reply)}
    assert len(voted) == 1
    assert len({answer_of(reply) for reply in replies if is_answer(reply)}) == 1
    assert refusals - others == {"VOTED"}
    return next(iter(voted))


# -- small_view --------------------------------------------------------------------------------------------------------


def test_small_view_gets_no_ballot(attack: Attack) -> None:
    round_ = attack.round()
    site, size = attack.honest[0], attack.t
    small = [site, *(other for other in attack.sites if other != site)]
    requests = [round_.vote_request(site, small[:length]).encode() for length in (size - 1, 2, 1, 0)]
    assert attack.refusals(site, *(("sa1_vote", request) for request in requests)) == ["TOO_FEW"] * 4
    assert round_.opens(small[:size], round_.votes(small[:size])) == tuple(sorted(small[:size]))


# -- memory_clone: the limit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "c"), [(4, 1), (6, 1), (7, 2)])
def test_memory_clone_of_c_sites_opens_one_set_and_of_one_more_two(in_process: InProcess, n: int, c: int) -> None:
    """Resumed snapshots of honest sites' memory vote twice. With c+1 of them the difference of two sums is one site's update."""
    attack = in_process(n, c)
    assert (n + c) % 2 == 1, "2t = n+c+1: the next double voter is already one too many"
    round_ = attack.round()
    victim = attack.sites[-1]
    views = (frozenset(attack.sites), frozenset(attack.sites) - {victim})
    ballots = [
        {site: session_of(attack, site).vote(round_.vote_request(site, view).encode(), 0.0) for site in attack.sites}
        for view in views
    ]
    assert opened_by(round_, views, ballots, attack.sites[:c]) == 1
    assert opened_by(round_, views, ballots, attack.sites[: c + 1]) == 2
    with_victim, without = (
        decode_body(round_.open(view, given).body, attack.plan.coordinate_clip, n)
        for view, given in zip(views, ballots, strict=True)
    )
    assert np.rint((with_victim - without) * n).tolist() == [2.0 ** attack.sites.index(victim)] * attack.plan.n_parameters


def opened_by(round_: Round, views: tuple[frozenset[str], ...], ballots: list[dict[str, bytes]], twice: Iterable[str]) -> int:
    """The most views that open when the sites of `twice` vote in both and each other one in one: all splits are tried."""
    others = [site for site in round_.epoch.sites if site not in set(twice)]
    best = 0
    for size in range(len(others) + 1):
        for first in combinations(others, size):
            voters = ({*twice, *first}, {*twice, *others} - set(first))
            best = max(best, sum(opens(round_, views[at], honest_of(ballots[at], voters[at])) for at in range(2)))
    return best


def opens(round_: Round, view: frozenset[str], ballots: dict[str, bytes]) -> bool:
    try:
        return set(round_.opens(view, ballots)) == view
    except SecaggError as error:
        if error.code != "NOT_OPENABLE":
            raise
        return False
