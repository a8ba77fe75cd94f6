"""What `scripts/bench tasks` does for each task: its configuration, its figures, its arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from bench_tasks_arms import PRIVATE, Models, Recipe, federated, local, pooled, rows_split, told
from bench_tasks_effects import Effects
from bench_tasks_measures import (
    Measure,
    Told,
    absolute_error,
    all_figures,
    hazard,
    primary,
    watched_yes_no,
    within,
    yes_no,
)
from bench_tasks_oracle import oracle
from bench_tasks_personal import personalised
from bench_tasks_states import States
from bench_tasks_worlds import World

from client.sides import Side
from server.pooled import scored_by
from tasks.cognition_prom.measures import MSIS29, SDMT
from tasks.effects.pehe import true_relapse, true_worsening
from tasks.predicting.bedside import Calibrates, recalibrated
from tasks.predicting.calibrate import ONLY
from tasks.registry import get_task

ARMS = ("oracle", "taught", "pooled", "federated", "personalised", *PRIVATE, "local", "baseline", "rows")
Figures = dict[str, float]


class Card(Protocol):
    """One task of the bench."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def name(self) -> str: ...
    @property
    def primary(self) -> str:
        """The figure by which arms are compared."""
        ...

    @property
    def lower_is_better(self) -> bool: ...
    @property
    def reported(self) -> str:
        """The figure by which the lead of a run compares it with others."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Figures that the table shows."""
        ...

    @property
    def arms(self) -> tuple[str, ...]: ...
    @property
    def settings(self) -> Mapping[str, object]:
        """What somebody needs to run it again."""
        ...

    def run(self, world: World, arm: str) -> Figures:
        """Figures of one arm in one world."""
        ...


@dataclass(frozen=True)
class Foretelling:
    """A task that trains by gradients. `others`: more figures to compare with the baseline.

    `slope`: figure of the calibration slope, of the risk called `risk` at the bedside.
    """

    recipe: Recipe
    make: Callable[[], Measure]
    shown: tuple[str, ...]
    slope: str = ""
    risk: str = ONLY
    others: tuple[Callable[[], Measure], ...] = ()
    ceiling: bool = True
    personal: Callable[[World, Recipe], Models] | None = personalised

    @property
    def name(self) -> str:
        return self.recipe.choice

    @cached_property
    def measure(self) -> Measure:
        return self.make()

    @property
    def primary(self) -> str:
        return self.measure.name

    @property
    def lower_is_better(self) -> bool:
        return self.measure.lower_is_better

    @property
    def reported(self) -> str:
        return self.primary

    @property
    def columns(self) -> tuple[str, ...]:
        others = tuple(make().name for make in self.others)
        return (self.primary, "within", "small", *others, *self.shown, "reported")

    @property
    def arms(self) -> tuple[str, ...]:
        missing = {
            "oracle": not self.ceiling,
            "personalised": self.personal is None,
            "baseline": not self.recipe.baseline,
        }
        return tuple(arm for arm in ARMS if not missing.get(arm, False))

    @property
    def settings(self) -> Mapping[str, object]:
        return {
            "all arms": " ".join(("task=" + self.recipe.choice, *self.recipe.common)),
            "with noise": " ".join(self.recipe.private),
            "baseline": f"task={self.recipe.baseline}" if self.recipe.baseline else "-",
            **{arm: " ".join(words) for arm, words in self.recipe.by_arm.items()},
        }

    def run(self, world: World, arm: str) -> Figures:
        sides = {site: each.test for site, each in world.sides.items()}
        if arm == "oracle":
            return self._figures(world, oracle(world), sides)
        if arm == "rows":
            models, options = rows_split(world, self.recipe)
            leaked = {site: world.sides_of(cohort, options).test for site, cohort in world.cohorts.items()}
            return self._figures(world, told(world.task, models, leaked), leaked)  # type: ignore[arg-type]
        models = self._models(world, arm)
        said = next(iter(models.values())).reported if arm not in ("local", "personalised") else {}
        found = self._figures(world, told(world.task, models, sides), sides)  # type: ignore[arg-type]
        found |= self._bedside(world, models) if arm != "baseline" else {}
        reported = {"reported": said[self.primary]} if self.primary in said else {}
        return found | reported | {f"reported_{name}": value for name, value in said.items()}

    def _models(self, world: World, arm: str) -> Models:
        if arm == "pooled":
            return pooled(world, self.recipe)
        if arm == "local":
            return local(world, self.recipe)
        if arm == "baseline":
            return federated(world, Recipe(self.recipe.baseline, common=self.recipe.common), arm)
        if arm == "personalised":
            assert self.personal is not None
            return self.personal(world, self.recipe)
        return federated(world, self.recipe, arm, PRIVATE.get(arm, ("privacy=none",)))

    def _bedside(self, world: World, models: Models) -> Figures:
        """The slope of risks as `wardround-site predict` shows them: recalibrated on the test halves as the run opened them, noise
        included, and measured on the validation halves, by which nothing was chosen here."""
        one = next(iter(models.values()))
        if not self.slope or not len(one.histogram):
            return {}
        scoring = scored_by(one.plan)
        assert isinstance(scoring, Calibrates)
        known = recalibrated(scoring, one.histogram, one.noise_std, self.risk)
        sides = {site: each.validation for site, each in world.sides.items()}
        raw = all_figures(world.task, told(world.task, models, sides), sides).get(self.slope, float("nan"))  # type: ignore[arg-type]
        return {"slope_bedside": raw / (1.0 if known is None else known.b)}

    def _figures(self, world: World, told_of: Told, sides: Mapping[str, Side]) -> Figures:
        found = all_figures(world.task, told_of, sides)  # type: ignore[arg-type]
        found |= {make().name: primary(make(), told_of, sides) for make in (self.make, *self.others)}
        found |= {
            "within": within(self.measure, told_of, sides, world.sites),
            "small": within(self.measure, told_of, sides, world.small),
        }
        if self.slope:
            found["slope"] = found.get(self.slope, float("nan"))
        return found


# For some 40 inputs: a smaller clip than a patient's usual gradient pulls chances away from those who had the event.
ROUTINE_42 = ("privacy.clip=3", "strategy.options.rate=0.03", "strategy.options.ema_decay=0.95", "schedule.rounds=120")


STATES_PRIVATE = (
    "task.options.iterations=4",
    "task.columns=[edss,t25fw_s,nhpt_s,sdmt_n,relapse,t2_vol_ml,new_t2,gd_count,nbv_ml]",
)
ROUTINE_42_HAZARD = ("privacy.clip=0.5", *ROUTINE_42[1:])  # their loss is a tenth of the likelihood, and so are its gradients
EFFECTS = ("privacy.clip=2", "strategy.options.ema_decay=0.9")


def _hazard(name: str, figure: str, cause: int, years: int) -> Callable[[], Measure]:
    return lambda: Measure(figure, hazard(get_task(name), cause, years, pairs_in_time=figure == "uno_c"))  # type: ignore[arg-type]


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Foretelling(
            Recipe("cdp_2y", "cdp_2y_baseline", private=ROUTINE_42),
            lambda: Measure("auc", yes_no),
            ("slope", "slope_bedside", "calibration_intercept", "brier", "auprc", "ece"),
            "calibration_slope",
        ),
        Foretelling(
            Recipe("cdp_time", "cdp_time_baseline", private=ROUTINE_42_HAZARD),
            _hazard("cdp_time", "uno_c", 1, 5),
            ("slope", "slope_bedside", "auc_1y", "auc_2y", "auc_5y", "ibs"),
            "calibration_slope_5y",
            "cdp_5y",
        ),
        Foretelling(
            Recipe("raw_pira", "raw_pira_baseline", private=ROUTINE_42_HAZARD),
            _hazard("raw_pira", "auc_pira", 1, 2),
            ("slope", "slope_bedside", "calibration_slope_raw", "brier_pira", "brier_raw"),
            "calibration_slope_pira",
            "pira_2y",
            others=(_hazard("raw_pira", "auc_raw", 2, 2),),
        ),
        Foretelling(
            Recipe("relapse_activity", "relapse_activity_baseline", private=ROUTINE_42),
            lambda: Measure("auc", watched_yes_no),
            ("slope", "slope_bedside", "calibration_intercept", "brier", "auprc", "net_benefit_20"),
            "calibration_slope",
        ),
        Foretelling(
            Recipe("spms_transition", "spms_transition_baseline", private=ROUTINE_42_HAZARD),
            _hazard("spms_transition", "uno_c", 1, 5),
            ("slope", "slope_bedside", "auc_2y", "auc_5y", "ibs"),
            "calibration_slope_5y",
            "spms_5y",
        ),
        Foretelling(
            Recipe("cognition_prom", "cognition_prom_baseline", private=("privacy.clip=2", "strategy.options.ema_decay=0.9")),
            lambda: Measure("mae", absolute_error(SDMT.step), lower_is_better=True),
            ("r2", "bias", "mae_last", "mae_mean"),
            ceiling=False,
        ),
        Foretelling(
            Recipe("prom_msis29", "prom_msis29_baseline", private=("privacy.clip=2", "strategy.options.ema_decay=0.9")),
            lambda: Measure("mae", absolute_error(MSIS29.step), lower_is_better=True),
            ("r2", "bias", "mae_last", "mae_mean"),
            ceiling=False,
        ),
        States(Recipe("disease_states", private=STATES_PRIVATE)),
        Effects(Recipe("treatment_response", "treatment_response_constant", private=EFFECTS), true_worsening),
        Effects(Recipe("treatment_response_relapse", "treatment_response_relapse_constant", private=EFFECTS), true_relapse),
    )
}
