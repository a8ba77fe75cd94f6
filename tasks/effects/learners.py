"""Cross-fitted effect learners as one bounded loss per record, so that sums of patients' gradients are all that training needs.

Nuisances (chance of the treatment, chance of the outcome) exist once for each fold. A record trains those of the *other* folds, and
its effect is fitted with those of its own fold, which never saw the patient, and through which no gradient flows: the point at
which the loss is still is the one that two steps would reach, nuisances first and the effect with them frozen afterwards.

`r`   R-learner (Nie and Wager 2021, eq. 4): ((Y - m(X)) - (W - e(X)) tau(X))^2. Nothing is divided by a chance: bounded by itself.
`dr`  DR-learner (Kennedy 2023, sec. 3): (pseudo-outcome - tau(X))^2, the pseudo-outcome kept within +-`PSEUDO_MOST`.

Outputs of a model are (batch, rows, folds): logits of treatment; logits of the outcome (`r`), or of the outcome untreated and
treated (`dr`); the effect as a difference of risks, in (-1, 1); and a row whose squares the model asks to be kept small.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from tasks.effects.folds import FOLDS

TREATED, OUTCOME, FOLD = 0, 1, 2  # places in a record's label
LABEL_SHAPE: Final = (3,)
TREATMENT, BASELINE = 0, 1  # rows; those from the end:
EFFECT, PENALTY = -2, -1
ROWS: Final = {"r": 4, "dr": 5}
OVERLAP: Final = (0.05, 0.95)  # whoever's treatment was all but certain teaches nothing about the other one (Crump et al. 2009)
PSEUDO_MOST: Final = 4.0
# A patient's gradient is clipped as one vector. So much the effect's loss counts more, that its few parameters, whose gradients
# are a tenth of the nuisances', keep their share of the bound.
EFFECT_WEIGHT: Final = 8.0


def effect_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Loss per record, (batch,), from outputs (batch, rows, folds) and labels (batch, 3): treated, outcome, fold."""
    treated, outcome, fold = labels.to(outputs.dtype).unbind(-1)
    own = torch.stack([(fold == number).to(outputs.dtype) for number in range(FOLDS)], dim=-1)  # (batch, folds)
    losses = nuisance_loss(outputs, treated, outcome, 1.0 - own)
    frozen = torch.sigmoid((outputs[..., : outputs.shape[-2] - 2, :].detach() * own.unsqueeze(-2)).sum(-1))  # out of fold
    effect, penalty = ((outputs[..., row, :] * own).sum(-1) for row in (EFFECT, PENALTY))
    misfit = r_misfit if outputs.shape[-2] == ROWS["r"] else dr_misfit
    fitted = 0.5 * misfit(frozen, treated, outcome, effect.clamp(-1.0, 1.0)) ** 2 * overlapping(frozen[..., TREATMENT])
    total: Tensor = losses + EFFECT_WEIGHT * (fitted + 0.5 * torch.tanh(penalty) ** 2)
    return total


def nuisance_loss(outputs: Tensor, treated: Tensor, outcome: Tensor, others: Tensor) -> Tensor:
    """Cross-entropies of the nuisances of the folds in `others` (batch, folds), 0 or 1; (batch,)."""
    propensity = _entropy(outputs[..., TREATMENT, :], treated)
    if outputs.shape[-2] == ROWS["r"]:
        found = _entropy(outputs[..., BASELINE, :], outcome)
    else:
        untreated, high = (_entropy(outputs[..., row, :], outcome) for row in (BASELINE, BASELINE + 1))
        found = untreated * (1.0 - treated.unsqueeze(-1)) + high * treated.unsqueeze(-1)
    total: Tensor = ((propensity + found) * others).sum(-1)
    return total


def r_misfit(nuisances: Tensor, treated: Tensor, outcome: Tensor, effect: Tensor) -> Tensor:
    """What the R-learner squares, (batch,), in [-2, 2]; `nuisances` (batch, 2) are chances of treatment and outcome."""
    propensity, expected = nuisances.unbind(-1)
    return (outcome - expected) - (treated - propensity) * effect


def dr_misfit(nuisances: Tensor, treated: Tensor, outcome: Tensor, effect: Tensor) -> Tensor:
    """What the DR-learner squares, (batch,); `nuisances` (batch, 3): treatment, outcome untreated, outcome treated."""
    propensity, untreated, high = nuisances.unbind(-1)
    propensity = propensity.clamp(*OVERLAP)
    seen = treated * (outcome - high) / propensity - (1.0 - treated) * (outcome - untreated) / (1.0 - propensity)
    return (high - untreated + seen).clamp(-PSEUDO_MOST, PSEUDO_MOST) - effect


def overlapping(propensity: Tensor) -> Tensor:
    """1 where either treatment was possible, else 0."""
    return ((propensity >= OVERLAP[0]) & (propensity <= OVERLAP[1])).to(propensity.dtype)


def _entropy(logits: Tensor, event: Tensor) -> Tensor:
    losses: Tensor = functional.binary_cross_entropy_with_logits(logits, event.unsqueeze(-1).expand_as(logits), reduction="none")
    return losses
