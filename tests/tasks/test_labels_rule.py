"""A rule is checked when it is made, and its id names it."""

from dataclasses import fields, replace

import numpy as np
import pytest

from tasks.labels import rule as module
from tasks.labels.errors import LabelError
from tasks.labels.rule import KAPPOS2020_RULE, SPMS_RULE, LabelRule, Window, edss_step

OTHER: dict[str, object] = {
    "outcome": "sdmt",
    "edss_rule": "B",
    "timed_change": 0.15,
    "sdmt_rule": "points_or_share",
    "sustained": "confirmation_visit",
    "confirm_level": "event_score",
    "shield": "end_day",
    "baseline": "fixed",
    "rebase_at": "event",
    "after_relapse": "rebaseline",
    "pira": "cagol2022",
    "leading_fs": "not_required",
}


def test_the_ids_of_this_engine_never_change() -> None:
    assert LabelRule().rule_id == "v1-edss-A-168d-roving-mueller2023-37bb514b"
    assert KAPPOS2020_RULE.rule_id == "v1-edss-A-168d-fixed-kappos2020-599f6cb5"
    assert SPMS_RULE.rule_id == "v1-edss-SPMS-84d-roving-mueller2023-e24f27bc"


def test_equal_rules_have_one_id() -> None:
    assert LabelRule(confirm_days=168).rule_id == replace(LabelRule(confirm_days=84), confirm_days=168).rule_id


@pytest.mark.parametrize("name", [option.name for option in fields(LabelRule)])
def test_every_field_is_in_the_id(name: str) -> None:
    changed = OTHER.get(name, getattr(LabelRule(), name))
    if name not in OTHER:
        changed = int(changed) + 1  # type: ignore[call-overload]  # a length in days
    assert replace(LabelRule(), **{name: changed}).rule_id != LabelRule().rule_id


def test_the_engine_and_the_windows_are_in_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = LabelRule().rule_id
    monkeypatch.setattr(module, "ENGINE", "2")
    assert LabelRule().rule_id != before
    monkeypatch.undo()
    monkeypatch.setitem(module.PIRA_WINDOWS, "mueller2023", (Window("event", -91, "event", 30),))
    assert LabelRule().rule_id != before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outcome": "mobility"}, "edss, t25fw"),
        ({"edss_rule": "D"}, "A, B, C, SPMS"),
        ({"pira": "own"}, "mueller2023"),
        ({"sustained": True}, "every_visit"),
        ({"confirm_days": 0}, "confirm itself"),
        ({"confirm_days": 7}, "confirm itself"),
        ({"confirm_days": -1}, "whole number"),
        ({"confirm_days": 168.0}, "whole number"),
        ({"confirm_days": True}, "whole number"),
        ({"shield_days": 50_001}, "50000"),
        ({"timed_change": 0.0}, "share"),
        ({"timed_change": float("nan")}, "share"),
        ({"outcome": "t25fw", "edss_rule": "SPMS"}, "SPMS"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(LabelError, match=words):
        LabelRule(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("A", [1.5, 1.0, 1.0, 0.5, 0.5]),
        ("B", [1.5, 1.0, 1.0, 1.0, 0.5]),
        ("C", [1.0, 1.0, 1.0, 1.0, 0.5]),
        ("SPMS", [1.5, 1.0, 1.0, 1.0, 0.5]),
    ],
)
def test_the_step_depends_on_the_reference(rule: module.EdssRule, steps: list[float]) -> None:
    assert edss_step(np.array([0.0, 1.0, 5.0, 5.5, 6.0]), rule).tolist() == steps
