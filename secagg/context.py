"""What a site takes from signed documents and never from the coordinator."""

from collections.abc import Mapping
from dataclasses import dataclass

from consortium.plan import Plan
from consortium.roster import Roster
from secagg import numbers
from secagg.errors import SecaggError


@dataclass(frozen=True)
class Context:
    """Roster and plan of a run, as far as the protocol needs them.

    `identities`: the plan's participants, id -> Ed25519 public key. `colluders` and `minimum_cohort` are the roster's c and n_min,
    `ring_bits` (16 or 32) is the plan's width of a body value.
    """

    roster_digest: bytes
    plan_digest: bytes
    identities: Mapping[str, bytes]
    colluders: int
    minimum_cohort: int
    max_round: int
    ring_bits: int = 32

    @staticmethod
    def of(roster: Roster, plan: Plan, plan_digest: bytes) -> "Context":
        """From verified documents. Raises `DocumentError` for a participant who is not on the roster."""
        return Context(
            roster_digest=roster.digest,
            plan_digest=plan_digest,
            identities={site: roster.member(site).identity_key for site in plan.sites},
            colluders=roster.colluders,
            minimum_cohort=roster.minimum_cohort,
            max_round=plan.schedule.max_round,
            ring_bits=plan.ring_bits,
        )

    def threshold(self, n: int) -> int:
        """t of an epoch of n sites; `TOO_FEW` below the smallest epoch that the roster allows."""
        least = numbers.smallest_epoch(self.colluders, self.minimum_cohort)
        if n < least:
            raise SecaggError("TOO_FEW", f"epoch of {n} sites, the roster demands {least}: wait for more sites")
        return numbers.threshold(n, self.colluders)
