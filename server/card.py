"""The model card: what was trained, on what, how good it is, and exactly what is promised to a patient, in plain words.

Everything in it comes from the signed plan and the journal; nothing is typed by hand, so nothing can be left out.
"""

import math
from collections.abc import Iterable, Sequence

from consortium.plan import NOT_PRIVATE, Plan
from server import figures
from server.asked import asked_sentences
from server.journal import EpsilonPublished
from server.model import Model
from server.spent import COMPUTED, site_epsilon
from server.state import RunState
from server.strategy import SUMS
from tasks.base import Described, Task
from tasks.errors import TaskError
from tasks.features import Design
from tasks.predicting.bounds import FAR
from tasks.registry import find_task
from tasks.run_options import ROWS, run_options
from tasks.sums import SumsTask

NOT_PRIVATE_BANNER = "NOT PRIVATE"
UNIT = "one patient with all visits, scans and episodes"
NEIGHBOURS = "two data sets of which one has one patient more"
ACCOUNTANT = "privacy loss distributions (dp-accounting, pessimistic), over every message the plan allows"


def epsilon_text(value: float) -> str:
    """Two decimals, rounded up: no page promises more than holds."""
    return "no bound" if value == NOT_PRIVATE or math.isinf(value) else f"{math.ceil(round(value * 100.0, 6)) / 100.0:.2f}"


def privacy_line(plan: Plan) -> str:
    """One line for tables, tags and logs."""
    terms = plan.privacy
    if not plan.private:
        return f"{NOT_PRIVATE_BANNER}: no clipping, no noise, epsilon unbounded"
    return (
        f"epsilon {epsilon_text(terms.epsilon_exposed)} (one site's update exposed), "
        f"{epsilon_text(terms.epsilon_model)} (model), delta {terms.delta:.1e}, per patient"
    )


def guarantee(plan: Plan) -> tuple[str, ...]:
    """The guarantee as sentences: unit, neighbours, numbers, accountant, against whom, and what it does not cover."""
    if not plan.private:
        return (
            f"**{NOT_PRIVATE_BANNER}.** This run had neither clipping nor noise: the model may reveal who was in the "
            "data. Secure aggregation hid each site's update from the hub; it does not protect patients against "
            "readers of the model.",
            "Do not share this model outside the consortium.",
        )
    terms = plan.privacy
    return (
        *_against_whom(plan),
        f"Unit: {UNIT}. Neighbours: {NEIGHBOURS}. Accountant: {ACCOUNTANT}.",
        "Both numbers cover this run alone: normalisation statistics, every training round and every evaluation. What "
        "earlier and later runs add is in each site's ledger, which its auditor can verify.",
        f"How: each patient's {_what(plan)} is clipped to L2 norm {terms.clip:g}; each site adds {_added(plan)}, from a "
        f"cryptographic generator; sampling rate {terms.sample_rate:g}; weights and normalisers are public constants of the plan.",
    )


def _against_whom(plan: Plan) -> tuple[str, ...]:
    terms = plan.privacy
    exposed, model = epsilon_text(terms.epsilon_exposed), epsilon_text(terms.epsilon_model)
    if terms.distributed:
        return (
            f"Every patient has ({model}, {terms.delta:.1e})-differential privacy against the hub, whoever holds the models, and "
            f"sites that work with them, as far as the roster tolerates, **given that secure aggregation holds** and at least "
            f"{terms.honest} honest sites added their share of the noise (*epsilon model*; this number is charged to the site's "
            "budget).",
            f"If a single update of a site were read in the clear, only that site's own share would hide its patients: epsilon "
            f"{exposed} (*epsilon exposed*), with the same delta.",
        )
    return (
        f"Every patient has ({exposed}, {terms.delta:.1e})-differential privacy against "
        "anybody outside the patient's own site, even if the hub and all other sites work together and secure "
        "aggregation fails (*epsilon exposed*; this number is charged to the site's budget).",
        f"Against the hub and whoever holds the models, given that secure aggregation holds: epsilon "
        f"{model} (*epsilon model*), with the same delta.",
    )


def _what(plan: Plan) -> str:
    return "vector" if plan.strategy.name == SUMS else "gradient"


def _added(plan: Plan) -> str:
    terms = plan.privacy
    if terms.distributed:
        whole = terms.train_noise * math.sqrt(terms.honest)
        return f"its share of Gaussian noise, {terms.train_noise:.3g} x that norm, so that {terms.honest} shares make {whole:.3g} x"
    return f"Gaussian noise of {terms.train_noise:.3g} x that norm itself"


def metric_noise(plan: Plan, survivors: int) -> str:
    """How sharp the metrics are, in words; of a task that is not installed here, by what the plan says."""
    if known := figures.cell_words(plan, survivors):
        return known if not plan.private else f"{known} Small differences mean nothing."
    noise = plan.privacy.evaluate_noise * math.sqrt(survivors)
    return f"Computed from {2 * plan.histogram_bins} summed cells; noise of standard deviation {noise:.1f} lies on each."


def model_card(plan: Plan, state: RunState, *, colluders: int, model: Model | None = None) -> str:
    """The card as markdown. `state` is of this plan's run, finished or not; `colluders` as its roster has it.

    `model`: its buffers say which patients it was trained on.
    """
    return "\n".join(
        [
            *_head(plan, state),
            *_section("Task and data", _task_lines(plan)),
            *_section("For whom", _population_lines(plan, model)),
            *_section("Privacy", guarantee(plan)),
            *_section("Quality", _quality_lines(plan, state)),
            *_section("Who took part", _site_lines(plan, state, colluders)),
            *_section("Training", _training_lines(plan, state)),
            *_section("Limits", _limits(plan)),
        ]
    )


def _head(plan: Plan, state: RunState) -> list[str]:
    banner = [] if plan.private else [f"> **{NOT_PRIVATE_BANNER}**: trained without differential privacy.", ""]
    return [
        f"# {plan.task.name}: {plan.model.name}, run {plan.run_id}",
        "",
        *banner,
        f"Plan `{plan.digest.hex()}`, signed by {plan.lead} on {plan.created}; model `{state.model_digest.hex() or 'none yet'}`; "
        f"code {plan.code_version}. State of the run: {state.phase}.",
        "",
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" if line and not line.startswith("|") else line for line in lines), ""]


def _task_lines(plan: Plan) -> Sequence[str]:
    options = ", ".join(f"{name}={value}" for name, value in plan.model.options) or "defaults"
    return (
        f"Task {plan.task.name}, version {plan.task.version}.",
        f"Columns read at the sites: {', '.join(plan.task.columns)}.",
        *(_sums_lines(plan, options) if plan.strategy.name == SUMS else _model_lines(plan, options)),
    )


def _model_lines(plan: Plan, options: str) -> Sequence[str]:
    return (
        f"Model {plan.model.name} ({options}): {plan.n_parameters} trained values, {plan.n_buffers} of normalisation.",
        "Normalisation comes from one accounted, secure sum over all sites, never from one site.",
    )


def _sums_lines(plan: Plan, options: str) -> Sequence[str]:
    return (
        f"Sums {plan.model.name} ({options}): {plan.n_parameters - 1} numbers in {plan.schedule.rounds} rounds.",
        "Nothing is trained; what was found is in `result.json`.",
    )


def _population_lines(plan: Plan, model: Model | None) -> Sequence[str]:
    """Who is in it and, where the run released them, means and standard deviations of what was known about them."""
    task = _task_of(plan)
    declared = sum(participant.declared_patients for participant in plan.participants)
    who = f" {task.population}" if isinstance(task, Described) else ""
    said = (f"Predicts {task.contract.label.meaning}.",) if isinstance(task, Task) else ()
    rows = _ranges(task, plan, model) if isinstance(task, Task) and model is not None else ()
    return (
        *said,
        f"Some {declared} patients of {len(plan.participants)} sites, as the sites declared.{who}",
        *rows,
    )


def _task_of(plan: Plan) -> Task | SumsTask | None:
    """The plan's task; None where this code has another version of it, or none at all."""
    try:
        task = find_task(plan.task.name)
    except TaskError:
        return None
    known = set(plan.task.columns) <= set(task.contract.column_names)
    return task if task.version == plan.task.version and known else None


def _ranges(task: Task, plan: Plan, model: Model) -> Sequence[str]:
    design = Design(task.contract, plan.task.columns)
    if not plan.n_buffers or 2 * design.n_numeric != plan.n_buffers:
        return ()
    mean, scale = design.split_buffers(model)
    head = "Of the training patients of all sites together" + (", with noise" if plan.private else "") + ":"
    rows = ["| input | unit | mean | standard deviation |", "|---|---|---|---|"]
    numbers = zip(design.numeric, mean, scale, strict=True)
    rows += [f"| {column.name} | {column.unit} | {middle:.3g} | {spread:.3g} |" for column, middle, spread in numbers]
    unsure = ", more where noise leaves these numbers in doubt" if plan.private else ""
    tail = f"A prediction is refused to patients further than {FAR:g} standard deviations away in any of them{unsure}."
    return [head, "", *rows, "", tail]


def _quality_lines(plan: Plan, state: RunState) -> Sequence[str]:
    last = figures.evaluated(state) or next((done for done in reversed(state.done) if done.metrics), None)
    if last is None:
        return ("Not measured.",)
    sites = f"{len(last.survivors)} sites together"
    final = last.purpose == "evaluate"
    kept = (
        "Test patients are kept for one sum at the end of a run; other runs of the consortium look at the same ones."
        if final
        else "These figures served to choose: the run has none of test patients yet, and theirs may be worse."
    )
    return (
        f"On {figures.whose(last)}; {sites}: {metrics_text(last.metrics)}.",
        *filter(None, [figures.doubt(dict(last.metrics), figures.primary_of(plan))]),
        metric_noise(plan, len(last.survivors)),
        kept,
        *_held_out(plan),
    )


def _held_out(plan: Plan) -> Sequence[str]:
    """Who was held out, and what the plan asked beyond that."""
    rows = plan.strategy.name != SUMS and run_options(dict(plan.model.options)).split == ROWS
    hashed = "Held-out patients are chosen by a keyed hash of the patient, the same in every run, and never trained on."
    return (*asked_sentences(plan)[1:], *(() if rows else (hashed,)))


def metrics_text(metrics: Iterable[tuple[str, float]]) -> str:
    """Pooled figures in words; says so where noise is of their size."""
    known = dict(metrics)
    said = figures.all_words(known, None)
    return said + ("; NOISE IS OF THE SIZE OF THESE FIGURES, do not read them" if figures.drowned(known) else "")


def _site_lines(plan: Plan, state: RunState, colluders: int) -> Sequence[str]:
    rows = ["| site | declared size | weight | rounds in the sums | epsilon exposed | epsilon model |", "|---|---|---|---|---|---|"]
    taken = state.participation()
    for participant in plan.participants:
        exposed, model = epsilon_words(plan, state, participant.site, colluders=colluders)
        rows.append(
            f"| {participant.site} | {participant.declared_patients} | {plan.weight(participant.site):.3f} "
            f"| {taken.get(participant.site, 0)} | {exposed} | {model} |"
        )
    return [*rows, "", epsilon_note(plan, state)]


def epsilon_words(plan: Plan, state: RunState, site: str, *, colluders: int) -> tuple[str, str]:
    """Exposed and model epsilon of one site so far, for tables."""
    found = site_epsilon(plan, state, site, colluders=colluders)
    if not plan.private:
        return NOT_PRIVATE_BANNER, NOT_PRIVATE_BANNER
    return epsilon_text(found.exposed), epsilon_text(found.model)


def epsilon_note(plan: Plan, state: RunState) -> str:
    """Where the numbers of such a table come from."""
    published = "; ".join(f"{site} {published_words(state.published[site])}" for site in plan.sites if site in state.published)
    own = f" Published by the sites of their own ledgers, over all their runs: {published}." if published else ""
    if not plan.private:
        return f"{NOT_PRIVATE_BANNER}: nothing bounds epsilon.{own}"
    return f"Epsilon of this run so far, {COMPUTED}. The ledgers of the sites are what counts.{own}"


def published_words(published: EpsilonPublished) -> str:
    """A site's own figure, with what it is of."""
    epsilon = NOT_PRIVATE_BANNER if published.exposed == NOT_PRIVATE else epsilon_text(published.exposed)
    return f"{epsilon} at delta {published.delta:.1e} ({published.entries} entries, {published.made})"


def _training_lines(plan: Plan, state: RunState) -> Sequence[str]:
    options = ", ".join(f"{name}={value}" for name, value in plan.strategy.options) or "defaults"
    return (
        f"{state.completed('train')} of {plan.schedule.rounds} training rounds, {len(state.failed)} failed rounds, "
        f"{state.resumes} resumes.",
        f"{plan.schedule.local_steps} local step(s) a round at rate {plan.schedule.local_rate:g}.",
        f"Strategy {plan.strategy.name} ({options}).",
        f"Secure aggregation sa1: a sum opened only over at least {state.threshold or 'the threshold of'} sites.",
    )


def _limits(plan: Plan) -> Sequence[str]:
    return (
        "Research software and not a medical device; clinical validity has not been shown. No decision about a patient may rest on "
        "it. Validate at your own site before any use (`wardround-site evaluate`).",
        "Trained and measured on the sites listed above; populations elsewhere may differ.",
        "A site may have contributed wrong data inside the clipping range; the protocol does not detect that.",
        "Privacy assumes that each site's own machine and random generator were sound.",
    )
