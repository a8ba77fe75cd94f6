#!/usr/bin/env python3
"""Plays fault schedules on a consortium of real processes, and keeps what came of each: `scripts/results/faults.md`.

    scripts/play_faults.py --seeds 0-199
    scripts/play_faults.py --schedule "7: cut@hospital-1:train#2+0s~2s; kill-guard@hospital-2:vote#3+0.2s~1s"

Results of earlier calls stay (`faults.jsonl` beside the page); a seed that is played again replaces its line. Exit status 1 if
any of this call's schedules failed. Needs root for the full disks and a compiler for the clocks; without, those kinds are left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests" / "e2e", ROOT / "tests" / "shared"):
    sys.path.insert(0, str(folder))

import psutil  # noqa: E402 - what is ours is found only now
from consortium_of_four import demo  # noqa: E402
from fault_schedules import Schedule, drawn  # noqa: E402
from faulty_consortium import FaultyConsortium, play, possible  # noqa: E402

from server.errors import ServerError  # noqa: E402

# What a fault may break in whoever watches it: that is the schedule's result, and the next one is played.
BROKEN = (AssertionError, OSError, ValueError, RuntimeError, subprocess.SubprocessError, psutil.Error, ServerError, demo.DemoError)
RESULTS = ROOT / "scripts" / "results"


def read(path: Path) -> dict[int, dict[str, object]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {int(str(found["seed"])): found for found in map(json.loads, lines)}


def played(consortium: FaultyConsortium, schedule: Schedule) -> dict[str, object]:
    """What one schedule came to, as plain values; `failed` says what did not hold."""
    began = time.monotonic()
    plain: dict[str, object] = {"seed": schedule.seed, "schedule": str(schedule)}
    try:
        outcome = play(consortium, schedule)
    except BROKEN as error:
        lines = str(error).strip().splitlines() or [""]
        return plain | {"failed": f"{type(error).__name__}: {lines[0][:300]}", "seconds": round(time.monotonic() - began, 1)}
    counts = {"resumes": outcome.resumes, "done": outcome.rounds_done, "lost_rounds": outcome.rounds_failed}
    return plain | counts | {"made": len(outcome.made), "lost": list(outcome.lost), "seconds": round(outcome.seconds, 1)}


def page(results: dict[int, dict[str, object]]) -> str:
    whole = [found for found in results.values() if "failed" not in found]
    bad = [found for found in results.values() if "failed" in found]
    resumed = [found for found in whole if found["resumes"]]
    leaderless = sum("kill-lead" in str(found["schedule"]) for found in resumed)
    seconds = sorted(float(str(found["seconds"])) for found in whole) or [0.0]
    kinds = Counter(fault.what for found in results.values() for fault in Schedule.read(str(found["schedule"])).faults)
    codes = Counter(str(lost).split()[-1] for found in whole for lost in found["lost"])  # type: ignore[attr-defined]
    lines = [
        "# Fault schedules played on real processes",
        "",
        "Written by `scripts/play_faults.py`; each line of `faults.jsonl` is one schedule, to be replayed with `--schedule`.",
        "",
        "| what | |",
        "| --- | --- |",
        f"| schedules played | {len(results)} |",
        f"| seeds | {_ranges(sorted(results))} |",
        f"| everything held | {len(whole)} |",
        f"| failed | {len(bad)} |",
        f"| needed a person's `resume` | {len(resumed)}, the lead's own program having been killed in {leaderless} of them |",
        f"| rounds opened, and lost | {sum(int(str(found['done'])) for found in whole)}, "
        f"{sum(int(str(found['lost_rounds'])) for found in whole)} |",
        f"| seconds a schedule: median, most | {statistics.median(seconds):.0f}, {seconds[-1]:.0f} |",
        f"| faults drawn | {', '.join(f'{name} {count}' for name, count in sorted(kinds.items()))} |",
        f"| reasons that sites were named with | {', '.join(f'{name} {count}' for name, count in codes.most_common())} |",
        "",
    ]
    lines += [f"- FAILED `{found['schedule']}`: {found['failed']}" for found in bad]
    return "\n".join(lines).rstrip() + "\n"


def _ranges(seeds: list[int]) -> str:
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-199", help="FIRST-LAST (default %(default)s)")
    parser.add_argument("--schedule", action="append", default=[], help="a schedule by its line, instead of seeds; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of faults.md and faults.jsonl (default %(default)s)")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    schedules = [Schedule.read(line) for line in args.schedule] or [drawn(seed, kinds=possible()) for seed in seeds]
    results, failed = read(args.out / "faults.jsonl"), 0
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch, ExitStack() as stack:
        consortium = stack.enter_context(FaultyConsortium(Path(scratch) / "c"))
        for schedule in schedules:
            print(schedule, flush=True)
            found = results[schedule.seed] = played(consortium, schedule)
            print(json.dumps(found), flush=True)
            if "failed" in found:
                failed += 1
                print(consortium.last_lines(15), file=sys.stderr, flush=True)
                consortium.abandon()
            text = "".join(json.dumps(results[seed], sort_keys=True) + "\n" for seed in sorted(results))
            (args.out / "faults.jsonl").write_text(text, encoding="utf-8")
            (args.out / "faults.md").write_text(page(results), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
