"""The hub's and the coordinator's logs: events with ids, as text for people or one JSON object a line."""

import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consortium.logs import FORMS, OURS, Form, Lines, formatter
from server.errors import ConfigError

FORM_VARIABLE: Final = "WARDROUND_LOG_FORMAT"  # what images set; `--log-format` has the last word, and sets it for all processes

MOST_BYTES: Final = 16 * 2**20  # of a log file that a process of ours writes for itself; as many more are kept of what was before


def form_of(asked: str | None, environment: Mapping[str, str] = os.environ) -> Form:
    """`asked`, or what the environment says, or text. Raises `ConfigError` for another word."""
    word = asked or environment.get(FORM_VARIABLE, "text")
    for form in FORMS:
        if word == form:
            return form
    raise ConfigError(f"the log format is {word!r}: it is one of {', '.join(FORMS)} (--log-format, or ${FORM_VARIABLE})")


def start_logs(component: str, asked: str | None = None, *, level: int = logging.INFO) -> None:
    """From now on this process logs to standard error; libraries' words too: no patient's data is at a hub."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form_of(asked), Lines(component, foreign=True)))
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)  # libraries: what is wrong, no more
    logging.getLogger(OURS).setLevel(level)


def keep_short(file: Path, most_bytes: int = MOST_BYTES) -> None:
    """Begin a log file anew once it is longer than `most_bytes`; what it had lies beside it, as `.1`, until the next time.

    For a file that another process goes on appending to: it keeps the file open, so its text is moved and not the file. Where
    there is no room for the move, nothing happens.
    """
    try:
        if file.stat().st_size <= most_bytes:
            return
        shutil.copyfile(file, file.with_name(f"{file.name}.1"))
        os.truncate(file, 0)
    except OSError:  # a full disk, a file taken away: what is logged matters less than what runs
        return
