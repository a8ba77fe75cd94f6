"""`wardround-lead status`, logs and metrics: who is waited for, since and until when, what a code means and what helps."""

import json
import logging
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consortium.logs import request_id
from consortium.wire import SENTENCES, Reply, Request
from server import rounds
from server.cli import main
from server.errors import ConfigError, ServerError
from server.folder import RunFolder, create_folder
from server.journal import Journal, is_driven
from server.leaving import CAN
from server.live import Live, read_live
from server.logs import FORM_VARIABLE, form_of
from server.metrics import LeadMetrics, serve_metrics
from server.rounds import PASSING
from server.standing import HELPS, SILENT, standing, standing_lines
from server.state import FOR_GOOD, RunState, read_state
from server.transport import Patience

from .sites_in_process import make_world


@pytest.fixture
def finished(run_folder: Callable[..., RunFolder]) -> RunFolder:
    """A run of six rounds, one of them lost, two of them without oslo."""
    return run_folder()


def test_every_code_that_keeps_a_run_waiting_has_words_and_says_what_helps() -> None:
    for code in FOR_GOOD | PASSING | {"CODE_VERSION", "ROSTER", "TRAINING", "INTERNAL"}:
        assert code in SENTENCES or code in SILENT, code
        assert HELPS[code]
    assert set(CAN) <= set(HELPS)


def test_while_a_round_goes_on_each_site_says_how_far_it_is(tmp_path: Path) -> None:
    live = Live(tmp_path / "live.json", now=lambda: 1_900_000_000.0)
    live.begin("update", {"basel": "ab" * 8, "oslo": "cd" * 8}, number=3, purpose="train", limit_s=60.0)
    live.heard("basel", "answered")
    live.heard("oslo", "refused", "BUSY")
    live.pause("approval", 30.0)
    found = read_live(live.path)
    assert (found["phase"], found["round"], found["until"]) == ("approval", 3, "2030-03-17T17:47:10Z")
    assert found["sites"] == {
        "basel": {"request": "ab" * 8, "state": "answered", "at": "2030-03-17T17:46:40Z"},
        "oslo": {"request": "cd" * 8, "state": "refused", "code": "BUSY", "at": "2030-03-17T17:46:40Z"},
    }
    live.end()
    assert read_live(live.path)["sites"] == {}


def test_a_full_disk_or_a_damaged_display_stops_nothing(tmp_path: Path) -> None:
    live = Live(tmp_path / "no such folder" / "live.json")
    live.begin("keys", {"basel": "ab" * 8}, limit_s=1.0)
    live.heard("basel", "answered")
    assert read_live(live.path) == {}
    (tmp_path / "live.json").write_text("[" * 100_000)
    assert read_live(tmp_path / "live.json") == {}


def test_a_run_shows_what_it_waits_for_and_logs_one_id_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Looked at in the middle of a round, from beside it, as the command does."""
    caplog.set_level(logging.INFO)
    made = make_world(tmp_path / "run")
    folder, seen, asked = made.folder, list[dict[str, object]](), set[str]()
    heard, exchange = Live.heard, made.transport.exchange

    def recorded(kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        asked.update(request_id(kind, request.control) for request in requests.values())
        return exchange(kind, requests, patience)

    def looking(self: Live, site: str, state: str, code: str = "") -> None:
        self.written = 0.0
        heard(self, site, state, code)
        if self.phase == "update" and len(seen) < 1:
            seen.append(standing(folder, folder.plan(), read_state(folder.path)))

    monkeypatch.setattr(Live, "heard", looking)
    monkeypatch.setattr(made.transport, "exchange", recorded)
    rounds.run(folder.path, made.transport, clock=made.clock)
    during = seen[0]
    assert (during["driven"], during["phase"]) == (True, "update")
    assert during["waits_for"] == "the sites' masked updates"
    assert during["since"] <= during["until"]  # type: ignore[operator]
    states = sorted(one["state"] for one in during["sites"].values())  # type: ignore[attr-defined]
    assert states == ["answered"] + ["asked"] * (len(made.plan.sites) - 1)
    after = standing(folder, folder.plan(), read_state(folder.path))
    assert (after["driven"], after["waits_for"]) == (False, "nothing: the run is finished")
    assert asked
    assert all(any(name in line for line in caplog.messages) for name in asked)


def test_a_run_that_nobody_drives_says_so_and_what_to_do(finished: RunFolder) -> None:
    plan, state = finished.plan(), replace(read_state(finished.path), phase="stopped")
    lines = standing_lines(standing(finished, plan, state))
    assert "wardround-lead resume" in lines[0]
    assert not is_driven(finished.events)
    with Journal(finished.events):
        assert is_driven(finished.events)
    assert not is_driven(finished.path / "nowhere")


def test_a_site_that_refused_is_told_with_code_words_and_remedy(finished: RunFolder) -> None:
    plan = finished.plan()
    state = replace(RunState(), waiting={"oslo": "NOT_APPROVED"}, epoch_sites=("basel",))
    lines = standing_lines(standing(finished, plan, state))
    oslo = next(line for line in lines if line.strip().startswith("oslo"))
    assert "NOT_APPROVED" in oslo
    assert SENTENCES["NOT_APPROVED"] in oslo
    assert "plans approve" in oslo
    assert any(line.strip().startswith("lyon: out") for line in lines)


def test_the_command_watches_a_run_to_its_end(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished.path), "--watch"]) == 0
    assert "basel" in capsys.readouterr().out
    assert main(["status", str(finished.path), "--watch", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["phase"] == "finished"
    assert set(found["now"]["sites"]) == set(finished.plan().sites)
    assert main(["status", "--watch"]) == 2
    assert "needs a run" in capsys.readouterr().err


def test_metrics_of_the_lead_are_well_formed_and_bounded(finished: RunFolder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    going = runs / "not-the-runs-id"
    going.symlink_to(finished.path)
    lines = finished.events.read_bytes().splitlines(keepends=True)
    finished.events.write_bytes(b"".join(lines[:-1]))  # as it was before its end
    registry = CollectorRegistry()
    registry.register(LeadMetrics(runs, tmp_path, lambda: {"basel": True, "oslo": False}))
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("wardround_lead_") for name in families)
    assert {one.labels["connection"]: one.value for one in families["wardround_lead_sites"].samples} == {"online": 1, "offline": 1}
    rounds_of = {one.labels["outcome"]: one.value for one in families["wardround_lead_rounds"].samples}
    assert rounds_of == {"opened": 5, "lost": 1}
    assert {one.labels["run"] for one in families["wardround_lead_round_number"].samples} == {"run-7"}
    losses = {(one.labels["phase"], one.labels["code"]): one.value for one in families["wardround_lead_losses"].samples}
    assert losses == {("update", "LATE"): 2}
    assert families["wardround_lead_hub_up"].samples[0].value == 1


def test_metrics_go_on_without_a_hub_and_over_a_damaged_journal(finished: RunFolder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "damaged").symlink_to(finished.path)
    finished.events.write_bytes(b"nonsense\n")
    registry = CollectorRegistry()
    registry.register(LeadMetrics(runs, tmp_path, lambda: None))
    assert "wardround_lead_hub_up 0.0" in generate_latest(registry).decode()


def test_metrics_go_on_beside_a_run_that_no_hub_was_there_to_take(finished: RunFolder, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    create_folder(runs / "no-journal", finished.signed_plan(), finished.signed_roster())
    registry = CollectorRegistry()
    registry.register(LeadMetrics(runs, tmp_path, lambda: None))
    text = generate_latest(registry).decode()
    assert 'wardround_lead_runs{phase="new"} 1.0' in text
    assert "wardround_lead_journal_age_seconds{" not in text


def test_the_leads_metrics_are_served_on_loopback(tmp_path: Path) -> None:
    import socket

    collector = LeadMetrics(tmp_path, tmp_path, lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="metrics-port"):
            serve_metrics(port, collector)
    stop = serve_metrics(port, collector)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as found:
            assert b"wardround_lead_disk_free_bytes" in found.read()
    finally:
        stop()


def test_the_log_form_is_the_options_or_else_the_environments() -> None:
    assert form_of(None, {}) == "text"
    assert form_of(None, {FORM_VARIABLE: "json"}) == "json"
    assert form_of("text", {FORM_VARIABLE: "json"}) == "text"
    with pytest.raises(ConfigError, match="--log-format"):
        form_of(None, {FORM_VARIABLE: "xml"})
