"""The same failures where their cause is the kernel's: a path with a smaller MTU and no ICMP, a firewall, no route."""

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checked_site import Checked

from client.config import SiteConfig, write_config
from server.tls import make_tls

ROOT = Path(__file__).parents[3]
PORT = 8443
TOOLS = ("ip", "iptables")
missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or bool(missing), reason="needs root, ip and iptables"),
]


def sudo(*words: str, wanted: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if wanted and done.returncode:
        pytest.skip(f"{' '.join(words)}: {done.stderr.strip()[:120]}")


@dataclass
class Path3:
    """site -- router -- hub, each in a network namespace; `site` sends to 10.93.2.2."""

    tag: str

    def name(self, part: str) -> str:
        return f"wr{self.tag}{part}"

    def within(self, part: str, *words: str) -> None:
        sudo("ip", "netns", "exec", self.name(part), *words)

    def build(self) -> None:
        for part in ("s", "r", "h"):
            sudo("ip", "netns", "add", self.name(part))
            self.within(part, "ip", "link", "set", "lo", "up")
        for part, net in (("s", "1"), ("h", "2")):
            near, far = f"w{self.tag}{part}0", f"w{self.tag}{part}1"
            sudo("ip", "link", "add", near, "type", "veth", "peer", "name", far)
            sudo("ip", "link", "set", near, "netns", self.name(part))
            sudo("ip", "link", "set", far, "netns", self.name("r"))
            for where, device, host in ((part, near, "2"), ("r", far, "1")):
                self.within(where, "ip", "addr", "add", f"10.93.{net}.{host}/24", "dev", device)
                self.within(where, "ip", "link", "set", device, "up")
            self.within(part, "ip", "route", "add", "default", "via", f"10.93.{net}.1")
        self.within("r", "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def remove(self) -> None:
        for part in ("s", "r", "h"):
            sudo("ip", "netns", "del", self.name(part), wanted=False)


@pytest.fixture
def path() -> Iterator[Path3]:
    found = Path3(f"{os.getpid() % 10_000}")
    try:
        found.build()
        yield found
    finally:
        found.remove()


@pytest.fixture
def hub(path: Path3, site: Checked, tmp_path: Path) -> Iterator[None]:
    """A hub at 10.93.2.2 that the site has joined."""
    files = make_tls(tmp_path / "far", ["10.93.2.2"], now=datetime.datetime.now(datetime.UTC))
    site.home.hub_ca.write_bytes(files.ca.read_bytes())
    joins(site, "10.93.2.2")
    command = ["ip", "netns", "exec", path.name("h"), sys.executable, str(ROOT / "tests/shared/hospital_network.py")]
    process = subprocess.Popen([*command, str(files.certificate), str(files.key), "10.93.2.2", str(PORT)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"ready"
    yield
    process.terminate()
    process.wait(10)
    process.stdout.close()


def joins(site: Checked, host: str) -> None:
    write_config(site.home, SiteConfig("site-a", ("cis_conversion",), site.home.root / "data", "main", f"{host}:{PORT}", 1))


def problems(path: Path3, site: Checked) -> dict[str, str]:
    """Code -> detail of the check run at the site's end of the path."""
    words = ["--home", str(site.home.root), "--json", "check", "--part", "gateway", "--idle", "1"]
    command = ["ip", "netns", "exec", path.name("s"), sys.executable, "-m", "client.cli", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode in (0, 1), done.stderr
    found = {row["code"]: row["detail"] for row in json.loads(done.stdout) if row["state"] == "PROBLEM"}
    assert bool(found) == bool(done.returncode)
    return found


@pytest.mark.usefixtures("hub")
def test_large_packets_vanish_on_a_path_with_a_smaller_mtu_and_no_icmp(path: Path3, site: Checked) -> None:
    assert problems(path, site) == {}
    path.within("r", "ip", "link", "set", f"w{path.tag}s1", "mtu", "1200")
    path.within("r", "ip", "link", "set", f"w{path.tag}h1", "mtu", "1200")
    path.within("r", "iptables", "-A", "OUTPUT", "-p", "icmp", "-j", "DROP")
    time.sleep(0.1)
    found = problems(path, site)
    assert set(found) == {"LARGE_STALLS"}, found
    assert "then nothing for 10 s" in found["LARGE_STALLS"]


@pytest.mark.usefixtures("hub")
def test_a_firewall_that_drops_one_that_rejects_and_no_route_are_told_apart(path: Path3, site: Checked) -> None:
    path.within("r", "iptables", "-A", "FORWARD", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    assert set(problems(path, site)) == {"PORT_FILTERED"}
    path.within(
        "r", "iptables", "-R", "FORWARD", "1", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT", "--reject-with", "tcp-reset"
    )
    assert set(problems(path, site)) == {"PORT_CLOSED"}
    path.within("r", "iptables", "-F", "FORWARD")
    path.within("s", "ip", "route", "del", "default")
    assert set(problems(path, site)) == {"UNREACHABLE"}
