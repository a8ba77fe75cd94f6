"""The hub hands the roster in force to whoever holds a SuperNode key that is or was on one, and tells nobody else anything.

ASGI, in front of Flower's own application on the one port. Whoever asks proves possession of the key (`consortium.question`)
for this hub and this minute. The answer is signed by the founders; no site believes the hub a word of it.

200 a newer roster; 204 the asker has it; 410 the asker's key is on an earlier roster and no more; 401 bad time or signature;
403 a key that was on none; 404 the hub has no roster; 429 too many questions.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from consortium.errors import ConsortiumError, EncodingError, SignatureError
from consortium.question import HEADER, MAX_HEADER, PATH, SKEW_S, VERSION_HEADER, Question, check_question, read_question
from server.rosters import Listed, listed

CHECKS_PER_S = 50  # of signatures, over all askers: a fraction of one processor
BURST = 20  # questions that one key may ask at once
REFILL_S = 2.0  # seconds until it may ask one more
UNKNOWN = "no roster of this hub lists this key: send the site's join request to the lead"

log = logging.getLogger("wardround.hub")
Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Bucket:
    """`size` at once and one more each `refill_s` seconds."""

    def __init__(self, size: int, refill_s: float, now: float) -> None:
        self._size, self._refill_s = float(size), refill_s
        self._left, self._at = float(size), now

    def take(self, now: float) -> bool:
        self._left = min(self._size, self._left + max(0.0, now - self._at) / self._refill_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class RosterDesk:
    """`folder`: where rosters are kept (`server.rosters`). `hub`: SHA-256 of the hub's CA certificate, DER."""

    def __init__(self, application: Application, *, folder: Path, hub: bytes, clock: Callable[[], float] = time.time) -> None:
        self._application = application
        self._folder = folder
        self._hub = hub
        self._clock = clock
        self._checks = Bucket(CHECKS_PER_S, 1.0 / CHECKS_PER_S, clock())
        self._buckets: dict[str, Bucket] = {}  # of keys that are or were listed: as many as there are
        self._seen: tuple[str, ...] | None = None
        self._listed: Listed | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._application(scope, receive, send)
            return
        status, said, body = self._answer(scope)
        headers = [(b"content-type", b"application/octet-stream" if status == 200 else b"text/plain; charset=us-ascii")]
        headers += [(name.encode(), value.encode()) for name, value in said.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, scope: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        if scope["method"] != "GET":
            return 405, {"allow": "GET"}, b""
        found = self._rosters()
        if found is None:
            return 404, {}, b"no roster here"
        values = [value for name, value in scope["headers"] if name == HEADER.encode()]
        try:
            if len(values) != 1 or len(values[0]) > MAX_HEADER:
                raise EncodingError("one question at a time")
            question, signature = read_question(values[0].decode("ascii"))
        except (ConsortiumError, UnicodeDecodeError):
            return 400, {}, b"not a question of version 1"
        return self._reply(question, signature, found)

    def _reply(self, question: Question, signature: bytes, found: Listed) -> tuple[int, Mapping[str, str], bytes]:
        """Whose key was never listed costs no signature check; who does not hold the key learns nothing of the roster."""
        now = self._clock()
        site = found.keys.get(question.key) or found.former.get(question.key)
        if site is None:
            return 403, {}, UNKNOWN.encode("ascii")
        if not self._checks.take(now):
            return 429, {"retry-after": "1"}, b"too many questions: ask again later"
        try:
            check_question(question, signature, hub=self._hub)
        except SignatureError as error:
            log.warning("site=%s state=roster-refused reason=%r", site, str(error))
            return 401, {}, str(error).encode("ascii")
        if not self._buckets.setdefault(question.key, Bucket(BURST, REFILL_S, now)).take(now):
            return 429, {"retry-after": "2"}, b"too many questions: ask again later"
        if abs(skew := question.asked - now) > SKEW_S:
            log.warning("site=%s state=roster-refused reason='clock off by %.0f s'", site, skew)
            return (
                401,
                {},
                f"the gateway's clock is {skew:+.0f} s off the hub's, limit is {SKEW_S}: set it".encode("ascii"),
            )
        said = {VERSION_HEADER: str(found.version)}
        if question.have < found.version:
            return 200, said, found.signed
        if question.key in found.keys:
            return 204, said, b""
        return 410, said, f"the key of {site} is not on roster version {found.version}: ask the lead".encode("ascii")

    def _rosters(self) -> Listed | None:
        """Read anew when a file came or went; a kept roster is never changed."""
        names = tuple(sorted(path.name for path in self._folder.glob("roster-*.signed")))
        if names != self._seen:
            self._seen, self._listed = names, listed(self._folder)
            live = self._listed
            known = {} if live is None else {**live.keys, **live.former}
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in known}
        return self._listed
