"""Models over visits read each visit where the columns say it is, and a visit that was not changes nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

from client.engines import Shape, choose_engine
from tasks.cdp_2y.task import TASK
from tasks.episodes.extras import STEPS, VISITS, expanded
from tasks.episodes.index import index_visits
from tasks.episodes.inputs import episode_values
from tasks.episodes.past import past_of
from tasks.episodes.routine import TABLES
from tasks.errors import ContractError
from tasks.features import Design
from tasks.models import initial_parameters, load_parameters, n_parameters, trunk
from tasks.sequences import visit_layout
from tasks.simulator import Schedule, SiteSpec, simulate_site

Tables = dict[str, pd.DataFrame]
NAMES = tuple(column.name for column in VISITS)
DESIGN = Design(TASK.contract, expanded(("core", "visits")))
OVER_VISITS = [("gru", {}), ("transformer", {"width": 32, "blocks": 2, "heads": 4})]


@pytest.fixture(scope="module")
def registry() -> Tables:
    site, _ = simulate_site(SiteSpec("registry", 60, Schedule.RECLAIM, interval_mo=4.0), 8)
    return dict(site.tables)


def trained_looking(name: str, options: dict[str, str | int | float]) -> torch.nn.Module:
    """With an output layer that is not 0, so that an input shows in the logit."""
    model = TASK.build_model(name, options, DESIGN.names)
    vector = initial_parameters(model, 3)
    load_parameters(model, vector + np.random.default_rng(1).normal(0, 0.1, len(vector)).astype(np.float32))
    return model


# The columns


def plain_visits(tables: Tables, patient: str, t0: int) -> dict[str, float]:
    """The same steps by loops over one patient's rows, up to t0."""
    mine = {name: tables[name][tables[name]["patient_id"] == patient] for name in ("visits", "relapses", "treatments", "mri")}
    days = sorted({int(day) for day in mine["visits"]["day"] if t0 - 1096 < day <= t0}, reverse=True)
    relapses = [
        int(row.onset_day) for row in mine["relapses"].itertuples()
        if row.onset_day + (0 if pd.isna(row.onset_precision_d) else row.onset_precision_d) <= t0
    ]  # fmt: skip
    scans = mine["mri"][(mine["mri"]["region"] != "cord") & (mine["mri"]["qc"] != "fail")]
    found: dict[str, float] = {}
    for step in range(STEPS):
        if step >= len(days):
            found |= {f"v{step + 1}_{name.split('_', 1)[1]}": np.nan for name in NAMES[: len(NAMES) // STEPS]}
            continue
        day, begin = days[step], days[step + 1] if step + 1 < len(days) else days[step] - 365
        rows = mine["visits"][mine["visits"]["day"] == day]

        def one(column: str, rows: pd.DataFrame = rows) -> float:
            values = set(rows[column].dropna())
            return float(values.pop()) if len(values) == 1 else np.nan

        on = [
            str(row.dmt_class) for row in mine["treatments"].itertuples()
            if row.drug not in ("none", "washout") and row.start_day <= day and (pd.isna(row.end_day) or row.end_day > day)
        ]  # fmt: skip
        between = scans[(scans["day"] > begin) & (scans["day"] <= day)]

        def counted(column: str, rows: pd.DataFrame = between) -> float:
            return float(rows[column].sum()) if rows[column].notna().any() else np.nan

        found |= {
            f"v{step + 1}_days": t0 - day,
            f"v{step + 1}_edss": one("edss"),
            f"v{step + 1}_relapse": float(any(begin < onset <= day for onset in relapses)),
            f"v{step + 1}_dmt": float(bool(on)),
            f"v{step + 1}_high": float(bool({"high", "induction"} & set(on))),
            f"v{step + 1}_t25fw_s": min(one("t25fw_s"), 60.0),
            f"v{step + 1}_sdmt_n": one("sdmt_n"),
            f"v{step + 1}_new_t2": min(counted("new_t2"), 20.0),
            f"v{step + 1}_gd": min(counted("gd_count"), 10.0),
        }
    return found


def test_steps_are_those_of_plain_loops_over_one_patient_at_a_time(registry: Tables) -> None:
    episodes = index_visits(registry, 4)
    values = episode_values(past_of(registry, episodes, TABLES), VISITS)
    full = 0
    for at in range(0, len(episodes), 3):
        plain = plain_visits(registry, episodes.patients[at], int(episodes.days[at]))
        expected = np.array([np.nan if pd.isna(plain[name]) else plain[name] for name in NAMES], dtype=np.float64)
        np.testing.assert_array_equal(values[at], expected)
        full += int(not np.isnan(plain[f"v{STEPS}_days"]))
    assert full > 5
    assert len(episodes) > 60


def test_steps_cost_the_describe_round_nothing_and_stay_in_bounds(registry: Tables) -> None:
    core = Design(TASK.contract, expanded(("core",)))
    assert DESIGN.buffer_specs == core.buffer_specs
    steps = Design(TASK.contract, NAMES)
    assert steps.n_statistics == 0
    episodes = index_visits(registry, 4)
    everything = np.full((len(episodes), len(TASK.contract.columns)), np.nan)
    everything[:, list(steps.positions)] = episode_values(past_of(registry, episodes, TABLES), VISITS)
    inputs = steps.encode(everything, *steps.neutral_buffers())
    assert np.abs(inputs).max() <= 20.0
    there = inputs[:, [steps.input_names.index(f"v1_{name}") for name in ("edss", "sdmt_n")]]
    assert 0.3 < np.std(there) < 3.0  # the public spread is of the right size


# Where they are among the inputs


def test_visits_are_cut_out_by_name_the_last_one_first() -> None:
    layout = visit_layout(["age", "v1_days", "v1_days missing", "v1_edss", "old", "v2_days", "v2_days missing", "v2_edss"])
    assert (layout.static, layout.channels, layout.absent) == ((0, 4), ("days", "days missing", "edss"), 1)
    assert layout.steps == ((1, 2, 3), (5, 6, 7))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["age"], "needs columns of visits"),
        (["v2_days", "v2_days missing"], "from v1 on"),
        (["v1_days", "v1_days missing", "v3_days", "v3_days missing"], "without a gap"),
        (["v1_days", "v1_days missing", "v2_edss"], "same columns of each visit"),
        (["v1_edss", "v2_edss"], "which visits there are"),
    ],
)
def test_columns_that_are_no_sequence_are_refused(names: list[str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        visit_layout(names)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [("gru", {"width": 0}, "1 to 128"), ("transformer", {"blocks": 9}, "1 to 4"), ("transformer", {"heads": 3}, "multiple"),
     ("gru", {"width": 16.0}, "whole number"), ("gru", {"heads": 2}, "no option 'heads'")],
)  # fmt: skip
def test_options_out_of_range_are_refused(name: str, options: dict[str, str | int | float], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        trunk(name, DESIGN, options)


# The models


@pytest.mark.parametrize(("name", "options"), OVER_VISITS)
def test_one_record_alone_has_the_logit_it_has_in_a_batch(name: str, options: dict[str, str | int | float]) -> None:
    model, inputs = trained_looking(name, options), torch.randn(5, DESIGN.n_inputs, generator=torch.Generator().manual_seed(2))
    together = model(inputs)
    assert together.shape == (5,)
    torch.testing.assert_close(torch.stack([model(row) for row in inputs]), together)


@pytest.mark.parametrize(("name", "options"), OVER_VISITS)
def test_a_visit_that_was_not_has_no_say_and_one_that_was_has(name: str, options: dict[str, str | int | float]) -> None:
    model, names = trained_looking(name, options), list(DESIGN.input_names)
    inputs = torch.zeros(1, len(names))
    missing = [
        place for place, each in enumerate(names) if each.startswith("v") and each.endswith(" missing") and each[1].isdigit()
    ]
    inputs[0, missing] = 1.0
    nobody = model(inputs)
    strange = inputs.clone()
    strange[0, names.index("v3_edss")] = 3.0  # of a visit that the mask says was not
    torch.testing.assert_close(model(strange), nobody)
    there = inputs.clone()
    there[0, names.index("v1_days missing")] = 0.0
    other = there.clone()
    other[0, names.index("v1_edss")] = 3.0
    assert not torch.allclose(model(other), model(there), atol=1e-4)


def test_the_recurrent_model_reads_the_last_visit_last() -> None:
    """Its state after one visit more is one step from the state without it; the step is that of the last visit."""
    model, names = trained_looking("gru", {}), list(DESIGN.input_names)
    inputs = torch.zeros(1, len(names))
    gone = [place for place, each in enumerate(names) if each.endswith("days missing")]
    inputs[0, gone] = 1.0
    inputs[0, names.index("v1_days missing")] = inputs[0, names.index("v2_days missing")] = 0.0
    inputs[0, names.index("v1_edss")], inputs[0, names.index("v2_edss")] = 1.5, -1.0
    cut = model.hidden.cut
    _, visits, present = cut(inputs)
    assert present.tolist() == [[0.0] * (STEPS - 2) + [1.0, 1.0]]
    edss = cut.layout.channels.index("edss")
    assert visits[0, -2:, edss].tolist() == [-1.0, 1.5]
    alone = model.hidden.gru(visits[:, -2:])  # without the padding
    torch.testing.assert_close(model.hidden(inputs)[:, -16:], alone[:, -1])


@pytest.mark.parametrize(("name", "options"), OVER_VISITS)
def test_a_fast_engine_serves_it_within_the_budget_of_parameters(name: str, options: dict[str, str | int | float]) -> None:
    model = TASK.build_model(name, options, DESIGN.names)
    assert n_parameters(model) < 50_000
    assert choose_engine(model, TASK.loss, Shape(TASK.records, (DESIGN.n_inputs,)), name="bookkeeping").name == "bookkeeping"


def test_order_matters_to_a_model_over_visits() -> None:
    """Who got worse and who got better have the same mean; here the recurrent model learns which is which, from a few steps."""
    stream = np.random.default_rng(4)
    names = list(DESIGN.input_names)
    inputs, labels = torch.zeros(400, len(names)), torch.from_numpy(stream.integers(0, 2, 400)).float()
    for step in range(1, STEPS + 1):
        rising = torch.tensor((STEPS / 2 - step) / 4)
        inputs[:, names.index(f"v{step}_edss")] = torch.where(labels > 0, rising, -rising) + torch.randn(400) * 0.1
    model = TASK.build_model("gru", {}, DESIGN.names)
    load_parameters(model, initial_parameters(model, 1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        TASK.loss(model(inputs), labels).mean().backward()
        optimiser.step()
    with torch.no_grad():
        assert ((model(inputs) > 0) == (labels > 0)).float().mean() > 0.97
