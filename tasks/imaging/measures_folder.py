"""A folder of tables with the measures in them, beside the given one: whole or not at all, for its owner alone.

The given folder is read and never written. Every file but the table `mri` is copied as it is; images are not copied, a link leads
to them.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tasks.durable import sync_folder, write_new
from tasks.errors import DataError
from tasks.imaging.layout import Key
from tasks.imaging.measures_session import ChangeMask, Measured
from tasks.imaging.measures_table import Merged, Row
from tasks.imaging.store import IMAGES
from tasks.imaging.yearly_loss import is_fast_loss, z_score
from tasks.ms.contract import CONTRACT, MRI
from tasks.ms.manifest import MANIFEST_FILE, Entry, file_digest, read_manifest
from tasks.ms.reading import ENDINGS, TextTable, find_tables, read_text_table

MORE_FILE: Final = "mri_measures.csv"  # what the contract has no column for
QUARANTINE: Final = "quarantine"  # of the given tables: it says nothing of the new ones
MORE_COLUMNS: Final = (
    "patient_id", "day", "scan_id", "apart_mm", "shrinking_t2", "gone_t2", "new_t2_ml", "brain_ml", "intracranial_ml",
    "brain_change_z", "fast_loss", "change_mask_ml", "change_mask_count", "lesion_sizes_ml", "not_measured",
)  # fmt: skip


def read_mri(folder: Path) -> TextTable | None:
    """The table `mri` of `folder` as it stands; None if there is none. `DataError` if it cannot be added to."""
    paths = find_tables(folder, CONTRACT).get("mri", ())
    if not paths:
        return None
    if len(paths) > 1:
        raise DataError("the table mri lies in two files: keep one")
    table = read_text_table(paths[0], MRI)
    if table.malformed:
        raise DataError(f"{len(table.malformed)} rows of the table mri have more or fewer cells than its header: correct them")
    return table


def check_out(out: Path, folder: Path) -> None:
    """`DataError` unless `out` is new or empty, and apart from `folder`."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise DataError(f"{out} is there and not an empty folder: name a new one with --out")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is no folder: make it first")
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{out} lies in the folder of the tables, which stays as it is: name one outside of it")


def write_measured(folder: Path, out: Path, merged: Merged, more: str) -> None:
    """`out` holds the tables of `folder` with `merged` as `mri`, and `more`. `DataError` if it cannot be written."""
    write_beside(folder, out, {"mri.csv": merged.to_csv(), MORE_FILE: more}, rows=len(merged.rows))


def write_beside(folder: Path, out: Path, files: Mapping[str, str], *, rows: int) -> None:
    """`out` holds what `folder` holds, with `files` (name -> text) instead; mri.csv among them has `rows` rows."""
    check_out(out, folder)
    new = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed and had our number
    try:
        new.mkdir(mode=0o700)
        _copy_others(folder, new, set(files))
        for name, text in files.items():
            write_new(new / name, text)
        _write_manifest(folder, new, rows)
        sync_folder(new)
        new.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror or 'the system refuses'}; nothing was changed") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _copy_others(folder: Path, new: Path, written: set[str]) -> None:
    own = {f"mri{ending}" for ending in ENDINGS} | {MANIFEST_FILE, QUARANTINE} | written
    for each in sorted(folder.iterdir()):
        if each.name in own:
            continue
        if each.name == IMAGES and each.is_dir():
            (new / IMAGES).symlink_to(each.resolve())
        elif each.is_dir() and not each.is_symlink():
            shutil.copytree(each, new / each.name, symlinks=True)
        elif each.is_file() or each.is_symlink():
            shutil.copy2(each, new / each.name, follow_symlinks=False)


def _write_manifest(folder: Path, new: Path, rows: int) -> None:
    """The given manifest with the new table in it; a table that did not fit it before does not fit it now."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    entry = Entry("mri.csv", file_digest(new / "mri.csv"), rows)
    modalities = tuple(sorted({*manifest.modalities, MRI.modality}))
    changed = replace(manifest, tables={**manifest.tables, "mri": entry}, modalities=modalities)
    write_new(new / MANIFEST_FILE, changed.to_json())


def more_as_csv(found: Sequence[Measured], rows: Mapping[Key, Row], changes: Sequence[ChangeMask]) -> str:
    """One row for each session that has a row in `mri`; a mask of change that names none stands with the patient's last."""
    masks = {(each.patient, each.session): each for each in changes}
    last = {each.scan.patient: each.scan for each in found if (each.scan.subject, each.scan.session) in rows}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, MORE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in found:
        if (row := rows.get((each.scan.subject, each.scan.session))) is not None:
            key = {name: row[name] for name in ("patient_id", "day", "scan_id")}
            mask = masks.get((each.scan.patient, each.scan.session)) if each.scan.session else None
            if mask is None and last[each.scan.patient] is each.scan:
                mask = masks.get((each.scan.patient, ""))
            writer.writerow({**key, **_more(each, mask)})
    return text.getvalue()


def _more(each: Measured, mask: ChangeMask | None) -> dict[str, str]:
    loss, change = each.brain_change_pct_y, each.change
    return {
        "apart_mm": _number(each.apart.mm if each.apart else None),
        "shrinking_t2": "" if change is None else str(change.shrinking),
        "gone_t2": "" if change is None else str(change.gone),
        "new_t2_ml": _number(change.new_ml if change else None),
        "brain_ml": _number(each.brain.brain_ml),
        "intracranial_ml": _number(each.brain.intracranial_ml),
        "brain_change_z": "" if loss is None else _number(z_score(loss)),
        "fast_loss": "" if loss is None else str(int(is_fast_loss(loss))),
        "change_mask_ml": _number(mask.lesions.volume_ml if mask else None),
        "change_mask_count": "" if mask is None else str(mask.lesions.count),
        "lesion_sizes_ml": "" if each.lesions is None else "|".join(f"{size:.4f}" for size in each.lesions.sizes_ml),
        "not_measured": "|".join(sorted(each.reasons)),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
