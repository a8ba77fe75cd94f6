"""Log lines that all parties write alike: an event with ids, as text for people or as one JSON object a line for programs.

A line is written as `log.info("run=%s round=%d state=sent", ...)`. The keys are read from that template and the values from its
arguments, so that nothing in a value can pass for a key. One request has one id (`request_id`), computed alike by coordinator,
gateway and guard from the very bytes that travel: it needs no room in any message, and a refusal that leaves a site bears it.
"""

import hashlib
import json
import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from consortium.canonical import Bytes

Form = Literal["text", "json"]
FORMS: Final[tuple[Form, ...]] = ("text", "json")
OURS: Final = "wardround"  # loggers of this program; whatever else speaks in a process is somebody else's library
REQUEST_DIGITS: Final = 16  # as many as a refusal's correlation id has
VALUE_MOST: Final = 1000  # characters of one value
FRAMES: Final = 4  # of a trace: the innermost ones

_PAIR: Final = re.compile(r"([a-z][a-z_0-9]*)=")
_SPECIFIER: Final = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]")
_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about")


def request_id(kind: str, control: Bytes) -> str:
    """16 hex digits that name one request in the logs of coordinator, gateway and guard.

    Made of what the coordinator itself sent, so it tells nobody anything; the same request again has the same id.
    """
    digest = hashlib.sha256(kind.encode("ascii", "replace") + b"\0")
    digest.update(control)
    return digest.hexdigest()[:REQUEST_DIGITS]


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Every line that this thread writes within bears these ids."""
    token = _ABOUT.set({**_ABOUT.get({}), **ids})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def said() -> Mapping[str, str]:
    """The ids that `about` gave to this thread."""
    return _ABOUT.get({})


def place_of(error: BaseException) -> str:
    """Class of an error and where in the code it arose: its text may quote a patient's row, so the text is dropped."""
    frames = list(traceback.extract_tb(error.__traceback__))
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-FRAMES:]))
    return f"{type(error).__name__} at {places}"


@dataclass(frozen=True)
class Lines:
    """Who writes: `component` (guard, trainer, gateway, hub, ...) and, where there is one, `site`.

    `foreign`: whether the text of other people's libraries is shown. Where patients' data is it is not: the library's name and
    the place are.
    """

    component: str
    site: str = ""
    foreign: bool = False

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The line as keys and values; `time` is UTC with milliseconds."""
        at = datetime.fromtimestamp(record.created, tz=UTC)
        shown: dict[str, object] = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "component": self.component,
        }
        if self.site:
            shown["site"] = self.site
        shown |= self._said(record)
        for name, value in _ABOUT.get({}).items():
            shown.setdefault(name, value)
        if record.exc_info and record.exc_info[1]:
            shown["error"] = place_of(record.exc_info[1])
        return shown

    def _said(self, record: logging.LogRecord) -> dict[str, object]:
        if record.name.split(".")[0] == OURS:
            return read_template(str(record.msg), record.args)
        said: dict[str, object] = {"state": "library-spoke", "library": record.name.split(".")[0]}
        return said | ({"text": _plain(record.getMessage())} if self.foreign else {"place": f"{record.filename}:{record.lineno}"})


def read_template(template: str, args: Any) -> dict[str, object]:
    """Keys and values of a line: each key's words in the template, filled with as many arguments as they have places for."""
    values = list(args) if isinstance(args, tuple) else [args] if args else []
    found: dict[str, object] = {}
    pieces = _PAIR.split(template)
    if pieces[0].strip():
        found["text"], values = _filled(pieces[0], values)
    for name, words in zip(pieces[1::2], pieces[2::2], strict=True):
        found[name], values = _filled(words, values)
    return found


def _filled(words: str, values: list[Any]) -> tuple[object, list[Any]]:
    words = words.strip()
    places = _SPECIFIER.findall(words.replace("%%", ""))
    mine, rest = tuple(values[: len(places)]), values[len(places) :]
    if len(mine) != len(places):
        return "?", rest  # a slip in the code must not lose the rest of the line
    if len(mine) == 1 and words == places[0] and type(mine[0]) in (int, float, bool):
        return mine[0], rest
    return _plain(words % mine), rest


def _plain(text: str) -> str:
    """One line, bounded: what is quoted may come from outside."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:VALUE_MOST])


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self._lines.fields(record), default=str)


class TextLines(logging.Formatter):
    """`time level component key=value ...`, the same fields for people."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        fields = self._lines.fields(record)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "component"))
        text = fields.pop("text", "")
        pairs = " ".join(f"{name}={value}" for name, value in fields.items())
        return " ".join(filter(None, [head, str(text), pairs]))


def formatter(form: Form, lines: Lines) -> logging.Formatter:
    """How lines look."""
    return JsonLines(lines) if form == "json" else TextLines(lines)
