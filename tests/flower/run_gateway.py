"""A gateway as its own process: `run_gateway.py SUPERLINK CA KEY GUARD_SOCKET STATE_DIR`. For tests and measurements."""

import logging
import sys
from pathlib import Path

from client.relay import GatewayConfig, run_gateway

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
superlink, *paths = sys.argv[1:]
run_gateway(GatewayConfig(superlink, *map(Path, paths)))
