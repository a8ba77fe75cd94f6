"""A ledger as it stands on disk, for people who decide while the guard holds it: reads, checks every entry, locks nothing."""

from dataclasses import dataclass
from pathlib import Path

from privacy.entries import SpendRecord
from privacy.errors import LedgerError
from privacy.events import Spend, aggregate
from privacy.ledger import read_entries


@dataclass(frozen=True)
class Snapshot:
    """What `privacy.policy.check_plan` asks of a ledger, and which plans were charged already."""

    charged: tuple[Spend, ...]
    split_ids: frozenset[str]
    plans: frozenset[bytes]

    def spends(self) -> tuple[Spend, ...]:
        return self.charged


def read_snapshot(path: Path, public: bytes) -> Snapshot:
    """Raises `LedgerError` for a ledger that is missing, damaged, or another site's."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror}; join first, or restore it from your backup") from error
    entries, _ = read_entries(data, public)
    records = [entry.content for entry in entries if isinstance(entry.content, SpendRecord)]
    return Snapshot(
        aggregate(spend for record in records for spend in record.spends),
        frozenset(record.details.split_id for record in records),
        frozenset(record.details.plan_digest for record in records),
    )
