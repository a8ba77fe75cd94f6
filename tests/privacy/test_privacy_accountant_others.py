"""Other people's accountants, and figures that they published, agree with ours: four code bases and three papers."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.check import Mechanism, bracket
from privacy.events import Event, GaussianEvent, PoissonGaussianEvent, Spend
from privacy.renyi import ORDERS, divergences, renyi_bound

# opacus warns that its orders end at 63, and takes logarithms of 0 that it then throws away
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")

MNIST_RATE = 256 / 60_000

# noise multiplier, sampling rate, steps, delta
SETTINGS = [
    (1.0, 0.02, 500, 1e-5),
    (2.0, 0.1, 300, 1e-6),
    (4.0, 0.5, 100, 1e-5),
    (8.0, 1.0, 100, 1e-4),
    (0.8, 0.005, 1000, 1e-6),
    (3.0, 0.25, 50, 1e-7),
    (1.5, 0.9, 10, 1e-3),
    (12.0, 0.25, 400, 1e-5),
]


def spends(noise: float, rate: float, steps: int) -> list[Spend]:
    event: Event = GaussianEvent(noise) if rate == 1.0 else PoissonGaussianEvent(noise, rate)
    return [Spend(event, "train", steps)]


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), SETTINGS)
def test_the_prv_accountant_of_opacus_lies_in_the_bracket_or_its_margin_above(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    """Gopi, Lee and Wutschitz 2021, as opacus implements it: it adds its own error bound, 0.01 and a little for delta."""
    other = PRVAccountant()
    other.history = [(noise, rate, steps)]
    found, ours = other.get_epsilon(delta), bracket(spends(noise, rate, steps), delta)
    assert ours.lower - 1e-6 <= found <= ours.upper + 0.012
    assert abs(found - epsilon(spends(noise, rate, steps), delta)) < 0.02


def test_the_prv_accountant_of_opacus_agrees_on_a_mixture_of_runs() -> None:
    """Privacy.md, section 3: 13.99 for the reference with one more Laplace release, 13.96 for PRV without it."""
    other = PRVAccountant()
    other.history = [(1.5, 0.25, 200), (2.0, 0.1, 300), (10.0, 1.0, 1)]
    ours = [*spends(1.5, 0.25, 200), *spends(2.0, 0.1, 300), *spends(10.0, 1.0, 1)]
    found = other.get_epsilon(1e-5)
    assert bracket(ours, 1e-5).distance(found) < 0.011
    assert abs(found - epsilon(ours, 1e-5, interval=ENFORCE_INTERVAL)) < 0.02


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), SETTINGS)
def test_the_renyi_divergences_are_those_of_opacus_at_every_order(noise: float, rate: float, steps: int, delta: float) -> None:
    """Two implementations of Mironov, Talwar and Zhang 2019: their series with error functions, our quadrature and sums."""
    orders = [order for order in RDPAccountant.DEFAULT_ALPHAS if order in ORDERS]
    assert len(orders) > 100
    ours = dict(zip(ORDERS, divergences(Mechanism(noise, rate, steps)), strict=True))
    theirs = np.atleast_1d(compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders))
    assert [ours[order] for order in orders] == pytest.approx(list(theirs), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), SETTINGS)
def test_two_other_rdp_accountants_are_never_tighter_than_ours_nor_far_above(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    ours, truth = renyi_bound(spends(noise, rate, steps), delta).epsilon, bracket(spends(noise, rate, steps), delta)
    opacus = RDPAccountant()
    opacus.history = [(noise, rate, steps)]
    found = opacus.get_epsilon(delta)
    google = RdpAccountant()
    google.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps))
    for other in (found, google.get_epsilon(delta)):
        assert truth.lower <= ours <= other + 1e-5
        assert other <= 1.06 * ours


def moments_accountant(noise: float, rate: float, steps: int, delta: float) -> float:
    """Abadi et al. 2016, theorem 2: least over the orders of divergence + ln(1/delta) / (a - 1)."""
    total = divergences(Mechanism(noise, rate, steps))
    return float(np.min(total + math.log(1.0 / delta) / (np.array(ORDERS) - 1.0)))


# What was published from the same divergences by the older conversion
PUBLISHED = [
    # Abadi et al. 2016, "Deep learning with differential privacy", section 3.2: q 0.01, sigma 4, delta 1e-5, 10,000 steps
    pytest.param(4.0, 0.01, 10_000, 1.26, id="abadi-2016"),
    # TensorFlow Privacy, tutorials/README.md, the table of its MNIST tutorial, delta 1e-5
    pytest.param(1.12, MNIST_RATE, 60 * 60_000 // 256, 2.92, id="tf-privacy-60-epochs"),
    pytest.param(1.2, MNIST_RATE, 10 * 60_000 // 256, 1.20, id="tf-privacy-10-epochs"),
    # Bu, Dong, Long and Su 2020, "Deep learning with Gaussian differential privacy", figure 4: moments accountant, 70 epochs
    pytest.param(0.7, MNIST_RATE, 70 * 60_000 // 256, 8.68, id="bu-2020"),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "published"), PUBLISHED)
def test_published_values_of_the_moments_accountant_come_out(noise: float, rate: float, steps: int, published: float) -> None:
    assert moments_accountant(noise, rate, steps, 1e-5) == pytest.approx(published, abs=0.006)
    truth = bracket(spends(noise, rate, steps), 1e-5)
    assert truth.upper < renyi_bound(spends(noise, rate, steps), 1e-5).epsilon < published
    assert truth.distance(epsilon(spends(noise, rate, steps), 1e-5)) < 0.02
