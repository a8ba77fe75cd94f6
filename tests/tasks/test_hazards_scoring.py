"""Figures of times to an event from summed cells: those of scikit-survival, of lifelines, and of loops over pairs."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Column, Contract, Label
from tasks.errors import ContractError
from tasks.hazards.figures import OneView
from tasks.hazards.scoring import HazardScoring, View, risk_bins, risk_centres
from tasks.scoring.base import Calibrated, Scored, Scoring, shares
from tasks.scoring.groups import groupings

GOLDEN = json.loads((Path(__file__).parent / "golden" / "survival.json").read_text(encoding="utf-8"))
VIEWS = (View(1, 5), View(1, 1), View(1, 2), View(1, 3))
RESOLUTION = 1e-3  # of figures with the finest bins
CONTRACT = Contract("toy", "1", (Column("female", "binary", "sex"),), Label("event", "it happened"))


def counted(scoring: Scoring, scored: Scored, records: np.ndarray | None = None) -> np.ndarray:
    """The histogram as a site makes it; `records`: how many records each record's patient has."""
    counts = np.ones(len(scored), np.intp) if records is None else records
    places = scoring.places(scored)
    cells = np.zeros(scoring.cells)
    np.add.at(cells, np.maximum(places, 0), shares(scoring, places, counts, 20) / 2**20)
    return cells


def logits_of(hazards: np.ndarray) -> np.ndarray:
    """(n, quarters[, causes]) chances of each quarter to logits."""
    stay = 1.0 - hazards.sum(axis=-1, keepdims=True) if hazards.ndim == 3 else 1.0 - hazards
    return np.log(hazards / stay)


def golden_people() -> Scored:
    people = {name: np.array(values) for name, values in GOLDEN["people"].items()}
    hazard = -np.expm1(-GOLDEN["yearly"] * np.exp(people["score"]) / 4)
    outputs = logits_of(np.repeat(hazard[:, None], GOLDEN["quarters"], axis=1))
    event = people["cause"] > 0
    labels = np.stack([people["time"] - event, people["time"], people["cause"]], axis=1)
    return Scored(outputs, labels.astype(np.float32), np.zeros((len(event), 1)))


def test_fine_bins_give_the_figures_of_scikit_survival_and_lifelines() -> None:
    scoring = HazardScoring(350, ("cdp",), VIEWS, "uno_c")
    found = scoring.figures(counted(scoring, golden_people()))
    for name, expected in GOLDEN["figures"].items():
        assert found[name] == pytest.approx(expected, abs=RESOLUTION), name
    assert found["noise_dominates"] == 0.0
    assert found["patients"] == pytest.approx(300, abs=1e-3)


def test_the_first_cause_to_come_is_that_of_scikit_survival() -> None:
    people = {name: np.array(values) for name, values in GOLDEN["competing"]["people"].items()}
    event = people["cause"] > 0
    labels = np.stack([people["time"] - event, people["time"], people["cause"]], axis=1)
    scored = Scored(np.full((len(event), 8, 3), -4.0), labels, np.zeros((len(event), 1)))
    scoring = HazardScoring(64, ("a", "b", "c"), (View(1, 2), View(2, 2), View(3, 2)), "auc_a")
    found = scoring.figures(counted(scoring, scored))
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        assert found[f"observed_{name}"] == pytest.approx(GOLDEN["competing"]["figures"][f"observed_{number}"], abs=1e-5)


# Plain loops


class Plain:
    """The figures by loops over people and pairs, weights being what a record counts; time in quarters up to the horizon."""

    def __init__(self, labels: np.ndarray, weights: np.ndarray, risk: np.ndarray, cause: int, horizon: int) -> None:
        self.weights, self.risk, self.mine, self.horizon = weights, risk, cause, horizon
        late = (labels[:, 2] > 0) & (labels[:, 1] > horizon)
        self.cause = np.where(late, 0, labels[:, 2]).astype(int)
        self.time = np.where(self.cause > 0, labels[:, 1], np.minimum(np.where(late, horizon, labels[:, 0]), horizon)).astype(int)
        self.n = len(labels)

    def watched(self, quarter: int) -> float:
        """Chance of not being lost before the end of the quarter."""
        chance = 1.0
        for at in range(quarter):
            left = sum(self.weights[i] for i in range(self.n) if self.cause[i] == 0 and self.time[i] == at)
            could = sum(self.weights[i] for i in range(self.n) if self.time[i] > at or (self.cause[i] == 0 and self.time[i] == at))
            chance *= 1.0 - left / could
        return chance

    def concordance(self, *, weighted: bool) -> float:
        g = [self.watched(quarter) if weighted else 1.0 for quarter in range(self.horizon + 1)]
        right = pairs = 0.0
        for i in range(self.n):
            if self.cause[i] != self.mine:
                continue
            for j in range(self.n):
                later = self.time[j] > self.time[i] or (self.cause[j] == 0 and self.time[j] >= self.time[i])
                rival = self.cause[j] not in (0, self.mine) and self.time[j] <= self.time[i]
                if not later and not rival:
                    continue
                weight = self.weights[i] * self.weights[j] / g[self.time[i]] / g[self.time[i] if later else self.time[j]]
                pairs += weight
                right += weight * (1.0 if self.risk[i] > self.risk[j] else 0.5 if self.risk[i] == self.risk[j] else 0.0)
        return right / pairs

    def fates(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of each as a case and as somebody without the event by the horizon."""
        g = [self.watched(quarter) for quarter in range(self.horizon + 1)]
        case, without = np.zeros(self.n), np.zeros(self.n)
        for i in range(self.n):
            if self.cause[i] == self.mine:
                case[i] = self.weights[i] / g[self.time[i]]
            elif self.cause[i] > 0 or self.time[i] == self.horizon:
                without[i] = self.weights[i] / g[self.time[i]]
        return case, without

    def area(self) -> float:
        case, without = self.fates()
        right = sum(
            case[i] * without[j] * (1.0 if self.risk[i] > self.risk[j] else 0.5 if self.risk[i] == self.risk[j] else 0.0)
            for i in range(self.n) if case[i] for j in range(self.n) if without[j]
        )  # fmt: skip
        return right / (case.sum() * without.sum())

    def brier(self) -> float:
        case, without = self.fates()
        return float((case * (1 - self.risk) ** 2 + without * self.risk**2).sum() / self.weights.sum())

    def observed(self, chosen: np.ndarray) -> float:
        """Aalen and Johansen among those who are chosen."""
        free, risk = 1.0, 0.0
        for quarter in range(1, self.horizon + 1):
            at_risk = mine = any_event = 0.0
            for i in np.flatnonzero(chosen):
                at_risk += self.weights[i] * (self.time[i] >= quarter)
                if self.time[i] == quarter and self.cause[i] > 0:
                    any_event += self.weights[i]
                    mine += self.weights[i] * (self.cause[i] == self.mine)
            if at_risk > 0:
                risk += free * mine / at_risk
                free *= 1.0 - any_event / at_risk
        return risk


def clinic(n: int = 160, causes: int = 2, quarters: int = 8, seed: int = 4) -> tuple[Scored, np.ndarray]:
    """Records with risks that mean something, and how many records each one's patient has."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, (n, causes))
    hazards = np.clip(0.03 * np.exp(scores), 0.001, 0.3)
    everything = np.repeat(hazards[:, None, :], quarters, axis=1)
    cause, time = np.zeros(n, int), np.full(n, quarters)
    lost = rng.integers(0, 2 * quarters, n)
    for i in range(n):
        for quarter in range(1, min(int(lost[i]), quarters) + 1):
            draw = rng.random()
            if draw < hazards[i].sum():
                cause[i], time[i] = 1 + int(draw > hazards[i, 0]), quarter
                break
        else:
            time[i] = min(int(lost[i]), quarters)
    labels = np.stack([time - (cause > 0), time, cause], axis=1)
    values = rng.integers(0, 2, (n, 1)).astype(float)
    outputs = logits_of(everything) if causes > 1 else logits_of(everything[..., 0])
    return Scored(outputs, labels, values), rng.integers(1, 5, n).astype(np.intp)


def risks_of(scored: Scored, cause: int, quarter: int) -> np.ndarray:
    odds = np.exp(scored.outputs if scored.outputs.ndim == 3 else scored.outputs[..., None])
    chances = odds / (1 + odds.sum(axis=2, keepdims=True))
    stay = np.cumprod(1 - chances.sum(axis=2), axis=1)
    before = np.concatenate([np.ones((len(stay), 1)), stay[:, :-1]], axis=1)
    return np.cumsum(before[..., None] * chances, axis=1)[:, quarter - 1, cause - 1]


@pytest.mark.parametrize("cause", [1, 2])
def test_rival_causes_and_several_records_a_patient_are_as_plain_loops_have_them(cause: int) -> None:
    scored, records = clinic()
    scoring = HazardScoring(600, ("pira", "raw"), (View(1, 2), View(2, 2)), "auc_pira")
    found = scoring.figures(counted(scoring, scored, records))
    name = ("pira", "raw")[cause - 1]
    plain = Plain(scored.labels, 1.0 / records, risks_of(scored, cause, 8), cause, 8)
    assert found[f"uno_c_{name}"] == pytest.approx(plain.concordance(weighted=True), abs=RESOLUTION)
    assert found[f"harrell_c_{name}"] == pytest.approx(plain.concordance(weighted=False), abs=RESOLUTION)
    assert found[f"auc_{name}"] == pytest.approx(plain.area(), abs=RESOLUTION)
    assert found[f"brier_{name}"] == pytest.approx(plain.brier(), abs=RESOLUTION)
    assert found[f"observed_{name}"] == pytest.approx(plain.observed(np.ones(plain.n, bool)), abs=1e-4)
    assert found[f"expected_{name}"] == pytest.approx(np.average(plain.risk, weights=plain.weights), abs=RESOLUTION)


@pytest.mark.parametrize("years", [1, 2])
def test_one_cause_up_to_each_horizon_is_as_plain_loops_have_it(years: int) -> None:
    scored, records = clinic(causes=1, seed=6)
    scoring = HazardScoring(700, ("cdp",), (View(1, 2), View(1, 1)), "uno_c")
    found = scoring.figures(counted(scoring, scored, records))
    plain = Plain(scored.labels, 1.0 / records, risks_of(scored, 1, 4 * years), 1, 4 * years)
    assert found[f"auc_{years}y"] == pytest.approx(plain.area(), abs=RESOLUTION)
    assert found[f"brier_{years}y"] == pytest.approx(plain.brier(), abs=RESOLUTION)
    assert found[f"observed_{years}y"] == pytest.approx(plain.observed(np.ones(plain.n, bool)), abs=1e-4)
    if years == 2:
        assert found["uno_c"] == pytest.approx(plain.concordance(weighted=True), abs=RESOLUTION)
        assert found["harrell_c"] == pytest.approx(plain.concordance(weighted=False), abs=RESOLUTION)


def test_calibration_is_that_of_groups_of_like_predictions() -> None:
    """Groups are cut where a tenth of the people is reached; the line is the maximum of the likelihood, found here by a search."""
    scored, _ = clinic(n=600, causes=1, seed=8)
    scoring = HazardScoring(1000, ("cdp",), (View(1, 2),), "uno_c")
    found = scoring.figures(counted(scoring, scored))
    risk = risk_centres(2, 1000)[risk_bins(risks_of(scored, 1, 8), 2, 1000)]
    plain = Plain(scored.labels, np.ones(600), risk, 1, 8)
    rank = np.array([(np.sum(risk < each) + np.sum(risk <= each)) / 2 for each in risk])
    group = np.minimum((10 * rank / 600).astype(int), 9)
    size = np.array([np.sum(group == g) for g in range(10)])
    predicted = np.array([risk[group == g].mean() for g in range(10)])
    observed = np.array([plain.observed(group == g) for g in range(10)])
    error = float((size * np.abs(predicted - observed)).sum() / 600)
    shown = scoring.calibration(counted(scoring, scored))
    assert isinstance(scoring, Calibrated)
    assert [one.patients for one in shown] == pytest.approx(size.tolist(), abs=0.01)
    assert [one.predicted for one in shown] == pytest.approx(predicted.tolist(), abs=1e-4)
    assert [one.observed for one in shown] == pytest.approx(observed.tolist(), abs=1e-4)
    assert all(one.low < one.predicted < one.high for one in shown if one.predicted is not None)
    assert [one.high for one in shown[:-1]] == pytest.approx([one.low for one in shown[1:]], abs=0.02)
    assert found["calibration_error_2y"] == pytest.approx(error, abs=1e-4)

    def likelihood(intercept: float, slope: float) -> float:
        chance = -np.expm1(-np.exp(intercept + slope * np.log(-np.log1p(-predicted))))
        return float((size * (observed * np.log(chance) + (1 - observed) * np.log1p(-chance))).sum())

    lines = [(intercept, slope) for intercept in np.arange(-1, 1, 0.01) for slope in np.arange(0.2, 2, 0.01)]
    best = max(lines, key=lambda line: likelihood(*line))
    assert found["calibration_slope_2y"] == pytest.approx(best[1], abs=0.02)
    level = max((likelihood(a, 1.0), a) for a in np.arange(-1, 1, 0.001))[1]
    assert found["calibration_intercept_2y"] == pytest.approx(level, abs=0.002)
    assert found["calibration_slope_2y_low"] < 1.0 < found["calibration_slope_2y_high"]  # these risks are right


# Sums


def test_cells_of_two_sites_added_are_those_of_all_people_in_one_place() -> None:
    scored, records = clinic()
    scoring = HazardScoring(24, ("pira", "raw"), (View(1, 2), View(2, 2)), "auc_pira", groupings(CONTRACT, ("sex",)))
    cut = [0, 50, 160]
    sites = [(Scored(scored.outputs[a:b], scored.labels[a:b], scored.values[a:b]), records[a:b]) for a, b in pairwise(cut)]
    parts = [counted(scoring, *site) for site in sites]
    whole = counted(scoring, scored, records)
    assert np.array_equal(sum(parts), whole)
    assert scoring.figures(sum(parts)) == scoring.figures(whole)
    alone = [scoring.figures(part)["auc_pira"] for part in parts]
    assert np.mean(alone) != pytest.approx(scoring.figures(whole)["auc_pira"], abs=RESOLUTION)  # a mean of sites is another number


@pytest.mark.parametrize("bins", [16, 64])
@pytest.mark.parametrize("by", [(), ("sex",)])
def test_everybody_is_in_one_cell_of_each_block_whatever_the_model_says(bins: int, by: tuple[str, ...]) -> None:
    scored, _ = clinic(causes=1, quarters=20, seed=5)
    outputs = scored.outputs.copy()
    outputs[:4] = [[np.nan] * 20, [np.inf] * 20, [-np.inf] * 20, [1e308] * 20]
    scoring = HazardScoring(bins, ("cdp",), VIEWS, "uno_c", groupings(CONTRACT, by))
    places = scoring.places(Scored(outputs, scored.labels, scored.values))
    assert isinstance(scoring, Scoring)
    assert scoring.cells % 2 == 0
    assert places.shape == (160, len(scoring.blocks))
    assert np.square(scoring.weights).sum() == pytest.approx(1.0)
    for block, column in zip(scoring.blocks, places.T, strict=True):
        assert np.all((column >= block.first) & (column < block.end))
    assert scoring.blocks[-1].end <= scoring.cells


def test_figures_of_groups_are_those_of_the_group_alone() -> None:
    scored, _ = clinic(n=900, seed=11)
    views = (View(1, 2), View(2, 2))
    by_sex = HazardScoring(64, ("pira", "raw"), views, "auc_pira", groupings(CONTRACT, ("sex",)))
    plain = HazardScoring(64, ("pira", "raw"), views, "auc_pira")
    found = by_sex.figures(counted(by_sex, scored))
    women = scored.values[:, 0] == 1
    alone = plain.figures(counted(plain, Scored(scored.outputs[women], scored.labels[women], scored.values[women])))
    for name in ("auc_pira", "uno_c_raw", "observed_raw"):
        assert found[f"{name}[sex=F]"] == pytest.approx(alone[name], abs=1e-3)
    assert not [name for name in found if "unknown" in name]  # nobody is
    assert found["auc_pira"] == pytest.approx(plain.figures(counted(plain, scored))["auc_pira"], abs=1e-4)


# Resolution and errors


def test_coarse_bins_are_near_the_fine_ones() -> None:
    """16 bins and half years, what a run with noise has, against the finest."""
    scored = golden_people()
    fine, coarse = (HazardScoring(bins, ("cdp",), VIEWS, "uno_c") for bins in (350, 16))
    assert coarse.cells < 800
    exact, found = fine.figures(counted(fine, scored)), coarse.figures(counted(coarse, scored))
    for name in ("uno_c", "auc_1y", "auc_5y", "brier_5y", "observed_5y", "expected_5y"):
        assert found[name] == pytest.approx(exact[name], abs=0.03), name


def test_a_bin_is_the_same_ratio_of_hazards_everywhere() -> None:
    centres = -np.log1p(-risk_centres(2, 22)) / 2
    assert centres[1:] / centres[:-1] == pytest.approx(np.full(21, np.sqrt(2)))
    assert np.array_equal(risk_bins(risk_centres(5, 64), 5, 64), np.arange(64))
    assert risk_bins(np.array([0.0, 1e-9, 1.0]), 2, 16).tolist() == [0, 0, 15]


def value(scoring: HazardScoring, cells: np.ndarray, name: str) -> float:
    """One figure of the first view, without its fellows."""
    return OneView(scoring.blocks[0], cells, 0.0).figures((name,))[name].value


@pytest.mark.parametrize("name", ["uno_c", "brier", "observed", "auc"])
def test_intervals_are_those_of_resampled_people(name: str) -> None:
    scored, _ = clinic(n=500, causes=1, seed=9)
    scoring = HazardScoring(32, ("cdp",), (View(1, 2),), "uno_c")
    found, rng = scoring.figures(counted(scoring, scored)), np.random.default_rng(1)
    places = scoring.places(scored)[:, 0]
    again = [value(scoring, np.bincount(rng.choice(places, 500), minlength=scoring.cells).astype(float), name) for _ in range(150)]
    full = name if name == "uno_c" else f"{name}_2y"
    assert found[f"{full}_high"] - found[f"{full}_low"] == pytest.approx(2 * 1.96 * np.std(again), rel=0.25)
    assert found[f"{full}_low"] < found[full] < found[f"{full}_high"]


def test_the_error_of_noise_is_that_of_figures_with_other_noise() -> None:
    scored, _ = clinic(n=1500, causes=1, seed=10)
    scoring = HazardScoring(16, ("cdp",), (View(1, 2),), "uno_c")
    cells, rng = counted(scoring, scored), np.random.default_rng(1)
    exact, found = scoring.figures(cells), scoring.figures(cells, noise_std=0.4)
    again = [value(scoring, cells + rng.normal(0, 0.4, len(cells)), "uno_c") for _ in range(200)]
    assert found["uno_c_noise_se"] == pytest.approx(np.std(again), rel=0.2)
    assert found["uno_c_high"] - found["uno_c_low"] > exact["uno_c_high"] - exact["uno_c_low"]


def test_noise_that_drowns_the_events_is_said_to() -> None:
    scored, _ = clinic(n=160, causes=1, seed=10)
    scoring = HazardScoring(16, ("cdp",), (View(1, 2), View(1, 1)), "uno_c")
    cells = counted(scoring, scored)
    assert scoring.figures(cells)["noise_dominates"] == 0.0
    for seed in range(8):
        noisy = cells + np.random.default_rng(seed).normal(0, 20.0, len(cells))
        found = scoring.figures(noisy, noise_std=20.0)
        assert found["noise_dominates"] == 1.0
        assert all(np.isfinite(list(found.values())))
        assert 1.0 not in [value for name, value in found.items() if name in ("uno_c", "auc_2y", "auc_1y")]  # noise is not perfect


def test_without_events_there_are_no_figures_but_the_counts() -> None:
    scoring = HazardScoring(16, ("cdp",), VIEWS, "uno_c")
    found = scoring.figures(np.zeros(scoring.cells))
    assert found == {"patients": 0.0, "events": 0.0, "noise_dominates": 0.0}


@pytest.mark.parametrize(("bins", "what"), [(1, "from 2 bins on"), (5000, "32768 cells at most")])
def test_bins_that_cannot_be_are_refused(bins: int, what: str) -> None:
    with pytest.raises(ContractError, match=what):
        HazardScoring(bins, ("cdp",), VIEWS, "uno_c")


def test_a_histogram_of_another_length_is_refused() -> None:
    with pytest.raises(ContractError, match="this scoring has"):
        HazardScoring(16, ("cdp",), VIEWS, "uno_c").figures(np.zeros(10))
