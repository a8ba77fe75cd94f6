"""Is this ledger whole, and does it say the truth about epsilon? Pure: bytes in, a report out, nobody trusted.

Whole: every line decodes, is signed, follows from the one before, and rounds of a plan rise. True: epsilon is recomputed
from the recorded mechanisms alone, by the reference accountant and by the independent one, and compared with every claim
that is checked. What one copy cannot show (both files rolled back, a fork) two copies can: `compare`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consortium.identity import fingerprint
from privacy.accountant import AGREEMENT, CERTIFY_INTERVAL, ENFORCE_INTERVAL, epsilon
from privacy.check import Bracket, bracket
from privacy.entries import NOT_PRIVATE, Entry, Genesis, PlanApproved, Recovered, SpendRecord, Withdrawn, parse_entry
from privacy.errors import LedgerError
from privacy.events import NonPrivateEvent, Spend, aggregate
from privacy.ledger import parse_head, read_entries

CHECKPOINTS: Final = 12  # claims recomputed for each delta, the last one always among them
_FALL: Final = 1e-3  # a coarser grid may move a claim by this much without anybody having lied


@dataclass(frozen=True)
class Figure:
    """Epsilon at one delta, twice. `agree` is False where the two accountants contradict each other."""

    delta: float
    reference: float
    independent: Bracket
    agree: bool


@dataclass(frozen=True)
class Claim:
    """What the site wrote after an entry, and what the reference makes of everything up to it; infinite: not private."""

    entry: int
    delta: float
    claimed: float
    recomputed: float

    @property
    def holds(self) -> bool:
        if math.isinf(self.claimed) or math.isinf(self.recomputed):
            return self.claimed == self.recomputed
        return abs(self.claimed - self.recomputed) <= _tolerance(self.recomputed)


@dataclass(frozen=True)
class Report:
    """`problems`: reasons not to believe the ledger. `remarks`: what an auditor should read all the same."""

    site: str
    consortium: str
    population: str
    fingerprint: str
    entries: int
    spends: tuple[Spend, ...]
    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    non_private_entries: tuple[int, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_ledger(data: bytes, public_key: bytes | None = None, head: bytes | None = None) -> Report:
    """The report on a ledger's bytes. With `public_key` it must be this site's; with `head` (the head file) it must be
    the newest. Never raises on bad data: the first bad entry becomes a problem that names it, and what stands before is reported.
    """
    problems: list[str] = []
    try:
        entries, torn = read_entries(data, public_key)
    except LedgerError as error:
        problems.append(str(error))
        entries, torn = _readable_prefix(data, public_key, error.entry or 0), b""
    if not entries:
        return _empty_report(problems or ["the ledger has no complete entry: nothing is recorded"])
    if torn:
        problems.append(f"{len(torn)} bytes after the last entry {len(entries) - 1}: a torn write that no guard has recovered yet")
    problems += _head_problems(entries, head)
    problems += _falls(entries)
    figures, claims = _figures(entries)
    problems += [_claim_problem(claim) for claim in claims if not claim.holds]
    problems += [_figure_problem(figure) for figure in figures if not figure.agree]
    return _report(entries, figures, claims, problems)


def _readable_prefix(data: bytes, public_key: bytes | None, bad: int) -> tuple[Entry, ...]:
    """The entries before the bad one; a stranger's ledger yields none."""
    lines = data.split(b"\n")[:bad]
    return read_entries(b"".join(line + b"\n" for line in lines), public_key)[0] if lines else ()


def _empty_report(problems: Sequence[str]) -> Report:
    return Report("", "", "", "", 0, (), (), (), (), tuple(problems), ())


def _report(entries: Sequence[Entry], figures: tuple[Figure, ...], claims: tuple[Claim, ...], problems: list[str]) -> Report:
    genesis = entries[0].content
    assert isinstance(genesis, Genesis)  # noqa: S101 - read_entries accepts no other first entry
    return Report(
        site=genesis.site,
        consortium=genesis.consortium,
        population=genesis.population,
        fingerprint=fingerprint(genesis.identity_key),
        entries=len(entries),
        spends=aggregate(spend for _, record in _records(entries) for spend in record.spends),
        figures=figures,
        claims=claims,
        non_private_entries=_non_private(entries),
        problems=tuple(problems),
        remarks=tuple(_remarks(entries)),
    )


def _records(entries: Sequence[Entry]) -> list[tuple[int, SpendRecord]]:
    return [(entry.index, entry.content) for entry in entries if isinstance(entry.content, SpendRecord)]


def _non_private(entries: Sequence[Entry]) -> tuple[int, ...]:
    return tuple(
        index for index, record in _records(entries) if any(isinstance(spend.event, NonPrivateEvent) for spend in record.spends)
    )


def _head_problems(entries: Sequence[Entry], head: bytes | None) -> list[str]:
    if head is None:
        return []
    try:
        index, expected = parse_head(head)
    except LedgerError as error:
        return [str(error)]
    if index >= len(entries):
        return [f"ledger entry {len(entries)}: missing, the head file knows entry {index}: lines were removed or rolled back"]
    if entries[index].hash != expected:
        return [f"ledger entry {index}: not the one that the head file knows: another history"]
    return []


def _falls(entries: Sequence[Entry]) -> list[str]:
    """Claims that sank: a spend was refunded, which never happens. Compared at equal delta only."""
    highest: dict[float, float] = {}
    found = []
    for index, record in _records(entries):
        claimed, delta = _value(record.epsilon_after), record.details.delta
        before = highest.get(delta, 0.0)
        allowed = max(_FALL, before * _FALL) if math.isfinite(before) else 0.0
        if claimed < before - allowed:
            found.append(f"ledger entry {index}: epsilon falls from {before:.4f} to {claimed:.4f}: nothing is ever refunded")
        highest[delta] = max(before, claimed)
    return found


def _value(recorded: float) -> float:
    return math.inf if recorded == NOT_PRIVATE else recorded


def _figures(entries: Sequence[Entry]) -> tuple[tuple[Figure, ...], tuple[Claim, ...]]:
    """The figure for the whole ledger at every delta it used, and the claims that are checked."""
    records = _records(entries)
    everything = [spend for _, record in records for spend in record.spends]
    splits = {record.details.split_id for _, record in records}
    deltas = sorted({record.details.delta for _, record in records})
    figures = tuple(recompute(everything, delta, splits) for delta in deltas)
    claims = [_claim(records, position) for delta in deltas for position in _checkpoints(records, delta)]
    return figures, tuple(sorted(claims, key=lambda claim: claim.entry))


def _checkpoints(records: Sequence[tuple[int, SpendRecord]], delta: float) -> list[int]:
    """Positions of up to `CHECKPOINTS` spends at this delta, evenly spread, the last one included."""
    own = [position for position, (_, record) in enumerate(records) if record.details.delta == delta]
    stride = math.ceil(len(own) / CHECKPOINTS)
    return own[::-1][::stride]


def _claim(records: Sequence[tuple[int, SpendRecord]], position: int) -> Claim:
    upto = records[: position + 1]
    index, record = records[position]
    splits = {item.details.split_id for _, item in upto}
    spends = [spend for _, item in upto for spend in item.spends]
    recomputed = epsilon(spends, record.details.delta, interval=ENFORCE_INTERVAL, split_ids=splits)
    return Claim(index, record.details.delta, _value(record.epsilon_after), recomputed)


def recompute(spends: Sequence[Spend], delta: float, split_ids: set[str]) -> Figure:
    """Epsilon by both accountants from the mechanisms alone."""
    reference = epsilon(spends, delta, interval=CERTIFY_INTERVAL, split_ids=split_ids)
    independent = bracket(spends, delta, split_ids=split_ids)
    return Figure(delta, reference, independent, independent.distance(reference) <= _tolerance(reference))


def _tolerance(value: float) -> float:
    """0.02, and a thousandth of epsilons so large that they promise nothing."""
    return max(AGREEMENT, value * 1e-3) if math.isfinite(value) else AGREEMENT


def _claim_problem(claim: Claim) -> str:
    return (
        f"ledger entry {claim.entry}: claims epsilon {claim.claimed:.4f} at delta {claim.delta:.3g}, but its mechanisms give "
        f"{claim.recomputed:.4f}"
    )


def _figure_problem(figure: Figure) -> str:
    return (
        f"at delta {figure.delta:.3g} the accountants disagree: {figure.reference:.4f} (reference), "
        f"{figure.independent.lower:.4f} to {figure.independent.upper:.4f} (independent)"
    )


def _remarks(entries: Sequence[Entry]) -> list[str]:
    found: list[str] = []
    approved: set[bytes] = set()
    withdrawn: set[bytes] = set()
    strangers: set[bytes] = set()
    latest = ""
    for entry in entries:
        if entry.time < latest:
            found.append(f"ledger entry {entry.index}: the clock went back, {latest} to {entry.time}")
        latest = entry.time
        match entry.content:
            case PlanApproved(plan_digest=plan):
                approved.add(plan)
                withdrawn.discard(plan)
            case Withdrawn(plan_digest=plan):
                withdrawn.add(plan)
            case Recovered(removed_bytes=removed):
                found.append(f"ledger entry {entry.index}: {removed} bytes of a torn write were cut off after a crash")
            case SpendRecord(details=details) if details.plan_digest not in strangers:
                if details.plan_digest in withdrawn or details.plan_digest not in approved:
                    state = "was withdrawn" if details.plan_digest in withdrawn else "has no approval in this ledger"
                    found.append(f"ledger entry {entry.index}: run {details.run_id} spends, but its plan {state}")
                    strangers.add(details.plan_digest)
    splits = {record.details.split_id for _, record in _records(entries)}
    if len(splits) > 1:
        found.append(f"{len(splits)} different train/held-out splits: everything is composed together")
    return found


def compare(ledgers: Sequence[bytes]) -> list[str]:
    """What several copies show together: copies of one site's ledger that part ways (a fork or a rollback), by entry.

    Entries that do not decode are `verify_ledger`'s business; here copies are compared line by line.
    """
    found: list[str] = []
    for position, one in enumerate(ledgers):
        for other_position in range(position + 1, len(ledgers)):
            found += _parting(one, ledgers[other_position], (position + 1, other_position + 1))
    return found


def _parting(one: bytes, other: bytes, names: tuple[int, int]) -> list[str]:
    left, right = one.split(b"\n")[:-1], other.split(b"\n")[:-1]
    if not left or not right or _subject(left[0]) is None or _subject(left[0]) != _subject(right[0]):
        return []
    for index, (mine, theirs) in enumerate(zip(left, right, strict=False)):
        if mine != theirs:
            return [
                f"ledger entry {index}: ledgers {names[0]} and {names[1]} are of the same site and part here: one of them is a fork"
            ]
    return []


def _subject(line: bytes) -> tuple[bytes, str] | None:
    """Whose ledger this is: key and population; None if its first line cannot be read."""
    try:
        genesis = parse_entry(line, 0).content
    except LedgerError:
        return None
    return (genesis.identity_key, genesis.population) if isinstance(genesis, Genesis) else None
