"""Where each site of a run stands right now: what is waited for, since and until when, its last answer, and what helps.

From the plan, the journal and the coordinator's display (`server.live`). The coordinator knows codes and no more: what exactly a
site's policy, budget or log says is the site's to tell.
"""

from collections.abc import Mapping
from typing import Final

from consortium.canonical import Json
from consortium.plan import Plan
from consortium.wire import SENTENCES
from server.folder import RunFolder
from server.journal import is_driven
from server.leaving import CAN
from server.live import read_live
from server.state import RunState

PHASES: Final = {
    "": "nothing is waited for",
    "keys": "the sites' keys for a new epoch",
    "kem": "the sites' sealed keys",
    "update": "the sites' masked updates",
    "vote": "the sites' votes, which open the sum",
    "approval": "stewards who decide, or sites that come back",
}
SILENT: Final = {
    "LATE": "No answer came in time.",
    "UNREACHABLE": "The hub could not hand the message over: the site's gateway is not connected.",
}
HELPS: Final[Mapping[str, str]] = {
    **CAN,
    "LATE": "Its IT looks at `wardround-site status`: a long training, an overloaded machine, or a guard that hangs.",
    "UNREACHABLE": "Its IT starts the gateway, or reads the reason in `wardround-site status`; is the site registered?",
    "GUARD_DOWN": "Its IT starts the guard: `wardround-site status` there says what is down.",
    "NOT_APPROVED": "Its steward decides: `wardround-site ui`, or `wardround-site plans approve RUN`.",
    "PAUSED": "Its people end the pause when they are ready: `wardround-site pause --off`.",
    "NO_POLICY": "Its IT writes policy.yaml: without one nothing trains there.",
    "LEDGER": "Its IT looks in log/guard.log: the disk is full, or the ledger is damaged; `wardround-site check` tells which.",
    "BUSY": "It is at an earlier request: wait. If it stays so, its IT looks at `wardround-site status`.",
    "EPOCH": "Its guard was restarted: it joins with the next epoch by itself.",
    "TRAINING": "Its IT looks in log/guard.log for the request named here: memory, disk or data.",
    "INTERNAL": "Its IT looks in log/guard.log for the request named here.",
    "CODE_VERSION": "Plan and site run different versions: one of them is updated, or a new plan is made.",
    "ROSTER": "The site follows another roster: hand it the newest, and make the plan for that one.",
    "NOT_LISTED": "The plan or the roster leaves this site out.",
    "PLAN_SIGNATURE": "The plan was altered, or its lead is not on the site's roster: compare fingerprints by telephone.",
    "TOO_FEW": "Too few sites take part: look at the others.",
}


def standing(folder: RunFolder, plan: Plan, state: RunState) -> dict[str, Json]:
    """The document behind `status RUN`: keys driven, waits_for, round, purpose, since, until, sites."""
    driven = is_driven(folder.events)
    live = read_live(folder.live) if driven else {}
    phase = str(live.get("phase", ""))
    found: dict[str, Json] = {
        "driven": driven,
        "phase": phase,
        "waits_for": PHASES.get(phase, phase) if driven else _undriven(state),
        "sites": {site: _site(site, state, live) for site in plan.sites},
    }
    for name in ("round", "purpose", "since", "until"):
        if phase and live.get(name):
            found[name] = live[name]
    return found


def _undriven(state: RunState) -> str:
    if state.phase == "finished":
        return "nothing: the run is finished"
    return "a coordinator: none drives this run, `wardround-lead resume RUN` starts one"


def _site(site: str, state: RunState, live: Mapping[str, Json]) -> Json:
    """One site: `state` is asked, answered, refused, silent, left, out (of this epoch) or idle."""
    sites = live.get("sites")
    shown = sites.get(site) if isinstance(sites, dict) else None
    if (left := state.left.get(site)) is not None:
        return _in_words({"state": "left", "code": left.code, "round": left.round})
    if isinstance(shown, dict):
        return _in_words(dict(shown))
    if code := state.waiting.get(site, ""):
        return _in_words({"state": "refused", "code": code})
    if state.epoch_sites and site not in state.epoch_sites:
        return _in_words({"state": "out", "code": _last_code(site, state)})
    return {"state": "idle"}


def _last_code(site: str, state: RunState) -> str:
    """Why it was lost, the newest reason first; empty if it never was."""
    losses = [(one.round, one.dropped) for one in state.done] + [(one.round, one.dropped) for one in state.failed]
    latest = sorted(losses, key=lambda one: one[0], reverse=True)
    return next((drop.code for _, dropped in latest for drop in dropped if drop.site == site), "")


def _in_words(one: dict[str, Json]) -> dict[str, Json]:
    code = str(one.get("code", ""))
    words = SENTENCES.get(code) or SILENT.get(code, "")
    return one | ({"words": words} if words else {}) | ({"helps": HELPS[code]} if code in HELPS else {})


def standing_lines(found: Mapping[str, Json]) -> list[str]:
    """The same for people: one line for the run and one for each site that is worth one."""
    where = f"round {found['round']} ({found['purpose']}): " if found.get("round") else ""
    times = "".join(f", {word} {found[name]}" for word, name in (("since", "since"), ("until", "until")) if found.get(name))
    lines = [f"waits for {where}{found['waits_for']}{times}"]
    sites = found["sites"]
    for site, one in sites.items() if isinstance(sites, dict) else ():
        if isinstance(one, dict):
            lines.append(f"  {site}: {_line(one)}")
    return lines


def _line(one: Mapping[str, Json]) -> str:
    head = str(one.get("state"))
    if one.get("code"):
        head += f" ({one['code']})"
    if one.get("at"):
        head += f" at {one['at']}"
    words = " ".join(str(one[name]) for name in ("words", "helps") if one.get(name))
    request = f" [request {one['request']}]" if one.get("request") and one.get("code") else ""
    return f"{head}{': ' + words if words else ''}{request}"
