"""From a contract's columns to the model's inputs, with statistics that only ever exist as a noised sum over all sites.

Nothing here is fitted on one site. A numeric column is standardised with the plan's buffers `feature_mean` and
`feature_scale` (contract units), which come from the describe round, or with the contract's own centre and spread; every
other constant is public.

    numeric      (value - mean) / scale, 0 if missing
    binary       -1 or +1, 0 if missing
    categorical  one input per category, all 0 if missing
    any nullable column that is masked: one more input, 1 if missing
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.base import Column, Contract, Values
from tasks.errors import ContractError

STATISTICS_PER_COLUMN = 3
PRODUCT_WEIGHT = 2.8  # of x(1-x); below sqrt(8), so that the three numbers of a column stay within the unit ball
SCALE_FLOOR = 0.05  # smallest standard deviation, as part of the public range
NEUTRAL_SCALE = 0.25  # standard deviation when nothing is known, as part of the public range
MIN_SIGNAL_TO_NOISE = 5.0  # patients with the column present, in units of the noise of that count

Floats = NDArray[np.float64]
Inputs = NDArray[np.float32]  # (n_patients, n_inputs)
NamedShape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Design:
    """How the chosen columns of a contract become model inputs. Public, the same at every site."""

    contract: Contract
    names: tuple[str, ...] | None = None  # the contract's columns in use, in any order; all if None

    def __post_init__(self) -> None:
        if self.names is None:
            return
        chosen = {self.contract.column(name).name for name in self.names}
        if not chosen or len(chosen) != len(self.names):
            raise ContractError(f"columns {', '.join(self.names) or '(none)'}: name each column once, at least one")

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the columns in use stand in `Cohort.values`, always in the contract's order."""
        names = self.contract.column_names
        return tuple(index for index, name in enumerate(names) if self.names is None or name in self.names)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in use, in the contract's order."""
        return tuple(self.contract.columns[index] for index in self.positions)

    @property
    def numeric(self) -> tuple[Column, ...]:
        """The columns that the buffers are of, in order: numeric ones without a public standard."""
        return tuple(column for column in self.columns if _described(column))

    @property
    def n_numeric(self) -> int:
        """Length of each buffer."""
        return len(self.numeric)

    @property
    def input_names(self) -> tuple[str, ...]:
        """A name for every model input, in order."""
        return tuple(name for column in self.columns for name in _input_names(column))

    def inputs_of(self, column: Column) -> tuple[str, ...]:
        """Names of the model inputs that one column becomes, in order."""
        return _input_names(column)

    @property
    def input_modalities(self) -> tuple[str, ...]:
        """The kind of data that each model input comes from."""
        return tuple(column.modality for column in self.columns for _ in _input_names(column))

    @property
    def numeric_inputs(self) -> tuple[int, ...]:
        """Places among the inputs of all standardised numbers, whatever they are standardised with."""
        numbers = {column.name for column in self.columns if column.kind == "numeric"}
        return tuple(place for place, name in enumerate(self.input_names) if name in numbers)

    @property
    def n_inputs(self) -> int:
        """Width of the model's input."""
        return len(self.input_names)

    @property
    def buffer_specs(self) -> tuple[NamedShape, ...]:
        """Name and shape of the plan's buffers; none if no column is numeric."""
        if not self.n_numeric:
            return ()
        return ("feature_mean", (self.n_numeric,)), ("feature_scale", (self.n_numeric,))

    @property
    def n_statistics(self) -> int:
        """Length of the describe vector."""
        return STATISTICS_PER_COLUMN * self.n_numeric

    @property
    def describe_bound(self) -> float:
        """L2 bound of one patient's describe vector: one unit ball per numeric column (1 if there are none)."""
        return math.sqrt(max(self.n_numeric, 1))

    def describe_vectors(self, values: Values) -> Floats:
        """One row per patient, (n_patients, n_statistics), in [0, 1], L2 norm at most `describe_bound`.

        Per numeric column, with x the value scaled to [0, 1] by the public range: (x, 1 - x, 2.8 x(1 - x)); zeros if
        missing. Sums of these give the count, the mean and the variance; their norm is at most 1 because
        x^2 + (1-x)^2 = 1 - 2x(1-x), where (1, x, x^2) would need sqrt(3), that is 1.7 times the noise.
        """
        vectors = np.zeros((len(values), self.n_numeric, STATISTICS_PER_COLUMN))
        for index, (column, numbers) in enumerate(self._numeric_values(values)):
            present = ~np.isnan(numbers)
            low, high = column.limits
            x = np.clip((numbers[present] - low) / (high - low), 0.0, 1.0)
            vectors[present, index] = np.stack([x, 1.0 - x, PRODUCT_WEIGHT * x * (1.0 - x)], axis=1)
        return vectors.reshape(len(values), self.n_statistics)

    def statistics_to_buffers(self, sums: Floats, *, noise_std: float = 0.0) -> tuple[Floats, Floats]:
        """(mean, scale), (n_numeric,) each, from the summed describe vectors (n_statistics,), noised or not.

        `noise_std` is the standard deviation of the noise in each sum. Where noise drowns the count the neutral values
        stand. Means stay in the public range, scales between 1/20 and 1/2 of it, whatever the sums are.
        """
        if np.shape(sums) != (self.n_statistics,):
            raise ContractError(f"statistics have shape {np.shape(sums)}, this design needs ({self.n_statistics},)")
        mean, scale = self.neutral_buffers()
        for index, column in enumerate(self.numeric):
            ones, zeros, products = (float(value) for value in sums[3 * index : 3 * index + 3])
            count = ones + zeros
            if not math.isfinite(count + products) or count < max(2.0, MIN_SIGNAL_TO_NOISE * math.sqrt(2) * noise_std):
                continue
            low, high = column.limits
            x_mean = min(max(ones / count, 0.0), 1.0)
            variance = (ones - products / PRODUCT_WEIGHT) / count - x_mean**2
            x_scale = math.sqrt(min(max(variance, SCALE_FLOOR**2), 0.25))
            mean[index], scale[index] = low + x_mean * (high - low), x_scale * (high - low)
        return mean, scale

    def neutral_buffers(self) -> tuple[Floats, Floats]:
        """(mean, scale) before anything is known: the middle of the public range and a quarter of its width."""
        limits = np.array([column.limits for column in self.numeric], dtype=np.float64).reshape(self.n_numeric, 2)
        return limits.mean(axis=1), NEUTRAL_SCALE * (limits[:, 1] - limits[:, 0])

    def buffer_vector(self, mean: Floats, scale: Floats) -> NDArray[np.float32]:
        """The buffers as they stand at the head of the model vector, (2 * n_numeric,)."""
        return np.concatenate([mean, scale]).astype(np.float32)

    def split_buffers(self, vector: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """(mean, scale), (n_numeric,) each, from the head of a model vector."""
        if len(vector) < 2 * self.n_numeric:
            raise ContractError(f"a model vector of {len(vector)} numbers has no room for {2 * self.n_numeric} buffers")
        mean, scale = np.asarray(vector[: 2 * self.n_numeric], dtype=np.float64).reshape(2, self.n_numeric)
        return mean, scale

    def encode(self, values: Values, mean: Floats, scale: Floats) -> Inputs:
        """Model inputs (n_patients, n_inputs) for `Cohort.values` and the buffers (n_numeric,).

        Means outside the public range and scales outside 1/20 to 1/2 of it are forced into them, so that no
        coordinator can blow up an input: each stays within +-20.
        """
        mean, scale = self._lawful(mean, scale)
        blocks: list[Floats] = []
        numeric = 0
        for column, position in zip(self.columns, self.positions, strict=True):
            numbers = values[:, position]
            missing = np.isnan(numbers)
            if column.standard is not None:
                centre, spread = column.standard
                block = ((numbers - centre) / spread)[:, None]
            elif column.kind == "numeric":
                block = ((numbers - mean[numeric]) / scale[numeric])[:, None]
                numeric += 1
            elif column.kind == "binary":
                block = (2.0 * numbers - 1.0)[:, None]
            else:
                block = (numbers[:, None] == np.arange(len(column.categories))).astype(np.float64)
            blocks.append(np.where(missing[:, None], 0.0, block))
            if _has_mask(column):
                blocks.append(missing[:, None].astype(np.float64))
        return np.concatenate(blocks, axis=1).astype(np.float32)

    def _lawful(self, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
        middle, quarter = self.neutral_buffers()
        if np.shape(mean) != middle.shape or np.shape(scale) != middle.shape:
            raise ContractError(f"buffers {np.shape(mean)} and {np.shape(scale)}, this design needs {middle.shape}")
        mean = np.clip(np.where(np.isfinite(mean), mean, middle), middle - 2.0 * quarter, middle + 2.0 * quarter)
        scale = np.where(np.isfinite(scale), scale, quarter)
        return mean, np.clip(scale, SCALE_FLOOR * quarter / NEUTRAL_SCALE, 0.5 * quarter / NEUTRAL_SCALE)

    def _numeric_values(self, values: Values) -> list[tuple[Column, Floats]]:
        pairs = zip(self.columns, self.positions, strict=True)
        return [(column, values[:, position]) for column, position in pairs if _described(column)]


def _described(column: Column) -> bool:
    return column.kind == "numeric" and column.standard is None


def _has_mask(column: Column) -> bool:
    return column.nullable and column.masked


def _input_names(column: Column) -> tuple[str, ...]:
    names = tuple(f"{column.name}={category}" for category in column.categories) or (column.name,)
    return (*names, f"{column.name} missing") if _has_mask(column) else names
