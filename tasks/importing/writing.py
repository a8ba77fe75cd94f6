"""Imported tables as a folder of the data contract: whole or not at all, for its owner alone, and never in place of the only one.

The tables and their manifest are written beside the folder and take its place in one step. With `replace` the former
folder is kept as FOLDER.former, and whatever else lay in it (withdrawals, eligibility) goes on into the new one.
"""

from __future__ import annotations

import csv
import ctypes
import errno
import fcntl
import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.durable import sync_folder, write_new
from tasks.importing.base import Imported
from tasks.importing.errors import ImportRefused
from tasks.ms.contract import CONTRACT
from tasks.ms.manifest import MANIFEST_FILE, Entry, Manifest, file_digest
from tasks.ms.reading import ENDINGS
from tasks.ms.schema import Column

if TYPE_CHECKING:
    import pandas as pd

FORMER: Final = ".former"
QUARANTINE: Final = "quarantine"  # of the former tables: it says nothing of the new ones
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2  # renameat2(2): both names change places at once


def check_target(folder: Path, *, replace: bool) -> None:
    """Refuse a folder that may not be written; before an import, because that takes a while."""
    if folder.is_symlink():
        raise ImportRefused(f"{folder} is a link: name the folder itself, so that the new tables can take its place")
    if not folder.exists():
        if not folder.parent.is_dir():
            raise ImportRefused(f"{folder.parent} is no folder: make it first")
        return
    if not folder.is_dir():
        raise ImportRefused(f"{folder} is no folder: name another with --out")
    if any(folder.iterdir()):
        if not replace:
            raise ImportRefused(f"{folder} is not empty: name another folder with --out, or add --replace (the former is kept)")
        if not (folder / MANIFEST_FILE).is_file():
            raise ImportRefused(f"{folder} holds no {MANIFEST_FILE}, so it is no export of this contract: name another with --out")


def write_contract(imported: Imported, folder: Path, *, site: str, replace: bool = False) -> Manifest:
    """`folder` holds the tables and manifest.json; the former one, if any, is then FOLDER.former. `ImportRefused` if it cannot.

    `site`: the name in the manifest. The same import gives the same bytes.
    """
    check_target(folder, replace=replace)
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        # another import into this place waits; so does a patient who withdraws, and is then written into the new folder
        with _locked(folder.parent), _locked(folder):
            check_target(folder, replace=replace)  # again: another import may have ended meanwhile
            try:
                manifest = _write(imported, new, site)
                _keep_others(folder, new)
                _take_place(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            _clear_leftovers(folder)
    except OSError as error:
        raise ImportRefused(
            f"{folder} cannot be written: {error.strerror or 'the system refuses'}; what was there before is untouched. "
            "If there is no room, make some; if this file system cannot exchange folders, name a new one with --out"
        ) from error
    return manifest


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        yield
    finally:
        os.close(handle)


def _write(imported: Imported, folder: Path, site: str) -> Manifest:
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed and had our number
    folder.mkdir(mode=0o700)
    entries = {}
    for table in CONTRACT.tables:
        if (frame := imported.tables.get(table.name)) is not None:
            path = folder / f"{table.name}.csv"
            write_new(path, table_as_csv(frame, [column for column in table.columns if column.name in frame.columns]))
            if strange := [name for name in frame.columns if name not in table.names]:
                raise ImportRefused(f"the importer gave {table.name} the column {strange[0]!r}, which the contract does not have")
            entries[table.name] = Entry(path.name, file_digest(path), len(frame))
    modalities = tuple(sorted({CONTRACT.table(name).modality for name in entries}))
    manifest = Manifest(site, CONTRACT.version, entries, modalities)
    write_new(folder / MANIFEST_FILE, manifest.to_json())
    return manifest


def table_as_csv(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """A table as the contract wants it in a file: whole numbers without a point, others with as many digits as they need."""
    cells = [_texts(frame[column.name].tolist()) for column in columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue()


def _texts(values: Sequence[object]) -> list[str]:
    return [cell_text(value) for value in values]


def cell_text(value: object) -> str:
    """One value as it stands in a file of the contract, "" if it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else repr(value)
    return str(value)


def _keep_others(folder: Path, new: Path) -> None:
    """Copy what is neither a table of the contract nor about the former ones, such as withdrawn.txt."""
    if not folder.is_dir():
        return
    own = {f"{name}{ending}" for name in CONTRACT.names for ending in ENDINGS} | {MANIFEST_FILE, QUARANTINE}
    for each in folder.iterdir():
        if each.name not in own:
            if each.is_dir() and not each.is_symlink():
                shutil.copytree(each, new / each.name, symlinks=True)
            elif each.is_file() or each.is_symlink():
                shutil.copy2(each, new / each.name, follow_symlinks=False)


def _take_place(new: Path, folder: Path) -> None:
    """`new` becomes `folder` in one step; the former folder becomes FOLDER.former. Before that step nothing has changed."""
    former = folder.with_name(folder.name + FORMER)
    older = folder.with_name(f".{former.name}.{os.getpid()}.old")
    if not folder.exists() or not any(folder.iterdir()):
        new.replace(folder)
    else:
        if former.exists():
            former.rename(older)
        try:
            new.rename(former)  # the new tables wait where the former ones go
            _exchange(former, folder)
        except OSError:
            if former.exists():
                former.rename(new)
            if older.exists():
                older.rename(former)
            raise
        shutil.rmtree(older, ignore_errors=True)
    sync_folder(folder.parent)


def _clear_leftovers(folder: Path) -> None:
    """Remove what an import that was killed left beside the folder: it holds patients' rows."""
    left = re.compile(rf"\.{re.escape(folder.name)}(\.\d+\.new|{re.escape(FORMER)}\.\d+\.old)")
    for each in folder.parent.iterdir():
        if left.fullmatch(each.name):
            shutil.rmtree(each, ignore_errors=True)


def _exchange(first: Path, second: Path) -> None:
    """Both folders change names at once. Python has no function for it; a file system that cannot raises `OSError`."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders in one step")
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
