"""Each site is a host of its own to the kernel: cables are pulled, packets are lost, lines are narrow, and the run ends well."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from books import check_books
from consortium_of_four import SHORT_WAITS, Consortium, Enrolment, Going, demo, wait_until

from client.config import load_config as load_site
from client.config import write_config as write_site
from client.home import Home
from server.tls import make_tls

BRIDGE: Final = "wr-faults"
HUB: Final = "10.77.0.1"
NUMBERS: Final = (1, 2, 3, 4)
TOOLS: Final = ("ip", "tc")
LONG: Final = ("schedule.rounds=6", "schedule.evaluate_every=6", "schedule.spare_train=20", *SHORT_WAITS)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, TOOLS)), reason="needs root, ip and tc"),
]


def space(number: int) -> str:
    return f"wr-hospital-{number}"


def cable(number: int) -> str:
    return f"wr-cable-{number}"


def do(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def inside(number: int, *words: str) -> None:
    do("ip", "netns", "exec", space(number), *words)


@contextmanager
def hosts() -> Iterator[None]:
    """A bridge with the hub's address, and four network namespaces on it, each with one cable."""
    try:
        do("ip", "link", "add", BRIDGE, "type", "bridge")
        do("ip", "addr", "add", f"{HUB}/24", "dev", BRIDGE)
        do("ip", "link", "set", BRIDGE, "up")
        for number in NUMBERS:
            do("ip", "netns", "add", space(number))
            do("ip", "link", "add", cable(number), "type", "veth", "peer", "name", "eth0", "netns", space(number))
            do("ip", "link", "set", cable(number), "master", BRIDGE, "up")
            inside(number, "ip", "addr", "add", f"10.77.0.{10 + number}/24", "dev", "eth0")
            inside(number, "ip", "link", "set", "eth0", "up")
            inside(number, "ip", "link", "set", "lo", "up")
        yield
    finally:
        for number in NUMBERS:
            subprocess.run(("ip", "netns", "del", space(number)), check=False, capture_output=True)
        subprocess.run(("ip", "link", "del", BRIDGE), check=False, capture_output=True)


class SpacedProcesses(demo.Processes):  # type: ignore[name-defined,misc]  # a script, imported by its path
    """Gateways run in their site's namespace; guards need no network at all."""

    def start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        if name == "hub":
            command = (*command, "--bind", "0.0.0.0")
        if name.endswith("-gateway"):
            command = ("ip", "netns", "exec", f"wr-{name.removesuffix('-gateway')}", *command)
        found: subprocess.Popen[bytes] = super().start(name, *command)
        return found


class SpacedEnrolment(Enrolment):
    def enrol(self, sites: list[Any]) -> None:
        super().enrol(sites)
        make_tls(self.lead_home / "hub" / "tls", ["127.0.0.1", HUB], now=datetime.now(UTC))
        for site in sites:
            home = Home(site.home)
            write_site(home, replace(load_site(home), hub=f"{HUB}:{self.port}"))


class SpacedConsortium(Consortium):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.enrolment = SpacedEnrolment(folder, self.enrolment.args)
        self.enrolment.processes = SpacedProcesses(folder)


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpacedConsortium]:
    with hosts(), SpacedConsortium(tmp_path_factory.mktemp("hosts") / "c") as consortium:
        yield consortium


def ends_well(consortium: SpacedConsortium, going: Going) -> None:
    assert going.status(600) == 0, going.output[-2000:]
    check_books(consortium, going)
    consortium.mend()


def test_two_pulled_cables_are_waited_for(spaced: SpacedConsortium) -> None:
    going = spaced.begin(spaced.plan(*LONG))
    wait_until(lambda: going.begun(3), "round 3 begun")
    for number in (1, 2):
        do("ip", "link", "set", cable(number), "down")
    time.sleep(30)  # not waiting for something: this is how long the cables are out
    for number in (1, 2):
        do("ip", "link", "set", cable(number), "up")
    ends_well(spaced, going)


@pytest.mark.skipif(shutil.which("iptables") is None, reason="needs iptables")
def test_a_site_whose_packets_are_lost_takes_part_or_is_named(spaced: SpacedConsortium) -> None:
    lossy = ("iptables", "-A", "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", "0.2", "-j", "DROP")
    inside(3, *lossy)
    try:
        ends_well(spaced, spaced.begin(spaced.plan(*LONG)))
    finally:
        inside(3, "iptables", "-F")


def test_a_narrow_line_carries_a_run(spaced: SpacedConsortium) -> None:
    do("tc", "qdisc", "add", "dev", cable(4), "root", "tbf", "rate", "256kbit", "burst", "32kbit", "latency", "400ms")
    try:
        going = spaced.begin(spaced.plan(*LONG))
        ends_well(spaced, going)
    finally:
        do("tc", "qdisc", "del", "dev", cable(4), "root")
    assert "hospital-4" in going.done()[-1].survivors
