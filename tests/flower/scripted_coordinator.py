"""A ServerApp that sends what `script.json` in its run folder says, over the real transport. For tests and measurements."""

import json
import os
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from consortium.wire import Refusal, Request, decode_reply
from server.flower import FlowerTransport, GridMail
from server.transport import Patience

CONTROL = b"request"


def coordinate(grid: Grid, context: Context) -> None:
    run_dir = Path(str(context.run_config["run-dir"]))
    nodes = json.loads(str(context.run_config["nodes"]))
    script = json.loads((run_dir / "script.json").read_text())
    if "raw_type" in script:
        replies = raw(grid, nodes, script)
        (run_dir / "out.json").write_text(json.dumps(replies))
        return
    transport = FlowerTransport(GridMail(grid), nodes)
    seconds, answered, refused, failures = [], [], [], []
    for number in range(script["messages"]):
        body = os.urandom(script["body"])
        started = time.monotonic()
        patience = Patience(script["deadline_s"])
        requests = {site: Request(CONTROL + site.encode(), body) for site in nodes}
        replies = dict(transport.exchange(script["kind"], requests, patience))
        seconds.append(time.monotonic() - started)
        messages = {site: decode_reply(reply.control) for site, reply in replies.items()}
        whole = [site for site, message in messages.items() if message == CONTROL + site.encode()]
        answered.append(len([site for site in whole if replies[site].body == body]))
        refused.append({site: message.code for site, message in messages.items() if isinstance(message, Refusal)})
        failures.append(dict(transport.failures))
        (run_dir / f"message-{number + 1}.json").write_text(json.dumps(answered))
        time.sleep(script.get("pause_s", 0.0))
    out = {"seconds": seconds, "answered": answered, "refused": refused, "failures": failures, "where": transport.seconds}
    (run_dir / "out.new").write_text(json.dumps(out))
    (run_dir / "out.new").replace(run_dir / "out.json")


def raw(grid: Grid, nodes: dict[str, int], script: dict[str, str]) -> dict[str, str]:
    """One message of any type with an empty content to each site; what came back."""
    messages = {Message(RecordDict(), node, script["raw_type"], ttl=60.0): site for site, node in nodes.items()}
    waiting = dict(zip(grid.push_messages(list(messages)), messages.values(), strict=True))
    found: dict[str, str] = {}
    end = time.monotonic() + 60
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(list(waiting)):
            site = waiting.pop(reply.metadata.reply_to_message_id)
            message = decode_reply(bytes(reply.content.config_records["sa1"]["control"]))
            found[site] = message.code if isinstance(message, Refusal) else "answered"
        time.sleep(0.1)
    return found


app = ServerApp()
app.main()(coordinate)
