"""A guard that answers each request with its own bytes: `fake_guard.py SOCKET [STATE_FILE]`. For tests and measurements."""

import signal
import sys
import threading
from pathlib import Path

from client.guard_rpc import serve_guard
from consortium.wire import encode_answer


def main() -> int:
    socket_path = Path(sys.argv[1])
    record = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def answer(kind: str, control: bytes, body: bytes) -> tuple[bytes, bytes]:
        if record is not None:
            with record.open("a") as lines:
                lines.write(f"{kind} {len(control)} {len(body)}\n")
        return encode_answer(control), body

    server = serve_guard(answer, socket_path, lambda: {"state": "idle"})
    print("serving", flush=True)
    stop.wait()
    server.stop(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
