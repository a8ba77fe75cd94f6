#!/usr/bin/env python3
"""What each clinical task reaches on invented consortia: one table a task, with the targets that it meets or misses.

    scripts/bench_tasks.py                                 every task, ten consortia, into scripts/results/tasks (an hour or two)
    scripts/bench_tasks.py --tasks cdp_2y --seeds 101 102  one task, two consortia
    scripts/bench_tasks.py --demo                          seconds that each task takes through `wardround-lead simulate`
    scripts/bench_tasks.py --null 40 2                     what tasks on effects find where treatments do nothing
    scripts/bench_tasks.py --real                          the comparison with pooled training on real hospitals, unchanged

15 sites, 7,500 patients, 60 % of whose usable ones train, 20 % are looked at on the way and 20 % are the test, by patient. Arms and
measures: `scripts/results/tasks/README.md`. The mechanism is the product's own (`consortium_in_process`): plans with noise,
trainers, strategies; transport and masks are left out. Schedules were chosen on other seeds than those reported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_machine import machine, machine_line  # noqa: E402
from bench_tasks_cards import ARMS, CARDS, Card  # noqa: E402
from bench_tasks_tables import Row, table, target_table, targets  # noqa: E402
from bench_tasks_worlds import world_of  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: E402

from server.migrate import code_version  # noqa: E402

RESULTS = ROOT / "scripts" / "results" / "tasks"
SEEDS = tuple(range(1, 11))


def measure(card: Card, seeds: Sequence[int], arms: Sequence[str], preset: str, progress: Progress) -> list[Row]:
    """A row for each arm and seed."""
    chosen, rows = [arm for arm in card.arms if arm in arms], []
    bar = progress.add_task(card.name, total=len(seeds) * len(chosen))
    for seed in seeds:
        world = world_of(card.name, seed, preset=preset)
        for arm in chosen:
            progress.update(bar, description=f"{card.name} seed {seed} {arm}")
            began = time.process_time()
            figures = card.run(world, arm)
            rows.append(Row(seed, arm, round(time.process_time() - began, 1), figures))
            progress.advance(bar)
    progress.update(bar, description=card.name)
    return rows


def document(card: Card, rows: Sequence[Row], args: argparse.Namespace, described: dict[str, object]) -> str:
    """The task's page."""
    others = getattr(card, "others", ())
    found = targets(rows, card.primary, lower=card.lower_is_better, others=[make().name for make in others])
    seeds = sorted({row.seed for row in rows})
    command = f"scripts/bench tasks --tasks {card.name} --seeds {' '.join(map(str, seeds))} --preset {args.preset}"
    settings = [f"- {name}: `{words}`" for name, words in card.settings.items() if words]
    return "\n".join(
        [
            f"# {card.name}",
            "",
            f"    {command}",
            "",
            f"Preset `{args.preset}`, {len(seeds)} consortia; mean ± half a 95 % interval over them. {versions()}, "
            f"{machine_line(described)}. What rows and columns are: [README](README.md).",
            "",
            table(rows, card.columns, card.primary),
            "",
            target_table(found),
            "",
            "Settings:",
            "",
            *settings,
            "",
        ]
    )


def versions() -> str:
    return f"wardround {code_version()}, numpy {np.__version__}, torch {torch.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(CARDS), default=list(CARDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--preset", choices=("reclaim", "clinnova", "demo"), default="reclaim")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the tables, a TASK.md and a TASK.json each")
    parser.add_argument("--json", type=Path, help="also write all rows to this one file")
    parser.add_argument(
        "--demo", action="store_true", help="instead: time `wardround-lead simulate` of each task on the preset demo"
    )
    parser.add_argument("--real", action="store_true", help="instead: compare with pooled training on real hospitals")
    parser.add_argument(
        "--null",
        nargs=2,
        type=int,
        metavar=("DEMO", "RECLAIM"),
        help="instead: what tasks on effects find where treatments do nothing, in so many consortia of each preset",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.demo or args.real:
        from bench_tasks_whole import demo, real

        return demo(args.tasks, args.out, args.json) if args.demo else real(args.out, args.json)
    if args.null:
        from bench_tasks_null import null

        return null(dict(zip(("demo", "reclaim"), args.null, strict=True)), args.out, versions())
    described, console, everything = machine(), Console(), {}
    args.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for name in args.tasks:
            card = CARDS[name]
            rows = measure(card, args.seeds, args.arms, args.preset, progress)
            page = document(card, rows, args, described)
            kept = {"machine": described, "versions": versions(), "settings": card.settings, "rows": [asdict(row) for row in rows]}
            (args.out / f"{name}.md").write_text(page, encoding="utf-8")
            (args.out / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            everything[name] = kept
            console.print(page, markup=False, highlight=False, soft_wrap=True)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
