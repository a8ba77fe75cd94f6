"""Mode distributed: a site's exact clipped sum and its share of the noise enter the ring as whole steps; only sums open."""

import os
from dataclasses import replace

import numpy as np
import pytest
from guards_in_process import DECLARED, SITES, Consortium, code_of, terms
from numpy.typing import NDArray
from test_trainer_privacy import cohort, job, quiet, trainer, without  # noqa: F401 - quiet is a fixture

from client import trainer as module
from client.engines import NAMES
from client.job import Result
from client.release import Bound, noised
from consortium.plan import Plan
from privacy.noise import STDS_MOST, gaussian_grid, sensitivity_factor
from privacy.terms import signal_bound
from secagg.encoding import Update, WholeSteps, decode_body, decode_steps
from secagg.errors import SecaggError
from secagg.numbers import ring_scale


def distributed(consortium: Consortium, **changes: float) -> Plan:
    stated = {"epsilon_exposed": 60.0, "epsilon_model": 40.0, "grid_bits": 14}
    return consortium.plan(privacy=replace(terms(**(stated | changes)), mode="distributed", honest=2))


def in_ring(result: Result, plan: Plan) -> NDArray[np.uint32]:
    body = WholeSteps(result.body.astype(np.int64), n=len(plan.participants))
    words = np.empty(len(body), np.uint32)
    body.write(0, words)
    return words


def test_a_site_sends_whole_steps_and_nothing_is_rounded_after_the_noise(
    consortium: Consortium,
    quiet: list[NDArray[np.int64]],  # noqa: F811
) -> None:
    plan = distributed(consortium)
    for purpose, number in (("describe", 1), ("train", 2), ("evaluate", 3)):
        found = trainer(cohort(30), held_out=0.3).run(job(plan, purpose=purpose, number=number))
        assert found.header.dtype == found.body.dtype == np.int64
        for vector in (found.header, found.body):
            assert not vector.size or any((vector == kept).all() for kept in quiet if kept.shape == vector.shape)


@pytest.mark.parametrize("engine", NAMES)
def test_the_opened_sum_is_the_exact_sum_of_all_patients_of_all_sites(
    consortium: Consortium,
    quiet: list[NDArray[np.int64]],  # noqa: F811
    engine: str,
) -> None:
    """Without noise: one table, cut into hospitals, gives the very same sum; the outer engine rounds once for each hospital."""
    plan, everybody = distributed(consortium), cohort(60)
    cuts = (slice(0, 7), slice(7, 41), slice(41, 60))
    parts = [
        replace(everybody, patient_ids=everybody.patient_ids[cut], values=everybody.values[cut], labels=everybody.labels[cut])
        for cut in cuts
    ]
    words = np.zeros(plan.n_parameters, np.uint32)
    for part in parts:
        words += in_ring(trainer(part, engine=engine).run(job(plan)), plan)
    trainer(everybody, engine=engine).run(job(plan))
    assert np.abs(words.view(np.int32) - quiet[-1]).max() <= (2 if engine == "outer" else 0)
    assert np.abs(quiet[-1]).max() > 1000


def test_the_exact_sum_is_cut_where_the_ring_ends_before_it_is_noised(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cutting afterwards would cut noise off too: the release would no longer have the charged distribution."""
    plan, seen = distributed(consortium), list[NDArray[np.int64]]()

    def shifted(total: NDArray[np.int64], **rest: object) -> NDArray[np.int64]:
        seen.append(total.copy())
        return total + 1000

    monkeypatch.setattr(module, "noised", shifted)
    monkeypatch.setattr(module, "signal_bound", lambda plan, site: 7)
    body = trainer(cohort(30)).run(job(plan)).body
    assert np.abs(seen[-1]).max() == 7
    assert (body == seen[-1] + 1000).all()


def test_both_modes_make_the_same_step_where_there_is_no_noise(
    consortium: Consortium,
    quiet: list[NDArray[np.int64]],  # noqa: F811
) -> None:
    plan, n = distributed(consortium), len(SITES)
    local = replace(plan, privacy=replace(plan.privacy, mode="local", honest=1, grid_bits=20))
    people = [cohort(25, seed) for seed in range(n)]
    words = sum((in_ring(trainer(each).run(job(plan)), plan) for each in people), np.zeros(plan.n_parameters, np.uint32))
    rate = -plan.schedule.local_rate * plan.privacy.grid_step / (plan.privacy.sample_rate * n * DECLARED)
    shared = decode_steps(words.view(np.int32), rate)
    encoded = np.zeros(plan.n_parameters, np.uint32)
    for each in people:
        body = trainer(each).run(job(local)).body.astype(np.float64)
        part = np.empty(plan.n_parameters, np.uint32)
        Update(body, weight=1 / n, clip=local.coordinate_clip, n=n, entropy=os.urandom).write(0, part)
        encoded += part
    own = decode_body(encoded.view(np.int32), local.coordinate_clip, n)
    assert np.abs(shared).max() > 1e-3
    assert np.allclose(shared, own, atol=2e-5)


def test_a_sum_beyond_its_bound_saturates_before_the_noise_and_still_moves_by_one_clip(
    consortium: Consortium,
    quiet: list[NDArray[np.int64]],  # noqa: F811
) -> None:
    """A hospital with far more patients than it declared: its sum stops at the bound, and no patient moves it further."""
    plan = distributed(consortium)
    small = replace(plan, participants=tuple(replace(each, declared_patients=1) for each in plan.participants))
    bound, people = signal_bound(small, SITES[0]), cohort(200)
    whole = trainer(people).run(job(small)).body
    assert int(np.abs(whole).max()) == bound
    for at in (0, 77, 199):
        moved = whole - trainer(without(people, at)).run(job(small)).body
        assert np.linalg.norm(moved.astype(float)) <= 2**plan.privacy.grid_bits + np.sqrt(plan.n_parameters)


def test_colluders_who_take_their_shares_off_leave_the_noise_that_is_charged(consortium: Consortium) -> None:
    """n = 7, c = 2: t - c = 3 shares are certain; whatever survivors and colluders there are, that much is left."""
    size, bits, share = 200_000, 14, 3.0
    bound = Bound(0.5, bits)
    nothing = np.zeros(size, np.int64)
    drawn = [noised(nothing, noise_multiplier=share, bound=bound, entropy=os.urandom) for _ in range(5)]  # t survivors
    seen = sum(drawn, nothing) - drawn[0] - drawn[1]
    whole = share * np.sqrt(3) * 2**bits * sensitivity_factor(size, bits)
    assert seen.std() == pytest.approx(whole, rel=0.01)  # six standard errors


def test_no_draw_ever_leaves_the_room_that_the_plan_gives_it() -> None:
    """The furthest value that 53 bits can give, from the words that give it."""
    std = 2.0**20
    extreme = bytes(32)  # any key: the bound must hold for every stream, this shows its scale
    assert np.abs(gaussian_grid(std, 2**18, lambda size: extreme[:size])).max() <= STDS_MOST * std
    assert np.sqrt(-2.0 * np.log(2.0**-53)) * std + 1 <= STDS_MOST * std


def test_a_step_outside_the_ring_is_refused_before_anything_is_masked() -> None:
    limit = ring_scale(3)
    assert len(WholeSteps(np.array([limit, -limit]), n=3)) == 2
    for bad in (limit + 1, -limit - 1, np.iinfo(np.int64).min):
        with pytest.raises(SecaggError, match="fewer grid bits"):
            WholeSteps(np.array([0, bad]), n=3)
    with pytest.raises(SecaggError):
        WholeSteps(np.zeros(3), n=3)  # type: ignore[arg-type]


def test_a_plan_that_counts_on_more_honest_shares_than_the_roster_assures_is_refused(consortium: Consortium) -> None:
    """Three sites of which none is said to collude: two answer, each knows its own share, one is left."""
    run = consortium.run(distributed(consortium))
    assert code_of(run.ask_keys()) == "POLICY"


def test_shares_of_a_sampled_sum_leave_with_their_noise_alone_when_nobody_was_drawn(consortium: Consortium) -> None:
    plan = distributed(consortium, sample_rate=1e-6)
    found = trainer(cohort(20), os.urandom).run(job(plan)).body
    std = plan.privacy.train_noise * 2**plan.privacy.grid_bits
    assert 0 < np.abs(found).max() < STDS_MOST * std * 1.01
    assert found.std() > std / 3
