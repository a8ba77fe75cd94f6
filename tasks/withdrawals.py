"""The list of patients who took their consent back, beside the data: read before every computation, and never guessed.

`withdrawn.txt` holds one pseudonym a line. A file that cannot be read stops everything: nobody is trained on because a list was
unreadable.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tasks.errors import DataError

WITHDRAWN_FILE: Final = "withdrawn.txt"
# As a table's cell may be, blanks within included; a comma or semicolon at the end is a slip of an export.
PSEUDONYM: Final = re.compile(r"[^\x00-\x1f\x7f\ufeff]{0,199}[^\x00-\x1f\x7f\ufeff,;]")
MAX_BYTES: Final = 16 * 2**20


def read_withdrawn(folder: Path) -> frozenset[str]:
    """The pseudonyms in `folder`'s list; none if there is no list. `DataError` names the line that is no pseudonym."""
    path = folder / WITHDRAWN_FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{WITHDRAWN_FILE} is larger than {MAX_BYTES} bytes: this is no list of pseudonyms")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{WITHDRAWN_FILE} points to a file that is not there: nothing is computed before it is") from None
        return frozenset()
    except UnicodeError:
        raise DataError(
            f"{WITHDRAWN_FILE} is not text in UTF-8: write one pseudonym a line"
        ) from None  # it holds bytes of the file
    except OSError as error:
        raise DataError(f"{WITHDRAWN_FILE} cannot be read ({error.strerror}): nothing is computed before it can") from error
    for number, line in enumerate(lines, start=1):
        if line.strip() and not PSEUDONYM.fullmatch(line.strip()):
            raise DataError(f"{WITHDRAWN_FILE} line {number} is no pseudonym: write one a line and nothing else")
    return frozenset(line.strip() for line in lines if line.strip())
