"""Killed, out of disk, or stopped between any two system calls: epsilon never falls and nothing acted upon is lost."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from privacy.entries import Recovered
from privacy.errors import LedgerError
from privacy.ledger import Ledger, head_path, read_entries
from privacy.verify import verify_ledger

from .conftest import DELTA, KEY, NOW, SPLIT, TRAIN, details, make_ledger

ROOT = Path(__file__).resolve().parents[2]
GOLDEN_RECOVERED = "2c73236d18096b23511bf9836f3b389c96e128d7a156177d6ee79e251347219c"  # SHA-256 of the golden ledger after the cut

# Appends for ever; says each round's number only after `spend` returned, as a guard trains only then.
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from consortium.identity import SigningKey
from privacy.entries import SpendDetails
from privacy.events import GaussianEvent, Spend
from privacy.ledger import Ledger
now = datetime(2026, 11, 21, tzinfo=UTC)
ledger = Ledger.open(Path(sys.argv[1]), SigningKey.from_seed(bytes(range(32))), now)
number = ledger.last_round(bytes(32))
while True:
    number += 1
    what = SpendDetails("run-k", bytes(32), number, "train", 1e-5, "s", 0.25, 20, 400.0, "all/1", "grid/1", "0.1.0", bytes(32))
    ledger.spend(what, (Spend(GaussianEvent(50.0), "train"),), now)
    print(number, flush=True)
"""


@pytest.fixture
def killed_writer() -> Callable[[Path, float], int]:
    """Runs the writer, kills it -9 after some milliseconds of appending; the last round that it trained."""

    def run(path: Path, delay_s: float) -> int:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read()
        writer.wait()
        # The last line may itself be torn by the kill: whole ones count.
        return int((first + rest).decode().rpartition("\n")[0].split()[-1])

    return run


def test_kill_at_random_instants_loses_no_spend(tmp_path: Path, killed_writer: Callable[[Path, float], int]) -> None:
    path = make_ledger(tmp_path)
    epsilon = 0.0
    for delay_s in (0.0, 0.003, 0.011, 0.023, 0.041):
        trained = killed_writer(path, delay_s)
        with Ledger.open(path, KEY, NOW) as ledger:
            assert ledger.last_round(bytes(32)) in (trained, trained + 1)  # one more may be booked, never one fewer
            assert ledger.epsilon(DELTA) > epsilon
            epsilon = ledger.epsilon(DELTA)
        assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).problems == ()


class Crash(BaseException):
    """The process ends here: no handler may catch it."""


def crash_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """From now on, the `calls`-th call that touches the disk is the last; a write then leaves half of its bytes."""
    count = 0
    real = {name: getattr(os, name) for name in ("pwrite", "fsync", "ftruncate")}

    def dying(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count > calls:
                if name == "pwrite" and count == calls + 1:
                    handle, data, at = arguments
                    real["pwrite"](handle, data[: len(data) // 2], at)  # type: ignore[index, arg-type]
                raise Crash
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(f"privacy.ledger.os.{name}", dying(name))


@pytest.mark.parametrize("calls", range(5))
def test_a_crash_between_any_two_disk_calls_of_an_append_is_safe(tmp_path: Path, calls: int) -> None:
    path = make_ledger(tmp_path, rounds=2)
    ledger = Ledger.open(path, KEY, NOW)
    before, returned = ledger.epsilon(DELTA), False
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, calls)
        try:
            ledger.spend(details(3), (TRAIN,), NOW)
            returned = True
        except Crash:
            pass
    ledger.close()
    assert returned == (calls == 4)
    with Ledger.open(path, KEY, NOW) as again:
        assert again.epsilon(DELTA) >= before
        assert again.last_round(details(1).plan_digest) == (2 if calls == 0 else 3)  # whole lines count, torn ones never acted
        entries, torn = read_entries(path.read_bytes(), KEY.public)
        assert torn == b""
        assert isinstance(entries[-1].content, Recovered) == (calls == 0)


def test_a_torn_line_is_cut_off_and_the_cut_is_recorded(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    with path.open("ab") as file:
        file.write(b'{"body":{"clip":0.25')
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 3
        ledger.spend(details(2), (TRAIN,), NOW)
    entries, _ = read_entries(path.read_bytes(), KEY.public)
    assert isinstance(entries[2].content, Recovered)
    assert entries[2].content.removed_bytes == 20
    assert any("torn write" in remark for remark in verify_ledger(path.read_bytes()).remarks)


def torn_after(path: Path, rest: bytes) -> None:
    with path.open("ab") as file:
        file.write(rest)


@pytest.mark.parametrize("zeros", [1, 600, 70_000])
def test_a_line_whose_end_reached_the_disk_before_its_beginning_is_a_torn_write(tmp_path: Path, zeros: int) -> None:
    """A power cut may keep the last block of a line, newline and all, and lose the block before it."""
    path = make_ledger(tmp_path, rounds=2)
    torn_after(path, bytes(zeros) + b'"time":"2026-11-21T09:30:00Z"}\n')
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.last_round(details(1).plan_digest) == 2
        ledger.spend(details(3), (TRAIN,), NOW)
    entries, rest = read_entries(path.read_bytes(), KEY.public)
    cut = entries[3].content
    assert isinstance(cut, Recovered)
    assert (cut.removed_bytes, rest) == (zeros + 31, b"")
    assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).problems == ()


@pytest.mark.parametrize("kept", [0, 1, 100, 511])
def test_a_real_line_with_its_first_block_lost_is_a_torn_write(tmp_path: Path, kept: int) -> None:
    path = make_ledger(tmp_path, rounds=1)
    before, head = path.read_bytes(), head_path(path).read_bytes()
    with Ledger.open(path, KEY, NOW) as ledger:
        line = ledger.spend(details(2), (TRAIN,), NOW).line
    lost = line[:kept] + bytes(512 - kept) + line[512:] + b"\n"
    path.write_bytes(before + lost)
    head_path(path).write_bytes(head)  # the append had not come as far as the head
    with Ledger.open(path, KEY, NOW) as ledger:
        assert (ledger.entries, ledger.last_round(details(1).plan_digest)) == (3, 1)


def test_the_golden_ledger_recovers_from_a_torn_line_to_exactly_these_bytes(tmp_path: Path) -> None:
    golden = ROOT / "tests" / "vectors" / "privacy" / "ledger.jsonl"
    path, torn = tmp_path / "ledger.jsonl", bytes(300) + b'"}\n'
    path.write_bytes(golden.read_bytes() + torn)
    head_path(path).write_bytes(head_path(golden).read_bytes())
    Ledger.open(path, KEY, NOW).close()
    last = json.loads(path.read_bytes().removeprefix(golden.read_bytes()))
    assert last["body"] == {"removed_bytes": 303, "removed_sha256": hashlib.sha256(torn).hexdigest()}
    assert (last["kind"], last["index"], last["time"]) == ("recovered", 8, "2026-11-21T09:30:00Z")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN_RECOVERED


def test_damage_to_a_line_that_the_head_knows_is_never_taken_for_a_torn_write(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + bytes(100) + lines[-1][100:])
    for rest in (b"", bytes(50) + b"}\n"):
        torn_after(path, rest)
        with pytest.raises(LedgerError, match="cannot be read"):
            Ledger.open(path, KEY, NOW)
    assert len(path.read_bytes()) > sum(map(len, lines))  # nothing was cut off


@pytest.mark.parametrize("rest", [b"\0}\n\0}\n", b"\0}\n{", b"[]\n"])
def test_what_one_append_cannot_leave_behind_is_damage(tmp_path: Path, rest: bytes) -> None:
    path = make_ledger(tmp_path, rounds=1)
    torn_after(path, rest)
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, KEY, NOW)
    assert caught.value.entry == 2


def test_a_damaged_line_beside_a_damaged_head_slot_is_damage(tmp_path: Path) -> None:
    """The slot was being written, so the line had been synchronised: it was whole once."""
    path = make_ledger(tmp_path, rounds=2)
    head = bytearray(head_path(path).read_bytes())
    head[0] ^= 1  # entry 2: the first slot
    head_path(path).write_bytes(bytes(head))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + bytes(100) + lines[-1][100:])
    with pytest.raises(LedgerError, match="entry 2"):
        Ledger.open(path, KEY, NOW)


def failing(error: int, times: int, real: Callable[..., object]) -> Callable[..., object]:
    left = times

    def call(*arguments: object) -> object:
        nonlocal left
        if left:
            left -= 1
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    return call


def test_a_full_disk_refuses_the_round_and_leaves_the_ledger_whole(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.spend(details(1), (TRAIN,), NOW)
    whole = ledger.path.read_bytes()
    real = os.pwrite

    def half_then_full(handle: int, data: bytes, at: int) -> int:
        if at >= len(whole) + 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data[:100], at)

    monkeypatch.setattr("privacy.ledger.os.pwrite", half_then_full)
    with pytest.raises(LedgerError, match="disk is full") as caught:
        ledger.spend(details(2), (TRAIN,), NOW)
    assert caught.value.entry == 2
    assert ledger.path.read_bytes() == whole
    monkeypatch.undo()
    assert ledger.spend(details(2), (TRAIN,), NOW).index == 2  # space was freed: the guard goes on


def test_room_is_tried_beside_the_ledger_and_leaves_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, beside = ledger.path.read_bytes(), sorted(ledger.path.parent.iterdir())
    ledger.check_room()
    monkeypatch.setattr("privacy.ledger.os.pwrite", failing(errno.ENOSPC, 1, os.pwrite))
    with pytest.raises(LedgerError, match="free some space"):
        ledger.check_room()
    monkeypatch.undo()
    ledger.check_room()
    assert (ledger.path.read_bytes(), sorted(ledger.path.parent.iterdir())) == (whole, beside)
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.check_room()


def test_a_write_that_writes_nothing_is_a_full_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.ledger.os.pwrite", lambda *_: 0)
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.spend(details(1), (TRAIN,), NOW)


def test_after_a_failed_fsync_only_reopening_helps(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.ledger.os.fsync", failing(errno.EIO, 1, os.fsync))
    with pytest.raises(LedgerError, match="no release"):
        ledger.spend(details(1), (TRAIN,), NOW)
    with pytest.raises(LedgerError, match="open it again"):
        ledger.spend(details(1), (TRAIN,), NOW)
    ledger.close()
    with Ledger.open(ledger.path, KEY, NOW) as again:
        assert again.entries == 1
        assert again.spend(details(1), (TRAIN,), NOW).index == 1


def test_a_line_that_cannot_be_taken_back_stops_the_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.ledger.os.pwrite", failing(errno.ENOSPC, 1, os.pwrite))
    monkeypatch.setattr("privacy.ledger.os.ftruncate", failing(errno.EIO, 1, os.ftruncate))
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.spend(details(1), (TRAIN,), NOW)
    with pytest.raises(LedgerError, match="could not be taken back"):
        ledger.spend(details(1), (TRAIN,), NOW)


def test_an_entry_whose_head_failed_still_counts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.pwrite, 0

    def second_fails(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("privacy.ledger.os.pwrite", second_fails)
    with pytest.raises(LedgerError, match="entry stands"):
        ledger.spend(details(1), (TRAIN,), NOW)
    monkeypatch.undo()
    assert ledger.last_round(details(1).plan_digest) == 1
    with pytest.raises(LedgerError, match="open it again"):
        ledger.spend(details(2), (TRAIN,), NOW)
    ledger.close()
    with Ledger.open(ledger.path, KEY, NOW) as again:
        assert again.last_round(details(1).plan_digest) == 1


@pytest.mark.parametrize("calls", range(12))
def test_a_crash_while_a_ledger_is_made_never_blocks_the_next_attempt(tmp_path: Path, calls: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, calls)
        with contextlib.suppress(Crash):
            make_ledger(tmp_path)
    path = tmp_path / "ledger.jsonl"
    if not path.exists():
        make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 1


@pytest.mark.parametrize(("call", "words"), [("fsync", "durable"), ("pread", "cannot read"), ("fstat", "cannot read")])
def test_a_disk_that_fails_while_opening_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, words: str
) -> None:
    path = make_ledger(tmp_path)
    monkeypatch.setattr(f"privacy.ledger.os.{call}", failing(errno.EIO, 1, getattr(os, call)))
    with pytest.raises(LedgerError, match=words):
        Ledger.open(path, KEY, NOW)
    monkeypatch.undo()
    Ledger.open(path, KEY, NOW).close()


@pytest.mark.parametrize("call", ["link", "fsync"])
def test_a_disk_that_fails_while_creating_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(f"privacy.ledger.os.{call}", failing(errno.EIO, 1, getattr(os, call)))
    with pytest.raises(LedgerError, match="cannot"):
        make_ledger(tmp_path)
    monkeypatch.undo()
    assert make_ledger(tmp_path).exists()


def test_a_file_too_large_to_be_a_ledger_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_ledger(tmp_path)
    monkeypatch.setattr("privacy.ledger.LEDGER_MOST", 100)
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.open(path, KEY, NOW)


def test_an_unreadable_leftover_head_is_reported(tmp_path: Path) -> None:
    head_path(tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(LedgerError, match="cannot read"):
        make_ledger(tmp_path)


def test_two_creators_at_once_make_one_ledger(tmp_path: Path) -> None:
    handle = os.open(tmp_path / "ledger.jsonl.new", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(LedgerError, match="in use"):
        make_ledger(tmp_path)
    os.close(handle)
    with Ledger.open(make_ledger(tmp_path), KEY, NOW) as ledger:
        assert ledger.genesis.split_id == SPLIT


def test_room_may_be_asked_for_by_many_at_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as askers:
        list(askers.map(lambda _: ledger.check_room(), range(64)))
    assert not list(ledger.path.parent.glob("*.room"))
