"""Which container asks what: the guard's has no network, the gateway's has no data and no identity key."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from client.daemon import code_version
from client.home import Home
from client.preflight import folders, machine, site
from client.preflight.findings import Probe
from client.preflight.network import Talk
from client.preflight.route import Way, hub_address
from client.preflight.tls import Secure
from tasks.imaging.task import ImageTask
from tasks.registry import find_task

GUARD, GATEWAY, ALL = "guard", "gateway", "all"
PARTS: Final = (GUARD, GATEWAY, ALL)
QUICK_S, DISK_S, NETWORK_S, TRANSFER_S, DATA_S = 30.0, 120.0, 75.0, 480.0, 900.0
WHOLE_S: Final = 2_400.0  # of all probes together, longest silence included
KEYS: Final = ("population.key", "pseudonym.key")  # made when first needed


@dataclass(frozen=True)
class Asked:
    """What `wardround-site check` was asked for. `idle_s` bounds the silence that is tried, in seconds."""

    part: str = ALL
    offline: bool = False
    idle_s: int = 15

    @property
    def guard(self) -> bool:
        return self.part != GATEWAY

    @property
    def gateway(self) -> bool:
        return self.part != GUARD

    @property
    def network(self) -> bool:
        return self.gateway and not self.offline


def probes(home: Home, asked: Asked) -> list[Probe]:
    """In the order in which an engineer would ask."""
    return [*_files(home, asked), *(_guard(home) if asked.guard else ()), *(network(home, asked.idle_s) if asked.network else ())]


def _files(home: Home, asked: Asked) -> Sequence[Probe]:
    places = [*(folders.guard_folders(home) if asked.guard else ()), *(folders.gateway_folders(home) if asked.gateway else ())]
    running = Probe("guard", lambda: site.guard(home), QUICK_S)
    seen = Probe("gateway", lambda: site.gateway(home), QUICK_S)
    return [
        Probe("configuration", lambda: site.configuration(home, guard=asked.guard), QUICK_S),
        Probe("keys", lambda: _closed(home, asked), QUICK_S, ("configuration",)),
        Probe("folders", lambda: folders.writable(places), DISK_S),
        Probe("disk", lambda: folders.room(places), DISK_S),
        Probe("memory", lambda: _memory(home, asked), DISK_S, ("configuration",)),
        Probe("socket", lambda: folders.socket_path(home.socket), QUICK_S),
        running,
        *((seen,) if asked.gateway else ()),
    ]


def _guard(home: Home) -> Sequence[Probe]:
    joined = ("configuration", "keys", "roster")
    return [
        Probe("core dumps", machine.closable, QUICK_S),
        Probe("identity key", lambda: site.identity(home), QUICK_S, ("configuration", "keys")),
        Probe("roster", lambda: site.roster(home), QUICK_S, ("configuration", "keys")),
        Probe("policy", lambda: site.policy(home), QUICK_S, ("configuration",)),
        Probe("ledger", lambda: site.ledger(home), DISK_S, ("configuration", "keys")),
        Probe("data", lambda: site.data(home), DATA_S, joined),
        Probe("device", lambda: site.device(home), DISK_S, ("configuration",)),
    ]


def network(home: Home, idle_s: int) -> Sequence[Probe]:
    """From the name to the hub's answers; each step needs the one before."""
    found: list[tuple[Way, Talk]] = []

    def begin() -> str:
        hub = hub_address(site.hub_of(home))
        way = Way(hub)
        found.append((way, Talk(Secure(way, home.hub_ca), code_version(), idle_s)))
        return f"{hub}; {way.choose_proxy()}"

    return [
        Probe("hub address", begin, QUICK_S, ("configuration",)),
        Probe("name", lambda: found[0][0].look_up(), QUICK_S, ("hub address",)),
        Probe("port", lambda: found[0][0].reach(), NETWORK_S, ("name",)),
        Probe("proxy", lambda: found[0][0].pass_proxy(), NETWORK_S, ("port",)),
        Probe("certificate", lambda: found[0][1].secure.certificate(), NETWORK_S, ("port", "proxy")),
        Probe("hub", lambda: found[0][1].hello(), NETWORK_S, ("certificate",)),
        Probe("hub's version", lambda: found[0][1].fits(), QUICK_S, ("hub",)),
        Probe("hub's roster", lambda: found[0][1].roster(lambda: site.roster_version(home)), QUICK_S, ("hub",)),
        Probe("clock", lambda: found[0][1].clock_skew(), QUICK_S, ("hub",)),
        Probe("large messages", lambda: found[0][1].transfer(), TRANSFER_S, ("hub",)),
        Probe("silence", lambda: found[0][1].idle(), idle_s + NETWORK_S, ("hub",)),
    ]


def _closed(home: Home, asked: Asked) -> str:
    keys = [*((home.identity,) if asked.guard else ()), *((home.transport_key,) if asked.gateway else ())]
    keys += [home.root / name for name in KEYS if asked.guard and os.path.lexists(home.root / name)]
    places = [*(folders.guard_folders(home) if asked.guard else ()), *(folders.gateway_folders(home) if asked.gateway else ())]
    return folders.closed(keys, places, private=[place for place in places if place != home.root], user=os.geteuid())


def _memory(home: Home, asked: Asked) -> str:
    threads, images = 0, False
    if asked.guard:
        config = site.settings(home)
        threads, images = config.threads, any(isinstance(find_task(name), ImageTask) for name in config.tasks)  # may import torch
    needed = machine.needed_mib(guard=asked.guard, gateway=asked.gateway, threads=threads, images=images)
    return machine.enough(machine.memory(), needed, running=site.guard_answers(home))
