"""A real hub, checked from both sides: `wardround-site check` over TLS, and `wardround-lead hub check` beside it."""

import datetime
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from checked_site import Checked
from consortium_on_loopback import free_port, make_key

from client.config import SiteConfig
from client.enrol import init_site
from client.home import Home
from server.cli import main as lead_main
from server.enrolment import Founding, add_sites, init_hub, read_join_request, sign_and_follow
from server.flower import Hub, HubConfig, HubControl
from server.home import LeadHome
from server.tls import TlsFiles, make_tls

NOW = datetime.datetime.now(datetime.UTC)


class Lead:
    """A lead's folder with a running hub, and a site that is on its roster."""

    def __init__(self, folder: Path) -> None:
        self.home = LeadHome(folder / "lead")
        self.port = free_port()
        self.roster, self.files = init_hub(self.home, Founding("ms", "f", "lead-a", ("127.0.0.1", "localhost"), 0, 3, 0.3), now=NOW)
        self.site = Home(folder / "site")
        (self.site.root / "data").mkdir(parents=True, mode=0o700)
        request = init_site(
            self.site, SiteConfig("site-a", ("cis_conversion",), self.site.root / "data", "main", f"127.0.0.1:{self.port}", 1)
        )
        self.site.hub_ca.write_bytes(self.files.ca.read_bytes())
        member = read_join_request(self.site.root / "join-request.json")
        sign_and_follow(self.home, add_sites(self.roster, [(member, request.fingerprint)]))
        (self.home.hub / "address").write_text(f"127.0.0.1:{self.port}\n")
        self.hub = Hub(HubConfig(self.home.hub, self.port))

    def words(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = lead_main(["--home", str(self.home.root), *words])
        return status, capsys.readouterr().out

    def check(self, capsys: pytest.CaptureFixture[str], status: int) -> dict[str, dict[str, str]]:
        ended, shown = self.words(capsys, "hub", "check", "--port", str(self.port), "--json")
        assert ended == status, shown
        return {row["check"]: row for row in json.loads(shown)}

    def problems(self, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        return {name: row["detail"] for name, row in self.check(capsys, 1).items() if row["state"] == "PROBLEM"}


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lead]:
    found = Lead(tmp_path_factory.mktemp("lead"))
    found.hub.start()
    yield found
    found.hub.stop()


@pytest.mark.e2e
def test_a_site_in_order_finds_nothing_wrong_with_a_real_hub(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    rows = Checked(lead.site, lead.files, capsys).check(status=0)
    assert {row["state"] for name, row in rows.items() if name != "hub's roster"} == {"ok"}
    lead.site.roster.write_bytes(lead.home.roster_file.read_bytes())
    lead.site.founders_pin.write_text(lead.home.founders_pin.read_text())
    assert Checked(lead.site, lead.files, capsys).check(status=0)["hub's roster"]["detail"] == "version 2 here and at the hub"


@pytest.mark.e2e
def test_the_front_opens_nothing_else(lead: Lead) -> None:
    """No token: the operators' paths stay closed, and so does every other path below the front's own."""
    with httpx.Client(verify=str(lead.files.ca), base_url=f"https://127.0.0.1:{lead.port}") as client:
        assert client.get("/wardround/hello").json()["product"] == "wardround"
        for path in ("/v1/control/list-nodes", "/docs", "/wardround/", "/wardround/hello/x"):
            assert client.get(path).status_code == 403
        assert client.post("/wardround/echo", content=bytes((1 << 20) + 1)).status_code == 413


@pytest.mark.e2e
def test_a_hub_check_names_gateways_that_are_not_registered_and_then_finds_nothing(
    lead: Lead, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = lead.problems(capsys)
    assert set(found) == {"gateways"}
    assert "not registered: site-a" in found["gateways"]
    assert "hub register" in found["gateways"]
    assert lead.words(capsys, "hub", "register")[0] == 0
    assert {row["state"] for row in lead.check(capsys, 0).values()} <= {"ok", "not tried"}
    control = HubControl(lead.hub.access)
    stranger = control.register_node(make_key(tmp_path)[1], name="stranger")
    assert "1 registered gateways are on no line of the roster" in lead.problems(capsys)["gateways"]
    control.unregister_node(stranger)
    control.close()
    lead.check(capsys, 0)


@pytest.mark.e2e
def test_a_hub_check_without_a_hub_names_the_port_and_a_locked_database(lead: Lead, capsys: pytest.CaptureFixture[str]) -> None:
    other = free_port()
    capsys.readouterr()
    assert lead_main(["--home", str(lead.home.root), "hub", "check", "--port", str(other)]) == 1
    shown = capsys.readouterr().out
    assert f"nothing listens on port {other}" in shown
    assert f"hub start --port {other}" in shown


@pytest.mark.parametrize(("days", "words"), [(-820, "more days"), (30, "set this machine's clock")])
def test_a_hub_check_names_a_certificate_that_is_ending_or_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, words: str
) -> None:
    home = LeadHome(tmp_path / "lead")
    init_hub(home, Founding("ms", "f", "lead-a", ("127.0.0.1",), 0, 3, 0.3), now=NOW)
    files: TlsFiles = make_tls(home.hub / "tls", ["127.0.0.1"], now=NOW + datetime.timedelta(days=days))
    assert lead_main(["--home", str(home.root), "--json", "hub", "check", "--port", str(free_port())]) == 1
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["certificate"]["state"] == "PROBLEM"
    assert words in rows["certificate"]["detail"]
    assert rows["database"]["state"] == "not tried"
    assert files.certificate.exists()


def test_a_hub_check_names_a_database_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = LeadHome(tmp_path / "lead")
    init_hub(home, Founding("ms", "f", "lead-a", ("127.0.0.1",), 0, 3, 0.3), now=NOW)
    (home.hub / "flower.db").write_bytes(b"no database" * 100)
    lead_main(["--home", str(home.root), "--json", "hub", "check", "--port", str(free_port())])
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["database"]["state"] == "PROBLEM"
    assert "cannot be written to" in rows["database"]["detail"]
    (home.hub / "flower.db").unlink()
    sqlite3.connect(home.hub / "flower.db").execute("CREATE TABLE t (x)").connection.close()
    lead_main(["--home", str(home.root), "--json", "hub", "check", "--port", str(free_port())])
    assert {row["check"]: row for row in json.loads(capsys.readouterr().out)}["database"]["state"] == "ok"
