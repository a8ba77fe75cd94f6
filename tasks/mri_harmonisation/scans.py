"""From a hospital's tables to one row of numbers for each scan: its batch, its covariates on that day, its measures.

A row follows from its own patient's rows alone. What is missing is NaN; whether a scan takes part is decided by `usable`, whatever
others have.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise import MRI_MEASURES, Plan, Scans
from tasks.harmonise.plan import AGE_CENTRE, DURATION_CENTRE, EDSS_CENTRE, PHENOTYPES, REFERENCE_PHENOTYPE
from tasks.harmonise.scans import RANGES
from tasks.ms.contract import CONTRACT

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
SEX: Final = ("F", "X", "M")
COVARIATES: Final = ("age_years", "sex", "duration_years", "edss", "phenotype")  # in a row, after the batch
PROTECTS: Final = {"age_years": "age", "sex": "male", "duration_years": "duration", "edss": "edss"}  # as `Plan` names them
MEASURES: Final = tuple(measure.name for measure in MRI_MEASURES)
BATCH: Final = 0
FIRST_COVARIATE: Final = 1
FIRST_MEASURE: Final = FIRST_COVARIATE + len(COVARIATES)
WIDTH: Final = FIRST_MEASURE + len(MEASURES)
NEAR_DAYS: Final = 183  # a score of the EDSS further from the scan than half a year is not that of the scan
DAYS_A_YEAR: Final = 365.25
SEPARATOR: Final = "|"  # between scanner and protocol in the name of a batch
NO_BATCH: Final = -1.0  # scanner or protocol is not known
TOOL: Final = "harmonised"  # stands last in the column `tool` of a scan whose measures are; the reference's name in `tool_version`
NAME_DIGITS: Final = 12  # of a reference's name, after an h: 48 bits, which a float holds
AS_MEASURED: Final = 0.0  # the number of no reference


def batch_name(scanner_id: str, protocol_id: str) -> str:
    """As plans and results name a batch; "" if either is unknown."""
    return f"{scanner_id}{SEPARATOR}{protocol_id}" if scanner_id and protocol_id else ""


def batch_number(name: str) -> float:
    """A whole number that stands for a batch where only numbers fit: 48 bits of SHA-256, so exact in a float."""
    return float(int.from_bytes(hashlib.sha256(b"wardround/mri batch/1" + name.encode()).digest()[:6], "big"))


def reference_number(name: str) -> float:
    """A whole number that stands for the name of a reference; NaN for what is no such name."""
    return float(int(name[1:], 16)) if re.fullmatch(f"h[0-9a-f]{{{NAME_DIGITS}}}", name) else math.nan


def harmonised_measures(name: str) -> tuple[str, ...]:
    """Which measures the reference of this name harmonises; () for what is no such name."""
    number = reference_number(name)
    return () if math.isnan(number) else tuple(each for at, each in enumerate(MEASURES) if int(name[1:3], 16) >> at & 1)


def references_of(scans: pd.DataFrame) -> Floats:
    """By which reference each scan's measures were harmonised, (n_scans,): its number, `AS_MEASURED`, or NaN if nobody can tell."""
    tools, versions = _texts(scans, "tool"), _texts(scans, "tool_version")
    return np.array(
        [
            (reference_number(version.split("+")[-1]) if tool.split("+")[-1] == TOOL else math.nan)
            if TOOL in tool.split("+")  # whoever signed after it may have measured anew, all of it or a part
            else AS_MEASURED
            for tool, version in zip(tools, versions, strict=True)
        ],
        dtype=np.float64,
    )


def scan_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The table `mri` in the order of patient, day and scan, with covariates beside it, and the column `batch`.

    Age is known to a year and a half, for the contract knows three calendar years. EDSS and phenotype are those of the nearest
    visit within `NEAR_DAYS`; without one the phenotype is that at entry, and the EDSS missing.
    """
    import pandas as pd

    mri = tables["mri"].sort_values(["patient_id", "day", "scan_id"], kind="stable").reset_index(drop=True)
    people = tables["patients"].set_index("patient_id")
    of = {name: mri["patient_id"].map(people[name]) if name in people else pd.Series(index=mri.index, dtype=object)
          for name in ("sex", "birth_year", "year_band", "onset_day", "phenotype_entry")}  # fmt: skip
    day = _numbers(mri["day"])
    begin = _numbers(of["year_band"].str[:4]) if of["year_band"].notna().any() else np.full(len(mri), np.nan)
    edss, phenotype = _nearest(mri, tables.get("visits"))
    names = [batch_name(*pair) for pair in zip(_texts(mri, "scanner_id"), _texts(mri, "protocol_id"), strict=True)]
    return mri.assign(
        batch=names,
        age_years=begin + 1.5 + day / DAYS_A_YEAR - _numbers(of["birth_year"]) - 0.5,
        sex=of["sex"],
        duration_years=(day - _numbers(of["onset_day"])) / DAYS_A_YEAR,
        edss=edss,
        phenotype=phenotype.where(phenotype.notna(), of["phenotype_entry"]),
    )


def rows_of(scans: pd.DataFrame) -> Floats:
    """`scan_table` as numbers, (n_scans, WIDTH): batch, covariates, measures, in units of the contract."""
    found = np.full((len(scans), WIDTH), np.nan)
    found[:, BATCH] = [batch_number(name) if name else NO_BATCH for name in scans["batch"]]
    for at, name in enumerate(COVARIATES, start=FIRST_COVARIATE):
        codes = {"sex": SEX, "phenotype": PHENOTYPES}.get(name)
        found[:, at] = _numbers(scans[name]) if codes is None else _codes(scans[name], codes)
    for at, name in enumerate(MEASURES, start=FIRST_MEASURE):
        if name in scans:
            found[:, at] = _numbers(scans[name])
    if "qc" in scans:
        found[(scans["qc"] == "fail").to_numpy(bool), FIRST_MEASURE:] = np.nan
    return found


def measure_limits(name: str) -> tuple[float, float]:
    """The contract's range of a measure, in its unit."""
    limits = next(column.limits for column in CONTRACT.table("mri").columns if column.name == name)
    assert limits is not None, "the contract gives every volume a range"  # noqa: S101 - checked where it is declared
    return limits.low, limits.high


def measured(rows: Floats) -> NDArray[np.bool_]:
    """Which scans have any measure, (n_scans,)."""
    return np.asarray(np.isfinite(rows[:, FIRST_MEASURE:]).any(axis=1))


def usable(rows: Floats, plan: Plan) -> NDArray[np.bool_]:
    """Which scans have every covariate and every measure of the plan within its range, (n_scans,); the batch is not asked."""
    ok = covered(rows, plan)
    for measure in plan.measures:
        low, high = measure_limits(measure.name)
        value = rows[:, FIRST_MEASURE + MEASURES.index(measure.name)]
        ok &= (value >= low) & (value <= high)
    return ok


def covered(rows: Floats, plan: Plan) -> NDArray[np.bool_]:
    """Which scans have every covariate of the plan, (n_scans,)."""
    ok = np.ones(len(rows), dtype=bool)
    for at, name in enumerate(COVARIATES, start=FIRST_COVARIATE):
        value = rows[:, at]
        if name == "phenotype":
            known = [float(PHENOTYPES.index(each)) for each in (REFERENCE_PHENOTYPE, *plan.phenotypes)]
            ok &= np.isin(value, known) if plan.phenotypes else True
        elif PROTECTS[name] in plan.protected:
            low, high = RANGES.get(name, (0.0, float(len(SEX) - 1)))
            ok &= (value >= low) & (value <= high)
    return ok


def as_scans(rows: Floats, plan: Plan, batch: list[str] | NDArray[np.str_]) -> Scans:
    """Rows that are `covered` as `tasks.harmonise` reads them. What the plan does not protect is set to a constant nobody reads."""
    filler = {"age_years": AGE_CENTRE, "sex": 0.0, "duration_years": DURATION_CENTRE, "edss": EDSS_CENTRE}
    columns = {
        name: rows[:, at] if PROTECTS.get(name, "") in plan.protected else np.full(len(rows), filler.get(name, 0.0))
        for at, name in enumerate(COVARIATES, start=FIRST_COVARIATE)
    }
    kinds = np.array(PHENOTYPES)[rows[:, FIRST_COVARIATE + 4].astype(int)] if plan.phenotypes else REFERENCE_PHENOTYPE
    return Scans(
        values=rows[:, [FIRST_MEASURE + MEASURES.index(measure.name) for measure in plan.measures]],
        age_years=columns["age_years"],
        sex=np.array(SEX)[columns["sex"].astype(int)],
        duration_years=columns["duration_years"],
        phenotype=np.broadcast_to(np.asarray(kinds, dtype=object), (len(rows),)),
        edss=columns["edss"],
        batch=np.asarray(batch, dtype=object),
        training=np.ones(len(rows), dtype=bool),
    )


def latest(owners: NDArray[np.intp], chosen: NDArray[np.bool_], at_most: int) -> NDArray[np.bool_]:
    """Of each owner's `chosen` rows the last `at_most`; `owners` (n_rows,) ascending, rows in the order of time."""
    places = np.flatnonzero(chosen)
    _, first, of, counts = np.unique(owners[places], return_index=True, return_inverse=True, return_counts=True)
    kept = np.arange(len(places)) >= (first + counts - at_most)[of]
    found = np.zeros(len(owners), dtype=bool)
    found[places[kept]] = True
    return found


def _nearest(mri: pd.DataFrame, visits: pd.DataFrame | None) -> tuple[Floats, pd.Series]:
    """EDSS (n_scans,) and phenotype (n_scans,) of each scan's nearest visit that has one."""
    import pandas as pd

    left = pd.DataFrame({"patient_id": mri["patient_id"].astype(str), "day": _numbers(mri["day"]), "row": np.arange(len(mri))})
    left = left.sort_values("day", kind="stable")
    found = []
    for name in ("edss", "phenotype"):
        if visits is None or name not in visits or visits[name].notna().sum() == 0 or mri.empty:
            found.append(pd.Series(np.full(len(mri), None, dtype=object)))
            continue
        seen = visits[visits[name].notna()]
        right = pd.DataFrame({"patient_id": seen["patient_id"].astype(str), "day": _numbers(seen["day"])})
        right = right.assign(**{name: seen[name].to_numpy()}).sort_values(["day", name], kind="stable")
        right = right.drop_duplicates(["patient_id", "day"], keep="last")  # of two on one day the worse, whatever the order of rows
        both = pd.merge_asof(left, right, on="day", by="patient_id", direction="nearest", tolerance=float(NEAR_DAYS))
        found.append(both.sort_values("row")[name].reset_index(drop=True))
    return _numbers(found[0]), found[1]


def _texts(table: pd.DataFrame, name: str) -> list[str]:
    if name not in table:
        return [""] * len(table)
    return [cell if isinstance(cell, str) else "" for cell in table[name]]


def _numbers(cells: pd.Series) -> Floats:
    import pandas as pd

    return np.asarray(pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def _codes(cells: pd.Series, codes: tuple[str, ...]) -> Floats:
    places = {code: float(at) for at, code in enumerate(codes)}
    return np.array([places.get(cell, np.nan) if isinstance(cell, str) else np.nan for cell in cells], dtype=np.float64)
