"""The two daemons of a site: guard and gateway."""

import argparse
import logging
import os
import signal
import threading
import time
from dataclasses import replace
from types import FrameType

from client.activity import Activity
from client.canaries import audit_folder
from client.cli_output import Output
from client.config import SiteConfig, load_config
from client.daemon import data_source, harden_process, open_site
from client.errors import ConfigError
from client.files import private_folder
from client.home import Home
from client.logs import FORM_VARIABLE, Logs, form_of
from client.populations import population_key

BEAT_S = 2.0  # between two writings of the display by a guard with nothing to do

log = logging.getLogger("wardround.guard")


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    guard = verbs.add_parser("guard", help="the daemon with data, keys, policy and ledger; no network")
    guard.set_defaults(handler=_guard)
    gateway = verbs.add_parser("gateway", help="the daemon that talks to the hub; no data, no identity key")
    gateway.set_defaults(handler=_gateway)


def _guard(home: Home, args: argparse.Namespace, out: Output) -> int:
    """Runs until SIGTERM or SIGINT."""
    from client.guard import Guard
    from client.guard_rpc import serve_guard
    from client.trainer_process import TrainerProcess

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


def _wait_for_signal(activity: Activity) -> None:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    while not ended.wait(BEAT_S):
        activity.beat()


def _gateway(home: Home, args: argparse.Namespace, out: Output) -> int:
    from client.relay import run_gateway  # Flower is imported by this daemon alone

    config = load_config(home)
    start_gateway_logs(config)
    run_gateway(gateway_config(home, config), metrics_port=config.metrics_port)
    return 0


def start_gateway_logs(config: SiteConfig) -> None:
    """Libraries may speak here: there is no data that they could quote. The SuperNode's process logs in the same form."""
    form = form_of(config.log_format)
    os.environ[FORM_VARIABLE] = form
    Logs("gateway", config.site, form, foreign=True).start()


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
