"""Scans are prepared once, found again by what their files hold, read through memory maps, and made anew when anything changed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from tasks.errors import DataError
from tasks.imaging.cache import Cache, Outcome, State, shown
from tasks.imaging.entries import CacheError, Entry
from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.imaging.phantoms_scanner import SCANNERS
from tasks.imaging.prepare import Prepared, Recipe, prepare
from tasks.imaging.store import Scan, open_store

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe((6.0, 6.0, 6.0), ("FLAIR", "T1w", "T2w"))
SMALL = replace(SCANNERS[2], shape=(32, 38, 28), spacing_mm=(5.6, 5.6, 5.6))
DAYS = {"P1": (0, 300), "P2": (0,), "P3": (0,)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    write_site(folder, PhantomSite("one", (SMALL,)), DAYS, seed=6)
    return folder / "one"


@pytest.fixture(scope="module")
def scans(site: Path) -> tuple[Scan, ...]:
    return open_store(site).scans


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", RECIPE)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def states(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [outcome.state.value for outcome in outcomes]


def entry(outcome: Outcome) -> Entry:
    assert outcome.entry is not None
    return outcome.entry


# -- made once, found again ---------------------------------------------------------------------------------------------------


def test_a_scan_is_made_once_and_kept_after(cache: Cache, scans: tuple[Scan, ...]) -> None:
    assert states(cache.fill(scans)) == ["made"] * 4
    before = {path: path.stat().st_mtime_ns for path in cache.place.iterdir()}
    assert states(cache.fill(scans)) == ["kept"] * 4
    assert {path: path.stat().st_mtime_ns for path in cache.place.iterdir()} == before


def test_an_entry_holds_what_prepare_gives(cache: Cache, scans: tuple[Scan, ...]) -> None:
    for scan, outcome in zip(scans, cache.fill(scans), strict=True):
        wanted, found = prepare(scan, RECIPE), entry(outcome).read()
        np.testing.assert_array_equal(found.channels, wanted.channels.astype(np.float32))
        np.testing.assert_array_equal(found.mask, wanted.mask)
        np.testing.assert_array_equal(found.present, [True, True, False])
        np.testing.assert_array_equal(entry(outcome).grid_affine, wanted.affine)
        assert entry(outcome).mask_ml == wanted.mask_ml


def test_two_fillings_write_the_same_bytes(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    for name in ("one", "other"):
        Cache(tmp_path / name, RECIPE).fill(scans)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")


def test_the_key_is_what_the_files_hold_not_where_they_lie(
    cache: Cache, site: Path, scans: tuple[Scan, ...], tmp_path: Path
) -> None:
    before = [entry(outcome).key for outcome in cache.fill(scans)]
    shutil.copytree(site, tmp_path / "moved")
    moved = open_store(tmp_path / "moved").scans
    assert [entry(outcome).key for outcome in cache.fill(moved)] == before
    assert states(cache.fill(moved)) == ["kept"] * 4


def test_one_changed_file_makes_its_scan_alone_anew(cache: Cache, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "copy")
    scans = open_store(tmp_path / "copy").scans
    first = cache.fill(scans)
    scans[2].images["T1w"].write_bytes(scans[3].images["T1w"].read_bytes())
    assert states(cache.fill(scans)) == ["kept", "kept", "made", "kept"]
    assert cache.unused(cache.fill(scans)) == (entry(first[2]).key,)


def test_another_recipe_has_entries_of_its_own(cache: Cache, scans: tuple[Scan, ...]) -> None:
    cache.fill(scans[:1])
    other = Cache(cache.folder, replace(RECIPE, margin_mm=12.0))
    assert states(other.fill(scans[:1])) == ["made"]
    assert states(cache.fill(scans[:1])) == ["kept"]


def test_a_scan_without_a_mask_is_another_entry_than_with_it(cache: Cache, scans: tuple[Scan, ...]) -> None:
    (bare,) = cache.fill([replace(scans[0], mask=None)])
    assert entry(bare).read().mask is None
    assert entry(bare).key != entry(cache.fill(scans[:1])[0]).key


def test_no_file_of_the_cache_names_a_patient_and_only_the_owner_reads_it(cache: Cache, scans: tuple[Scan, ...]) -> None:
    cache.fill(scans)
    for name, content in bytes_of(cache.folder).items():
        read = name + (content.decode() if name.endswith(".json") else "")
        assert not any(word in read for word in ("sub-", "P1", "P2", "ses-"))
    for path in (cache.place, *cache.place.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_the_array_is_plain_numpy_and_the_description_plain_json(cache: Cache, scans: tuple[Scan, ...]) -> None:
    found = entry(cache.fill(scans[:1])[0])
    about = json.loads(found.path.with_suffix(".json").read_text())
    array = np.load(found.path)
    assert array.dtype == np.float16
    assert array.shape == (3, *about["shape"])  # two sequences and the mask
    assert json.loads((cache.place / "recipe.json").read_text())["modalities"] == ["FLAIR", "T1w", "T2w"]


# -- patches ------------------------------------------------------------------------------------------------------------------


def test_a_patch_is_the_part_of_the_whole(cache: Cache, scans: tuple[Scan, ...]) -> None:
    found = entry(cache.fill(scans[:1])[0])
    whole, part = found.read(), found.patch((3, 4, 5), (8, 9, 7))
    np.testing.assert_array_equal(part.channels, whole.channels[:, 3:11, 4:13, 5:12])
    assert whole.mask is not None
    np.testing.assert_array_equal(part.mask, whole.mask[3:11, 4:13, 5:12])


@pytest.mark.parametrize("begin", [(-3, -2, -1), (20, 20, 15), (-50, 0, 0), (500, 0, 0)])
def test_beyond_the_image_is_background_without_lesion(cache: Cache, scans: tuple[Scan, ...], begin: tuple[int, int, int]) -> None:
    found = entry(cache.fill(scans[:1])[0])
    whole, part = found.read(), found.patch(begin, (16, 16, 16))
    assert whole.mask is not None
    assert part.mask is not None
    for index in np.ndindex(16, 16, 16):
        at = tuple(first + offset for first, offset in zip(begin, index, strict=True))
        inside = all(0 <= where < n for where, n in zip(at, found.shape, strict=True))
        expected = whole.channels[(slice(None), *at)] if inside else np.array([RECIPE.low, RECIPE.low, 0], np.float32)
        assert np.array_equal(part.channels[(slice(None), *index)], expected)
        assert part.mask[index] == (inside and whole.mask[at])


def test_reading_holds_no_scan_in_memory(cache: Cache, scans: tuple[Scan, ...]) -> None:
    """A thousand readings of patches leave the process as large as a hundred do, and no file open."""
    found = [entry(outcome) for outcome in cache.fill(scans)]
    process = psutil.Process()

    def read(times: int) -> int:
        for number in range(times):
            found[number % len(found)].patch((2, 2, 2), (16, 16, 16))
        return int(process.memory_info().rss)

    read(100)
    before = read(100)
    assert read(1000) - before < 4 * 2**20
    assert not [file for file in process.open_files() if file.path.endswith(".npy")]


# -- several processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_write_what_one_process_writes_and_answer_in_order(tmp_path: Path, scans: tuple[Scan, ...]) -> None:
    one = Cache(tmp_path / "one", RECIPE).fill(scans)
    seen: list[str] = []
    two = Cache(tmp_path / "two", RECIPE).fill(scans, workers=2, done=lambda scan, outcome: seen.append(outcome.state.value))
    assert [entry(outcome).key for outcome in one] == [entry(outcome).key for outcome in two]
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert seen == ["made"] * 4


FILL = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tasks.imaging.cache import Cache
from tasks.imaging.prepare import Recipe
from tasks.imaging.store import open_store
if __name__ == "__main__":
    outcomes = Cache(Path(sys.argv[2]), Recipe((6.0,) * 3, ("FLAIR", "T1w", "T2w"))).fill(open_store(Path(sys.argv[1])).scans)
    print(*(outcome.state.value for outcome in outcomes))
"""


@pytest.mark.slow
def test_two_processes_at_once_do_each_other_no_harm(tmp_path: Path, site: Path, scans: tuple[Scan, ...]) -> None:
    command = [sys.executable, "-c", FILL.format(root=str(ROOT)), str(site), str(tmp_path / "both")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        out, _ = each.communicate(timeout=120)
        assert each.returncode == 0
        assert set(out.split()) <= {"made", "kept"}
    Cache(tmp_path / "alone", RECIPE).fill(scans)
    assert bytes_of(tmp_path / "both") == bytes_of(tmp_path / "alone")


# -- what cannot be used, what is no longer needed ----------------------------------------------------------------------------


def test_a_scan_that_cannot_be_used_is_refused_and_stops_no_other(cache: Cache, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "copy")
    scans = open_store(tmp_path / "copy").scans
    content = scans[1].images["FLAIR"].read_bytes()
    scans[1].images["FLAIR"].write_bytes(content[: len(content) // 2])
    scans[2].images["T1w"].unlink()
    outcomes = cache.fill(scans)
    assert states(outcomes) == ["made", "refused", "refused", "made"]
    assert [outcome.code for outcome in outcomes] == ["", "damaged", "unreadable", ""]
    assert not any(word in outcome.sentence for outcome in outcomes for word in ("P1", "P2", "sub-", str(tmp_path)))


def test_files_that_change_while_they_are_read_make_no_entry(
    cache: Cache, scans: tuple[Scan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter([{"FLAIR": "00"}, {"FLAIR": "01"}])
    monkeypatch.setattr("tasks.imaging.cache.source_digests", lambda scan, recipe: next(digests))
    (outcome,) = cache.fill(scans[:1])
    assert (outcome.state, outcome.code) == (State.REFUSED, "changed")
    assert not list(cache.place.glob("*.npy"))


def test_what_is_not_used_any_more_can_be_listed_and_removed(cache: Cache, scans: tuple[Scan, ...]) -> None:
    outcomes = cache.fill(scans)
    withdrawn = cache.unused(outcomes[2:])
    assert set(withdrawn) == {entry(outcome).key for outcome in outcomes[:2]}
    cache.remove(withdrawn)
    assert cache.unused(outcomes[2:]) == ()
    assert states(cache.fill(scans)) == ["made", "made", "kept", "kept"]


def test_entries_of_other_recipes_can_be_listed_and_removed(cache: Cache, scans: tuple[Scan, ...]) -> None:
    Cache(cache.folder, replace(RECIPE, high=9.0)).fill(scans[:2])
    cache.fill(scans[:1])
    (stale,) = cache.stale()
    assert stale.files == 5  # two entries and the recipe
    assert stale.mib > 0.01
    cache.remove_stale()
    assert cache.stale() == ()
    assert sorted(path.name for path in cache.folder.iterdir()) == [cache.place.name]
    assert states(cache.fill(scans[:1])) == ["kept"]


def test_a_link_to_another_cache_is_not_followed_when_stale_entries_are_removed(
    cache: Cache, scans: tuple[Scan, ...], tmp_path: Path
) -> None:
    elsewhere = Cache(tmp_path / "elsewhere", cache.recipe)
    (made,) = elsewhere.fill(scans[:1])
    cache.fill(scans[:1])
    (cache.folder / "link").symlink_to(elsewhere.place)
    assert cache.stale() == ()
    cache.remove_stale()
    assert made.entry is not None
    assert made.entry.path.is_file()


def test_foreign_files_are_never_removed(cache: Cache, scans: tuple[Scan, ...]) -> None:
    other = Cache(cache.folder, replace(RECIPE, high=9.0))
    other.fill(scans[:1])
    (other.place / "notes.txt").write_text("mine")
    (cache.folder / "photos").mkdir()
    cache.remove_stale()
    assert [path.name for path in other.place.iterdir()] == ["notes.txt"]
    assert (cache.folder / "photos").is_dir()


def test_a_removed_entry_that_is_mapped_can_still_be_read(cache: Cache, scans: tuple[Scan, ...]) -> None:
    outcomes = cache.fill(scans[:1])
    array = entry(outcomes[0]).array()
    cache.remove([entry(outcomes[0]).key])
    assert np.isfinite(array).all()
    with pytest.raises(CacheError, match="prepare the scans again"):
        entry(outcomes[0]).array()


def test_memory_that_runs_out_is_an_error_that_says_what_to_do(
    cache: Cache, scans: tuple[Scan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Iterator[tuple[int, Outcome]]:
        raise MemoryError  # as a worker's arrives

    cache.fill(scans[:1])
    monkeypatch.setattr("tasks.imaging.cache._in_parallel", refuse)
    with pytest.raises(CacheError, match=r"memory.*fewer workers.*larger spacing"):
        cache.fill(scans, workers=2)
    monkeypatch.undo()
    assert states(cache.fill(scans[:1])) == ["kept"]


def test_a_scan_too_large_for_the_memory_is_refused_and_stops_no_other(
    cache: Cache, scans: tuple[Scan, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_one(scan: Scan, recipe: Recipe) -> Prepared:
        if scan == scans[0]:
            raise MemoryError
        return prepare(scan, recipe)

    monkeypatch.setattr("tasks.imaging.cache.prepare", refuse_one)
    outcomes = cache.fill(scans)
    assert states(outcomes) == ["refused", *["made"] * (len(scans) - 1)]
    assert outcomes[0].code == "no_memory"
    assert scans[0].patient not in outcomes[0].sentence
    monkeypatch.undo()
    assert states(cache.fill(scans[:1])) == ["made"]


def test_an_empty_list_of_scans_fills_nothing(cache: Cache) -> None:
    assert cache.fill([]) == ()
    assert Cache(cache.folder / "nowhere", RECIPE).stale() == ()
    assert Cache(cache.folder / "nowhere", RECIPE).unused([]) == ()


def test_no_workers_are_refused(cache: Cache, scans: tuple[Scan, ...]) -> None:
    with pytest.raises(DataError, match="at least 1"):
        cache.fill(scans, workers=0)


def test_progress_counts_what_became_of_the_scans(cache: Cache, scans: tuple[Scan, ...]) -> None:
    cache.fill(scans[:1])
    console = Console(file=open(os.devnull, "w"), width=100, record=True, force_terminal=True)  # noqa: SIM115  # closed with it
    with shown(len(scans), console) as done:
        cache.fill(scans, done=done)
    assert "4/4" in console.export_text()
