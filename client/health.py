"""Says whether a daemon of this site does its work: exit status 0 if it does, 1 with the reason if not. For container engines.

    python -m client.health guard|gateway

The guard is asked over its socket by the gRPC health service. The gateway says of itself whether it has the hub. Imports little:
an engine asks several times a minute.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from client.clock import ALIVE_S, age_s
from client.home import HOME_VARIABLE, Home


def guard_trouble(home: Home) -> str:
    """What is wrong with the guard; empty if it serves."""
    from client.guard_rpc import GuardClient  # the gateway's health needs no gRPC

    with contextlib.closing(GuardClient(home.socket)) as guard:
        return "" if guard.health() else f"the guard does not serve at {home.socket}: look at its log"


def gateway_trouble(home: Home) -> str:
    """What is wrong with the gateway; empty if it is connected to the hub."""
    board = home.root / "gateway" / "state" / "gateway.json"
    try:
        shown = json.loads(board.read_text(encoding="utf-8"))
        state, detail, since, beat = (shown.get(name) for name in ("supernode", "detail", "since", "beat"))
    except (OSError, ValueError, AttributeError):
        return f"the gateway has not written {board}: is it running?"
    if age_s(beat) > ALIVE_S:
        return f"the gateway was {state} and says nothing since {beat}: it hangs or ended, or its disk is full"
    if state == "connected":
        return ""
    return f"the gateway is {state} since {since}" + (f": {detail}" if detail else "")


PARTS: dict[str, Callable[[Home], str]] = {"guard": guard_trouble, "gateway": gateway_trouble}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m client.health", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get(HOME_VARIABLE) or "~/.wardround-site"))
    parser.add_argument("part", choices=sorted(PARTS))
    args = parser.parse_args(argv)
    trouble = PARTS[args.part](Home(args.home.expanduser()))
    print(trouble or f"the {args.part} does its work")
    return int(bool(trouble))


if __name__ == "__main__":
    sys.exit(main())
