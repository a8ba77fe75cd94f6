"""How requests reach sites and replies come back; whoever carries them is trusted with nothing but availability.

Two implementations: Flower (`server.flower`) and a pipe to simulated sites (`server.simulate`). Both hand over exact bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from consortium.wire import Reply, Request
from server.errors import ServerError


class TransportError(ServerError):
    """No exchange can be carried: the run was stopped from outside, or a site that the transport does not know."""


@dataclass(frozen=True)
class Patience:
    """How long to wait: never beyond `deadline_s`; once `quorum` sites replied, the others get `grace_s`, or as long again as
    those took if that is longer: hospitals differ in their machines, and half the time of the slower ones is nothing saved.

    `quorum` 0 means that every site is waited for until the deadline.
    """

    deadline_s: float
    quorum: int = 0
    grace_s: float = 0.0

    def left(self, elapsed_s: float, replies: int, since_quorum_s: float) -> float:
        """Seconds still to wait, given the time since the start, the replies so far and the time since the quorum was met."""
        left = self.deadline_s - elapsed_s
        if self.quorum and replies >= self.quorum:
            left = min(left, max(self.grace_s, elapsed_s - since_quorum_s) - since_quorum_s)
        return max(left, 0.0)


class Transport(Protocol):
    """`failures` says, per site of the last exchange that gave no reply, why: LATE or UNREACHABLE."""

    @property
    def failures(self) -> Mapping[str, str]: ...

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        """Replies as they come, at most one a site; ends when all replied or the patience is over. Never raises for one site.

        Raises `TransportError` when the run was stopped from outside.
        """
        ...

    def close(self) -> None: ...
