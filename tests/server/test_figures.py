"""Figures of a run in words: whatever its task calls them, the primary one first, with what they cost and whether to read them."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from consortium.plan import Plan
from server import figures
from server.card import model_card
from server.charts import Interval, axis, interval_chart
from server.cli_run import closing_facts
from server.figures import AUC, Primary, primary_of
from server.folder import RunFolder
from server.journal import RoundDone, named
from server.pooled import scored_by
from server.progress import sentence
from server.report import compare, page
from server.report_figures import event_words, quality_charts, quality_tables
from server.state import RunState, read_state
from tasks.metrics import CalibrationGroup
from tasks.scoring.binary import BinaryScoring
from tasks.scoring.numeric import NumericScoring

Make = Callable[..., RunFolder]
MAE = Primary("mae", lower_is_better=True)
BY = "age,sex"


@pytest.fixture
def grouped(plan: Plan) -> Plan:
    """The small plan, measured by age and sex in 16 bins."""
    options = (("score_bins", 16), ("score_by", BY))
    return replace(plan, model=replace(plan.model, options=options), histogram_bins=16 * 8)


def scoring_by_groups(plan: Plan) -> BinaryScoring:
    scoring = scored_by(plan)
    assert isinstance(scoring, BinaryScoring)
    return scoring


def cells_of(plan: Plan, patients: int) -> np.ndarray:
    """A histogram of so many patients, a third in each band of age; the higher the bin, the more events."""
    scoring = scoring_by_groups(plan)
    events = (np.arange(scoring.bins) + 1.0) / scoring.bins
    one = np.r_[1.0 - events, events] / scoring.bins
    age, sex = scoring.by
    shares = [1.0, 1 / 3, 1 / 3, 1 / 3, 0.0, *(0.5 if name in "FM" else 0.0 for name in sex.names)]
    weights = np.repeat(scoring.weights, [1, len(age), len(sex)])
    return np.concatenate([patients * share * weight * one for share, weight in zip(shares, weights, strict=True)])


def run_of(plan: Plan, found: Mapping[str, float], histogram: np.ndarray) -> RunState:
    """A run whose only round was an evaluation."""
    done = RoundDone(1, "evaluate", plan.sites, (), named({"update": 0.1}), 1, 1, named(found), tuple(histogram.tolist()))
    return RunState(run_id=plan.run_id, phase="finished", sites=plan.sites, done=(done,))


def measured(plan: Plan, patients: int, noise: float) -> RunState:
    cells = cells_of(plan, patients)
    return run_of(plan, scoring_by_groups(plan).figures(cells, noise_std=noise), cells)


def test_the_primary_figure_is_the_scorings(plan: Plan) -> None:
    assert primary_of(plan) == AUC
    assert primary_of(replace(plan, task=replace(plan.task, name="cohort_description"))) is None


def test_a_journal_can_be_read_where_its_task_is_not_installed(plan: Plan) -> None:
    stranger = replace(plan, task=replace(plan.task, name="from_another_package"))
    assert primary_of(stranger) is None
    assert "0.900" in page(stranger, run_of(stranger, {"auc": 0.9}, np.ones(8)), colluders=1)


def test_errors_that_are_not_the_tasks_are_not_swallowed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Plan) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("server.pooled.scored_by", broken)
    with pytest.raises(ZeroDivisionError):
        primary_of(plan)


def test_any_primary_figure_is_said_in_one_line() -> None:
    state = RunState(done=(RoundDone(4, "train", ("a",), (), (), 0, 0, named({"mae": 9.8765, "mae_noise_se": 0.1}), (1.0,) * 4),))
    assert sentence(state, MAE) == "round 4 train, 1 sites; pooled mean absolute error 9.877 on validation patients"
    assert sentence(state, None) == "round 4 train, 1 sites"
    said = "pooled mean absolute error 9.877 on validation patients: the model going into round 4"
    assert f"{said}; measured with noise of s.e. 0.100" in closing_facts(state, MAE)
    assert figures.headline({"mae": 12.345}, MAE) == "mean absolute error 12.35"
    assert figures.headline({"auc": 0.9}, MAE) == figures.headline({"auc": 0.9}, None) == ""


def test_the_better_figure_ranks_first() -> None:
    assert MAE.rank(1.0) < MAE.rank(2.0)
    assert AUC.rank(0.9) < AUC.rank(0.8)


def test_the_error_bar_is_one_standard_error() -> None:
    assert figures.spread_of({"auc": 0.8, "auc_sampling_se": 0.03, "auc_noise_se": 0.04}, AUC) == pytest.approx(0.05)
    assert figures.spread_of({"mae": 9.0, "mae_low": 9.0 - 1.959964, "mae_high": 9.0 + 1.959964}, MAE) == pytest.approx(1.0)
    assert figures.spread_of({"auc": 0.8}, AUC) == 0.0


def test_all_figures_come_in_order_with_intervals_and_how_to_read_them() -> None:
    found = {"prevalence": 0.25, "net_benefit_20": 0.1, "auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "ece": 0.1, "ece_noise": 0.04}
    assert figures.whole_rows(found | {"patients": 100.0, "noise_dominates": 0.0}, AUC) == [
        ["AUC", "0.800", "0.700 to 0.900", "0.5 is chance, 1 is perfect"],
        ["expected calibration error", "0.100", "", "0 is perfect; noise alone would make 0.040 of it"],
        ["net benefit at 20 %", "0.100", "", "0 is treating nobody; treating all has 0.062"],
        ["share with the event", "0.250", "", ""],
    ]
    assert figures.all_words(found, AUC).startswith("AUC 0.800 (0.700 to 0.900), expected calibration error 0.100")


def test_the_primary_figure_stands_first_whatever_its_name() -> None:
    assert [row[0] for row in figures.whole_rows({"auc": 0.5, "odd_gain": 2.0}, Primary("odd_gain", False))] == ["odd gain", "AUC"]


def test_groups_have_a_row_each_and_only_columns_that_some_group_has() -> None:
    found = {
        "auc": 0.8,
        "ece": 0.1,
        "auc[sex=M]": 0.7,
        "auc[sex=F]": 0.9,
        "auc_low[sex=F]": 0.8,
        "auc_high[sex=F]": 0.95,
        "brier[sex=F]": 0.1,
    }
    heads, rows = figures.group_rows(found, AUC)
    assert heads == ["patients", "AUC", "Brier score"]
    assert rows == [["all", "0.800", ""], ["women", "0.900 (0.800 to 0.950)", "0.100"], ["men", "0.700", ""]]
    assert figures.group_rows({"auc": 0.8}, AUC) == ([], [])


def test_a_page_shows_the_figures_of_groups_and_what_they_cost(grouped: Plan) -> None:
    text = page(grouped, measured(grouped, 6000, 1.0), colluders=1)
    for words in (
        "By group",
        "women",
        "50 years and older",
        "calibration slope",
        "average precision",
        "256 summed cells in 3 blocks of weights 0.71, 0.50, 0.50",
        "1 of at most",
        "one event of the population held_out",
        "Calibration, test patients",
    ):
        assert words in text
    assert "sex unknown" not in text  # nobody is
    assert figures.DO_NOT_READ not in text
    assert text.count("<circle") >= 1 + 10 + 6


def test_a_page_says_that_noise_is_of_the_figures_size(grouped: Plan) -> None:
    state = measured(grouped, 150, 9.0)
    text = page(grouped, state, colluders=1)
    assert figures.DO_NOT_READ in text
    assert "The plan asks for groups and none is shown" in text
    assert "<circle" not in quality_charts(grouped, state)["Calibration, test patients"]


def test_the_calibration_plot_of_weighted_blocks_counts_each_patient_once(grouped: Plan) -> None:
    groups = figures.calibration_of(grouped, cells_of(grouped, 3000))
    assert groups is not None
    assert sum(group.patients for group in groups) == pytest.approx(3000)
    assert [group.observed for group in groups] == pytest.approx(
        [np.mean(part) for part in np.array_split((np.arange(16) + 1) / 16, 10)]
    )


def test_charts_by_round_say_whose_figures_they_hold_and_leave_out_what_noise_drowned(plan: Plan) -> None:
    def done(number: int, purpose: str, **found: float) -> RoundDone:
        return RoundDone(number, purpose, ("a",), (), (), 0, 0, named({"auc": 0.7, **found}), (1.0,) * 8)

    rounds = (done(2, "train"), done(4, "train", noise_dominates=1.0), done(5, "evaluate"))
    both = quality_charts(plan, RunState(done=rounds))
    assert next(iter(both)) == "Pooled AUC on validation patients, and on test patients at the end"
    assert next(iter(both.values())).count("<circle") == 2
    assert next(iter(quality_charts(plan, RunState(done=rounds[:2])))) == "Pooled AUC on validation patients"
    assert next(iter(quality_charts(plan, RunState(done=rounds[1:2])))) == "Pooled AUC"


def test_a_model_no_better_than_chance_is_called_so_on_page_and_card(plan: Plan) -> None:
    poor = run_of(plan, {"auc": 0.56, "auc_low": 0.48, "auc_high": 0.64}, np.ones(8))
    said = "AUC 0.560. Not surely better than chance: the interval reaches it."
    assert said in page(plan, poor, colluders=1)
    assert said in model_card(plan, poor, colluders=1)
    assert "Not surely better than chance: the interval reaches it." in closing_facts(poor)
    good = run_of(plan, {"auc": 0.7, "auc_low": 0.6, "auc_high": 0.78}, np.ones(8))
    assert "Not surely" not in page(plan, good, colluders=1) + model_card(plan, good, colluders=1)


def test_a_scoring_of_numbers_has_no_calibration_and_its_own_axis(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = NumericScoring(0.0, 110.0, 32)
    monkeypatch.setattr("server.pooled.scored_by", lambda _: scoring)
    cells = np.concatenate([np.r_[np.zeros(12), np.full(8, 10.0), np.zeros(12)], np.full(32, 2.0), np.full(32, 2.0)])
    state = run_of(plan, scoring.figures(cells), cells)
    charts = quality_charts(plan, state)
    assert list(charts) == ["Pooled mean absolute error on test patients"]
    assert "mean absolute error of the last value" in quality_tables(plan, state)
    assert figures.cell_words(plan, 4).startswith(
        "Figures come from 96 summed cells in 3 blocks of weights 0.71, 0.50, 0.50; the noise"
    )


def test_what_the_figures_cost_is_what_the_accountant_says(plan: Plan) -> None:
    from privacy.accountant import epsilon
    from privacy.events import GaussianEvent, Spend
    from server.card import epsilon_text

    state = measured_plain(plan)
    most = plan.schedule.max_evaluate + min(plan.schedule.max_train, plan.schedule.max_round // plan.schedule.evaluate_every)
    spent = epsilon([Spend(GaussianEvent(plan.privacy.evaluate_noise), "held_out", most)], plan.privacy.delta)
    words = event_words(plan, state)
    assert f"1 of at most {most} sums over the held-out patients were opened" in words
    assert f"at most epsilon {epsilon_text(spent)} at delta 1.0e-05" in words
    bare = replace(
        plan.privacy, mode="none", train_noise=0.0, describe_noise=0.0, evaluate_noise=0.0, epsilon_exposed=-1.0, epsilon_model=-1.0
    )
    assert event_words(replace(plan, privacy=bare), state).endswith("were opened, without noise.")


def measured_plain(plan: Plan) -> RunState:
    return run_of(plan, {"auc": 0.8}, np.array([9.0, 6.0, 3.0, 1.0, 1.0, 2.0, 5.0, 8.0]))


def test_a_round_that_only_counts_patients_is_no_evaluation(run_folder: Make) -> None:
    state = read_state(run_folder().path)
    counted = RoundDone(7, "train", ("a",), (), (), 0, 0, named({"patients": 90.0, "patients_noise_se": 2.0}), ())
    later = replace(state, done=(*state.done, counted))
    assert figures.newest(later) == {"auc": 0.8, "brier": 0.19}
    assert figures.newest(RunState()) == {}


def test_runs_are_compared_by_their_own_figure(run_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    early, late = run_folder("early", last=2), run_folder("late")
    monkeypatch.setattr("server.figures.primary_of", lambda _: Primary("brier", lower_is_better=True))
    rows = compare([early.path, late.path])
    assert [(row["figure"], row["value"]) for row in rows] == [("brier", 0.19), ("brier", 0.23)]


def test_bars_lie_within_the_chart_and_say_their_values() -> None:
    bars = [Interval("all", 0.8, 0.7, 0.9, "0.800 (0.700 to 0.900)"), Interval("<men>", 0.6, 0.4, 0.8, "0.600")]
    drawn = interval_chart(bars, name="by group", x_name="AUC", x=axis([0.4, 0.9]))
    assert "&lt;men&gt;" in drawn
    assert "0.800 (0.700 to 0.900)" in drawn
    assert drawn.count("<circle") == 2


def test_calibration_groups_are_those_of_the_scoring(plan: Plan) -> None:
    groups = figures.calibration_of(plan, np.array([9.0, 6.0, 3.0, 1.0, 1.0, 2.0, 5.0, 8.0]))
    assert groups is not None
    assert groups[0] == CalibrationGroup(0.0, 0.25, 10.0, 0.125, 0.1)
