"""What federated ComBat does to simulated hospitals' MRI measures, with and without noise: scanners told apart, age slope, error.

    .venv/bin/python scripts/bench_harmonise.py                    preset reclaim, 300 to 7,500 patients, some 5 minutes
    .venv/bin/python scripts/bench_harmonise.py --only effect      without noise alone
    .venv/bin/python scripts/bench_harmonise.py --seeds 3 --json harmonise.json

Truth is the same patients as scanners without any effect would have measured them. Noise is that of the plan's calibration, on
exact sums of clipped vectors, without the grid. The fit is on 70 % of the patients, everything that is judged on the others. AUC:
multinomial logistic regression on the measures less what age, sex and EDSS explain within batches, trained and judged on different
patients in five folds, mean over classes of one against the rest; at most two scans of a patient. Slope: of a regression on age,
sex and EDSS over all scans without batches, as who uses the values would have it, in mL of brain a decade; T2 volume and thalamus
have next to none beside EDSS. Error: root mean square distance from the truth, in spreads of each measure.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from privacy.planning import Releases, calibrate  # noqa: E402
from server.planning import default_delta  # noqa: E402
from tasks.base import Cohort  # noqa: E402
from tasks.mri_harmonisation.apply import harmonise_tables  # noqa: E402
from tasks.mri_harmonisation.reference import reference_of  # noqa: E402
from tasks.mri_harmonisation.scans import scan_table  # noqa: E402
from tasks.mri_harmonisation.task import TASK  # noqa: E402
from tasks.simulator import parameters, simulate  # noqa: E402
from tasks.splits import held_out_mask  # noqa: E402
from tasks.sums import Choice, Opened, Records, stage_sizes  # noqa: E402

MEASURES = ["t2_vol_ml", "nbv_ml", "thalamus_ml"]
PROTECTED = ["age_years", "sex", "edss"]
COLUMNS = (*PROTECTED, *MEASURES)
TRAINING = 0.7  # of the patients; the others' scans are harmonised and judged
LISTED = 25  # complete scans that a batch of the plan has at least
FOLDS = 5
GROUPS = {  # hospitals of `reclaim`, by all their patients together
    "300": ("graz", "siena", "tartu"),
    "1,200": ("graz", "siena", "tartu", "leuven", "lyon", "mainz", "amsterdam"),
    "7,500": None,
}
KEYS = ["site", "patient_id", "day", "scan_id"]


@dataclass(frozen=True)
class World:
    """The hospitals as they are, and the measures of the same scans without scanners, by `KEYS`."""

    sites: dict[str, Any]
    truth: pd.DataFrame


def world(preset: str, seed: int) -> World:
    measured = {site.site_id: site.tables for site in simulate(preset, seed).sites}
    kept = {name: getattr(parameters, name) for name in ("GAMMA_SD", "FIELD_T2", "FIELD_THALAMUS")}
    parameters.GAMMA_SD, parameters.FIELD_T2, parameters.FIELD_THALAMUS = 0.0, 1.0, 1.0  # type: ignore[misc]
    clean = {site.site_id: site.tables["mri"] for site in simulate(preset, seed).sites}
    for name, value in kept.items():
        setattr(parameters, name, value)
    truth = pd.concat([table.assign(site=name) for name, table in clean.items()])
    return World(measured, truth.set_index(KEYS)[MEASURES])


def summed(cohorts: Sequence[Records], made: Choice, noise: float, seed: int) -> list[Opened]:
    """Both stages; `noise`: standard deviation over the bound, of the whole sum; 0: nothing is clipped either."""
    rng, opened, bound = np.random.default_rng(seed), [], TASK.bound(made)
    for _ in stage_sizes(TASK, made):
        before, total = [each.total for each in opened], np.zeros(0)
        for site in cohorts:
            rows = TASK.vectors(made, before, site)
            if noise:
                rows = rows / np.maximum(np.linalg.norm(rows, axis=1) / bound, 1.0)[:, None]
            total = rows.sum(axis=0) + (total if total.size else 0.0)
        opened.append(Opened(total + noise * bound * rng.standard_normal(total.size), noise * bound))
    return opened


def noises(sites: int, patients: int, model: str) -> Iterator[tuple[str, float]]:
    """Standard deviation of the sum over the bound: every site adds its own noise in mode local, all together one share else.

    Distributed: as `server.planning` has it, the shares of two thirds of the sites hold the noise that is charged.
    """
    releases = Releases(0, (1 if model == "longitudinal" else 2) + 1, 0, 1.0)
    for target in (8.0, 3.0):
        one = calibrate(target, default_delta(patients), releases).train_noise
        yield f"distributed, epsilon {target:g}", one * math.sqrt(sites / max(2, sites - sites // 3))
        yield f"local, epsilon {target:g}", one * math.sqrt(sites)


def table_of(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([scans.assign(site=name) for name, scans in found.items()], ignore_index=True)


def residuals(table: pd.DataFrame) -> np.ndarray:
    """Measures, lesions as logarithms, less what age and sex explain within batches; each with a spread of 1."""
    y = values(table)
    x = covariates(table)
    about = lambda cells: cells - pd.DataFrame(cells).groupby(table["batch"].to_numpy()).transform("mean").to_numpy()  # noqa: E731
    left = y - x @ np.linalg.lstsq(about(x), about(y), rcond=None)[0]
    return np.asarray((left - left.mean(axis=0)) / left.std(axis=0))


def values(table: pd.DataFrame) -> np.ndarray:
    y = table[MEASURES].astype(float).copy()
    y["t2_vol_ml"] = np.log(np.maximum(y["t2_vol_ml"], 0.0) + 0.1)
    return y.to_numpy(float)


def auc(table: pd.DataFrame, label: str) -> float:
    """Of telling the labels with 30 scans or more apart; several measures and their squares, for scanners differ in spread too."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    table = table.groupby(["site", "patient_id"]).tail(2)
    table = table[table[label].map(table[label].value_counts()) >= 30].reset_index(drop=True)
    if table[label].nunique() < 2:
        return math.nan
    z = residuals(table)
    x, y = np.hstack([z, z**2]), table[label].astype("category").cat.codes.to_numpy()
    people = (table["site"] + table["patient_id"]).astype("category").cat.codes.to_numpy()
    fold = np.random.default_rng(0).permutation(people.max() + 1)[people] % FOLDS
    chances = np.zeros((len(y), y.max() + 1))
    for at in range(FOLDS):
        model = LogisticRegression(C=1.0, max_iter=200).fit(x[fold != at], y[fold != at])
        chances[np.ix_(fold == at, model.classes_)] = model.predict_proba(x[fold == at])
    return float(np.mean([roc_auc_score(y == kind, chances[:, kind]) for kind in range(y.max() + 1)]))


def slopes(table: pd.DataFrame) -> np.ndarray:
    """Of each measure on age, for a decade; on the logarithm of lesions; in mL otherwise."""
    x = np.hstack([covariates(table), np.ones((len(table), 1))])
    return np.asarray(np.linalg.lstsq(x, values(table), rcond=None)[0][0])


def covariates(table: pd.DataFrame) -> np.ndarray:
    """Age in decades, male, EDSS."""
    columns = (table["age_years"].astype(float) / 10, table["sex"] == "M", table["edss"])
    return np.stack([column.to_numpy(float) for column in columns], axis=1)


def in_training(patients: Sequence[str]) -> np.ndarray:
    """By name, so the same in every hospital and run."""
    return ~held_out_mask(tuple(patients), bytes(16), 1 - TRAINING)


def figures(table: pd.DataFrame, wanted: np.ndarray, error: float = math.nan) -> dict[str, float]:
    found = slopes(table)
    return {
        "AUC scanner": auc(table, "batch"),
        "AUC hospital": auc(table, "site"),
        "slope of brain mL": float(found[1]),
        "its error %": float(100 * (found[1] / wanted[1] - 1)),
        "error": error,
    }


def measure(here: World, group: tuple[str, ...] | None, seed: int, *, noised: bool) -> dict[str, dict[str, float]]:
    """Rows of the report: before, truth, after by several runs; all of the same scans."""
    sites = {name: tables for name, tables in here.sites.items() if group is None or name in group}
    raw = table_of({name: scan_table(tables) for name, tables in sites.items()})
    raw = raw[raw[[*PROTECTED, *MEASURES]].notna().all(axis=1) & (raw["qc"] != "fail")]
    chosen = in_training(raw["patient_id"])
    counts = raw[chosen].groupby("batch")["patient_id"].nunique()
    listed = sorted(str(name) for name, n in counts.items() if name and n >= LISTED)
    raw = raw[raw["batch"].isin(listed) & ~chosen]
    cohorts = [TASK.cohort_of(tables) for tables in sites.values()]
    records = [training(each) for each in cohorts]
    people = sum(each.size for each in cohorts)
    truth = raw.assign(**here.truth.loc[pd.MultiIndex.from_frame(raw[KEYS])].reset_index(drop=True).set_index(raw.index))
    wanted = slopes(truth)
    found = {"truth": figures(truth, wanted, 0.0), "before": figures(raw, wanted, rms(raw, truth))}

    def after(model: str, scans: int, noise: float) -> dict[str, float]:
        made = Choice(model, {"batches": ",".join(listed), "scans": scans}, COLUMNS)
        ready = reference_of(json.loads(json.dumps(TASK.result(made, summed(records, made, noise, seed))))["reference"])
        done = table_of({name: harmonise_tables(ready, tables, in_training).scans for name, tables in sites.items()}).set_index(
            KEYS
        )
        values_of = done.loc[pd.MultiIndex.from_frame(raw[KEYS]), MEASURES].reset_index(drop=True).set_index(raw.index)
        table = raw.assign(**values_of).dropna(subset=MEASURES)
        return figures(table, wanted, rms(table, truth.loc[table.index]))

    found["combat, none"] = after("combat", 8, 0.0)
    found["longitudinal, none"] = after("longitudinal", 8, 0.0)
    if noised:
        for model, scans in (("combat", 1), ("longitudinal", 2)):
            for words, noise in noises(len(sites), people, model):
                found[f"{model}, {words}"] = after(model, scans, noise)
    return {f"{row} ({people} patients, {len(sites)} hospitals, {len(listed)} batches)": each for row, each in found.items()}


def training(cohort: Cohort) -> Records:
    """As the trainer has them: the last records of each patient on the training side."""
    side = in_training(cohort.patient_ids)
    rows, owners = cohort.values[side], cohort.owners[side]
    kept = pd.Series(owners).groupby(owners).cumcount(ascending=False).to_numpy() < TASK.records
    found, numbers = np.unique(owners[kept], return_inverse=True)
    return Records(rows[kept], numbers.astype(np.intp), len(found))


def rms(table: pd.DataFrame, truth: pd.DataFrame) -> float:
    """Root mean square distance from the truth, in spreads of the truth; a shift that all scans share does not count."""
    left = (values(table) - values(truth)) / values(truth).std(axis=0)
    return float(np.sqrt(np.mean((left - left.mean(axis=0)) ** 2)))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("effect", "noise"), help="effect: without noise alone, all hospitals; noise: the rest")
    parser.add_argument("--seeds", type=int, default=1, help="consortia that are averaged (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    chosen = parser.parse_args(arguments)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, chosen.seeds + 1):
        here = world("reclaim", seed)
        for size, group in GROUPS.items():
            if chosen.only == "effect" and group is not None:
                continue
            for name, found in measure(here, group, seed, noised=chosen.only != "effect").items():
                rows.setdefault(f"{size}: {name.split(' (')[0]}", []).append(found)
                print(f"{seed} {size}: {name}: " + "  ".join(f"{key} {value:.3g}" for key, value in found.items()), flush=True)
    means = {name: {key: float(np.mean([each[key] for each in found])) for key in found[0]} for name, found in rows.items()}
    print_table(means)
    if chosen.json:
        chosen.json.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    return 0


def print_table(means: dict[str, dict[str, float]]) -> None:
    """As the README has it."""
    names = list(next(iter(means.values())))
    print("\n| run | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for row, found in means.items():
        print(f"| {row} | " + " | ".join("–" if math.isnan(found[name]) else f"{found[name]:.3g}" for name in names) + " |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
