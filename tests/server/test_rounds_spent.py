"""What tables say that a site has spent: recomputed here from the plan's noise by hand."""

import math
from collections.abc import Callable

import pytest
from dp_accounting import gaussian_mechanism

from consortium.plan import NOT_PRIVATE, Plan
from server.card import epsilon_note, epsilon_text, epsilon_words
from server.folder import RunFolder
from server.spent import site_epsilon
from server.state import Asked, RunState, read_state

NOISE = 5.0  # of every release of the small plan
DELTA = 1e-5
ALL = ("basel", "kaunas", "lyon", "oslo")


def of(releases: int, *, honest: int = 1) -> float:
    """k releases with noise s are one with s / sqrt(k); h honest sites in a sum make it sqrt(h) times as much."""
    return float(gaussian_mechanism.get_epsilon_gaussian(NOISE * math.sqrt(honest / releases), DELTA))


def asked(*rounds: tuple[int, str, tuple[str, ...]]) -> RunState:
    return RunState(phase="running", sites=ALL, asked=tuple(Asked(*one) for one in rounds))


def test_nothing_was_asked_and_nothing_is_spent(plan: Plan) -> None:
    found = site_epsilon(plan, RunState(), "oslo", colluders=1)
    assert (found.exposed, found.model) == (0.0, 0.0)


def test_rounds_that_failed_count_and_rounds_without_the_site_do_not(plan: Plan) -> None:
    state = asked((1, "describe", ALL), (2, "train", ALL[:3]), (3, "train", ALL), (5, "train", ALL))
    assert site_epsilon(plan, state, "oslo", colluders=1).exposed == pytest.approx(of(3), abs=1e-6)
    assert site_epsilon(plan, state, "basel", colluders=1).exposed == pytest.approx(of(4), abs=1e-6)


def test_train_and_held_out_patients_compose_in_parallel(plan: Plan) -> None:
    state = asked((2, "train", ALL), (4, "train", ALL), (6, "evaluate", ALL))  # the first two carry a histogram too
    assert site_epsilon(plan, state, "oslo", colluders=1).exposed == pytest.approx(of(3), abs=1e-6)


def test_the_model_is_covered_by_the_noise_of_the_honest_sites_in_a_sum(plan: Plan) -> None:
    state = asked((1, "describe", ALL), (3, "train", ALL), (5, "train", ALL))
    assert site_epsilon(plan, state, "oslo", colluders=1).model == pytest.approx(of(3, honest=2), abs=1e-6)  # t = 3, c = 1


def test_an_epoch_of_fewer_sites_covers_the_model_with_less_noise(plan: Plan) -> None:
    five = (*ALL, "porto")
    full, fewer = asked((3, "train", five)), asked((3, "train", ALL))  # t = 4 and t = 3
    assert site_epsilon(plan, full, "oslo", colluders=1).model == pytest.approx(of(1, honest=3), abs=1e-6)
    assert site_epsilon(plan, fewer, "oslo", colluders=1).model == pytest.approx(of(1, honest=2), abs=1e-6)


def test_without_privacy_every_cell_and_the_note_say_so(run_folder: Callable[..., RunFolder]) -> None:
    folder = run_folder(private=False)
    plan, state = folder.plan(), read_state(folder.path)
    assert site_epsilon(plan, state, "oslo", colluders=1).exposed == NOT_PRIVATE
    assert epsilon_words(plan, state, "oslo", colluders=1) == ("NOT PRIVATE", "NOT PRIVATE")
    assert "NOT PRIVATE" in epsilon_note(plan, state)


def test_epsilon_is_never_rounded_down() -> None:
    assert [epsilon_text(value) for value in (3.0, 2.991, 1.1 + 2.2, NOT_PRIVATE)] == ["3.00", "3.00", "3.30", "no bound"]
