"""Consent, then criteria: the tables of those who may be in a computation, and the count of those who may not."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tasks.eligibility.consent import Tables, permitted
from tasks.eligibility.criteria import Criteria
from tasks.eligibility.facts import Facts
from tasks.eligibility.flow import INCLUDED, NO_CONSENT, WITHDRAWN, Flow, Step


@dataclass(frozen=True)
class Admitted:
    """`tables`: rows of the patients who are in. `states`: where each screened patient ended, by pseudonym."""

    tables: Tables = field(repr=False)
    states: dict[str, str] = field(repr=False)
    flow: Flow

    @property
    def patients(self) -> tuple[str, ...]:
        """Those who are in, in the table's order."""
        return tuple(name for name, state in self.states.items() if state == INCLUDED)


def admit(
    tables: Tables, criteria: Criteria | None, *, withdrawn: frozenset[str] = frozenset(), index_day: int | None = None
) -> Admitted:
    """Who of the accepted `tables` may be in; without criteria, everybody whose consent allows it.

    Without criteria an empty scope of consent lets a patient pass, as the contract means by it "not recorded here": the hospital
    answers for it, and the flow counts them.

    `index_day`: the day on which criteria are asked, instead of that of the file.
    """
    screened = [str(name) for name in tables["patients"]["patient_id"]] if "patients" in tables else []
    consented = permitted(tables, withdrawn=withdrawn, consent=criteria.consent if criteria else "where_recorded")
    states = dict.fromkeys(screened, INCLUDED)
    states |= dict.fromkeys((name for name in screened if name in consented.withdrawn), WITHDRAWN)
    states |= dict.fromkeys((name for name in screened if name in consented.refused), NO_CONSENT)
    unrecorded = len(consented.refused & consented.not_recorded)
    steps = [
        Step(WITHDRAWN, "took consent back", len(consented.withdrawn), 0, len(consented.withdrawn)),
        Step(NO_CONSENT, "agreement to the use of routine data", len(consented.refused), unrecorded, len(consented.refused)),
    ]
    if criteria is not None:
        steps += _ruled(consented.tables, criteria, states, criteria.day if index_day is None else index_day)
    included = {name for name, state in states.items() if state == INCLUDED}
    kept = {name: rows[rows["patient_id"].isin(included)] for name, rows in consented.tables.items()}
    passed = len(included & consented.not_recorded)
    name = criteria.name if criteria else "consent alone"
    strangers = len(withdrawn - set(screened))
    flow = Flow(name, len(screened), tuple(steps), len(included), passed, dict(consented.hidden), strangers)
    return Admitted(kept, states, flow)


def _ruled(tables: Tables, criteria: Criteria, states: dict[str, str], day: int) -> list[Step]:
    """Each rule in turn; `states` of the patients whom it is the first to exclude are set."""
    facts = Facts(tables, day)
    names = np.array(facts.patients, dtype=object)
    left = np.ones(len(names), dtype=bool)
    steps = []
    for rule in criteria.rules:
        answer = rule.answer(facts)
        unknown = np.isnan(answer)
        fails = (answer == 0.0) | (unknown & (rule.unknown == "exclude"))
        here = left & fails
        states |= dict.fromkeys(names[here], rule.name)
        steps.append(Step(rule.name, rule.says, int(here.sum()), int((here & unknown).sum()), int(fails.sum())))
        left &= ~fails
    return steps
