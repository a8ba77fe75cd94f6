"""Rows that break a rule, set aside as they were, each with its reasons, in files that only their owner reads.

The tables themselves are never touched, and no file is replaced that was not a quarantine before.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.errors import DataError

REASON_COLUMNS: Final = ("quarantine_row", "quarantine_reasons")


@dataclass(frozen=True)
class SetAside:
    """The rows of one table that go to quarantine: row number, reasons, cells."""

    header: tuple[str, ...]
    rows: Sequence[tuple[int, str, tuple[str, ...]]]


def write_quarantine(folder: Path, tables: Sequence[str], set_aside: Mapping[str, SetAside]) -> None:
    """One CSV file for each table with rows to set aside; files of an earlier run about `tables` go. `DataError` if it cannot."""
    try:
        if foreign := [table for table in tables if not _is_free(folder / f"{table}.csv")]:
            raise DataError(f"{folder} holds {foreign[0]}.csv, which is no quarantine: name another folder with --quarantine")
        if set_aside:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for table in tables:
            path = folder / f"{table}.csv"
            if table in set_aside:
                write_private(path, _as_csv(set_aside[table]))
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the quarantine {folder} cannot be written ({error.strerror}): name another with --quarantine") from error


def _is_free(path: Path) -> bool:
    """Whether `path` may be written: nothing is there, or an earlier quarantine."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().startswith(",".join(REASON_COLUMNS))
    except FileNotFoundError:
        return True
    except (NotADirectoryError, UnicodeError):
        return False


def _as_csv(found: SetAside) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*REASON_COLUMNS, *found.header))
    writer.writerows((number, reasons, *cells) for number, reasons, cells in found.rows)
    return text.getvalue()


def write_private(path: Path, content: str) -> None:
    """`path` holds all of `content`, readable by its owner alone; never half of it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)  # a new file, mode 600, no link
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
