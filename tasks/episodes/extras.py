"""The inputs beside routine care, a group for each modality, and the visits before the day as a sequence: public ranges, no pandas.

Every column is nullable. A hospital without the table, and a patient without the examination, has it missing and takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from tasks.base import Column
from tasks.episodes.routine import CORE, EXTRAS, flag, number
from tasks.errors import ContractError
from tasks.ms.contract import ANALYTES, INSTRUMENTS

STEPS: Final = 8  # visits of a sequence
LAST_WEEKS: Final = 12  # of wearables
MOST_NEW_T2, MOST_GD, SLOWEST_S = 20, 10, 60  # what is more counts as this

_ROUTINE_EXTRAS: Final = {column.name: column for column in EXTRAS}
MRI: Final = (
    _ROUTINE_EXTRAS["t2_volume_ml_last"],
    _ROUTINE_EXTRAS["brain_volume_ml_last"],
    number("thalamus_ml_last", "volume of both thalami, last scan of the last 36 months", "mL", 5, 25, "mri"),
    number("brain_change_pct_y_last", "brain volume change a year, last scan of the last 36 months", "%/year", -5, 3, "mri"),
)
OCT: Final = (
    number("prnfl_um_last", "nerve fibre layer, last of the last 36 months, mean of the eyes", "um", 30, 150, "oct"),
    number("gcipl_um_last", "ganglion cell layer, last of the last 36 months, mean of the eyes", "um", 30, 110, "oct"),
    number("gcipl_gap_um", "ganglion cell layer: difference of the two eyes, either way", "um", 0, 40, "oct"),
    number("gcipl_um_y", "ganglion cell layer: slope of the last 36 months, within eye and device", "um/year", -5, 5, "oct"),
)
EVOKED: Final = (
    number("vep_p100_ms_last", "visual evoked potential: P100 of the worse eye", "ms", 70, 250, "evoked_potentials"),
    flag("vep_absent_last", "no visual evoked potential in an eye, at its last examination", "evoked_potentials"),
    number("mep_leg_cct_ms_last", "central motor conduction, worse leg", "ms", 0, 60, "evoked_potentials"),
    flag("mep_leg_absent_last", "no motor evoked potential in a leg, at its last examination", "evoked_potentials"),
)
FLUIDS: Final = (
    _ROUTINE_EXTRAS["nfl_z_last"],
    number("gfap_z_last", f"{ANALYTES['gfap'][0]} for age and body mass, last of the last 36 months", "SD", -6, 10, "biomarkers"),
)
QUESTIONNAIRES: Final[Mapping[str, str]] = {
    "msis_physical_last": "MSIS29_phys", "msis_psychological_last": "MSIS29_psych", "fsmc_last": "FSMC", "mfis_last": "MFIS",
}  # fmt: skip
PROMS: Final = tuple(
    number(name, f"{INSTRUMENTS[code][0]}, last total", "score", INSTRUMENTS[code][1].low, INSTRUMENTS[code][1].high, "proms")
    for name, code in QUESTIONNAIRES.items()
)
WEARABLES: Final = (
    number("gait_speed_ms_12w", "walking speed, median of the last 12 weeks", "m/s", 0, 3, "wearables"),
    number("steps_day_12w", "steps a day, median of the last 12 weeks; 20000 stands for more", "1/day", 0, 20000, "wearables"),
    number(
        "wearable_weeks_12w", "share of the last 12 weeks with a measurement, if there ever was one", "share", 0, 1, "wearables"
    ),
)
# Nothing says when somebody was genotyped. The genotype is as old as the patient; that it was looked for is not: no input says it.
GENETICS: Final = tuple(
    replace(column, masked=False)
    for column in (
        number("hla_drb1_1501", "copies of HLA-DRB1*15:01", "copies", 0, 2, "genetics"),
        number("prs_risk", "polygenic score of risk", "SD", -8, 8, "genetics"),
        number("prs_severity", "polygenic score of severity", "SD", -8, 8, "genetics"),
        number("rs10191329_a", "copies of the allele A of rs10191329 (severity)", "copies", 0, 2, "genetics"),
    )
)


def _standard(column: Column, centre: float, spread: float) -> Column:
    """With a public standard: 80 columns would cost the describe round nine times the noise of one."""
    return replace(column, centre=centre, spread=spread)


def _visit(step: int) -> tuple[Column, ...]:
    """What is known of one visit, 1 = the last. Typical values: tables of measures of the data contract's sources."""
    of = f"visit {step} from the end"
    found = (
        _standard(number(f"v{step}_days", f"{of}: days before the day of prediction", "days", 0, 1096), 365, 365),
        _standard(number(f"v{step}_edss", f"{of}: EDSS", "points", 0, 10), 2.5, 2),
        replace(flag(f"v{step}_relapse", f"{of}: a relapse began since the visit before", "relapses"), masked=False),
        replace(flag(f"v{step}_dmt", f"{of}: on a therapy", "treatments"), masked=False),
        replace(flag(f"v{step}_high", f"{of}: on a therapy of the class high or induction", "treatments"), masked=False),
        _standard(number(f"v{step}_t25fw_s", f"{of}: timed walk; {SLOWEST_S} stands for more", "s", 2, SLOWEST_S), 6, 5),
        _standard(number(f"v{step}_sdmt_n", f"{of}: symbol digit test", "count", 0, 110), 50, 12),
        _standard(number(f"v{step}_new_t2", f"{of}: new T2 lesions since the visit before", "count", 0, MOST_NEW_T2, "mri"), 1, 2),
        _standard(number(f"v{step}_gd", f"{of}: lesions with contrast since the visit before", "count", 0, MOST_GD, "mri"), 0.5, 1),
    )
    return found


VISITS: Final = tuple(column for step in range(1, STEPS + 1) for column in _visit(step))
MODALITIES: Final[Mapping[str, tuple[Column, ...]]] = {
    "mri": MRI, "oct": OCT, "ep": EVOKED, "fluids": FLUIDS, "proms": PROMS, "wearables": WEARABLES, "genetics": GENETICS,
}  # fmt: skip
GROUPS: Final[Mapping[str, tuple[Column, ...]]] = {"core": CORE, **MODALITIES, "visits": VISITS}  # names in a lead's columns
ALL_EXTRAS: Final = tuple(column for group in MODALITIES.values() for column in group)
TABLES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "mri": ("mri",), "oct": ("oct",), "ep": ("evoked_potentials",), "fluids": ("biomarkers",), "proms": ("proms",),
    "wearables": ("wearables",), "genetics": ("genetics",), "visits": ("visits", "relapses", "treatments", "mri"),
}  # fmt: skip


def tables_for(columns: Iterable[Column]) -> tuple[str, ...]:
    """Tables that the inputs beside routine care among `columns` are made of."""
    names = {column.name for column in columns}
    wanted = (group for group in TABLES_OF if names & {column.name for column in GROUPS[group]})
    return tuple(dict.fromkeys(table for group in wanted for table in TABLES_OF[group]))


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """`names` of columns, each name of a group replaced with its columns', each column once."""
    parts = ([column.name for column in GROUPS[name]] if name in GROUPS else [name] for name in names)
    return tuple(dict.fromkeys(name for part in parts for name in part))


def with_modalities(names: tuple[str, ...], modalities: Iterable[str]) -> tuple[str, ...]:
    """Columns `names` and those of the groups. `ContractError` naming the known groups; () stays (), which is all columns."""
    groups = tuple(modalities)
    if strange := [name for name in groups if name not in GROUPS]:
        raise ContractError(f"no modality is called {strange[0]!r}; known: {', '.join(GROUPS)}")
    return expanded((*names, *groups)) if names else ()
