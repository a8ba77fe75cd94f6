"""A run loses at most its unfinished round: the model after each round lies on disk, whole or not at all.

Format, version 1: magic; `pack(plan digest, round, described, trained, evaluated, model, state vectors...)`; SHA-256 of
all before. Model: float32, little-endian, buffers then parameters, exactly the bytes that sites receive; strategy state:
float64. No pickle. A coordinator saves it before it journals the round as done: what was spent is never lost.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consortium.canonical import Bytes, integer, pack_parts, parse_integer, unpack
from consortium.errors import EncodingError
from secagg.model import model_digest as secagg_digest
from server.errors import CheckpointError
from server.folder import sync_directory, write_durably

MAGIC = b"wardround checkpoint 1\n"
CHECKSUM_SIZE = 32
KEEP = 3
PATTERN = "round-*.checkpoint"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state after `round`: `model` float32 (model_size,), `state` the strategy's float64 vectors (n_parameters,).

    `described`, `trained`, `evaluated`: rounds of each purpose that went into it.
    """

    plan_digest: bytes
    round: int
    described: int
    trained: int
    evaluated: int
    model: NDArray[np.float32]
    state: tuple[NDArray[np.float64], ...]

    def __repr__(self) -> str:
        return f"Checkpoint(round={self.round}, trained={self.trained}, values={self.model.size})"  # never the weights

    def encode(self) -> bytes:
        return b"".join(self.parts())

    def parts(self) -> Iterator[Bytes]:
        """The bytes of `encode` piece by piece; vectors are not copied."""
        vectors = [_bytes_of(np.ascontiguousarray(vector, dtype="<f8")) for vector in self.state]
        counts = [integer(count) for count in (self.round, self.described, self.trained, self.evaluated)]
        checksum = hashlib.sha256()
        for part in (MAGIC, *pack_parts(self.plan_digest, *counts, model_view(self.model), *vectors)):
            checksum.update(part)
            yield part
        yield checksum.digest()

    @classmethod
    def decode(cls, whole: Bytes) -> "Checkpoint":
        """Strict inverse of `encode`; raises `CheckpointError`."""
        data = memoryview(whole)
        payload, checksum = data[:-CHECKSUM_SIZE], data[-CHECKSUM_SIZE:]
        if payload[: len(MAGIC)] != MAGIC:
            raise CheckpointError("not a checkpoint of version 1")
        if hashlib.sha256(payload).digest() != checksum:
            raise CheckpointError("checksum does not match: file cut short or altered")
        try:
            fields = unpack(payload[len(MAGIC) :])
            number, described, trained, evaluated = (parse_integer(field) for field in fields[1:5])
        except (EncodingError, ValueError) as error:  # ValueError: fewer than four counts
            raise CheckpointError(f"not a checkpoint: {error}") from error
        if len(fields) < 6:
            raise CheckpointError(f"{len(fields)} fields, expected at least 6")
        state = tuple(_vector(field, "<f8").astype(np.float64, copy=False) for field in fields[6:])
        return cls(fields[0], number, described, trained, evaluated, model_from_bytes(fields[5]), state)


def model_bytes(model: NDArray[np.float32]) -> bytes:
    """The model as it goes to the sites: float32, little-endian, buffers then parameters."""
    return np.ascontiguousarray(model, dtype="<f4").tobytes()


def model_view(model: NDArray[np.float32]) -> memoryview:
    """`model_bytes` without a copy: the model's own memory, read only."""
    return _bytes_of(np.ascontiguousarray(model, dtype="<f4"))


def _bytes_of(vector: NDArray[np.generic]) -> memoryview:
    return vector.view(np.uint8).data.toreadonly()


def model_from_bytes(data: bytes) -> NDArray[np.float32]:
    """Inverse of `model_bytes`, (model_size,); raises `CheckpointError` on a broken length or values that are not finite."""
    model = _vector(data, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(model).all():
        raise CheckpointError("the model holds values that are not finite")
    return model


def model_digest(model: NDArray[np.float32]) -> bytes:
    """32 bytes that name a model in journal, receipts and registry; the digest that sites and masks are bound to."""
    return secagg_digest(model_view(model))


@dataclass(frozen=True)
class Found:
    """The newest usable checkpoint and one sentence for each newer file that was not."""

    checkpoint: Checkpoint | None
    skipped: tuple[str, ...]


def save_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int = KEEP) -> Path:
    """Durable when this returns; the last `keep` stay. Raises `CheckpointError` if the disk refuses."""
    if keep < 1:
        raise CheckpointError(f"keep is {keep}, at least one checkpoint must stay")
    path = directory / f"round-{checkpoint.round:010d}.checkpoint"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_durably(path, checkpoint.parts())
        for old in _files(directory)[keep:]:
            old.unlink()
        sync_directory(directory)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror}; free some space and resume") from error
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint; raises `CheckpointError` naming the file."""
    try:
        return Checkpoint.decode(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error


def latest_checkpoint(directory: Path, plan_digest: bytes, *, model_size: int) -> Found:
    """The newest checkpoint of this plan that is whole; damaged ones are passed over, each with a sentence.

    `checkpoint` is None where there is no usable one. A checkpoint of another plan is an error, not something to skip.
    """
    skipped: list[str] = []
    for path in _files(directory):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            skipped.append(f"{error}; falling back to the one before")
            continue
        if checkpoint.plan_digest != plan_digest:
            raise CheckpointError(f"{path.name} belongs to plan {checkpoint.plan_digest.hex()[:16]}: wrong folder")
        if checkpoint.model.size != model_size:
            raise CheckpointError(f"{path.name} holds {checkpoint.model.size} values, the plan's model {model_size}")
        return Found(checkpoint, tuple(skipped))
    return Found(None, tuple(skipped))


def _files(directory: Path) -> Sequence[Path]:
    """Newest round first."""
    return sorted(directory.glob(PATTERN), reverse=True)


def _vector(data: bytes, kind: str) -> NDArray[np.generic]:
    try:
        return np.frombuffer(data, dtype=kind)
    except ValueError as error:
        raise CheckpointError(f"vector of {len(data)} bytes is not a whole number of values") from error
