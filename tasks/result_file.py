"""result.json of a run of sums, read strictly: who works with it gets that run's part for machines, or an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tasks.errors import DataError

MAX_BYTES: Final = 1 << 24  # of the file; 200 batches of six measures are some 40 kB


def read_part(path: Path, *, task: str, holds: str, written_as: str, versions: Sequence[str]) -> dict[str, Any]:
    """`reference` of an exported result.json of `task`, of the format `written_as` and one of these versions.

    `DataError` says what the file is not; `holds`: what it should hold, in words.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise DataError(f"{path} has more than {MAX_BYTES} bytes: name the result.json of a run of the task {task}")
        found = json.loads(text.decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): name the result.json of a run of the task {task}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: name the result.json of a run of the task {task}") from error
    part = found.get("reference") if isinstance(found, dict) else None
    if not isinstance(part, dict) or part.get("format") != written_as:
        raise DataError(f"{path} holds no {holds}: name the result.json of a run of the task {task}")
    if part.get("version") not in versions:
        raise DataError(f"{path} is of another version of the task; this code knows {', '.join(versions)}: update the software")
    return part
