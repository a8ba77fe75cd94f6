"""A figure that chance reaches, or that a rule beats, is never left without a word."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring.chance import doubts


def test_an_interval_that_reaches_chance_is_said() -> None:
    assert "Not surely better than chance" in doubts({"auc": 0.6, "auc_low": 0.46}, "auc")
    assert doubts({"auc": 0.7, "auc_low": 0.61}, "auc") == ""
    assert "Not surely" in doubts({"auc_pira": 0.6, "auc_pira_low": 0.5}, "auc_pira")
    assert "Not surely" in doubts({"ad_wabc": 0.1, "ad_wabc_low": -0.01}, "ad_wabc")
    assert doubts({"ad_wabc": 0.1, "ad_wabc_low": 0.01}, "ad_wabc") == ""


def test_a_rule_that_is_as_good_is_named() -> None:
    assert (
        doubts({"mae": 4.2, "mae_last": 4.1, "mae_mean": 9.0}, "mae") == "No better than the error of saying that nothing changes."
    )
    assert doubts({"mae": 4.2, "mae_last": 4.3, "mae_mean": 4.2}, "mae").endswith("of saying the mean of these patients.")
    assert doubts({"mae": 4.0, "mae_last": 4.1, "mae_mean": 9.0}, "mae") == ""


@given(st.floats(0, 1), st.floats(0, 1))
def test_figures_without_an_interval_and_unknown_ones_are_left_alone(value: float, low: float) -> None:
    assert doubts({"auc": value}, "auc") == ""
    assert doubts({"odd_gain": value, "odd_gain_low": low}, "odd_gain") == ""
    assert doubts({}, "auc") == ""
