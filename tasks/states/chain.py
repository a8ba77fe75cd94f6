"""Forward-backward over steps of 12 weeks for all patients at once, scaled (Rabiner 1989); gaps are steps that say nothing.

So a gap of g steps is a transition over P^g, exactly, and the expected transitions within it are those of a hidden path. One
patient's numbers never depend on who else is there: contractions are einsum's own loops, no blocked matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.states.measures import Floats, Ints


@dataclass(frozen=True)
class Filtered:
    """`ahead` (patients, steps, s): chance of each state before the step is seen; `now`: after.

    `step_log` (patients, steps): log density of each step given those before it; 0 beyond a grid's end.
    """

    ahead: Floats
    now: Floats
    step_log: Floats

    @property
    def log_likelihood(self) -> Floats:
        """Of each patient's rows, (patients,). Step by step: numpy's `sum` adds in an order that the longest grid decides."""
        return np.asarray(np.cumsum(self.step_log, axis=1)[:, -1]) if self.step_log.shape[1] else np.zeros(len(self.step_log))


@dataclass(frozen=True)
class Smoothed:
    """`state` (patients, steps, s); `moves` (patients, cells, s, s): expected transitions; both 0 beyond a grid's end."""

    state: Floats
    moves: Floats
    filtered: Filtered

    @property
    def log_likelihood(self) -> Floats:
        """Of each patient's rows, (patients,)."""
        return self.filtered.log_likelihood


def forward(initial: Floats, transitions: Floats, cell: Ints, log_density: Floats, length: Ints) -> Filtered:
    """`initial` (s,), `transitions` (cells, s, s), `cell` (patients, steps): in force from that step to the next.

    `log_density` (patients, steps, s): 0 on steps without an observation; -inf is allowed, not for all states at once.
    """
    patients, steps, s = log_density.shape
    ahead, now, step_log = np.zeros((patients, steps, s)), np.zeros((patients, steps, s)), np.zeros((patients, steps))
    chance = np.broadcast_to(initial, (patients, s))
    for at in range(steps):
        if at:
            chance = np.einsum("ni,nij->nj", now[:, at - 1], transitions[cell[:, at - 1]])
        top = log_density[:, at].max(axis=1)
        joint = chance * np.exp(log_density[:, at] - top[:, None])
        total = joint.sum(axis=1)
        total = np.where(total > 0, total, np.finfo(float).tiny)
        inside = at < length
        ahead[inside, at], now[inside, at] = chance[inside], (joint / total[:, None])[inside]
        step_log[inside, at] = (np.log(total) + top)[inside]
    return Filtered(ahead, now, step_log)


def smooth(initial: Floats, transitions: Floats, cell: Ints, log_density: Floats, length: Ints) -> Smoothed:
    """States given all of a patient's rows, and expected transitions by cell; arguments as `forward` has them."""
    filtered = forward(initial, transitions, cell, log_density, length)
    patients, steps, s = log_density.shape
    state, moves = filtered.now.copy(), np.zeros((patients, len(transitions), s, s))
    for at in range(steps - 2, -1, -1):
        rows = np.flatnonzero(at + 1 < length)
        ahead = filtered.ahead[rows, at + 1]
        ratio = np.divide(state[rows, at + 1], ahead, out=np.zeros_like(ahead), where=ahead > 0)
        both = filtered.now[rows, at][:, :, None] * transitions[cell[rows, at]] * ratio[:, None, :]
        state[rows, at] = both.sum(axis=2)
        moves[rows, cell[rows, at]] += both
    return Smoothed(state, moves, filtered)
