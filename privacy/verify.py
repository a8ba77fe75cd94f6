"""Is this ledger whole, and does it say the truth about epsilon? Pure: bytes in, a report out, nobody trusted.

Whole: every line decodes, is signed, follows from the one before, and rounds of a plan rise. True: epsilon is recomputed
from the recorded mechanisms alone, by the reference accountant, by the independent one and by Rényi divergences, and compared
with every claim that is checked; with the plans, every spend is exactly what its plan asks for. What one copy cannot show
(both files rolled back, a fork) two copies can: `compare`.
"""

import io
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, TypeVar

from consortium.identity import fingerprint
from consortium.plan import Plan
from privacy.accountant import AGREEMENT, CERTIFY_INTERVAL, ENFORCE_INTERVAL, epsilon
from privacy.check import Bracket, bracket
from privacy.entries import (
    NO_POPULATION,
    NOT_PRIVATE,
    Egress,
    Entry,
    Genesis,
    KeyReplaced,
    KeyRotated,
    PlanApproved,
    PopulationChanged,
    Recovered,
    SpendRecord,
    Withdrawn,
    parse_entry,
)
from privacy.errors import LedgerError
from privacy.events import (
    Event,
    NonPrivateEvent,
    Population,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    aggregate,
    as_exposed,
)
from privacy.handover import Handover, Keys
from privacy.ledger import parse_head
from privacy.planned import PlanCheck, by_digest
from privacy.reading import Reader
from privacy.renyi import Bound, renyi_bound

CHECKPOINTS: Final = 12  # claims recomputed for each delta, the last one always among them
_FALL: Final = 1e-3  # a coarser grid may move a claim by this much without anybody having lied
_T = TypeVar("_T")
_ROUNDING: Final = 1e-6  # what float64 may take from the Rényi bound or add to the bracket, of a whole epsilon


@dataclass(frozen=True)
class Figure:
    """Epsilon at one delta, three times. `agree` is False where the accountants contradict each other."""

    delta: float
    reference: float
    independent: Bracket
    agree: bool
    renyi: Bound


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
    """`problems`: reasons not to believe the ledger, the first bad entry's first. `remarks`: what to read all the same.

    `figures`: as charged to the budget. `exposed`: if one update of the site were read in the clear; empty where that is the same.
    `plans_checked`: spends that were compared with the plan whose digest they name. `fingerprint`: of the key in force, the last of
    `keys`, which begin with the one that the ledger was begun with.
    """

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
    exposed: tuple[Figure, ...] = ()
    first_bad: int | None = None
    plans_checked: int = 0
    keys: tuple[str, ...] = ()
    handovers: tuple[Handover, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_ledger(
    data: bytes | BinaryIO,
    public_key: bytes | None = None,
    head: bytes | None = None,
    *,
    plans: Iterable[Plan] | None = None,
    deltas: Iterable[float] = (),
    seen: Callable[[Entry], object] | None = None,
    threads: int = 1,
    accepted: Collection[str] = (),
) -> Report:
    """The report on a ledger's bytes, or on a file of them, which is read line by line.

    With `public_key` it must be this site's, signed with this key at some time; with `head` (the head file) it must be the newest;
    with `plans`, every spend must
    be exactly what the plan that it names asks for. `deltas`: figures at these too. Never raises on bad data: the first bad
    entry becomes a problem that names it, and what stands before is reported. `seen` is handed each good entry, for who wants
    them too; `threads` check the signatures. `accepted`: fingerprints of keys that may have taken over without the old key's word,
    because the reader was told so.
    """
    scan, problems = _Scan(), list[_Problem]()
    expected, head_problems = _parsed_head(head)
    reader = Reader(io.BytesIO(data) if isinstance(data, bytes) else data, public_key, threads=threads)
    watched = _Watch(None if plans is None else by_digest(plans))
    try:
        for entry in reader:
            scan.add(entry)
            if seen is not None:
                seen(entry)
            problems += watched.add(entry)
            if expected is not None and entry.index == expected[0] and entry.hash != expected[1]:
                head_problems.append(_Problem(entry.index, "not the one that the head file knows: another history"))
    except LedgerError as error:
        problems.append(_Problem(error.entry, str(error), whole=True))
    if scan.genesis is None:
        texts = [problem.text for problem in problems] or ["the ledger has no complete entry: nothing is recorded"]
        return Report("", "", "", "", 0, (), (), (), (), tuple(texts), (), first_bad=0)
    problems += [_unvouched(over) for over in reader.keys.handovers if not (over.vouched or fingerprint(over.new_key) in accepted)]
    if reader.torn:
        problems.append(_torn(reader.torn, scan.entries))
    if expected is not None and expected[0] >= scan.entries:
        text = f"missing, the head file knows entry {expected[0]}: lines were removed or rolled back"
        head_problems.append(_Problem(scan.entries, text))
    return _report(scan, [*problems, *head_problems], tuple(deltas), watched, reader.keys)


def _unvouched(over: Handover) -> "_Problem":
    key = fingerprint(over.new_key)
    text = f"{over.words}. Ask the founders whether it is the site's key; if so, --accept-replaced {key}"
    return _Problem(over.entry, text)


@dataclass(frozen=True)
class _Problem:
    """`text` is the whole sentence if `whole`, else what follows the entry's name."""

    entry: int | None
    text: str
    whole: bool = False

    def __str__(self) -> str:
        return self.text if self.whole or self.entry is None else f"ledger entry {self.entry}: {self.text}"


def _torn(size: int, entries: int) -> _Problem:
    text = f"{size} bytes after the last entry {entries - 1}: a torn write that no guard has recovered yet"
    return _Problem(entries, text, whole=True)


def _parsed_head(head: bytes | None) -> tuple[tuple[int, bytes] | None, list[_Problem]]:
    if head is None:
        return None, []
    try:
        return parse_head(head), []
    except LedgerError as error:
        return None, [_Problem(error.entry, str(error), whole=True)]


@dataclass(frozen=True, slots=True)
class _Charge:
    """A spend as the recomputation needs it. `spends` is one object for all rounds alike, so ten thousand rounds stay small."""

    entry: int
    delta: float
    claimed: float
    split_id: str
    spends: tuple[Spend, ...]


@dataclass
class _Scan:
    """What a ledger says, gathered entry by entry; the entries themselves are not kept."""

    genesis: Genesis | None = None
    entries: int = 0
    charges: list[_Charge] = field(default_factory=list)
    _alike: dict[object, object] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.entries += 1
        if isinstance(entry.content, Genesis):
            self.genesis = entry.content
        elif isinstance(entry.content, SpendRecord):
            record, details = entry.content, entry.content.details
            spends, split = self._one(record.spends), self._one(details.split_id)
            self.charges.append(_Charge(entry.index, details.delta, _value(record.epsilon_after), split, spends))

    def _one(self, value: _T) -> _T:
        return self._alike.setdefault(value, value)  # type: ignore[return-value]


def _value(recorded: float) -> float:
    return math.inf if recorded == NOT_PRIVATE else recorded


class _Watch:
    """What follows from the order of the entries: sinking claims, spends without approval, a clock that went back, plans."""

    def __init__(self, plans: dict[bytes, Plan] | None) -> None:
        self.remarks: list[str] = []
        self._keys = Keys()
        self.checked = 0
        self._plans = plans
        self._check: PlanCheck | None = None
        self._highest: dict[float, float] = {}
        self._approved, self._withdrawn, self._strangers = set[bytes](), set[bytes](), set[bytes]()
        self._latest = ""

    def add(self, entry: Entry) -> list[_Problem]:
        """The problems of this entry."""
        if entry.time < self._latest:
            self._remark(entry, f"the clock went back, {self._latest} to {entry.time}")
        self._latest = entry.time
        self._keys.take(entry)
        if isinstance(entry.content, Egress):
            return []  # two of three lines
        found: list[str] = []
        match entry.content:
            case Genesis(site=site):
                self._check = None if self._plans is None else PlanCheck(self._plans, site)
            case PlanApproved(plan_digest=plan) as approved:
                self._approved.add(plan)
                self._withdrawn.discard(plan)
                found = self._check.approved(approved) if self._check else []
            case Withdrawn(plan_digest=plan):
                self._withdrawn.add(plan)
            case Recovered(removed_bytes=removed):
                self._remark(entry, f"{removed} bytes of a torn write were cut off after a crash")
            case KeyRotated() | KeyReplaced():
                self._remark(entry, self._keys.handovers[-1].words)
            case PopulationChanged() as changed if changed.before != NO_POPULATION:
                self._remark(entry, changed.words)
            case SpendRecord() as record:
                self._remark_stranger(entry, record)
                found = self._spent(record)
        return [_Problem(entry.index, text) for text in found]

    def _remark(self, entry: Entry, text: str) -> None:
        self.remarks.append(f"ledger entry {entry.index}: {text}")

    def _remark_stranger(self, entry: Entry, record: SpendRecord) -> None:
        plan = record.details.plan_digest
        if plan in self._strangers or (plan in self._approved and plan not in self._withdrawn):
            return
        state = "was withdrawn" if plan in self._withdrawn else "has no approval in this ledger"
        self._remark(entry, f"run {record.details.run_id} spends, but its plan {state}")
        self._strangers.add(plan)

    def _spent(self, record: SpendRecord) -> list[str]:
        found = self._fall(record)
        if self._check is not None:
            self.checked += record.details.plan_digest in self._check.plans
            found += self._check.spent(record)
        return found

    def _fall(self, record: SpendRecord) -> list[str]:
        """Claims that sank: a spend was refunded, which never happens. Compared at equal delta only."""
        claimed, delta = _value(record.epsilon_after), record.details.delta
        before = self._highest.get(delta, 0.0)
        allowed = max(_FALL, before * _FALL) if math.isfinite(before) else 0.0
        self._highest[delta] = max(before, claimed)
        if claimed >= before - allowed:
            return []
        return [f"epsilon falls from {before:.4f} to {claimed:.4f}: nothing is ever refunded"]


def _report(scan: _Scan, problems: list[_Problem], deltas: tuple[float, ...], watched: _Watch, keys: Keys) -> Report:
    genesis = scan.genesis
    assert genesis is not None  # noqa: S101 - the caller saw to it
    spends = aggregate(spend for charge in scan.charges for spend in charge.spends)
    splits = {charge.split_id for charge in scan.charges}
    used = sorted({charge.delta for charge in scan.charges})
    asked = tuple(dict.fromkeys((*used, *deltas)))
    shared = any(isinstance(spend.event, SharedGaussianEvent | SharedPoissonGaussianEvent) for spend in spends)
    # The larger epsilons first: theirs are the largest grids, and accountants keep what they computed.
    exposed = tuple(recompute(as_exposed(spends), delta, splits) for delta in asked) if shared else ()
    figures = tuple(recompute(spends, delta, splits) for delta in asked)
    claims = _claims(scan.charges)
    problems += [_Problem(claim.entry, _claim_problem(claim)) for claim in claims if not claim.holds]
    problems += [_Problem(None, _figure_problem(figure)) for figure in (*figures, *exposed) if not figure.agree]
    problems.sort(key=lambda problem: math.inf if problem.entry is None else problem.entry)  # stable: the first bad entry first
    remarks = list(watched.remarks)
    if len(splits) > 1:
        remarks.append(f"{len(splits)} different train/held-out splits: everything is composed together")
    return Report(
        site=genesis.site,
        consortium=genesis.consortium,
        population=genesis.population,
        fingerprint=fingerprint(keys.in_force),
        entries=scan.entries,
        spends=spends,
        figures=figures,
        claims=claims,
        non_private_entries=tuple(charge.entry for charge in scan.charges if not_private(charge.spends)),
        problems=tuple(map(str, problems)),
        remarks=tuple(remarks),
        exposed=exposed,
        first_bad=problems[0].entry if problems else None,
        plans_checked=watched.checked,
        keys=tuple(map(fingerprint, keys.known)),
        handovers=tuple(keys.handovers),
    )


def not_private(spends: Iterable[Spend]) -> bool:
    """Whether one of these left without noise."""
    return any(isinstance(spend.event, NonPrivateEvent) for spend in spends)


def _claims(charges: Sequence[_Charge]) -> tuple[Claim, ...]:
    """The claims that are checked: for each delta up to `CHECKPOINTS`, evenly spread, the last one included."""
    checked: set[int] = set()
    for delta in {charge.delta for charge in charges}:
        own = [position for position, charge in enumerate(charges) if charge.delta == delta]
        checked.update(own[:: -math.ceil(len(own) / CHECKPOINTS)])
    counts: Counter[tuple[Population, Event]] = Counter()
    splits: set[str] = set()
    found = []
    for position, charge in enumerate(charges):
        splits.add(charge.split_id)
        for spend in charge.spends:
            counts[spend.population, spend.event] += spend.count
        if position in checked:
            spends = [Spend(event, population, count) for (population, event), count in counts.items()]
            recomputed = epsilon(spends, charge.delta, interval=ENFORCE_INTERVAL, split_ids=splits)
            found.append(Claim(charge.entry, charge.delta, charge.claimed, recomputed))
    return tuple(found)


def recompute(spends: Sequence[Spend], delta: float, split_ids: set[str]) -> Figure:
    """Epsilon by all three accountants from the mechanisms alone, as charged."""
    independent = bracket(spends, delta, split_ids=split_ids)
    reference = epsilon(spends, delta, interval=CERTIFY_INTERVAL, split_ids=split_ids)
    renyi = renyi_bound(spends, delta, split_ids=split_ids)
    agree = independent.distance(reference) <= _tolerance(reference) and renyi.epsilon * (1.0 + _ROUNDING) >= independent.lower
    return Figure(delta, reference, independent, agree, renyi)


def _tolerance(value: float) -> float:
    """0.02, and a thousandth of epsilons so large that they promise nothing."""
    return max(AGREEMENT, value * 1e-3) if math.isfinite(value) else AGREEMENT


def _claim_problem(claim: Claim) -> str:
    return f"claims epsilon {claim.claimed:.4f} at delta {claim.delta:.3g}, but its mechanisms give {claim.recomputed:.4f}"


def _figure_problem(figure: Figure) -> str:
    return (
        f"at delta {figure.delta:.3g} the accountants disagree: {figure.reference:.4f} (reference), {figure.independent.lower:.4f} "
        f"to {figure.independent.upper:.4f} (independent), at most {figure.renyi.epsilon:.4f} (Renyi)"
    )


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
