"""Which side a patient is on, for ever: training, validation or test.

The side depends on the patient's id and the consortium's constant salt only, so one patient is never trained on in one
run and evaluated in another, and the sides are disjoint populations. Held-out patients are parted once more: what is looked at
while a model is made comes from the validation half, the final figures from the test half. The accountant counts both halves as
one population, and so too much rather than too little.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

MIN_SALT_BYTES = 16
PURPOSE = b"wardround/split/1\x00"
ROW_PURPOSE = b"wardround/split/rows/1\x00"
NOWHERE: Final = -1
TRAINING: Final = 0
VALIDATION: Final = 1
TEST: Final = 2

Parts = NDArray[np.int8]  # (n_rows,): NOWHERE, TRAINING, VALIDATION or TEST


def held_out(patient_id: str, salt: bytes, fraction: float) -> bool:
    """Whether the patient is held out: HMAC-SHA256(salt, id) as a fraction of 2^64 is below `fraction` in [0, 1)."""
    _check(salt, fraction)
    return _part(_tag(PURPOSE + patient_id.encode(), salt), fraction) != TRAINING


def part_of(patient_id: str, salt: bytes, fraction: float) -> int:
    """TRAINING, VALIDATION or TEST. The half does not depend on `fraction`: a consortium that holds out more moves nobody from the
    validation to the test half."""
    _check(salt, fraction)
    return _part(_tag(PURPOSE + patient_id.encode(), salt), fraction)


def held_out_mask(patient_ids: Sequence[str], salt: bytes, fraction: float) -> NDArray[np.bool_]:
    """`held_out` for each patient, (n_patients,)."""
    return np.array([held_out(patient, salt, fraction) for patient in patient_ids], dtype=np.bool_)


def parts_of(patient_ids: Sequence[str], salt: bytes, fraction: float) -> Parts:
    """`part_of` for each row's patient, (n_rows,): all rows of a patient are on one side."""
    return np.array([part_of(patient, salt, fraction) for patient in patient_ids], dtype=np.int8)


def parts_of_rows(patient_ids: Sequence[str], salt: bytes, fraction: float) -> Parts:
    """The side of each row, by the patient's id and the row's number among the patient's rows, (n_rows,).

    A patient may be on all sides: this is the split that leaks, and it is here to measure what it feigns.
    """
    _check(salt, fraction)
    seen: dict[str, int] = {}
    parts = np.zeros(len(patient_ids), dtype=np.int8)
    for at, patient in enumerate(patient_ids):
        number = seen[patient] = seen.get(patient, 0) + 1
        parts[at] = _part(_tag(ROW_PURPOSE + number.to_bytes(8, "big") + patient.encode(), salt), fraction)
    return parts


def _tag(message: bytes, salt: bytes) -> bytes:
    return hmac.new(salt, message, hashlib.sha256).digest()


def _part(tag: bytes, fraction: float) -> int:
    """Bytes 0 to 7 say whether it is held out, byte 8 which half it is in."""
    if int.from_bytes(tag[:8], "big") >= int(fraction * 2**64):
        return TRAINING
    return TEST if tag[8] & 1 else VALIDATION


def _check(salt: bytes, fraction: float) -> None:
    if len(salt) < MIN_SALT_BYTES:
        raise ContractError(f"the split's salt has {len(salt)} bytes, at least {MIN_SALT_BYTES} are needed")
    if not 0.0 <= fraction < 1.0:
        raise ContractError(f"the held-out fraction is {fraction}, it must be in [0, 1)")
