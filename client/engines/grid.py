"""Gradients clipped and put on the grid of whole steps, and added up without any rounding: order and company change no bit.

A norm is that of the float32 values which are really added. Every product of the clip rounds by 2^-24 and a norm by less than
2^-19 of itself, so a patient is clipped to 1 - 2^-18 of the bound: what enters the sum is never longer than the bound, apart
from the half step of each coordinate that `privacy.noise.sensitivity_factor` charges.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from client.device import Device
from client.release import Bound

MARGIN = 1.0 - 2.0**-18
CHUNK = 256  # squares added in float32, 8 or more sums side by side, before float64 takes over: a norm is off by at most 2^-19
EXACT_BITS = 24  # whole numbers up to 2^24 are exact in float32
SMALL_BOUND = 2.0**-30  # below, squares may underflow in float32 and are taken in float64


def clip_to_grid(rows: Sequence[Tensor], bound: Bound) -> None:
    """Turns `rows`, one (n, size) float32 for each parameter, into whole grid steps in place, each patient within `bound`.

    A patient with a value that is not finite becomes zero: a broken record must not reveal itself by poisoning the sum.
    """
    squares = added([_squares_of(row) for row in rows])
    _scale(rows, squares, bound)


def steps_per_unit(squares: Tensor, bound: Bound) -> Tensor:
    """Grid steps for a unit of gradient, from squared norms in float64, of any shape; 0 where a norm is not finite."""
    factors = (bound.norm * MARGIN / squares.sqrt()).clamp_(max=1.0) / bound.step
    return torch.where(torch.isfinite(squares), factors, 0.0)


class Workspace:
    """Room for the gradients of `patients` patients, used again and again: matrices apart, all vectors in one piece.

    Every pass over a piece has its price, so that pieces are few. Norms are taken chunk by chunk of each piece's `width`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], patients: int) -> None:
        vectors = [name for name, shape in shapes.items() if len(shape) < 2]
        groups = [*([vectors] if vectors else []), *([name] for name, shape in shapes.items() if len(shape) >= 2)]
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        self.pieces = [torch.zeros(patients, sum(sizes[name] for name in group)) for group in groups]
        self._widths = [chunk_width(piece.shape[1]) for piece in self.pieces]
        self.rows: dict[str, Tensor] = {}  # where each parameter's gradients are written, (patients, *shape)
        self._places: dict[str, slice] = {}  # of each parameter in the sums
        start = 0
        for group, piece in zip(groups, self.pieces, strict=True):
            at = 0
            for name in group:
                self.rows[name] = piece[:, at : at + sizes[name]].view(patients, *shapes[name])
                self._places[name] = slice(start + at, start + at + sizes[name])
                at += sizes[name]
            start += piece.shape[1]
        self._norms = torch.zeros(patients, sum(self._chunks()))
        self._sums = torch.zeros(start)

    def rows_on(self, device: Device) -> dict[str, Tensor]:
        """Room of the same shapes on another device."""
        return {name: torch.zeros(row.shape, device=device.name) for name, row in self.rows.items()}

    def new_steps(self) -> Tensor:
        """For `add_to`: whole numbers, far below 2^53."""
        return torch.zeros(len(self._sums), dtype=torch.float64)

    def add_to(self, steps: Tensor, n: int, bound: Bound) -> None:
        """Clips the first `n` patients, puts them on the grid and adds them up; what is written in `rows` is lost."""
        pieces = [piece[:n] for piece in self.pieces]
        parts = self._norms[:n].split(self._chunks(), dim=1)
        for piece, part, width in zip(pieces, parts, self._widths, strict=True):
            torch.linalg.vector_norm(piece.view(n, -1, width), dim=2, out=part)
        _scale(pieces, self._norms[:n].double().square_().sum(dim=1), bound)
        together = max(1, 1 << max(0, EXACT_BITS - bound.grid_bits))  # their partial sums are whole numbers in float32
        for start in range(0, n, together):
            sums = self._sums.split([piece.shape[1] for piece in pieces])
            for piece, place in zip(pieces, sums, strict=True):
                own = piece[start : start + together]
                torch.mm(own.new_ones(1, len(own)), own, out=place.unsqueeze(0))
            steps += self._sums

    def _chunks(self) -> list[int]:
        return [piece.shape[1] // width for piece, width in zip(self.pieces, self._widths, strict=True)]

    def named(self, steps: Tensor) -> dict[str, Tensor]:
        """The sums by parameter, (size,) each."""
        return {name: steps[place] for name, place in self._places.items()}


def _scale(rows: Sequence[Tensor], squares: Tensor, bound: Bound) -> None:
    """Clips and rounds in place; squares that leave the range of float32 are taken again in float64."""
    odd = ~torch.isfinite(squares)
    if bound.norm < SMALL_BOUND:
        odd |= squares < SMALL_BOUND**2
    if bool(odd.any()):
        squares[odd] = added([row[odd].double().square().sum(dim=1) for row in rows])
        broken = ~torch.isfinite(squares)
        for row in rows:
            row[broken] = 0.0
    factors = steps_per_unit(squares, bound).to(torch.float32).unsqueeze(1)
    for row in rows:
        row.mul_(factors).round_()


def added(parts: Sequence[Tensor]) -> Tensor:
    """The parts, (n,) each, added one after the other: a sum over a stack takes an order that depends on n (seen from 5 parts)."""
    return functools.reduce(torch.add, parts)


def _squares_of(row: Tensor) -> Tensor:
    width = chunk_width(row.shape[1])
    return torch.linalg.vector_norm(row.view(len(row), -1, width), dim=2).double().square_().sum(dim=1)


@functools.cache
def chunk_width(size: int) -> int:
    """The largest divisor of `size` that is no longer than a chunk."""
    return max(width for width in range(1, CHUNK + 1) if size % width == 0)
