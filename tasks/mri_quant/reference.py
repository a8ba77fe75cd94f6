"""result.json of a run, read strictly: patients are compared with that run's figures, or there is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.errors import ContractError, DataError
from tasks.mri_quant.frame import COVARIATES, MODEL, NAME, Frame, frame_of
from tasks.mri_quant.measures import RATE_MEASURES
from tasks.mri_quant.result import FORMAT
from tasks.result_file import read_part
from tasks.sums import Choice, Floats

KNOWN_VERSIONS: Final = ("1",)
LARGEST: Final = 1e4  # of any figure, in % a year or its square


@dataclass(frozen=True)
class Expected:
    """Of one measure: coefficients (width,), variance between patients, and the error's variance over the public one."""

    beta: Floats
    omega2: float
    kappa: float


@dataclass(frozen=True)
class RateReference:
    """What a run published: how it read scans, and what it found by measure."""

    frame: Frame
    found: Mapping[str, Expected]


def load_reference(path: Path) -> RateReference:
    """From an exported result.json. `DataError` says what it is not."""
    part = read_part(path, task=NAME, holds="rates of MRI measures", written_as=FORMAT, versions=KNOWN_VERSIONS)
    if part.get("measures") == []:
        raise DataError(f"{path} is of a run with too few patients: it holds no rate to compare with")
    try:
        return reference_of(part)
    except (ContractError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: its reference contradicts itself. Export the run again") from error


def reference_of(part: Mapping[str, Any]) -> RateReference:
    """The `reference` of a result; `ContractError`, `KeyError`, `OverflowError`, `TypeError` or `ValueError` if it is none."""
    names, rows, volumes = part["covariates"], part["measures"], part["volumes"]
    if not isinstance(names, list) or not isinstance(rows, list) or not isinstance(volumes, str):
        raise TypeError("covariates or measures that are no list, or volumes without a name")
    if names != [name for name in COVARIATES if name in names]:
        raise ValueError("covariates that there are not, or not in their order")
    known = [measure.name for measure in RATE_MEASURES]
    given = [row["measure"] for row in rows]
    if not given or given != [name for name in known if name in given]:
        raise ValueError("measures that there are not, or not in their order")
    frame = frame_of(Choice(MODEL, {"reference": volumes} if volumes else {}, (*names, *given)))
    found = {
        row["measure"]: Expected(_beta(row["beta"], frame.width), _number(row["omega2"], 0.0), _number(row["kappa"], 1e-3))
        for row in rows
    }
    return RateReference(frame, found)


def _beta(found: Any, width: int) -> Floats:
    numbers = np.array([_number(each, -LARGEST) for each in found])
    if numbers.shape != (width,):
        raise ValueError(f"{numbers.size} coefficients, expected {width}")
    return numbers


def _number(found: Any, least: float) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise TypeError("no number")
    if not least <= found <= LARGEST:
        raise ValueError(f"{found} is not {least} to {LARGEST}")
    return float(found)
