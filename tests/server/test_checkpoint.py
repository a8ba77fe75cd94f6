"""A checkpoint is whole or it is passed over; its bytes are exactly one encoding."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.checkpoint import (
    MAGIC,
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    model_bytes,
    model_digest,
    model_from_bytes,
    save_checkpoint,
)
from server.errors import CheckpointError

PLAN = b"\x07" * 32


def checkpoint(number: int) -> Checkpoint:
    model = np.array([0.1, -2.0, number], dtype=np.float32)
    return Checkpoint(PLAN, number, 1, number - 1, 0, model, (np.array([1e-9, 2.0]), np.array([np.pi, -1.0])))


def same(left: Checkpoint, right: Checkpoint) -> bool:
    return left.encode() == right.encode()


def test_decoding_gives_back_every_bit() -> None:
    back = Checkpoint.decode(checkpoint(3).encode())
    assert (back.plan_digest, back.round, back.described, back.trained, back.evaluated) == (PLAN, 3, 1, 2, 0)
    assert back.model.dtype == np.float32
    assert back.state[1].tolist() == [np.pi, -1.0]
    assert same(back, checkpoint(3))


def test_bytes_are_as_specified() -> None:
    data = Checkpoint(PLAN, 1, 0, 1, 0, np.array([1.0], dtype=np.float32), ()).encode()
    body = data[len(MAGIC) : -32].hex()
    assert body == (
        "00000006" + "00000020" + "07" * 32 + "00000008" + "00" * 7 + "01" + "00000008" + "00" * 8
        + "00000008" + "00" * 7 + "01" + "00000008" + "00" * 8 + "00000004" + "0000803f"
    )  # fmt: skip
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


@given(st.data())
def test_any_changed_or_missing_byte_is_noticed(data: st.DataObject) -> None:
    good = checkpoint(2).encode()
    at = data.draw(st.integers(0, len(good) - 1))
    broken = data.draw(st.sampled_from([good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good + b"\0"]))
    with pytest.raises(CheckpointError):
        Checkpoint.decode(broken)


@pytest.mark.parametrize("tail", [b"", b"\0\0\0\1\0\0\0\0", b"\0\0\0\6" + b"\0\0\0\0" * 6])
def test_a_right_checksum_over_wrong_fields_is_refused(tail: bytes) -> None:
    payload = MAGIC + tail
    with pytest.raises(CheckpointError):
        Checkpoint.decode(payload + hashlib.sha256(payload).digest())


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "round-0000000001.checkpoint"
    path.write_bytes(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(CheckpointError, match="not a checkpoint of version 1"):
        load_checkpoint(path)


def test_the_newest_whole_checkpoint_wins_and_the_damaged_one_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(9))
    newest = save_checkpoint(tmp_path, checkpoint(10))
    newest.write_bytes(newest.read_bytes()[:-5])
    found = latest_checkpoint(tmp_path, PLAN, model_size=3)
    assert found.checkpoint is not None
    assert found.checkpoint.round == 9
    assert found.skipped == (
        "round-0000000010.checkpoint: checksum does not match: file cut short or altered; falling back to the one before",
    )


def test_without_any_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent", PLAN, model_size=3).checkpoint is None


def test_only_the_last_k_stay(tmp_path: Path) -> None:
    for number in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(number), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0000000004.checkpoint",
        "round-0000000005.checkpoint",
    ]


def test_a_draft_left_by_a_crash_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    (tmp_path / ".round-0000000005.checkpoint.draft").write_bytes(checkpoint(5).encode()[:40])
    found = latest_checkpoint(tmp_path, PLAN, model_size=3)
    assert found.checkpoint is not None
    assert (found.checkpoint.round, found.skipped) == (4, ())


def test_another_plans_checkpoint_is_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    with pytest.raises(CheckpointError, match="wrong folder"):
        latest_checkpoint(tmp_path, b"\x08" * 32, model_size=3)
    with pytest.raises(CheckpointError, match="holds 3 values, the plan's model 4"):
        latest_checkpoint(tmp_path, PLAN, model_size=4)


def test_a_full_disk_is_an_error_with_advice(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(blocked, checkpoint(1))


def test_the_wire_form_of_a_model_is_strict() -> None:
    model = np.array([1.5, -2.0], dtype=np.float32)
    assert model_bytes(model).hex() == "0000c03f000000c0"
    assert model_from_bytes(model_bytes(model)).tolist() == [1.5, -2.0]
    assert model_digest(model) != model_digest(model[::-1])
    for bad in (b"\0\0\0", model_bytes(np.array([np.nan], dtype=np.float32))):
        with pytest.raises(CheckpointError):
            model_from_bytes(bad)


def test_a_checkpoint_never_prints_its_weights() -> None:
    assert repr(checkpoint(3)) == "Checkpoint(round=3, trained=2, values=3)"
