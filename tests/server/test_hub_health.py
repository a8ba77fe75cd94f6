"""What a container engine is told of the hub, and that the hub can reach itself whatever names it was founded with."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server import health
from server.cli import main as lead_command
from server.home import LeadHome
from server.tls import TlsFiles, make_tls


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(files: TlsFiles) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def founded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> LeadHome:
    words = ("hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "hub.example.org")
    assert lead_command(["--home", str(tmp_path / "lead"), *words]) == 0
    capsys.readouterr()
    return LeadHome(tmp_path / "lead")


def test_a_hub_that_was_founded_under_a_name_alone_can_reach_itself(founded: LeadHome) -> None:
    tls = founded.hub / "tls"
    with answering(TlsFiles(tls / "ca.pem", tls / "server.pem", tls / "server.key")) as port:
        assert health.main(["--home", str(founded.root), "--port", str(port)]) == 0


def test_a_hub_that_is_away_is_not_well(founded: LeadHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main(["--home", str(founded.root), "--port", "1"]) == 1
    assert "no hub answers on port 1" in capsys.readouterr().out


def test_somebody_elses_server_on_the_port_is_not_the_hub(
    founded: LeadHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tls(tmp_path / "other", ["127.0.0.1"], now=datetime.now(UTC))
    with answering(other) as port:
        assert health.main(["--home", str(founded.root), "--port", str(port)]) == 1
    assert "SSLCertVerificationError" in capsys.readouterr().out
