"""An invented patient from a random stream: the head, the lesions of his years, how fast the brain shrinks."""

from __future__ import annotations

import hashlib

import numpy as np

from tasks.imaging.phantoms_anatomy import make_head
from tasks.imaging.phantoms_lesions import LOSS_PER_YEAR, Patient, make_lesions


def stream(seed: int, site: str, purpose: str) -> np.random.Generator:
    """Random numbers that depend on these three alone: more draws elsewhere change none. They protect nobody.

    As those of `tasks.simulator`, which is not imported for it: it needs pandas, and an image does not.
    """
    words = np.frombuffer(hashlib.sha256(f"{site}\0{purpose}".encode()).digest(), dtype="<u4")
    return np.random.default_rng([seed, *(int(word) for word in words)])


def make_patient(patient_id: str, rng: np.random.Generator, *, until_d: int, volume_ml: float, new_per_year: float) -> Patient:
    """A patient with about `volume_ml` of lesions at day 0 and about `new_per_year` new ones until day `until_d`."""
    head = make_head(rng)
    loss = float(np.clip(rng.normal(*LOSS_PER_YEAR), 0, 0.02))
    lesions = make_lesions(head, rng, volume_ml=volume_ml, until_d=until_d, new_per_year=new_per_year)
    return Patient(patient_id, head, lesions, loss)
