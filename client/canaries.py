"""In every run of a large enough model a site measures what its own update gives away, and nobody but the site sees the result.

Canaries are synthetic patients of `RECORDS` records with one gradient direction each: random signs on a block of coordinates of
their own, so that no two meet. A fair coin puts each in or out for the whole run. Those that are in are sampled in every step
like patients, clipped by the trainer's own function, summed with the patients on the same grid and noised with the same noise
(`privacy.md`, 6). Then the score is read, and the canaries are taken out of the noised integers again: what leaves the hospital is
to the last bit the patients' sum and its noise, so neither the model nor the guarantee changes.

All gradients of a canary turn their sign by a coin in every step: what the patients' own sum adds to a score then averages out.
A score is computed from what leaves and from coins, never from the patients' sum or the noise alone, so state and result hold
nothing that the update does not give away. Both are files in the site's `audit/` folder, mode 600: `<plan digest>.canaries`
while the run lasts, and `<run id>.json`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.errors import Refused, SiteError
from client.files import private_folder, write_atomic
from client.release import Entropy, FloatMatrix, GridVector
from consortium.plan import Plan
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.audit import CANARIES_LEAST, CONFIDENCE, Reading, blind, read_canaries
from privacy.events import PlainEvent, PoissonGaussianEvent, Spend, exposed_event
from privacy.noise import KEY_SIZE, poisson_mask
from privacy.terms import round_spends

FORMAT = "wardround/canaries/1"
RECORDS = 4  # of a canary, all with one direction: clipped one by one they count fourfold
RECORD_NORM = 4.0  # of each record's gradient, in clips: without clipping they count fourfold too
AT_ONCE = 1024  # coordinates of canaries that are clipped in one call: most of a call is its fixed cost, below a millisecond
RESULTS = 10  # results written in the course of a run

Sample = Callable[[int], NDArray[np.bool_]]  # who of n takes part in this step: the trainer's sampler
Clipped = Callable[[FloatMatrix], GridVector]  # gradients of patients (n, d) to their clipped sum on the grid (d,)
Noised = Callable[[GridVector], GridVector]


@dataclass(frozen=True)
class Tally:
    """What the canaries' scores in single steps show of the mechanism's parts; scores in clips."""

    sampled: int = 0
    sampled_sum: float = 0.0
    others: int = 0
    others_square: float = 0.0

    def plus(self, scores: NDArray[np.float64], sampled: NDArray[np.bool_]) -> "Tally":
        others = scores[~sampled]
        return Tally(
            self.sampled + int(sampled.sum()),
            self.sampled_sum + float(scores[sampled].sum()),
            self.others + len(others),
            self.others_square + float(np.square(others).sum()),
        )


@dataclass(frozen=True)
class State:
    """What survives a restart. `seed` decides who is in and every sign; `scores` (n_canaries,) summed over `steps`, in clips."""

    plan: str
    seed: bytes = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    steps: int = 0
    tally: Tally = Tally()

    @property
    def included(self) -> NDArray[np.bool_]:
        return coins(self.seed[:KEY_SIZE], len(self.scores))


@dataclass(frozen=True)
class Step:
    """One step's sum with canaries in it, which is to be noised; then `Canaries.measured`, before anything else is done with it."""

    total: GridVector  # (n_parameters,)
    canaries: GridVector = field(repr=False)  # their part of it
    sampled: NDArray[np.bool_] = field(repr=False)  # (n_canaries,)
    turned: NDArray[np.float64] = field(repr=False)  # (n_canaries,) -1 or 1


class Canaries:
    """The canaries of one plan at one site."""

    def __init__(self, plan: Plan, folder: Path, entropy: Entropy) -> None:
        self._plan = plan
        self._entropy = entropy
        self._folder = private_folder(folder)
        self._path = state_path(folder, plan.digest)
        count = plan.privacy.canaries
        self._width = plan.n_parameters // count
        if count < CANARIES_LEAST or self._width < 1:
            raise Refused(
                "TASK", f"{count} canaries in a model of {plan.n_parameters}: {CANARIES_LEAST} at least, one a parameter at most"
            )
        self.state = read_state(self._path, plan) or State(plan.digest.hex(), entropy(2 * KEY_SIZE), np.zeros(count))
        self._signs = signs(self.state.seed[KEY_SIZE:], count * self._width).reshape(count, self._width)

    @classmethod
    def of(cls, plan: Plan, folder: Path | None, entropy: Entropy) -> "Canaries | None":
        """The plan's canaries, those of an earlier round of this run if there was one; None if it has none or nowhere to write."""
        return cls(plan, folder, entropy) if plan.private and plan.privacy.canaries and folder is not None else None

    def added(self, patients: GridVector, *, sample: Sample, clipped: Clipped) -> Step:
        """The patients' clipped sum (n_parameters,) and that of this step's canaries. The functions are those of the patients."""
        count = len(self.state.scores)
        sampled = sample(count) & self.state.included
        turned = signs(self._entropy(KEY_SIZE), count)
        own, together = np.zeros_like(patients), max(1, AT_ONCE // self._width)
        for start in range(0, count, together):
            chosen = start + np.flatnonzero(sampled[start : start + together])
            if len(chosen):
                place = own[start * self._width :][: together * self._width]
                place += clipped(self._rows(chosen, start, together, turned))[: len(place)]
        return Step(patients + own, own, sampled, turned)

    def _rows(self, chosen: NDArray[np.intp], start: int, blocks: int, turned: NDArray[np.float64]) -> FloatMatrix:
        """Gradients of the `chosen` canaries over so many blocks, from that of `start` on: (n, n_coordinates)."""
        rows = np.zeros((len(chosen), blocks, self._width))
        length = RECORD_NORM * self._plan.privacy.clip / np.sqrt(self._width)
        mean = length * turned[chosen, None] * self._signs[chosen]  # over `RECORDS` equal records
        rows[np.arange(len(chosen)), chosen - start] = mean
        return rows.reshape(len(chosen), -1)

    def measured(self, step: Step, noised: GridVector) -> GridVector:
        """Read the scores from a noised `step.total` and take the canaries out: (n_parameters,) grid steps that may leave.

        The scores are durable when this returns.
        """
        old, count = self.state, len(self.state.scores)
        seen = noised[: count * self._width].reshape(count, self._width)
        clips = float(1 << self._plan.privacy.grid_bits) * np.sqrt(self._width)
        scores = step.turned * np.einsum("ij,ij->i", seen, self._signs) / clips
        self.state = replace(old, scores=old.scores + scores, steps=old.steps + 1, tally=old.tally.plus(scores, step.sampled))
        write_atomic(self._path, encode_state(self.state))
        if _tenth(self._plan, self.state.steps) > _tenth(self._plan, old.steps):
            write_result(self._folder, canary_result(self._plan, self.state))
        return noised - step.canaries


def noised_with_canaries(
    patients: GridVector, canaries: Canaries | None, *, sample: Sample, clipped: Clipped, noised: Noised
) -> GridVector:
    """The patients' clipped sum with its noise, (n_parameters,) grid steps, measured with `canaries` on the way if there are any.

    `sample`, `clipped` and `noised` must be what patients go through: a measurement of other functions says nothing.
    """
    if canaries is None:
        return noised(patients)
    step = canaries.added(patients, sample=sample, clipped=clipped)
    return canaries.measured(step, noised(step.total))


def coins(seed: bytes, n: int) -> NDArray[np.bool_]:
    """n fair coins from 32 bytes, always the same."""
    return poisson_mask(n, 0.5, lambda size: seed[:size])


def signs(seed: bytes, n: int) -> NDArray[np.float64]:
    """The same coins as -1 and 1."""
    return np.where(coins(seed, n), 1.0, -1.0)


def _tenth(plan: Plan, steps: int) -> int:
    return RESULTS * steps // (plan.schedule.rounds * plan.schedule.local_steps)


def audit_folder(home: Path) -> Path:
    """Where a site keeps measurements, below its home."""
    return private_folder(home / "audit")


# -- files ------------------------------------------------------------------------------------------------------------------------


def state_path(folder: Path, plan_digest: bytes) -> Path:
    return folder / f"{plan_digest.hex()}.canaries"


def encode_state(state: State) -> bytes:
    fields = {"format": FORMAT, "plan": state.plan, "seed": state.seed.hex(), "steps": state.steps, "tally": vars(state.tally)}
    return json.dumps(fields | {"scores": state.scores.tolist()}).encode("ascii")


def read_state(path: Path, plan: Plan) -> State | None:
    """The state of this plan's canaries, None before the first step. Raises `Refused` for a file that is not one."""
    try:
        found = json.loads(path.read_bytes())
        scores, seed = np.array(found["scores"], np.float64), bytes.fromhex(found["seed"])
        state = State(found["plan"], seed, scores, found["steps"], Tally(**found["tally"]))
        whole = (found["format"], state.plan, len(seed)) == (FORMAT, plan.digest.hex(), 2 * KEY_SIZE)
        if whole and scores.shape == (plan.privacy.canaries,) and np.isfinite(scores).all():
            return state
        found = "of another plan, or not whole"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = type(error).__name__
    raise Refused("TRAINING", f"{path} is not this run's canaries ({found}): delete it, the measurement then starts anew")


def write_result(folder: Path, result: dict[str, object], *, suffix: str = "") -> Path:
    """`<run id><suffix>.json` in the site's `audit/` folder; it stays there."""
    path = private_folder(folder) / f"{result['run_id']}{suffix}.json"
    write_atomic(path, (json.dumps(result, indent=1, sort_keys=True) + "\n").encode("utf-8"))
    return path


# -- what it says ------------------------------------------------------------------------------------------------------------------


def exposed_step(plan: Plan) -> PlainEvent:
    """One training step of a site as somebody sees it who reads the site's update in the clear."""
    return next(exposed_event(spend.event) for spend in round_spends(plan, 1, "train") if spend.population == "train")


def claimed_epsilon(plan: Plan, steps: int) -> float:
    """What the accountant says of so many of the plan's training steps at one site, exposed."""
    return epsilon([Spend(exposed_step(plan), "train", steps)], plan.privacy.delta, interval=ENFORCE_INTERVAL)


def canary_result(plan: Plan, state: State) -> dict[str, object]:
    """The result file's content. Raises `SiteError` before the first step."""
    if state.steps < 1:
        raise SiteError(f"run {plan.run_id}: no training step of it was measured at this site yet")
    claim = claimed_epsilon(plan, state.steps)
    reading = read_canaries(state.scores, state.included, claimed_epsilon=claim, delta=plan.privacy.delta)
    return reading_document(plan.run_id, reading, rounds=state.steps, parts=_parts(plan, state))


def reading_document(run_id: str, reading: Reading, *, rounds: int, parts: str) -> dict[str, object]:
    """What a site keeps, and may show, of one experiment; three decimals, no more than the experiment knows."""
    found = reading.estimate
    return {
        "kind": "canary",
        "run_id": run_id,
        "claimed_epsilon": round(reading.claimed_epsilon, 3),
        "delta": reading.delta,
        "estimate": round(found.epsilon, 3),
        "estimate_low": round(found.low, 3),
        "estimate_high": round(found.high, 3),
        "lower_bound": round(reading.lower_bound, 3),
        "confidence": CONFIDENCE,
        "canaries": reading.canaries,
        "rounds": rounds,
        "verdict": reading.verdict,
        "words": f"{_words(reading)} {parts}",
    }


def _words(reading: Reading) -> str:
    found = reading.estimate
    facts = (
        f"Claimed epsilon {reading.claimed_epsilon:.2f}; measured about {found.epsilon:.2f} (by chance alone {found.low:.2f} to "
        f"{found.high:.2f}), at 95 % confidence no less than {reading.lower_bound:.2f}."
    )
    meaning = {
        "pass": "Nothing contradicts the claim. A measurement can refute a claim, it cannot prove one: the proof is the mechanism.",
        "investigate": "The estimate is above the claim by more than chance explains: find out why before the next run.",
        "alarm": "THE CLAIM IS REFUTED: updates give away more than is charged. Pause this site and tell the consortium.",
    }
    if blind(found, reading.claimed_epsilon, reading.delta):
        return f"{facts} THE MEASUREMENT SAW TOO LITTLE: canaries did not reach the updates as patients do, so it shows nothing."
    return f"{facts} {meaning[reading.verdict]}"


def _parts(plan: Plan, state: State) -> str:
    """Spread, clip and sampling as they were seen in single steps: which of them is broken, if one is."""
    tally, event = state.tally, exposed_step(plan)
    chances = int(state.included.sum()) * state.steps
    rate = event.sample_rate if isinstance(event, PoissonGaussianEvent) else 1.0
    noise = (tally.others_square / max(tally.others, 1)) ** 0.5
    moved, error = tally.sampled_sum / max(tally.sampled, 1), 1.96 * noise / max(tally.sampled, 1) ** 0.5
    return (
        f"Seen in single steps: spread {noise:.3g} clips (claimed noise {plan.privacy.train_noise:.3g}), one patient moves the sum "
        f"by {moved:.3g} +- {error:.2g} clips (claimed at most 1), sampled {tally.sampled / chances:.3g} of the time "
        f"(claimed {rate:.3g})."
    )
