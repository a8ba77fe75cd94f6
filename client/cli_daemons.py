"""The two daemons of a site and their state: guard, gateway, status."""

import argparse
import contextlib
import logging
import signal
import threading
import time
from types import FrameType

from client.canaries import audit_folder
from client.cli_output import Output
from client.config import load_config
from client.daemon import data_source, harden_process, log_to, open_site
from client.errors import ConfigError
from client.files import private_folder
from client.home import Home
from client.populations import population_key

log = logging.getLogger("wardround.guard")


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    guard = verbs.add_parser("guard", help="the daemon with data, keys, policy and ledger; no network")
    guard.set_defaults(handler=_guard)
    gateway = verbs.add_parser("gateway", help="the daemon that talks to the hub; holds no data and no identity key")
    gateway.set_defaults(handler=_gateway)
    verbs.add_parser("status", help="state of the guard").set_defaults(handler=_status)


def _guard(home: Home, args: argparse.Namespace, out: Output) -> int:
    """Runs until SIGTERM or SIGINT."""
    from client.guard import Guard
    from client.guard_rpc import serve_guard
    from client.trainer_process import TrainerProcess

    harden_process()
    log_to(home.log)
    config = load_config(home)
    audit = audit_folder(home.root)
    key = population_key(home.population_key)
    source = data_source(
        home.load_roster(),
        folder=config.data,
        tasks=config.tasks,
        threads=config.threads,
        audit=audit,
        key=key,
        cache=home.prepared,
        device=config.computed_on,
    )
    trainer = TrainerProcess(source, log.warning)
    site = open_site(
        home,
        site=config.site,
        tasks=config.tasks,
        train=trainer,
        now=time.time(),
        threads=config.threads,
        population=trainer.population,
    )
    try:
        trainer.start()
        guard = Guard(site)
        private_folder(home.socket.parent)
        server = serve_guard(guard.answer, home.socket, guard.status)
        log.info("site=%s state=ready", config.site)
        try:
            _wait_for_signal()
        finally:
            server.stop()
            log.info("site=%s state=stopped", config.site)
    finally:
        trainer.stop()
        site.ledger.close()
    return 0


def _wait_for_signal() -> None:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    while not ended.wait(1.0):
        pass


def _gateway(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.relay import run_gateway  # Flower is imported by this daemon alone

    log_to(None)
    run_gateway(gateway_config(home))
    return 0


def gateway_config(home: Home) -> "client.relay.GatewayConfig":  # type: ignore[name-defined]  # noqa: F821
    from client.relay import GatewayConfig

    return GatewayConfig(
        superlink=hub_of(home),
        ca_file=home.hub_ca,
        supernode_key=home.transport_key,
        guard_socket=home.socket,
        state_dir=private_folder(home.gateway / "state"),
    )


def hub_of(home: Home) -> str:
    """host:port of the hub, from site.yaml; without one, as in a gateway's container, what `join` left in the gateway's folder.

    Raises `ConfigError` before the site has joined."""
    if home.config.exists():
        hub = load_config(home).hub
    else:
        hub = home.hub_address.read_text(encoding="ascii").strip() if home.hub_address.exists() else ""
    if not hub:
        raise ConfigError(f"no hub is known in {home.root}: run `wardround-site init`, then `wardround-site join INVITE`")
    return hub


def _status(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.guard_rpc import GuardClient

    with contextlib.closing(GuardClient(home.socket)) as guard:
        out.facts("guard", guard.status())
    return 0
