"""MLflow mirrors a run; nothing that happens to MLflow or to the mirror reaches the run."""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from server.folder import RunFolder
from server.journal import Entry, Journal, RoundDone, RunFinished, named, read_entries
from server.tracking import QUIET, load_position, main, plan_parameters, points, redacted, start_mirror

Make = Callable[..., RunFolder]
LIMIT_S = 120


@pytest.fixture(autouse=True)
def kept_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror steps back behind the run; here it would take all later tests of this process with it."""
    monkeypatch.setattr("server.tracking.os.nice", lambda _: 0)


def store_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/hub/mlflow.db"


@pytest.fixture
def store(tmp_path: Path) -> str:
    (tmp_path / "hub").mkdir()
    return store_of(tmp_path)


def rows(tmp_path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(tmp_path / "hub" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the mirror did not get there"
        time.sleep(0.1)


def test_the_points_of_a_round_are_its_opened_values(run_folder: Make) -> None:
    done = [entry for entry in read_entries(run_folder().events) if points(entry)][1]
    values = {point.name: (point.value, point.step) for point in points(done)}
    assert values["pooled.auc"] == (0.6, 2)
    assert values["survivors"] == (4.0, 2)
    assert values["seconds.round"] == (pytest.approx(0.61), 2)
    assert len({point.time_ms for point in points(done)}) == 1


def test_figures_of_groups_have_names_that_the_store_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    done = RoundDone(2, "train", ("a",), (), (), 0, 0, named({"auc": 0.8, "auc_low[age=35_to_49]": 0.7}), (1.0,) * 4)
    found = {point.name: point.value for point in points(Entry(1, "2026-01-02T12:00:00.000Z", done))}
    assert (found["pooled.auc"], found["pooled.auc_low/age.35_to_49"]) == (0.8, 0.7)
    for name in found:
        _validate_metric_name(name)


def test_parameters_hold_the_plan_and_its_digest(run_folder: Make) -> None:
    plan = run_folder().plan()
    parameters = plan_parameters(plan)
    assert parameters["plan_digest"] == plan.digest.hex()
    assert parameters["privacy.epsilon_exposed"] == "3.0"
    assert parameters["strategy.rate"] == "0.1"


def test_an_address_is_shown_without_its_password() -> None:
    assert redacted("http://lead:secret@hub:5000/x") == "http://hub:5000/x"
    assert redacted("sqlite:////hub/mlflow.db") == "sqlite:////hub/mlflow.db"


def test_telemetry_is_off() -> None:
    assert QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert QUIET["DO_NOT_TRACK"] == "true"


@pytest.mark.parametrize("private", [True, False])
def test_a_run_its_model_and_its_card_arrive_once_however_often_it_is_mirrored(
    run_folder: Make, tmp_path: Path, store: str, private: bool
) -> None:
    folder = run_folder(private=private)
    assert main([str(folder.path), "--store", store]) == 0
    first = rows(tmp_path, "select key, value, step from metrics order by key, step")
    folder.mirror_state.unlink()  # the position is lost: everything is sent again
    assert main([str(folder.path), "--store", store]) == 0
    assert rows(tmp_path, "select key, value, step from metrics order by key, step") == first
    assert ("pooled.auc", 0.6, 2) in first
    assert rows(tmp_path, "select status from runs") == [("FINISHED",)]
    assert rows(tmp_path, "select name, version from model_versions") == [("cis_conversion-logistic", 1)]
    tag = rows(tmp_path, "select value from tags where key = 'wardround.private'")
    assert tag == [("yes" if private else "NOT PRIVATE",)]
    weights = next((tmp_path / "hub" / "artifacts").rglob("weights.npz"))
    with np.load(weights, allow_pickle=False) as arrays:
        assert arrays["output.weight"].shape == (1, 2)
    assert "NOT PRIVATE" in (weights.parent / "card.md").read_text() or private


def test_a_killed_mirror_continues_without_doubling_a_point(run_folder: Make, tmp_path: Path, store: str) -> None:
    folder = run_folder(finished=False)
    mirror = start_mirror(folder.path, store)
    until(lambda: load_position(folder, store).line > 0)
    os.kill(mirror.process.pid, signal.SIGKILL)
    mirror.process.wait()
    with Journal(folder.events) as journal:
        journal.append(RunFinished(b"\x05" * 32, 1.0))
    again = start_mirror(folder.path, store)
    assert again.wait(LIMIT_S)
    counted = rows(tmp_path, "select count(*), count(distinct key || ':' || step) from metrics")
    assert counted[0][0] == counted[0][1]
    assert rows(tmp_path, "select count(*) from runs") == [(1,)]
    assert rows(tmp_path, "select status from runs") == [("FINISHED",)]


def test_a_mirror_whose_coordinator_dies_ends_by_itself(run_folder: Make, tmp_path: Path, store: str) -> None:
    folder = run_folder(last=2, finished=False)
    mirror = start_mirror(folder.path, store)
    until(lambda: load_position(folder, store).line > 0)
    assert mirror.wait(LIMIT_S)  # closes the pipe, as the coordinator's death does
    assert mirror.position.state == "interrupted"
    assert rows(tmp_path, "select status from runs") == [("KILLED",)]


def test_a_mirror_left_alone_follows_until_the_run_ends(run_folder: Make, tmp_path: Path, store: str) -> None:
    folder = run_folder(finished=False)
    mirror = start_mirror(folder.path, store, alone=True)
    until(lambda: load_position(folder, store).line > 0)
    assert mirror.process.poll() is None
    with Journal(folder.events) as journal:
        journal.append(RunFinished(b"\x05" * 32, 1.0))
    assert mirror.wait(LIMIT_S)
    assert rows(tmp_path, "select status from runs") == [("FINISHED",)]
    assert rows(tmp_path, "select count(*) from model_versions") == [(1,)]


def test_a_store_that_cannot_be_reached_costs_the_run_nothing(run_folder: Make) -> None:
    with socket.socket() as listener:  # a port that nobody listens on
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = run_folder()
    before = folder.events.read_bytes()
    mirror = start_mirror(folder.path, f"http://127.0.0.1:{port}", grace_s=0.5)
    assert not mirror.wait(LIMIT_S)
    assert mirror.process.returncode == 1
    assert b"unreachable" in folder.mirror_state.read_bytes()
    assert folder.events.read_bytes() == before


def test_a_store_that_never_answers_can_be_left_at_any_time(run_folder: Make) -> None:
    folder = run_folder()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = start_mirror(folder.path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not mirror.wait(0.5)
        mirror.stop()
    assert mirror.process.poll() is not None
