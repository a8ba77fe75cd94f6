"""Who is in an epoch: a list of signed keys that every site checks for itself against roster and plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from secagg import derive
from secagg.context import Context
from secagg.errors import SecaggError
from secagg.messages import KEM_CIPHERTEXT_SIZE, KemEntry, Keys, check_signature


@dataclass(frozen=True)
class Roll:
    """P with its order: `sites` ascending, T and t. Everything is fixed by the list of keys messages."""

    epoch_id: bytes
    number: int
    sites: tuple[str, ...]
    threshold: int
    keys: Mapping[str, Keys] = field(repr=False)

    @property
    def n(self) -> int:
        return len(self.sites)

    def point(self, site: str) -> int:
        """Shamir point: 1 + place in P."""
        return 1 + self.sites.index(site)

    @property
    def points(self) -> tuple[int, ...]:
        return tuple(range(1, self.n + 1))

    def others(self, site: str) -> tuple[str, ...]:
        """P without `site`, ascending: the order of its commitments from index 1 on, and of its sealed shares."""
        return tuple(other for other in self.sites if other != site)

    def outside(self, survivors: Sequence[str]) -> tuple[str, ...]:
        """P without U, ascending."""
        return tuple(site for site in self.sites if site not in survivors)


def check_keys(context: Context, number: int, messages: Sequence[bytes]) -> tuple[Keys, ...]:
    """The keys messages of an epoch, each check over all of them before the next: `ENCODING` (form), `EPOCH`,
    `STRANGER`, `SIGNATURE`, `ENCODING` (keys), `PEERS`."""
    keys = tuple(Keys.decode(message) for message in messages)
    bound = (context.roster_digest, context.plan_digest, number)
    if other := tuple(one.site for one in keys if (one.roster_digest, one.plan_digest, one.epoch) != bound):
        raise SecaggError("EPOCH", f"keys of {', '.join(other)} are for another roster, plan or epoch", other)
    if strangers := tuple(one.site for one in keys if one.site not in context.identities):
        raise SecaggError("STRANGER", f"{', '.join(strangers)} not among the participants of roster and plan", strangers)
    for one in keys:
        one.check_signature(context.identities[one.site])
    for one in keys:
        _check_public_keys(one)
    check_ascending([one.site for one in keys])
    return keys


def make_roll(context: Context, number: int, messages: Sequence[bytes], keys: Sequence[Keys]) -> Roll:
    """The epoch of a checked list; `TOO_FEW` below the roster's smallest."""
    threshold = context.threshold(len(keys))
    sites = tuple(one.site for one in keys)
    return Roll(derive.epoch_id(messages), number, sites, threshold, {one.site: one for one in keys})


def check_ascending(sites: Sequence[str]) -> None:
    """`PEERS` unless the ids ascend strictly: one order, no duplicate."""
    for low, high in pairwise(sites):
        if not low < high:
            raise SecaggError("PEERS", f"{low} before {high}: site ids must ascend without repetition", (low, high))


def check_kem_entry(context: Context, roll: Roll, sender: str, receiver: str, entry: KemEntry) -> None:
    """`SIGNATURE` unless `sender` signed this ciphertext for this receiver and epoch."""
    fields = KemEntry.signed_fields(roll.epoch_id, sender, receiver, entry.ciphertext)
    check_signature(context.identities[sender], entry.signature, "kem", sender, *fields)


def check_ciphertext_size(sender: str, entry: KemEntry) -> None:
    if len(entry.ciphertext) != KEM_CIPHERTEXT_SIZE:
        size = len(entry.ciphertext)
        raise SecaggError("ENCODING", f"ciphertext of {sender} has {size} bytes, expected {KEM_CIPHERTEXT_SIZE}", (sender,))


def _check_public_keys(keys: Keys) -> None:
    try:
        X25519PublicKey.from_public_bytes(keys.x25519)
        MLKEM768PublicKey.from_public_bytes(keys.mlkem)
    except ValueError as error:
        raise SecaggError("ENCODING", f"{keys.site} sent a key that is none: it must join again", (keys.site,)) from error
