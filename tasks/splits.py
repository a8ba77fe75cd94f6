"""Which side a patient is on, for ever: held out or used for training.

The side depends on the patient's id and the consortium's constant salt only, so one patient is never trained on in one
run and evaluated in another, and the two sides are disjoint populations for the privacy accountant.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ContractError

MIN_SALT_BYTES = 16
PURPOSE = b"wardround/split/1\x00"


def held_out(patient_id: str, salt: bytes, fraction: float) -> bool:
    """Whether the patient is held out: HMAC-SHA256(salt, id) as a fraction of 2^64 is below `fraction` in [0, 1)."""
    _check(salt, fraction)
    tag = hmac.new(salt, PURPOSE + patient_id.encode(), hashlib.sha256).digest()
    return int.from_bytes(tag[:8], "big") < int(fraction * 2**64)


def held_out_mask(patient_ids: Sequence[str], salt: bytes, fraction: float) -> NDArray[np.bool_]:
    """`held_out` for each patient, (n_patients,)."""
    return np.array([held_out(patient, salt, fraction) for patient in patient_ids], dtype=np.bool_)


def _check(salt: bytes, fraction: float) -> None:
    if len(salt) < MIN_SALT_BYTES:
        raise ContractError(f"the split's salt has {len(salt)} bytes, at least {MIN_SALT_BYTES} are needed")
    if not 0.0 <= fraction < 1.0:
        raise ContractError(f"the held-out fraction is {fraction}, it must be in [0, 1)")
