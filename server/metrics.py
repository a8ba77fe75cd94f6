"""The hub's numbers for Prometheus: sites connected, runs, the rounds of those that go on, losses by code, journal, disk.

From the hub's list of gateways and the runs' journals: nothing here that `wardround-lead status` does not show. Served on loopback
alone. Labels are words of this program and, for runs that go on (`RUNS_MOST` at most), their ids.
"""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, get_args

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import start_http_server

from consortium.wire import SENTENCES
from server.errors import FolderError, JournalError, ServerError
from server.folder import RunFolder, open_folder
from server.journal import is_driven
from server.progress import Watched
from server.standing import SILENT
from server.state import Phase, RunState

LOOPBACK: Final = "127.0.0.1"
RUNS_MOST: Final = 20
CODES: Final = frozenset({*SENTENCES, *SILENT})
OTHER: Final = "other"


class LeadMetrics:
    """A collector: reads what the journals gained whenever somebody asks it."""

    def __init__(
        self,
        runs: Path,
        disk: Path,
        connected: Callable[[], Mapping[str, bool] | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`connected`: registered gateways by name, whether each is online; None where the hub does not answer."""
        self._runs, self._disk, self._connected, self._now = runs, disk, connected, now
        self._watched: dict[Path, Watched] = {}

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield from self._of_hub()
        states = dict(self._states())
        by_phase = Counter(state.phase for state in states.values())
        runs = GaugeMetricFamily("wardround_lead_runs", "Runs in this lead's folder by phase.", labels=["phase"])
        for phase in get_args(Phase):
            runs.add_metric([phase], by_phase[phase])
        yield runs
        going = sorted((item for item in states.items() if item[1].phase != "finished"), key=lambda item: item[1].last_at)
        yield from self._of_runs(going[-RUNS_MOST:])

    def _of_hub(self) -> Iterator[Metric]:
        nodes = self._connected()
        yield GaugeMetricFamily("wardround_lead_hub_up", "Whether the hub answers its operator.", value=float(nodes is not None))
        sites = GaugeMetricFamily("wardround_lead_sites", "Registered gateways by connection.", labels=["connection"])
        online = sum((nodes or {}).values())
        sites.add_metric(["online"], online)
        sites.add_metric(["offline"], len(nodes or {}) - online)
        yield sites
        free = shutil.disk_usage(self._disk).free
        yield GaugeMetricFamily("wardround_lead_disk_free_bytes", "Free space of the disk with runs and hub state.", value=free)

    def _states(self) -> Iterator[tuple[Path, RunState]]:
        """Every run whose journal can be read; another command says what is wrong with the others."""
        for plan in sorted(self._runs.glob("*/plan.signed")):
            watched = self._watched.setdefault(plan.parent, Watched(plan.parent))
            try:
                yield plan.parent, watched.look()
            except (JournalError, OSError):
                continue

    def _of_runs(self, going: list[tuple[Path, RunState]]) -> Iterator[Metric]:
        rounds = CounterMetricFamily("wardround_lead_rounds", "Rounds that ended, by outcome.", labels=["run", "outcome"])
        latest = GaugeMetricFamily("wardround_lead_round_number", "The last round that was begun.", labels=["run"])
        survivors = GaugeMetricFamily("wardround_lead_survivors", "Sites in the last opened sum.", labels=["run"])
        driven = GaugeMetricFamily("wardround_lead_run_driven", "Whether a coordinator drives the run.", labels=["run"])
        age = GaugeMetricFamily("wardround_lead_journal_age_seconds", "Seconds since the journal gained an event.", labels=["run"])
        seconds = GaugeMetricFamily("wardround_lead_round_seconds", "Seconds of the last opened round.", labels=["run", "phase"])
        losses = CounterMetricFamily(
            "wardround_lead_losses", "Sites lost in rounds, by phase and code.", labels=["run", "phase", "code"]
        )
        for path, state in going:
            name = self._name(path)
            rounds.add_metric([name, "opened"], len(state.done))
            rounds.add_metric([name, "lost"], len(state.failed))
            latest.add_metric([name], state.last_attempted)
            driven.add_metric([name], float(is_driven(RunFolder(path).events)))
            with contextlib.suppress(OSError):  # a run that no hub was there to take has no journal yet
                age.add_metric([name], max(0.0, self._now() - RunFolder(path).events.stat().st_mtime))
            if state.done:
                survivors.add_metric([name], len(state.done[-1].survivors))
                for phase, value in state.done[-1].seconds:
                    seconds.add_metric([name, phase], value)
            for (phase, code), count in _losses(state).items():
                losses.add_metric([name, phase, code], count)
        yield from (rounds, latest, survivors, driven, age, seconds, losses)

    @staticmethod
    def _name(path: Path) -> str:
        """The run's id from its signed plan, so that a folder's name cannot become a label."""
        try:
            return open_folder(path).plan().run_id
        except (FolderError, ServerError):
            return OTHER


def _losses(state: RunState) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for drops in (*(done.dropped for done in state.done), *(failed.dropped for failed in state.failed)):
        found.update((drop.phase, drop.code if drop.code in CODES else OTHER) for drop in drops)
    return found


def serve_metrics(port: int, collector: LeadMetrics) -> Callable[[], None]:
    """Serve at 127.0.0.1:`port` until the returned function is called. Raises `ServerError` if the port is taken."""
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise ServerError(f"--metrics-port {port}: cannot listen on {LOOPBACK} ({error.strerror}): name another one") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop
