"""What a site chose to say about its own ledger: one number for all its runs, signed, and nothing else.

Nobody asks for it and nothing depends on it. Whoever holds a copy of the ledger can check it: `entries` and `ledger_head` name
the very ledger that the number is of.
"""

import math
from dataclasses import dataclass

from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import NOT_PRIVATE, TIME

KIND = "epsilon-statement"
MOST_ENTRIES = 2**40


@dataclass(frozen=True)
class EpsilonStatement:
    """Epsilon of the worst-off patient of `site` over **all** its runs up to `made`, at `delta`; -1: nothing bounds it.

    `plan_digest`: the plan whose delta it is, and whose run shows it. `entries`, `ledger_head`: length of the ledger and
    hash of its last line. `made`: UTC, like 2026-01-31T12:00:00Z.
    """

    site: str
    plan_digest: bytes
    delta: float
    epsilon_exposed: float
    entries: int
    ledger_head: bytes
    made: str

    def __post_init__(self) -> None:
        if not SITE_ID.fullmatch(self.site):
            raise DocumentError(f"{KIND}: site id {self.site!r} is not of a-z, 0-9 and '-'")
        if len(self.plan_digest) != 32 or len(self.ledger_head) != 32:
            raise DocumentError(f"{KIND}: plan_digest and ledger_head must be 32 bytes")
        if not 0.0 < self.delta < 1.0:
            raise DocumentError(f"{KIND}: delta {self.delta} outside (0, 1)")
        if not (self.epsilon_exposed == NOT_PRIVATE or (self.epsilon_exposed >= 0.0 and math.isfinite(self.epsilon_exposed))):
            raise DocumentError(f"{KIND}: epsilon {self.epsilon_exposed}, must be 0 or more, or {NOT_PRIVATE} for no bound")
        if not 1 <= self.entries <= MOST_ENTRIES:
            raise DocumentError(f"{KIND}: {self.entries} entries, outside [1, 2^40]")
        if not TIME.fullmatch(self.made):
            raise DocumentError(f"{KIND}: made must look like 2026-01-31T12:00:00Z")

    @property
    def private(self) -> bool:
        return self.epsilon_exposed != NOT_PRIVATE


def sign_statement(statement: EpsilonStatement, key: SigningKey) -> Signed:
    return Signed.of(KIND, statement).sign(statement.site, key)


def verify_statement(signed: Signed, site: str, public: bytes) -> EpsilonStatement:
    """The statement, if `site` alone signed it with the key `public`. Whether the number is true, only its ledger shows."""
    statement = signed.expect(KIND).document(EpsilonStatement)
    if statement.site != site or signed.signers({site: public}) != (site,):
        raise SignatureError(f"{KIND} is not signed by {site}")
    return statement
