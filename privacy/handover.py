"""Which key signs a ledger, line by line: the one that entry 0 names, and each that it was handed over to since. Pure.

A key takes over once and for good. By `key-rotated` the old key says so itself, and the new one proves that it is there; by
`key-replaced` the new one goes on alone, because the old one is lost: whoever reads must be told that this is the site's key.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consortium.errors import SignatureError
from consortium.identity import SigningKey, fingerprint, verify
from privacy.entries import PROOF_LABEL, Entry, Genesis, KeyReplaced, KeyRotated
from privacy.errors import LedgerError


@dataclass(frozen=True)
class Handover:
    """`vouched`: the old key signed it. `reason`: why it did not, in the site's words; empty where it did."""

    entry: int
    time: str
    old_key: bytes
    new_key: bytes
    roster_version: int
    vouched: bool
    reason: str = ""

    @property
    def words(self) -> str:
        keys = f"from key {fingerprint(self.old_key)} to {fingerprint(self.new_key)}"
        if self.vouched:
            return f"handed over {keys} (roster version {self.roster_version}), signed by the old key and proven by the new one"
        return f"handed over {keys} (roster version {self.roster_version}), NOT vouched for by the old key: {self.reason}"


@dataclass
class Keys:
    """The keys of a ledger, the one in force last, as far as its entries were taken."""

    known: list[bytes] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Keys":
        keys = cls()
        for entry in entries:
            keys.take(entry)
        return keys

    @property
    def in_force(self) -> bytes:
        return self.known[-1]

    def at(self, entry: int) -> bytes:
        """The key that signed this entry."""
        later = sum(over.entry < entry or (over.entry == entry and not over.vouched) for over in self.handovers)
        return self.known[later]

    def take(self, entry: Entry) -> bytes:
        """The key that must have signed `entry`, which is the next one. Raises `LedgerError` for a handover that is none."""
        match entry.content:
            case Genesis(identity_key=key):
                self.known = [key]
            case KeyRotated() as rotated:
                self._check(rotated, entry)
                _check_proof(rotated, entry)
                return self._hand_over(rotated, entry, vouched=True)
            case KeyReplaced() as replaced:
                self._check(replaced, entry)
                self._hand_over(replaced, entry, vouched=False)
        return self.in_force

    def _check(self, content: KeyRotated | KeyReplaced, entry: Entry) -> None:
        if content.old_key != self.in_force:
            raise LedgerError(
                f"hands over from key {fingerprint(content.old_key)}, but {fingerprint(self.in_force)} is in force: a fork",
                entry.index,
            )
        if content.new_key in self.known:
            raise LedgerError(f"hands over to key {fingerprint(content.new_key)}, which was retired before", entry.index)

    def _hand_over(self, content: KeyRotated | KeyReplaced, entry: Entry, *, vouched: bool) -> bytes:
        """The old key."""
        reason = "" if isinstance(content, KeyRotated) else content.reason
        before = self.in_force
        over = Handover(entry.index, entry.time, before, content.new_key, content.roster_version, vouched, reason)
        self.handovers.append(over)
        self.known.append(content.new_key)
        return before


def rotated(old: SigningKey, new: SigningKey, previous: bytes, *, roster_version: int, roster_digest: bytes) -> KeyRotated:
    """The content of a handover behind the entry whose hash is `previous`, with the new key's proof."""
    draft = KeyRotated(old.public, new.public, roster_version, roster_digest, b"")
    proof = new.sign(PROOF_LABEL, *draft.proof_fields(previous))
    return KeyRotated(old.public, new.public, roster_version, roster_digest, proof)


def _check_proof(content: KeyRotated, entry: Entry) -> None:
    try:
        verify(content.new_key, content.proof, PROOF_LABEL, *content.proof_fields(entry.previous))
    except SignatureError as error:
        message = f"key {fingerprint(content.new_key)} did not prove that it takes over here: forged, or moved from another ledger"
        raise LedgerError(message, entry.index) from error


def check_in_force(keys: Keys, public: bytes) -> None:
    """Raises `LedgerError` unless `public` is the key that signs this ledger now: whoever writes, writes with that."""
    if public == keys.in_force:
        return
    if public in keys.known:
        over = keys.handovers[keys.known.index(public)]
        raise LedgerError(
            f"the ledger was handed over from key {fingerprint(public)} to {fingerprint(over.new_key)} on {over.time}, and the key "
            f"file is the one before: put back the identity key with fingerprint {fingerprint(keys.in_force)} (newest backup); if "
            "it is lost, `wardround-site rotate --key-lost` makes another one",
            over.entry,
        )
    check_known(keys, public)


def check_known(keys: Keys, public: bytes) -> None:
    """Raises `LedgerError` unless `public` signed this ledger at some time, or signs it now."""
    if public not in keys.known:
        raise LedgerError(
            f"the ledger belongs to key {fingerprint(keys.in_force)}, expected {fingerprint(public)}: "
            "another site's ledger, or the site's key was replaced",
            0,
        )
