"""What hazards say of one patient: the chance of each event by each horizon, and how right such chances were on test patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tasks.hazards.figures import Counted, fates
from tasks.hazards.grid import QUARTERS_A_YEAR
from tasks.hazards.likelihood import risks_by_quarter
from tasks.hazards.scoring import risk_means
from tasks.metrics import LEAST_MASS
from tasks.predicting.base import Foretold
from tasks.predicting.calibrate import Group

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.hazards.scoring import Block, HazardScoring, View
    from tasks.scoring.base import Floats


def name_of(view: View, causes: Sequence[str]) -> str:
    """What a view's risk is called: `cdp_5y`."""
    return f"{causes[view.cause - 1]}_{view.years}y"


def foretold(outputs: Tensor, causes: Sequence[str], says: Sequence[str], views: Sequence[View]) -> Mapping[str, Foretold]:
    """The risk of each view, from logits (n, quarters) or (n, quarters, causes); `says`: what happens, for each cause."""
    risks = risks_by_quarter(outputs.double(), len(causes))
    return {
        name_of(view, causes): Foretold(
            f"within {view.years} year{'' if view.years == 1 else 's'} {says[view.cause - 1]}"
            + (", before any other kind" if len(causes) > 1 else ""),
            risks[:, QUARTERS_A_YEAR * view.years - 1, view.cause - 1],
            event=causes[view.cause - 1],
            years=view.years,
        )
        for view in views
    }


def calibration_groups(scoring: HazardScoring, histogram: Floats, noise_std: float) -> Mapping[str, Sequence[Group]]:
    """People of each bin of the risk with the event by the horizon and without it, by name of the view.

    Whoever was lost counts in those who were watched longer, by the inverse chance of that (as in `figures.fates`). Nobody's weight
    is above 1 / chance of being watched to the end, so so many fewer people than the weights' sum are claimed to be known: where
    losses hang on nothing else, an interval made of them is too wide rather than too narrow.
    """
    blocks = [block for block in scoring.blocks if block.by is None]
    found = {name_of(block.view, scoring.causes): _groups(block, np.asarray(histogram, np.float64), noise_std) for block in blocks}
    return {name: groups for name, groups in found.items() if groups}


def _groups(block: Block, histogram: Floats, noise_std: float) -> list[Group]:
    """None where nobody had the event, or nobody was watched to the end without it."""
    cells = histogram[block.first : block.first + block.rows * block.bins] / block.weight
    of = Counted(block, torch.from_numpy(np.array(cells)))
    cases, controls = (part.numpy() for part in fates(of))
    if min(cases.sum(), controls.sum()) <= LEAST_MASS:
        return []
    weights = (1.0 / of.watched).numpy()  # of the events of each time; the last one also of those without any
    longest = float(weights[-1])
    rivals = float((weights**2).sum()) if block.kinds > 1 else 0.0
    noise = noise_std / block.weight * math.sqrt(max(float((weights**2).sum()), longest**2 + rivals))
    risks = risk_means(block.view.years, cases + controls, math.sqrt(2.0) * noise)
    return [
        Group(float(risk), float(case + control) / longest, float(case) / longest, noise / longest)
        for risk, case, control in zip(risks, cases, controls, strict=True)
    ]
