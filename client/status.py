"""What a site is doing now: guard, trainer, gateway, hub, plans, budget, disk; each says what it waits for, since and until when.

Read from the guard's socket and from files, so it works while either daemon is down. What the gateway writes about itself is
shown and never trusted: a gateway that somebody took over may write anything there, so it is bounded and made plain first.
"""

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from client.activity import IDLE
from client.cli_roster import left_facts, past_changes
from client.clock import ALIVE_S, age_s, utc
from client.config import load_config
from client.errors import Refused, SiteError
from client.home import Home
from client.plans import PlanStore
from client.policy_file import PolicyFile
from consortium.errors import ConsortiumError
from consortium.wire import SENTENCES
from privacy.errors import PrivacyError
from privacy.policy import Account, accounts
from privacy.snapshot import read_snapshot

FILE_MOST: Final = 64 << 10  # bytes of a display
TEXT_MOST: Final = 200  # characters of a value that the gateway wrote
DISK_LEAST_MIB: Final = 512

PHASES: Final = {
    IDLE: "nothing was asked",
    "keys": "answering with its keys",
    "kem": "answering with sealed keys",
    "checking": "checking plan, policy and budget",
    "training": "training",
    "masking": "masking the update",
    "update": "working on an update",
    "vote": "answering with its vote",
}
HUB: Final = {
    "starting": "the connection is being opened",
    "connected": "connected",
    "restarting": "the connection broke and is being opened anew",
    "stopped": "the gateway was stopped",
}
REFUSALS: Final = {
    "HTTP 401": "the hub does not know this gateway's key: ask the lead to register the site (`wardround-lead hub register`)",
    "HTTP 403": "the hub does not allow it: ask the lead; a proxy in between may be the one who refuses",
    "HTTP 404": "there is no Wardround hub at this address: compare `hub:` in site.yaml with the invite",
    "HTTP 407": "the proxy wants a password: HTTPS_PROXY may hold it, as http://user:password@proxy:port",
    "HTTP 409": "the hub sees another gateway with this site's key: stop the other one",
    "HTTP 502": "a proxy in between cannot reach the hub",
    "HTTP 503": "the hub, or a proxy in between, is overloaded or being restarted",
    "ConnectError": "no connection: name, port, firewall, proxy or certificate; `wardround-site check` tells them apart",
    "ConnectTimeout": "the hub's address does not answer: a firewall drops it, or the hub is down",
    "ReadTimeout": "the hub takes a connection and does not answer",
    "ReadError": "the connection was cut while reading",
    "WriteError": "the connection was cut while writing",
    "RemoteProtocolError": "something in between closed the connection, or is no hub",
    "ProxyError": "the proxy refuses the way to the hub",
}
NEVER: Final = "not started yet, or not visible from here"


@dataclass(frozen=True)
class SiteStatus:
    """`document`: for programs. `problems`: what a person must see to, in words; empty where all is up."""

    document: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether both daemons are up."""
        up = ("guard", "gateway")
        return all(self.document[name]["state"] != "down" for name in up)


def site_status(home: Home, *, now: float | None = None) -> SiteStatus:
    """Raises `ConfigError` without a site.yaml; anything else that is missing or broken is said in the status itself."""
    at, config = time.time() if now is None else now, load_config(home)
    guard, gateway = guard_state(home, at), gateway_state(home, at)
    document: dict[str, Any] = {
        "site": config.site,
        "at": utc(at),
        "guard": guard,
        "trainer": _trainer(guard),
        "gateway": gateway,
        "hub": hub_state(gateway, config.hub),
        "roster": _or_why(lambda: _roster(home, gateway)),
        "paused_since": _paused(home),
        "plans_waiting": _or_why(lambda: _plans_waiting(home, config.site)),
        "budget": _or_why(lambda: _budget(home)),
        "left": _or_why(lambda: _left(home)),
        "disk_free_mib": shutil.disk_usage(home.root).free // 2**20,
        "log": str(home.log),
    }
    return SiteStatus(document, _problems(document))


def _or_why(read: Any) -> Any:
    """What was read, or why it could not be."""
    try:
        return read()
    except (SiteError, ConsortiumError, PrivacyError, OSError) as error:
        return {"cannot be read": str(error)}


# -- the daemons ---------------------------------------------------------------------------------------------------------


def guard_state(home: Home, now: float) -> dict[str, Any]:
    """From the socket whether it answers, from its display what it is at."""
    from client.guard_rpc import GuardClient, GuardRpcError  # gRPC takes a moment, and read commands need none

    shown = read_display(home.guard_board)
    alive = _age(shown, now) <= ALIVE_S
    if home.socket.is_socket():
        with contextlib.closing(GuardClient(home.socket)) as guard:
            try:
                told = guard.status()
            except GuardRpcError:
                told = {}
        if told:
            found = {**told, **(shown if alive else {})}
            return found | ({"state": "paused"} if home.paused.exists() else {}) | {"words": _guard_words(found)}
    last = f"last seen {shown['beat']}" if shown.get("beat") else NEVER
    return {"state": "down", "phase": "", "words": f"does not answer at its socket ({last})", **_kept(shown)}


def _kept(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {name: shown[name] for name in ("refusals", "waiting", "beat") if name in shown}


def _guard_words(guard: Mapping[str, Any]) -> str:
    words = PHASES.get(str(guard.get("phase")), str(guard.get("phase")))
    if guard.get("run"):
        words += f" in run {guard['run']}" + (f", round {guard['round']}" if guard.get("round") else "")
    return words


def _trainer(guard: Mapping[str, Any]) -> dict[str, Any]:
    if guard["state"] == "down":
        return {"state": "down", "words": "ends with the guard"}
    if guard.get("phase") == "training":
        times = {name: guard[name] for name in ("since", "until", "run", "round", "purpose") if guard.get(name)}
        return {"state": "training", "words": "computing", **times}
    if guard.get("trainer") == "down":
        return {"state": "down", "words": "died (out of memory, or killed); it is started again at the next round"}
    return {"state": "ready", "words": "waits for a round"}


def gateway_state(home: Home, now: float) -> dict[str, Any]:
    """What the gateway last wrote of itself, and whether it still does. Of two displays the newer one."""
    places = (home.socket.with_name("gateway.json"), home.root / "gateway" / "state" / "gateway.json")
    shown = min((read_display(path) for path in places), key=lambda one: _age(one, now))
    if not shown:
        return {"state": "down", "words": f"{NEVER}: `wardround-site gateway`"}
    if _age(shown, now) > ALIVE_S or shown.get("supernode") == "stopped":
        return {**shown, "state": "down", "words": f"ended; last seen {shown.get('beat', '?')}"}
    reaches = "reaches the guard" if shown.get("guard") == "serving" else "does not reach the guard"
    return {**shown, "state": "up", "words": f"up since {shown.get('started', '?')}, {reaches}"}


def hub_state(gateway: Mapping[str, Any], address: str) -> dict[str, Any]:
    """How the hub answers this site, in words."""
    found: dict[str, Any] = {"address": address or "no hub yet (`wardround-site join INVITE`)"}
    if gateway["state"] == "down":
        return found | {"state": "unknown", "words": "no gateway is up to ask it", "last_contact": gateway.get("last_contact", "")}
    state, detail = str(gateway.get("supernode")), str(gateway.get("detail") or "")
    words = HUB.get(state) or f"{state}: {REFUSALS.get(detail, detail or 'no reason is known')}"
    return found | {
        "state": state,
        "words": words,
        "reason": detail,
        "since": gateway.get("since", ""),
        "last_contact": gateway.get("last_contact", ""),
    }


def read_display(path: Path) -> dict[str, Any]:
    """A daemon's display, made plain; empty where there is none or it is no display. Never waits: the path may be a trap."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        data = os.read(handle, FILE_MOST + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)
    try:
        found = json.loads(data) if len(data) <= FILE_MOST else None
    except (ValueError, RecursionError):
        return {}
    plain = _plain(found)
    return plain if isinstance(plain, dict) else {}


def _plain(value: Any, depth: int = 4) -> Any:
    """Bounded, and without anything that a terminal would obey."""
    if depth == 0:
        return "?"
    if isinstance(value, dict):
        return {_plain(str(name)): _plain(inner, depth - 1) for name, inner in list(value.items())[:64]}
    if isinstance(value, list):
        return [_plain(inner, depth - 1) for inner in value[:256]]
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else "?" for letter in value[:TEXT_MOST])
    return value if value is None or isinstance(value, bool | int | float) else "?"


def _age(shown: Mapping[str, Any], now: float) -> float:
    """Seconds since a display was renewed; endless where it does not say."""
    return age_s(shown.get("beat"), now)


# -- what files say ------------------------------------------------------------------------------------------------------


def _paused(home: Home) -> str:
    if not home.paused.exists():
        return ""
    with contextlib.suppress(OSError, ValueError):
        return str(_plain(home.paused.read_text(encoding="ascii").strip())) or "?"
    return "?"


def _roster(home: Home, gateway: Mapping[str, Any]) -> dict[str, Any]:
    """Who is in the consortium, what the newest roster changed, how this site stands at the hub; that it left, if it did."""
    roster, past = home.load_roster(), past_changes(home)
    return {
        "version": roster.version,
        "members": [member.id for member in roster.members],
        "changed": f"{past[-1]['time']}: {'; '.join(past[-1]['changes'])}" if past else "",
        "at_the_hub": gateway.get("roster", ""),
        "well_at_the_hub": gateway.get("roster_well", True),
        "departed": left_facts(home),
    }


def _plans_waiting(home: Home, site: str) -> list[str]:
    """Those of the roster in force: a decision about any other changes nothing."""
    store, roster = PlanStore(home.plans, site, home.load_identity().public, home.retired_keys()), home.load_roster().digest
    plans = [known for known in store.all() if known.plan.roster_digest == roster]
    return [known.plan.run_id for known in plans if _undecided(store, known.digest)]


def _undecided(store: PlanStore, digest: bytes) -> bool:
    try:
        return store.decision(digest) is None
    except Refused:  # a decision that does not verify stands for none
        return True


def _budget(home: Home) -> list[str]:
    """One line for each budget of the policy."""
    policy = PolicyFile(home.policy).load()
    if policy is None:
        return ["no policy file: nothing trains"]
    ledger, today = read_snapshot(home.ledger, home.load_identity().public), datetime.now(UTC).date().toordinal()
    lines = [_budget_line(one) for delta in ledger.deltas for one in accounts(policy, ledger, delta, today)]
    return lines or [f"nothing was spent of epsilon {policy.budget_epsilon:g}"]


def _budget_line(account: Account) -> str:
    if account.spent == float("inf"):
        return f"{account.name}: NOT PRIVATE"
    return (
        f"{account.name}: epsilon {account.spent:.4f} of {account.limit:g} spent, {account.left:.4f} left (delta {account.delta:g})"
    )


def _left(home: Home) -> list[dict[str, str]]:
    if not home.ledger.exists():
        return []
    notes = read_snapshot(home.ledger, home.load_identity().public).left.values()
    return [{"run": note.run_id, "code": note.left, "words": note.text} for note in notes]


def _problems(document: Mapping[str, Any]) -> list[str]:
    """What a person must see to, the most pressing first."""
    found = [f"{name}: {document[name]['words']}" for name in ("guard", "gateway") if document[name]["state"] == "down"]
    hub, gateway = document["hub"], document["gateway"]
    if hub["state"] not in {"connected", "unknown", "starting"}:
        found.append(f"hub: {hub['words']} (since {hub['since']}, last contact {hub['last_contact'] or 'never'})")
    if gateway["state"] == "up" and gateway.get("guard") != "serving" and document["guard"]["state"] != "down":
        found.append(f"the gateway does not reach the guard's socket since {gateway.get('guard_since', '?')}")
    if document["paused_since"]:
        found.append(f"paused since {document['paused_since']}: nothing is answered until `wardround-site pause --off`")
    if document["disk_free_mib"] < DISK_LEAST_MIB:
        found.append(f"{document['disk_free_mib']} MiB of disk are left, {DISK_LEAST_MIB} should be: a full disk stops training")
    if (waiting := document["plans_waiting"]) and isinstance(waiting, list):
        found.append(f"{len(waiting)} plan(s) wait for the steward: {', '.join(waiting[:5])} (`wardround-site plans list`)")
    if departed := document["roster"].get("departed"):
        found.append(f"this site left the consortium for good: {', '.join(f'{name} {value}' for name, value in departed.items())}")
    if document["roster"].get("well_at_the_hub") is False:
        found.append(f"roster: {document['roster']['at_the_hub']}")
    for name in ("plans_waiting", "budget", "left", "roster"):
        if isinstance(document[name], dict) and "cannot be read" in document[name]:
            found.append(f"{name.replace('_', ' ')}: {document[name]['cannot be read']}")
    return found


def refusal_lines(document: Mapping[str, Any]) -> list[str]:
    """The last refusals in words, with what to look for in the log."""
    return [
        f"{one.get('at')} {one.get('code')}: {SENTENCES.get(str(one.get('code')), '')} (request {one.get('correlation')})"
        for one in document["guard"].get("refusals", [])
        if isinstance(one, dict)
    ]
