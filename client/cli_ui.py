"""`wardround-site ui`: the data steward's page, on this computer, for as long as the command runs."""

import argparse
import logging
import os
import socket
import webbrowser
from pathlib import Path
from typing import Final

from client.cli_output import Output
from client.config import load_config
from client.errors import ConfigError
from client.files import write_atomic
from client.home import Home
from client.logs import Logs, form_of

LOOPBACK: Final = "127.0.0.1"
NAMES: Final = (LOOPBACK, "localhost")
ANY: Final = "0.0.0.0"  # noqa: S104 - inside a container alone, see `_bound`
CONTAINER_SIGNS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
WAITING: Final = 16  # requests at a time
EXAMPLE = """examples:
  wardround-site ui                              opens the page in a browser; Ctrl-C ends it
  wardround-site ui --no-browser --port 8470     prints the link only
  docker compose run --rm -p 127.0.0.1:8470:8470 ui ui --port 8470 --behind-published-port
The link works once, in one browser, on this computer. Whoever opens it can approve plans with this site's key."""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "the data steward's page in a browser: plans, budget, what left"
    shape = argparse.RawDescriptionHelpFormatter
    page = verbs.add_parser("ui", help=about, description=about, epilog=EXAMPLE, formatter_class=shape)
    page.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default: a free one)")
    page.add_argument("--no-browser", action="store_true", help="print the link and open nothing")
    page.add_argument(
        "--behind-published-port",
        action="store_true",
        help="in a container alone: listen where the engine can publish the port; publish it on the host's 127.0.0.1, same number",
    )
    page.set_defaults(handler=_ui)


def _ui(home: Home, args: argparse.Namespace, out: Output) -> int:
    """Until Ctrl-C or SIGTERM."""
    import uvicorn  # the page alone needs a server

    from client.page import make_page
    from client.page_door import Session

    config = load_config(home)
    home.load_identity()  # a page that cannot sign is of no use: say so now
    Logs("page", config.site, form_of(config.log_format)).start(level=logging.WARNING)
    with _bound(args) as listening:
        port = int(listening.getsockname()[1])
        session = Session()
        link = f"http://{LOOPBACK}:{port}/enter?link={session.link}"
        app = make_page(home, session, frozenset(f"{name}:{port}" for name in NAMES))
        print(f"The steward's page, once: {link}\nCtrl-C ends it.", flush=True)
        opener = None if args.no_browser or args.behind_published_port else _open(home, link)
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            proxy_headers=False,
            limit_concurrency=WAITING,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            return 0
        finally:
            if opener is not None:
                opener.unlink(missing_ok=True)
    return 0


def _bound(args: argparse.Namespace) -> socket.socket:
    """The listening socket: loopback, and nothing but loopback outside a container."""
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"port {args.port} is outside [0, 65535]; 0 takes a free one")
    if args.behind_published_port and not args.port:
        raise ConfigError("--behind-published-port needs --port: the number that is published")
    if args.behind_published_port and not any(sign.exists() for sign in CONTAINER_SIGNS):
        raise ConfigError("--behind-published-port is for containers: here the page would be open to the network; leave it out")
    address = ANY if args.behind_published_port else LOOPBACK
    try:
        return socket.create_server((address, args.port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}:{args.port} ({error.strerror}): name another --port") from error


def _open(home: Home, link: str) -> Path | None:
    """By a file of this user alone: a browser's arguments, and the link in them, can be read by everybody on this computer."""
    page = home.log.with_name(f"open-page-{os.getpid()}.html")
    head = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={link}">'
    words = f'{head}<p><a href="{link}">Open the page</a></p>'
    write_atomic(page, words.encode("ascii"))
    webbrowser.open(page.as_uri())
    return page
