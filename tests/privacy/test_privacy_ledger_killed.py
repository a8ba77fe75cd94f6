"""Real processes, really killed: -9 at every line of the ledger's code, a disk that is really full, two guards at once."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import in_child, kill_at

import privacy.ledger
from privacy.entries import Recovered
from privacy.errors import LedgerError
from privacy.ledger import Ledger, head_path, read_entries
from privacy.verify import verify_ledger

from .conftest import DELTA, KEY, NOW, TRAIN, details, make_ledger

ROOT = Path(__file__).resolve().parents[2]
LINES_MOST = 2_000
OWN = (privacy.ledger.__file__,)


def every_line(folder: Path, prepare: Callable[[Path], None], act: Callable[[Path], None]) -> Iterator[tuple[int, Path, bool]]:
    """Runs `act` on a fresh folder for each line at which it can be killed: (line, folder, whether it came to its end)."""
    for line in range(LINES_MOST):
        place = folder / str(line)
        place.mkdir()
        prepare(place)

        def run(at: int = line, where: Path = place) -> None:
            kill_at(at, OWN)
            act(where)
            sys.settrace(None)
            (where / "trained").touch()  # as a guard trains, once `spend` has returned

        ended = in_child(run)
        assert ended in (0, -signal.SIGKILL)
        yield line, place, ended == 0
        if ended == 0:
            return
        shutil.rmtree(place)
    raise AssertionError("the ledger's code has no end")


def third_round(place: Path) -> None:
    with Ledger.open(place / "ledger.jsonl", KEY, NOW) as ledger:
        ledger.spend(details(3), (TRAIN,), NOW)


@pytest.mark.slow
def test_kill_9_at_every_line_of_opening_and_charging_forgets_nothing(tmp_path: Path) -> None:
    before, seen = 0.0, set[int]()
    for line, place, ended in every_line(tmp_path, lambda place: make_ledger(place, rounds=2) and None, third_round):
        path = place / "ledger.jsonl"
        with Ledger.open(path, KEY, NOW) as ledger:
            last, epsilon = ledger.last_round(details(1).plan_digest), ledger.epsilon(DELTA)
            if last != 3:
                ledger.spend(details(3), (TRAIN,), NOW)
        assert last == 3 or not (place / "trained").exists(), f"line {line}: trained and not charged"
        assert epsilon >= before, f"line {line}: killed later, charged less"
        assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).ok
        before = epsilon
        seen.add(last)
        assert line > 80 or not ended, "fewer lines than opening and charging have: nothing was traced"
    assert seen == {2, 3}


@pytest.mark.slow
def test_kill_9_at_every_line_of_a_recovery_cuts_the_torn_line_off_once(tmp_path: Path) -> None:
    torn = b'{"body":{"clip":0.25'

    def prepare(place: Path) -> None:
        with make_ledger(place, rounds=1).open("ab") as file:
            file.write(torn)

    def reopen(place: Path) -> None:
        Ledger.open(place / "ledger.jsonl", KEY, NOW).close()

    for _, place, _ in every_line(tmp_path, prepare, reopen):
        path = place / "ledger.jsonl"
        reopen(place)
        entries, rest = read_entries(path.read_bytes(), KEY.public)
        assert rest == b""
        assert [type(entry.content) for entry in entries[2:]] in ([Recovered], [])  # killed between the cut and its record
        assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).ok


@pytest.mark.slow
def test_kill_9_at_every_line_of_making_a_ledger_never_blocks_the_next_attempt(tmp_path: Path) -> None:
    for _, place, _ in every_line(tmp_path, lambda place: None, lambda place: make_ledger(place) and None):
        if not (place / "ledger.jsonl").exists():
            make_ledger(place)
        with Ledger.open(place / "ledger.jsonl", KEY, NOW) as ledger:
            assert ledger.entries == 1


@pytest.mark.parametrize("write", [0, 1], ids=["line", "head"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_kill_9_within_a_write_leaves_a_ledger_that_opens(tmp_path: Path, write: int, share: float) -> None:
    path = make_ledger(tmp_path, rounds=2)

    def run() -> None:
        ledger, real, calls = Ledger.open(path, KEY, NOW), os.pwrite, 0

        def dying(handle: int, data: bytes, at: int) -> int:
            nonlocal calls
            calls += 1
            if calls == write + 1:
                real(handle, data[: int(len(data) * share)], at)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(handle, data, at)

        os.pwrite = dying
        ledger.spend(details(3), (TRAIN,), NOW)

    assert in_child(run) == -signal.SIGKILL
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.last_round(details(1).plan_digest) == 2 + write  # a whole line counts, part of one was never acted upon
    assert verify_ledger(path.read_bytes(), KEY.public, head_path(path).read_bytes()).ok


# -- no room ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 100, 700])
def test_a_file_that_may_not_grow_takes_no_charge_and_stays_whole(tmp_path: Path, room: int) -> None:
    """The kernel's own limit on file size, as an administrator or a quota sets it."""
    path = make_ledger(tmp_path, rounds=3)
    whole = path.read_bytes()

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Ledger.open(path, KEY, NOW) as ledger:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, resource.RLIM_INFINITY))
            for _ in range(2):
                with contextlib.suppress(LedgerError):
                    ledger.spend(details(4), (TRAIN,), NOW)
                    os._exit(1)
            assert path.read_bytes() == whole
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            ledger.spend(details(4), (TRAIN,), NOW)  # there is room again: the guard goes on

    assert in_child(run) == 0
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.last_round(details(1).plan_digest) == 4


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from privacy.errors import LedgerError
from privacy.ledger import Ledger
from tests.privacy.conftest import KEY, NOW, TRAIN, details, make_ledger
folder = Path(sys.argv[2])
filler = folder / "filler"
ledger = Ledger.open(make_ledger(folder), KEY, NOW)
filler.write_bytes(bytes(48 * 1024))
number = 0
try:
    while number < 500:
        whole = ledger.path.read_bytes()
        ledger.spend(details(number + 1), (TRAIN,), NOW)
        number += 1
except LedgerError as error:
    assert "disk is full" in str(error), error
assert 0 < number < 500, number
assert ledger.path.read_bytes() == whole
filler.unlink()
ledger.spend(details(number + 1), (TRAIN,), NOW)
ledger.close()
assert Ledger.open(ledger.path, KEY, NOW).last_round(details(1).plan_digest) == number + 1
print("went on after", number)
"""


def own_disk(folder: Path, size: str, *command: str) -> "subprocess.CompletedProcess[str]":
    """`command` with a disk of its own, of this size, mounted on `folder`; needs a kernel that lets users do so."""
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    program = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder), *command]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)


def test_a_disk_that_is_really_full_refuses_the_round_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or own_disk(tmp_path, "64k", "true").returncode:
        pytest.skip("this machine lets nobody mount a small disk; the limit on file size is tested above")
    found = own_disk(tmp_path, "64k", sys.executable, "-c", FULL, str(ROOT), str(tmp_path))
    assert found.stdout.startswith("went on after"), found.stderr


# -- two guards ------------------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from privacy.errors import LedgerError
from privacy.ledger import Ledger
from tests.privacy.conftest import KEY, NOW
try:
    ledger = Ledger.open(Path(sys.argv[2]), KEY, NOW)
except LedgerError as error:
    print("refused:", error, flush=True)
    sys.exit(3)
print("holds", flush=True)
time.sleep(600)
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(ROOT), str(path)], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_on_one_ledger_the_second_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=1)
    whole = path.read_bytes(), head_path(path).read_bytes()
    first = holder(path)
    assert first.stdout is not None
    assert first.stdout.readline() == "holds\n"
    second = holder(path)
    assert second.stdout is not None
    assert "in use by another process" in second.stdout.readline()
    assert second.wait(60) == 3
    assert (path.read_bytes(), head_path(path).read_bytes()) == whole
    first.kill()
    first.wait(60)
    with Ledger.open(path, KEY, NOW) as ledger:
        assert ledger.entries == 2
    for process in (first, second):
        assert process.stdout is not None
        process.stdout.close()
