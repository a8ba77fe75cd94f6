"""What a run publishes: mean rates, their spread, what age and sex do, who loses fast, how large a trial must be.

`reference` in result.json is what a site compares its patients with (`apply.py`), at full precision; the tables are for people.
Everything here is post-processing of one released sum: it costs no privacy, and gives none back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Final

from tasks.disclosure import Sharpness
from tasks.mri_quant.fit import Rates, fit
from tasks.mri_quant.frame import NAME, SCALES, UNIT, Frame, Trial
from tasks.mri_quant.measures import RateMeasure
from tasks.sums import Opened

FORMAT: Final = "wardround/mri-rates/1"
Z95: Final = 1.96
NOISY: Final = "noise dominates"
NO_LOSS: Final = "no loss to slow"  # a brain that grows, or shrinks less than healthy ones
STEPS: Final = {
    "age_years": ("a decade older", 10.0),
    "sex": ("men, against women", 2.0),
    "duration_years": ("a decade of disease", 10.0),
}
AT: Final = {"age_years": "age 45", "sex": "halfway between women and men", "duration_years": "15 years of disease"}
CHANCE, POWER = 0.05, 0.8  # of a false finding, both sides; of seeing an effect that is there
MOST_PATIENTS: Final = 100_000  # in each arm; more is not said
NORMAL: Final = NormalDist()
Row = dict[str, object]


def result_of(frame: Frame, version: str, opened: Opened) -> Mapping[str, object]:
    """Title, notes, tables, reference."""
    sharp = Sharpness(opened.noise / SCALES["patients"])
    parts = frame.split(opened.total)
    shown = [each for each in frame.measures if float(parts[each.name]["patients"][0]) >= sharp.floor]
    alone = {each.name: fit(each, parts[each.name], opened.noise, width=1) for each in shown}
    whole = {each.name: fit(each, parts[each.name], opened.noise) for each in shown}
    return {
        "title": "Yearly change of brain and lesion volumes",
        "notes": notes(frame, sharp, whole),
        "tables": {
            "rates": [_rate_row(each, alone.get(each.name), sharp) for each in frame.measures],
            "effects": [row for each in shown for row in _effect_rows(frame, each, whole[each.name])],
            "fast_loss": [_share_row(each, alone[each.name], sharp) for each in shown if each.flag_below is not None],
            "trials": [row for each in shown for row in _trial_rows(frame.trial, each, alone[each.name], whole[each.name])],
        },
        "reference": {
            "format": FORMAT,
            "task": NAME,
            "version": version,
            "volumes": frame.reference,
            "covariates": list(frame.covariates),
            "measures": [_reference_row(each, whole[each.name]) for each in shown],
        },
    }


def _reference_row(measure: RateMeasure, found: Rates) -> Row:
    return {"measure": measure.name, "beta": found.beta.tolist(), "omega2": found.omega2, "kappa": found.kappa}


def _rate_row(measure: RateMeasure, found: Rates | None, sharp: Sharpness) -> Row:
    """Mean over patients as they are, and how much they differ once the error of their slopes is taken off."""
    if found is None:
        return {"measure": measure.name, "patients": sharp.few}
    error, ends = found.error(0), _ends(found)
    return {
        "measure": measure.name,
        "patients": sharp.patients(found.patients),
        "mean_pct_y": _short(float(found.beta[0])),
        "low_95": _short(float(found.beta[0]) - Z95 * error),
        "high_95": _short(float(found.beta[0]) + Z95 * error),
        "sd_between": _short(math.sqrt(found.omega2)),
        "sd_low_95": _short(ends[0]),
        "sd_high_95": _short(ends[1]),
        "error_of_a_scan_pct": _short(measure.error * math.sqrt(found.kappa)),
        "error_from": "these scans" if found.kappa_known else "publications",
        "mean_reads": NOISY if found.noisy(0) else "",
        "sd_reads": NOISY if found.omega2_noise > found.omega2_se else "",
    }


def _effect_rows(frame: Frame, measure: RateMeasure, found: Rates) -> list[Row]:
    rows: list[Row] = [_effect(measure, ", ".join(AT[name] for name in frame.covariates) or "everybody", found, 0, 1.0)]
    for at, name in enumerate(frame.covariates, start=1):
        words, step = STEPS[name]
        if found.varies[at]:
            rows.append(_effect(measure, words, found, at, step / UNIT[name]))
        else:
            rows.append({"measure": measure.name, "change": words, "pct_y": "nobody differs in it"})
    return rows


def _effect(measure: RateMeasure, words: str, found: Rates, at: int, step: float) -> Row:
    value, error = float(found.beta[at]) * step, found.error(at) * step
    return {
        "measure": measure.name,
        "change": words,
        "pct_y": _short(value),
        "low_95": _short(value - Z95 * error),
        "high_95": _short(value + Z95 * error),
        "reads": NOISY if found.noisy(at) else "",
    }


def _share_row(measure: RateMeasure, found: Rates, sharp: Sharpness) -> Row:
    """Who loses faster than the flag: as normal rates would have it, and as measured, which error draws towards a half."""
    flag = float(measure.flag_below or 0.0)
    mean, error, ends = float(found.beta[0]), found.error(0), _ends(found)
    corners = [_below(flag, mean + side * Z95 * error, sd) for side in (-1, 1) for sd in ends]
    noisy = found.noisy(0) or found.omega2_noise > found.omega2_se
    return {
        "measure": measure.name,
        "faster_than_pct_y": flag,
        "share": round(_below(flag, mean, math.sqrt(found.omega2)), 2),
        "low": round(min(corners), 2),
        "high": round(max(corners), 2),
        "share_as_measured": _measured_share(found, sharp),
        "reads": NOISY if noisy else "",
    }


def _ends(found: Rates) -> tuple[float, float]:
    """The 95 % interval of the standard deviation between patients."""
    spread = math.hypot(found.omega2_se, found.omega2_noise)
    low, high = (math.sqrt(max(found.omega2 + side * Z95 * spread, 0.0)) for side in (-1, 1))
    return low, high


def _below(flag: float, mean: float, sd: float) -> float:
    return NORMAL.cdf((flag - mean) / max(sd, 1e-9))


def _measured_share(found: Rates, sharp: Sharpness) -> float | str:
    if found.below < sharp.floor:
        return f"less than {sharp.floor / found.patients:.2f}, or none"
    if found.patients - found.below < sharp.floor:
        return f"more than {max(0.0, 1.0 - sharp.floor / found.patients):.2f}, or all"
    return round(found.below / found.patients, 2)


def _trial_rows(trial: Trial, measure: RateMeasure, alone: Rates, whole: Rates) -> list[Row]:
    """Patients in each arm for a slowing of the whole rate, and of what is beyond healthy ageing, where that is known."""
    rows = []
    for words, ageing in (("all change", 0.0), ("the change beyond healthy ageing", measure.ageing)):
        if ageing is None:
            continue
        effect = trial.slowing * (float(alone.beta[0]) - ageing)
        noisy = alone.noisy(0) or whole.omega2_noise > whole.omega2_se
        needed = patients_an_arm(_rate_variance(trial, measure, whole), effect, alone.error(0) * trial.slowing)
        if isinstance(needed, int) and effect > 0 and measure.ageing is not None:
            needed = NO_LOSS
        rows.append(
            {
                "measure": measure.name,
                "slowing": f"{100 * trial.slowing:g} % of {words}",
                "effect_pct_y": _short(-effect),
                "sd_of_a_patient_s_rate": _short(math.sqrt(_rate_variance(trial, measure, whole))),
                "patients_an_arm": needed,
                "reads": NOISY if noisy else "",
            }
        )
    return rows


def _rate_variance(trial: Trial, measure: RateMeasure, found: Rates) -> float:
    """Of a patient's slope in the trial: between patients beside the covariates, and the error of its scans on one scanner."""
    return found.omega2 + found.kappa * measure.error**2 / trial.spread


def patients_an_arm(variance: float, effect: float, error: float) -> int | str:
    """2 (z of 1 - alpha/2 + z of power)^2 variance / effect^2, as for two means; none if the effect may as well be 0."""
    if abs(effect) <= Z95 * error:
        return "the change is not told from 0"
    z = NORMAL.inv_cdf(1 - CHANCE / 2) + NORMAL.inv_cdf(POWER)
    found = 2 * z**2 * variance / effect**2
    return f"more than {MOST_PATIENTS}" if found > MOST_PATIENTS else math.ceil(found)


def notes(frame: Frame, sharp: Sharpness, found: Mapping[str, Rates]) -> list[str]:
    """What a reader must know to read it rightly."""
    trial = frame.trial
    volumes = (
        f"harmonised by {frame.reference}" if frame.reference else "as measured, not harmonised: rates are those within scanners"
    )
    words = [
        "Patients on the training side with two usable scans 300 days apart or more; % a year of the logarithm of the volume.",
        f"Volumes {volumes}.",
        "They are people with MS: the mean is no norm of healthy people, and hospitals scan whom they worry about.",
        "Each site sees its own patients beside it: wardround-site data atrophy RESULT --out FILE.",
        f"Trials: {trial.scans} scans of one scanner over {trial.years:g} years, two arms, 5 % both sides, power 80 %, no dropout.",
    ]
    if hidden := [each.name for each in frame.measures if each.name not in found]:
        words.append(f"Too few patients to say anything: {', '.join(hidden)}.")
    if sharp.noise:
        words.append(
            f"Noise of {sharp.noise:.1f} (standard deviation) is in every count of patients; intervals hold it. "
            f"'{NOISY}': more of the error is noise than chance among patients."
        )
    else:
        words.append("NOT PRIVATE: no noise was added.")
    return words


def _short(value: float) -> float:
    return float(f"{value:.3g}")
