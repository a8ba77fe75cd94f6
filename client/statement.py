"""The site's figure for others to see: made from the ledger as it stands, by the steward's own act, and never by the guard."""

from consortium.statement import EpsilonStatement
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.entries import SpendRecord, recorded
from privacy.errors import LedgerError
from privacy.events import as_exposed
from privacy.ledger import read_entries


def make_statement(ledger: bytes, public: bytes, *, site: str, plan_digest: bytes, delta: float, made: str) -> EpsilonStatement:
    """Epsilon of everything in `ledger` (whole lines), all runs together, at `delta`, had every update been read in the clear.

    Raises `LedgerError` for a ledger that is empty, damaged, or not of the key `public`.
    """
    entries, _ = read_entries(ledger, public)
    if not entries:
        raise LedgerError("the ledger has no entry: join first")
    records = [entry.content for entry in entries if isinstance(entry.content, SpendRecord)]
    spends = [spend for record in records for spend in record.spends]
    splits = {record.details.split_id for record in records}
    total = recorded(epsilon(as_exposed(spends), delta, interval=ENFORCE_INTERVAL, split_ids=splits))
    return EpsilonStatement(site, plan_digest, delta, total, len(entries), entries[-1].hash, made)
