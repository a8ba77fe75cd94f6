"""What a plan asks beside its model is within its range or refused, and no option is taken for one of the other kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base import Task
from tasks.errors import ContractError
from tasks.registry import BUILT_IN, find_task
from tasks.run_options import GROUPINGS, RESERVED, run_options, scoring_of

TASKS = [task for task in map(find_task, BUILT_IN) if isinstance(task, Task)]
MODELS = [(task, model) for task in TASKS for model in task.model_names]


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["drop_rate", "leave_out", "score_bins", "score_by", "split", "train_until_year", "hidden"]),
        st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=12) | st.booleans(),
    )
)
def test_run_options_of_any_value_are_within_their_ranges_or_refused(options: dict[str, str | int | float]) -> None:
    try:
        found = run_options(options)
    except ContractError:
        return
    assert 0 <= found.bins <= 16_384
    assert found.train_until_year == 0 or 1950 <= found.train_until_year <= 2200
    assert 0.0 <= found.drop_rate < 1.0
    assert found.split in ("patients", "rows")
    assert set(found.by) <= set(GROUPINGS)
    assert list(found.model) == [name for name in options if name == "hidden"]


@pytest.mark.parametrize("options", [{"leave_out": 5}, {"split": 1.0}, {"score_by": 0}, {"train_until_year": 19}])
def test_an_option_of_another_kind_is_refused_and_not_read_as_a_text(options: dict[str, int | float]) -> None:
    with pytest.raises(ContractError, match="option"):
        run_options(options)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_plan_cannot_ask_for_more_cells_than_it_has(task: Task) -> None:
    """Nothing of the size of the bins is made before they are compared with the plan's cells."""
    for bins in (1, 3, 16_384):
        with pytest.raises(ContractError):
            scoring_of(task, {"score_bins": bins}, 15)
    with pytest.raises(ContractError, match="score_bins"):
        run_options({"score_bins": 10**12})


@pytest.mark.parametrize(("task", "model"), MODELS, ids=lambda one: getattr(one, "name", None) or str(one))
@pytest.mark.parametrize("option", ["leaveout", "Split", *RESERVED])
def test_no_model_takes_a_run_option_or_one_that_is_misspelled(task: Task, model: str, option: str) -> None:
    """A slip of the pen is refused, and not swallowed by a model that reads no such option."""
    with pytest.raises(ContractError):
        task.build_model(model, {option: "x"})
