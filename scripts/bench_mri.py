"""What preparing and reading MRI costs: scans a second and core, peak memory, and whether memory grows with the scans.

    scripts/bench mri                                     both parts; 1,000 invented scans
    scripts/bench mri --parts prepare --repeats 3         one scan at 1 mm: real if --images has it, else invented
    scripts/bench mri --parts memory --scans 200 --workers 2 --json mri.json

`prepare` measures one scan (FLAIR, T1w and mask, 182 x 218 x 182 voxels) in a fresh process: processor seconds of reading,
resampling and scaling, and the largest resident size; and the same for a small invented scan. `memory` writes invented scans,
fills a cache, fills it again (which only checks), and trains `lesion_seg` for one epoch: every patient's patches drawn, gradients
clipped and summed as a trainer does. The slope is that of resident size over scans, by least squares after the first tenth. Where
others compute too, wall time says little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from bench_machine import machine, machine_line  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tasks.imaging.cache import Cache, Outcome, State  # noqa: E402
from tasks.imaging.phantoms import PhantomSite, scans_of, write_site  # noqa: E402
from tasks.imaging.phantoms_scanner import SCANNERS  # noqa: E402
from tasks.imaging.prepare import Recipe, prepare  # noqa: E402
from tasks.imaging.store import Scan, open_store  # noqa: E402
from tasks.imaging.volume import write_volume  # noqa: E402
from tasks.lesion_seg.task import TASK  # noqa: E402

IMAGES: Final = ROOT.parent / "shared" / "data"
FULL_SHAPE: Final = (182, 218, 182)
PARTS: Final = ("prepare", "memory")
OPTIONS: Final[dict[str, str | int | float]] = {"spacing_mm": 4.0, "widths": "4-8"}
COLUMNS: Final = ("flair", "t1w")
SMALL: Final = replace(SCANNERS[0], modalities=("FLAIR", "T1w"))
SMALL_MM: Final = 4.0


def full_scan(images: Path, folder: Path) -> tuple[str, Scan]:
    """A scan at 1 mm: a real one, or an invented one written to `folder`."""
    real = images / "ms_mri_fullres" / "catania_P18_MNI1mm"
    if real.is_dir():
        return "real, 1 mm", Scan(
            "", "", None, {"FLAIR": real / "FLAIR.nii.gz", "T1w": real / "T1.nii.gz"}, real / "MASK.nii.gz", ""
        )
    scanner = replace(SMALL, shape=FULL_SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    return "invented, 1 mm", invented(scanner, folder)


def invented(scanner: Any, folder: Path) -> Scan:
    scan = next(scans_of(PhantomSite("bench", (scanner,)), "P1", (0,), seed=1))
    paths = {name: folder / f"{name}.nii.gz" for name in ("FLAIR", "T1w")}
    for name, path in paths.items():
        write_volume(path, scan.images[name], np.int16)
    write_volume(folder / "mask.nii.gz", scan.mask, np.uint8)
    return Scan("", "", None, paths, folder / "mask.nii.gz", "")


def prepare_once(paths: dict[str, str], spacing_mm: float) -> dict[str, float]:
    """Figures of one scan, in this process; the code that is loaded late is loaded before the clock starts."""
    files = {name: Path(path) for name, path in paths.items()}
    scan = Scan("", "", None, {"FLAIR": files["FLAIR"], "T1w": files["T1w"]}, files["mask"], "")
    prepare(scan, Recipe((8.0,) * 3))
    begun, wall = time.process_time(), time.perf_counter()
    found = prepare(scan, Recipe((spacing_mm,) * 3))
    used, waited = time.process_time() - begun, time.perf_counter() - wall
    with open("/proc/self/status", encoding="ascii") as file:  # `resource` would count the parent before `exec` too
        peak_kib = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return {"cpu_s": used, "wall_s": waited, "peak_mib": peak_kib / 1024, "voxels": float(np.prod(found.channels.shape[1:]))}


def in_fresh_process(scan: Scan, spacing_mm: float) -> dict[str, float]:
    paths = {name: str(path) for name, path in {**scan.images, "mask": scan.mask}.items()}
    command = [sys.executable, __file__, "--child", json.dumps([paths, spacing_mm])]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def prepare_part(images: Path, repeats: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for folder in ("full", "small"):
            (Path(name) / folder).mkdir()
        words, full = full_scan(images, Path(name) / "full")
        small = invented(SMALL, Path(name) / "small")
        for kind, scan, spacing in ((words, full, 1.0), (f"{words} to 2 mm", full, 2.0), ("invented, 4 mm", small, SMALL_MM)):
            runs = [in_fresh_process(scan, spacing) for _ in range(repeats)]
            best = {key: min(run[key] for run in runs) for key in runs[0]}
            rows.append({"scan": kind, **best, "scans_per_core_s": 1 / best["cpu_s"]})
    return rows


def memory_part(count: int, workers: int) -> dict[str, Any]:
    """Figures of `count` scans written, cached, checked and read once."""
    found: dict[str, Any] = {"scans": count, "workers": workers}
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        write_site(Path(name), PhantomSite("bench", (SMALL,)), {f"P{number:05d}": (0,) for number in range(count)}, seed=1)
        found["write_s"] = time.perf_counter() - begun
        scans = open_store(Path(name) / "bench").scans
        cache = Cache(Path(name) / "cache", TASK.recipe(OPTIONS, COLUMNS))
        filled(cache, scans, workers, "fill", found)
        outcomes = filled(cache, scans, 1, "check", found)
        if {outcome.state for outcome in outcomes} != {State.KEPT}:
            raise RuntimeError("a scan was not kept: the cache did not hold what it was filled with")
        found |= epoch(scans, outcomes)
        found["cache_mib"] = sum(path.stat().st_size for path in cache.place.iterdir()) / 2**20
    return found


def epoch(scans: Sequence[Scan], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Every patient once, through what a trainer does in a round."""
    import torch  # here: who prepares scans does without, and their memory is measured

    from client.engines import PatientBatch, Shape, choose_engine, sum_of
    from client.release import Bound
    from client.scans import Drawn

    torch.set_num_threads(1)
    entries = tuple((outcome.entry,) for outcome in outcomes if outcome.entry is not None)
    drawn = Drawn(TASK, b"bench", 0.1, tuple(scan.patient for scan in scans), entries)
    model = TASK.build_model("unet3d", OPTIONS, COLUMNS)
    shape = Shape(TASK.records, TASK.input_shape(COLUMNS), TASK.label_shape)
    engine = choose_engine(model, TASK.loss, shape, name="loop")
    sizes: list[int] = []

    def measured() -> Iterator[PatientBatch]:
        for part in drawn.parts():
            yield part
            sizes.append(resident())

    begun = time.perf_counter()
    total = sum_of(engine, {name: value.detach() for name, value in model.named_parameters()}, measured(), Bound(1.0, 20))
    if not total.any():
        raise RuntimeError("an epoch without any gradient")
    took = time.perf_counter() - begun
    return {"epoch_s": took, "epoch_kib_per_scan": slope_kib(sizes) * len(sizes) / len(scans), "resident_mib": sizes[-1] / 2**20}


def filled(cache: Cache, scans: Sequence[Scan], workers: int, step: str, found: dict[str, Any]) -> tuple[Outcome, ...]:
    """Fills the cache; seconds and slope go into `found` under the name of `step`."""
    sizes: list[int] = []
    begun = time.perf_counter()
    outcomes = cache.fill(scans, workers=workers, done=lambda *_: sizes.append(resident()))
    found[f"{step}_s"], found[f"{step}_kib_per_scan"] = time.perf_counter() - begun, slope_kib(sizes)
    return outcomes


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def slope_kib(sizes: list[int]) -> float:
    """Growth in KiB for each scan, by least squares over all but the first tenth."""
    kept = np.asarray(sizes[len(sizes) // 10 :], np.float64) / 1024
    return float(np.polyfit(np.arange(kept.size), kept, 1)[0]) if kept.size > 1 else 0.0


def show(result: dict[str, Any]) -> None:
    console = Console()
    if "prepare" in result:
        title = f"preparing one scan (FLAIR, T1w, mask), best of {result['repeats']}"
        table = Table("scan", "voxels", "CPU s", "scans/s/core", "wall s", "peak MiB", title=title)
        for row in result["prepare"]:
            figures = (f"{row['cpu_s']:.3f}", f"{row['scans_per_core_s']:.2f}", f"{row['wall_s']:.2f}", f"{row['peak_mib']:.0f}")
            table.add_row(row["scan"], f"{row['voxels']:,.0f}", *figures)
        console.print(table)
    if "memory" in result:
        row = result["memory"]
        title = f"{row['scans']:,} invented scans, {row['workers']} workers, cache of {row['cache_mib']:.0f} MiB"
        table = Table("step", "wall s", "RSS slope, KiB/scan", title=title)
        table.add_row("write them", f"{row['write_s']:.1f}", "")
        for step, words in (("fill", "fill the cache"), ("check", "fill again: check all"), ("epoch", "one epoch of training")):
            table.add_row(words, f"{row[f'{step}_s']:.1f}", f"{row[f'{step}_kib_per_scan']:+.2f}")
        console.print(table)
        console.print(f"resident after the epoch: {row['resident_mib']:.0f} MiB")
    console.print(machine_line(result["machine"]))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--scans", type=int, default=1000, help="of `memory` (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of `memory` (default: all processors)")
    parser.add_argument("--repeats", type=int, default=3, help="of `prepare` (default %(default)s)")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder that holds ms_mri_fullres (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        paths, spacing_mm = json.loads(options.child)
        print(json.dumps(prepare_once(paths, spacing_mm)))
        return 0
    if min(options.scans, options.workers, options.repeats) < 1:
        parser.error("--scans, --workers and --repeats are at least 1")
    result: dict[str, Any] = {"machine": machine(), "repeats": options.repeats}
    if "prepare" in options.parts:
        result["prepare"] = prepare_part(options.images, options.repeats)
    if "memory" in options.parts:
        result["memory"] = memory_part(options.scans, options.workers)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
