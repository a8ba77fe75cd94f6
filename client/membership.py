"""Does a finished model behave differently on this hospital's patients who were in its training? Computed here, and kept here.

Members are the training side of the site's split, the others its held-out side: one keyed hash decided, so the two are alike but
for the training. Two attacks: the loss alone (Yeom et al. 2018), and the loss against that of reference models which this site
trains on random halves of its own patients (offline LiRA, Carlini et al. 2022, as a difference of losses: Watson et al. 2022).
An attack that fails proves nothing: a stronger one may not, and a few hundred patients show only gross leaks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch.func import functional_call

from client.errors import ConfigError
from client.patients import DataSource
from client.release import Entropy
from client.sides import Split
from consortium.plan import NOT_PRIVATE
from privacy.audit import CONFIDENCE, Attack, attack, attack_lower_bound, gaussian_mu
from privacy.noise import KEY_SIZE, poisson_mask
from tasks.base import Task
from tasks.cohorts import open_cohort
from tasks.errors import ContractError, ModelFileError
from tasks.exported import Exported, inputs_of, model_of, read_exported
from tasks.imaging.task import ImageTask
from tasks.models import initial_parameters, split_parameters
from tasks.registry import get_task
from tasks.run_options import ROWS

PATIENTS_LEAST = 10  # on either side: below, intervals span everything
MOST_FPR = 0.05  # "low": with a few hundred others, lower rates are a handful of patients
REFERENCES, REFERENCE_STEPS, REFERENCE_RATE = 16, 150, 0.05
REFERENCE_PARAMETERS = 200_000  # above, training sixteen models takes more than minutes: the loss attack stands alone

Floats = NDArray[np.float64]


def read_model(folder: Path) -> Exported:
    """The model of an exported folder. Raises `ConfigError` that names what does not fit."""
    try:
        return read_exported(folder)
    except ModelFileError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class Patients:
    """A site's patients as the model sees them, and who of them was in its training. Never leaves the site.

    `inputs`, `labels` and `owners`, which of the patients it is, for each record; `members` (n_patients,).
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    owners: NDArray[np.intp]
    members: NDArray[np.bool_]


def patients_of(exported: Exported, source: DataSource, *, site: str = "") -> Patients:
    """The cohort of `source` at the site called `site`, encoded with the model's own buffers.

    Members are those who trained under the run's options: whoever the run left out is none, on whatever side of the split.
    `ConfigError` where too few are on one side, or where rows were parted, so that everybody is on both.
    """
    task = get_task(source.tasks[0])
    if (exported.task.name, exported.task.version) != (task.name, task.version):
        theirs = f"{exported.task.name} {exported.task.version}"
        raise ConfigError(f"the model is of task {theirs}, this site has {task.name} {task.version}")
    if isinstance(task, ImageTask):
        raise ConfigError(f"the model is of images ({task.name}): this attack is on models of tables")
    if exported.options.split == ROWS:
        raise ConfigError("the model's run parted rows, not patients: everybody is on both sides, and nobody is a member or none")
    cohort = open_cohort(task, source.folder)
    split = Split(cohort, salt=source.salt, held_out_fraction=source.held_out_fraction, at_most=task.records)
    asked = exported.options if exported.options.leave_out == site else replace(exported.options, leave_out="")
    try:
        found = split.asked(asked, site=site)  # the very records that training and evaluation use
    except ContractError as error:
        raise ConfigError(f"who trained the model of run {exported.run_id} cannot be told here: {error}") from error
    sides = (found.training, found.validation, found.test)
    values, labels = (np.concatenate(parts) for parts in zip(*((side.values, side.labels) for side in sides), strict=True))
    first = np.cumsum([0, *(side.patients for side in sides)])
    owners = np.concatenate([before + side.owners for before, side in zip(first[:3], sides, strict=True)])
    members = np.arange(first[3]) < sides[0].patients
    inputs = inputs_of(exported, task, values)
    if (fewest := min(int(members.sum()), int((~members).sum()))) < PATIENTS_LEAST:
        raise ConfigError(f"{fewest} patients on one side of the split, at least {PATIENTS_LEAST} are needed for any statement")
    return Patients(torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(labels.astype(np.float32)), owners, members)


def check_membership(
    exported: Exported, source: DataSource, *, entropy: Entropy, site: str = "", progress: Callable[[int], None] = lambda done: None
) -> dict[str, object]:
    """The result file's content: numbers over all patients, none about any. `progress` counts reference models."""
    task, patients = get_task(source.tasks[0]), patients_of(exported, source, site=site)
    model = _built(task, exported)
    losses = patient_losses(task, model, exported.parameters, patients)
    scores = {"loss": -losses}
    if exported.parameters.size <= REFERENCE_PARAMETERS:
        scores["calibrated"] = -_calibrated(task, model, losses, patients, entropy=entropy, progress=progress)
    attacks = {name: attack(found, patients.members, most_fpr=MOST_FPR) for name, found in scores.items()}
    half, delta = _coins(entropy, len(losses)), exported.privacy.delta
    each = 1.0 - (1.0 - CONFIDENCE) / len(scores)  # all bounds hold together
    bound = max(attack_lower_bound(found, patients.members, half, delta=delta, confidence=each) for found in scores.values())
    return _result(exported, patients, attacks, bound)


def _built(task: Task, exported: Exported) -> torch.nn.Module:
    try:
        return model_of(exported, task)
    except (ContractError, ModelFileError) as error:
        raise ConfigError(f"the model of run {exported.run_id} cannot be built here: {error}") from error


def patient_losses(task: Task, model: torch.nn.Module, parameters: NDArray[np.float32], patients: Patients) -> Floats:
    """Loss of every patient, the mean over its records, (n,)."""
    with torch.no_grad():
        logits = functional_call(model, split_parameters(model, parameters), (patients.inputs,))
        losses = task.loss(logits, patients.labels).double().numpy()
    n = len(patients.members)
    return np.asarray(np.bincount(patients.owners, losses, n) / np.bincount(patients.owners, minlength=n), np.float64)


def _calibrated(
    task: Task, model: torch.nn.Module, losses: Floats, patients: Patients, *, entropy: Entropy, progress: Callable[[int], None]
) -> Floats:
    """Each patient's loss less the mean loss under reference models that did not see the patient, (n,)."""
    total, count = np.zeros_like(losses), np.zeros(len(losses))
    for done in range(1, REFERENCES + 1):
        seen = _coins(entropy, len(losses))
        without = ~seen
        total[without] += patient_losses(task, model, _reference(task, model, patients, seen), patients)[without]
        count += without
        progress(done)
    return losses - np.divide(total, count, out=np.full_like(losses, float(losses.mean())), where=count > 0)


def _reference(task: Task, model: torch.nn.Module, patients: Patients, seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A model of the same kind, trained without noise on the patients `seen` (n,); it is used here and forgotten."""
    start = split_parameters(model, initial_parameters(model, 0))
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimiser = torch.optim.Adam(list(weights.values()), lr=REFERENCE_RATE)
    rows = torch.from_numpy(seen[patients.owners])
    inputs, labels = patients.inputs[rows], patients.labels[rows]
    for _ in range(REFERENCE_STEPS):
        optimiser.zero_grad()
        task.loss(functional_call(model, weights, (inputs,)), labels).mean().backward()
        optimiser.step()
    return np.asarray(torch.cat([value.detach().reshape(-1) for value in weights.values()]).numpy(), np.float32)


def _coins(entropy: Entropy, n: int) -> NDArray[np.bool_]:
    return poisson_mask(n, 0.5, lambda size: entropy(KEY_SIZE)[:size])


def _result(exported: Exported, patients: Patients, attacks: dict[str, Attack], bound: float) -> dict[str, object]:
    name = list(attacks)[-1]  # fixed beforehand: the calibrated one where it was made
    found, claim = attacks[name], exported.claimed_epsilon
    most = 1.0 if claim == NOT_PRIVATE else float(ndtr(gaussian_mu(claim, exported.privacy.delta) / 2.0**0.5))
    verdict = "alarm" if claim != NOT_PRIVATE and bound > claim else "investigate" if _noticed(found, claim, most) else "pass"
    return {
        "kind": "membership",
        "run_id": exported.run_id,
        "claimed_epsilon": claim,
        "delta": exported.privacy.delta,
        "attack": name,
        **{key: round(value, 3) for key, value in vars(found).items()},
        "lower_bound": round(bound, 3),
        "confidence": CONFIDENCE,
        "verdict": verdict,
        "words": _words(found, claim=claim, most=most, bound=bound, verdict=verdict),
    }


def _noticed(found: Attack, claim: float, most: float) -> bool:
    """Whether the attack surely does better than the claim lets any attack do, or than guessing where nothing is claimed."""
    return found.auc_low > (0.5 if claim == NOT_PRIVATE else most)


def _words(found: Attack, *, claim: float, most: float, bound: float, verdict: str) -> str:
    promise = (
        "nothing is claimed: NOT PRIVATE" if claim == NOT_PRIVATE else f"claimed epsilon {claim:.2f} allows an area of {most:.2f}"
    )
    meaning = {
        "pass": "This attack finds no more than was promised. That proves nothing: a stronger attack may find more.",
        "investigate": "The model tells members from others better than was promised, beyond chance: look into it before using it.",
        "alarm": "THE CLAIM IS REFUTED: the model gives away more than was claimed. Do not pass it on, and tell the consortium.",
    }
    return (
        f"Area under the curve {found.auc:.2f} ({found.auc_low:.2f} to {found.auc_high:.2f}; 0.5 is guessing; {promise}); at "
        f"{found.fpr:.1%} false alarms {found.tpr:.1%} of members are found ({found.tpr_low:.1%} to {found.tpr_high:.1%}); epsilon "
        f"is at least {bound:.2f} at 95 %. {meaning[verdict]} With few patients only gross leaks can show."
    )
