"""A planted patient is in no log line, error, reply or display of a site, wherever an error that nobody foresaw arises."""

import io
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from exploding import CANARY, Device, Source
from guards_in_process import ENDLESS, SITES, TASK_NAME, Consortium, Run

from client import cli, guard, trainer_process
from client.activity import Activity
from client.cli_output import Output
from client.daemon import data_source
from client.errors import TrainerError
from client.guard import Guard
from client.guard_rpc import KIND_NUMBERS, _Servicer, write_frames
from client.home import Home
from client.job import Job
from client.logs import FORM_VARIABLE, Logs, form_of
from client.patients import Patients
from client.trainer_process import TrainerProcess, patients_answer
from consortium.logs import FORMS, Form, Lines, formatter, request_id
from consortium.wire import Refusal, decode_reply

SITE = SITES[0]

# where the guard calls others while it answers: each of them goes off in turn
POINTS = [
    (guard, "decode_keys_request"),
    (guard, "decode_request"),
    (guard, "verify_plan"),
    (guard, "check_plan"),
    (guard, "check_spend"),
    (guard, "check_epoch"),
    (guard, "approves"),
    (guard, "epsilon_charged"),
    (guard, "round_spends"),
    (guard, "spend_details"),
    (guard, "model_digest"),
    (guard, "header_fields"),
    (guard, "encode_header"),
    (guard, "Update"),
    (guard, "encode_answer"),
    (guard, "part"),
    (guard, "_shape"),
    (guard, "SiteSession"),
    (guard.PolicyFile, "load"),
    (guard.PlanStore, "add"),
    (guard.PlanStore, "decision"),
    (guard.Populations, "record"),
    (guard.Ledger, "append"),
    (guard.Ledger, "spend"),
    (guard.Ledger, "count"),
    (guard.EgressManifest, "record"),
    (Activity, "step"),
    (Activity, "answered"),
    (Patients, "run"),
    (Patients, "population"),
]

AT_FIRST = frozenset({"approves", "epsilon_charged", "SiteSession"})  # asked once for each run


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged at any level, as the guard's own handlers write it, in both forms."""
    sink, root = io.StringIO(), logging.getLogger()
    handlers, level = [logging.StreamHandler(sink) for _ in FORMS], root.level
    for handler, form in zip(handlers, FORMS, strict=True):
        handler.setFormatter(formatter(form, Lines("guard", SITE)))
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield sink
    for handler in handlers:
        root.removeHandler(handler)
    root.setLevel(level)


def go_off(*_: object, **__: object) -> object:
    try:
        return {}[f"/data/{CANARY}.csv"]
    except KeyError as error:
        raise RuntimeError(f"row of {CANARY}: {{'name': '{CANARY}'}}") from error


class BehindTheSocket:
    """A guard as the gateway meets it: through the code that serves its socket."""

    def __init__(self, guarded: Guard) -> None:
        self._served = _Servicer(guarded.answer, guarded.status, guarded.offer_roster)

    def time_remaining(self) -> None:
        """No deadline."""

    def answer(self, kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        frames = write_frames(KIND_NUMBERS[kind], control, body)
        _, said, vector = self._served._exchange(frames, self)  # type: ignore[arg-type]  # all that it asks of a context
        return said, bytes(vector)


def whole_round(run: Run, number: int) -> list[tuple[bytes, bytes]]:
    """The exchanges of a round as far as they go, with a model that goes to the first site alone."""
    said = [run.ask_keys(number=number)]
    try:
        epoch = run.epoch(number + 1)
        phase = run.open_round(epoch, number)
        said.append(run.update(phase, SITE))
        said.append(run.vote(run.upload(phase, lost=[SITE]).close(), SITE))
    except (AssertionError, RuntimeError, KeyError):
        pass  # refused, or it went off in the coordinator's half: this test is about what the site says
    return said


@pytest.mark.slow
def test_an_error_nobody_foresaw_says_nothing_of_a_patient_wherever_it_arises(
    lines: io.StringIO, training: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.policy(ENDLESS)
    run = training.run(replace(training.long_plan(), run_id="run-1"))
    board = tmp_path / "guard.json"
    training.guard(SITE)
    behind = BehindTheSocket(Guard(training.sites_open[SITE], Activity(training.clock, board)))
    training.opened[SITE] = behind  # type: ignore[assignment]  # a guard as the gateway meets it
    went_off = set()
    for number, (place, name) in enumerate(POINTS):
        fresh = training.run(replace(run.plan, run_id=f"run-{number + 2}"))
        with monkeypatch.context() as patch:

            def exploding(*given: object, _name: str = name, **named: object) -> object:
                went_off.add(_name)
                return go_off()

            patch.setattr(place, name, exploding)
            said = whole_round(fresh if name in AT_FIRST else run, 10 * number + 1)
        assert CANARY.encode() not in b"".join(control + bytes(body) for control, body in said), name
        assert CANARY not in lines.getvalue(), name
        assert CANARY not in board.read_text(), name
    assert went_off == {name for _, name in POINTS}, "every one of them was reached"
    assert "RuntimeError at test_logs.py" in lines.getvalue(), "class and place are told"


def test_one_id_is_in_the_guards_lines_the_trainers_job_and_the_refusal(
    lines: io.StringIO, consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    control = run.request(phase.requests()[SITE])
    run.update(phase, SITE)
    name = request_id("sa1_update", control)
    assert consortium.train[SITE].jobs[0].request == name  # type: ignore[attr-defined]  # recorded training
    assert sum(name in line for line in lines.getvalue().splitlines()) >= 2
    refused = decode_reply(consortium.guard(SITE).answer("sa1_vote", b"\x00" * 40, b"")[0])
    assert isinstance(refused, Refusal)
    assert refused.correlation == request_id("sa1_vote", b"\x00" * 40)
    assert refused.correlation in lines.getvalue()


def test_the_trainers_answer_to_an_error_nobody_foresaw_is_class_and_place(
    lines: io.StringIO, consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = Patients(data_source(consortium.roster, folder=consortium.data / SITE, tasks=(TASK_NAME,), key=bytes(32)))
    monkeypatch.setattr(Patients, "run", go_off)
    answer = patients_answer(people, Job(consortium.plan(), SITE, 1, "train", b"", request="ab" * 8))
    assert isinstance(answer, trainer_process._Failed)
    assert "RuntimeError at test_logs.py" in answer.words
    assert CANARY not in answer.words + lines.getvalue()
    assert "ab" * 8 in lines.getvalue()


@pytest.mark.parametrize("what", ["device", "source"])
@pytest.mark.parametrize("form", FORMS)
def test_a_trainer_that_ends_by_such_an_error_prints_no_word_of_it(
    what: str, form: Form, consortium: Consortium, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real process: Python would print the text of what ended it."""
    source = data_source(consortium.roster, folder=consortium.data / SITE, tasks=(TASK_NAME,), key=bytes(32))
    broken = replace(source, device=Device()) if what == "device" else Source()  # type: ignore[arg-type]  # that is the point
    trainer = TrainerProcess(broken, lambda line: None, Logs("trainer", SITE, form))  # type: ignore[arg-type]
    with pytest.raises(TrainerError) as raised:
        trainer.start()
    trainer.stop()
    printed = capfd.readouterr()
    assert CANARY not in str(raised.value) + printed.out + printed.err
    told = str(raised.value) if what == "device" else printed.err
    assert "RuntimeError at exploding.py" in told


@pytest.mark.parametrize("form", FORMS)
def test_what_ends_a_process_a_thread_or_is_said_by_a_library_is_told_without_its_text(form: Form, tmp_path: Path) -> None:
    program = f"""
        import logging, threading, warnings
        from pathlib import Path
        from client.logs import Logs
        Logs("guard", "aalborg", {form!r}, Path({str(tmp_path / "guard.log")!r})).start()
        def go_off():
            raise RuntimeError("row of {CANARY}")
        thread = threading.Thread(target=go_off); thread.start(); thread.join()
        warnings.warn("column of {CANARY}")
        logging.getLogger("pandas").error("row of %s", "{CANARY}")
        logging.getLogger("wardround.x").info("state=%d", "{CANARY}")
        go_off()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    kept = (tmp_path / "guard.log").read_text()
    assert ended.returncode == 1
    assert CANARY not in ended.stdout + ended.stderr + kept
    assert [word in kept for word in ("thread-ended", "UserWarning", "pandas", "state=ended" if form == "text" else '"ended"')] == [
        True
    ] * 4
    if form == "json":
        assert all(json.loads(line)["component"] == "guard" for line in ended.stderr.splitlines())


def test_a_command_that_fails_as_nobody_foresaw_quotes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command passes `main`."""

    def asked(home: Home, args: object, out: Output) -> int:
        go_off()
        return 0

    class Parser:
        def parse_args(self, _: object) -> object:
            return cli.argparse.Namespace(home=tmp_path, handler=asked, json=False, verb="plans")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "parser", Parser)
        assert cli.main(["plans", "list"]) == 1
    shown = capsys.readouterr()
    assert CANARY not in shown.out + shown.err
    assert "RuntimeError at test_logs.py" in shown.err


def test_the_form_is_site_yamls_or_else_the_environments() -> None:
    assert form_of("auto", {}) == "text"
    assert form_of("auto", {FORM_VARIABLE: "json"}) == "json"
    assert form_of("text", {FORM_VARIABLE: "json"}) == "text"
    with pytest.raises(cli.ConfigError, match="auto, text, json"):
        form_of("xml", {})
