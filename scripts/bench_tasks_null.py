"""Where treatments do nothing: how often a run of a task on effects says that it found an effect, or an order of patients.

    scripts/bench tasks --null 40 2        40 consortia of the preset demo and 2 of reclaim, into scripts/results/tasks/null.md

Each consortium is parted five times, so that five models are trained and tested; what counts is what the run itself reports, from
the opened histogram with its noise. Runs are short (20 rounds): the tests ask only of held-out patients, whoever trained the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench_machine import machine, machine_line
from bench_tasks_arms import NONE, PRIVATE, federated
from bench_tasks_cards import CARDS
from bench_tasks_effects import Effects
from bench_tasks_worlds import World, world_of
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import beta

from tasks.simulator.presets import PLACEBO_NULL

SPLITS = 5
SHORT = ("schedule.rounds=20",)
MODES: Mapping[str, tuple[str, ...]] = {"none": NONE, "distributed8": PRIVATE["distributed8"]}
MOST = 0.05
FIRST = 6000  # seeds of consortia; 5000 to 5999 had a part in how the tests are made
NEXT_SPLIT = 1_000_003


@dataclass(frozen=True)
class Run:
    """What one run declared of patients whom no treatment helps."""

    preset: str
    task: str
    privacy: str
    seed: int
    split: int
    patients: int  # tested, with noise
    effect: bool
    order: bool


def runs_of(card: Effects, preset: str, seed: int, modes: Mapping[str, tuple[str, ...]] = MODES, splits: int = SPLITS) -> list[Run]:
    """All runs of one consortium."""
    world = world_of(card.name, seed, preset=preset, scenario=PLACEBO_NULL)
    return [_run(card, _parted(world, split), split, mode, words) for split in range(splits) for mode, words in modes.items()]


def _parted(world: World, split: int) -> World:
    """The same patients, parted anew into those who train and those who are tested."""
    salt = hashlib.sha256(f"null {world.seed} {split}".encode()).digest()[:16]
    return World(world.task, world.seed + NEXT_SPLIT * split, world.consortium, world.cohorts, salt)


def _run(card: Effects, world: World, split: int, mode: str, words: Sequence[str]) -> Run:
    recipe = replace(card.recipe, common=(*card.recipe.common, *SHORT))
    trained = next(iter(federated(world, recipe, f"null {mode}", words).values()))
    found, consortium = trained.reported, world.consortium
    return Run(
        consortium.preset.name,
        card.name,
        mode,
        consortium.seed,
        split,
        round(float(trained.histogram.sum())),
        found["effect_found"] > 0,
        found["order_found"] > 0,
    )


def interval(found: int, runs: int) -> tuple[float, float]:
    """95 % of Clopper and Pearson (1934) for `found` of `runs`, taken as independent."""
    low = float(beta.ppf(0.025, found, runs - found + 1)) if found else 0.0
    high = float(beta.ppf(0.975, found + 1, runs - found)) if found < runs else 1.0
    return low, high


def table(runs: Sequence[Run]) -> str:
    """Markdown: a line for each preset, task and mode."""
    lines = [
        "| preset | task | privacy | consortia | runs | an effect | an order | either | share (95 %) | at most 5 % |",
        "| --- " * 10 + "|",
    ]
    for preset, task, mode in dict.fromkeys((run.preset, run.task, run.privacy) for run in runs):
        mine = [run for run in runs if (run.preset, run.task, run.privacy) == (preset, task, mode)]
        lines.append(_line([preset, task, mode], mine))
    for mode in dict.fromkeys(run.privacy for run in runs):
        lines.append(_line(["all", "both", mode], [run for run in runs if run.privacy == mode]))
    return "\n".join(lines)


def _line(first: Sequence[str], runs: Sequence[Run]) -> str:
    either = sum(run.effect or run.order for run in runs)
    low, high = interval(either, len(runs))
    said = "met" if either <= MOST * len(runs) else "MISSED"
    cells = [
        *first,
        len({run.seed for run in runs}),
        len(runs),
        sum(run.effect for run in runs),
        sum(run.order for run in runs),
        either,
        f"{either / len(runs):.3f} ({low:.3f} to {high:.3f})",
        f"{said}, {'shown' if high <= MOST else 'not shown beyond chance'}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def null(consortia: Mapping[str, int], out: Path, versions: str, first: int = FIRST) -> int:
    """Measure `consortia` of each preset from seed `first` on and write null.md and null.json."""
    cards = [card for card in CARDS.values() if isinstance(card, Effects)]
    wanted = [(preset, seed) for preset, many in consortia.items() for seed in range(first, first + many)]
    runs: list[Run] = []
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("null", total=len(wanted))
        for preset, seed in wanted:
            progress.update(bar, description=f"null {preset} seed {seed}")
            for card in cards:
                runs += runs_of(card, preset, seed)
            progress.advance(bar)
    page = _document(consortia, first, runs, versions)
    kept = {"versions": versions, "first_seed": first, "runs": [asdict(run) for run in runs if run.effect or run.order]}
    kept |= {"counts": {preset: many * SPLITS for preset, many in consortia.items()}}
    out.mkdir(parents=True, exist_ok=True)
    (out / "null.md").write_text(page, encoding="utf-8")
    (out / "null.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    Console().print(page, markup=False, highlight=False, soft_wrap=True)
    return 0


def _document(consortia: Mapping[str, int], first: int, runs: Sequence[Run], versions: str) -> str:
    command = f"scripts/bench tasks --null {' '.join(map(str, consortia.values()))}"
    return "\n".join(
        [
            "# What is declared found where treatments do nothing",
            "",
            f"    {command}",
            "",
            f"Scenario `placebo_null`: treatments have no effect and are given by indication. Seeds from {first} on; each "
            f"consortium parted {SPLITS} times, a run of {SHORT[0].rpartition('=')[2]} rounds for each; `effect_found` and "
            "`order_found` as the run reports them, noise included. Intervals take runs as independent, though those of one "
            "consortium share patients. "
            f"{versions}, {machine_line(machine())}.",
            "",
            table(runs),
            "",
            "`null.json` lists the runs that declared something.",
            "",
        ]
    )
