"""One site's egress manifest as an auditor was given it: whether its lines stand as they were written, and who vouches for that.

Without the site's ledger only the manifest's own chain is checked, which whoever has all of its lines can write anew. With the
ledger, which must be signed with the key that the roster names, no line up to the last update or vote can have changed. Pure.
"""

from dataclasses import dataclass
from typing import Final

from consortium.plan import Plan
from privacy.entries import Egress, Entry
from privacy.errors import LedgerError
from privacy.handover import Keys, check_known
from privacy.ledger import read_entries
from privacy.manifest import UPDATE, VOTE, Counted, Linked, Manifest, read_manifest, verify_manifest

NOT_LINKED: Final = (
    "its links were NOT checked, because no ledger was given (--ledger): that each line follows from the one before it is all that "
    "is known, and nobody vouches for any"
)
NOT_RELIED_ON: Final = "its links were NOT checked: the ledger that was given is not to be relied on"


@dataclass(frozen=True)
class SiteEgress:
    """`entries`: the ledger's; None where none was given, or where `refused` says why it is not to be relied on."""

    plan: bytes
    manifest: Manifest
    linked: Linked
    entries: tuple[Entry, ...] | None
    refused: str

    @property
    def site(self) -> str:
        return self.manifest.site

    @property
    def sentence(self) -> str:
        """Who vouches for the manifest, in words."""
        if self.entries is not None:
            return self.linked.sentence
        return NOT_RELIED_ON if self.refused else NOT_LINKED

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the ledger leaves to be said about single lines; nothing where it has no entry about any."""
        return tuple(remark.text for remark in self.linked.remarks) if self.entries is not None and self.linked.entries else ()


def read_site_egress(data: bytes, site: str, plan: Plan, *, key: bytes, ledger: bytes | None) -> SiteEgress:
    """The manifest in `data`, checked against the bytes of the ledger of the site whose identity key was `key`.

    Raises `ManifestError` for a file of another kind; everything else that is wrong is found in the value.
    """
    manifest = read_manifest(data, site, plan.digest)
    entries, refused = None, ""
    if ledger is not None:
        try:
            found = read_entries(ledger)[0]
            check_known(Keys.of(found), key)  # the key of the run's time: the site may have another one since
            entries = found
        except LedgerError as error:
            refused = str(error)
    return SiteEgress(plan.digest, manifest, verify_manifest(plan.run_id, data, entries or ()), entries, refused)


def unsigned(given: SiteEgress, counted: Counted) -> tuple[str, ...]:
    """What a round's record proves to have left the site, and its ledger has no entry for, in words.

    A ledger whose first entry about an answer is of a later round is of a version that wrote none before: nothing is said then.
    """
    links = [entry.content for entry in given.entries or () if isinstance(entry.content, Egress)]
    known = {(link.round, link.answer) for link in links if link.plan_digest == given.plan}
    number = counted.round_number
    if min((round_number for round_number, _ in known), default=number + 1) > number:
        return ()
    proven = [f"{UPDATE} ({counted.purpose})"] if counted.upload else []
    proven += [VOTE] if counted.ballot else []
    return tuple(
        f"the record holds the {answer.partition(' ')[0]} of {given.site} in round {number}, and its ledger has no entry that it "
        f"left: it is an older copy, or {given.site} kept that out; ask for the ledger as it is now"
        for answer in proven
        if (number, answer) not in known
    )
