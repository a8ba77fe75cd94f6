"""Every scan is prepared once: kept by what its files hold and how they are prepared, checked at every start, made anew if damaged.

The folder holds, for each recipe, a folder named by its digest with `recipe.json` and the entries (`entries.py`). Only the account
that runs this may read it. Filling it can be broken off at any instant and taken up again, and two processes may fill it at once:
they write the same bytes. No more scans are in memory than there are workers; a filled cache is read through memory maps.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.imaging.entries import CacheError, Entry, entry_key, entry_names, read_entry, sweep, write_entry, write_whole
from tasks.imaging.errors import ImageError
from tasks.imaging.prepare import Recipe, prepare, source_digests
from tasks.imaging.store import Scan

if TYPE_CHECKING:
    from rich.console import Console

RECIPE_DIGITS: Final = 16  # of the recipe's digest, in the name of its folder
WAITING: Final = 2  # scans handed out for each worker: one in work, one next


class State(StrEnum):
    """What became of a scan when the cache was filled."""

    KEPT = "kept"
    MADE = "made"
    MENDED = "mended"  # there was an entry, damaged
    REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """`entry` is None for a refused scan; then `code` and `sentence` say why, without a name."""

    state: State
    entry: Entry | None
    code: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Stale:
    """Entries of another recipe."""

    folder: Path
    files: int
    mib: float


Done = Callable[[Scan, Outcome], None]


@dataclass(frozen=True)
class Cache:
    """Scans prepared by one recipe, in one folder."""

    folder: Path
    recipe: Recipe

    @property
    def place(self) -> Path:
        """The folder of this recipe's entries."""
        return self.folder / self.recipe.digest[:RECIPE_DIGITS]

    def fill(self, scans: Sequence[Scan], *, workers: int = 1, done: Done | None = None) -> tuple[Outcome, ...]:
        """One outcome for each scan, in their order; `done` is called with each as it comes.

        Every entry's bytes are compared with its digest, and those of every source file are read. A scan that cannot be used is
        refused and stops no other. `CacheError` if the disk refuses or a worker is killed; what is finished stays.
        """
        if workers < 1:
            raise CacheError(f"{workers} workers: at least 1")
        self._ready()
        found: dict[int, Outcome] = {}
        try:
            for number, outcome in self._outcomes(scans, workers):
                found[number] = outcome
                if done is not None:
                    done(scans[number], outcome)
        except MemoryError as error:
            raise CacheError(
                f"the memory does not suffice for {workers} workers: run again with fewer workers, or a larger spacing in the"
                " recipe; what is finished is kept"
            ) from error
        return tuple(found[number] for number in range(len(scans)))

    def unused(self, kept: Iterable[Outcome]) -> tuple[str, ...]:
        """Keys in the folder of this recipe that no outcome has: files that changed, scans that were withdrawn."""
        wanted = {outcome.entry.key for outcome in kept if outcome.entry is not None}
        return tuple(key for key in entry_names(self.place) if key not in wanted) if self.place.is_dir() else ()

    def remove(self, keys: Collection[str]) -> None:
        """Removes these entries; one that is mapped at the moment stays readable for who maps it."""
        for key in keys:
            (self.place / f"{key}.json").unlink(missing_ok=True)  # first, so that no half entry is taken for one
            (self.place / f"{key}.npy").unlink(missing_ok=True)

    def stale(self) -> tuple[Stale, ...]:
        """What the folder holds of other recipes."""
        if not self.folder.is_dir():
            return ()
        others = [path for path in sorted(self.folder.iterdir()) if path != self.place and not path.is_symlink()]
        return tuple(Stale(path, *_size(path)) for path in others if (path / "recipe.json").is_file())

    def remove_stale(self) -> None:
        """Removes the entries of other recipes; files that are none of ours stay, with their folder."""
        for other in self.stale():
            for key in entry_names(other.folder):
                (other.folder / f"{key}.json").unlink(missing_ok=True)
                (other.folder / f"{key}.npy").unlink(missing_ok=True)
            sweep(other.folder)
            (other.folder / "recipe.json").unlink(missing_ok=True)
            if not any(other.folder.iterdir()):
                other.folder.rmdir()

    def _ready(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.place.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CacheError(f"the folder of the image cache cannot be made ({error.strerror}): choose another") from error
        sweep(self.place)
        about = self.place / "recipe.json"
        wanted = self.recipe.text.encode()
        if not about.is_file() or about.read_bytes() != wanted:
            write_whole(about, (wanted,))

    def _outcomes(self, scans: Sequence[Scan], workers: int) -> Iterator[tuple[int, Outcome]]:
        if workers == 1 or len(scans) < 2:
            for number, scan in enumerate(scans):
                yield number, _alone(scan, self.recipe, self.place)
            return
        yield from _in_parallel(scans, self.recipe, self.place, workers)


def kept_or_made(scan: Scan, recipe: Recipe, place: Path) -> Outcome:
    """The scan's entry, checked; else made from its files. The function that a worker runs."""
    try:
        sources = source_digests(scan, recipe)
        key = entry_key(sources, recipe)
        if (entry := read_entry(place, key, recipe)) is not None:
            return Outcome(State.KEPT, entry)
        damaged = (place / f"{key}.json").exists()
        prepared = prepare(scan, recipe)
        _refuse_a_change(sources, source_digests(scan, recipe))
    except ImageError as error:
        return Outcome(State.REFUSED, None, error.code, error.sentence)
    return Outcome(State.MENDED if damaged else State.MADE, write_entry(place, key, prepared, recipe))


def _alone(scan: Scan, recipe: Recipe, place: Path) -> Outcome:
    """The same where no other worker takes memory: a scan that still does not fit is refused, and stops no other."""
    try:
        return kept_or_made(scan, recipe, place)
    except MemoryError:
        return Outcome(State.REFUSED, None, "no_memory", "it does not fit into this machine's memory: free some, or leave it out")


def _refuse_a_change(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Else an entry could hold other images than its key says."""
    if before != after:
        raise ImageError("changed", "its files changed while they were read: run again when they are complete")


def _in_parallel(scans: Sequence[Scan], recipe: Recipe, place: Path, workers: int) -> Iterator[tuple[int, Outcome]]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads (torch, gRPC) can hang
    pool = ProcessPoolExecutor(min(workers, len(scans)), mp_context=context, initializer=_end_with_parent)
    running: dict[Future[Outcome], int] = {}
    coming = iter(enumerate(scans))
    try:
        while True:
            for number, scan in coming:
                running[pool.submit(kept_or_made, scan, recipe, place)] = number
                if len(running) >= WAITING * workers:
                    break
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise CacheError(
            f"one of {workers} workers was killed, most likely for want of memory: run again with fewer workers;"
            " what is finished is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it ends with it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def shown(total: int, console: Console) -> Iterator[Done]:
    """A bar on `console`, moved by the `done` that it yields; it counts what was kept, made, mended and refused."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts = dict.fromkeys(State, 0)
    columns = (
        TextColumn("preparing scans"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)

        def done(scan: Scan, outcome: Outcome) -> None:
            counts[outcome.state] += 1
            words = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
            progress.update(task, advance=1, description=words)

        yield done


def _size(folder: Path) -> tuple[int, float]:
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return len(sizes), sum(sizes) / 2**20
