"""Seconds to label one site's whole history by several rules, on one core.

    scripts/bench labels
    scripts/bench labels --patients 1500 --visits 25000 --json labels.json

Invented patients with irregular visits, relapses and yearly scans; every outcome is measured at every visit. A row is one call
of `tasks.labels.engine.label` (or `neda.neda3`), from arrays to the sorted table of events; the best of the repeats counts.
Target: 7,500 patients with 120,000 visits in under 10 s by the default rule.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded: what is measured is one core

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tasks.labels.engine import label  # noqa: E402
from tasks.labels.events import Events  # noqa: E402
from tasks.labels.history import FS_MAX, History, Relapses, Scans, Visits  # noqa: E402
from tasks.labels.neda import neda3  # noqa: E402
from tasks.labels.rule import KAPPOS2020_RULE, SPMS_RULE, LabelRule  # noqa: E402

TARGET_S: Final = 10.0
SEED: Final = 20261126
RULES: Final = {
    "EDSS, rule A, 24 weeks, roving, mueller2023 (default)": LabelRule(),
    "EDSS, 12 weeks, fixed, rule C": LabelRule(edss_rule="C", confirm_days=84, baseline="fixed"),
    "EDSS, kappos2020 (moves after relapses)": KAPPOS2020_RULE,
    "SPMS transition": SPMS_RULE,
    "T25FW + 20 %": LabelRule(outcome="t25fw"),
    "SDMT - 4 points": LabelRule(outcome="sdmt"),
    "composite of EDSS, T25FW, 9HPT": LabelRule(outcome="composite"),
}


def invent(patients: int, visits: int, seed: int) -> History:
    """A site's history: 2 visits or more a patient, lengths unequal as in a registry, EDSS that drifts and is noisy."""
    random = np.random.default_rng(seed)
    share = random.gamma(1.5, 1.0, patients)
    count = 2 + random.multinomial(visits - 2 * patients, share / share.sum())
    patient = np.repeat(np.arange(patients), count)
    gaps = np.maximum(7, random.gamma(4.0, 45.0, visits)).astype(np.int64)
    total = np.cumsum(gaps)
    first = np.cumsum(count) - count
    day = total - total[first][patient]
    years = day / 365.25
    course = random.gamma(2.0, 1.2, patients)[patient] + 0.1 * years + random.normal(0, 0.4, visits)
    edss = np.clip(np.round(2 * course) / 2, 0, 10)
    edss[edss == 0.5] = 1.0
    n_relapses = random.poisson(0.25 * years[first + count - 1])
    relapsing = np.repeat(np.arange(patients), n_relapses)
    onset = (random.random(len(relapsing)) * day[first + count - 1][relapsing]).astype(np.int64)
    fs = np.clip(np.round(course[:, None] * 0.6 + random.normal(0, 0.7, (visits, len(FS_MAX)))), 0, FS_MAX)
    scanned = random.random(visits) < 0.46  # 55,000 scans of 120,000 visits
    counts = [random.poisson(0.4, int(scanned.sum())).astype(np.float64) for _ in range(3)]
    return History(
        patients,
        Visits(patient, day, edss, fs, *_timed(course, random)),
        Relapses(relapsing, onset),
        Scans(patient[scanned], day[scanned], *counts),
    )


def _timed(course: NDArray[np.float64], random: np.random.Generator) -> tuple[NDArray[np.float64], ...]:
    def noisy(mean: NDArray[np.float64], spread: float, low: float, high: float) -> NDArray[np.float64]:
        return np.clip(np.round(mean * random.lognormal(0, spread, len(course)), 1), low, high)

    sdmt = np.clip(np.round(60 - 4 * course + random.normal(0, 3, len(course))), 0, 110)
    return noisy(3.5 + course, 0.1, 2, 180), noisy(18 + 3 * course, 0.1, 10, 300), sdmt


def best(call: Callable[[], Events], repeats: int) -> tuple[float, Events]:
    """Shortest processor time of a call, seconds, and what it returned."""
    seconds = []
    for _ in range(repeats):
        before = time.process_time()
        events = call()
        seconds.append(time.process_time() - before)
    return min(seconds), events


def run(patients: int, visits: int, repeats: int) -> dict[str, Any]:
    about = {"machine": machine(), "patients": patients, "visits": visits, "repeats": repeats, "target_s": TARGET_S}
    before = time.process_time()
    history = invent(patients, visits, SEED)
    about["invent_s"] = time.process_time() - before
    rows = []
    for name, rule in RULES.items():
        seconds, events = best(lambda rule=rule: label(history, rule).events, repeats)  # type: ignore[misc]
        rows.append({"rule": name, "rule_id": rule.rule_id, "seconds": seconds, "events": len(events)})
    start = np.zeros(patients)
    seconds, events = best(lambda: neda3(history, start, LabelRule()).events, repeats)
    rows.append({"rule": "NEDA-3", "rule_id": LabelRule().rule_id, "seconds": seconds, "events": len(events)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**about, "rows": rows, "peak_mib": peak}


def show(result: dict[str, Any]) -> None:
    title = f"{result['patients']:,} patients, {result['visits']:,} visits; target {TARGET_S:g} s for the first row"
    table = Table("rule", "s", "events", "rule_id", title=title)
    for row in result["rows"]:
        table.add_row(row["rule"], f"{row['seconds']:.2f}", f"{row['events']:,}", row["rule_id"])
    Console(width=120).print(table)
    print(f"peak memory {result['peak_mib']:.0f} MiB, all rules in one process; {machine_line(result['machine'])}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=7_500, help="(default %(default)s)")
    parser.add_argument("--visits", type=int, default=120_000, help="of all patients (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the best counts (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if min(options.patients, options.repeats) < 1 or options.visits < 2 * options.patients:
        parser.error("--patients and --repeats are at least 1, --visits at least twice the patients")
    result = run(options.patients, options.visits, options.repeats)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
