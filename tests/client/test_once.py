"""A patient count is noised once per run and site: drawn once, charged once, and the same in every round."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from guards_in_process import SITES, Consortium, Run, answered, code_of, terms

from client.errors import TrainerError
from client.job import Job, Result
from client.once import Once
from privacy.events import GaussianEvent
from secagg.encoding import decode_header

SITE = SITES[0]
NOISE = 5.0


class Drawing:
    """A `Train` that draws a fresh count in every round, as the real one does: 100.5, 101.5, ..."""

    def __init__(self) -> None:
        self._draws = itertools.count()

    def __call__(self, job: Job, deadline_s: float) -> Result:
        return Result(np.array([100.5 + next(self._draws)]), np.zeros(job.plan.n_parameters))


@pytest.fixture
def counted(consortium: Consortium) -> Run:
    """A plan whose training rounds carry the count and nothing else; rounds 2, 4, .. would carry a histogram."""
    for site in SITES:
        consortium.train[site] = Drawing()
    plan = consortium.plan()
    schedule = replace(plan.schedule, evaluate_every=100)
    return consortium.run(consortium.plan(schedule=schedule, privacy=terms(count_noise=NOISE)))


def sum_of_counts(run: Run, number: int, epoch: int) -> float:
    return float(decode_header(run.round(run.epoch(epoch), number).header)[1][0])


def charged(consortium: Consortium, site: str = SITE) -> int:
    """How often the ledger holds the event of the count."""
    consortium.guard(site)
    events = [spend for spend in consortium.sites_open[site].ledger.spends() if spend.event == GaussianEvent(NOISE)]
    return sum(spend.count for spend in events)


def test_every_round_repeats_the_first_draw_and_charges_it_once(consortium: Consortium, counted: Run) -> None:
    epoch = counted.epoch()
    sums = [float(decode_header(counted.round(epoch, number).header)[1][0]) for number in (1, 2, 3)]
    assert sums == [3 * 100.5] * 3
    assert [charged(consortium, site) for site in SITES] == [1, 1, 1]


def test_a_restarted_guard_repeats_it_too(consortium: Consortium, counted: Run) -> None:
    assert sum_of_counts(counted, 1, 1) == 3 * 100.5
    for site in SITES:
        consortium.restart(site)
    assert sum_of_counts(counted, 2, 2) == 3 * 100.5
    assert charged(consortium) == 1


def test_a_lost_draw_is_charged_again(consortium: Consortium, counted: Run) -> None:
    """Whoever restores an old copy of the folder, or deletes the file, pays for the second draw."""
    sum_of_counts(counted, 1, 1)
    (consortium.home(SITE).plans / f"{counted.signed.digest.hex()}.once").unlink()
    assert sum_of_counts(counted, 2, 2) == 2 * 100.5 + 101.5
    assert [charged(consortium, site) for site in SITES] == [2, 1, 1]


def test_a_crash_before_the_draw_is_kept_releases_nothing_and_the_charge_stands_for_the_next_one(
    consortium: Consortium, counted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> float:
        raise OSError("no space left on device")

    phase = counted.open_round(counted.epoch(), 1)
    with monkeypatch.context() as patch:
        patch.setattr(Once, "keep", crash)
        assert code_of(counted.update(phase, SITE)) == "INTERNAL"
    assert charged(consortium) == 1
    assert answered(counted.update(counted.open_round(counted.epoch(2), 2), SITE))
    assert charged(consortium) == 1


def test_rounds_that_fail_before_a_draw_charge_the_count_once(consortium: Consortium, counted: Run) -> None:
    def dies(job: Job, deadline_s: float) -> Result:
        raise TrainerError("the trainer died")

    drawing, consortium.train[SITE] = consortium.train[SITE], dies
    epoch = counted.epoch()
    for number in (1, 2, 3):
        assert code_of(counted.update(counted.open_round(epoch, number), SITE)) == "TRAINING"
    consortium.train[SITE] = drawing
    consortium.restart(SITE)
    assert sum_of_counts(counted, 4, 2) == 3 * 100.5
    assert charged(consortium) == 1


def test_a_draw_without_its_charge_in_the_ledger_is_charged(consortium: Consortium, counted: Run) -> None:
    """As after an older ledger was put back, or a file that somebody wrote."""
    path = consortium.home(SITE).plans / f"{counted.signed.digest.hex()}.once"
    path.write_text('{"patients": 7.0}')
    assert sum_of_counts(counted, 1, 1) == 2 * 100.5 + 7.0
    assert charged(consortium) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b'{"patients": "many"}', b'{"patients": NaN}', b"[]"])
def test_a_damaged_draw_stops_the_round_before_it_is_charged(consortium: Consortium, counted: Run, content: bytes) -> None:
    epoch = counted.epoch()
    counted.round(epoch, 1)
    (consortium.home(SITE).plans / f"{counted.signed.digest.hex()}.once").write_bytes(content)
    before = consortium.spends()
    assert code_of(counted.update(counted.open_round(epoch, 2), SITE)) == "INTERNAL"
    assert consortium.spends() == before


def test_the_kept_number_is_the_noised_one_and_for_its_owner_alone(consortium: Consortium, counted: Run) -> None:
    counted.round(counted.epoch(), 1)
    path = consortium.home(SITE).plans / f"{counted.signed.digest.hex()}.once"
    assert json.loads(path.read_bytes()) == {"patients": 100.5}
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_real_trainers_count_has_the_plans_noise(training: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty runs' worth of draws: they differ, and lie around the truth by a few standard deviations at most."""
    plan = training.plan()
    plan = training.plan(schedule=replace(plan.schedule, evaluate_every=100), privacy=terms(count_noise=NOISE))
    train: Callable[[Job, float], Result] = training.train[SITE]
    model = np.zeros(plan.model_size, "<f4").tobytes()
    draws = [train(Job(plan, SITE, 1, "train", model), 10.0).header[0] for _ in range(20)]
    truth = len(train._patients.trainer("cis_conversion").sides.training.labels)  # type: ignore[attr-defined]
    assert len(set(draws)) == 20
    assert abs(float(np.mean(draws)) - truth) < 6 * NOISE / 20**0.5
    assert 0.4 * NOISE < float(np.std(draws)) < 2 * NOISE
