"""The plan is all that a run may do: what it does not state, no site does, whatever the coordinator asks.

A lead on the roster signs it, each site's steward approves its digest, every mask, ledger entry and receipt binds it.
Numbers that scale a patient's contribution (weights, sampling rate, normaliser) are public constants here, never derived
from data: a normaliser that moved with one patient would reveal that patient.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from consortium.canonical import SITE_ID
from consortium.documents import Signed
from consortium.errors import DocumentError, SignatureError
from consortium.identity import SigningKey
from consortium.roster import MAX_SITES, SMALLEST_COHORT, Roster, least_sites

KIND = "plan"
VERSION = 3
RING_BITS = (16, 32)
NOT_PRIVATE = -1.0  # how "no bound" is written where a number must stand
PURPOSES = ("describe", "train", "evaluate")
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# ASCII digits only and no 25 o'clock: times are compared as text
TIME = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z")
MAX_PARAMETERS = 2**28
MAX_DIMENSIONS = 8
MAX_DELTA = 1e-4
MAX_CANARIES = 10_000
MAX_BINS = 16_384  # half the cells of a held-out histogram
LEAVE_OUT = "leave_out"  # a reserved option of every model; the others are in `tasks.run_options`
MODALITY = re.compile(r"[a-z][a-z0-9_]{0,31}")

Option = tuple[tuple[str, str | int | float], ...]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DocumentError(f"plan: {message}")


@dataclass(frozen=True)
class Participant:
    """`declared_patients`: the public, rounded size that fixes this site's weight and normaliser; not a count of anybody."""

    site: str
    node_id: int
    declared_patients: int


@dataclass(frozen=True)
class ParameterSpec:
    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TaskRef:
    """`columns`: the only ones a site may read for this run; `modalities`: the kinds of data that they come from, in order."""

    name: str
    version: str
    columns: tuple[str, ...]
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class ModelRef:
    """`buffers` (normalisation) then `parameters` (trained): the order of every vector of this run."""

    name: str
    options: Option
    buffers: tuple[ParameterSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    init_seed: int


@dataclass(frozen=True)
class Schedule:
    """`rounds` training rounds are meant; the maxima are what a site will ever answer, repeats after failures included."""

    rounds: int
    max_round: int
    max_describe: int
    max_train: int
    max_evaluate: int
    evaluate_every: int
    local_steps: int
    local_rate: float


@dataclass(frozen=True)
class PrivacyTerms:
    """Noise multipliers are standard deviations relative to a patient's L2 bound: `clip` (train), `describe_clip`, 1 (evaluate).

    `count_noise`: above 0, the number of a site's training patients rides in every training round's header, with this noise
    drawn once per run and site and reused: a fresh draw for each round would average out, and an exact count could be read
    off by subtracting two sums with different survivors.

    Mode "local": noise multipliers are those of each site's own noise, which hides its patients from everybody. Mode
    "distributed": they are each site's *share*; opened sums alone are private, with the noise of at least `honest` shares in them.
    `canaries`: synthetic patients with which every site measures what its own training sums give away; they never leave it.
    """

    mode: Literal["local", "distributed", "none"]
    delta: float
    epsilon_exposed: float
    epsilon_model: float
    clip: float
    grid_bits: int
    sample_rate: float
    train_noise: float
    describe_clip: float
    describe_noise: float
    evaluate_noise: float
    count_noise: float = 0.0
    honest: int = 1
    canaries: int = 0

    @property
    def distributed(self) -> bool:
        """Whether sites add shares of the noise, so that only opened sums are private."""
        return self.mode == "distributed"

    @property
    def grid_step(self) -> float:
        """What one step of the integer grid is worth in a training step's sum."""
        return self.clip / float(1 << self.grid_bits)

    @property
    def counted(self) -> bool:
        """Whether patient counts are released at all."""
        return self.count_noise > 0.0


@dataclass(frozen=True)
class StrategyRef:
    name: str
    options: Option


@dataclass(frozen=True)
class Deadlines:
    """Seconds the coordinator waits in each phase."""

    keys_s: int
    update_s: int
    vote_s: int
    approval_s: int


@dataclass(frozen=True)
class HeaderField:
    name: str
    length: int


PATIENTS = HeaderField("patients", 1)  # training patients of the survivors; noised once per run and site


@dataclass(frozen=True)
class Plan:
    version: int
    run_id: str
    lead: str
    created: str
    code_version: str
    roster_digest: bytes
    task: TaskRef
    model: ModelRef
    participants: tuple[Participant, ...]
    statistics: int
    histogram_bins: int  # half the cells: a yes/no task has so many bins for each label, others divide the cells as they say
    coordinate_clip: float
    ring_bits: int
    schedule: Schedule
    privacy: PrivacyTerms
    strategy: StrategyRef
    deadlines: Deadlines

    def __post_init__(self) -> None:
        _require(self.version == VERSION, f"version {self.version}, this code knows {VERSION}")
        _require(bool(RUN_ID.fullmatch(self.run_id)), "run_id must be 1 to 64 of a-z, 0-9 and '-'")
        _require(bool(TIME.fullmatch(self.created)), "created must look like 2026-01-31T12:00:00Z")
        _require(len(self.roster_digest) == 32, "roster_digest must be 32 bytes")
        _require(0 <= self.statistics <= 2**20, f"statistics {self.statistics} outside [0, 2^20]")
        _require(2 <= self.histogram_bins <= MAX_BINS, f"histogram_bins {self.histogram_bins} outside [2, {MAX_BINS}]")
        _require(self.ring_bits in RING_BITS, f"ring_bits {self.ring_bits}, this version knows {RING_BITS}")
        _require(
            math.isfinite(self.coordinate_clip) and self.coordinate_clip > 0 and math.frexp(self.coordinate_clip)[0] == 0.5,
            f"coordinate_clip {self.coordinate_clip} is not a power of two",
        )
        _check_participants(self.participants)
        _check_model(self.model)
        _check_schedule(self.schedule)
        _check_privacy(self.privacy)
        _check_modalities(self.task.modalities)
        canaries, size = self.privacy.canaries, self.n_parameters
        _require(canaries <= size, f"{canaries} canaries, each needs a parameter of its own: there are {size}")
        if self.privacy.distributed:
            _check_distributed(self)
        else:
            _require(self.privacy.honest == 1, f"honest {self.privacy.honest} in mode {self.privacy.mode}: each site stands alone")
        _require(min(vars(self.deadlines).values()) >= 1, "every deadline must be at least 1 second")

    @cached_property  # a site asks for it in every round
    def digest(self) -> bytes:
        return Signed.of(KIND, self).digest

    @property
    def n_parameters(self) -> int:
        return sum(spec.size for spec in self.model.parameters)

    @property
    def n_buffers(self) -> int:
        return sum(spec.size for spec in self.model.buffers)

    @property
    def model_size(self) -> int:
        """Floats of the model on the wire: buffers, then parameters."""
        return self.n_buffers + self.n_parameters

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(participant.site for participant in self.participants)

    def participant(self, site: str) -> Participant:
        for participant in self.participants:
            if participant.site == site:
                return participant
        raise DocumentError(f"plan: {site!r} is not a participant")

    def weight(self, site: str) -> float:
        """w_i in (0, 1]; the weights of all participants add up to 1."""
        total = sum(participant.declared_patients for participant in self.participants)
        return self.participant(site).declared_patients / total

    @property
    def private(self) -> bool:
        return self.privacy.mode != "none"

    @property
    def left_out(self) -> str:
        """The site that is not trained on and the only one tested on; "" = none. Figures of such a plan are those of one site."""
        return str(dict(self.model.options).get(LEAVE_OUT, ""))


def _check_participants(participants: tuple[Participant, ...]) -> None:
    sites = [participant.site for participant in participants]
    _require(sites == sorted(set(sites)), "participants must be in ascending order of site, each once")
    _require(
        SMALLEST_COHORT <= len(sites) <= MAX_SITES,
        f"{len(sites)} participants, must be {SMALLEST_COHORT} to {MAX_SITES}",
    )
    _require(len({participant.node_id for participant in participants}) == len(sites), "two participants share a node id")
    for participant in participants:
        _require(bool(SITE_ID.fullmatch(participant.site)), f"site id {participant.site!r} is not of a-z, 0-9 and '-'")
        _require(0 <= participant.node_id < 2**64, f"node id of {participant.site} outside [0, 2^64)")
        _require(1 <= participant.declared_patients <= 10**7, f"declared_patients of {participant.site} outside [1, 10^7]")


def _check_model(model: ModelRef) -> None:
    specs = model.buffers + model.parameters
    _require(len({spec.name for spec in specs}) == len(specs), "two tensors of the model share a name")
    _require(bool(model.parameters), "a model without parameters cannot be trained")
    for spec in specs:
        # each bounded before they are multiplied: a plan is parsed before its signature is checked
        _require(len(spec.shape) <= MAX_DIMENSIONS, f"tensor {spec.name!r} has more than {MAX_DIMENSIONS} dimensions")
        _require(
            all(1 <= size <= MAX_PARAMETERS for size in spec.shape),
            f"tensor {spec.name!r} has a dimension outside [1, {MAX_PARAMETERS}]",
        )
    _require(sum(spec.size for spec in specs) <= MAX_PARAMETERS, f"more than {MAX_PARAMETERS} values in the model")
    _require(0 <= model.init_seed < 2**63, "init_seed outside [0, 2^63)")
    names = [name for name, _ in model.options]
    _require(names == sorted(set(names)), "model options must be in ascending order, each once")


def _check_schedule(schedule: Schedule) -> None:
    _require(1 <= schedule.rounds <= 100_000, f"rounds {schedule.rounds} outside [1, 100000]")
    _require(schedule.max_train >= schedule.rounds, "max_train is below rounds")
    _require(schedule.max_round >= schedule.rounds, "max_round is below rounds")
    _require(schedule.max_round <= 2**32, "max_round above 2^32")
    _require(min(schedule.max_describe, schedule.max_evaluate) >= 0, "a maximum below 0")
    _require(schedule.evaluate_every >= 1, "evaluate_every must be at least 1")
    _require(1 <= schedule.local_steps <= 10_000, f"local_steps {schedule.local_steps} outside [1, 10000]")
    _require(math.isfinite(schedule.local_rate) and schedule.local_rate > 0, "local_rate must be positive and finite")


def _check_privacy(terms: PrivacyTerms) -> None:
    for name, value in vars(terms).items():
        _require(not isinstance(value, float) or math.isfinite(value), f"privacy.{name} is not finite")
    _require(0 < terms.sample_rate <= 1, f"sample_rate {terms.sample_rate} outside (0, 1]")
    _require(0 < terms.delta <= MAX_DELTA, f"delta {terms.delta} outside (0, {MAX_DELTA}]")
    _require(10 <= terms.grid_bits <= 24, f"grid_bits {terms.grid_bits} outside [10, 24]")
    _require(terms.clip > 0, "clip must be positive")
    _require(terms.describe_clip > 0, "describe_clip must be positive")
    _require(0 <= terms.canaries <= MAX_CANARIES, f"canaries {terms.canaries} outside [0, {MAX_CANARIES}]")
    noises = (terms.train_noise, terms.describe_noise, terms.evaluate_noise)
    epsilons = (terms.epsilon_exposed, terms.epsilon_model)
    if terms.mode == "none":
        _require((*noises, terms.count_noise) == (0.0, 0.0, 0.0, 0.0), "mode none has no noise: set the noise multipliers to 0")
        _require(epsilons == (NOT_PRIVATE, NOT_PRIVATE), f"mode none bounds nothing: write epsilon as {NOT_PRIVATE}")
        _require(terms.canaries == 0, "mode none claims nothing that canaries could measure: set canaries to 0")
    else:
        _require(min(noises) > 0, "a private plan needs noise on every release")
        _require(terms.count_noise >= 0, f"count_noise {terms.count_noise} is below 0")
        _require(min(epsilons) > 0, "a private plan states both epsilons")


def _check_modalities(modalities: tuple[str, ...]) -> None:
    _require(list(modalities) == sorted(set(modalities)), "task.modalities must be in ascending order, each once")
    for name in modalities:
        _require(bool(MODALITY.fullmatch(name)), f"modality {name!r} is not of a-z, 0-9 and '_'")


def _check_distributed(plan: Plan) -> None:
    """An unnoised intermediate model has no bound, and an epsilon of sums cannot be smaller than one of single updates."""
    terms = plan.privacy
    _require(2 <= terms.honest <= len(plan.participants), f"honest {terms.honest} outside [2, {len(plan.participants)}]")
    _require(plan.ring_bits == 32, "mode distributed needs ring_bits 32: noise and sum do not fit into 16 at a useful grid")
    _require(plan.schedule.local_steps == 1, "mode distributed takes one local step: only opened sums are private")
    _require(terms.epsilon_model <= terms.epsilon_exposed, "mode distributed states epsilon_model above epsilon_exposed")


def header_fields(plan: Plan, round_number: int, purpose: str) -> tuple[HeaderField, ...]:
    """The header of one round after word 0, the same at every party: nothing else may ride beside the update."""
    histogram = HeaderField("histogram", 2 * plan.histogram_bins)
    if purpose == "describe":
        return (HeaderField("statistics", plan.statistics),)
    if purpose == "evaluate":
        return (histogram,)
    if purpose == "train":
        counts = (PATIENTS,) if plan.privacy.counted else ()
        return (*counts, histogram) if round_number % plan.schedule.evaluate_every == 0 else counts
    raise DocumentError(f"purpose {purpose!r} is not one of {', '.join(PURPOSES)}")


def header_step(plan: Plan, field: str) -> float:
    """What one step of the integer grid is worth in a header field, in mode distributed: its L2 bound over 2^grid_bits."""
    bound = plan.privacy.describe_clip if field == "statistics" else 1.0
    return bound / float(1 << plan.privacy.grid_bits)


def body_length(plan: Plan, purpose: str) -> int:
    """Values in the body: the update in a training round, nothing otherwise."""
    return plan.n_parameters if purpose == "train" else 0


def sign_plan(plan: Plan, key: SigningKey) -> Signed:
    return Signed.of(KIND, plan).sign(plan.lead, key)


def verify_plan(signed: Signed, roster: Roster) -> Plan:
    """The plan, if its own lead, who is on this roster, signed it for exactly this roster and sites that are on it."""
    plan = signed.expect(KIND).document(Plan)
    lead = roster.member(plan.lead)
    if lead.role != "lead":
        raise SignatureError(f"plan {plan.run_id}: {plan.lead} is not a lead")
    if signed.signers({lead.id: lead.identity_key}) != (lead.id,):
        raise SignatureError(f"plan {plan.run_id} is not signed by {lead.id}")
    if plan.roster_digest != roster.digest:
        raise SignatureError(
            f"plan {plan.run_id} was made for another roster than version {roster.version}: fetch the roster, or plan again"
        )
    for site in plan.sites:
        if roster.member(site).role != "site":
            raise DocumentError(f"plan {plan.run_id}: {site} is not a site")
    if len(plan.sites) < (least := least_sites(roster)):
        raise DocumentError(f"plan {plan.run_id}: {len(plan.sites)} participants, the roster asks for {least}: invite more")
    return plan
