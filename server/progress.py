"""What a lead sees while a run goes on: read from the run's journal alone, so it shows the truth and can be closed at any time."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from consortium.plan import Plan
from server.card import NOT_PRIVATE_BANNER
from server.errors import JournalError
from server.figures import AUC, Primary, evaluated, headline, primary_of, side_of
from server.folder import RunFolder
from server.journal import decode_entry, split_lines
from server.state import RunState, advance, read_state

POLL_S = 0.3


class Watched:
    """A run's state, kept up to date by reading only what its journal gained: a long run is not read again at every look."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._offset = 0
        self.state = RunState()

    def look(self) -> RunState:
        """Where the run stands now. Raises `JournalError` on a damaged journal."""
        try:
            self._read()
        except JournalError:  # a last line that the disk refused was taken back: begin again
            self.state, self._offset = read_state(self._run_dir), 0
        return self.state

    def _read(self) -> None:
        path = RunFolder(self._run_dir).events
        if not path.exists():
            return
        offset = self._offset
        with path.open("rb") as file:
            file.seek(offset)
            lines, size = split_lines(file.read())
        state = self.state if offset else RunState()
        for line in lines:
            state = advance(state, decode_entry(line, state.events + 1))
        self.state, self._offset = state, offset + size


def follow(
    run_dir: Path, alive: Callable[[], bool], *, since: int = 0, console: Console | None = None, show: bool = True
) -> RunState:
    """Show the run until it ended, or until nobody drives it any more (`alive` is asked now and then). Returns where it stands.

    `since`: events that are older than this watch; a final model among them is no news. A stop in the journal is not the end
    of the watch while somebody drives the run: it may be the last word of an earlier coordinator, that was just stopped.
    """
    plan, watched = RunFolder(run_dir).plan(), Watched(run_dir)
    primary = primary_of(plan)
    bar = Progress(
        TextColumn("{task.fields[banner]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console or Console(stderr=True),
        disable=not show,
    )
    with bar:
        shown = bar.add_task("starting", total=total_rounds(plan), banner="" if plan.private else NOT_PRIVATE_BANNER)
        while True:
            driven = alive()  # asked before the journal is read: what was written before the end is seen
            state = watched.look()
            bar.update(shown, completed=len(state.done), description=sentence(state, primary))
            if not driven or (state.phase == "finished" and state.events > since):
                return state
            time.sleep(POLL_S)


def total_rounds(plan: Plan) -> int:
    return (1 if plan.statistics else 0) + plan.schedule.rounds + (1 if plan.schedule.max_evaluate else 0)


def sentence(state: RunState, primary: Primary | None = AUC) -> str:
    """Where the run stands, in one line; `primary`: the figure that its task is measured by."""
    parts = []
    if state.waiting:
        parts.append("waiting: " + ", ".join(f"{site} ({code})" for site, code in sorted(state.waiting.items())))
    if state.done:
        last = state.done[-1]
        parts.append(f"round {last.round} {last.purpose}, {len(last.survivors)} sites")
    if (done := evaluated(state)) is not None and (said := headline(dict(done.metrics), primary)):
        parts.append(f"pooled {said} on {side_of(done)} patients")
    if state.failed:
        parts.append(f"{len(state.failed)} rounds lost")
    return "; ".join(parts) or f"{state.phase}"


def latest_metric(state: RunState, name: str) -> float | None:
    """The newest pooled value of a metric, None before the first evaluation."""
    for done in reversed(state.done):
        if name in dict(done.metrics):
            return dict(done.metrics)[name]
    return None


def patients_words(state: RunState) -> str:
    """The newest count of training patients behind a sum, with the noise's standard error; empty where none was asked for."""
    count, error = latest_metric(state, "patients"), latest_metric(state, "patients_noise_se")
    return "" if count is None or error is None else f"{count:.0f} (noise of s.e. {error:.1f})"
