"""The site's logs: events with ids, in text or JSON, and never the text of an error or warning that nobody foresaw.

Daemons write to standard error and, the guard and the steward's actions, to a file in the site's folder. Whatever ends a process
or a thread without having been foreseen is told by its class and place: its text may quote a patient's record.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import TextIO

from client.errors import ConfigError
from consortium.logs import FORMS, OURS, Form, Lines, formatter, place_of

LOG_BYTES, LOG_FILES = 10 * 2**20, 9  # one log file's size, and how many older ones are kept
FORM_VARIABLE = "WARDROUND_LOG_FORMAT"  # what images set; site.yaml's `log_format` has the last word
AUTO = "auto"

log = logging.getLogger("wardround")


@dataclass(frozen=True)
class Logs:
    """What a process's log looks like; crosses to the trainer's process whole."""

    component: str
    site: str = ""
    form: Form = "text"
    file: Path | None = None
    console: bool = True
    foreign: bool = False  # the text of libraries too: only where no patient's data is

    def start(self, *, level: int = logging.INFO) -> None:
        """From now on this process logs so, unforeseen errors and warnings included."""
        handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)] if self.console else []
        if self.file is not None:  # bounded: whoever can reach the gateway can cause lines
            handlers.append(RotatingFileHandler(self.file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"))
        shape = formatter(self.form, Lines(self.component, self.site, self.foreign))
        for handler in handlers:
            handler.setFormatter(shape)
        logging.basicConfig(level=max(level, logging.WARNING), handlers=handlers, force=True)  # libraries: what is wrong, no more
        log.setLevel(level)
        logging.raiseExceptions = False  # a log that cannot be written would print its own text, arguments included
        _catch_the_unforeseen()


def form_of(asked: str, environment: Mapping[str, str] = os.environ) -> Form:
    """`asked` as site.yaml has it; `auto` means what the environment says, and text where it says nothing."""
    word = environment.get(FORM_VARIABLE, "text") if asked == AUTO else asked
    for form in FORMS:
        if word == form:
            return form
    raise ConfigError(f"log_format is {word!r}: it is one of {AUTO}, {', '.join(FORMS)} (site.yaml, or ${FORM_VARIABLE})")


def _catch_the_unforeseen() -> None:
    sys.excepthook = _ended
    threading.excepthook = thread_ended
    warnings.showwarning = _warned


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("state=ended reason=%s", place_of(error.with_traceback(trace)))


def thread_ended(ended: threading.ExceptHookArgs) -> None:
    """A thread that ended by an error nobody foresaw, on record."""
    name = ended.thread.name if ended.thread else "unknown"
    reason = place_of(ended.exc_value) if ended.exc_value else ended.exc_type.__name__
    log.error("state=thread-ended thread=%s reason=%s", name, reason)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A library's warning may quote a cell; its class and place do not."""
    del message, file, line
    log.warning("state=warning-of-a-library what=%s place=%s:%d", category.__name__, Path(filename).name, lineno)


def actions(path: Path, site: str, form: Form) -> logging.Logger:
    """The log of what people did here: every decision, by command or page, in a file of its own."""
    found = logging.getLogger(f"{OURS}.steward")
    wanted = str(path)
    if not any(isinstance(each, RotatingFileHandler) and each.baseFilename == wanted for each in found.handlers):
        for old in list(found.handlers):
            found.removeHandler(old)
            old.close()
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        handler.setFormatter(formatter(form, Lines("steward", site)))
        found.addHandler(handler)
        found.setLevel(logging.INFO)
        found.propagate = False
    return found
