"""Whatever happens to the cache's files, or to the process that writes them, no wrong voxel is ever read from it."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from killing import in_child, kill_at

import tasks.imaging.entries as entries_module
from tasks.imaging.cache import Cache, State
from tasks.imaging.entries import PART, CacheError, entry_key, read_entry, sweep, write_entry, write_whole
from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.imaging.phantoms_scanner import SCANNERS
from tasks.imaging.prepare import Prepared, Recipe
from tasks.imaging.store import Scan, open_store

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe((4.0, 4.0, 4.0), ("FLAIR", "T1w"))
KEY = entry_key({"FLAIR": "ab"}, RECIPE)


def tiny(seed: int = 1) -> Prepared:
    """A scan of 2 x 3 x 2 voxels."""
    rng = np.random.default_rng(seed)
    channels = np.zeros((2, 2, 3, 2), np.float16)
    channels[0] = rng.normal(size=(2, 3, 2))
    return Prepared(channels, np.array([True, False]), rng.random((2, 3, 2)) < 0.4, np.diag([4.0, 4, 4, 1]), 0.5, 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_entry(tmp_path, KEY, tiny(), RECIPE)
    return tmp_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    small = replace(SCANNERS[2], shape=(32, 38, 28), spacing_mm=(5.6, 5.6, 5.6))
    write_site(folder, PhantomSite("one", (small,)), {"P1": (0,), "P2": (0,)}, seed=6)
    return folder / "one"


@pytest.fixture(scope="module")
def scans(site: Path) -> tuple[Scan, ...]:
    return open_store(site).scans


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def is_what_was_written(folder: Path) -> bool:
    found = read_entry(folder, KEY, RECIPE)
    assert found is not None
    patch = found.read()
    return np.array_equal(patch.channels, tiny().channels.astype(np.float32)) and np.array_equal(patch.mask, tiny().mask)


# -- damage -------------------------------------------------------------------------------------------------------------------


def test_an_entry_that_is_whole_is_read(folder: Path) -> None:
    assert is_what_was_written(folder)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_an_entry_cut_short_at_any_length_is_not_read(folder: Path, suffix: str) -> None:
    path = folder / f"{KEY}{suffix}"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert read_entry(folder, KEY, RECIPE) is None, length
    path.write_bytes(content)
    assert is_what_was_written(folder)


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_an_entry_with_one_changed_bit_anywhere_is_not_read(folder: Path, suffix: str) -> None:
    path = folder / f"{KEY}{suffix}"
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        assert read_entry(folder, KEY, RECIPE) is None, at


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_an_entry_with_something_after_its_end_is_not_read(folder: Path, suffix: str) -> None:
    with (folder / f"{KEY}{suffix}").open("ab") as file:
        file.write(b"\n")
    assert read_entry(folder, KEY, RECIPE) is None


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"self": 1}', b"\xff\xfe", b"[" * 60000, b"{" + b" " * 70000 + b"}"]
)
def test_a_description_that_is_none_is_not_read(folder: Path, content: bytes) -> None:
    (folder / f"{KEY}.json").write_bytes(content)
    assert read_entry(folder, KEY, RECIPE) is None


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_half_an_entry_is_none(folder: Path, suffix: str) -> None:
    (folder / f"{KEY}{suffix}").unlink()
    assert read_entry(folder, KEY, RECIPE) is None


def test_a_whole_entry_under_another_name_or_recipe_is_not_read(folder: Path) -> None:
    other = entry_key({"FLAIR": "cd"}, RECIPE)
    for suffix in (".npy", ".json"):
        (folder / f"{other}{suffix}").write_bytes((folder / f"{KEY}{suffix}").read_bytes())
    assert read_entry(folder, other, RECIPE) is None
    assert read_entry(folder, KEY, replace(RECIPE, high=9.0)) is None


def test_the_array_of_another_scan_under_this_name_is_not_read(folder: Path) -> None:
    other = entry_key({"FLAIR": "cd"}, RECIPE)
    write_entry(folder, other, tiny(2), RECIPE)
    (folder / f"{KEY}.npy").write_bytes((folder / f"{other}.npy").read_bytes())  # the same length
    assert read_entry(folder, KEY, RECIPE) is None


def test_a_damaged_entry_is_found_and_made_anew(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    cache = Cache(tmp_path, RECIPE)
    first = cache.fill(scans)
    before = contents(cache.place)
    assert first[1].entry is not None
    with first[1].entry.path.open("r+b") as file:
        file.seek(300)
        file.write(b"\x55")
    assert [outcome.state for outcome in cache.fill(scans)] == [State.KEPT, State.MENDED]
    assert contents(cache.place) == before


def test_an_entry_cut_short_after_the_check_is_refused_when_it_is_read(folder: Path) -> None:
    found = read_entry(folder, KEY, RECIPE)
    assert found is not None
    os.truncate(found.path, 150)
    with pytest.raises(CacheError, match="prepare the scans again"):
        found.read()


def test_an_entry_of_another_shape_than_described_is_refused_when_it_is_read(folder: Path) -> None:
    found = read_entry(folder, KEY, RECIPE)
    assert found is not None
    np.save(found.path, np.zeros((2, 9, 9, 9), np.float16))
    with pytest.raises(CacheError, match="expected"):
        found.read()


# -- killed -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_before_any_line_of_writing_leaves_the_entry_whole_or_absent(tmp_path: Path) -> None:
    line, killed, absent = 0, True, 0
    files = {entries_module.__file__}
    while killed:
        place = tmp_path / str(line)
        place.mkdir()

        def act(place: Path = place, line: int = line) -> None:
            kill_at(line, files)
            write_entry(place, KEY, tiny(), RECIPE)

        killed = in_child(act) == -signal.SIGKILL
        if read_entry(place, KEY, RECIPE) is None:
            absent += 1
        else:
            assert is_what_was_written(place)
        sweep(place)
        assert {path.suffix for path in place.iterdir()} <= {".npy", ".json"}
        write_entry(place, KEY, tiny(), RECIPE)  # and a restart finishes it
        assert is_what_was_written(place)
        line += 1
    assert line > 60  # the trace saw the whole writing
    assert 30 < absent < line


@pytest.mark.slow
def test_killed_before_any_line_of_mending_leaves_no_wrong_entry(tmp_path: Path) -> None:
    line, killed = 0, True
    while killed:
        place = tmp_path / str(line)
        place.mkdir()
        write_entry(place, KEY, tiny(), RECIPE)
        with (place / f"{KEY}.npy").open("r+b") as file:
            file.truncate(100)

        def act(place: Path = place, line: int = line) -> None:
            kill_at(line, {entries_module.__file__})
            write_entry(place, KEY, tiny(), RECIPE)

        killed = in_child(act) == -signal.SIGKILL
        if read_entry(place, KEY, RECIPE) is not None:
            assert is_what_was_written(place)
        line += 3  # every third line: the writing itself is the same


def test_a_filling_that_was_killed_goes_on_where_it_was(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    def act() -> None:
        def done(scan: Scan, outcome: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        Cache(tmp_path, RECIPE).fill(scans, done=done)

    assert in_child(act) == -signal.SIGKILL
    assert [outcome.state for outcome in Cache(tmp_path, RECIPE).fill(scans)] == [State.KEPT, State.MADE]


FILL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import tasks.imaging.cache
from tasks.imaging.cache import Cache
from tasks.imaging.prepare import Recipe
from tasks.imaging.store import open_store
if __name__ == "__main__":
    scans = open_store(Path(sys.argv[1])).scans
    cache = Cache(Path(sys.argv[2]), Recipe((4.0,) * 3, ("FLAIR", "T1w")))
    cache.fill(scans * 200, workers=2, done=lambda *_: print("done", flush=True))
"""


@pytest.fixture
def filling(site: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that fills a cache with two workers."""
    script = tmp_path / "fill.py"
    script.write_text(FILL.format(root=str(ROOT)))
    process = subprocess.Popen(
        [sys.executable, str(script), str(site), str(tmp_path / "cache")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate(timeout=60)


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(filling: "subprocess.Popen[str]") -> None:
    assert filling.stdout is not None
    assert filling.stdout.readline() == "done\n"
    workers = workers_of(filling)
    assert len(workers) == 2
    filling.kill()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert len(gone) == 2
    assert alive == []


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(filling: "subprocess.Popen[str]") -> None:
    assert filling.stdout is not None
    assert filling.stdout.readline() == "done\n"
    workers_of(filling)[0].kill()
    _, err = filling.communicate(timeout=120)
    assert filling.returncode == 1
    assert "run again with fewer workers" in err


def test_a_sweep_leaves_what_a_living_process_writes(tmp_path: Path) -> None:
    handle, living = entries_module._locked_temporary(tmp_path / "entry.npy")
    dead = tmp_path / f".entry.npy.dead{PART}"
    dead.write_bytes(b"half")
    (tmp_path / "entry.npy").write_bytes(b"whole")
    assert sweep(tmp_path) == 1
    assert living.exists()
    assert not dead.exists()
    os.close(handle)
    assert sweep(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["entry.npy"]


def test_a_file_that_a_sweep_took_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def swept_first(handle: int, operation: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(f".*{PART}"))
            taken[0].unlink()

    monkeypatch.setattr(entries_module.fcntl, "flock", swept_first)
    write_whole(tmp_path / "entry", (b"whole",))
    assert taken
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_file_system_without_locks_is_written_to_and_never_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(entries_module.fcntl, "flock", none)
    write_entry(folder, KEY, tiny(), RECIPE)
    assert is_what_was_written(folder)
    (folder / f".entry.npy.dead{PART}").write_bytes(b"half")
    assert sweep(folder) == 0


# -- the disk refuses ---------------------------------------------------------------------------------------------------------

CALLS = ("mkstemp", "write", "fsync", "replace", "sync_folder")


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]  # an open file

        write = refused

    if call == "write":
        real = os.fdopen
        monkeypatch.setattr(entries_module.os, "fdopen", lambda handle, mode: Full(real(handle, mode)))
    elif call == "sync_folder":
        monkeypatch.setattr(entries_module, call, refused)
    elif call == "mkstemp":
        monkeypatch.setattr(entries_module.tempfile, "mkstemp", refused)
    else:
        monkeypatch.setattr(entries_module.os, call, refused)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_refuses_at_any_step_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    left = {f"{KEY}.npy"} if call == "sync_folder" else set()  # renamed; only whether it would outlast a power cut is in doubt
    with monkeypatch.context() as patch:
        refuse(patch, call, code)
        with pytest.raises(CacheError, match="free space on its disk") as caught:
            write_entry(tmp_path, KEY, tiny(), RECIPE)
    assert os.strerror(code) in str(caught.value)
    assert set(contents(tmp_path)) == left
    assert read_entry(tmp_path, KEY, RECIPE) is None
    write_entry(tmp_path, KEY, tiny(), RECIPE)
    assert is_what_was_written(tmp_path)


def test_a_full_disk_while_mending_keeps_the_damage_visible(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / f"{KEY}.npy").open("r+b") as file:
        file.truncate(100)
    with monkeypatch.context() as patch:
        refuse(patch, "write", errno.ENOSPC)
        with pytest.raises(CacheError):
            write_entry(folder, KEY, tiny(), RECIPE)
    assert read_entry(folder, KEY, RECIPE) is None


def test_a_full_disk_stops_the_filling_and_keeps_what_is_finished(
    tmp_path: Path, scans: tuple[Scan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = entries_module.os.fsync, []

    def second_array(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(entries_module.os, "fsync", second_array)
    with pytest.raises(CacheError, match="No space left"):
        Cache(tmp_path, RECIPE).fill(scans)
    monkeypatch.undo()
    assert [outcome.state for outcome in Cache(tmp_path, RECIPE).fill(scans)] == [State.KEPT, State.MADE]


@pytest.mark.slow
def test_a_small_disk_that_fills_up_leaves_no_half_entry(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    """A file system of 256 KiB, if this account may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this account cannot mount a file system: run as root to fill a real one")
    try:
        with pytest.raises(CacheError, match="No space left"):
            Cache(place, RECIPE).fill([replace(scan, mask=mask) for mask in (scans[0].mask, None) for scan in scans])
        left = [path for path in place.rglob("*") if path.is_file()]
        assert not [path for path in left if path.name.endswith(PART)]
        assert {path.suffix for path in left} <= {".npy", ".json"}
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match="choose another"):
        Cache(tmp_path / "cache", RECIPE).fill(scans)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere: run as another account")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="choose another"):
        Cache(tmp_path / "cache", RECIPE).fill(scans)


def test_a_filling_needs_no_clock(tmp_path: Path, scans: tuple[Scan, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an entry depends on when it was made."""
    Cache(tmp_path / "now", RECIPE).fill(scans[:1])
    monkeypatch.setattr(time, "time", lambda: 0.0)
    Cache(tmp_path / "then", RECIPE).fill(scans[:1])
    assert contents(Cache(tmp_path / "now", RECIPE).place) == contents(Cache(tmp_path / "then", RECIPE).place)
