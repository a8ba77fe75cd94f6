#!/usr/bin/env python3
"""How well lesions are found: a threshold, each site alone, all scans in one place, federated, and what noise costs.

    scripts/bench mri_train                                        six invented sites with 100 patients each (an hour or more)
    scripts/bench mri_train --sites 3 --patients 20 --rounds 40    minutes
    scripts/bench mri_train --arms federated --folder phantoms     scans of an earlier call, if they are there
    scripts/bench mri_train --task new_lesions                     pairs of sessions: only what is new in the second is to be found

Phantoms of scanners that differ; 60 % of the patients train, figures are of the 20 % of the test, session by session, exact and
without noise. A site alone takes as many patients in a round as all sites together do. Plans, trainers, patches and noise are those
of the product (`consortium_in_process`); transport and masks are left out. The threshold is the best single one on the training
scans, of normalised FLAIR, or of FLAIR less that of the session before. Intervals: 95 % over test sessions. Patients of new_lesions
have two sessions each and `--new` lesions more a year on average.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from bench_machine import machine, machine_line  # noqa: E402
from consortium_in_process import declared, plan_of, roster_of, train, trainers_of  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from client.plan_model import model_of  # noqa: E402
from client.scans import ScanEncoder  # noqa: E402
from client.sides import Side  # noqa: E402
from client.trainer import Trainer  # noqa: E402
from consortium.plan import Plan  # noqa: E402
from tasks.base import Cohort  # noqa: E402
from tasks.cohorts import open_cohort  # noqa: E402
from tasks.imaging.cache import Cache  # noqa: E402
from tasks.imaging.phantoms import invented_sites, write_phantoms  # noqa: E402
from tasks.imaging.prepare import Recipe  # noqa: E402
from tasks.imaging.resample import Grid  # noqa: E402
from tasks.imaging.segmentation_scores import best_threshold, bland_altman, icc, score_scan  # noqa: E402
from tasks.lesion_seg.scoring import DICE, F1, FOUND_ML, TRUE_ML  # noqa: E402
from tasks.lesion_seg.task import TASK as LESIONS  # noqa: E402
from tasks.lesion_seg.task import LesionSeg  # noqa: E402
from tasks.new_lesions.task import TASK as NEW  # noqa: E402

TASKS: Final = {task.name: task for task in (LESIONS, NEW)}
ARMS: Final = ("threshold", "local", "pooled", "federated", "distributed8")
ELSEWHERE: Final = "local_elsewhere"
WORDS: Final = {
    "threshold": "best single threshold of FLAIR, or of its difference",
    "local": "each site alone",
    ELSEWHERE: "each site alone, on the others' scans",
    "pooled": "pooled: all scans in one place",
    "federated": "federated, no noise",
    "distributed8": "federated, distributed noise, epsilon 8",
}
QUIET: Final = ("privacy=none",)
POOLED: Final = "pooled"
ABSENT: Final = ("absent-a", "absent-b")  # a plan names three sites at least; these never answer
Floats = np.ndarray


@dataclass(frozen=True)
class World:
    """Cohorts by site, patients named after it; prepared scans in `cache`."""

    task: LesionSeg
    cohorts: Mapping[str, Cohort]
    cache: Path
    salt: bytes
    seed: int
    common: tuple[str, ...]
    alone_rate: float  # share of a hospital's patients in a round of its own: as many patients as in one of all

    def words(self, *more: str) -> list[str]:
        return [f"task={self.task.name}", *self.common, *more]


def world_of(folder: Path, options: argparse.Namespace) -> World:
    if not (folder / "truth").is_dir():
        sites = invented_sites(options.sites, options.seed)
        if TASKS[options.task] is NEW:
            sites = tuple(replace(site, sessions=(0.0, 1.0), new_per_year=options.new) for site in sites)
        write_phantoms(folder, sites=sites, patients=options.patients, seed=options.seed)
    cohorts = {}
    for site in sorted(path.name for path in folder.iterdir() if path.name.startswith("site-")):
        found = open_cohort(TASKS[options.task], folder / site)
        cohorts[site] = replace(found, patient_ids=tuple(f"{site}-{name}" for name in found.patient_ids))
    salt = hashlib.sha256(f"split {options.seed}".encode()).digest()[:16]
    common = (
        f"task.options.spacing_mm={options.spacing}",
        f"+task.options.widths={options.widths}",
        f"task.options.patch={options.patch}",
        "deadlines.update_s=900",
        f"schedule.rounds={options.rounds}",
        f"schedule.evaluate_every={options.rounds}",
        f"strategy.options.rate={options.rate}",
        f"privacy.sample_rate={options.sample_rate}",
        f"strategy.options.ema_decay={options.ema}",
        f"privacy.clip={options.clip}",
        "strategy.options.tau=1e-6",  # Adam's steps follow small gradients, as those of these networks are
    )
    alone_rate = min(1.0, options.sample_rate * len(cohorts))
    return World(TASKS[options.task], cohorts, folder / "prepared", salt, options.seed, common, alone_rate)


def pooled_cohort(world: World) -> Cohort:
    parts = tuple(world.cohorts.values())
    return replace(
        parts[0],
        patient_ids=tuple(name for part in parts for name in part.patient_ids),
        values=np.concatenate([part.values for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        scans=tuple(scan for part in parts for scan in part.scans),
    )


def trained(world: World, cohorts: Mapping[str, Cohort], words: Sequence[str], *seed: object) -> tuple[Plan, Floats]:
    """Plan and final model over these cohorts as sites."""
    names = tuple(cohorts) if len(cohorts) > 2 else (*cohorts, *ABSENT)
    roster = roster_of(names, world.salt)
    trainers = trainers_of(world.task, cohorts, roster, world.seed, *seed, cache=world.cache)
    sizes = {**dict.fromkeys(names, 10), **declared(trainers)}
    plan = plan_of(world.words(*words), roster, sizes)
    return plan, train(plan, trainers).model


def judged(world: World, plan: Plan, model: Floats, side: Side) -> Floats:
    """What the task's scoring takes, (n_sessions, 4), of one side."""
    return ScanEncoder(world.task, world.cache).scored(plan, model_of(world.task, plan), model[plan.n_buffers :], side).outputs


def sides_of(world: World, name: str) -> dict[str, Side]:
    return {
        site: getattr(Trainer(world.task, cohort, salt=world.salt, held_out_fraction=0.4, entropy=os.urandom).sides, name)
        for site, cohort in world.cohorts.items()
    }


def by_threshold(world: World) -> Floats:
    """The threshold chosen on all training scans, judged on the test scans."""
    recipe = _recipe(world)

    def scans(name: str) -> list[tuple[Floats, Floats, float]]:
        found = []
        for side in sides_of(world, name).values():
            for outcome in Cache(world.cache, recipe).fill(side.scans):
                if outcome.entry is not None and (scan := outcome.entry.read()).mask is not None:
                    values = scan.channels[0] - scan.channels[len(scan.channels) // 2] if world.task is NEW else scan.channels[0]
                    found.append((values, scan.mask, Grid(outcome.entry.shape, outcome.entry.grid_affine).voxel_ml))
        return found

    level = best_threshold([(values, mask) for values, mask, _ in scans("training")]).value
    rows = []
    for values, mask, voxel_ml in scans("test"):
        one = score_scan(values >= level, mask, voxel_ml)
        rows.append((one.dice, np.nan if one.f1 is None else one.f1, one.predicted_ml, one.true_ml))
    return np.array(rows)


def _recipe(world: World) -> Recipe:
    plan = plan_of(world.words("privacy=none"), roster_of(tuple(world.cohorts), world.salt), dict.fromkeys(world.cohorts, 10))
    return world.task.recipe(dict(plan.model.options), plan.task.columns)


def run(world: World, arm: str) -> dict[str, Floats]:
    """Judged sessions by what the table calls them: of sites alone, those of their own and those of the others."""
    test = {site: side for site, side in sides_of(world, "test").items() if side.patients}
    if arm == "threshold":
        return {arm: by_threshold(world)}
    if arm == "local":
        own, others = list[Floats](), list[Floats]()
        for site, cohort in world.cohorts.items():
            if site not in test:
                continue
            plan, model = trained(world, {site: cohort}, (*QUIET, f"privacy.sample_rate={world.alone_rate}"), site)
            own.append(judged(world, plan, model, test[site]))
            others += [judged(world, plan, model, side) for other, side in test.items() if other != site]
        return {arm: np.concatenate(own), ELSEWHERE: np.concatenate(others)}
    cohorts = {POOLED: pooled_cohort(world)} if arm == "pooled" else world.cohorts
    words = ("privacy=distributed8",) if arm == "distributed8" else QUIET
    plan, model = trained(world, cohorts, words, arm)
    return {arm: np.concatenate([judged(world, plan, model, side) for side in test.values()])}


def figures(task: LesionSeg, rows: Floats) -> dict[str, float]:
    """Of the sessions with lesions, of those without any and, of volumes, of all."""
    rows = rows[~np.isnan(rows[:, DICE])]
    ill, well = (rows[some] for some in (rows[:, TRUE_ML] > 0, rows[:, TRUE_ML] == 0))
    load = np.searchsorted(task.cuts_ml, ill[:, TRUE_ML], side="right")
    agreement = bland_altman(rows[:, FOUND_ML], rows[:, TRUE_ML])
    return {
        "sessions": float(len(ill)),
        "dice": float(ill[:, DICE].mean()),
        "dice_reach": float(1.96 * ill[:, DICE].std(ddof=1) / np.sqrt(len(ill))),
        **{f"dice_{name}": float(ill[load == at, DICE].mean()) for at, name in enumerate(("small", "medium", "large"))
           if (load == at).any()},
        **{f"sessions_{name}": float((load == at).sum()) for at, name in enumerate(("small", "medium", "large"))},
        "sessions_none": float(len(well)),
        **({"dice_none": float(well[:, DICE].mean()), "false_ml": float(well[:, FOUND_ML].mean())} if len(well) else {}),
        "lesion_f1": float(np.nanmean(ill[:, F1])),
        "bias_ml": agreement.bias_ml,
        "low_ml": agreement.low_ml,
        "high_ml": agreement.high_ml,
        "icc": icc(rows[:, FOUND_ML], rows[:, TRUE_ML]) or float("nan"),
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    low, high = TASKS[result["options"]["task"]].cuts_ml
    loads = (f"below {low:g} mL", f"to {high:g} mL", "above")
    table = Table("", "Dice", *loads, "lesion F1", "none there: none found, mL found", "volume: bias (limits), mL", "ICC", "CPU s")
    for arm, one in result["arms"].items():
        loads = [f"{one[name]:.2f}" if (name := f"dice_{load}") in one else "-" for load in ("small", "medium", "large")]
        volume = f"{one['bias_ml']:+.1f} ({one['low_ml']:.1f} to {one['high_ml']:.1f})"
        dice = f"{one['dice']:.3f} ± {one['dice_reach']:.3f}"
        none = f"{one['dice_none']:.2f}, {one['false_ml']:.2f}" if one["sessions_none"] else "-"
        table.add_row(WORDS[arm], dice, *loads, f"{one['lesion_f1']:.2f}", none, volume, f"{one['icc']:.2f}", f"{one['cpu_s']:.0f}")
    Console(width=150).print(table)
    counts = next(iter(result["arms"].values()))
    parts = ", ".join(f"{counts[f'sessions_{load}']:.0f} {load}" for load in ("none", "small", "medium", "large"))
    print(f"test sessions by what there is to find: {parts}")
    print(machine_line(result["machine"]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default=LESIONS.name)
    parser.add_argument("--new", type=float, default=6.0, help="new lesions a year, with --task new_lesions (default %(default)s)")
    parser.add_argument("--sites", type=int, default=6)
    parser.add_argument("--patients", type=int, default=100, help="of each site (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--spacing", type=float, default=4.0, help="of the common grid in mm (default %(default)s)")
    parser.add_argument("--patch", type=int, default=16, help="voxels a side of a patch (default %(default)s)")
    parser.add_argument("--widths", default="8-16-32", help="channels of the network's levels (default %(default)s)")
    parser.add_argument("--rate", type=float, default=0.01, help="step of the server's optimiser (default %(default)s)")
    parser.add_argument("--sample-rate", type=float, default=0.25, help="share of patients in a round (default %(default)s)")
    parser.add_argument("--ema", type=float, default=0.97, help="of the running average that is released (default %(default)s)")
    parser.add_argument("--clip", type=float, default=0.01, help="bound of a patient's gradient, with noise (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--folder", type=Path, help="where scans are written, or lie (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}, "arms": {}}
    with tempfile.TemporaryDirectory() as name:
        world = world_of(options.folder or Path(name), options)
        for arm in options.arms:
            began = time.process_time()
            for words, rows in run(world, arm).items():
                result["arms"][words] = figures(world.task, rows) | {"cpu_s": time.process_time() - began}
                print(f"{words}: Dice {result['arms'][words]['dice']:.3f}", file=sys.stderr, flush=True)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
