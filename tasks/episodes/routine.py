"""The inputs that nearly every clinic can give, with their public ranges: 42 of routine care, and three measures beside them.

Ranges are those of the data contract where an input is one of its columns. Counts, spans and slopes end where more tells no more;
what lies outside counts as the end.
"""

from __future__ import annotations

from typing import Final

from tasks.base import Column
from tasks.ms.contract import CONTRACT, FS_HIGHEST, FUNCTIONAL_SYSTEMS

LOOKBACK_D: Final = 1096  # 36 months up to the day of prediction
PHENOTYPES: Final = ("CIS", "RRMS", "SPMS", "PPMS")
TOPOGRAPHIES: Final = {
    "optic": ("visual",), "brainstem": ("brainstem", "cerebellar"), "cord": ("pyramidal", "sensory", "bowel_bladder"),
}  # fmt: skip
DMT_CLASSES: Final = ("platform", "moderate", "high", "induction")
TABLES: Final = ("patients", "visits", "relapses", "treatments", "mri", "biomarkers")  # that the inputs are made of
LONGEST_MONTHS: Final = 600


def _number(name: str, what: str, unit: str, low: float, high: float, table: str = "visits") -> Column:
    return Column(name, "numeric", what, unit=unit, low=low, high=high, modality=CONTRACT.table(table).modality)


def _flag(name: str, what: str, table: str = "visits") -> Column:
    return Column(name, "binary", what, modality=CONTRACT.table(table).modality)


def _edss(view: str, what: str) -> Column:
    return _number(f"edss_{view}", f"EDSS of the last 36 months: {what}", "points", 0, 10)


CORE: Final = (
    _flag("female", "sex in the record is F; another sex than F or M counts as missing", "patients"),
    _number("onset_age_years", "age at the first symptom", "years", 0, 90, "patients"),
    _number("age_years", "age, to a year and a half", "years", 18, 100, "patients"),
    _number("duration_years", "time since the first symptom", "years", 0, 70, "patients"),
    Column("phenotype", "categorical", "course recorded last, at a visit or at entry", categories=PHENOTYPES),
    _edss("last", "the last"),
    _edss("mean", "their mean"),
    _edss("max", "the highest"),
    _edss("min", "the lowest"),
    _number("edss_sd", "EDSS of the last 36 months: standard deviation, n - 1", "points", 0, 5),
    _number("edss_slope", "EDSS of the last 36 months: slope of a straight line", "points/year", -5, 5),
    _edss("first", "the first"),
    _number("edss_months_since", "time since the last EDSS", "months", 0, 3),
    *(
        _number(f"fs_{name}_last", f"functional system, {meaning}: last score of the last 36 months", "score", 0, FS_HIGHEST[name])
        for name, meaning in FUNCTIONAL_SYSTEMS.items()
    ),
    _number("ambulation_m_last", "distance walked, last of the last 36 months; 1000 stands for more", "m", 0, 1000),
    _number("relapses_1y", "relapses that began in the last year", "count", 0, 6, "relapses"),
    _number("relapses_3y", "relapses that began in the last 36 months", "count", 0, 12, "relapses"),
    _number("relapse_months_since", "time since the last relapse began", "months", 0, LONGEST_MONTHS, "relapses"),
    *(
        _flag(f"relapse_{name}_3y", f"a relapse of the last 36 months affected: {', '.join(systems)}", "relapses")
        for name, systems in TOPOGRAPHIES.items()
    ),
    *(_flag(f"dmt_{name}", f"on a therapy of the class {name}", "treatments") for name in DMT_CLASSES),
    _number("dmt_months", "time since the therapy now was started", "months", 0, LONGEST_MONTHS, "treatments"),
    _number("dmt_past_count", "different therapies that have ended", "count", 0, 10, "treatments"),
    _flag("dmt_ever_high", "ever on a therapy of the class high or induction", "treatments"),
    _number("visits_per_year", "visits a year in the last 36 months", "1/year", 0, 24),
    _flag("progressed", "a worsening of EDSS was confirmed before, by the rule of the label"),
    _number("progression_months_since", "time since the last such worsening began", "months", 0, LONGEST_MONTHS),
    _number("gd_count_last", "lesions with contrast, last scan of the last 36 months; 10 stands for more", "count", 0, 10, "mri"),
    _number("new_t2_1y", "new T2 lesions in the scans of the last year; 20 stands for more", "count", 0, 20, "mri"),
)  # fmt: skip
EXTRAS: Final = (
    _number("t2_volume_ml_last", "volume of T2 lesions, last scan of the last 36 months", "mL", 0, 150, "mri"),
    _number("brain_volume_ml_last", "normalised brain volume, last scan of the last 36 months", "mL", 1000, 2000, "mri"),
    _number("nfl_z_last", "neurofilament for age and body mass, last of the last 36 months", "SD", -6, 10, "biomarkers"),
)
