"""`wardround-site data measure`: lesions and brain volumes of this site's images, in a new folder of tables. Nothing is sent."""

import argparse
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.cli_output import Output
from client.config import load_config
from client.errors import ConfigError
from client.home import Home
from client.unexpected import told_without_cells
from tasks.errors import DataError
from tasks.ms.contract import CONTRACT
from tasks.ms.reading import holds_contract_tables

if TYPE_CHECKING:  # nibabel and pandas are for those who measure
    from tasks.imaging.measures_session import ChangeMask, Measured
    from tasks.imaging.measures_table import Merged
    from tasks.imaging.store import Store

SCALING = (0.5, 2.5)  # of a head to a template; beyond, it is another number
EXAMPLES = """examples:
  wardround-site data measure --dry-run                            which measures the images give; writes nothing
  wardround-site data measure --out /srv/ms-data-measured          the site's tables, with measures in the table mri
  wardround-site data measure --folder /srv/export --images /mnt/bids --out /srv/measured
Measured are masks and segmentations that are there: this command draws none. What stands in the tables already stays, unless
--replace is given; differences are counted, not shown. The given folder is not changed: name the new one in site.yaml once you
have looked at it. It holds mri_measures.csv too, with what the data contract has no column for; both stay in the hospital.
Two sessions are compared only if their images show one head in one place: register them first, if they do not.
exit status: 0 done, 1 something that is there cannot be measured or written, 2 usage or configuration"""
PROBLEMS = ("mask_unusable", "image_unusable", "segmentation_unusable", "no_day")  # of sessions; the rest is only not there


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data measure`, below `wardround-site data`."""
    shape = argparse.RawDescriptionHelpFormatter
    about = "measure lesions and brain volumes in images, into the table mri of a new folder"
    part = kinds.add_parser("measure", help=about, description=about, epilog=EXAMPLES, formatter_class=shape)
    part.add_argument("--images", type=Path, metavar="DIR", help="folder with images (default: `images` beside the tables)")
    part.add_argument("--folder", type=Path, metavar="TABLES", help="folder with the tables (default: the site's data folder)")
    part.add_argument("--out", type=Path, metavar="FOLDER", help="the new folder of tables")
    part.add_argument("--replace", action="store_true", help="measures take the place of other values in the table mri")
    about = "table with tabs: patient_id, session (as the image folder names them), scaling; without it no normalised brain volume"
    part.add_argument("--scaling", type=Path, metavar="FILE", help=about)
    part.add_argument("--dry-run", action="store_true", help="measure and count, write nothing")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=told_without_cells("the measurement", _measure))


def _measure(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.imaging.links import links_of
    from tasks.imaging.measures_folder import check_out, more_as_csv, read_mri, write_measured
    from tasks.imaging.measures_table import merge
    from tasks.imaging.store import open_store
    from tasks.mri_harmonisation.tables import refuse_harmonised
    from tasks.ms.validate import validate_folder

    if bool(args.out) == args.dry_run:
        raise ConfigError("--out names the folder for the tables; or --dry-run looks first, without --out")
    folder = args.folder.expanduser() if args.folder else load_config(home).data
    if not holds_contract_tables(folder, CONTRACT):
        raise DataError(f"{folder} holds no tables of the data contract, such as patients.csv: see `wardround-site data --help`")
    target = Path(os.path.abspath(args.out.expanduser())) if args.out else None  # not resolved: a link would be seen through
    if target is not None:
        check_out(target, folder)
    scaling = _scaling(args.scaling.expanduser()) if args.scaling else None
    if (table := read_mri(folder)) is not None:
        refuse_harmonised(table)
    accepted = validate_folder(folder).accepted
    if "patients" not in accepted:
        raise DataError(f"{folder} has no usable table patients: see `wardround-site data validate`")
    store = open_store(_images(folder, args), links_of(accepted))
    found, changes = _measured(store)
    recorded = dict(zip(accepted["patients"]["patient_id"], accepted["patients"]["source"], strict=True))
    merged, rows = merge(table, found, recorded, scaling=scaling, replace=args.replace)
    if target is not None:
        write_measured(folder, target, merged, more_as_csv(found, rows, [each for each in changes if each is not None]))
    return _tell(store, found, changes, merged, target, out)


def _images(folder: Path, args: argparse.Namespace) -> Path:
    from tasks.imaging.store import images_beside

    if args.images:
        named: Path = args.images.expanduser()
        return named
    if (beside := images_beside(folder)) is None:
        raise DataError(f"{folder} has no folder or link `images`: name the images with --images")
    return beside


def _scaling(path: Path) -> Mapping[tuple[str, str], float]:
    from tasks.imaging.sidecars import SideFileError, read_table

    try:
        rows = read_table(path, "patient_id", "session")
        found = {(row["patient_id"], row.get("session", "")): float(row.get("scaling", "")) for row in rows}
    except SideFileError as error:
        raise DataError(f"{path}: {error}") from error
    except ValueError:
        raise DataError(f"{path}: the column scaling is missing, or a cell of it is no number") from None
    low, high = SCALING
    if not all(low <= factor <= high for factor in found.values()):
        raise DataError(f"{path}: a scaling is a factor of volume from {low:g} to {high:g}")
    return found


def _measured(store: "Store") -> "tuple[list[Measured], list[ChangeMask | None]]":
    from tasks.imaging.measures_session import change_masks, measure_store

    console = Console(stderr=True)
    parts = (TextColumn("measuring sessions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found = []
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(store.scans))
        for each in measure_store(store):
            found.append(each)
            progress.advance(bar)
    return found, list(change_masks(store))


def _tell(
    store: "Store",
    found: "list[Measured]",
    changes: "list[ChangeMask | None]",
    merged: "Merged",
    target: Path | None,
    out: Output,
) -> int:
    """Counts alone; the status."""
    from tasks.imaging.measures_session import REASONS

    reasons = Counter(reason for each in found for reason in each.reasons)
    aside = sum(each.severity == "error" for each in store.findings)
    broken = changes.count(None)
    kinds = {"filled": merged.filled, "same": merged.same, "kept": merged.kept, "replaced": merged.replaced}
    kinds["out_of_range"] = merged.out_of_range
    facts: dict[str, object] = {
        "sessions": len(found),
        "patients": len({each.scan.patient for each in found}),
        "masks of change": len(changes) - broken,
        "new rows": merged.new_rows,
        "sessions with several rows": merged.several_rows,
        "images set aside": aside + broken,
    }
    if out.as_json:
        words = {"columns": {kind: dict(counts) for kind, counts in kinds.items()}, "not_measured": dict(reasons)}
        out.facts("measured", {**facts, **words, "written": str(target) if target else ""})
    else:
        out.facts("measured", facts)
        names = sorted({name for counts in kinds.values() for name in counts})
        out.rows(
            "cells of the table mri: filled, the same as measured, other and kept or replaced, out of range and left out",
            [{"column": name, **{k: c[name] for k, c in kinds.items()}} for name in names],
        )
        out.rows("not measured", [{"sessions": reasons[name], "why": REASONS[name]} for name in REASONS if reasons[name]])
        out.say(f"written: {target}" if target else "Nothing was written: this was a dry run.")
        out.say("Exact figures of this hospital's patients: they stay here.")
    problems = any(reasons[name] for name in PROBLEMS) or merged.several_rows or merged.out_of_range or aside or broken
    return 1 if problems else 0
