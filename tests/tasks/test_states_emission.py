"""What a row says, against the normal distribution of just the measures that are there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tasks.states.emission import evidence
from tasks.states.measures import MEASURES, WINSOR, standardised
from tasks.states.structure import N_STATES
from tests.shared.states_rows import ALL, start


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.floats(0, 0.9))
def test_missing_measures_are_marginalised_exactly(seed: int, missing: float) -> None:
    rng, parameters = np.random.default_rng(seed), start()
    y = rng.normal(0, 1.5, (5, len(MEASURES)))
    y[rng.random(y.shape) < missing] = np.nan
    found = evidence(parameters, y)
    slope = parameters.loadings[:, 1:]
    for n, row in enumerate(y):
        seen = ~np.isnan(row)
        for k in range(N_STATES):
            if not seen.any():
                assert found.log_density[n, k] == pytest.approx(0.0, abs=1e-12)
                continue
            prior, load = parameters.covariance[k], slope[seen]
            mean = parameters.loadings[seen, 0] + load @ parameters.mean[k]
            whole = load @ prior @ load.T + np.diag(parameters.noise[seen])
            assert found.log_density[n, k] == pytest.approx(multivariate_normal(mean, whole).logpdf(row[seen]), rel=1e-8, abs=1e-8)
            gain = prior @ load.T @ np.linalg.inv(whole)
            assert np.allclose(found.mean[n, k], parameters.mean[k] + gain @ (row[seen] - mean), atol=1e-8)
            assert np.allclose(found.covariance[found.pattern[n], k], prior - gain @ load @ prior, atol=1e-8)


def test_values_outside_the_contract_are_missing_and_far_ones_are_cut() -> None:
    raw = np.full((3, len(MEASURES)), np.nan)
    raw[0, 0], raw[1, 0], raw[2, 5] = 11.0, -1.0, 150.0
    found = standardised(raw)
    assert np.isnan(found[:2]).all()
    assert 0 < found[2, 5] <= WINSOR


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_the_scale_of_each_measure_goes_back_to_its_unit(measure) -> None:  # type: ignore[no-untyped-def]
    for share in (0.1, 0.3):
        value = measure.low + share * (measure.high - measure.low) if measure.high < 200 else measure.low + share * 30
        there = float(measure.standardised(np.array(value)))
        if abs(there) < WINSOR:
            assert measure.published(there) == pytest.approx(value)


def test_the_plan_without_some_measures_has_the_same_densities_as_missing_ones() -> None:
    from dataclasses import replace

    from tasks.states.parameters import public_start

    few = replace(ALL, measures=(0, 4, 5))
    y = np.random.default_rng(1).normal(0, 1, (4, len(MEASURES)))
    part = y.copy()
    part[:, [1, 2, 3, 6, 7, 8]] = np.nan
    assert np.allclose(evidence(public_start(few), y[:, [0, 4, 5]]).log_density, evidence(start(), part).log_density)
