"""The gateway's numbers for Prometheus: its own and what the guard tells everybody; no patient, no count, no budget, no run.

Served on loopback alone, at `metrics_port` of site.yaml. Labels are words of this program (kind of message, code, phase, state),
never anything that came from outside, so their number is bounded.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import start_http_server

from client.errors import SiteError
from client.status import HUB, PHASES
from consortium.wire import KINDS, SENTENCES

LOOPBACK: Final = "127.0.0.1"
HUB_STATES: Final = (*HUB, "refused", "unreachable")
OUTCOMES: Final = frozenset({"answered", *SENTENCES})
OTHER: Final = "other"

Document = Mapping[str, Any]


class SiteMetrics:
    """A collector: asks board and guard whenever somebody asks it."""

    def __init__(
        self, gateway: Callable[[], Document], guard: Callable[[], Document | None], now: Callable[[], float] = time.time
    ) -> None:
        """`gateway`: the board's document; `guard`: its status, None where it does not answer."""
        self._gateway, self._guard, self._now = gateway, guard, now

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        board, guard = self._gateway(), self._guard()
        yield from self._of_guard(guard)
        yield from self._of_hub(board)
        requests = CounterMetricFamily(
            "wardround_site_requests", "Requests of the hub by kind and outcome.", labels=["kind", "outcome"]
        )
        for (kind, outcome), count in _bounded(board).items():
            requests.add_metric([kind, outcome], count)
        yield requests
        sent = CounterMetricFamily("wardround_site_sent_bytes", "Bytes of answers handed to the hub.")
        sent.add_metric([], board.get("bytes_out", 0))
        yield sent
        restarts = CounterMetricFamily("wardround_site_supernode_restarts", "Times that Flower's SuperNode was started again.")
        restarts.add_metric([], board.get("restarts", 0))
        yield restarts

    def _of_guard(self, guard: Document | None) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "wardround_site_guard_up", "Whether the guard answers at its socket.", value=float(guard is not None)
        )
        paused = float(guard is not None and guard.get("state") == "paused")
        yield GaugeMetricFamily("wardround_site_paused", "Whether the site is paused.", value=paused)
        phase = GaugeMetricFamily("wardround_site_guard_phase", "1 for the phase that the guard is in.", labels=["phase"])
        now = str(guard.get("phase")) if guard is not None else ""
        for name in PHASES:
            phase.add_metric([name], float(name == now))
        yield phase
        since = self._age(guard.get("since")) if guard is not None else None
        if since is not None:
            yield GaugeMetricFamily(
                "wardround_site_guard_phase_age_seconds", "Seconds that the guard is in its phase.", value=since
            )

    def _of_hub(self, board: Document) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "wardround_site_hub_connection", "1 for the state of the connection to the hub.", labels=["state"]
        )
        for name in HUB_STATES:
            state.add_metric([name], float(board.get("supernode") == name))
        yield state
        for name, key, what in (
            ("hub_state_age", "since", "Seconds since the connection to the hub changed its state."),
            ("hub_contact_age", "last_contact", "Seconds since the hub last answered."),
            ("gateway_up", "started", "Seconds since the gateway started."),
        ):
            if (age := self._age(board.get(key))) is not None:
                yield GaugeMetricFamily(f"wardround_site_{name}_seconds", what, value=age)

    def _age(self, at: object) -> float | None:
        try:
            moment = datetime.strptime(str(at), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            return None
        return max(0.0, self._now() - moment.timestamp())


def _bounded(board: Document) -> dict[tuple[str, str], int]:
    """Requests by kind and outcome, words that this version does not know under `other`."""
    found: dict[tuple[str, str], int] = {}
    for one in board.get("requests", []):
        kind = one["kind"] if one["kind"] in KINDS else OTHER
        outcome = one["outcome"] if one["outcome"] in OUTCOMES else OTHER
        found[kind, outcome] = found.get((kind, outcome), 0) + one["count"]
    return found


def serve_metrics(port: int, collector: SiteMetrics) -> Callable[[], None]:
    """Serve at 127.0.0.1:`port` until the returned function is called. Raises `SiteError` if the port is taken."""
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise SiteError(
            f"metrics_port {port}: cannot listen on {LOOPBACK} ({error.strerror}): free it or name another one"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop
