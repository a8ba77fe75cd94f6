"""Whole runs where treatments do nothing and the sicker get more of them: few declare an effect or an order of patients."""

import sys
from pathlib import Path

import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from bench_tasks_cards import CARDS
from bench_tasks_effects import Effects
from bench_tasks_null import MODES, MOST, Run, interval, runs_of, table

SEEDS = (7000, 7001, 7002, 7003)


@pytest.mark.soak
@pytest.mark.parametrize("mode", sorted(MODES))
def test_of_forty_runs_without_anything_to_find_no_more_declare_something_than_chance_allows(mode: str) -> None:
    """Seeds and noise are fixed. At 5 % in truth, 999 of 1,000 such sets of 40 runs would pass; tests without a level do not."""
    cards = [card for card in CARDS.values() if isinstance(card, Effects)]
    runs = [run for card in cards for seed in SEEDS for run in runs_of(card, "demo", seed, {mode: MODES[mode]})]
    assert len(runs) == 40
    assert len({(run.task, run.seed, run.split, run.patients) for run in runs}) == 40
    assert sum(run.effect or run.order for run in runs) <= binom.ppf(0.999, 40, MOST)


def test_a_table_counts_each_run_once_and_says_how_sure_its_share_is() -> None:
    runs = [Run("demo", "treatment_response", "none", seed // 5, seed % 5, 40, seed == 0, seed < 2) for seed in range(100)]
    line = next(line for line in table(runs).splitlines() if "| demo |" in line)
    assert [cell.strip() for cell in line.split("|")][4:9] == ["20", "100", "1", "2", "2"]
    assert "0.020 (0.002 to 0.070)" in line
    assert interval(0, 100) == (0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    assert interval(100, 100) == (pytest.approx(0.025 ** (1 / 100)), 1.0)
