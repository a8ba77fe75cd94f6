"""What the run has cost each site so far, from the plan and the rounds in the journal: never less than a site's ledger says.

A site that was asked is counted as charged, whether its answer came or not: the coordinator cannot know better. Nothing
about a site's patients goes into these numbers. What a site publishes of its ledger is of all its runs, and shown beside them.
"""

from dataclasses import dataclass

from consortium.plan import NOT_PRIVATE, Plan
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.events import Spend, as_exposed
from privacy.terms import in_opened_sum, once_spends, round_spends
from server.state import RunState

COMPUTED = "computed from the plan and the rounds asked"


@dataclass(frozen=True)
class SiteEpsilon:
    """Both epsilons of one site in this run at the plan's delta, -1 where nothing bounds them."""

    exposed: float
    model: float


def site_epsilon(plan: Plan, state: RunState, site: str, *, colluders: int) -> SiteEpsilon:
    """As computed from the rounds asked; `colluders` as the run's roster has it."""
    if not plan.private:
        return SiteEpsilon(NOT_PRIVATE, NOT_PRIVATE)
    exposed: list[Spend] = []
    model: list[Spend] = []
    for asked in state.asked:
        if site in asked.sites:
            spends = round_spends(plan, asked.round, asked.purpose)
            exposed += spends
            model += in_opened_sum(plan, spends, len(asked.sites), colluders)
    if any(asked.purpose == "train" and site in asked.sites for asked in state.asked):
        exposed += once_spends(plan)
        model += once_spends(plan)
    delta = plan.privacy.delta
    bounds = [epsilon(spends, delta, interval=ENFORCE_INTERVAL) for spends in (as_exposed(exposed), model)]
    return SiteEpsilon(bounds[0], bounds[1])
