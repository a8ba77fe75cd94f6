"""A ledger's lines, one at a time and each checked: a ledger of any length is read in the memory of one line.

The same checks as `privacy.ledger.read_entries`, which keeps every entry. The signature is checked over the very bytes of
the line without its `signature`, as the README describes them: a line is canonical, so there is one way to cut it out.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final

from consortium.errors import SignatureError
from consortium.identity import fingerprint, verify
from privacy.entries import ENTRY_LABEL, LINE_MOST, Entry, Genesis, SpendRecord, check_link, parse_entry
from privacy.errors import LedgerError
from privacy.ledger import check_round

_SIGNATURE: Final = b',"signature":"'
_SIGNATURE_END: Final = 128 + 1  # hex digits and the quote


class Reader:
    """Iterates over the good entries of a ledger. Raises `LedgerError` naming the first bad one; `torn`: bytes after the last line.

    With `public`, the ledger must belong to this key.
    """

    def __init__(self, file: BinaryIO, public: bytes | None = None) -> None:
        self.torn = 0
        self._file, self._key, self._public = file, public, public
        self._before: Entry | None = None
        self._rounds: dict[bytes, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        index = 0
        while line := self._file.readline(LINE_MOST + 2):
            if not line.endswith(b"\n"):
                self.torn = len(line)
                if len(line) > LINE_MOST:
                    raise LedgerError(f"line of more than {LINE_MOST} bytes: not a ledger line", index)
                return
            yield self._checked(line[:-1], index)
            index += 1

    def _checked(self, line: bytes, index: int) -> Entry:
        entry = parse_entry(line, index)
        check_link(entry, self._before)
        if isinstance(entry.content, Genesis):
            self._key = genesis_key(entry.content, self._public)
        assert self._key is not None  # noqa: S101 - check_link lets only a genesis entry be the first
        check_line_signature(entry, line, self._key)
        if isinstance(entry.content, SpendRecord):
            check_round(entry.content.details, self._rounds, index)
            self._rounds[entry.content.details.plan_digest] = entry.content.details.round
        self._before = entry
        return entry


def genesis_key(genesis: Genesis, public: bytes | None) -> bytes:
    """The key that signs this ledger; raises `LedgerError` if it is not the expected one."""
    if public is not None and genesis.identity_key != public:
        raise LedgerError(
            f"the ledger belongs to key {fingerprint(genesis.identity_key)}, expected {fingerprint(public)}: "
            "another site's ledger, or the site's key was replaced",
            0,
        )
    return genesis.identity_key


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
