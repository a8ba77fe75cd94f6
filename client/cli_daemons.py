"""The two daemons of a site and their state: guard, gateway, status."""

import argparse
import contextlib
import json
import logging
import signal
import threading
import time
from types import FrameType

from client.canaries import audit_folder
from client.cli_output import Output
from client.cli_roster import left_facts, past_changes
from client.config import SiteConfig, load_config
from client.daemon import data_source, harden_process, log_to, open_site
from client.errors import ConfigError
from client.files import private_folder
from client.home import Home
from client.populations import population_key

log = logging.getLogger("wardround.guard")


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    guard = verbs.add_parser("guard", help="the daemon with data, keys, policy and ledger; no network")
    guard.set_defaults(handler=_guard)
    gateway = verbs.add_parser("gateway", help="talks to the hub; holds no data and no identity key")
    gateway.set_defaults(handler=_gateway)
    verbs.add_parser("status", help="state of guard, gateway and roster").set_defaults(handler=_status)


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
        server = serve_guard(guard.answer, home.socket, guard.status, guard.offer_roster)
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

    config = load_config(home)
    log_to(None)
    run_gateway(gateway_config(home, config))
    return 0


def gateway_config(home: Home, config: SiteConfig) -> "client.relay.GatewayConfig":  # type: ignore[name-defined]  # noqa: F821
    from client.relay import GatewayConfig

    if not config.hub:
        raise ConfigError("no hub in site.yaml: run `wardround-site join INVITE` first")
    return GatewayConfig(
        superlink=config.hub,
        ca_file=home.hub_ca,
        supernode_key=home.transport_key,
        guard_socket=home.socket,
        state_dir=private_folder(home.gateway / "state"),
    )


def _status(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.guard_rpc import GuardClient

    with contextlib.closing(GuardClient(home.socket)) as guard:
        out.facts("guard", guard.status() | _consortium(home) | _board(home))
    return 0


def _consortium(home: Home) -> dict[str, object]:
    """Who is in, and what the newest roster changed; `wardround-site roster` shows all of it."""
    past = past_changes(home)
    changed = {"changed": f"{past[-1]['time']}: {'; '.join(past[-1]['changes'])}"} if past else {}
    return {"members": ", ".join(member.id for member in home.load_roster().members), **changed, **left_facts(home)}


def _board(home: Home) -> dict[str, object]:
    """What the gateway says of itself and of the hub; nothing where none has run."""
    try:
        found = json.loads((home.gateway / "state" / "gateway.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"gateway": "has not run yet"}
    return {f"gateway {name}" if name != "supernode" else "gateway": value for name, value in found.items() if value is not None}
