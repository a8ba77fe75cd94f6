"""The two daemons of a site: guard and gateway."""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from types import FrameType

from client.activity import Activity
from client.cli_output import Output
from client.config import load_config
from client.daemon import data_source, harden_process, open_site
from client.errors import ConfigError
from client.files import private_folder
from client.home import Home
from client.logs import AUTO, FORM_VARIABLE, Logs, form_of
from client.populations import population_key

METRICS_VARIABLE = "WARDROUND_METRICS_PORT"
BEAT_S = 2.0  # between two writings of the display by a guard with nothing to do

log = logging.getLogger("wardround.guard")


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    guard = verbs.add_parser("guard", help="the daemon with data, keys, policy and ledger; no network")
    guard.set_defaults(handler=_guard)
    gateway = verbs.add_parser("gateway", help="the daemon that talks to the hub; no data, no identity key")
    gateway.set_defaults(handler=_gateway)


def _guard(home: Home, args: argparse.Namespace, out: Output) -> int:
    """Runs until SIGTERM or SIGINT."""
    from client.canaries import audit_folder
    from client.guard import Guard
    from client.guard_rpc import serve_guard
    from client.trainer_process import TrainerProcess

    _end_while_starting()
    harden_process()
    config = load_config(home)
    logs = Logs("guard", config.site, form_of(config.log_format), home.log)
    logs.start()
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
    trainer = TrainerProcess(source, log.warning, replace(logs, component="trainer", file=None))
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
        activity = Activity(time.time, home.guard_board, trainer.alive)
        guard = Guard(site, activity)
        private_folder(home.socket.parent)
        server = serve_guard(guard.answer, home.socket, guard.status, guard.offer_roster)
        log.info("site=%s state=ready", config.site)
        try:
            _wait_for_signal(activity)
        finally:
            server.stop()
            log.info("site=%s state=stopped", config.site)
    finally:
        trainer.stop()
        site.ledger.close()
    return 0


def _end_while_starting() -> None:
    """Until the daemon serves, SIGTERM ends it at once. The first process of a container hears only the signals that it asked
    for: without this, who stops a site that still reads its data waits for the engine's patience, then kills it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))


def _wait_for_signal(activity: Activity) -> None:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    while not ended.wait(BEAT_S):
        activity.beat()


def _gateway(home: Home, args: argparse.Namespace, out: Output) -> int:
    _end_while_starting()
    from client.relay import run_gateway  # Flower is imported by this daemon alone

    site, form, metrics_port = _gateway_settings(home)
    start_gateway_logs(site, form)
    run_gateway(gateway_config(home), metrics_port=metrics_port)
    return 0


def _gateway_settings(home: Home) -> tuple[str, str, int]:
    """Site, form of the log, port of the metrics: as site.yaml says, or the environment where there is none (a container)."""
    if home.config.exists():
        config = load_config(home)
        return config.site, config.log_format, config.metrics_port
    given = os.environ.get(METRICS_VARIABLE) or "0"  # compose hands an empty one on
    if not (given.isascii() and given.isdigit()) or int(given) > 65535:
        raise ConfigError(f"{METRICS_VARIABLE}={given[:20]!r}: expected a port in [0, 65535], 0 for none")
    return "", AUTO, int(given)


def start_gateway_logs(site: str, log_format: str) -> None:
    """Libraries may speak here: there is no data that they could quote. The SuperNode's process logs in the same form."""
    form = form_of(log_format)
    os.environ[FORM_VARIABLE] = form
    Logs("gateway", site, form, foreign=True).start()


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
