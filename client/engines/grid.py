"""Gradients clipped and put on the grid of whole steps, and added up without any rounding: order and company change no bit.

A norm is that of the float32 values which are really added. Every product of the clip rounds by 2^-24 and a norm by less than
2^-18 of itself, so a patient is clipped to 1 - 2^-17 of the bound: what enters the sum is never longer than the bound, apart
from the half step of each coordinate that `privacy.noise.sensitivity_factor` charges.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from client.release import Bound

MARGIN = 1.0 - 2.0**-17
CHUNK = 256  # squares added in float32 before float64 takes over: an error of at most 2^-18 in the norm
EXACT_BITS = 24  # whole numbers up to 2^24 are exact in float32
SMALL_BOUND = 2.0**-30  # below, squares may underflow in float32 and are taken in float64


def clip_to_grid(rows: Sequence[Tensor], bound: Bound) -> None:
    """Turns `rows`, one (n, size) float32 for each parameter, into whole grid steps in place, each patient within `bound`.

    A patient with a value that is not finite becomes zero: a broken record must not reveal itself by poisoning the sum.
    """
    squares = _squares(rows, bound)
    broken = ~torch.isfinite(squares)
    factors = steps_per_unit(squares, bound).to(torch.float32).unsqueeze(1)
    for row in rows:
        if bool(broken.any()):
            row[broken] = 0.0
        row.mul_(factors).round_()


def steps_per_unit(squares: Tensor, bound: Bound) -> Tensor:
    """Grid steps for a unit of gradient, (n,), from squared norms (n,) float64; 0 where a norm is not finite."""
    limit = bound.norm * MARGIN
    factors = (limit / squares.sqrt()).clamp_(max=1.0) / bound.step
    return torch.where(torch.isfinite(squares), factors, 0.0)


def sum_of_patients(row: Tensor, grid_bits: int) -> Tensor:
    """The exact sum over patients of whole steps, (size,) from (n, size); whole numbers as float32 or float64."""
    if len(row) << grid_bits <= 1 << EXACT_BITS:  # every partial sum is a whole float32: exact in any order
        return row.new_ones(len(row)) @ row
    return row.sum(dim=0, dtype=torch.float64)


def _squares(rows: Sequence[Tensor], bound: Bound) -> Tensor:
    """Squared norm of each patient, (n,) float64; not finite only where a value is not."""
    total = torch.stack([_squares_of(row) for row in rows]).sum(dim=0)
    odd = ~torch.isfinite(total)
    if bound.norm < SMALL_BOUND:
        odd |= total < SMALL_BOUND**2
    if bool(odd.any()):  # squares that leave the range of float32 stay within that of float64
        total[odd] = torch.stack([row[odd].double().square().sum(dim=1) for row in rows]).sum(dim=0)
    return total


def _squares_of(row: Tensor) -> Tensor:
    whole = row.shape[1] // CHUNK * CHUNK
    found = torch.zeros(len(row), dtype=torch.float64)
    if whole:
        chunks = row[:, :whole].unflatten(1, (-1, CHUNK))
        found += torch.linalg.vector_norm(chunks, dim=2).double().square_().sum(dim=1)
    if whole < row.shape[1]:
        found += torch.linalg.vector_norm(row[:, whole:], dim=1).double().square_()
    return found
