"""What rates of brain volume loss are worth on simulated hospitals: scanners ignored, means taken off, within them, harmonised.

    .venv/bin/python scripts/bench_atrophy.py                    preset reclaim, 300 to 7,500 patients, some 3 minutes a seed
    .venv/bin/python scripts/bench_atrophy.py --seeds 2 --json atrophy.json
    .venv/bin/python scripts/bench_atrophy.py --only 300

Truth is the slope of the same scans' volumes in scanners without effect and without error. Model and harmonisation see 70 % of the
patients, the figures of a patient's rate are of the others. Noise is that of the plan's calibration, on exact sums of clipped
vectors, without the grid; a harmonisation and the rates are two plans, each with the stated epsilon. Scanners ignored: one slope
over all scans; taking each hospital's mean off gives the same slopes. Patients: held-out ones with a rate; ICC, sure, right and AUC
are of those to whom every way gives one. Bias: of the published mean rate, from the true mean of the same patients, in % a year.
SD: published, of true rates between patients, beside the true one. ICC: of a patient's rate with the truth, absolute agreement, two
ways, one measurement; best: the rate drawn to what is expected. Sure: share of patients whose interval leaves -0.4 % a year out;
right: of these. AUC: hospitals told apart by the rates and their squares. Arm: patients for 30 % slowing of all change, beside what
the true mean and spread would ask for.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from bench_harmonise import GROUPS, LISTED, in_training, noises  # noqa: E402

from tasks.mri_harmonisation.apply import harmonise_tables  # noqa: E402
from tasks.mri_harmonisation.reference import name_of, reference_of  # noqa: E402
from tasks.mri_harmonisation.scans import scan_table  # noqa: E402
from tasks.mri_harmonisation.task import TASK as HARMONISE  # noqa: E402
from tasks.mri_quant.fit import fit  # noqa: E402
from tasks.mri_quant.frame import Frame, frame_of  # noqa: E402
from tasks.mri_quant.measures import RateMeasure  # noqa: E402
from tasks.mri_quant.result import Z95, patients_an_arm  # noqa: E402
from tasks.mri_quant.rows import PLACES  # noqa: E402
from tasks.mri_quant.slopes import Slopes, slopes_of  # noqa: E402
from tasks.mri_quant.task import TASK  # noqa: E402
from tasks.mri_quant.vectors import vectors  # noqa: E402
from tasks.simulator import parameters, simulate  # noqa: E402
from tasks.sums import Choice, Opened, Records, stage_sizes  # noqa: E402

MEASURES = ("nbv_ml", "thalamus_ml")
COLUMNS = ("age_years", "sex", *MEASURES)
HARMONISED = ("age_years", "sex", "edss", *MEASURES)
IGNORED = 1e-3  # % that a change of scanner is believed to make
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Rates:
    """Of held-out patients: rate, best guess and truth, (n,) each, and whose; of the model: what the sum said."""

    rate: np.ndarray
    best: np.ndarray
    true: np.ndarray
    error: np.ndarray
    site: np.ndarray
    patient: np.ndarray
    flag: float | None
    mean: float
    sd: float
    arm: float
    true_mean: float
    true_sd: float
    true_arm: float

    def of(self, patients: Sequence[str]) -> "Rates":
        """The same of these patients alone."""
        kept = np.isin(self.patient, list(patients))
        names = ("rate", "best", "true", "error", "site", "patient")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})


def worlds(preset: str, seed: int) -> tuple[dict[str, Tables], dict[str, pd.DataFrame]]:
    """The hospitals' tables, and the table `mri` of each in scanners that neither shift nor err."""
    seen = {site.site_id: site.tables for site in simulate(preset, seed).sites}
    kept = {name: getattr(parameters, name) for name in ("GAMMA_SD", "FIELD_T2", "FIELD_THALAMUS", "SCAN_SD")}
    still = {"GAMMA_SD": 0.0, "FIELD_T2": 1.0, "FIELD_THALAMUS": 1.0, "SCAN_SD": dict.fromkeys(parameters.SCAN_SD, 0.0)}
    for name, value in still.items():
        setattr(parameters, name, value)
    try:
        clean = {site.site_id: site.tables["mri"] for site in simulate(preset, seed).sites}
    finally:
        for name, value in kept.items():
            setattr(parameters, name, value)
    return seen, clean


def records_of(tables: Tables, *, training: bool) -> tuple[Records, np.ndarray]:
    """One side of a hospital as the trainer has it, and the patients' names."""
    cohort = TASK.cohort_of(tables)
    side = in_training(cohort.patient_ids) == training
    late = pd.Series(cohort.owners[side]).groupby(cohort.owners[side]).cumcount(ascending=False).to_numpy() < TASK.records
    numbers, owners = np.unique(cohort.owners[side][late], return_inverse=True)
    names = np.array(list(dict.fromkeys(cohort.patient_ids)))[numbers]
    return Records(cohort.values[side][late], owners.astype(np.intp), len(numbers)), names


def with_truth(records: Records, tables: Tables, clean: pd.DataFrame, *, training: bool) -> Records:
    """The same scans with the clean volumes in them: rows are found by walking both tables in one order."""
    other = {**tables, "mri": tables["mri"].assign(**{name: clean[name].to_numpy() for name in MEASURES})}
    truth, _ = records_of(other, training=training)
    rows = records.values.copy()
    for name in MEASURES:
        rows[:, PLACES[name]] = np.where(np.isfinite(rows[:, PLACES[name]]), truth.values[:, PLACES[name]], np.nan)
    return Records(rows, records.owners, records.patients)


def slopes(frame: Frame, at: int, records: Records) -> Slopes:
    return slopes_of(frame, frame.measures[at], records.values, records.owners, records.patients)


def ignoring(frame: Frame) -> Frame:
    return replace(frame, measures=tuple(replace(each, shift=IGNORED) for each in frame.measures))


def arm(frame: Frame, at: int, mean: float, omega2: float, kappa: float) -> float:
    variance = omega2 + kappa * frame.measures[at].error ** 2 / frame.trial.spread
    found = patients_an_arm(variance, frame.trial.slowing * mean, 0.0)
    return float(found) if isinstance(found, int) else math.nan


def judged(frame: Frame, tables: Mapping[str, Tables], clean: Mapping[str, pd.DataFrame], noise: float, seed: int) -> list[Rates]:
    """By measure. `noise`: standard deviation of the whole sum over the bound."""
    rng, bound, total, found = np.random.default_rng(seed), frame.bound, np.zeros(0), []
    sides = {
        name: {side: records_of(each, training=side) for side in (True, False)} for name, each in tables.items()
    }  # fmt: skip
    for each in sides.values():
        rows = vectors(frame, each[True][0])
        if noise:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1) / bound, 1.0)[:, None]
        total = rows.sum(axis=0) + (total if total.size else 0.0)
    parts = frame.split(total + noise * bound * rng.standard_normal(total.size))
    plain = ignoring(frame)
    for at, measure in enumerate(frame.measures):
        whole, alone = (fit(measure, parts[measure.name], noise * bound, width=width) for width in (None, 1))
        true_train, out = [], []
        for name, each in sides.items():
            for side, (records, patients) in each.items():
                truth = slopes(plain, at, with_truth(records, tables[name], clean[name], training=side)).rate
                here = slopes(frame, at, records)
                kept = here.rated
                if side:
                    true_train.append(truth[kept])
                    continue
                expected, variance = here.x @ whole.beta, whole.kappa * here.variance
                best = expected + whole.omega2 / (whole.omega2 + variance) * (here.rate - expected)
                out.append(
                    (here.rate[kept], best[kept], truth[kept], np.sqrt(variance[kept]), np.full(kept.sum(), name), patients[kept])
                )
        rate, best, true, error, site, patient = (np.concatenate(part) for part in zip(*out, strict=True))
        known = np.concatenate(true_train)
        mean, sd = float(known.mean()), float(known.std())
        found.append(
            Rates(
                rate, best, true, error, site, patient, measure.flag_below, float(alone.beta[0]), math.sqrt(alone.omega2),
                arm(frame, at, float(alone.beta[0]), whole.omega2, whole.kappa), mean, sd,
                arm(frame, at, mean, sd**2, _kappa(measure)),
            )
        )  # fmt: skip
    return found


def _kappa(measure: RateMeasure) -> float:
    """The simulator's variance of a scan's error over the public one."""
    name = {"nbv_ml": "brain", "thalamus_ml": "thalamus"}[measure.name]
    return float((100 * parameters.SCAN_SD[name] / measure.error) ** 2)


def icc(one: np.ndarray, other: np.ndarray) -> float:
    """ICC(A,1) of McGraw and Wong 1996 for two columns."""
    table = np.stack([one, other], axis=1)
    n, whole = len(table), table.mean()
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    between = 2 * np.sum((rows - whole) ** 2) / (n - 1)
    ways = n * np.sum((columns - whole) ** 2)
    left = np.sum((table - rows[:, None] - columns[None, :] + whole) ** 2) / (n - 1)
    return float((between - left) / (between + left + 2 / n * (ways - left)))


def hospital_auc(found: Rates) -> float:
    """One against the rest, five folds, hospitals with 30 held-out patients or more."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    names, counts = np.unique(found.site, return_counts=True)
    kept = np.isin(found.site, names[counts >= 30])
    if len(set(found.site[kept])) < 2:
        return math.nan
    z = (found.rate[kept] - found.rate[kept].mean()) / found.rate[kept].std()
    x, y = np.stack([z, np.minimum(z**2, 9.0)], axis=1), np.unique(found.site[kept], return_inverse=True)[1]
    fold, chances = np.random.default_rng(0).permutation(len(y)) % 5, np.zeros((len(y), y.max() + 1))
    for at in range(5):
        model = LogisticRegression(max_iter=200).fit(x[fold != at], y[fold != at])
        chances[np.ix_(fold == at, model.classes_)] = model.predict_proba(x[fold == at])
    return float(np.mean([roc_auc_score(y == kind, chances[:, kind]) for kind in range(y.max() + 1)]))


def sure(found: Rates) -> tuple[float, float]:
    """Share of patients whose interval leaves the flag out, and how many of these are on the right side of it."""
    if found.flag is None:
        return math.nan, math.nan
    low, high = found.rate + Z95 * found.error < found.flag, found.rate - Z95 * found.error > found.flag
    right = (low & (found.true < found.flag)) | (high & (found.true >= found.flag))
    return float((low | high).mean()), float(right.sum() / max((low | high).sum(), 1))


def figures(whole: Rates, common: Sequence[str]) -> dict[str, float]:
    """`common`: held-out patients whom every way gives a rate."""
    found = whole.of(common)
    flagged, right = sure(found)
    return {
        "patients": float(len(whole.rate)),
        "bias": found.mean - found.true_mean,
        "SD": found.sd,
        "true SD": found.true_sd,
        "ICC": icc(found.rate, found.true),
        "ICC best": icc(found.best, found.true),
        "sure": flagged,
        "right": right,
        "AUC hospital": hospital_auc(found),
        "arm": found.arm,
        "true arm": found.true_arm,
    }


def centred(tables: Tables) -> Tables:
    """Each scanner's mean of logarithms taken off, the hospital's put in its place."""
    mri = tables["mri"].copy()
    batch = scan_table({**tables, "mri": mri.assign(order=range(len(mri)))}).sort_values("order")["batch"].to_numpy()
    for name in MEASURES:
        logs = np.log(mri[name].astype(float))
        mri[name] = np.exp(logs - logs.groupby(batch).transform("mean") + logs.mean())
    return {**tables, "mri": mri}


def harmonised(sites: Mapping[str, Tables], noise: float, seed: int) -> tuple[dict[str, Tables], str]:
    """Tables after longitudinal ComBat, as `wardround-site data harmonise --tables` writes them, and the reference's name."""
    scans = {name: scan_table(tables) for name, tables in sites.items()}
    whole = pd.concat(scans.values())
    whole = whole[whole[list(HARMONISED)].notna().all(axis=1) & (whole["qc"] != "fail") & in_training(whole["patient_id"])]
    counts = whole.groupby("batch")["patient_id"].nunique()
    listed = sorted(str(name) for name, n in counts.items() if name and n >= LISTED)
    made = Choice("longitudinal", {"batches": ",".join(listed), "scans": 2 if noise else 8}, HARMONISED)
    rng, bound, (length,) = np.random.default_rng(seed), HARMONISE.bound(made), stage_sizes(HARMONISE, made)
    total = np.zeros(length)
    for tables in sites.values():
        cohort = HARMONISE.cohort_of(tables)
        side = in_training(cohort.patient_ids)
        late = pd.Series(cohort.owners[side]).groupby(cohort.owners[side]).cumcount(ascending=False).to_numpy() < HARMONISE.records
        numbers, owners = np.unique(cohort.owners[side][late], return_inverse=True)
        rows = HARMONISE.vectors(made, (), Records(cohort.values[side][late], owners.astype(np.intp), len(numbers)))
        if noise:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1) / bound, 1.0)[:, None]
        total += rows.sum(axis=0)
    opened = Opened(total + noise * bound * rng.standard_normal(length), noise * bound)
    ready = reference_of(json.loads(json.dumps(HARMONISE.result(made, [opened])))["reference"])
    return {
        name: _written(tables, harmonise_tables(ready, tables, in_training).scans, name_of(ready)) for name, tables in sites.items()
    }, name_of(ready)


def _written(tables: Tables, scans: pd.DataFrame, name: str) -> Tables:
    keys = ["patient_id", "day", "scan_id"]
    mri = tables["mri"].copy()
    done = scans.set_index(keys).loc[pd.MultiIndex.from_frame(mri[keys])].reset_index(drop=True).set_index(mri.index)
    ready = done["state"] == "harmonised"
    for column in MEASURES:
        mri[column] = mri[column].where(~ready, done[column])
    return {**tables, "mri": mri.assign(tool=np.where(ready, "harmonised", mri["tool"]), tool_version=np.where(ready, name, ""))}


def measure(seen: Mapping[str, Tables], clean: Mapping[str, pd.DataFrame], seed: int) -> dict[str, list[Rates]]:
    """By way of measuring."""
    frame = frame_of(Choice("rates", {}, COLUMNS))
    people = sum(tables["mri"]["patient_id"].nunique() for tables in seen.values())
    sized = {words: noise for words, noise in noises(len(seen), people, "longitudinal") if words.endswith("epsilon 8")}
    found = {
        "scanners ignored": judged(ignoring(frame), seen, clean, 0.0, seed),
        "scanner means taken off": judged(ignoring(frame), {name: centred(each) for name, each in seen.items()}, clean, 0.0, seed),
        "within scanners": judged(frame, seen, clean, 0.0, seed),
    }
    for words, noise in sized.items():
        found[f"within scanners, {words}"] = judged(frame, seen, clean, noise, seed)
    for words, noise in ({"none": 0.0} | sized).items():
        tables, name = harmonised(seen, noise, seed)
        ready = replace(frame, reference=name)
        if not noise:
            found["harmonised, scanners ignored"] = judged(ignoring(ready), tables, clean, 0.0, seed)
        found["harmonised" if not noise else f"harmonised, {words}"] = judged(ready, tables, clean, noise, seed)
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(GROUPS), help="one size of the consortium")
    parser.add_argument("--preset", default="reclaim", help="of the simulator (default %(default)s); another one is taken whole")
    parser.add_argument("--seeds", type=int, default=1, help="consortia that are averaged (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    chosen = parser.parse_args(arguments)
    groups: dict[str, Any] = {chosen.only: GROUPS[chosen.only]} if chosen.only else GROUPS
    groups = groups if chosen.preset == "reclaim" else {chosen.preset: None}
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, chosen.seeds + 1):
        seen, clean = worlds(chosen.preset, seed)
        for size, group in groups.items():
            names = [name for name in seen if group is None or name in group]
            ways = measure({name: seen[name] for name in names}, clean, seed)
            for at, name in enumerate(MEASURES):
                common = set.intersection(*(set(found[at].patient.tolist()) for found in ways.values()))
                for way, found in ways.items():
                    rows.setdefault(f"{name} {size}: {way}", []).append(figures(found[at], sorted(common)))
                    print(seed, f"{name} {size}: {way}", len(common), rows[f"{name} {size}: {way}"][-1], flush=True)
    means = {row: {key: float(np.mean([each[key] for each in found])) for key in found[0]} for row, found in rows.items()}
    print_table(means)
    if chosen.json:
        chosen.json.write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
    return 0


def print_table(means: Mapping[str, Mapping[str, float]]) -> None:
    """As the README has it."""
    names = list(next(iter(means.values())))
    print("\n| run | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for row, found in means.items():
        cells = [
            "–" if math.isnan(value := found[name]) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for name in names
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
