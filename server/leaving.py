"""Which sites left a run for good, in which round, why, and what the lead can do: from the journal alone, in fixed sentences.

The coordinator knows a code and no more. What exactly a site's policy or budget objects to stands in that site's own ledger
and log, and is the site's to tell.
"""

from collections.abc import Mapping
from typing import Final

from consortium.canonical import Json
from consortium.wire import SENTENCES
from server.state import Left, RunState

CAN: Final[Mapping[str, str]] = {
    "BUDGET": "Ask its steward whether the budget in its policy may grow. Time brings nothing back to this run: a budget's period "
    "is judged by the plan's date, so days that pass help a new plan only.",
    "POLICY": "Ask its steward which rule of its policy objects, and whether it may change: its log names it, and once it was in "
    "the run a run-note in its ledger too.",
    "DECLINED": "Ask its steward why. `wardround-site plans approve` at the site takes the refusal back.",
    "LIMIT": "It was asked for as many rounds of this kind as the plan allows and serves no more: a new plan has its own limits.",
    "MODEL": "The model does not fit the plan there: compare the site's version with the plan's, and look at the last figures.",
    "TASK": "Its data do not serve the plan's task: its IT runs `wardround-site check`, or a new plan asks for what the site has.",
}
BY_A_NEW_PLAN: Final = frozenset({"LIMIT"})  # asking the site again is of no use


def departures(state: RunState) -> list[dict[str, Json]]:
    """One document for each site that left for good, in the order in which they left."""
    return [_document(state, site, left) for site, left in sorted(state.left.items(), key=_by_round)]


def departure_sentences(state: RunState) -> list[str]:
    """The same for people, one sentence or a few for each site."""
    return [f"{one['site']} {one['when']} ({one['code']}): {one['why']} {one['then']}" for one in departures(state)]


def _by_round(item: tuple[str, Left]) -> tuple[int, str]:
    return item[1].round, item[0]


def _document(state: RunState, site: str, left: Left) -> dict[str, Json]:
    return {
        "site": site,
        "round": left.round,
        "phase": left.phase,
        "code": left.code,
        "when": _when(state, site, left),
        "why": SENTENCES[left.code],
        "then": f"{CAN[left.code]}{_asked_again(state, left)}",
    }


def _when(state: RunState, site: str, left: Left) -> str:
    if not any(site in asked.sites for asked in state.asked):
        return "never joined"
    return f"left {'in' if left.phase in {'update', 'vote'} else 'after'} round {left.round}"


def _asked_again(state: RunState, left: Left) -> str:
    if left.code in BY_A_NEW_PLAN:
        return ""
    if state.phase == "finished":
        return " This run is finished: only a new plan asks the site again."
    return f" Once that is settled, `wardround-lead resume {state.run_id}` asks the site again."
