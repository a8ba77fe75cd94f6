"""The data steward's page: plans, decisions, budget, record and state as the commands show them, for people who are not engineers.

Only loopback is listened on. GET changes nothing; what changes something is a form, goes through `client.page_door`, and does what
the command does (`client.steward`). An error that nobody foresaw is shown and logged without its text.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from client import page_views as views
from client.config import load_config
from client.egress import NO_RUN
from client.errors import ConfigError, Refused, SiteError
from client.home import Home
from client.page_door import FIELD, Door, Session
from client.plans import DIGEST, KnownPlan
from client.steward import Decision, decide, pause, plan_store
from client.unexpected import without_cells
from consortium.errors import ConsortiumError
from consortium.plan import RUN_ID
from privacy.errors import PrivacyError

UNTIL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
VIA: Final = "page"

Answer = Callable[[Request], Response]


def make_page(home: Home, session: Session, hosts: frozenset[str]) -> Door:
    """The whole page behind its door."""
    pages = Pages(home, session)
    routes = [
        Route("/", pages.told(pages.overview), methods=["GET"]),
        Route("/style.css", pages.told(pages.style), methods=["GET"]),
        Route("/icon.svg", pages.told(pages.icon), methods=["GET"]),
        Route("/plans", pages.told(pages.plans), methods=["GET"]),
        Route("/plans/{digest}", pages.told(pages.plan), methods=["GET"]),
        Route("/plans/{digest}/decide", pages.told(pages.decide), methods=["POST"]),
        Route("/budget", pages.told(pages.budget), methods=["GET"]),
        Route("/left", pages.told(pages.left), methods=["GET"]),
        Route("/left/{run}", pages.told(pages.left_of), methods=["GET"]),
        Route("/pause", pages.told(pages.pause), methods=["POST"]),
    ]
    return Door(Starlette(routes=routes, exception_handlers={404: pages.unknown, 405: pages.unknown}), session, hosts)


class Pages:
    """One method for each address. All of them read the site's folder anew: the page holds nothing."""

    def __init__(self, home: Home, session: Session) -> None:
        self._home = home
        self._session = session

    def told(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        """`answer` in a thread of its own; its errors as a page: foreseen ones in their words, others by class and place."""

        def answered(request: Request) -> Response:
            try:
                with without_cells("this page"):
                    return answer(request)
            except NotFoundError as error:
                return self._page("Not found", views.problem(str(error)), status=404)
            except (SiteError, ConsortiumError, PrivacyError) as error:
                return self._page("That did not work", views.problem(_words(error)), status=409)
            except OSError as error:
                return self._page(
                    "That did not work", views.problem(f"{error.filename or 'the system'}: {error.strerror}"), status=409
                )

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(answered, request)

        return endpoint

    async def unknown(self, request: Request, error: Exception) -> Response:
        """For addresses that this page does not have."""
        del request, error
        return await run_in_threadpool(self._page, "Not found", views.problem("There is no such page."), 404)

    def _page(self, title: str, body: str, status: int = 200, here: str = "") -> HTMLResponse:
        try:
            site = load_config(self._home).site
        except ConfigError:
            site = "?"
        return HTMLResponse(views.layout(title, body, site=site, here=here), status)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def overview(self, request: Request) -> Response:
        body = views.overview(self._home, self._session.form_secret, _said(request))
        return self._page("Overview", body, here="/")

    def style(self, request: Request) -> Response:
        del request
        return PlainTextResponse(views.STYLE, media_type="text/css")

    def icon(self, request: Request) -> Response:
        del request
        return PlainTextResponse(views.ICON, media_type="image/svg+xml")

    def plans(self, request: Request) -> Response:
        del request
        return self._page("Plans", views.plans(self._home), here="/plans")

    def plan(self, request: Request) -> Response:
        known = self._known(request)
        body = views.plan(self._home, known, self._session.form_secret, _said(request))
        return self._page(f"Plan {known.plan.run_id}", body, here="/plans")

    def budget(self, request: Request) -> Response:
        del request
        return self._page("Budget", views.budget(self._home), here="/budget")

    def left(self, request: Request) -> Response:
        del request
        return self._page("What left", views.left(self._home), here="/left")

    def left_of(self, request: Request) -> Response:
        run = str(request.path_params["run"])
        if not RUN_ID.fullmatch(run) and run != NO_RUN:
            raise NotFoundError("no run has such a name")
        return self._page(
            f"What left in {run}", views.left_of(self._home, run, request.query_params.get("round", "")), here="/left"
        )

    # -- what is done --------------------------------------------------------------------------------------------------

    def decide(self, request: Request) -> Response:
        known, form = self._known(request), _form(request)
        decision, until = _decision(form)
        reason = form.get("reason", "").strip()
        if decision == "refuse" and not reason:
            raise SiteError("a refusal states its reason: go back and write one sentence")
        decide(self._home, known.digest.hex(), decision, until=until, reason=reason or "approved by the steward", via=VIA)
        return RedirectResponse(f"/plans/{known.digest.hex()}?done={decision}", 303)

    def pause(self, request: Request) -> Response:
        wanted = _form(request).get("paused")
        if wanted not in {"yes", "no"}:
            raise SiteError("neither to pause nor to go on was asked for")
        pause(self._home, paused=wanted == "yes", via=VIA)
        return RedirectResponse(f"/?done={'paused' if wanted == 'yes' else 'resumed'}", 303)

    def _known(self, request: Request) -> KnownPlan:
        """By the whole digest: what was read is what is decided about."""
        digest = str(request.path_params["digest"])
        known = plan_store(self._home).get(bytes.fromhex(digest)) if DIGEST.fullmatch(digest) else None
        if known is None:
            raise NotFoundError("no plan with this digest has reached this site")
        return known


class NotFoundError(SiteError):
    """An address of something that there is not."""


def _words(error: Exception) -> str:
    return error.detail if isinstance(error, Refused) else str(error)


def _said(request: Request) -> str:
    """Which action brought the reader here: a word of ours, or nothing."""
    return request.query_params.get("done", "")


def _form(request: Request) -> dict[str, str]:
    return dict(getattr(request.state, FIELD))


def _decision(form: dict[str, str]) -> tuple[Decision, str]:
    """What was chosen, and until when, as an approval holds it."""
    chosen = form.get("decision")
    if chosen == "approve":
        return "approve", ""
    if chosen == "refuse":
        return "refuse", ""
    if chosen != "approve-until":
        raise SiteError("neither to approve nor to refuse was chosen: go back and choose")
    given = form.get("until", "").strip()
    if not UNTIL.fullmatch(given):
        raise SiteError("to approve until a time needs that time: go back and fill in date and hour (UTC)")
    until = f"{given}:00Z"
    try:
        end = datetime.fromisoformat(until)
    except ValueError as error:
        raise SiteError(f"{given} is no date and hour: go back and choose another") from error
    if end <= datetime.now(UTC):
        raise SiteError(f"{until} is over already: go back and choose a later time (UTC)")
    return "approve-until", until
