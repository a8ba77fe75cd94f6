"""`cdp_time`: labels say no more than visits do, nobody is imputed, and the future of a patient moves labels alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from hazard_tables import Tables, checked_configuration, cohort_checks, moves_labels_alone, tables_of
from plain_labels import Patient, plain_changes

from tasks.cdp_time.outcome import outcome_of
from tasks.cdp_time.task import CONTRACT, RULE, TASK
from tasks.episodes.index import index_visits
from tasks.episodes.past import Episodes
from tasks.episodes.routine import CORE
from tasks.errors import DataError
from tasks.features import Design
from tasks.hazards.outcomes import UNWATCHED
from tasks.scoring.base import Scored, shares
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, simulate_site
from tasks.splits import held_out_mask

BASELINE = ("female", "age_years", "duration_years", "phenotype", "edss_last", "relapses_1y")


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 250, Schedule.RECLAIM, interval_mo=6.0), 5)
    return dict(site.tables)


def label_of(edss: dict[int, float | None], relapses: tuple[int, ...] = ()) -> tuple[int, ...] | str:
    """Label of an episode on day 0, or why there is none."""
    found = outcome_of(tables_of(edss, relapses), Episodes(("a",), np.array([0])))
    reasons = [reason for reason, count in found.left_out.items() if count]
    assert len(reasons) == int(~found.known[0])
    return reasons[0] if reasons else tuple(int(number) for number in found.labels[0])


# Quarters end on days 91, 183, 274, 365 .. 1826.
@pytest.mark.parametrize(
    ("edss", "relapses", "expected"),
    [
        ({0: 2, 182: 3, 364: 3}, (), (0, 2, 1)),  # not there on day 0, there on 182: in the first or the second quarter
        ({0: 2, 182: 2, 364: 3, 546: 3}, (), (2, 4, 1)),
        ({0: 2, 90: 2, 182: 3, 364: 3}, (), (1, 2, 1)),
        ({0: 2, 900: 3, 1100: 3}, (), (0, 10, 1)),  # nobody looked for 900 days
        ({0: 2, 182: None, 364: 3, 546: 3}, (), (0, 4, 1)),  # a visit without a score is none
        ({0: 2, 182: 2, 364: 2, 546: 2}, (), (4, 4, 0)),  # watched up to day 364: what began on 546 could not be confirmed
        ({0: 2, 182: 2, 364: 3}, (), (2, 2, 0)),  # worse at the last visit: neither an event, nor free of one
        ({0: 2, 182: 3, 364: 2, 546: 2}, (), (4, 4, 0)),  # not confirmed, and so none
        ({0: 2, 182: 3, 342: 3}, (), UNWATCHED),  # 160 days are no confirmation, and then nobody looked
        ({0: 2, 182: 3, 343: 3}, (), (0, 2, 1)),  # 161 are, within the tolerance of a week
        ({0: 2, 182: 2}, (), UNWATCHED),
        ({0: 2, 182: 2, 1200: 2}, (), UNWATCHED),  # a gap over which nothing is confirmed: 730 days and 24 weeks
        ({0: 2, 30: 2, 300: 2}, (), UNWATCHED),  # watched for a month
        ({0: 2, 182: 3, 364: 3, 546: 3}, (350,), (0, 2, 1)),  # 364 is too close to a relapse, 546 confirms
        ({0: 2, 182: 3, 364: 3}, (350,), UNWATCHED),
        ({0: 2, 182: 2, 364: 2}, (350,), UNWATCHED),  # nor would 364 have confirmed anything
        ({0: 2, 1700: 2, 1820: 3, 2000: 3}, (), (19, 20, 1)),  # in the last quarter of the five years
        ({0: 2, 1700: 2, 1830: 3, 2000: 3}, (), (19, 19, 0)),  # seen after them: free of it on day 1700
        ({0: 2, 1700: 2, 2000: 2, 2200: 2, 2400: 2}, (), (20, 20, 0)),
        ({-400: 1, -200: 2, 0: 2, 182: 2, 364: 2}, (), (2, 2, 0)),  # worse before the day, and not since
        ({-60: 2, 182: 3, 364: 3}, (), (0, 2, 1)),  # the reference is the last score, here of 60 days before
    ],
)
def test_a_label_says_between_which_visits(
    edss: dict[int, float | None], relapses: tuple[int, ...], expected: tuple[int, ...] | str
) -> None:
    assert label_of(edss, relapses) == expected


def test_labels_are_those_of_plain_loops_over_one_patient_at_a_time(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    visits, relapses = registry["visits"], registry["relapses"]
    found, checked = outcome_of(registry, episodes).labels, 0
    for at, (name, t0) in enumerate(zip(episodes.patients, episodes.days.tolist(), strict=True)):
        rows = visits[(visits["patient_id"] == name) & visits["edss"].notna()].sort_values("day")
        if rows["day"].duplicated().any():
            continue
        scores = list(zip(rows["day"].astype(int), rows["edss"], strict=True))
        last = max(day for day, _ in scores if day <= t0)
        scores = [score for score in scores if score[0] >= last]
        onsets = [int(day) for day in relapses.loc[relapses["patient_id"] == name, "onset_day"]]
        changes = plain_changes(Patient(scores, [(day, None) for day in onsets]), RULE)
        began = [change.event_day for change in changes if change.kind != "IMPR"]
        assert np.array_equal(found[at], plain_label([day for day, _ in scores], onsets, t0, began), equal_nan=True)
        checked += 1
    assert checked > 350
    assert 0.1 < np.nanmean(found[:, 2] > 0) < 0.6


def plain_label(days: list[int], onsets: list[int], t0: int, began: list[int]) -> list[float]:
    """The same from days of visits and of worsening."""

    def usable(day: int) -> bool:
        return not any(0 <= day - onset < 30 for onset in onsets)

    event = min(began, default=None)
    watched = [day for day in days if any(161 <= later - day <= 898 and usable(later) for later in days)]
    clean = max((day - t0 for day in watched if event is None or day < event), default=0)
    free = min(max(round(clean / 91.3125), 0), 20)
    if event is None or event - t0 > 1826:
        return [free, free, 0] if free else [np.nan] * 3
    seen = round((event - t0) / 91.3125)
    if seen <= free:
        seen = int(np.ceil((event - t0) / 91.3125))
        free = seen - 1
    return [free, seen, 1]


def test_each_episode_is_judged_as_if_it_were_alone(registry: Tables) -> None:
    episodes = index_visits(registry, TASK.records)
    found = outcome_of(registry, episodes)
    for at in range(0, len(episodes), 37):
        mine = {name: rows[rows["patient_id"] == episodes.patients[at]] for name, rows in registry.items()}
        alone = outcome_of(mine, Episodes((episodes.patients[at],), episodes.days[[at]]))
        assert np.array_equal(alone.labels, found.labels[[at]], equal_nan=True)


def test_what_comes_after_the_last_confirmation_moves_no_label(registry: Tables) -> None:
    """An event stays what it is whatever is written down later."""
    episodes = index_visits(registry, 1)
    before = outcome_of(registry, episodes)
    visits = registry["visits"]
    last = visits.groupby("patient_id")["day"].max()
    extra = pd.DataFrame({"patient_id": last.index, "day": last.to_numpy() + 200, "edss": 9.0})
    longer = {**registry, "visits": pd.concat([visits, extra], ignore_index=True)}
    after = outcome_of(longer, episodes)
    event = before.labels[:, 2] == 1
    assert event.sum() > 20
    assert np.array_equal(before.labels[event], after.labels[event])
    free = before.labels[:, 2] == 0
    assert np.all(after.labels[free, 0] >= before.labels[free, 0])  # who was free of it then still was


def test_another_future_moves_labels_and_nothing_else(registry: Tables) -> None:
    moves_labels_alone(TASK, registry)


def test_it_is_a_task_with_a_cohort_like_any_other(registry: Tables) -> None:
    cohort = cohort_checks(TASK, registry)
    assert RULE.rule_id in cohort.report.to_text()
    assert UNWATCHED in cohort.report.to_text()
    assert (CONTRACT.version, RULE.rule_id) == ("1", "v1-edss-A-168d-roving-mueller2023-37bb514b")
    assert RULE.rule_id in CONTRACT.label.meaning


def test_the_configurations_name_columns_of_the_contract() -> None:
    assert len(checked_configuration(TASK, "cdp_time")) == 39
    assert checked_configuration(TASK, "cdp_time_baseline") == BASELINE


def test_a_site_without_anybody_watched_says_so() -> None:
    with pytest.raises(DataError, match="no patient has an episode"):
        TASK.cohort_of(tables_of({-100: 2.0, 0: 2.0, 100: 2.0}))


# What can be learnt


def fitted_c(inputs: np.ndarray, labels: np.ndarray, ids: tuple[str, ...]) -> float:
    """Uno's C of held-out patients, of a linear model without noise on the others; `inputs` as a model takes them."""
    out = held_out_mask(ids, b"a salt of the consortium", 0.4)
    x, y = torch.from_numpy(inputs.astype(np.float64)), torch.from_numpy(labels.astype(np.float64))
    weights = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    baseline = torch.full((TASK.grid.bins,), -3.9, dtype=torch.float64, requires_grad=True)
    train = torch.from_numpy(~out)
    optimiser = torch.optim.LBFGS([weights, baseline], max_iter=200)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        loss = 10 * TASK.loss((x[train] @ weights)[:, None] + baseline, y[train]).mean() + 1e-3 * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(step)
    outputs = ((x @ weights)[:, None] + baseline).detach().numpy()
    scoring = TASK.scoring(200)
    places = scoring.places(Scored(outputs[out], labels[out], np.zeros((int(out.sum()), len(CONTRACT.columns)))))
    _, owner, counts = np.unique(np.array(ids)[out], return_inverse=True, return_counts=True)
    cells = np.zeros(scoring.cells)
    np.add.at(cells, places, shares(scoring, places, counts[owner], 20) / 2**20)
    return scoring.figures(cells)["uno_c"]


@pytest.mark.slow
def test_four_thousand_patients_teach_more_than_the_baseline_and_less_than_the_truth() -> None:
    sites = tuple(SiteSpec(f"s{at}", 1000, Schedule.RECLAIM, interval_mo=6.0) for at in range(4))
    consortium = simulate(Preset("pooled", sites), 1)
    values, labels, truth, ids = [], [], [], []
    for site in consortium.sites:
        cohort, found = TASK.cohort_of(site.tables), index_visits(site.tables, TASK.records)
        episodes = found.only(outcome_of(site.tables, found).known)
        assert episodes.patients == cohort.patient_ids
        states = consortium.truth[site.site_id].tables["truth_states"].drop_duplicates(["patient_id", "day"])
        of_day = pd.DataFrame({"patient_id": episodes.patients, "day": episodes.days}).merge(states, how="left")
        truth.append(of_day[["disability", "transient", "worsening_hazard"]].to_numpy(float))
        values.append(cohort.values)
        labels.append(cohort.labels)
        ids += [f"{site.site_id}-{name}" for name in cohort.patient_ids]
    x, y, names, known = np.concatenate(values), np.concatenate(labels), tuple(ids), np.concatenate(truth)
    found_c = {}
    for which, columns in (("core", tuple(column.name for column in CORE)), ("baseline", BASELINE)):
        design = Design(CONTRACT, columns)
        buffers = design.statistics_to_buffers(design.describe_vectors(x).sum(axis=0))
        found_c[which] = fitted_c(design.encode(x, *buffers), y, names)
    # Who knows the true disability knows by how much today's score is too low, and who knows the hazard knows the rest.
    last = x[:, CONTRACT.column_names.index("edss_last")]
    oracle = np.column_stack([known[:, 0], known[:, 0] + known[:, 1] - last, known[:, 1], np.log(known[:, 2])])
    ceiling = fitted_c((oracle - oracle.mean(axis=0)) / oracle.std(axis=0), y, names)
    assert found_c["core"] > 0.62
    assert found_c["core"] > found_c["baseline"] + 0.02
    assert found_c["core"] < ceiling < 0.85
