"""Random numbers that depend on the seed, the site and the purpose alone: another site, or more draws elsewhere, changes none."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Texts = NDArray[np.str_]
Anything = NDArray[Any]


def stream(seed: int, site_id: str, purpose: str) -> np.random.Generator:
    """The generator of one purpose at one site. Nothing here protects anybody: a seed is to be known and repeated."""
    words = np.frombuffer(hashlib.sha256(f"{site_id}\x00{purpose}".encode()).digest(), dtype="<u4")
    return np.random.default_rng(np.random.SeedSequence([seed, *(int(word) for word in words)]))


def gamma_frailty(scores: Floats, shape: float) -> Floats:
    """Gamma with mean 1 whose order is that of the normal `scores`."""
    return np.asarray(special.gammaincinv(shape, special.ndtr(scores)) / shape)


def pairs(left: Integers, right: Integers, n_patients: int) -> tuple[Integers, Integers]:
    """Every (i, j) with left[i] == right[j]; `right`, patients' numbers, is in ascending order."""
    counts = np.bincount(right, minlength=n_patients)
    begins = np.concatenate(([0], np.cumsum(counts)))[:-1]
    repeats = counts[left]
    i = np.repeat(np.arange(left.size), repeats)
    within = np.arange(i.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return i, begins[left[i]] + within
