"""Ballots for one view become the mask values that the view's sum needs, each proven by its dealer's commitment.

Specification 4.5, steps 1 to 3. Anybody with the published messages can do this; nothing else opens from them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, islice
from typing import TypeVar

from consortium.canonical import unpack
from consortium.errors import EncodingError
from secagg import derive, field, shamir
from secagg.dealing import needed_indices
from secagg.errors import SecaggError
from secagg.messages import Ballot, Upload
from secagg.roll import Roll

MAX_SUBSETS = 500

Opened = TypeVar("Opened")
Row = tuple[int, ...] | None  # a voter's shares of one dealer's needed values; None where it sent none


FINDINGS = {  # in words, by `Finding.what`; its sites in order
    "box": "a box of {0}'s ballot did not open with the release of {1}: one of the two deviated",
    "ballot": "the ballot of {0} stayed shut or held no answer: {0} deviated, or a site that a box above names",
    "deal": "{1} gave no share of {0}'s masks: one of the two deviated, or the coordinator that carried the share destroyed it",
    "share": "a share of {0}'s masks that {1} gave is not one that fits {0}'s commitment: one of the two deviated",
}


@dataclass(frozen=True)
class Finding:
    """Signed evidence that somebody deviated, though the round may have opened.

    `what`: "box" (voter, opener: either may lie), "ballot" (the voter's ballot stays shut or holds no answer),
    "deal" (dealer, voter: either may lie), "share" (dealer, voter: a share off the dealer's polynomial).
    """

    what: str
    sites: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What was seen, for people."""
        return FINDINGS[self.what].format(*self.sites)


@dataclass(frozen=True)
class View:
    """The uploads that a round is summed over; `uploads` ascending by site."""

    roll: Roll
    delta: bytes
    uploads: Mapping[str, Upload]

    @property
    def survivors(self) -> tuple[str, ...]:
        return tuple(self.uploads)

    @property
    def outside(self) -> tuple[str, ...]:
        return self.roll.outside(self.survivors)

    @cached_property
    def view_id(self) -> bytes:
        """h."""
        return derive.view_id(self.delta, [(site, upload.masked) for site, upload in self.uploads.items()])


@dataclass(frozen=True)
class Masks:
    """What has to come off the sum of the y: b of each survivor, e of each (survivor, site outside)."""

    self_masks: Mapping[str, int]
    pair_masks: Mapping[tuple[str, str], int]
    findings: tuple[Finding, ...]


class NotOpenableError(SecaggError):
    """`NOT_OPENABLE` with all that was found until then. `dealer`: whose shares do not open its commitment, if that is why."""

    def __init__(self, sentence: str, sites: tuple[str, ...], findings: Sequence[Finding], dealer: str = "") -> None:
        super().__init__("NOT_OPENABLE", sentence, sites)
        self.findings = tuple(findings)
        self.dealer = dealer


def open_view(view: View, ballots: Mapping[str, Ballot]) -> Masks:
    """The masks of a view from checked ballots for it; `NOT_OPENABLE` names who is missing, or the dealer that lied."""
    roll = view.roll
    if len(ballots) < roll.threshold:
        missing = tuple(site for site in roll.sites if site not in ballots)
        raise SecaggError("NOT_OPENABLE", f"{len(ballots)} ballots, threshold is {roll.threshold}: wait for more", missing)
    findings: list[Finding] = []
    answers = {}
    for voter in sorted(ballots):
        answer = _open_ballot(view, voter, ballots, findings)
        if answer is not None:
            answers[voter] = answer
    if len(answers) < roll.threshold:
        shut = tuple(voter for voter in sorted(ballots) if voter not in answers)
        raise NotOpenableError(f"ballots of {', '.join(shut)} stay shut: take the next round", shut, findings)
    self_masks, pair_masks = {}, {}
    for place, dealer in enumerate(view.survivors):
        rows = {voter: answer[place] for voter, answer in answers.items()}
        own, *pairs = _open_dealer(view, dealer, rows, findings)
        self_masks[dealer] = own
        pair_masks.update({(dealer, peer): value for peer, value in zip(view.outside, pairs, strict=True)})
    return Masks(self_masks, pair_masks, tuple(findings))


def _open_ballot(view: View, voter: str, ballots: Mapping[str, Ballot], findings: list[Finding]) -> list[Row] | None:
    """The voter's rows, one per survivor; None where its ballot stays shut."""
    roll, ballot, h = view.roll, ballots[voter], view.view_id
    parts = _open_boxes(view, voter, ballots, findings)

    def unlock(kappa: int) -> bytes | None:
        return derive.unseal(derive.answer_key(kappa, h, voter), derive.answer_aad(h, voter), ballot.sealed_answer)

    found = _recover(parts, roll.threshold - 1, unlock, ())
    answer = _rows(view, found[0]) if found else None
    if answer is None:
        findings.append(Finding("ballot", (voter,)))
    return answer


def _open_boxes(view: View, voter: str, ballots: Mapping[str, Ballot], findings: list[Finding]) -> dict[int, int]:
    """Shares of the voter's kappa, by point, from the boxes for which another ballot gives the release."""
    roll, h = view.roll, view.view_id
    parts = {}
    for box, opener in zip(ballots[voter].boxes, roll.others(voter), strict=True):
        if opener not in ballots:
            continue
        release = ballots[opener].releases[roll.others(opener).index(voter)]
        opened = derive.unseal(release, derive.box_aad(h, opener, voter), box)
        part = None if opened is None else field.decode(opened)
        if part is None:
            findings.append(Finding("box", (voter, opener)))
        else:
            parts[roll.point(opener)] = part
    return parts


def _rows(view: View, answer: bytes) -> list[Row] | None:
    try:
        fields = unpack(answer, len(view.uploads))
    except EncodingError:
        return None
    return [field.decode_row(one, 1 + len(view.outside)) for one in fields]


def _open_dealer(view: View, dealer: str, rows: Mapping[str, Row], findings: list[Finding]) -> list[int]:
    """b and the pair masks of one survivor, each equal to its commitment."""
    roll, upload = view.roll, view.uploads[dealer]
    findings.extend(Finding("deal", (dealer, voter)) for voter, row in rows.items() if row is None)
    given = {roll.point(voter): row for voter, row in rows.items() if row is not None}
    values: list[int] = []
    subset: tuple[int, ...] = ()
    for column, index in enumerate(needed_indices(roll, dealer, view.outside)):
        shares = {point: row[column] for point, row in given.items()}

        def committed(value: int, index: int = index) -> int | None:
            return value if derive.commitment(view.delta, dealer, index, value) == upload.commitments[index] else None

        found = _recover(shares, roll.threshold, committed, subset)
        if found is None:
            sentence = f"shares dealt by {dealer} do not open its commitment: leave it out"
            raise NotOpenableError(sentence, (dealer,), findings, dealer)
        value, subset = found
        values.append(value)
        for point in sorted(shares):
            if point not in subset and shamir.interpolate(shares, subset, point) != shares[point]:
                findings.append(Finding("share", (dealer, roll.sites[point - 1])))
    return values


def _recover(
    shares: Mapping[int, int], size: int, accept: Callable[[int], Opened | None], preferred: tuple[int, ...]
) -> tuple[Opened, tuple[int, ...]] | None:
    """The first interpolated value at 0 that `accept` takes, and the points it came from; None after `MAX_SUBSETS`."""
    points = tuple(sorted(shares))
    first = (preferred,) if preferred else ()
    for subset in chain(first, islice(subsets(points, size), MAX_SUBSETS)):
        if (opened := accept(shamir.interpolate(shares, subset))) is not None:
            return opened, subset
    return None


def subsets(points: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """All subsets of `size`, each once, in the order of how many earlier points they leave out: few liars are passed soon."""
    for left_out in range(len(points) - size + 1):
        reach = points[: size + left_out]
        for excluded in combinations(reach[:-1], left_out):
            yield tuple(point for point in reach if point not in excluded)
