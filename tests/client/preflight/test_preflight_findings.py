"""Probes end: one that hangs is left behind, one that fails hides no other, and a probe whose ground is gone is not tried."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checked_site import Checked
from hospital_network import accepts_and_says_nothing, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from client import guard_rpc
from client.preflight import catalogue, folders, network
from client.preflight.findings import NOT_TRIED, OK, PROBLEM, NotTried, Probe, Problem, run_probes, shown
from client.preflight.versions import versions_fit
from server import front

ROOT = Path(__file__).parents[3]


def failing(error: Exception) -> Probe:
    def look() -> str:
        raise error

    return Probe("failing", look, 5.0)


def test_a_failure_hides_nothing_and_what_rests_on_it_is_not_tried() -> None:
    probes = [
        failing(Problem("CLOCK", "two hours")),
        Probe("resting", lambda: "never", 5.0, ("failing",)),
        Probe("on that", lambda: "never", 5.0, ("resting",)),
        Probe("other", lambda: "fine", 5.0),
    ]
    found = run_probes(probes, limit_s=60.0)
    assert [finding.state for finding in found] == [PROBLEM, NOT_TRIED, NOT_TRIED, OK]
    assert "failing" in found[1].detail
    assert all("\n" not in finding.line for finding in found)


def test_a_probe_that_hangs_is_a_problem_after_its_time_and_the_others_still_run() -> None:
    released = threading.Event()
    hanging = Probe("hanging", lambda: str(released.wait(30)), 0.1)
    found = run_probes([hanging, Probe("other", lambda: "fine", 5.0)], limit_s=60.0)
    assert [(finding.state, finding.code) for finding in found] == [(PROBLEM, "SLOW"), (OK, "")]
    found = run_probes([hanging, Probe("other", lambda: "fine", 5.0)], limit_s=0.1)
    assert [finding.code for finding in found] == ["SLOW", "SLOW"]
    released.set()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "/x"), ValueError("PATIENT-17"), KeyError("PATIENT-17")])
def test_an_unforeseen_error_is_a_line_and_quotes_nothing(error: Exception) -> None:
    found = run_probes([failing(error)], limit_s=60.0)[0]
    assert found.state == PROBLEM
    assert "PATIENT" not in found.line


def test_not_tried_is_no_problem() -> None:
    assert run_probes([failing(NotTried("nothing here"))], limit_s=60.0)[0].state == NOT_TRIED


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=400))
def test_foreign_words_are_printable_and_short(text: str) -> None:
    assert shown(text).isprintable() or text == ""
    assert len(shown(text)) <= 163


def test_the_readme_has_the_table_that_the_code_has() -> None:
    assert catalogue.table() in (ROOT / "client" / "README.md").read_text("utf-8")


def test_every_code_that_is_raised_is_in_the_list_and_every_entry_is_used() -> None:
    source = "".join(path.read_text() for path in (ROOT / "client" / "preflight").glob("*.py") if path.name != "catalogue.py")
    assert [code for code in catalogue.PROBLEMS if f'"{code}"' not in source] == []


def test_both_sides_mean_the_same_bytes_and_limits() -> None:
    assert network.PATTERN == front.PATTERN
    assert max(*network.DOWN, *network.UP) <= front.BYTES_LIMIT
    assert folders.SOCKET_PATH_LIMIT == guard_rpc.SOCKET_PATH_LIMIT


@pytest.mark.parametrize(
    ("ours", "theirs", "update"),
    [
        ("0.2.0", "0.1.9", ""),
        ("0.2.0", "0.3.1", ""),
        ("0.2.0", "0.4.0", "this site to 0.4"),
        ("2.0.0", "1.9.0", "the hub to 2.0"),
    ],
)
def test_one_minor_apart_fits(ours: str, theirs: str, update: str) -> None:
    found = versions_fit(ours, theirs)
    assert (found is None) if not update else (found is not None and update in found)


def test_ctrl_c_ends_a_check_that_waits_and_leaves_no_trace(site: Checked) -> None:
    with serving(accepts_and_says_nothing) as port:
        site.joins(port)
        command = [sys.executable, "-m", "client.cli", "--home", str(site.home.root), "check", "--part", "gateway"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as at a terminal, however the tests were started
        )
        assert process.stdout is not None
        assert any(" proxy " in line for line in process.stdout)  # the next step waits for an answer
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""


@pytest.mark.parametrize("words", [("--idle", "0"), ("--idle", "601"), ("--part", "moon")])
def test_a_wrong_question_is_a_usage_error(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", "--home", str(tmp_path), "check", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
