"""What figures are called: `auc`, `auc_low[sex=F]`; and what people read instead.

A figure NAME may come with NAME_low and NAME_high (an interval of 95 %, from the number of patients and the noise),
NAME_sampling_se, NAME_noise_se (standard errors of the one and of the other) and NAME_noise (what noise alone would make of it).
A name followed by [grouping=group] is that of a group. These rules hold whatever a scoring calls its figures: pages and tables need
no list of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

NOISE_DOMINATES: Final = "noise_dominates"
PARTS: Final = ("low", "high", "sampling_se", "noise_se", "noise")
NAME: Final = re.compile(rf"(?P<figure>[a-z0-9_]+?)(?:_(?P<part>{'|'.join(PARTS)}))?(?:\[(?P<group>[a-z]+=[A-Za-z0-9_]+)\])?")

YEARS: Final = re.compile(r"([0-9]+)y")

WORDS: Final[Mapping[str, str]] = {
    "uno_c": "Uno's C",
    "harrell_c": "Harrell's C",
    "auc": "AUC",
    "auprc": "average precision (AUPRC)",
    "brier": "Brier score",
    "ibs": "integrated Brier score",
    "observed": "observed risk",
    "expected": "predicted risk",
    "calibration_intercept": "calibration intercept",
    "calibration_slope": "calibration slope",
    "calibration_error": "calibration error",
    "ece": "expected calibration error",
    "log_likelihood_gain": "gain in log-likelihood",
    "log_likelihood": "log-likelihood",
    "log_density": "log density of all measures of a visit",
    "mae": "mean absolute error",
    "mae_last": "mean absolute error of the last value",
    "mae_mean": "mean absolute error of the mean",
    "rmse": "root mean squared error",
    "rmse_last": "root mean squared error of the last value",
    "r2": "R²",
    "bias": "mean error",
    "dice": "Dice",
    "dice_small": "Dice at small lesion loads",
    "dice_medium": "Dice at medium lesion loads",
    "dice_large": "Dice at large lesion loads",
    "dice_none": "sessions without lesions where none is found",
    "lesion_f1": "lesion-wise F1",
    "volume_bias_ml": "lesion volume found minus drawn in mL",
    "volume_agreement_ml": "half the width of the limits of agreement in mL",
    "ad_wabc": "AD-wABC",
    "ate": "average effect",
    "qini": "Qini",
    "auuc": "area under the uplift curve",
    "net_benefit_10": "net benefit at 10 %",
    "net_benefit_20": "net benefit at 20 %",
    "net_benefit_30": "net benefit at 30 %",
    "prevalence": "share with the event",
}
MEANING: Final[Mapping[str, str]] = {
    "uno_c": "0.5 is chance, 1 is perfect",
    "harrell_c": "0.5 is chance, 1 is perfect; hangs on who is lost when",
    "auc": "0.5 is chance, 1 is perfect",
    "auprc": "chance is the share with the event",
    "brier": "0 is perfect",
    "ibs": "0 is perfect",
    "calibration_intercept": "0 is right; above: the risk is foretold too low",
    "calibration_slope": "1 is right; below: foretold too extreme",
    "calibration_error": "0 is perfect",
    "ece": "0 is perfect",
    "mae": "0 is perfect",
    "mae_last": "of saying that nothing changes",
    "mae_mean": "of saying the mean of these patients",
    "r2": "0 is the mean, 1 is perfect",
    "bias": "above 0: foretold too high",
    "dice": "0 is no overlap, 1 is perfect; of sessions with lesions",
    "dice_small": "load: the volume that is drawn",
    "dice_medium": "load: the volume that is drawn",
    "dice_large": "load: the volume that is drawn",
    "dice_none": "share of such sessions; 1 is perfect",
    "lesion_f1": "1: every lesion touched, nothing else marked",
    "volume_bias_ml": "mean; above 0: more is marked than was drawn",
    "volume_agreement_ml": "95 % of volumes differ from drawn ones by the mean ± this, if differences are normal",
    "ad_wabc": "0 is no better than by lot; above: who is foretold to gain more does",
    "qini": "0 is treating by lot",
    "log_likelihood_gain": "nats a visit; above 0: better than the chain",
    "log_likelihood_gain_states_alone": "nats a visit; above 0: better than the chain",
    "net_benefit_10": "0 is treating nobody",
    "net_benefit_20": "0 is treating nobody",
    "net_benefit_30": "0 is treating nobody",
}
GROUP_WORDS: Final[Mapping[str, str]] = {
    "age=below_35": "younger than 35",
    "age=35_to_49": "35 to 49 years",
    "age=from_50": "50 years and older",
    "age=unknown": "age unknown",
    "sex=F": "women",
    "sex=M": "men",
    "sex=unknown": "sex unknown",
    "vendor=siemens": "scanners by Siemens",
    "vendor=philips": "scanners by Philips",
    "vendor=ge": "scanners by GE",
    "vendor=canon": "scanners by Canon or Toshiba",
    "vendor=other": "scanners by others",
    "vendor=unknown": "scanner unknown",
}


@dataclass(frozen=True)
class Name:
    """A figure's name in its parts; `part` of `PARTS` or "", `group` as "sex=F" or ""."""

    figure: str
    part: str = ""
    group: str = ""

    def __str__(self) -> str:
        return self.figure + (f"_{self.part}" if self.part else "") + (f"[{self.group}]" if self.group else "")

    @property
    def plain(self) -> str:
        """For programs that take letters, digits and . _ / - only: `auc_low/sex.F`."""
        return f"{Name(self.figure, self.part)}" + (f"/{self.group.replace('=', '.')}" if self.group else "")


def parsed(name: str) -> Name:
    """The parts of `name`; a name that follows no rule is all figure."""
    found = NAME.fullmatch(name)
    if found is None:
        return Name(name)
    return Name(found["figure"], found["part"] or "", found["group"] or "")


def words(figure: str) -> str:
    """What people read for a figure's name: `auc_2y` is the AUC at 2 years, `auc_pira` that of the cause pira."""
    known, rest = _known(figure)
    if not known:
        return figure.replace("_", " ")
    if years := YEARS.fullmatch(rest):
        return f"{WORDS[known]} at {years[1]} year{'' if years[1] == '1' else 's'}"
    return WORDS[known] + (f", {rest.replace('_', ' ')}" if rest else "")


def meaning(figure: str) -> str:
    """How to read it; "" where there is nothing to say."""
    return MEANING.get(figure) or MEANING.get(_known(figure)[0], "")


def _known(figure: str) -> tuple[str, str]:
    """The longest name of `WORDS` that `figure` is or begins with, and what follows it."""
    parts = figure.split("_")
    heads = ("_".join(parts[:length]) for length in range(len(parts), 0, -1))
    found = next((head for head in heads if head in WORDS), "")
    return found, figure[len(found) + 1 :] if found else ""


def group_words(group: str) -> str:
    """What people read for a group."""
    return GROUP_WORDS.get(group) or group.replace("=", " ").replace("_", " ")


@dataclass(frozen=True)
class Shown:
    """One figure of all patients, or of a group, with what is known of its error."""

    name: Name
    value: float
    low: float | None = None
    high: float | None = None
    noise_se: float | None = None
    noise: float | None = None


def shown(figures: Mapping[str, float]) -> list[Shown]:
    """Figures with their intervals, all patients first, then group by group; each in the order of `WORDS`, then by name."""
    names = [name for name in map(parsed, figures) if not name.part and name.figure != NOISE_DOMINATES]

    def part(name: Name, which: str) -> float | None:
        return figures.get(str(Name(name.figure, which, name.group)))

    return [
        Shown(name, figures[str(name)], part(name, "low"), part(name, "high"), part(name, "noise_se"), part(name, "noise"))
        for name in sorted(names, key=_order)
    ]


def groups_of(figures: Iterable[Shown]) -> list[str]:
    """The groups that have figures, in order, without all patients."""
    return list(dict.fromkeys(one.name.group for one in figures if one.name.group))


def _order(name: Name) -> tuple[int, str, int, str]:
    return *(_rank(GROUP_WORDS, name.group, name.group) if name.group else (-1, "")), *_rank(
        WORDS, _known(name.figure)[0], name.figure
    )


def _rank(known: Mapping[str, str], key: str, name: str) -> tuple[int, str]:
    return (list(known).index(key) if key in known else len(known)), name
