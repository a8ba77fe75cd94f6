"""What one site handed to an auditor: its ledger, with the verdict on it, and the egress manifests that lay beside it. Pure."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from privacy.entries import Egress, Entry, Genesis, PlanApproved, SpendDetails, SpendRecord
from privacy.errors import LedgerError
from privacy.events import Spend
from privacy.handover import Keys
from privacy.manifest import UPDATE, Linked, Manifest, read_manifest, verify_manifest
from privacy.verify import Report, verify_ledger


@dataclass(frozen=True)
class Charge:
    """One spend of the ledger, and the entry that it stands in."""

    entry: int
    time: str
    details: SpendDetails
    spends: tuple[Spend, ...]
    epsilon_after: float


@dataclass(frozen=True)
class EgressFile:
    """The manifest of one run, as it was given."""

    path: Path
    data: bytes

    @cached_property
    def run_id(self) -> str:
        """The run that its first readable line names; else the one that the file is named for."""
        for line in self.data.split(b"\n"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict) and isinstance(found.get("run"), str):
                return str(found["run"])
        return self.path.stem


@dataclass(frozen=True)
class SiteBook:
    """`entries`: those before the first bad line; what `report` says about the rest stands beside everything shown."""

    path: Path
    data: bytes
    head: bytes | None
    report: Report
    entries: tuple[Entry, ...]
    egress: tuple[EgressFile, ...]

    @property
    def site(self) -> str:
        return self.report.site

    @cached_property
    def genesis(self) -> Genesis:
        content = self.entries[0].content
        assert isinstance(content, Genesis)  # noqa: S101 - read_entries accepts no other first entry
        return content

    @cached_property
    def keys(self) -> Keys:
        """The keys that signed this ledger, one after another."""
        return Keys.of(self.entries)

    @cached_property
    def charges(self) -> tuple[Charge, ...]:
        """Every spend, in the order in which the site wrote them."""
        return tuple(_charges(self.entries))

    @cached_property
    def by_plan(self) -> Mapping[bytes, Mapping[int, Charge]]:
        """Plan digest -> round -> its charge."""
        found: dict[bytes, dict[int, Charge]] = {}
        for charge in self.charges:
            found.setdefault(charge.details.plan_digest, {})[charge.details.round] = charge
        return found

    @cached_property
    def named(self) -> Mapping[bytes, str]:
        """Plan digest -> run id, of every plan that any entry names."""
        pairs = [(getattr(entry.content, "plan_digest", None), getattr(entry.content, "run_id", "")) for entry in self.entries]
        both = [*pairs, *((charge.details.plan_digest, charge.details.run_id) for charge in self.charges)]
        return {digest: run_id for digest, run_id in both if digest is not None}

    @cached_property
    def split_ids(self) -> frozenset[str]:
        return frozenset(charge.details.split_id for charge in self.charges)

    @cached_property
    def last_time(self) -> str:
        """The latest that the site's clock said: it may have gone back since."""
        return max(entry.time for entry in self.entries)

    def approvals(self, plan: bytes) -> tuple[PlanApproved, ...]:
        return tuple(
            entry.content for entry in self.entries if isinstance(entry.content, PlanApproved) and entry.content.plan_digest == plan
        )

    def manifest(self, plan: bytes) -> Manifest | None:
        """What left under this plan; None where it was not given. Raises `ManifestError` for another kind of file."""
        files = [file for file in self.egress if file.run_id == self.named.get(plan)]
        if not files:
            return None
        read = [read_manifest(file.data, self.site, plan) for file in files]
        return Manifest(self.site, tuple(answer for one in read for answer in one.answers), sum(one.cut_short for one in read))

    @cached_property
    def linked(self) -> tuple[tuple[EgressFile, Linked], ...]:
        """How far the ledger, which is signed, vouches for each manifest."""
        return tuple((file, verify_manifest(file.run_id, file.data, self.entries)) for file in self.egress)

    def uploaded(self, plan: bytes) -> frozenset[int] | None:
        """Rounds of this plan whose update left, by ledger and manifest together; None where neither says anything about it."""
        signed = [content for entry in self.entries if isinstance(content := entry.content, Egress) and content.plan_digest == plan]
        rounds = {left.round for left in signed if left.answer.startswith(UPDATE)}
        manifest = self.manifest(plan)
        if manifest is None:
            return frozenset(rounds) if signed else None
        return frozenset(rounds | {answer.round_number for answer in manifest.answers if answer.kind.startswith(UPDATE)})


def read_book(
    path: Path,
    data: bytes,
    head: bytes | None,
    egress: Sequence[EgressFile] = (),
    *,
    threads: int = 1,
    accepted: Collection[str] = (),
) -> SiteBook:
    """The book of these bytes; `accepted` as in `verify_ledger`.

    Raises `LedgerError` where not even the first entry can be read: then it is nobody's."""
    entries: list[Entry] = []
    report = verify_ledger(data, None, head, seen=entries.append, threads=threads, accepted=accepted)
    if not entries:
        raise LedgerError(f"{path} has no readable entry: not a ledger, or damaged at its first line", 0)
    return SiteBook(path, data, head, report, tuple(entries), tuple(egress))


def _charges(entries: Sequence[Entry]) -> Iterator[Charge]:
    for entry in entries:
        if isinstance(entry.content, SpendRecord):
            record = entry.content
            yield Charge(entry.index, entry.time, record.details, record.spends, record.epsilon_after)
