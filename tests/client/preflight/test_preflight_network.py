"""Each way in which a network keeps a site from its hub is caused with real sockets, and named, alone, with its remedy."""

import datetime
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checked_site import Checked
from hospital_network import (
    FakeHub,
    HttpProxy,
    accepts_and_says_nothing,
    closed_port,
    cuts_at_once,
    foreign_certificate,
    portal,
    reset,
    server_context,
    serving,
    silent_port,
)

from client.cli import main
from client.preflight import network, route, tls
from client.preflight.tls import digest
from server.tls import make_tls

NOW = datetime.datetime.now(datetime.UTC)
HubWith = Callable[..., FakeHub]
Through = Callable[[str], None]


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    found = [(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)) for host, port in addresses]
    monkeypatch.setattr(route, "system_resolve", lambda host, port: found)


# --- all is well ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("silent_line")
def test_a_good_way_has_no_problem(site: Checked, hub_with: HubWith) -> None:
    hub_with()
    rows = site.check(status=0)
    states = {name: row["state"] for name, row in rows.items()}
    assert {name for name, state in states.items() if state != "ok"} == {"hub's roster"}
    assert "1048576 bytes down" in rows["large messages"]["detail"]
    assert "a held request was answered after 1 s" in rows["silence"]["detail"]


def test_a_gateways_container_has_no_site_yaml_but_the_hubs_address(site: Checked, hub_with: HubWith) -> None:
    hub_with()
    (site.home.root / "gateway" / "hub.address").write_text(f"127.0.0.1:{site.port}\n")
    site.home.config.unlink()
    assert "no site.yaml" in site.check(status=0)["configuration"]["detail"]
    (site.home.root / "gateway" / "hub.address").unlink()
    site.finds("configuration", "CONFIG")


def test_a_site_that_has_not_joined_has_no_hub(site: Checked) -> None:
    site.finds("hub address", "NO_HUB", "names no hub")


def test_offline_no_socket_is_opened(site: Checked, hub_with: HubWith) -> None:
    hub = hub_with()
    assert "port" not in site.check("--offline", status=0)
    assert "port" not in site.check("--part", "guard", status=1)
    assert hub.heard == []


@pytest.mark.usefixtures("silent_line")
def test_a_hub_without_a_front_is_older_and_the_clock_is_still_compared(site: Checked, hub_with: HubWith) -> None:
    for status in (403, 404):
        hub_with(older=status)
        rows = site.check(status=0)
        assert "older" in rows["hub"]["detail"]
        assert {rows[name]["state"] for name in ("large messages", "silence", "hub's version")} == {"not tried"}


# --- name and port ----------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_resolve(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    site.joins(443, host="no-such-hub.invalid")
    rows = site.check(status=1)  # a machine without a name server is told so
    assert rows["name"]["code"] in ("NAME_UNKNOWN", "NAME_SILENT")
    assert "no-such-hub.invalid" in rows["name"]["detail"]
    assert rows["port"]["state"] == "not tried"


def test_a_name_that_the_name_server_denies(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(host: str, port: int) -> list[route.Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(route, "system_resolve", deny)
    site.joins(443, host="hub.example.org")
    site.finds("name", "NAME_UNKNOWN", "hub.example.org")


@pytest.mark.parametrize("quick", [True, False])
def test_a_name_server_that_does_not_answer(site: Checked, monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    monkeypatch.setattr(route, "NAME_LIMIT_S", 0.5)
    released = threading.Event()

    def silence(host: str, port: int) -> list[route.Address]:
        if not quick:
            released.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(route, "system_resolve", silence)
    site.joins(443, host="hub.example.org")
    site.finds("name", "NAME_SILENT", "hub.example.org")
    released.set()


def test_a_closed_port(site: Checked) -> None:
    port = closed_port()
    site.joins(port)
    site.finds("port", "PORT_CLOSED", f"127.0.0.1:{port} refuses")


def test_a_filtered_port(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "CONNECT_LIMIT_S", 0.5)
    with silent_port() as port:
        site.joins(port)
        site.finds("port", "PORT_FILTERED", f"127.0.0.1:{port}", "0.5 s")


def test_a_host_without_a_route(site: Checked) -> None:
    site.joins(443, host="255.255.255.255")
    site.finds("port", "UNREACHABLE", "255.255.255.255:443", "Network is unreachable")


def test_addresses_of_which_the_first_is_dead(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "CONNECT_LIMIT_S", 1.0)
    hub_with()
    port = site.port
    site.joins(port, host="localhost")
    with silent_port() as dead:
        resolving(monkeypatch, ("127.0.0.1", dead), ("127.0.0.1", port))
        rows = site.check(status=1)
        assert rows["port"]["code"] == "ONE_FAMILY"
        assert "gai.conf" in rows["port"]["remedy"]
        resolving(monkeypatch, ("127.0.0.1", port), ("127.0.0.1", dead))
        assert site.check(status=0)["port"]["state"] == "ok"


def test_one_family_without_a_route_is_passed_over_without_a_problem(
    site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_with()
    port = site.port
    site.joins(port, host="localhost")
    resolving(monkeypatch, ("::1", closed_port()), ("127.0.0.1", port))
    assert "::1 does not" in site.check(status=0)["port"]["detail"]


# --- certificates -----------------------------------------------------------------------------------------------------


def test_an_intercepted_connection_names_the_interceptor_and_both_digests(site: Checked, tmp_path: Path) -> None:
    context = foreign_certificate(tmp_path / "av", "Example Antivirus Web Shield Root", ["localhost"])
    with serving(FakeHub(context)) as port:
        site.joins(port, host="localhost")
        found = site.finds("certificate", "INTERCEPTED", "Example Antivirus Web Shield Root", "SHA-256", f"localhost:{port}")
    assert digest(tls.Secure(route.Way(route.Hub("x", 1)), site.home.hub_ca).authority()) in found["detail"]
    assert "exempt" in found["remedy"]


def test_an_issuers_name_cannot_write_on_the_screen(site: Checked, tmp_path: Path) -> None:
    context = foreign_certificate(tmp_path / "av", "\x1b[31mred\n" + "x" * 40, ["localhost"])
    with serving(FakeHub(context)) as port:
        site.joins(port, host="localhost")
        found = site.finds("certificate", "INTERCEPTED", "?[31mred?")
    assert found["detail"].isprintable()


def test_another_servers_certificate(site: Checked, tmp_path: Path) -> None:
    context = foreign_certificate(tmp_path / "web", "Public CA", ["www.hospital.example"])
    with serving(FakeHub(context)) as port:
        site.joins(port)
        site.finds("certificate", "OTHER_SERVER", "www.hospital.example", "Public CA")


def test_a_hub_whose_authority_was_made_anew(site: Checked, tmp_path: Path) -> None:
    other = make_tls(tmp_path / "other", ["127.0.0.1"], now=NOW)
    with serving(FakeHub(server_context(other.certificate, other.key))) as port:
        site.joins(port)
        site.finds("certificate", "OTHER_AUTHORITY", "wardround hub authority")


@pytest.mark.parametrize(
    ("code", "days", "words"),
    [("CERTIFICATE_EXPIRED", -1000, "has expired"), ("CERTIFICATE_EARLY", 10, "not valid yet")],
)
def test_a_certificate_out_of_its_time_points_at_the_clock(site: Checked, tmp_path: Path, code: str, days: int, words: str) -> None:
    folder = tmp_path / "dated"
    dated = make_tls(folder, ["127.0.0.1"], now=NOW)
    dated = make_tls(folder, ["127.0.0.1"], now=NOW + datetime.timedelta(days=days))  # the authority stays
    site.home.hub_ca.write_bytes(dated.ca.read_bytes())
    with serving(FakeHub(server_context(dated.certificate, dated.key))) as port:
        site.joins(port)
        found = site.finds("certificate", code, words, "the clock here says")
    assert "NTP" in found["remedy"]


def test_a_hub_that_moved_to_another_name(site: Checked, tmp_path: Path) -> None:
    moved = make_tls(tmp_path / "moved", ["hub.example.org"], now=NOW)
    site.home.hub_ca.write_bytes(moved.ca.read_bytes())
    with serving(FakeHub(server_context(moved.certificate, moved.key))) as port:
        site.joins(port)
        found = site.finds("certificate", "CERTIFICATE_NAME", "hub.example.org", "127.0.0.1")
    assert "new invite" in found["remedy"]


def test_an_authority_that_is_missing_or_damaged(site: Checked, hub_with: HubWith) -> None:
    hub_with()
    site.home.hub_ca.write_text("no certificate")
    site.finds("certificate", "NO_AUTHORITY", "hub-ca.pem")
    site.home.hub_ca.unlink()
    site.finds("certificate", "NO_AUTHORITY", "hub-ca.pem")


def test_a_captive_portal(site: Checked) -> None:
    with serving(portal) as port:
        site.joins(port)
        site.finds("certificate", "NOT_TLS", "HTTP/1.1 302", "portal.hospital.example")


def test_a_port_that_accepts_and_says_nothing(site: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_LIMIT_S", 0.5)
    with serving(accepts_and_says_nothing) as port:
        site.joins(port)
        site.finds("certificate", "TLS_SILENT", "0.5 s")


def test_a_connection_that_is_cut_in_the_handshake(site: Checked) -> None:
    with serving(cuts_at_once) as port:
        site.joins(port)
        site.finds("certificate", "TLS_CUT", f"127.0.0.1:{port}")


# --- proxies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Through:
    """The gateway's environment names this proxy; the hub is not 127.0.0.1, which the gateway never asks a proxy for."""

    def set_proxy(url: str) -> None:
        monkeypatch.setenv("HTTPS_PROXY", url)

    return set_proxy


def behind(site: Checked, hub_with: HubWith) -> None:
    hub_with()
    site.joins(site.port, host="localhost")


def test_through_a_good_proxy_all_is_well(site: Checked, hub_with: HubWith, through: Through) -> None:
    behind(site, hub_with)
    proxy = HttpProxy()
    with serving(proxy) as port:
        through(f"http://127.0.0.1:{port}")
        rows = site.check(status=0)
    assert "lets CONNECT localhost:" in rows["proxy"]["detail"]
    assert all(head.startswith(b"CONNECT localhost:") for head in proxy.heard)


def test_a_proxy_that_cannot_be_reached(site: Checked, hub_with: HubWith, through: Through) -> None:
    behind(site, hub_with)
    port = closed_port()
    through(f"http://127.0.0.1:{port}")
    site.finds("port", "PROXY_UNREACHABLE", f"127.0.0.1:{port}", "refused")


def test_a_proxy_whose_name_is_not_known(
    site: Checked, hub_with: HubWith, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(host: str, port: int) -> list[route.Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    behind(site, hub_with)
    monkeypatch.setattr(route, "system_resolve", deny)
    through("http://proxy.hospital.example:3128")
    site.finds("name", "PROXY_UNREACHABLE", "proxy.hospital.example")


@pytest.mark.parametrize("login", ["", "alice:open-sesame@"])
def test_a_proxy_that_wants_a_login_names_the_kinds_and_never_the_password(
    site: Checked, hub_with: HubWith, through: Through, login: str
) -> None:
    behind(site, hub_with)
    with serving(HttpProxy(status=407, offers=("Negotiate", "NTLM", 'Basic realm="clinic"'))) as port:
        through(f"http://{login}127.0.0.1:{port}")
        site.finds("proxy", "PROXY_AUTH", "407", "Negotiate, NTLM, Basic")
        site.check(status=1)
        site.capsys.readouterr()
        main(["--home", str(site.home.root), "check", "--part", "gateway", "--idle", "1"])
        shown = site.capsys.readouterr()
    assert "open-sesame" not in shown.out + shown.err
    assert "alice" not in shown.out + shown.err


def test_a_proxy_with_the_right_login_lets_through(site: Checked, hub_with: HubWith, through: Through) -> None:
    behind(site, hub_with)
    with serving(HttpProxy(login="Proxy-Authorization: Basic YWxpY2U6b3BlbiBzZXNhbWU=")) as port:
        through(f"http://alice:open%20sesame@127.0.0.1:{port}")
        site.check(status=0)


@pytest.mark.parametrize(
    ("code", "words", "faults"),
    [
        ("PROXY_REFUSES", "403", {"status": 403}),
        ("PROXY_NO_WAY", "502", {"status": 502}),
        ("PROXY_BREAKS", "cuts", {"cuts": True}),
        ("PROXY_BREAKS", "no HTTP", {"garbage": True}),
    ],
)
def test_a_proxy_that_does_not_let_through(
    site: Checked, hub_with: HubWith, through: Through, code: str, words: str, faults: dict[str, object]
) -> None:
    behind(site, hub_with)
    with serving(HttpProxy(**faults)) as port:
        through(f"http://127.0.0.1:{port}")
        site.finds("proxy", code, words, "localhost:")


def test_a_proxy_that_is_silent(site: Checked, hub_with: HubWith, through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "PROXY_LIMIT_S", 0.5)
    behind(site, hub_with)
    with serving(HttpProxy(silent=True)) as port:
        through(f"http://127.0.0.1:{port}")
        site.finds("proxy", "PROXY_BREAKS", "0.5 s", "localhost:")


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", "file:///proxy.pac", "http://[::1"])
def test_a_proxy_setting_that_the_gateway_cannot_use(site: Checked, hub_with: HubWith, through: Through, url: str) -> None:
    behind(site, hub_with)
    through(url)
    site.finds("hub address", "PROXY_SETTING", "HTTPS_PROXY")


def test_an_interceptor_behind_a_proxy_is_named_too(site: Checked, through: Through, tmp_path: Path) -> None:
    context = foreign_certificate(tmp_path / "av", "Clinic Proxy CA", ["localhost"])
    with serving(FakeHub(context)) as port, serving(HttpProxy()) as proxy:
        site.joins(port, host="localhost")
        through(f"http://127.0.0.1:{proxy}")
        site.finds("certificate", "INTERCEPTED", "Clinic Proxy CA")


# --- answers ----------------------------------------------------------------------------------------------------------


def test_something_behind_the_hubs_certificate_that_is_no_hub(site: Checked, hub_with: HubWith) -> None:
    for hello in (b"<html>", b"{}", b'{"product": "x", "version": "0.1.0", "utc": "2026-01-01T00:00:00", "roster": null}'):
        hub_with(hello=hello)
        site.finds("hub", "NOT_A_HUB", "no greeting")


def test_a_hub_that_agrees_on_tls_and_is_mute(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ANSWER_LIMIT_S", 0.5)
    hub_with(mute=True)
    site.finds("hub", "TLS_SILENT", "agrees on TLS")


@pytest.mark.parametrize("by_reset", [False, True])
def test_an_answer_that_is_cut_off(site: Checked, hub_with: HubWith, by_reset: bool) -> None:
    hub_with(cut_after=30_000, reset=by_reset)
    site.finds("large messages", "CUT_OFF", "of 65536 bytes from the hub", "RST" if by_reset else "FIN")


@pytest.mark.parametrize("by_reset", [False, True])
def test_an_end_in_the_middle_of_a_tls_record_is_told_from_a_reset_there(tmp_path: Path, by_reset: bool) -> None:
    """Python's TLS hears of either, and says the same of both."""
    server, client = server_context(*_certificate(tmp_path)), ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        cut = threading.Event()

        def send_half_a_record() -> None:
            heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
            tunnel = server.wrap_bio(heard, said, server_side=True)
            while True:
                try:
                    tunnel.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    far.sendall(said.read())
                    heard.write(far.recv(65_536))
            said.read()  # no tickets
            tunnel.write(b"x" * 1000)
            far.sendall(said.read()[:-10])
            reset(far) if by_reset else far.close()
            cut.set()

        sender = threading.Thread(target=send_half_a_record, daemon=True)
        sender.start()
        with client.wrap_socket(near) as line:
            assert cut.wait(30)
            time.sleep(0.1)  # what was sent lies in this side's kernel
            line.settimeout(5.0)
            reader = network._Reader(line)
            with pytest.raises(ConnectionResetError if by_reset else EOFError):
                reader.readinto(bytearray(100))
        sender.join(5)


def _certificate(folder: Path) -> tuple[Path, Path]:
    foreign_certificate(folder, "somebody", ["hub.example"])
    return folder / "foreign.pem", folder / "foreign.key"


def test_large_packets_that_vanish_are_told_apart(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ANSWER_LIMIT_S", 1.5)
    hub_with(stall_after=1)
    found = site.finds("large messages", "LARGE_STALLS", "then nothing for 1.5 s")
    assert "MTU" in found["remedy"]
    hub_with(swallow=True)
    site.finds("large messages", "LARGE_STALLS", "to the hub were not taken")


def test_an_answer_that_is_altered_or_refused_for_its_size(site: Checked, hub_with: HubWith) -> None:
    hub_with(altered=True)
    site.finds("large messages", "ALTERED", "SHA-256")
    hub_with(too_large=True)
    site.finds("large messages", "CUT_OFF", "413")


def test_a_line_too_slow(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TRANSFER_LIMIT_S", -1.0)
    hub_with()
    site.finds("large messages", "SLOW_LINE")


@pytest.mark.usefixtures("silent_line")
def test_a_busy_hub_is_no_problem_of_the_sites(site: Checked, hub_with: HubWith) -> None:
    hub_with(busy=True)
    rows = site.check(status=0)
    assert {rows[name]["state"] for name in ("large messages", "silence")} == {"not tried"}


@pytest.mark.usefixtures("silent_line")
@pytest.mark.parametrize("by_reset", [False, True])
def test_a_silent_connection_that_is_cut_says_when_and_from_which_side(site: Checked, hub_with: HubWith, by_reset: bool) -> None:
    hub_with(idle_cut_s=1.2, reset=by_reset)
    found = site.finds("silence", "IDLE_CUT", "was cut after 1.", "RST" if by_reset else "FIN", asked=("--idle", "3"))
    assert "idle time-out" in found["remedy"]


@pytest.mark.usefixtures("silent_line")
def test_a_proxy_that_cuts_silence(site: Checked, hub_with: HubWith, through: Through) -> None:
    behind(site, hub_with)
    with serving(HttpProxy(idle_cut_s=1.2)) as port:
        through(f"http://127.0.0.1:{port}")
        site.finds("silence", "IDLE_CUT", "was cut after 1.", asked=("--idle", "3"))


@pytest.mark.usefixtures("silent_line")
def test_silence_that_is_lost_without_a_word(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "GRACE_S", 0.3)
    monkeypatch.setattr(FakeHub, "_hold", lambda hub, tunnel, seconds: time.sleep(20))
    hub_with()
    site.finds("silence", "IDLE_CUT", "nobody says so")


@pytest.mark.usefixtures("silent_line")
def test_a_cut_later_than_the_gateway_is_ever_silent_is_told_and_no_problem(
    site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "LOOK_S", 0)
    hub_with(idle_cut_s=1.2)
    assert "does not notice" in site.check("--idle", "3", status=0)["silence"]["detail"]


# --- what the hub says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead_s", "side"), [(90.0, "behind"), (-7.0, "ahead of")])
def test_a_clock_that_differs(site: Checked, hub_with: HubWith, ahead_s: float, side: str) -> None:
    """Ahead of the hub a few seconds are too many: it refuses signatures from its future."""
    hub_with(ahead_s=ahead_s)
    found = site.finds("clock", "CLOCK", f"s {side} the hub's")
    assert "NTP" in found["remedy"]


@pytest.mark.parametrize("ahead_s", [30.0, -2.0])
def test_a_clock_that_will_do(site: Checked, hub_with: HubWith, ahead_s: float) -> None:
    hub_with(ahead_s=ahead_s)
    site.check(status=0)


@pytest.mark.parametrize(
    ("version", "words"), [("0.9.0", "update this site to 0.9"), ("2.0.0", "update this site"), ("x", "no version")]
)
def test_versions_too_far_apart(site: Checked, hub_with: HubWith, version: str, words: str) -> None:
    hub_with(version=version)
    site.finds("hub's version", "VERSION", words)


def test_a_roster_that_differs_is_named_by_side(site: Checked, hub_with: HubWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.preflight.site.roster_version", lambda home: 2)
    hub_with(roster=3)
    site.finds("hub's roster", "ROSTER_OLD", "version 2 here, 3 at the hub")
    hub_with(roster=1)
    site.finds("hub's roster", "ROSTER_NEW", "version 2 here, 1 at the hub")
    hub_with(roster=2)
    site.check(status=0)


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("silent_line")
def test_every_byte_that_is_sent_is_the_same_from_every_site(site: Checked, hub_with: HubWith, hospitals: Path) -> None:
    """Canaries in the data folder, in settings and in keys: what the hub hears is a list of fixed words."""
    for path in (hospitals / "hospital-1").iterdir():
        (site.home.root / "data" / path.name).write_bytes(path.read_bytes())
    hub = hub_with()
    site.check("--part", "all", status=1)  # it has no roster and no policy
    heard = b"".join(sorted(hub.heard))
    host = re.escape(site.home.config.read_text().split('hub: "')[1].split('"')[0].encode())
    body = hashlib.shake_256(b"wardround/bytes/1").digest(1 << 20)
    for size in (1 << 20, 65_536):
        assert body[:size] in b"".join(hub.heard)
    words = re.sub(
        rb"(GET|POST) /wardround/(hello|echo|bytes/\d+|hold/1) HTTP/1.1\r\nHost: " + host + rb"\r\n", b"", b"".join(hub.heard)
    )
    words = words.replace(b"Content-Length: 1048576\r\n\r\n" + body, b"").replace(
        b"Content-Length: 65536\r\n\r\n" + body[:65_536], b""
    )
    assert words.replace(b"\r\n", b"") == b""
    assert len(heard) > 1 << 20
