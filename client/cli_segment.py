"""`wardround-site segment`: an exported segmenter on this hospital's own scans, masks into a new folder. Nothing is sent."""

import argparse
import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.cli_output import Output
from client.clock import utc
from client.config import device_choice, load_config
from client.device import DeviceChoice
from client.errors import ConfigError, SiteError
from client.files import write_atomic
from client.home import Home
from client.unexpected import told_without_cells
from tasks.errors import DataError
from tasks.imaging.task import CAUTION, TOO_SURE, ImageTask

if TYPE_CHECKING:  # torch and nibabel are for those who segment
    from tasks.exported import Exported
    from tasks.imaging.results import Segmented, Session
    from tasks.imaging.store import Scan
    from tasks.imaging.task import Apply
    from tasks.imaging.volume import Volume

TABLE = "segmented.csv"
HEAD = ("patient", "session", "day", "since", "scanner", "lesion_ml", "lesions", "dice", "drawn_ml", "reason")
NOT_BIDS = re.compile(r"[^A-Za-z0-9+]")
EXAMPLES = """examples:
  wardround-site segment model/ --out /srv/masks                       every session of this site's images
  wardround-site segment model/ --out /srv/masks --html                and a page with slices to look at
  wardround-site segment model/ --folder /mnt/bids --out /srv/masks --patient P-0123
MODEL is a folder that `wardround-lead model export` wrote. The new folder is laid out as BIDS has it for derivatives, a mask on the
voxels of the session's first image, and segmented.csv with scanner, volume, number of lesions and, where a mask was drawn, Dice.
A model of new lesions compares each session with the one before, which the column since names.
Masks are called desc-predicted: under that name neither `data measure` nor training takes them for drawn ones.
exit status: 0 done, 1 a session cannot be used (the others are written), 2 usage or configuration"""


@dataclass(frozen=True)
class Told:
    """One session: what was found, or why nothing could be. No mask is kept: it is on disk."""

    scan: "Scan"
    label: tuple[str, ...]  # sub-X[, ses-Y]: as the new folder names it
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
    chosen = task.readable([scan for scan in scans if not args.patient or scan.patient in args.patient])
    told = _all(exported, task, chosen, target, shown=args.html, choice=device_choice(home))
    sessions = _sessions(told)
    if args.html:
        _write(target / "segmented.html", _page(exported, task, sessions).encode())
    _show(exported, task, told, sessions, target, out)
    return 1 if any(each.found is None for each in told) else 0


def _task_of(exported: "Exported") -> ImageTask:
    from tasks.registry import find_task

    task = find_task(exported.task.name)
    if not isinstance(task, ImageTask):
        raise ConfigError(f"the model is of task {exported.task.name}, which reads no images: use `wardround-site predict`")
    if task.version != exported.task.version:
        raise ConfigError(f"the model is of another version of {exported.task.name}: install the one that it names")
    return task


def _all(
    exported: "Exported", task: ImageTask, scans: Sequence["Scan"], target: Path, *, shown: bool, choice: DeviceChoice
) -> list[Told]:
    """Session by session: a mask and its line are on disk before the next scan is read."""
    from client.applied import applied
    from tasks.exported import model_of

    model, told = model_of(exported, task), list[Told]()
    apply = applied(model, choice.for_model(model))
    _private(target)
    _write(target / "dataset_description.json", _about(exported))
    _append(target / TABLE, HEAD)
    console = Console(stderr=True)
    parts = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(scans))
        for scan, label in zip(scans, _labels(scans), strict=True):
            told.append(_one(exported, task, apply, Told(scan, label, None), target, shown=shown))
            _append(target / TABLE, _row(told[-1]))
            progress.advance(bar)
    return told


def _one(exported: "Exported", task: ImageTask, apply: "Apply", one: Told, target: Path, *, shown: bool) -> Told:
    from tasks.imaging.errors import ImageError
    from tasks.imaging.segmented import segmented

    try:
        found, mask = segmented(task, apply, one.scan, exported.options.model, exported.task.columns, shown=shown)
    except ImageError as error:
        return replace(one, reason=f"{error.code}: {error.sentence}")
    _write_mask(target, one.label, mask, marks=task.marks)
    return replace(one, found=found)


def _labels(scans: Sequence["Scan"]) -> list[tuple[str, ...]]:
    """Folders as BIDS names them, letters and digits alone; no two sessions have the same."""
    subjects: dict[tuple[str, str], str] = {}
    found: list[tuple[str, ...]] = []
    for scan in scans:
        key = (scan.patient, scan.subject)
        if key not in subjects:
            subjects[key] = _unlike(NOT_BIDS.sub("", scan.subject or scan.patient) or "X", set(subjects.values()))
        subject, session = f"sub-{subjects[key]}", NOT_BIDS.sub("", scan.session)
        taken = {label[-1].removeprefix("ses-") for label in found if label[0] == subject}
        found.append((subject, f"ses-{_unlike(session or 'X', taken)}") if session or taken else (subject,))
    return found


def _unlike(label: str, taken: set[str]) -> str:
    """`label`, or with a number behind it where it is taken."""
    return label if label not in taken else next(name for n in range(2, len(taken) + 3) if (name := f"{label}x{n}") not in taken)


def _write_mask(target: Path, label: tuple[str, ...], mask: "Volume", *, marks: str) -> None:
    from tasks.imaging.volume import write_volume

    folder = target
    for part in (*label, "anat"):
        folder = folder / part
        _private(folder)
    try:
        write_volume(folder / f"{'_'.join(label)}_desc-predicted_label-{marks}_mask.nii.gz", mask, dtype="uint8")
    except OSError as error:
        raise _broken_off(target, error) from error


def _private(folder: Path) -> None:
    """For its owner alone, level by level: its name may be a patient's."""
    try:
        for level in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            level.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SiteError(f"--out: the folder, or one in it, was not made: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise _broken_off(path.parent, error) from error


def _append(path: Path, cells: Sequence[object]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text.getvalue())
    except OSError as error:
        raise _broken_off(path.parent, error) from error


def _broken_off(target: Path, error: OSError) -> SiteError:
    return SiteError(
        f"--out: {target} could not be written to: {error.strerror}. What is in {TABLE} is finished and stays; make room, and "
        "run again with another folder and --patient for those who are missing"
    )


def _about(exported: "Exported") -> bytes:
    about = {"Name": f"Lesions by run {exported.run_id}", "BIDSVersion": "1.10.0", "DatasetType": "derivative",
             "GeneratedBy": [{"Name": "wardround"}]}  # fmt: skip
    return json.dumps(about, indent=1).encode() + b"\n"


def _row(each: Told) -> Sequence[object]:
    scan, found = each.scan, each.found
    first = (scan.patient, scan.session, "" if scan.day is None else scan.day, _since(scan), scan.scanner)
    if found is None:
        return (*first, "", "", "", "", each.reason)
    dice = "" if found.dice is None else f"{found.dice:.4f}"
    return (*first, f"{found.lesion_ml:.4f}", found.lesions, dice, "" if found.drawn_ml is None else f"{found.drawn_ml:.4f}", "")


def _since(scan: "Scan") -> str:
    """The earlier session of a pair."""
    return "" if scan.before is None else scan.before.session or f"day {scan.before.day}"


def _page(exported: "Exported", task: ImageTask, sessions: "Sequence[Session]") -> str:
    from tasks.imaging.segmented_page import segmented_page

    model = f"{exported.task.name}, run {exported.run_id}; {exported.facts.get('privacy_in_words')}"
    return segmented_page(sessions, model=model, made=f"Made {utc()}", cuts_ml=task.cuts_ml)


def _sessions(told: Sequence[Told]) -> "list[Session]":
    from tasks.imaging.results import Session

    found = []
    for each in told:
        if each.found is not None:
            day = "" if each.scan.day is None else f", day {each.scan.day}"
            session = f", session {each.scan.session}" if each.scan.session else ""
            named = each.scan.before is not None and each.scan.before.session
            since = f", new since {'session ' if named else ''}{_since(each.scan)}" if each.scan.before is not None else ""
            found.append(Session(f"{each.scan.patient}{session}{day}{since}", each.scan.patient, each.scan.scanner, each.found))
    return found


def _show(
    exported: "Exported", task: ImageTask, told: Sequence[Told], sessions: "Sequence[Session]", target: Path, out: Output
) -> None:
    from tasks.imaging.results import results_of, scanner_lines

    found = [each.found for each in told if each.found is not None]
    dice = [each.dice for each in found if each.dice is not None and each.drawn_ml]
    facts: dict[str, object] = {
        "run": exported.run_id,
        "privacy": exported.facts.get("privacy_in_words"),
        "sessions": len(told),
        "segmented": len(found),
        "median volume, mL": round(median(each.lesion_ml for each in found), 2) if found else None,
        "mean Dice where lesions are drawn": round(sum(dice) / len(dice), 3) if dice else None,
        "written": str(target),
    }
    reasons = sorted({each.reason for each in told if each.reason})
    out.facts(
        "segmented",
        facts | ({"not used": reasons} if reasons else {}) | (results_of(sessions, task.cuts_ml) if out.as_json else {}),
    )
    if (rows := scanner_lines(sessions)) and not out.as_json:
        out.rows("by scanner, where masks are drawn", rows)
    if dice:
        out.say(TOO_SURE)
    out.say(CAUTION)
