"""A bounded vector per patient, summed over patients, noised: the one way by which anything computed on patients leaves.

Every patient's vector is clipped to an L2 bound, rounded to the integer grid bound/2^grid_bits and summed exactly in int64; the
noise is an integer Gaussian from a CSPRNG, so no floating-point pattern of the sum survives it (Mironov 2012; `privacy`).
Removing one patient moves the integer sum by at most 2^grid_bits + sqrt(d)/2, which the noise's scale includes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.errors import Refused
from privacy.noise import gaussian_grid, sensitivity_factor

Entropy = Callable[[int], bytes]
FloatMatrix = NDArray[np.float64]
FloatVector = NDArray[np.float64]
GridVector = NDArray[np.int64]
NORM_LEAST, NORM_MOST = 2.0**-100, 2.0**100  # far from where a double loses digits: a rounded step would be another bound


@dataclass(frozen=True)
class Bound:
    """`norm`: the L2 bound of one patient's vector; the grid has 2^grid_bits steps per bound."""

    norm: float
    grid_bits: int

    def __post_init__(self) -> None:
        if not NORM_LEAST <= self.norm <= NORM_MOST:
            raise Refused("POLICY", f"a bound of {self.norm:g} per patient is outside [2^-100, 2^100]: no exact grid exists for it")

    @property
    def step(self) -> float:
        return self.norm / float(1 << self.grid_bits)


def clipped_grid_sum(rows: FloatMatrix, bound: Bound) -> GridVector:
    """Sum over patients of `rows` (n_patients, d), each clipped to `bound.norm` and put on the grid; shape (d,).

    A row with a value that is not finite contributes nothing: one broken record must not reveal itself by poisoning the sum.
    """
    finite = np.asarray(np.isfinite(rows).all(axis=1), dtype=np.bool_)
    safe = np.where(finite[:, None], rows, 0.0).astype(np.float64)
    largest = np.abs(safe).max(axis=1, initial=0.0)
    unit = safe / np.where(largest > 0, largest, 1.0)[:, None]  # scaled first: squares of huge values must not overflow
    with np.errstate(over="ignore"):  # an infinite norm makes the row zero
        norms = largest * np.sqrt(np.square(unit).sum(axis=1))
    factors = np.divide(bound.norm, norms, out=np.ones_like(norms), where=norms > bound.norm)
    grid: GridVector = np.rint(safe * (factors / bound.step)[:, None]).astype(np.int64)
    return np.asarray(grid.sum(axis=0, dtype=np.int64))


def noised(grid_sum: GridVector, *, noise_multiplier: float, bound: Bound, entropy: Entropy) -> GridVector:
    """`grid_sum` plus integer Gaussian noise of `noise_multiplier` bounds; shape (d,), in grid steps as `grid_sum`."""
    std = noise_multiplier * 2**bound.grid_bits * sensitivity_factor(grid_sum.size, bound.grid_bits)
    return grid_sum + gaussian_grid(std, grid_sum.size, entropy)
