"""The steward's page lets in who holds the link that was printed once, and takes an action from that person's own page alone.

Every request passes here, before any page: right Host (no name that somebody else's DNS points at this machine), a session's
cookie, and for what changes anything a secret that only this page's own forms hold, from this very origin. No page can forget it.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, RedirectResponse, Response

ENTER: Final = "/enter"
FORM_MOST: Final = 16 << 10  # bytes
IDLE_S: Final = 30 * 60.0  # a page that nobody used for so long closes
SECRET: Final = "secret"  # noqa: S105 - the field's name
FIELD: Final = "form"  # in the request's state: what a checked form holds

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, a browser hides from this page's own forms where they come from
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Page = Callable[[Scope, Receive, Send], Awaitable[None]]


class NotLetIn(Exception):
    """A request that is turned away: `status` and a sentence that says what to do."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


@dataclass
class Session:
    """One person at one browser. `link` works once; `cookie` from then on, until nobody used it for `IDLE_S`."""

    link: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    entered: bool = False
    last_s: float = 0.0

    @property
    def form_secret(self) -> str:
        """What every form of this session's pages holds."""
        return hmac.new(self.cookie.encode("ascii"), b"wardround/page/form/1", hashlib.sha256).hexdigest()


class Door:
    """ASGI: `page` behind the checks. `hosts`: as the Host header may name this server."""

    def __init__(self, page: Page, session: Session, hosts: frozenset[str], now: Callable[[], float] = time.monotonic) -> None:
        self._page = page
        self._session = session
        self._hosts = hosts
        self._now = now
        port = next(iter(hosts)).rpartition(":")[2]
        self._cookie_name = f"wardround-{port}"  # browsers part cookies by name, not by port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        guarded = _with_headers(send)
        try:
            response = await self._checked(scope, receive)
        except NotLetIn as error:
            response = HTMLResponse(_plain_page(error.words), error.status)
        if response is not None:
            await response(scope, receive, guarded)
            return
        await self._page(scope, receive, guarded)

    async def _checked(self, scope: Scope, receive: Receive) -> Response | None:
        """A response that is due instead of the page, or None: the page may answer."""
        headers = _headers(scope)
        if headers.get("host") not in self._hosts:
            raise NotLetIn(421, "This page answers under the address that was printed and no other.")
        if scope["path"] == ENTER:
            return self._enter(scope, headers)
        if not self._known(headers):
            raise NotLetIn(
                403, "Open the link that `wardround-site ui` printed. It works once; start the program again for a new one."
            )
        self._session.last_s = self._now()
        scope.setdefault("state", {})
        if scope["method"] == "POST":
            scope["state"][FIELD] = await self._form(headers, receive)
        elif scope["method"] not in {"GET", "HEAD"}:
            raise NotLetIn(405, "This page knows GET and POST.")
        return None

    def _enter(self, scope: Scope, headers: Mapping[str, str]) -> Response:
        if scope["method"] != "GET":
            raise NotLetIn(405, "The link is opened, nothing is sent to it.")
        if self._known(headers):  # opened by the program and clicked as well
            return RedirectResponse("/", 303)
        given = parse_qs(scope.get("query_string", b"").decode("ascii", "replace")).get("link", [""])[0]
        if self._session.entered or not hmac.compare_digest(given.encode(), self._session.link.encode()):
            raise NotLetIn(403, "This link was used already, or is not the one that was printed. Start `wardround-site ui` again.")
        self._session.entered, self._session.last_s = True, self._now()
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie_name, self._session.cookie, httponly=True, samesite="strict", path="/")
        return response

    def _known(self, headers: Mapping[str, str]) -> bool:
        """Whether this browser entered, and was here lately."""
        pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        given = next((value for name, _, value in pairs if name == self._cookie_name), "")
        fresh = self._now() - self._session.last_s < IDLE_S
        return self._session.entered and fresh and hmac.compare_digest(given.encode(), self._session.cookie.encode())

    async def _form(self, headers: Mapping[str, str], receive: Receive) -> dict[str, str]:
        """The fields of a form that this session's own page sent."""
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise NotLetIn(403, "This was sent from another page: nothing was done.")
        if headers.get("origin", f"http://{headers['host']}") != f"http://{headers['host']}":
            raise NotLetIn(403, "This was sent from another page: nothing was done.")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise NotLetIn(415, "This is not one of this page's forms: nothing was done.")
        data = await _body(receive)
        try:
            fields = parse_qs(data.decode("ascii"), keep_blank_values=True, strict_parsing=bool(data), max_num_fields=20)
        except ValueError as error:
            raise NotLetIn(400, "This is not one of this page's forms: nothing was done.") from error
        form = {name: values[-1] for name, values in fields.items()}
        if not hmac.compare_digest(form.pop(SECRET, "").encode(), self._session.form_secret.encode()):
            raise NotLetIn(
                403, "This form is not of this session: go back, load the page again, and decide there. Nothing was done."
            )
        return form


async def _body(receive: Receive) -> bytes:
    data = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise NotLetIn(400, "The form did not arrive whole: nothing was done.")
        data += bytes(message.get("body", b""))
        if len(data) > FORM_MOST:
            raise NotLetIn(413, f"A form has at most {FORM_MOST} bytes: nothing was done.")
        if not message.get("more_body"):
            return data


def _headers(scope: Scope) -> dict[str, str]:
    """By name; of a header that comes twice nothing is believed."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        found[name] = "" if name in found and name != "cookie" else value.decode("latin-1")
    return found


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return sending


def _plain_page(words: str) -> str:
    """Fixed sentences alone: no word of the request is repeated."""
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Wardround</title>'
    return f"{head}<main><h1>Not here</h1><p>{words}</p></main></html>"
