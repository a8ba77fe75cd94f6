"""A ledger as it stands on disk, for people who decide while the guard holds it: reads, checks every entry, locks nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privacy.entries import Genesis, RunNote, SpendRecord
from privacy.errors import LedgerError
from privacy.events import Spend, aggregate
from privacy.ledger import note_left, read_entries
from privacy.periods import Calendar, day_of


@dataclass(frozen=True)
class Snapshot:
    """What `privacy.policy` asks of a ledger, which plans were charged already, and which runs the site left."""

    population: str
    charged: tuple[Spend, ...]
    split_ids: frozenset[str]
    plans: frozenset[bytes]
    deltas: tuple[float, ...]
    left: Mapping[bytes, RunNote]
    calendar: Calendar = field(repr=False)

    def spends(self) -> tuple[Spend, ...]:
        return self.charged

    def spends_since(self, day: int) -> tuple[Spend, ...]:
        return self.calendar.since(day)

    @property
    def last_day(self) -> int:
        return self.calendar.last


def read_snapshot(path: Path, public: bytes) -> Snapshot:
    """Raises `LedgerError` for a ledger that is missing, damaged, or another site's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}; join first, or restore it from your backup") from error
    entries, _ = read_entries(data, public)
    if not entries or not isinstance(genesis := entries[0].content, Genesis):
        raise LedgerError(f"{path} has no complete entry: restore it from your backup")
    calendar, left, records = Calendar(), dict[bytes, RunNote](), list[SpendRecord]()
    for entry in entries:
        note_left(left, entry)
        if isinstance(entry.content, SpendRecord):
            records.append(entry.content)
            calendar.add(day_of(entry.time), entry.content.spends)
    return Snapshot(
        population=genesis.population,
        charged=aggregate(spend for record in records for spend in record.spends),
        split_ids=frozenset(record.details.split_id for record in records),
        plans=frozenset(record.details.plan_digest for record in records),
        deltas=tuple(sorted({record.details.delta for record in records})),
        left=left,
        calendar=calendar,
    )
