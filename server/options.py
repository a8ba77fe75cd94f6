"""What a consortium could choose instead, before anything is spent: epsilon against rounds and noise, and what each may cost.

For every mode, epsilon and number of rounds of a grid: both epsilons, the noise on the mean gradient, and the AUC that is expected
to be lost against pooled training without noise. The loss is not a guess: `expected_error.yaml` holds curves fitted to measured
runs (`scripts/bench_privacy_utility.py --curve`), with the error of the fit. Outside what was measured, an option says so.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from typing import Literal

from consortium.canonical import Json
from consortium.plan import Plan
from consortium.roster import Roster
from privacy.accountant import ENFORCE_INTERVAL
from privacy.planning import Noises, Releases, calibrate
from privacy.terms import epsilon_exposed, epsilon_model, honest_minimum, off_grid, ride_along_limit
from server.config import PrivacyConfig
from server.errors import PlanningError
from server.planning import CANARIES, CANARIES_FROM_PARAMETERS, GRID_BITS_LEAST, GRID_BITS_MOST, SPARE_ROUND_NUMBERS
from tasks import strict_yaml
from tasks.errors import TaskError

Mode = Literal["local", "distributed"]
MODES: tuple[Mode, ...] = ("local", "distributed")
ROUNDS = (50, 100, 200, 400)
EPSILONS = (1.0, 3.0, 8.0)
TIE = 0.001  # AUC: closer than this, fewer rounds are better: less traffic, fewer failures
WORTH_TRUST = 0.005  # AUC that mode distributed must gain, since it asks for trust in secure aggregation
WORTH_EPSILON = 0.005  # AUC for which nobody should pay a larger epsilon
CURVES_FILE = "expected_error.yaml"
CURVES_FORM = "wardround/expected-error/1"
LINE_WIDTH = 80  # characters


@dataclass(frozen=True)
class Curve:
    """AUC lost = `factor` x^`power` + `few_rounds` / rounds, at most `most`; x = noise sqrt(parameters / rounds).

    x is the length of all the noise that the rounds leave on the model, relative to the signal that clipped gradients add up to:
    noise (one coordinate of the mean gradient, in clips) grows over parameters and averages out over rounds as a square root. At
    one epsilon it also grows as the square root of the rounds, so that more rounds cost nothing and only help a model to get there.
    `error`: root mean square, for a task that the fit had not seen. `x_most`, `parameters`, `rounds`: what was measured.
    """

    models: tuple[str, ...]
    factor: float
    power: float
    few_rounds: float
    most: float
    error: float
    x_most: float
    parameters: tuple[float, float]
    rounds: tuple[float, float]

    def loss(self, noise: float, parameters: int, rounds: int) -> float:
        """Expected AUC lost against pooled training without noise."""
        noisy = self.factor * math.pow(self._x(noise, parameters, rounds), self.power)
        return min(self.most, noisy + self.few_rounds / rounds)

    def measured(self, noise: float, parameters: int, rounds: int) -> bool:
        """Whether such a run lies within what was measured; less noise or a smaller model than that does too."""
        inside = parameters <= self.parameters[1] and self.rounds[0] <= rounds <= self.rounds[1]
        return inside and self._x(noise, parameters, rounds) <= self.x_most

    def _x(self, noise: float, parameters: int, rounds: int) -> float:
        return noise * math.sqrt(parameters / rounds)


@dataclass(frozen=True)
class SiteNoise:
    """`own`: noise on one coordinate of this site's mean gradient alone, in clips: what its own update hides behind."""

    site: str
    declared_patients: int
    own: float


@dataclass(frozen=True)
class Option:
    """One choice. `target_epsilon` is what a site's budget is charged with; `noise`: of the mean gradient over all sites, in clips.

    `loss`: expected AUC lost; `measured`: whether a run like it was. `grid_bits` 0: no grid holds its sums and noise.
    """

    mode: Mode
    target_epsilon: float
    rounds: int
    epsilon_model: float
    epsilon_exposed: float
    train_noise: float
    grid_bits: int
    noise: float
    sites: tuple[SiteNoise, ...]
    loss: float
    measured: bool


@dataclass(frozen=True)
class Options:
    """`hints`: what else would help or is advised, in sentences; `error` of every expected loss."""

    options: tuple[Option, ...]
    recommended: Option
    reasons: tuple[str, ...]
    hints: tuple[str, ...]
    canaries: int
    error: float

    def document(self) -> Json:
        """For `--json`."""
        return _plain(asdict(self))


def options(
    plan: Plan, config: PrivacyConfig, roster: Roster, curves: Sequence[Curve], *, rounds: Sequence[int] = ROUNDS
) -> Options:
    """The grid for this plan's sites, model and schedule, and the choice that is recommended. Raises `PlanningError`.

    `rounds`: beside the plan's own. Sampled mechanisms (sample_rate below 1) take about a second for each epsilon and number of
    rounds; all others take none.
    """
    curve = curve_of(curves, plan.model.name)
    target = config.target_epsilon if config.target_epsilon > 0 else EPSILONS[1]
    counts = sorted({*rounds, plan.schedule.rounds})
    modes = [mode for mode in MODES if not _impossible(mode, plan, roster)]
    found = [
        option
        for epsilon in sorted({*EPSILONS, target})
        for noises in [_noises(plan, config, epsilon, counts)]
        for mode in modes
        for count in counts
        for option in [_option(_candidate(plan, roster, mode, noises[count], count), roster, epsilon, curve)]
    ]
    chosen, reasons = recommend(found, target)
    return Options(tuple(found), chosen, reasons, _hints(plan, roster, curve, chosen), _canaries(plan), curve.error)


def _impossible(mode: Mode, plan: Plan, roster: Roster) -> str:
    """Why this consortium or schedule cannot have `mode`; empty if it can."""
    if mode == "local":
        return ""
    if _honest(plan, roster) < 2:
        return "a sum may hold one honest share of noise only, so mode distributed gains nothing"
    if plan.ring_bits != 32:
        return "mode distributed needs ring_bits=32"
    return "mode distributed takes one local step a round" if plan.schedule.local_steps != 1 else ""


def _honest(plan: Plan, roster: Roster, minimum_cohort: int | None = None) -> int:
    cohort = roster.minimum_cohort if minimum_cohort is None else minimum_cohort
    return honest_minimum(len(plan.participants), colluders=roster.colluders, minimum_cohort=cohort)


def _noises(plan: Plan, config: PrivacyConfig, epsilon: float, rounds: Sequence[int]) -> Mapping[int, Noises]:
    """The calibrated noises for every number of rounds, before they are shared.

    Full-batch Gaussian releases compose by 1/noise^2 exactly, so one calibration serves all: noise grows with the square root
    of the releases. Sampled ones are calibrated one by one.
    """
    if plan.privacy.sample_rate < 1.0:
        return {count: _calibrated(plan, config, epsilon, count) for count in rounds}
    base = _with_rounds(plan, rounds[0])
    noises = _calibrated(plan, config, epsilon, rounds[0])
    return {count: _scaled(noises, base, _with_rounds(plan, count)) for count in rounds}


def _calibrated(plan: Plan, config: PrivacyConfig, epsilon: float, count: int) -> Noises:
    longer = _with_rounds(plan, count)
    train, evaluate = _releases(longer)
    describe = longer.schedule.max_describe if longer.statistics else 0
    releases = Releases(describe, train, evaluate, plan.privacy.sample_rate, plan.privacy.count_noise)
    return calibrate(epsilon, plan.privacy.delta, releases, describe_share=config.describe_share)


def _scaled(noises: Noises, base: Plan, longer: Plan) -> Noises:
    (train, evaluate), (more_train, more_evaluate) = _releases(base), _releases(longer)
    return Noises(
        noises.train_noise * math.sqrt(more_train / train),
        noises.describe_noise,
        noises.evaluate_noise * math.sqrt(max(more_evaluate, 1) / max(evaluate, 1)),
    )


def _releases(plan: Plan) -> tuple[int, int]:
    schedule = plan.schedule
    return schedule.max_train * schedule.local_steps, ride_along_limit(plan) + schedule.max_evaluate


def _with_rounds(plan: Plan, rounds: int) -> Plan:
    """The same plan with other rounds and the same spare ones."""
    schedule = plan.schedule
    train = rounds + schedule.max_train - schedule.rounds
    most = schedule.max_describe + train + schedule.max_evaluate + SPARE_ROUND_NUMBERS
    return replace(plan, schedule=replace(schedule, rounds=rounds, max_train=train, max_round=most))


def _candidate(plan: Plan, roster: Roster, mode: Mode, noises: Noises, rounds: int) -> Plan:
    """The plan of one option, with the finest grid that holds it; its epsilons are not stated yet."""
    honest = _honest(plan, roster) if mode == "distributed" else 1
    part = 1.0 / math.sqrt(honest)
    terms = replace(
        plan.privacy,
        mode=mode,
        honest=honest,
        canaries=0,
        epsilon_exposed=1.0,
        epsilon_model=1.0,
        train_noise=noises.train_noise * part,
        describe_noise=noises.describe_noise * part,
        evaluate_noise=noises.evaluate_noise * part,
    )
    return _on_finest_grid(replace(_with_rounds(plan, rounds), privacy=terms))


def _on_finest_grid(plan: Plan) -> Plan:
    for bits in range(GRID_BITS_MOST, GRID_BITS_LEAST - 1, -1):
        candidate = replace(plan, privacy=replace(plan.privacy, grid_bits=bits))
        if not off_grid(candidate):
            return candidate
    return plan


def _option(plan: Plan, roster: Roster, target: float, curve: Curve) -> Option:
    terms, rounds = plan.privacy, plan.schedule.rounds
    noise = noise_of_sum(plan)
    exposed = epsilon_exposed(plan, interval=ENFORCE_INTERVAL)
    read = epsilon_model(plan, colluders=roster.colluders, minimum_cohort=roster.minimum_cohort, interval=ENFORCE_INTERVAL)
    return Option(
        mode="distributed" if terms.distributed else "local",
        target_epsilon=target,
        rounds=rounds,
        epsilon_model=min(read, exposed),
        epsilon_exposed=exposed,
        train_noise=terms.train_noise,
        grid_bits=0 if off_grid(plan) else terms.grid_bits,
        noise=noise,
        sites=tuple(
            SiteNoise(one.site, one.declared_patients, terms.train_noise / (terms.sample_rate * one.declared_patients))
            for one in plan.participants
        ),
        loss=curve.loss(noise, plan.n_parameters, rounds),
        measured=curve.measured(noise, plan.n_parameters, rounds) and plan.model.name in curve.models,
    )


def noise_of_sum(plan: Plan) -> float:
    """Standard deviation of one coordinate of the mean gradient, in clips, with every site's noise in it.

    Weights are the declared sizes, so each site's noise counts the same: sqrt(sites) of them over all patients.
    """
    total = sum(participant.declared_patients for participant in plan.participants)
    return plan.privacy.train_noise * math.sqrt(len(plan.participants)) / (plan.privacy.sample_rate * total)


def recommend(found: Sequence[Option], target: float) -> tuple[Option, tuple[str, ...]]:
    """The least that does as well: never more epsilon than `target`, local mode and few rounds unless more is worth it."""
    usable = [option for option in found if option.grid_bits and option.target_epsilon <= target]
    if not usable:
        raise PlanningError(f"no option up to epsilon {target:g} fits grid and ring: more epsilon, or fewer patients a site")
    at_target = _best(option for option in usable if option.target_epsilon == target)
    mode, why_mode = _mode(at_target, usable, target)
    of_mode = [option for option in usable if option.mode == mode]
    best = _best(option for option in of_mode if option.target_epsilon == target)
    for epsilon in sorted({option.target_epsilon for option in of_mode}):
        candidate = _best(option for option in of_mode if option.target_epsilon == epsilon)
        if candidate.loss <= best.loss + WORTH_EPSILON:
            break
    saved = candidate.loss - best.loss
    why = f"epsilon {target:g} would gain {saved:.3f} AUC more, not worth its larger epsilon" if candidate != best else ""
    enough = f"{candidate.rounds} rounds: more of them gain less than {TIE:g} AUC"
    return candidate, tuple(reason for reason in (why_mode, why, enough) if reason)


def _best(some: Iterable[Option]) -> Option:
    """The fewest rounds within `TIE` of the least expected loss."""
    listed = sorted(some, key=lambda option: option.rounds)
    least = min(option.loss for option in listed)
    return next(option for option in listed if option.loss <= least + TIE)


def _mode(at_target: Option, usable: Sequence[Option], target: float) -> tuple[Mode, str]:
    best = {
        mode: _best(some)
        for mode in MODES
        if (some := [option for option in usable if (option.mode, option.target_epsilon) == (mode, target)])
    }
    if len(best) < 2:
        return at_target.mode, f"only mode {at_target.mode} is possible here"
    gain = best["local"].loss - best["distributed"].loss
    if gain > WORTH_TRUST:
        return "distributed", f"distributed gains {gain:.3f} AUC at epsilon {target:g}; it trusts secure aggregation"
    return "local", f"local holds against everybody; distributed would gain {max(gain, 0.0):.3f} AUC only"


def _canaries(plan: Plan) -> int:
    return CANARIES if plan.n_parameters >= CANARIES_FROM_PARAMETERS else 0


def _hints(plan: Plan, roster: Roster, curve: Curve, chosen: Option) -> tuple[str, ...]:
    said = [reason] if (reason := _impossible("distributed", plan, roster)) else []
    sites = len(plan.participants)
    now, then = _honest(plan, roster), _honest(plan, roster, sites - 1)
    if then > now:
        said.append(
            f"a minimum cohort of {sites - 1} in the roster makes every sum hold {then} honest shares in place of {now}: "
            f"distributed noise falls by {1.0 - math.sqrt(now / then):.0%}"
        )
    said.append(
        f"privacy.canaries={CANARIES}: a model of {plan.n_parameters} parameters does not feel them"
        if _canaries(plan)
        else f"privacy.canaries=0: {plan.n_parameters} parameters would feel them; audit in a run of its own"
    )
    if plan.privacy.grid_bits > chosen.grid_bits:
        said.append(f"privacy.grid_bits={chosen.grid_bits}: a finer grid does not fit")
    if not chosen.measured:
        said.append("no run like it was measured: take the expected loss as a rough guess")
    return tuple(said)


def curve_of(curves: Sequence[Curve], model: str) -> Curve:
    """The curve of this kind of model, else the last one, whose options then say that they were not measured."""
    return next((curve for curve in curves if model in curve.models), curves[-1])


def measured_curves() -> tuple[Curve, ...]:
    """The curves that this version ships. Raises `PlanningError` if the file is not what this code reads."""
    text = (files("server") / CURVES_FILE).read_text(encoding="utf-8")
    try:
        return read_curves(text)
    except (TaskError, KeyError, TypeError, ValueError) as error:
        raise PlanningError(f"{CURVES_FILE} is not of form {CURVES_FORM} ({error}): install this version again") from error


def read_curves(text: str) -> tuple[Curve, ...]:
    """The curves of a file of this form; strict about names and numbers, not about what stands beside the curves."""
    document = strict_yaml.parse(text, CURVES_FILE)
    if not isinstance(document, dict) or document["form"] != CURVES_FORM or not isinstance(document["curves"], list):
        raise ValueError("no list of curves")
    return tuple(_curve(entry) for entry in document["curves"])


def _curve(entry: strict_yaml.Document) -> Curve:
    if not isinstance(entry, dict):
        raise ValueError("a curve is a table of names")  # noqa: TRY004 - the caller reports all of them alike
    names = ("factor", "power", "few_rounds", "most", "error", "x_most")
    factor, power, few, most, error, x_most = (_number(entry[name]) for name in names)
    models = entry["models"]
    if not isinstance(models, list) or set(entry) != set(Curve.__annotations__):
        raise ValueError("a curve has exactly the keys " + ", ".join(Curve.__annotations__))
    return Curve(
        tuple(map(str, models)), factor, power, few, most, error, x_most, _pair(entry["parameters"]), _pair(entry["rounds"])
    )


def _number(value: strict_yaml.Document) -> float:
    number = float(str(value))
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{value} is not a number, 0 or more")
    return number


def _pair(value: strict_yaml.Document) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a range has two numbers")
    return _number(value[0]), _number(value[1])


def lines(found: Options, *, whole: bool = False) -> tuple[str, ...]:
    """For a terminal, at most 80 characters a line: the best rounds of each mode and epsilon, or every option and site."""
    shown = found.options if whole else _fewest(found)
    best = found.recommended
    return (
        f"options           AUC lost: to expect against pooled without noise, +- {found.error:.3f},",
        "                  from measured runs (?: none is like it)",
        "  mode         epsilon  model  exposed  rounds  noise/clip  AUC lost",
        *(_line(option, marked=option == best) for option in shown),
        *(_site_lines(best) if whole else _site_range(best)),
        f"recommended       mode {best.mode}, epsilon {best.target_epsilon:g}, {best.rounds} rounds",
        *(line for reason in found.reasons for line in _wrapped("  because", reason)),
        *(line for hint in found.hints for line in _wrapped("  and", hint)),
    )


def _fewest(found: Options) -> list[Option]:
    """One option for each mode and epsilon, the recommended one where it is."""
    keys = dict.fromkeys((option.mode, option.target_epsilon) for option in found.options)
    groups = [[one for one in found.options if (one.mode, one.target_epsilon) == key] for key in keys]
    return [found.recommended if found.recommended in group else _best(group) for group in groups]


def _line(option: Option, *, marked: bool) -> str:
    remark = "" if option.measured else " ?"
    fits = remark if option.grid_bits else " no grid fits"
    return (
        f"{'*' if marked else ' '} {option.mode:<12} {option.target_epsilon:>7g} {option.epsilon_model:>6.2f} "
        f"{option.epsilon_exposed:>8.2f} {option.rounds:>7} {option.noise:>11.5f}  {option.loss:>8.3f}{fits}"
    )


def _site_range(option: Option) -> list[str]:
    ends = sorted(option.sites, key=lambda one: one.declared_patients)
    small, large = ends[0], ends[-1]
    said = f"noise/clip {small.own:.3f} with {small.declared_patients} patients to {large.own:.3f} with {large.declared_patients}"
    return _wrapped("own updates", said)


def _site_lines(option: Option) -> list[str]:
    return [f"  {one.site:<16}declared {one.declared_patients}, noise/clip of its own update {one.own:.4f}" for one in option.sites]


def _wrapped(name: str, sentence: str) -> list[str]:
    return textwrap.wrap(sentence, LINE_WIDTH, initial_indent=f"{name:<18}", subsequent_indent=" " * 18)


def _plain(value: object) -> Json:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str):
        return value
    raise PlanningError(f"options cannot hold a {type(value).__name__}")
