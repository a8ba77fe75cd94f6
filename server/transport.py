"""How the coordinator reaches the sites: one exchange is one message to each named site, and never waits past its deadline.

Two implementations: `server.flower.FlowerTransport` (real processes over TLS) and the loopback of `wardround-lead
simulate` (the same guards in this process tree). `server.rounds` knows only this Protocol.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from consortium.wire import Reply, Request
from server.errors import ServerError


class TransportError(ServerError):
    """The transport itself cannot carry an exchange: unknown site, or the run was stopped from outside."""


class Transport(Protocol):
    """Carries the four kinds of `consortium.wire.KINDS` and looks into none of them."""

    def exchange(self, kind: str, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        """Send each site its request; yield (site, reply) as replies come, at most one per site.

        Ends when all have answered or `deadline_s` seconds after the call, whichever is first. A site that did not
        answer, or whose transport failed, is simply absent. A refusal is a reply like any other. Raises
        `TransportError` when the run was stopped, or for a site that the transport has no address of.
        """
        ...
