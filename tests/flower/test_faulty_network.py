"""The bad lines of the fault tests do what their names say, and a schedule of faults is replayed from the line that it prints."""

import datetime
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fault_schedules import KINDS, Fault, Schedule, drawn
from faulty_network import FaultyNetwork, Sight

from server.tls import make_tls

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"


class Hub(ThreadingHTTPServer):
    """Answers every request with the next number and what it was asked."""

    daemon_threads = True
    count = 0


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.count += 1  # type: ignore[attr-defined]
        number = self.server.count  # type: ignore[attr-defined]
        body = b"%d:" % number + self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_tls(folder, ["127.0.0.1"], now=datetime.datetime.now(datetime.UTC))
    return folder


@pytest.fixture
def hub(tls: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def network(hub: Hub, tls: Path) -> Iterator[FaultyNetwork]:
    with FaultyNetwork(tls, ("127.0.0.1", hub.server_address[1]), ["a", "b"], seed=1) as network:
        yield network


def connected(network: FaultyNetwork, tls: Path, site: str = "a", *, timeout_s: float = 20.0) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    return http.client.HTTPSConnection("127.0.0.1", network.ports[site], timeout=timeout_s, context=context)


def asked(line: http.client.HTTPSConnection, body: bytes = b"x", path: str = PULL) -> bytes:
    line.request("POST", path, body)
    return line.getresponse().read()


def test_a_good_line_passes_everything_on_one_connection(network: FaultyNetwork, tls: Path) -> None:
    line = connected(network, tls)
    assert [asked(line), asked(line, bytes(100_000))[:2]] == [b"1:x", b"2:"]


def test_a_doubled_request_reaches_the_hub_twice_and_its_first_answer_counts(network: FaultyNetwork, tls: Path, hub: Hub) -> None:
    network.links["a"].double = 1
    line = connected(network, tls)
    assert (asked(line), hub.count) == (b"1:x", 2)
    assert asked(line) == b"3:x"


def test_of_a_repeated_request_the_first_answer_is_lost(network: FaultyNetwork, tls: Path) -> None:
    network.links["a"].repeat = 1
    assert asked(connected(network, tls)) == b"2:x"


def test_a_truncated_answer_ends_in_the_middle(network: FaultyNetwork, tls: Path) -> None:
    network.links["a"].truncate_after = 400
    with pytest.raises((http.client.IncompleteRead, http.client.BadStatusLine, http.client.RemoteDisconnected, ssl.SSLError)):
        asked(connected(network, tls), bytes(1000))
    assert asked(connected(network, tls)).endswith(b"x"), "the next connection is whole"


def test_a_cut_line_resets_what_is_open_and_what_comes(network: FaultyNetwork, tls: Path) -> None:
    line = connected(network, tls)
    asked(line)
    network.cut("a")
    for tried in (line, connected(network, tls)):
        with pytest.raises((OSError, http.client.HTTPException)):
            asked(tried)
    assert asked(connected(network, tls, "b")), "the other site's line is as it was"
    network.heal()
    assert asked(connected(network, tls))


def test_a_silent_line_holds_everything_until_it_is_healed(network: FaultyNetwork, tls: Path, hub: Hub) -> None:
    network.links["a"].silent = True
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(asked(connected(network, tls))))
    waiting.start()
    assert asked(connected(network, tls, "b")) == b"1:x"
    assert (answers, hub.count) == ([], 1)
    network.heal()
    waiting.join(20)
    assert answers == [b"2:x"]


def test_an_overtaken_answer_comes_after_another_sites(network: FaultyNetwork, tls: Path, hub: Hub) -> None:
    network.links["a"].overtaken = 1
    first = threading.Thread(target=lambda: asked(connected(network, tls, "a")))
    first.start()
    while hub.count == 0:
        time.sleep(0.01)
    first.join(0.5)
    assert first.is_alive(), "its answer is held back"
    asked(connected(network, tls, "b"))
    first.join(20)
    assert not first.is_alive(), "and comes after the other one"


def test_a_message_is_held_until_whoever_was_told_of_it_is_done(network: FaultyNetwork, tls: Path, hub: Hub) -> None:
    seen: list[tuple[Sight, int]] = []
    network.on_sight = lambda sight: seen.append((sight, hub.count))
    line = connected(network, tls)
    asked(line, b"query.sa1_keys", PULL)
    asked(line, b"train.sa1_update", PUSH)
    asked(line, b"query.sa1_vote", "/v1/fleet/other")
    assert seen == [(Sight("a", "asked", "sa1_keys"), 1), (Sight("a", "answered", "sa1_update"), 1)]


def test_a_schedule_is_replayed_from_its_line() -> None:
    for seed in range(50):
        assert Schedule.read(str(drawn(seed))) == drawn(seed)
    assert {fault.what for seed in range(len(KINDS)) for fault in drawn(seed).faults[:1]} == set(KINDS)


@pytest.mark.parametrize("words", ["", "burn@a:train#1+0s~1s", "cut@a:lunch#1+0s~1s", "cut@a:train#x+0s~1s"])
def test_what_is_no_fault_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="is not WHAT@SITE"):
        Fault.read(words)
