"""Log lines: keys come from our templates and values from arguments; text and JSON say the same; one request has one id."""

import hashlib
import io
import json
import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consortium.logs import VALUE_MOST, JsonLines, Lines, TextLines, about, formatter, place_of, read_template, request_id
from consortium.wire import CORRELATION

SECRET = "Marie Curie, 4711"  # what no line of a guard may hold


def written(shape: Callable[[Lines], logging.Formatter], lines: Lines, say: Callable[[logging.Logger], None], name: str) -> str:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(shape(lines))
    log = logging.getLogger(name)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        say(log)
    finally:
        log.removeHandler(handler)
    return sink.getvalue()


def test_a_line_has_its_stable_keys_in_both_forms() -> None:
    def say(log: logging.Logger) -> None:
        with about(request="0123456789abcdef"):
            log.info("run=%s round=%d state=sent seconds=%.1f", "run-1", 3, 0.25)

    lines = Lines("guard", "aalborg")
    found = json.loads(written(JsonLines, lines, say, "wardround.test"))
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "INFO",
        "component": "guard",
        "site": "aalborg",
        "run": "run-1",
        "round": 3,
        "state": "sent",
        "seconds": 0.25,
        "request": "0123456789abcdef",
    }
    text = written(TextLines, lines, say, "wardround.test")
    assert text.split(" ", 1)[1] == ("INFO guard site=aalborg run=run-1 round=3 state=sent seconds=0.25 request=0123456789abcdef\n")


@settings(max_examples=50)
@given(st.text(), st.text())
def test_no_value_becomes_a_key_or_a_second_line(one: str, other: str) -> None:
    record = logging.LogRecord("wardround.x", logging.INFO, "", 0, "detail=%s state=%s", (one, other), None)
    found = json.loads(JsonLines(Lines("guard")).format(record))
    assert set(found) == {"time", "level", "component", "detail", "state"}
    assert "\n" not in TextLines(Lines("guard")).format(record)
    assert len(found["detail"]) <= VALUE_MOST


def test_a_slip_in_a_template_loses_nothing_else() -> None:
    assert read_template("run=%s round=%d", ("run-1",)) == {"run": "run-1", "round": "?"}
    assert read_template("state=ready", None) == {"state": "ready"}
    assert read_template("words alone", ()) == {"text": "words alone"}
    assert read_template("answered=100%% at=%s", ("noon",)) == {"answered": "100%", "at": "noon"}


@pytest.mark.parametrize("shape", [JsonLines, TextLines])
def test_neither_an_errors_text_nor_a_librarys_words_are_in_a_guards_line(shape: Callable[[Lines], logging.Formatter]) -> None:
    def say(log: logging.Logger) -> None:
        try:
            int(SECRET)
        except ValueError:
            log.exception("state=failed")

    def library(log: logging.Logger) -> None:
        log.warning("row of %s", SECRET)
        try:
            {}[SECRET]
        except KeyError:
            log.exception(SECRET)

    ours = written(shape, Lines("guard"), say, "wardround.test")
    assert "ValueError at test_logs.py" in ours
    theirs = written(shape, Lines("guard"), library, "pandas.io")
    assert "pandas" in theirs
    assert "Marie" not in ours + theirs
    assert "Marie" in written(shape, Lines("gateway", foreign=True), library, "flwr"), "where no data is, their words are shown"


def test_a_request_has_one_id_that_fits_a_refusal() -> None:
    assert request_id("sa1_vote", b"abc") == hashlib.sha256(b"sa1_vote\0abc").hexdigest()[:16]
    assert CORRELATION.fullmatch(request_id("sa1_vote", b""))
    assert request_id("sa1_vote", b"x") == request_id("sa1_vote", memoryview(b"x"))
    different = {request_id(kind, control) for kind in ("sa1_keys", "sa1_vote") for control in (b"", b"x", b"\0x")}
    assert len(different) == 6


def test_a_place_has_no_word_of_the_error() -> None:
    with pytest.raises(ValueError, match="Marie") as raised:
        int(f"{SECRET}")
    assert "Marie" not in place_of(raised.value)


def test_both_forms_are_known_by_name() -> None:
    assert isinstance(formatter("json", Lines("hub")), JsonLines)
    assert isinstance(formatter("text", Lines("hub")), TextLines)
