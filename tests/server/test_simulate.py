"""The pipe to simulated sites, with workers that do as they are told: bounded waits, dead workers, late answers."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consortium.wire import Request
from server import simulate
from server.simulate import PipeTransport, SimulationError, declared_sizes, prepare, site_folders
from server.transport import Patience
from tasks.cis_conversion.synthetic import write_hospitals

SITES = ("a", "b", "c", "d")

# Stands in for `client.loopback`: echoes, sleeps or dies as the request's control bytes say.
WORKER = """
import os, sys, time
from consortium.canonical import pack, text, unpack

if sys.argv[1] == "init":
    print("no data for you", file=sys.stderr); sys.exit(2)
if "broken" in sys.argv:
    sys.exit("cannot start")
out = sys.stdout.buffer

def send(data):
    out.write(len(data).to_bytes(4, "big") + data); out.flush()

send(pack(text("ready")))
while len(size := sys.stdin.buffer.read(4)) == 4:
    number, site, kind, control, body = unpack(sys.stdin.buffer.read(int.from_bytes(size, "big")))
    word, _, rest = control.partition(b" ")
    if word == b"die" and site == rest:
        os.kill(os.getpid(), 9)
    if word == b"sleep" and site == rest:
        time.sleep(0.6)
    send(pack(number, site, kind + b" of " + site, body))
"""

Start = Callable[..., PipeTransport]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("")
    (tmp_path / "client" / "loopback.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)  # `python -m` looks in the working folder first
    opened: list[PipeTransport] = []

    def make(sites: tuple[str, ...] = SITES, workers: int = 2) -> PipeTransport:
        opened.append(PipeTransport(tmp_path, sites, workers=workers))
        return opened[-1]

    yield make
    for transport in opened:
        transport.close()
        assert not any(worker.alive() for worker in transport.workers)


def to_all(word: str = "echo") -> dict[str, Request]:
    return {site: Request(word.encode(), b"model") for site in SITES}


def test_every_site_gets_its_request_and_its_answer_comes_back(start: Start) -> None:
    transport = start()
    assert [worker.sites for worker in transport.workers] == [("a", "c"), ("b", "d")]
    replies = dict(transport.exchange("sa1_update", to_all(), Patience(20)))
    assert {site: reply.control for site, reply in replies.items()} == {site: f"sa1_update of {site}".encode() for site in SITES}
    assert {reply.body for reply in replies.values()} == {b"model"}
    assert transport.failures == {}


def test_a_killed_worker_is_named_and_nobody_waits_for_it(start: Start) -> None:
    transport, began = start(), time.monotonic()
    transport.workers[0].kill()
    replies = dict(transport.exchange("sa1_update", to_all(), Patience(60)))
    assert set(replies) == {"b", "d"}
    assert transport.failures == {"a": "UNREACHABLE", "c": "UNREACHABLE"}
    assert time.monotonic() - began < 30  # not its deadline
    assert set(dict(transport.exchange("sa1_vote", to_all(), Patience(60)))) == {"b", "d"}


def test_a_worker_that_dies_over_a_request_is_named(start: Start) -> None:
    transport = start(workers=4)
    replies = dict(transport.exchange("sa1_update", to_all("die b"), Patience(60)))
    assert set(replies) == {"a", "c", "d"}
    assert transport.failures == {"b": "UNREACHABLE"}


def test_a_late_answer_is_not_taken_for_the_next_one(start: Start) -> None:
    transport = start(workers=4)
    first = dict(transport.exchange("sa1_update", to_all("sleep b"), Patience(0.3)))
    assert "b" not in first
    assert transport.failures["b"] == "LATE"
    second = dict(transport.exchange("sa1_vote", to_all(), Patience(20)))
    assert second["b"].control == b"sa1_vote of b"


def test_once_enough_answered_the_others_get_the_grace_only(start: Start) -> None:
    transport = start(workers=4)
    replies = dict(transport.exchange("sa1_update", to_all("sleep b"), Patience(60, quorum=3, grace_s=0.1)))
    assert set(replies) == {"a", "c", "d"}
    assert transport.failures == {"b": "LATE"}


def test_a_stopped_worker_is_ended_by_force(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = start(workers=1)
    process = transport.workers[0]._process
    monkeypatch.setattr(process, "wait", lambda timeout, real=process.wait: real(min(timeout, 0.5)))
    os.kill(process.pid, signal.SIGSTOP)
    transport.close()
    assert not transport.workers[0].alive()


def test_a_worker_that_cannot_start_says_where_to_look(start: Start) -> None:
    with pytest.raises(SimulationError, match=r"worker-broken\.err"):
        start(("broken", "b", "c"), 1)


def test_what_the_sites_complain_about_is_passed_on(start: Start, tmp_path: Path) -> None:
    write_hospitals(tmp_path / "data", 3, [20] * 3, 1)
    with pytest.raises(SimulationError, match="no data for you"):
        prepare(tmp_path / "sites", task="cis_conversion", data=tmp_path / "data", policy="")


def test_sites_that_hang_at_the_start_are_an_error(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "client" / "loopback.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(simulate, "START_DEADLINE_S", 0.2)
    write_hospitals(tmp_path / "data", 3, [20] * 3, 1)
    with pytest.raises(SimulationError, match="took longer than 0 s"):
        prepare(tmp_path / "sites", task="cis_conversion", data=tmp_path / "data", policy="")


def test_a_simulation_needs_three_folders_with_a_mapping(tmp_path: Path) -> None:
    write_hospitals(tmp_path / "data", 3, [20] * 3, 1)
    names = site_folders(tmp_path / "data")
    assert len(names) == 3
    (tmp_path / "data" / names[0] / "mapping.yaml").unlink()
    with pytest.raises(SimulationError, match=r"2 folders with mapping\.yaml, or with tables"):
        site_folders(tmp_path / "data")
    with pytest.raises(SimulationError, match="cannot read"):
        site_folders(tmp_path / "nowhere")


def test_declared_sizes_are_tens_and_say_nothing_about_one_patient(tmp_path: Path) -> None:
    write_hospitals(tmp_path / "data", 3, [40, 100, 60], 1)
    sizes = declared_sizes(tmp_path / "data", "cis_conversion", 0.3)
    assert all(size % 10 == 0 and size >= 10 for size in sizes.values())
    assert sorted(sizes.values()) == [30, 40, 70]
