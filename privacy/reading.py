"""A ledger's lines in their order, each checked: a ledger of any length is read in the memory of some hundred lines.

The same checks as `privacy.ledger.read_entries`, which keeps every entry. The signature is checked over the very bytes of
the line without its `signature`, as the README describes them: a line is canonical, so there is one way to cut it out.
Signatures take most of the time, and OpenSSL checks them without holding Python's lock: so they are checked by the batch, on
several threads where the caller allows them. What is found, and at which entry first, does not depend on either.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from consortium.errors import SignatureError
from consortium.identity import fingerprint, verify
from privacy.entries import (
    ENTRY_LABEL,
    LINE_MOST,
    Entry,
    PopulationChanged,
    SpendRecord,
    check_link,
    check_population,
    parse_entry,
)
from privacy.errors import LedgerError
from privacy.handover import Keys, check_known
from privacy.ledger import check_round

BATCH: Final = 2**17  # bytes of lines that are held at once, some 200 lines; the last one may reach beyond
_SIGNATURE: Final = b',"signature":"'
_SIGNATURE_END: Final = 128 + 1  # hex digits and the quote


@dataclass
class _Batch:
    """Lines that follow each other. `signed`: those whose signatures are to be checked; `entries`: good if these hold.

    `failure`: what ended the batch, to be raised if every signature before it holds. `torn`: bytes after the last line.
    """

    signed: list[tuple[Entry, bytes, bytes]] = field(default_factory=list)  # the last: the key that must have signed
    entries: list[Entry] = field(default_factory=list)
    failure: LedgerError | None = None
    torn: int = 0
    last: bool = False


class Reader:
    """Iterates over the good entries of a ledger. Raises `LedgerError` naming the first bad one; `torn`: bytes after the last line.

    With `public`, this key must have signed the ledger at some time; who did stands in `keys`. `threads`, 1 or more, check the
    signatures, the caller's included.
    """

    def __init__(self, file: BinaryIO, public: bytes | None = None, *, threads: int = 1) -> None:
        self.torn = 0
        self.keys = Keys()
        self._file, self._public, self._threads = file, public, threads
        self._before: Entry | None = None
        self._rounds: dict[bytes, int] = {}
        self._populations: dict[str, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        batch, index = _Batch(), 0
        with ThreadPoolExecutor(max(self._threads - 1, 1)) as pool:  # has no thread before it is given work
            while not batch.last:
                batch = self._batch(index)
                good, forged = self._checked(batch, pool)
                yield from batch.entries[:good]
                if forged is not None:
                    raise forged
                self.torn = batch.torn
                if batch.failure is not None:
                    raise batch.failure
                index += len(batch.entries)
        if index and self._public is not None:
            check_known(self.keys, self._public)

    def _batch(self, index: int) -> _Batch:
        """The next lines, from entry `index` on, each checked but for its signature."""
        batch, size = _Batch(), 0
        while size < BATCH and not batch.last:
            line = self._file.readline(LINE_MOST + 2)
            size += len(line)
            try:
                if line.endswith(b"\n"):
                    self._add(batch, line[:-1], index + len(batch.entries))
                else:
                    batch.torn, batch.last = len(line), True
                    _check_torn(len(line), index + len(batch.entries))
            except LedgerError as error:
                batch.failure, batch.last = error, True
        return batch

    def _add(self, batch: _Batch, line: bytes, index: int) -> None:
        entry = parse_entry(line, index)
        check_link(entry, self._before)
        batch.signed.append((entry, line, self.keys.take(entry)))
        if isinstance(entry.content, SpendRecord):
            check_round(entry.content.details, self._rounds, index)
            self._rounds[entry.content.details.plan_digest] = entry.content.details.round
        elif isinstance(entry.content, PopulationChanged):
            check_population(entry.content, self._populations, index)
            self._populations[entry.content.task] = entry.content.digest
        batch.entries.append(entry)
        self._before = entry

    def _checked(self, batch: _Batch, pool: ThreadPoolExecutor) -> tuple[int, LedgerError | None]:
        """How many entries stand before the first line that the ledger's key did not sign, and that line's error."""
        if not batch.signed:
            return 0, None
        share = -(-len(batch.signed) // self._threads)
        own, *others = [batch.signed[at : at + share] for at in range(0, len(batch.signed), share)]
        waited = [pool.submit(_signed, part) for part in others]
        good = 0
        for count, forged in (_signed(own), *(one.result() for one in waited)):
            good += count
            if forged is not None:
                return good, forged
        return good, None


def _signed(lines: Sequence[tuple[Entry, bytes, bytes]]) -> tuple[int, LedgerError | None]:
    """How many of these lines stand before the first that its key did not sign, and its error."""
    for count, (entry, line, public) in enumerate(lines):
        try:
            check_line_signature(entry, line, public)
        except LedgerError as error:
            return count, error
    return len(lines), None


def check_line_signature(entry: Entry, line: bytes, public: bytes) -> None:
    """Raises `LedgerError` unless `public` signed exactly this line, which `parse_entry` took as `entry`.

    `signature` stands next to last, and `time`, the last, holds no quote: the last place that reads so is the one.
    """
    before, _, rest = line.rpartition(_SIGNATURE)
    try:
        verify(public, entry.signature, ENTRY_LABEL, before + rest[_SIGNATURE_END:])
    except SignatureError as error:
        message = f"not signed by the ledger's key {fingerprint(public)}: line altered or forged"
        raise LedgerError(message, entry.index) from error


def _check_torn(size: int, index: int) -> None:
    if size > LINE_MOST:
        raise LedgerError(f"line of more than {LINE_MOST} bytes: not a ledger line", index)
