"""Against pymsprog 1.0.7, the published implementation of Montobbio: equal but for differences that each have a name.

With every `Quirk` on, the plain loops of `plain_labels.py` give what pymsprog gives, and `test_labels_plain.py` shows that
without any they give what the engine gives. README.md of the package says why each difference stays. pymsprog asks for
numpy below 2 and works with 2.4: `pip install --no-deps pymsprog==1.0.7`.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from plain_labels import QUIRKS, Change, Patient, Quirk, _Search, plain_changes, plain_milestone, random_patient, random_rule

from tasks.labels.rule import LabelRule, Outcome, Pira

OUTCOMES: tuple[Outcome, ...] = ("edss", "edss", "t25fw", "nhpt", "sdmt")
PATIENTS = 20  # by rule
BASELINES = {"roving_improvement": "roving_impr", "roving_worsening": "roving_wors"}
WINDOWS: dict[Pira, dict[str, object]] = {
    "mueller2023": {"prec": (0, 0), "event": (90, 30), "conf": (90, 30)},
    "mueller2023_strict": {"prec": (0, None), "event": (None, None), "conf": (None, 0)},
    "kappos2020": {"prec": (0, None), "event": (None, 30), "conf": (30, 30)},
    "cagol2022": {"prec": (0, 0), "event": (90, None), "conf": (None, 0)},
    "mueller2025": {"prec": (0, None), "event": (None, 0), "conf": (30, 0), "prec_type": "last"},
    "portaccio2025": {"prec": (0, 0), "event": (90, 30), "conf": (0, 0)},
}


@pytest.fixture(scope="module")
def pymsprog() -> ModuleType:
    try:
        import pymsprog
    except ImportError:
        pytest.skip("pymsprog is not installed: pip install --no-deps pymsprog==1.0.7")
    if pymsprog.__version__ != "1.0.7":
        pytest.skip(f"pymsprog is {pymsprog.__version__}; its differences are known for 1.0.7 only")
    return pymsprog


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas and pymsprog about each other
        yield


def shared_rule(seed: int) -> LabelRule:
    """A random rule of options that both have."""
    rule = random_rule(np.random.default_rng(seed), OUTCOMES[seed % len(OUTCOMES)])
    return replace(rule, shield="days", confirm_level="threshold")


def cohort(seed: int, outcome: Outcome) -> list[Patient]:
    random = np.random.default_rng([seed, 1])
    return [random_patient(random, outcome) for _ in range(PATIENTS)]


def tables(patients: Sequence[Patient]) -> tuple[Any, Any]:
    import pandas as pd

    visits = [(number, day, value) for number, patient in enumerate(patients) for day, value in patient.visits]
    relapses = [(number, onset) for number, patient in enumerate(patients) for onset, _ in patient.relapses]
    return pd.DataFrame(visits, columns=["id", "day", "value"]), pd.DataFrame(relapses, columns=["id", "day"])


def msprog(module: ModuleType, patients: Sequence[Patient], rule: LabelRule, event: str = "multiple") -> list[list[Change]]:
    visits, relapses = tables(patients)
    _, results = module.MSprog(
        visits,
        "id",
        "value",
        "day",
        rule.outcome,
        relapse=relapses,
        event=event,
        RAW_PIRA=True,
        baseline=BASELINES.get(rule.baseline, rule.baseline),
        proceed_from="firstconf" if rule.rebase_at == "confirmation" else "event",
        conf_days=rule.confirm_days,
        conf_tol_days=[rule.confirm_early_days, rule.confirm_late_days],
        check_intermediate=rule.sustained == "every_visit",
        relapse_to_bl=rule.shield_days,
        relapse_to_conf=rule.shield_days,
        relapse_to_event=rule.event_shield_days,
        relapse_assoc=rule.raw_days,
        relapse_indep=dict(WINDOWS[rule.pira]),
        relapse_rebl=rule.after_relapse != "keep",
        bl_geq=rule.after_relapse == "rebaseline_not_lower",
        delta_fun=_Search([], [], rule, ()).step,
        date_format="day",
        include_dates=True,
        include_value=True,
        verbose=0,
    )
    found: list[list[Change]] = [[] for _ in patients]
    for row in results.to_dict("records"):
        if row["event_type"] in ("CDI", "CDW"):
            found[row["id"]].append(_change(row, rule.confirm_days))
    return [sorted(changes) for changes in found]


def _change(row: dict[str, Any], confirm_days: int) -> Change:
    worse = {"RAW": "RAW", "PIRA": "PIRA"}.get(row["CDW_type"], "UND")
    kind = "IMPR" if row["event_type"] == "CDI" else worse
    confirm = int(row[f"conf{confirm_days}_date"])
    class_day = int(row[f"PIRA_conf{confirm_days}_date"]) if kind == "PIRA" else confirm
    return Change(int(row["date"]), kind, confirm, class_day, int(row["bl_date"]), float(row["bl_value"]), float(row["value"]))


def unnamed(module: ModuleType, seeds: range, count: Callable[[Patient, LabelRule, list[Change]], None]) -> int:
    """Patients for whom the plain loops with every quirk and pymsprog disagree."""
    disagree = 0
    for seed in seeds:
        rule = shared_rule(seed)
        patients = cohort(seed, rule.outcome)
        for patient, theirs in zip(patients, msprog(module, patients, rule), strict=True):
            disagree += plain_changes(patient, rule, QUIRKS) != theirs
            count(patient, rule, theirs)
    return disagree


def test_pymsprog_differs_in_nothing_that_has_no_name(pymsprog: ModuleType) -> None:
    assert unnamed(pymsprog, range(15), lambda *_: None) == 0


def test_by_the_defaults_pymsprog_gives_the_same(pymsprog: ModuleType) -> None:
    for seed in range(10):
        patients = cohort(seed, "edss")
        assert msprog(pymsprog, patients, LabelRule()) == [plain_changes(patient, LabelRule()) for patient in patients]


def test_with_a_fixed_reference_the_first_worsening_is_the_same(pymsprog: ModuleType) -> None:
    for seed in range(10):
        rule = replace(shared_rule(seed), outcome="edss", baseline="fixed", after_relapse="keep", sustained="every_visit")
        patients = cohort(seed, "edss")
        worse = [[change for change in plain_changes(patient, rule) if change.kind != "IMPR"] for patient in patients]
        assert msprog(pymsprog, patients, rule, "firstCDW") == [changes[:1] for changes in worse]


@pytest.mark.parametrize("level", [3.0, 4.0, 6.0])
def test_milestones_differ_in_nothing_that_has_no_name(pymsprog: ModuleType, level: float) -> None:
    for seed in range(4):
        rule = replace(shared_rule(seed), outcome="edss", sustained="every_visit")
        patients = cohort(seed, "edss")
        theirs = milestones_of(pymsprog, patients, level, rule)
        for patient, their in zip(patients, theirs, strict=True):
            ours = plain_milestone(patient, level, rule, QUIRKS)
            assert (None if ours is None else ours[0]) == their


def milestones_of(module: ModuleType, patients: Sequence[Patient], level: float, rule: LabelRule) -> list[int | None]:
    visits, relapses = tables(patients)
    results = module.value_milestone(
        visits,
        level,
        "id",
        "value",
        "day",
        "edss",
        relapse=relapses,
        conf_days=rule.confirm_days,
        conf_tol_days=[rule.confirm_early_days, rule.confirm_late_days],
        relapse_to_event=rule.event_shield_days,
        relapse_to_conf=rule.shield_days,
        date_format="day",
        verbose=0,
    )
    reached = [(results.at[number, "observed"], results.at[number, "day"]) for number in range(len(patients))]
    return [int(day) if observed else None for observed, day in reached]


FAR = (5000, None)  # pymsprog passes no relapse at all if it is given none
FIXED, NOT_LOWER = LabelRule(baseline="fixed"), LabelRule(after_relapse="rebaseline_not_lower")
SDMT = LabelRule(outcome="sdmt", baseline="fixed", after_relapse="rebaseline_not_lower")
DAYS = (0, 200, 400, 600, 800)


@pytest.mark.parametrize(
    ("quirk", "rule", "values", "relapses", "ours", "theirs"),
    [
        pytest.param("counts_again", FIXED, (2, 3, 3, 3, 3), [FAR], ["PIRA 200"], ["PIRA 200", "PIRA 600"]),
        pytest.param("exact_fractions", LabelRule(outcome="nhpt"), (11, 13.2, 13.2), [FAR], ["PIRA 200"], []),
        pytest.param("floor_on_every_move", NOT_LOWER, (4, 3, 3, 3, 3), [FAR], ["IMPR 200"], ["IMPR 200", "IMPR 600"]),
        pytest.param("floor_by_number", SDMT, (50, 47, 45, 45, 45), [(150, None)], [], ["PIRA 400"]),
        pytest.param("forgets_early_relapses", LabelRule(raw_days=300), (2, 3, 3), [(-60, None)], ["RAW 200"], ["PIRA 200"]),
        pytest.param(
            "stops_without_change", LabelRule(after_relapse="rebaseline"), (2, 1.5, 2.5, 2.5), [(100, None)], ["PIRA 400"], []
        ),
    ],
)
def test_the_smallest_example_of_each_difference(
    pymsprog: ModuleType,
    quirk: Quirk,
    rule: LabelRule,
    values: tuple[float, ...],
    relapses: list[tuple[int, None]],
    ours: list[str],
    theirs: list[str],
) -> None:
    patient = Patient([(day, float(value)) for day, value in zip(DAYS, values, strict=False)], list(relapses))

    def named(changes: list[Change]) -> list[str]:
        return [f"{change.kind} {change.event_day}" for change in changes]

    assert named(plain_changes(patient, rule)) == ours
    assert named(msprog(pymsprog, [patient], rule)[0]) == theirs
    assert [named(plain_changes(patient, rule, [one])) == theirs for one in QUIRKS].count(True) == 1
    assert named(plain_changes(patient, rule, [quirk])) == theirs


def test_the_smallest_example_of_waiting_for_a_fall(pymsprog: ModuleType) -> None:
    gap = Patient([(0, 3.0), (1000, 3.0), (1200, 3.0)])
    assert plain_milestone(gap, 3.0, LabelRule()) == (1000, 1200)
    assert milestones_of(pymsprog, [gap], 3.0, LabelRule()) == [None]


COUNTED = Counter(
    events=5387,
    any=649,
    counts_again=488,
    floor_on_every_move=158,
    floor_by_number=121,
    exact_fractions=13,
    stops_without_change=3,
    forgets_early_relapses=0,
    waits_for_a_fall=0,  # of milestones
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_differences_are_those_counted_in_the_readme(pymsprog: ModuleType) -> None:
    differ: Counter[str] = Counter()

    def count(patient: Patient, rule: LabelRule, theirs: list[Change]) -> None:
        differ["events"] += len(theirs)
        differ["any"] += plain_changes(patient, rule) != theirs
        for quirk in QUIRKS:
            differ[quirk] += plain_changes(patient, rule, [other for other in QUIRKS if other != quirk]) != theirs

    assert unnamed(pymsprog, range(300), count) == 0
    assert differ == COUNTED
