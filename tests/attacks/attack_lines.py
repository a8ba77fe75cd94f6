"""How a script reaches the guards: a `Line`, in this process or (see `line_over_flower`) over the real transport."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Protocol

from guards_in_process import ENDLESS, HELD_OUT, SALT, Consortium
from known_numbers import NOW, TASK_NAME, open_guard

from client.config import SiteConfig
from client.enrol import init_site, join_site
from client.guard import Guard, Site
from client.home import Home
from client.relay import KINDS, to_content
from consortium.identity import SigningKey
from consortium.roster import Founder, Member, Roster, founders_fingerprint, sign_roster
from consortium.wire import Reply, Request
from privacy.errors import LedgerError

POLICY = ENDLESS.replace("budget_epsilon: 50.0", "budget_epsilon: 100000.0")


@dataclass(frozen=True)
class Carried:
    """A reply as it was carried: beside the control record, or in Flower's `arrays` (its chunked store)."""

    reply: Reply
    arrays: tuple[str, ...]


class Line(Protocol):
    """`sites`: those with a guard behind it, whose homes are `folder/<site>`."""

    folder: Path
    sites: tuple[str, ...]

    def exchange(self, kind: str, requests: Mapping[str, Request]) -> dict[str, Reply]:
        """One request to each of these sites; every one is answered."""
        ...

    def volley(self, site: str, messages: Sequence[tuple[str, Request]]) -> list[Carried]:
        """Messages (Flower's name of the type, content) that are all on their way before the first is answered."""
        ...

    def open(self) -> None:
        """Start everything; once."""
        ...

    def stop(self, site: str) -> None:
        """The guard dies, with all that it has in memory."""
        ...

    def start(self, site: str) -> bool:
        """Whether a guard serves, from what is in the site's home."""
        ...

    def asked(self, site: str) -> int:
        """How many requests of the four kinds the guard was handed."""
        ...


def site_names(n: int) -> tuple[str, ...]:
    return tuple(f"hospital-{place}" for place in range(1, n + 1))


def colluders_of(n: int, c: int) -> tuple[str, ...]:
    """`c` of the n sites, with honest ones before and behind them: hospital-3, then every second."""
    names = site_names(n)
    return tuple(names[place] for place in range(2, n, 2))[:c] if c else ()


def found(folder: Path, n: int, c: int) -> Consortium:
    """n joined sites of which c may collude, all of them with a policy that approves; no guard runs yet."""
    founder, lead = SigningKey.from_seed(b"f" * 32), SigningKey.from_seed(b"l" * 32)
    members = [Member("lead-a", "lead", lead.public, "")]
    for site in site_names(n):
        made = init_site(Home(folder / site), SiteConfig(site, (TASK_NAME,), folder / "no-data", "test", "", 1))
        members.append(Member(site, "site", bytes.fromhex(made.identity_key), made.transport_key))
    members.sort(key=lambda member: member.id)
    roster = Roster("test", 1, c, 3, (Founder("founder", founder.public),), 1, SALT, HELD_OUT, tuple(members))
    signed = sign_roster(roster, "founder", founder)
    for site in site_names(n):
        home = Home(folder / site)
        join_site(home, signed=signed, trusted_founders=founders_fingerprint(roster.founders, 1), now=NOW)
        home.policy.write_text(POLICY)
    return Consortium(folder, folder / "no-data", founder, lead, roster, signed, {})


@dataclass
class InProcess:
    """Guards in this process. A name that Flower's relay would refuse is handed to the guard as it is."""

    folder: Path
    sites: tuple[str, ...]
    guards: dict[str, Guard] = field(default_factory=dict)
    opened: dict[str, Site] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)

    def exchange(self, kind: str, requests: Mapping[str, Request]) -> dict[str, Reply]:
        return {site: self._ask(site, kind, request) for site, request in requests.items()}

    def volley(self, site: str, messages: Sequence[tuple[str, Request]]) -> list[Carried]:
        together = Barrier(len(messages))

        def ask(message: tuple[str, Request]) -> Carried:
            name, request = message
            together.wait()
            reply = self._ask(site, KINDS.get(name, name), request)
            return Carried(reply, tuple(to_content(reply.control, reply.body).array_records))

        with ThreadPoolExecutor(len(messages)) as threads:
            return list(threads.map(ask, messages))

    def open(self) -> None:
        for site in self.sites:
            self.start(site)

    def stop(self, site: str) -> None:
        if self.guards.pop(site, None):
            self.opened.pop(site).ledger.close()

    def start(self, site: str) -> bool:
        try:
            self.opened[site], self.guards[site] = open_guard(self.folder, site)
        except LedgerError:
            return False
        return True

    def asked(self, site: str) -> int:
        return self.heard.count(site)

    def _ask(self, site: str, kind: str, request: Request) -> Reply:
        if kind in KINDS.values():
            self.heard.append(site)
        control, body = self.guards[site].answer(kind, request.control, request.body)
        return Reply(control, bytes(body))

    def close(self) -> None:
        for site in list(self.guards):
            self.stop(site)
