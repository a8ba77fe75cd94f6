"""Of every task's scoring: no patient moves the held-out histogram by more than 1, is refused, or moves anybody else's cells."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import zeros

from tasks.base import Task
from tasks.errors import ContractError
from tasks.features import Design
from tasks.imaging.task import ImageTask
from tasks.lesion_seg.scoring import JUDGED
from tasks.registry import BUILT_IN, find_task
from tasks.run_options import GROUPINGS
from tasks.scoring.base import NOWHERE, Scored, shares, summed

GRID = 20
STRANGE = (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -1.0, 2.0, 0.5, 1e19, -0.0)
TASKS = [task for task in map(find_task, BUILT_IN) if isinstance(task, Task)]
ASKED = [(), ("age",), ("sex",), tuple(GROUPINGS)]


def has(task: Task, by: tuple[str, ...]) -> bool:
    """Whether the task has figures by these groups: the same for every site and patient."""
    try:
        task.scoring(16, by)
    except ContractError:
        return False
    return True


def fewest(task: Task) -> int:
    return 4 if isinstance(task, ImageTask) else 2  # of Dice: 0 and 1 have bins of their own


KINDS = [(task, by, bins) for task in TASKS for by in ASKED if has(task, by) for bins in (fewest(task), 16, 32)]


def output_shape(task: Task) -> tuple[int, ...]:
    if isinstance(task, ImageTask):
        return (JUDGED,)  # what it made of a whole scan, not what its network says of a patch
    return tuple(task.build_model(task.model_names[0], {})(zeros(2, Design(task.contract).n_inputs)).shape[1:])


def numbers(shape: tuple[int, ...], stream: np.random.Generator) -> NDArray[np.float64]:
    """Ordinary numbers, and among them what no hospital should have and no model should give."""
    usual = np.where(stream.random(shape) < 0.5, stream.integers(0, 4, shape), stream.normal(0, 4, shape))
    return np.where(stream.random(shape) < 0.4, stream.choice(STRANGE, shape), usual)


def records(task: Task, n: int, seed: int) -> Scored:
    stream = np.random.default_rng(seed)
    labels = numbers((n, *(() if isinstance(task, ImageTask) else task.label_shape)), stream)
    return Scored(numbers((n, *output_shape(task)), stream), labels, numbers((n, len(task.contract.columns)), stream))


def part(scored: Scored, chosen: NDArray[np.bool_]) -> Scored:
    return Scored(scored.outputs[chosen], scored.labels[chosen], scored.values[chosen])


@pytest.mark.parametrize(("task", "by", "bins"), KINDS, ids=lambda one: getattr(one, "name", None) or str(one))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), mine=st.integers(1, 8))
def test_a_patient_with_any_labels_values_and_outputs_counts_at_most_1_and_is_not_refused(
    task: Task, by: tuple[str, ...], bins: int, seed: int, mine: int
) -> None:
    scoring = task.scoring(bins, by)
    people = records(task, mine + 6, seed)
    counts = np.array([mine] * mine + [1, 2, 2, 3, 3, 3], dtype=np.intp)
    others = np.arange(len(counts)) >= mine
    with_me = summed(scoring, people, counts, GRID)
    without = summed(scoring, part(people, others), counts[others], GRID)
    moved = (with_me - without).astype(object)  # whole numbers of any size
    assert int((moved**2).sum()) <= (1 << GRID) ** 2
    assert (with_me >= without).all(), "the others' cells are where they were"


def test_every_task_that_predicts_is_met() -> None:
    assert len({task.name for task, _, _ in KINDS}) == len(TASKS) > 5


@pytest.mark.parametrize(("task", "by", "bins"), KINDS, ids=lambda one: getattr(one, "name", None) or str(one))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_two_blocks_share_a_cell_whatever_the_records_are(task: Task, by: tuple[str, ...], bins: int) -> None:
    """Weights add up in squares only because of that."""
    scoring = task.scoring(bins, by)
    places = scoring.places(records(task, 400, 1))
    owners: dict[int, int] = {}
    for block, found in enumerate(places.T):
        for cell in np.unique(found[found != NOWHERE]).tolist():
            assert 0 <= cell < scoring.cells
            assert owners.setdefault(cell, block) == block, f"cell {cell} is of two blocks"


@pytest.mark.parametrize(("task", "by", "bins"), KINDS, ids=lambda one: getattr(one, "name", None) or str(one))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_records_cells_are_the_same_alone_and_among_others(task: Task, by: tuple[str, ...], bins: int) -> None:
    scoring = task.scoring(bins, by)
    people = records(task, 70, 2)
    together = scoring.places(people)
    for at in range(len(people)):
        alone = scoring.places(part(people, np.arange(len(people)) == at))
        assert alone.tolist() == together[[at]].tolist()
    assert scoring.places(part(people, np.zeros(len(people), dtype=np.bool_))).shape == (0, len(scoring.weights))


class Astray:
    """A scoring whose places are none."""

    cells, weights, primary, lower_is_better = 4, (math.sqrt(0.5), math.sqrt(0.5)), "auc", False

    def places(self, scored: Scored) -> NDArray[np.int64]:
        return np.array([[0, 4], [-(2**63), 2], [-2, 2**62], [1, 3]])[: len(scored)]


def test_a_place_that_is_no_cell_counts_nowhere_and_is_not_refused() -> None:
    scored = Scored(np.zeros(4), np.zeros(4), np.zeros((4, 1)))
    found = summed(Astray(), scored, np.ones(4, dtype=np.intp), GRID)  # type: ignore[arg-type]  # it makes no figures
    whole = int(math.sqrt(0.5) * 2**GRID)
    assert found.tolist() == [whole, whole, whole, whole]
    with pytest.raises(ContractError, match="places of shape"):
        shares(Astray(), np.zeros((4, 3), np.int64), np.ones(4, dtype=np.intp), GRID)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_site_without_held_out_patients_adds_nothing(task: Task) -> None:
    nobody = Scored(np.zeros(0), np.zeros((0, *task.label_shape)), np.zeros((0, len(task.contract.columns))))
    assert not summed(task.scoring(8), nobody, np.zeros(0, np.intp), GRID).any()
