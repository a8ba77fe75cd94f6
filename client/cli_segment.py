"""`wardround-site segment`: an exported segmenter on this hospital's own scans, masks into a new folder. Nothing is sent."""

import argparse
import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError, SiteError
from client.files import write_atomic
from client.home import Home
from client.unexpected import told_without_cells
from tasks.errors import DataError

if TYPE_CHECKING:  # torch and nibabel are for those who segment
    from tasks.exported import Exported
    from tasks.imaging.segmented import Segmented
    from tasks.imaging.store import Scan
    from tasks.imaging.task import ImageTask

CAUTION = "Research software, not a medical device: look at every mask before it is used, and decide nothing about a patient by it."
EXAMPLES = """examples:
  wardround-site segment model/ --out /srv/masks                       every session of this site's images
  wardround-site segment model/ --out /srv/masks --html                and a page with slices to look at
  wardround-site segment model/ --folder /mnt/bids --out /srv/masks --patient P-0123
MODEL is a folder that `wardround-lead model export` wrote. The new folder is laid out as BIDS has it for derivatives, a mask on the
grid of the session's first image, and segmented.csv with volumes, numbers of lesions and, where somebody has drawn a mask, Dice.
Masks are called desc-predicted: neither `data measure` nor training ever takes them for drawn ones.
exit status: 0 done, 1 a session cannot be used (the others are written), 2 usage or configuration"""


@dataclass(frozen=True)
class Told:
    """One session: what was found, or why nothing could be."""

    scan: "Scan"
    found: "Segmented | None"
    reason: str = ""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`segment`."""
    about = "lesion masks of this hospital's scans"
    shape = argparse.RawDescriptionHelpFormatter
    said = f"An exported segmenter on this hospital's scans; masks go into a new folder.\n{CAUTION}"
    command = verbs.add_parser("segment", help=about, description=said, epilog=EXAMPLES, formatter_class=shape)
    command.add_argument("model", type=Path, metavar="MODEL", help="folder of the exported model")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new folder")
    command.add_argument("--folder", type=Path, help="folder with tables and images, or images (default: the site's data folder)")
    command.add_argument("--patient", action="append", default=[], metavar="ID", help="pseudonym; may be given several times")
    command.add_argument(
        "--html", action="store_true", help="also segmented.html in it: slices with outlines, volumes against drawn ones"
    )
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    command.set_defaults(handler=told_without_cells("the segmentation", _segment))


def _segment(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.cohorts import usable_scans
    from tasks.exported import read_exported

    target = Path(os.path.abspath(args.out.expanduser()))  # not resolved: a link would be seen through
    if os.path.lexists(target):
        raise ConfigError(f"--out: {target} is there already: name a new folder")
    exported = read_exported(args.model.expanduser())
    task = _task_of(exported)
    scans, _ = usable_scans(args.folder.expanduser() if args.folder else load_config(home).data)
    if missing := set(args.patient) - {scan.patient for scan in scans}:
        raise DataError(f"{len(missing)} of {len(set(args.patient))} patients have no session of images that can be used")
    chosen = [scan for scan in scans if not args.patient or scan.patient in args.patient]
    told = _all(exported, task, chosen, target)
    if args.html:
        _write(target / "segmented.html", _page(exported, told).encode())
    _show(exported, told, target, out)
    return 1 if any(each.found is None for each in told) else 0


def _task_of(exported: "Exported") -> "ImageTask":
    from tasks.imaging.task import ImageTask
    from tasks.registry import find_task

    task = find_task(exported.task.name)
    if not isinstance(task, ImageTask):
        raise ConfigError(f"the model is of task {exported.task.name}, which reads no images: use `wardround-site predict`")
    if find_task(exported.task.name).version != exported.task.version:
        raise ConfigError(f"the model is of another version of {exported.task.name}: install the one that it names")
    return task


def _all(exported: "Exported", task: "ImageTask", scans: Sequence["Scan"], target: Path) -> list[Told]:
    """Session by session: each mask is on disk before the next scan is read."""
    from tasks.base import Task
    from tasks.exported import model_of
    from tasks.imaging.errors import ImageError
    from tasks.imaging.segmented import segmented

    if not isinstance(task, Task):
        raise ConfigError(f"the task {exported.task.name} has no model")
    model = model_of(exported, task)
    told = []
    console = Console(stderr=True)
    parts = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(scans))
        for scan in scans:
            try:
                found = segmented(task, model, scan, exported.options.model, exported.task.columns)
            except ImageError as error:
                told.append(Told(scan, None, f"{error.code}: {error.sentence}"))
            else:
                _write_mask(target, scan, found)
                told.append(Told(scan, found))
            progress.advance(bar)
    _write(target / "segmented.csv", _as_csv(told))
    about = {"Name": f"Lesions by run {exported.run_id}", "BIDSVersion": "1.10.0", "DatasetType": "derivative",
             "GeneratedBy": [{"Name": "wardround"}]}  # fmt: skip
    _write(target / "dataset_description.json", json.dumps(about, indent=1).encode() + b"\n")
    return told


def _write_mask(target: Path, scan: "Scan", found: "Segmented") -> None:
    from tasks.imaging.volume import write_volume

    parts = [f"sub-{scan.subject or scan.patient}", *([f"ses-{scan.session}"] if scan.session else [])]
    folder = target.joinpath(*parts, "anat")
    _made(folder)
    write_volume(folder / f"{'_'.join(parts)}_desc-predicted_label-lesion_mask.nii.gz", found.mask, dtype="uint8")


def _made(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"--out: {folder} was not made: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    _made(path.parent)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise SiteError(f"--out: {path} was not written: {error.strerror}") from error


def _as_csv(told: Sequence[Told]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("patient", "session", "day", "lesion_ml", "lesions", "dice", "drawn_ml", "reason"))
    for each in told:
        scan, found = each.scan, each.found
        numbers = ("", "", "", "") if found is None else (
            f"{found.lesion_ml:.4f}", found.lesions,
            "" if found.dice is None else f"{found.dice:.4f}", "" if found.drawn_ml is None else f"{found.drawn_ml:.4f}",
        )  # fmt: skip
        writer.writerow((scan.patient, scan.session, "" if scan.day is None else scan.day, *numbers, each.reason))
    return text.getvalue().encode()


def _page(exported: "Exported", told: Sequence[Told]) -> str:
    from tasks.imaging.segmented_page import Shown, segmented_page

    shown = []
    for each in told:
        if each.found is not None:
            day = "" if each.scan.day is None else f", day {each.scan.day}"
            session = f", session {each.scan.session}" if each.scan.session else ""
            found = each.found
            name = f"{each.scan.patient}{session}{day}"
            shown.append(Shown(name, found.lesion_ml, found.lesions, found.dice, found.drawn_ml, found.pictures))
    model = f"{exported.task.name}, run {exported.run_id}; {exported.facts.get('privacy_in_words')}"
    return segmented_page(shown, model=model, made=f"Made {utc()}")


def _show(exported: "Exported", told: Sequence[Told], target: Path, out: Output) -> None:
    found = [each.found for each in told if each.found is not None]
    dice = [each.dice for each in found if each.dice is not None]
    facts: dict[str, object] = {
        "run": exported.run_id,
        "privacy": exported.facts.get("privacy_in_words"),
        "sessions": len(told),
        "segmented": len(found),
        "median volume, mL": round(sorted(each.lesion_ml for each in found)[len(found) // 2], 2) if found else None,
        "mean Dice where a mask is drawn": round(sum(dice) / len(dice), 3) if dice else None,
        "written": str(target),
    }
    reasons = sorted({each.reason for each in told if each.reason})
    out.facts("segmented", facts | ({"not used": reasons} if reasons else {}))
    out.say(CAUTION)
