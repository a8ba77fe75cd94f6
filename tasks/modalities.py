"""Modality drop-out: while a model trains, whole kinds of data are taken from patients by chance, so that it can do without them.

Missing kinds of data are what sites differ by. A model that always saw an OCT has no use for the input that says there is none
(Neverova et al. 2016, ModDrop). A patient's draw depends on the patient, the kind of data and the seed alone: not on who else is
there, so that one patient's contribution stays that patient's own, and not on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.base import Column, Values
from tasks.errors import ContractError

CORE: Final = "clinical"  # never dropped: every site has it, and the days of prediction are made of it
PURPOSE: Final = b"wardround/modality drop-out/1\x00"
MOST_SEED: Final = 64  # bytes, as BLAKE2b's key
DRAW_BYTES: Final = 8


def dropped(values: Values, columns: Sequence[Column], keys: Sequence[bytes], seed: bytes, rate: float) -> Values:
    """`values` (n_rows, n_columns) with kinds of data missing, each of each patient with probability `rate`, 0 <= rate < 1.

    `keys`: of the patient that each row belongs to, (n_rows,); a patient's rows lose the same. `seed`: 1 to 64 bytes, another one
    for each round. A new array, or `values` itself at rate 0. `ContractError` for shapes, a seed or a rate outside this.
    """
    if np.shape(values) != (len(keys), len(columns)):
        raise ContractError(f"drop-out: values of shape {np.shape(values)}, {len(keys)} keys and {len(columns)} columns")
    if not 0.0 <= rate < 1.0:
        raise ContractError(f"drop-out: the rate is {rate}, it must be from 0 to below 1")
    if not 1 <= len(seed) <= MOST_SEED:
        raise ContractError(f"drop-out: the seed has {len(seed)} bytes, it must have 1 to {MOST_SEED}")
    if rate == 0.0:
        return values
    kinds = [column.modality for column in columns]
    patients = list(dict.fromkeys(keys))
    places = {key: place for place, key in enumerate(patients)}
    owner = np.array([places[key] for key in keys], dtype=np.intp)
    found = values.copy()
    for kind in sorted(set(kinds) - {CORE}):
        lost = _drawn(patients, kind, seed, rate)[owner]
        found[np.ix_(lost, np.array([each == kind for each in kinds]))] = np.nan
    return found


def _drawn(patients: Sequence[bytes], kind: str, seed: bytes, rate: float) -> NDArray[np.bool_]:
    """Which patients lose the kind, (n_patients,): a number of 64 bits of each below `rate`."""
    begun = hashlib.blake2b(PURPOSE + kind.encode() + b"\x00", digest_size=DRAW_BYTES, key=seed)
    digests = bytearray()
    for patient in patients:
        each = begun.copy()
        each.update(patient)
        digests += each.digest()
    threshold = np.uint64(int(rate * 2.0**64))
    return np.asarray(np.frombuffer(bytes(digests), dtype="<u8") < threshold)
