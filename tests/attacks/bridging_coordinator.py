"""A ServerApp that carries what a script in another process tells it, over the real transport; the script decides everything.

Orders come over the Unix socket `bridge` in the run's folder, one at a time, and each is answered:
`("exchange", kind, {site: (control, body)})` -> {site: (control, body)}, by the product's own `FlowerTransport`;
`("volley", site, [(message type, control, body)])` -> [(control, body, names of arrays)], all pushed at once; None -> the end.
"""

import json
import time
from collections.abc import Sequence
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from consortium.wire import Request
from server.flower import FlowerTransport, GridMail, from_content, to_content
from server.transport import Patience

DEADLINE_S = 60.0


def coordinate(grid: Grid, context: Context) -> None:
    run_dir = Path(str(context.run_config["run-dir"]))
    nodes = json.loads(str(context.run_config["nodes"]))
    mail = GridMail(grid)
    transport = FlowerTransport(mail, nodes)
    with Client(str(run_dir / "bridge"), "AF_UNIX") as bridge:
        while (order := bridge.recv()) is not None:
            what, to, given = order
            if what == "exchange":
                requests = {site: Request(*content) for site, content in given.items()}
                replies = transport.exchange(to, requests, Patience(DEADLINE_S))
                bridge.send({site: (reply.control, bytes(reply.body)) for site, reply in replies})
            else:
                bridge.send(volley(mail, nodes[to], given))


def volley(mail: GridMail, node: int, given: Sequence[tuple[str, bytes, bytes]]) -> list[tuple[bytes, bytes, tuple[str, ...]]]:
    """In the order of the messages."""
    messages = [Message(to_content(control, body), node, name, ttl=DEADLINE_S) for name, control, body in given]
    names = [str(name) for name in mail.push(messages)]
    handles: dict[str, Any] = {}
    end = time.monotonic() + DEADLINE_S
    while len(handles) < len(names) and time.monotonic() < end:
        handles |= dict(mail.announced([name for name in names if name not in handles]))
        time.sleep(0.02)
    replies = [mail.fetch(handles[name], DEADLINE_S) for name in names]
    read = [(*from_content(reply.content), tuple(reply.content.array_records)) for reply in replies]
    return [(control, bytes(body), arrays) for control, body, arrays in read]


app = ServerApp()
app.main()(coordinate)
