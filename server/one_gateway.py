"""One gateway for each SuperNode key: while one is alive, a second one with the same key is refused, whoever it is.

A folder that was copied to another machine has the same keys. Every request of a SuperNode names the copy it comes from (its
instance); who was answered last holds the key for `LEASE_S`, and another instance gets 409 until then. A restart on the same
machine is the same instance and goes on at once; a clean stop gives the key free.

Only requests that Flower answered count (status 200: it checked the signature), so no stranger can hold a site's key.
"""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consortium.question import INSTANCE_HEADER, SINCE_HEADER
from server.folder import write_durably

FLEET = "/v1/fleet/"
GOODBYE = "/v1/fleet/deactivate-node"
LEASE_S = 45.0  # looks come at least every 10 s, and while a site works on a message heartbeats every 23 s
INSTANCE = re.compile(rb"[0-9a-f]{32}")
LOG_AGAIN_S = 60.0

log = logging.getLogger("wardround.hub")
Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@dataclass
class Lease:
    instance: str
    since: str
    seen: float
    refused_at: float = float("-inf")


class OneGateway:
    """`file`: where the holders are kept over a restart of the hub. `key_header`: in which Flower's SuperNodes name their key."""

    def __init__(
        self,
        application: Application,
        *,
        file: Path,
        key_header: str,
        name_of: Callable[[str], str] = lambda key: "unknown",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._application = application
        self._file = file
        self._key_header = key_header.encode()
        self._name_of = name_of
        self._clock = clock
        self._leases = self._read()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        key, instance = self._who(scope)
        if not key:
            await self._application(scope, receive, send)
            return
        if other := self._other_alive(key, instance):
            await self._refuse(key, other, send)
            return
        status = 0

        async def noted(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._application(scope, receive, noted)
        if status == 200:
            self._answered(key, instance, goodbye=scope["path"] == GOODBYE)

    def _who(self, scope: dict[str, Any]) -> tuple[str, str]:
        """Key and instance of a SuperNode's request; no key for any other."""
        if scope["type"] != "http" or not scope["path"].startswith(FLEET):
            return "", ""
        key = instance = b""
        for name, value in reversed(scope["headers"]):  # the first counts, as for the SuperLink
            key = value if name == self._key_header else key
            instance = value if name == INSTANCE_HEADER.encode() else instance
        return key.decode("latin-1"), instance.decode("ascii") if INSTANCE.fullmatch(instance) else ""

    def _other_alive(self, key: str, instance: str) -> Lease | None:
        lease = self._leases.get(key)
        alive = lease is not None and lease.instance != instance and self._clock() - lease.seen < LEASE_S
        return lease if alive else None

    async def _refuse(self, key: str, other: Lease, send: Any) -> None:
        now = self._clock()
        if now - other.refused_at >= LOG_AGAIN_S:
            other.refused_at = now
            log.warning(
                "site=%s state=second-gateway-refused first_since=%s first_seen_s_ago=%.0f "
                "detail=a copy of the site's folder is in use: ask the site which machine is the right one",
                self._name_of(key), other.since, now - other.seen,
            )  # fmt: skip
        said = (
            f"another gateway with this site's key is connected since {other.since}, last seen {now - other.seen:.0f} s ago: "
            f"a site runs on one machine; stop one of the two. This one may connect {LEASE_S:.0f} s after the other ended."
        ).encode("ascii")
        headers = [(b"content-type", b"text/plain"), (SINCE_HEADER.encode(), other.since.encode())]
        await send({"type": "http.response.start", "status": 409, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    def _answered(self, key: str, instance: str, *, goodbye: bool) -> None:
        now, lease = self._clock(), self._leases.get(key)
        if goodbye:
            if lease is not None and lease.instance == instance:
                del self._leases[key]
                self._keep()
        elif lease is not None and lease.instance == instance:
            lease.seen = now
        elif lease is None or now - lease.seen >= LEASE_S:  # not one whose turn ended while it was being answered
            self._leases[key] = Lease(instance, datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), now)
            self._keep()

    def _keep(self) -> None:
        kept = {key: {"instance": lease.instance, "since": lease.since} for key, lease in self._leases.items()}
        try:
            write_durably(self._file, json.dumps(kept, indent=1, sort_keys=True).encode("ascii"))
        except OSError as error:
            log.warning("state=gateways-not-kept reason=%r detail=after a restart of the hub the first to connect holds the key",
                        error.strerror)  # fmt: skip

    def _read(self) -> dict[str, Lease]:
        """Who held a key when the hub ended has it for one lease more: a copy must not win a race to the restarted hub."""
        try:
            kept = json.loads(self._file.read_text(encoding="ascii"))
            return {key: Lease(str(one["instance"]), str(one["since"]), self._clock()) for key, one in kept.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}
