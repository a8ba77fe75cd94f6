"""Says whether the hub answers on its port with its own certificate: exit status 0 if it does, 1 with the reason. For engines.

    python -m server.health --port 8443

Nothing of Flower is imported: an engine asks several times a minute.
"""

import argparse
import http.client
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from server.home import LeadHome, default_home

ASK_S = 5.0


def hub_trouble(home: LeadHome, port: int) -> str:
    """What is wrong with the hub on this machine; empty if it answers."""
    try:
        trust = ssl.create_default_context(cafile=home.hub / "tls" / "ca.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=ASK_S, context=trust)
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no hub answers on port {port} ({type(error).__name__}): look at its log"
    return "" if status == http.client.OK else f"the hub answers with status {status}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m server.health", description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--port", type=int, default=8443)
    args = parser.parse_args(argv)
    trouble = hub_trouble(LeadHome(args.home.expanduser()), args.port)
    print(trouble or "the hub answers")
    return int(bool(trouble))


if __name__ == "__main__":
    sys.exit(main())
