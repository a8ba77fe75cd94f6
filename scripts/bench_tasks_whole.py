"""The two parts of `scripts/bench tasks` that run the whole product: seconds at the preset demo, and real hospitals."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_machine import machine, machine_line
from bench_tasks_cards import CARDS

from tasks.cohorts import open_cohort
from tasks.errors import DataError
from tasks.registry import find_task
from tasks.simulator import simulate, write

ROOT = Path(__file__).resolve().parents[1]
SEED = 1
TARGET_S = 120
SPLITS = 5  # as the table of the README
PROGRAM = "import sys; from server.cli import main; sys.exit(main())"


def demo(tasks: Sequence[str], out: Path, figures: Path | None) -> int:
    """Every task from tables in folders to a report, through `wardround-lead simulate`, four hospitals with 1,170 patients."""
    described, rows = machine(), []
    with tempfile.TemporaryDirectory() as scratch:
        write(simulate("demo", SEED), Path(scratch) / "demo")
        for name in tasks:
            sites = _serving(name, Path(scratch) / "demo" / "sites", Path(scratch) / f"{name}-sites")
            rows.append({**_timed(name, sites, Path(scratch) / name), "sites": len(list(sites.iterdir()))})
            print(f"{name}: {rows[-1]['seconds']:.0f} s", file=sys.stderr, flush=True)
    lines = [
        "# Each task at the preset demo",
        "",
        "    scripts/bench tasks --demo",
        "",
        "`wardround-lead simulate`: four hospitals in two processes, real guards, ledgers, masks and noise (epsilon 8), "
        f"from tables in folders to the report. Target: under {TARGET_S} s on 2 cores. {machine_line(described)}.",
        "",
        "| task | sites with anybody | seconds | rounds | figure as the lead reads it |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {row['task']} | {row['sites']} | {row['seconds']:.0f} | {row['rounds']} | {row['figure']} |" for row in rows),
        "",
    ]
    return _kept("demo", "\n".join(lines), {"machine": described, "rows": rows}, out, figures)


def _serving(name: str, sites: Path, folder: Path) -> Path:
    """Links to the hospitals that have anybody for the task: one of the four has no questionnaires."""
    folder.mkdir()
    for site in sorted(sites.iterdir()):
        try:
            open_cohort(find_task(CARDS[name].recipe.choice), site)
        except DataError:
            continue
        (folder / site.name).symlink_to(site, target_is_directory=True)
    return folder


def _timed(name: str, sites: Path, folder: Path) -> dict[str, Any]:
    card = CARDS[name]
    words = card.recipe.words("distributed8", ("privacy=distributed8",))
    command = [sys.executable, "-c", PROGRAM, "--json", "simulate", "--data", str(sites), "--out", str(folder), "federation=roster"]
    began = time.monotonic()
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise RuntimeError(f"{name}: simulate ended with {done.returncode}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    from server.folder import RunFolder
    from server.progress import latest_metric
    from server.state import read_state

    run = RunFolder(folder / "run")
    state = read_state(run.path)
    value, drowned = latest_metric(state, card.reported), latest_metric(state, "noise_dominates")
    figure = (
        f"{card.reported} {value:.3f}{', noise dominates' if drowned else ''}" if value is not None else "none: noise dominates"
    )
    return {"task": name, "seconds": seconds, "rounds": run.plan().schedule.rounds, "figure": figure}


def real(out: Path, figures: Path | None) -> int:
    """`scripts/compare_pooled.py` as the first tables were made. 0 with one line where there are no real tables."""
    data = ROOT.parent / "shared" / "data"
    if not (data / "cis_to_ms").is_dir():
        print("no real tables beside this checkout: nothing to compare")
        return 0
    described = machine()
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch) / "rows.json"
        command = [
            sys.executable,
            str(ROOT / "scripts" / "compare_pooled.py"),
            "--data",
            str(data),
            "--splits",
            str(SPLITS),
            "--json",
            str(kept),
        ]
        subprocess.run(command, cwd=ROOT, check=True, timeout=7200)
        rows = json.loads(kept.read_text(encoding="utf-8"))
    lines = [
        "# Real hospitals: pooled and federated",
        "",
        "    scripts/bench tasks --real",
        "",
        "Two clinics' CIS patients as four sites, and four heart hospitals; held-out AUC, mean (s.d.) over splits by patient, as "
        f"in the table of the README. {machine_line(described)}.",
        "",
        "| data | privacy | pooled | federated | difference | as the run reported it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for data_name in dict.fromkeys(row["data"] for row in rows):
        for privacy in dict.fromkeys(row["privacy"] for row in rows):
            some = [row for row in rows if (row["data"], row["privacy"]) == (data_name, privacy)]
            reported = [row["reported"] for row in some if row["reported"] is not None]
            cells = [_spread([row[key] for row in some]) for key in ("pooled", "federated")]
            gap = _spread([row["federated"] - row["pooled"] for row in some])
            lines.append(f"| {data_name} | {privacy} | {' | '.join(cells)} | {gap} | {_spread(reported) if reported else '-'} |")
    return _kept("real", "\n".join([*lines, ""]), {"machine": described, "rows": rows}, out, figures)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({statistics.stdev(values) if len(values) > 1 else 0.0:.3f})"


def _kept(name: str, page: str, found: dict[str, Any], out: Path, figures: Path | None) -> int:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(page, encoding="utf-8")
    for path in (out / f"{name}.json", *([figures] if figures else [])):
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(page)
    return 0
