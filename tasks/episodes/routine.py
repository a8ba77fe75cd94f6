"""The inputs that nearly every clinic can give, with their public ranges: 42 of routine care, and three measures beside them.

Ranges are those of the data contract where an input is one of its columns. Counts, spans and slopes end where more tells no more;
what lies outside counts as the end.
"""

from __future__ import annotations

from typing import Final

from tasks.base import Column
from tasks.ms.contract import CONTRACT, FS_HIGHEST, FUNCTIONAL_SYSTEMS

YEAR_D: Final = 365
LOOKBACK_D: Final = 1096  # 36 months up to the day of prediction
PHENOTYPES: Final = ("CIS", "RRMS", "SPMS", "PPMS")
TOPOGRAPHIES: Final = {
    "optic": ("visual",), "brainstem": ("brainstem", "cerebellar"), "cord": ("pyramidal", "sensory", "bowel_bladder"),
}  # fmt: skip
DMT_CLASSES: Final = ("platform", "moderate", "high", "induction")
NO_THERAPY: Final = ("none", "washout")  # rows of `treatments` that say that there is none
TABLES: Final = ("patients", "visits", "relapses", "treatments", "mri", "biomarkers")  # that the inputs are made of
LONGEST_MONTHS: Final = 600


def number(name: str, what: str, unit: str, low: float, high: float, table: str = "visits") -> Column:
    """A numeric input with its public range, of the kind of data that `table` is."""
    return Column(name, "numeric", what, unit=unit, low=low, high=high, modality=CONTRACT.table(table).modality)


def flag(name: str, what: str, table: str = "visits") -> Column:
    """A yes/no input, of the kind of data that `table` is."""
    return Column(name, "binary", what, modality=CONTRACT.table(table).modality)


def _edss(view: str, what: str) -> Column:
    return number(f"edss_{view}", f"EDSS of the last 36 months: {what}", "points", 0, 10)


CORE: Final = (
    flag("female", "sex in the record is F; another sex than F or M counts as missing", "patients"),
    number("onset_age_years", "age at the first symptom", "years", 0, 90, "patients"),
    number("age_years", "age, to a year and a half", "years", 18, 100, "patients"),
    number("duration_years", "time since the first symptom", "years", 0, 70, "patients"),
    Column("phenotype", "categorical", "course recorded last, at a visit or at entry", categories=PHENOTYPES),
    _edss("last", "the last"),
    _edss("mean", "their mean"),
    _edss("max", "the highest"),
    _edss("min", "the lowest"),
    number("edss_sd", "EDSS of the last 36 months: standard deviation, n - 1", "points", 0, 5),
    number("edss_slope", "EDSS of the last 36 months: slope of a straight line", "points/year", -5, 5),
    _edss("first", "the first"),
    number("edss_months_since", "time since the last EDSS", "months", 0, 3),
    *(
        number(f"fs_{name}_last", f"functional system, {meaning}: last score of the last 36 months", "score", 0, FS_HIGHEST[name])
        for name, meaning in FUNCTIONAL_SYSTEMS.items()
    ),
    number("ambulation_m_last", "distance walked, last of the last 36 months; 1000 stands for more", "m", 0, 1000),
    number("relapses_1y", "relapses that began in the last year", "count", 0, 6, "relapses"),
    number("relapses_3y", "relapses that began in the last 36 months", "count", 0, 12, "relapses"),
    number("relapse_months_since", "time since the last relapse began", "months", 0, LONGEST_MONTHS, "relapses"),
    *(
        flag(f"relapse_{name}_3y", f"a relapse of the last 36 months affected: {', '.join(systems)}", "relapses")
        for name, systems in TOPOGRAPHIES.items()
    ),
    *(flag(f"dmt_{name}", f"on a therapy of the class {name}", "treatments") for name in DMT_CLASSES),
    number("dmt_months", "time since the therapy now was started", "months", 0, LONGEST_MONTHS, "treatments"),
    number("dmt_past_count", "different therapies that have ended", "count", 0, 10, "treatments"),
    flag("dmt_ever_high", "ever on a therapy of the class high or induction", "treatments"),
    number("visits_per_year", "visits a year in the last 36 months", "1/year", 0, 24),
    flag("progressed", "a worsening of EDSS was confirmed before, by the rule of the label"),
    number("progression_months_since", "time since the last such worsening began", "months", 0, LONGEST_MONTHS),
    number("gd_count_last", "lesions with contrast, last scan of the last 36 months; 10 stands for more", "count", 0, 10, "mri"),
    number("new_t2_1y", "new T2 lesions in the scans of the last year; 20 stands for more", "count", 0, 20, "mri"),
)  # fmt: skip
EXTRAS: Final = (
    number("t2_volume_ml_last", "volume of T2 lesions, last scan of the last 36 months", "mL", 0, 150, "mri"),
    number("brain_volume_ml_last", "normalised brain volume, last scan of the last 36 months", "mL", 1000, 2000, "mri"),
    number("nfl_z_last", "neurofilament for age and body mass, last of the last 36 months", "SD", -6, 10, "biomarkers"),
)
