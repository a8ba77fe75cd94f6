"""The values of any declared inputs of episodes: routine care, the modalities beside it, the visits as a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from tasks.base import Column, Values
from tasks.episodes.extra_features import extra_inputs
from tasks.episodes.extras import ALL_EXTRAS, VISITS
from tasks.episodes.features import routine_inputs
from tasks.episodes.known import Known, Named
from tasks.episodes.past import Floats, Past
from tasks.episodes.routine import CORE, EXTRAS
from tasks.episodes.sequence import visit_inputs
from tasks.errors import ContractError

Make = Callable[[Known], Named]
_ROUTINE: Final = frozenset(column.name for column in (*CORE, *EXTRAS))
_MAKERS: Final[Mapping[Make, frozenset[str]]] = {
    routine_inputs: _ROUTINE,
    extra_inputs: frozenset(column.name for column in ALL_EXTRAS) - _ROUTINE,
    visit_inputs: frozenset(column.name for column in VISITS),
}


def episode_values(past: Past, columns: Sequence[Column]) -> Values:
    """(n_episodes, n_columns) in the columns' units and codes, within their public ranges; NaN where something is not known.

    A table that `past` does not have makes its inputs missing. `ContractError` for a column that nothing here makes.
    """
    wanted = {column.name for column in columns}
    if strange := sorted(wanted - frozenset().union(*_MAKERS.values())):
        raise ContractError(f"no input of episodes is called {strange[0]!r}: the task that declares it has to make it (`inputs`)")
    known = Known(past)
    found: dict[str, Floats] = {}
    for make, names in _MAKERS.items():
        if wanted & names:
            found |= make(known)
    blocks = [_in_range(found[column.name], column) for column in columns]
    return np.stack(blocks, axis=1) if blocks else np.zeros((len(past), 0))


def _in_range(values: Floats, column: Column) -> Floats:
    return np.clip(values, *column.limits) if column.kind == "numeric" else values
