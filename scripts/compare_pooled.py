#!/usr/bin/env python3
"""Federated against pooled, side by side: the same patients, split, preprocessing, model and optimiser.

    scripts/compare_pooled.py --data ../shared/data --splits 3

For two clinics' CIS patients as four sites and for four heart hospitals: AUC in the test halves of a model trained on all
rows in one place, and of simulated federated runs without noise and at patient-level epsilon 8, 3 and 1. "model" scores the
final model on all test rows (what nobody in a real run can do); "reported" is what the run itself learnt from its masked,
noised histogram. Every figure is a mean over the splits, with its standard deviation.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests" / "heart_task")]

import os  # noqa: E402

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests" / "heart_task"), os.environ.get("PYTHONPATH")]))

from make_real_sites import cis_sites, heart_sites  # noqa: E402
from pooled_reference import Recipe, evaluate, load_sites, pool, train  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from server.cli_run import simulate  # noqa: E402
from server.export import final_model  # noqa: E402
from server.folder import RunFolder  # noqa: E402
from server.progress import latest_metric  # noqa: E402
from server.state import read_state  # noqa: E402
from tasks.registry import get_task  # noqa: E402

HELD_OUT = 0.3  # as since the first table
PRIVACY = ("none", "epsilon8", "epsilon3", "epsilon1")


@dataclass(frozen=True)
class Row:
    """One run on one split; AUC of the pooled model, of the federated one, and as the run reported it."""

    data: str
    privacy: str
    split: int
    pooled: float
    federated: float
    reported: float | None


def compare(name: str, task: str, sites: Path, *, split: int, privacy: str, folder: Path, overrides: list[str]) -> Row:
    salt = bytes([split]) * 16
    choices = [f"task.name={task}", f"privacy={privacy}", *overrides]
    simulate(folder, choices, data=sites, show=False, held_out=HELD_OUT, split_salt=salt)
    run = RunFolder(folder / "run")
    plan, roster = run.plan(), run.roster()
    recipe = Recipe(
        model=plan.model.name,
        options=dict(plan.model.options),
        rounds=plan.schedule.rounds,
        local_rate=plan.schedule.local_rate,
        strategy=plan.strategy.name,
        strategy_options={key: float(value) for key, value in plan.strategy.options},
        seed=plan.model.init_seed,
        salt=salt,
        held_out_fraction=roster.held_out_fraction,
        bins=plan.histogram_bins,
    )
    found, cohorts = get_task(task), load_sites(sorted(path for path in sites.iterdir() if path.is_dir()), get_task(task))
    sides = pool(cohorts, found, recipe)
    reference = evaluate(sides, found, recipe, train(sides, found, recipe))
    model = final_model(run, plan)
    own = pool(cohorts, found, recipe, buffers=model[: plan.n_buffers])
    federated = evaluate(own, found, recipe, model[plan.n_buffers :])
    reported = latest_metric(read_state(run.path), "auc")
    return Row(name, privacy, split, reference.auc_exact or 0.0, federated.auc_exact or 0.0, reported)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({statistics.stdev(values) if len(values) > 1 else 0.0:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--privacy", nargs="+", choices=PRIVACY, default=list(PRIVACY))
    parser.add_argument("--json", type=Path, help="write every run's figures to this file")
    parser.add_argument("overrides", nargs="*", help="of the lead's configuration, like schedule.rounds=60")
    args = parser.parse_args()
    if not (args.data / "cis_to_ms").is_dir():
        print(f"no real tables below {args.data}: nothing to compare", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        cis_sites(args.data, root / "cis")
        heart_sites(args.data, root / "heart")
        for name, task in (("cis", "cis_conversion"), ("heart", "heart_disease")):
            for privacy in args.privacy:
                for split in range(args.splits):
                    folder = root / f"{name}-{privacy}-{split}"
                    rows.append(
                        compare(name, task, root / name, split=split, privacy=privacy, folder=folder, overrides=args.overrides)
                    )
                    print(rows[-1], file=sys.stderr, flush=True)
    table = Table(title=f"test AUC, mean (s.d.) over {args.splits} splits by patient")
    for column in ("data", "privacy", "pooled", "federated model", "difference", "as reported"):
        table.add_column(column)
    for name in ("cis", "heart"):
        for privacy in args.privacy:
            some = [row for row in rows if (row.data, row.privacy) == (name, privacy)]
            gaps = [row.federated - row.pooled for row in some]
            reported = [row.reported for row in some if row.reported is not None]
            cells = [spread([row.pooled for row in some]), spread([row.federated for row in some]), spread(gaps)]
            label = "NOT PRIVATE" if privacy == "none" else privacy
            table.add_row(name, label, *cells, spread(reported) if reported else "-")
    Console(width=110).print(table)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
