"""A consortium in one process: the lead's real plan, every site's real trainer, the hub's real steps.

Transport, masks, ledgers and guards are left out, because none of them changes a sum: masks cancel, and a site's release is noised
by its trainer. What is computed is what `wardround-lead simulate` computes, at a tenth of its time. The one difference is the
ring: a masked run rounds an update to 2^-32 of its range in the modes none and local, and not at all in mode distributed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.job import Job, Result
from client.release import Entropy
from client.trainer import Trainer
from consortium.identity import SigningKey
from consortium.plan import Plan, header_fields, header_step
from consortium.roster import HELD_OUT, SMALLEST_COHORT, Founder, Member, Roster
from server import pooled
from server import strategy as strategies
from server.config import LeadConfig, load_config
from server.model import Model, parameters_of, released_model, step_model, with_buffers
from server.planning import make_plan
from server.strategy import State, Vector
from tasks.base import Cohort, Task
from tasks.sums import SumsTask

COLLUDERS, ABSENT = 1, 1  # one colluder; a round of all sites but one is the least that a site answers
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
LEAD = "lead-in-process"


@dataclass(frozen=True)
class Round:
    """A round that counted, and the pooled figures that came with it."""

    number: int
    purpose: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """The released model, float32 (plan.model_size,), and the figures of its last evaluation as the lead sees them.

    `histogram`: what that evaluation opened of the test halves, noise of `noise_std` in each cell included; empty without one.
    `kept`: the model that would be released after so many training rounds, for the rounds asked for.
    """

    plan: Plan
    model: Model = field(repr=False)
    figures: Mapping[str, float]
    rounds: tuple[Round, ...] = field(repr=False)
    kept: Mapping[int, Model] = field(repr=False, default_factory=dict)
    histogram: NDArray[np.float64] = field(repr=False, default_factory=lambda: np.zeros(0))
    noise_std: float = 0.0


def tape(*seed: object) -> Entropy:
    """Repeatable bytes in place of `os.urandom`: invented patients need no protection, and a table should come out twice."""
    count = iter(range(2**62))
    return lambda size: hashlib.shake_256(repr((seed, next(count))).encode()).digest(size)


def roster_of(sites: Sequence[str], salt: bytes, *, held_out_fraction: float = HELD_OUT) -> Roster:
    """A roster of these sites, with one colluder and all sites but one as the smallest cohort. `salt`: 16 bytes of the split."""
    key = SigningKey.from_seed(bytes(32)).public
    members = [Member(site, "site", SigningKey.from_seed(_digest(site)).public, f"transport {site}") for site in sites]
    lead = Member(LEAD, "lead", key, "")
    return Roster(
        consortium="in-process",
        version=1,
        colluders=COLLUDERS,
        minimum_cohort=max(SMALLEST_COHORT, len(sites) - ABSENT),
        founders=(Founder("founder", key),),
        founders_required=1,
        split_salt=salt,
        held_out_fraction=held_out_fraction,
        members=tuple(sorted([*members, lead], key=lambda member: member.id)),
    )


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def plan_of(overrides: Sequence[str], roster: Roster, sizes: Mapping[str, int]) -> Plan:
    """The plan of a lead's configuration, with calibrated noise, for sites that declare `sizes` training patients."""
    config = _config(("federation=roster", *overrides))
    config = replace(config, federation=replace(config.federation, sites=dict(sizes), default_patients=0))
    nodes = {member.id: number for number, member in enumerate(roster.sites, start=1)}
    return make_plan(config, roster, nodes, lead=LEAD, now=CREATED)


@lru_cache(maxsize=64)
def _config(overrides: tuple[str, ...]) -> LeadConfig:
    return load_config(overrides)


def trainers_of(
    task: Task | SumsTask, cohorts: Mapping[str, Cohort], roster: Roster, *seed: object, cache: Path | None = None
) -> dict[str, Trainer]:
    """Every site's trainer; `seed` makes its noise. `cache`: of prepared scans, the same for all."""
    return {
        site: Trainer(
            task,
            cohort,
            salt=roster.split_salt,
            held_out_fraction=roster.held_out_fraction,
            entropy=tape(*seed, site),
            cache=cache,
        )
        for site, cohort in cohorts.items()
    }


def declared(trainers: Mapping[str, Trainer]) -> dict[str, int]:
    """Training patients to the nearest ten: what a site would agree to declare in public."""
    return {site: max(10, 10 * round(trainer.sides.training.patients / 10)) for site, trainer in trainers.items()}


def run(task: Task | SumsTask, overrides: Sequence[str], cohorts: Mapping[str, Cohort], salt: bytes, *seed: object) -> Outcome:
    """Plan, train and evaluate over the sites' cohorts with a lead's `overrides`, such as `task=cdp_2y privacy=distributed8`."""
    roster = roster_of(sorted(cohorts), salt)
    trainers = trainers_of(task, cohorts, roster, *seed)
    return train(plan_of(overrides, roster, declared(trainers)), trainers)


def train(plan: Plan, trainers: Mapping[str, Trainer], *, keep: Sequence[int] = ()) -> Outcome:
    """Drive `plan` to its end with these sites as survivors of every round; the others of the plan are absent throughout."""
    hub = _Hub(plan, trainers, keep)
    hub.drive()
    figures = hub.rounds[-1].figures if hub.rounds else {}
    noise_std = plan.privacy.evaluate_noise * math.sqrt(len(trainers))
    return Outcome(plan, hub.released, figures, tuple(hub.rounds), hub.kept, hub.histogram, noise_std)


class _Hub:
    """What `server.rounds.Driver` does with opened sums, without the opening."""

    def __init__(self, plan: Plan, trainers: Mapping[str, Trainer], keep: Sequence[int]) -> None:
        self._plan, self._trainers, self._keep = plan, trainers, frozenset(keep)
        self._strategy = strategies.build(plan.strategy.name, dict(plan.strategy.options))
        self._model = pooled.initial_model(plan)
        self._state: State = self._strategy.init(parameters_of(plan, self._model))
        self.rounds: list[Round] = []
        self.kept: dict[int, Model] = {}
        self.histogram = np.zeros(0)

    @property
    def released(self) -> Model:
        return released_model(self._plan, self._strategy, self._state, self._model)

    def drive(self) -> None:
        if self._plan.statistics:
            sums = self._ask("describe")[0]["statistics"]
            found = pooled.buffers(self._plan, sums, contributors=len(self._trainers))
            self._model = with_buffers(self._plan, self._model, found)
            self._done("describe", {})
        for trained in range(1, self._plan.schedule.rounds + 1):
            self._train()
            if trained in self._keep:
                self.kept[trained] = self.released
        if self._plan.schedule.max_evaluate:
            self.histogram = self._ask("evaluate")[0]["histogram"]
            self._done("evaluate", self._figures(self.histogram))

    def _train(self) -> None:
        header, mean = self._ask("train")
        self._state, self._model = step_model(self._plan, self._strategy, self._state, self._model, mean)
        self._done("train", self._figures(header["histogram"]) if "histogram" in header else {})

    def _done(self, purpose: str, figures: Mapping[str, float]) -> None:
        self.rounds.append(Round(len(self.rounds) + 1, purpose, figures))

    def _figures(self, histogram: NDArray[np.float64]) -> Mapping[str, float]:
        return pooled.metrics(self._plan, histogram, contributors=len(self._trainers))

    def _ask(self, purpose: str) -> tuple[dict[str, NDArray[np.float64]], Vector]:
        """The opened header by field, and the survivors' mean update, as `server.rounds` reads them."""
        number = len(self.rounds) + 1
        model = self.released if purpose == "evaluate" else self._model
        data = np.ascontiguousarray(model, dtype="<f4").tobytes()
        found = {site: trainer.run(Job(self._plan, site, number, purpose, data)) for site, trainer in self._trainers.items()}
        header = np.sum([result.header for result in found.values()], axis=0)
        return self._parted(header, number, purpose), self._mean(found)

    def _parted(self, header: NDArray[np.generic], number: int, purpose: str) -> dict[str, NDArray[np.float64]]:
        parted, at = dict[str, NDArray[np.float64]](), 0
        for item in header_fields(self._plan, number, purpose):
            step = header_step(self._plan, item.name) if self._plan.privacy.distributed else 1.0
            parted[item.name] = np.asarray(header[at : at + item.length], dtype=np.float64) * step
            at += item.length
        return parted

    def _mean(self, found: Mapping[str, Result]) -> Vector:
        plan, trained = self._plan, pooled.trained_by(self._plan, tuple(found))
        if plan.privacy.distributed:
            steps = np.sum([result.body for result in found.values()], axis=0)
            normaliser = plan.privacy.sample_rate * sum(plan.participant(site).declared_patients for site in trained)
            return np.asarray(steps * (-plan.schedule.local_rate * plan.privacy.grid_step / normaliser), dtype=np.float64)
        weights = {site: plan.weight(site) for site in found}
        total = sum(weights[site] for site in trained)
        return np.asarray(sum(weights[site] * found[site].body for site in found) / total, dtype=np.float64)
