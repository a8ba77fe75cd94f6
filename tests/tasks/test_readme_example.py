"""The example of `tasks/README.md` is a task: installed from the page as it stands, trained over four sites, better than chance."""

import os
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from client.job import Job
from client.trainer import Trainer
from consortium.plan import Plan
from consortium.roster import Founder, Member, Roster
from server import pooled, strategy
from server.config import LeadConfig, load_config
from server.planning import make_plan, task_parts
from tasks.base import Task
from tasks.cohorts import ReadsTables
from tasks.features import Design
from tasks.registry import get_task
from tasks.simulator import Preset, Schedule, SiteSpec, simulate

README = Path(__file__).resolve().parents[2] / "tasks" / "README.md"
SITES = ("north", "south", "east", "west")
SALT, HELD_OUT = b"a salt of the consortium", 0.4
MOST_LINES = 80


def blocks() -> dict[str, str]:
    """The section's blocks of code, by language."""
    section = README.read_text(encoding="utf-8").partition("## Adding a task")[2].partition("\n## ")[0]
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert [language for language, _ in found] == ["python", "toml", "yaml"]
    return dict(found)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LeadConfig:
    """The lead's configuration, where a package with the example is installed."""
    parts, package = blocks(), tmp_path / "package"
    info = package / "walking_aid-1.0.dist-info"
    info.mkdir(parents=True)
    offers = tomllib.loads(parts["toml"])["project"]["entry-points"]["wardround.tasks"]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: walking-aid\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wardround.tasks]\n" + "".join(f"{name} = {value}\n" for name, value in offers.items()))
    ((module, _),) = [value.split(":") for value in offers.values()]
    (package / f"{module}.py").write_text(parts["python"])
    monkeypatch.syspath_prepend(str(package))
    (tmp_path / "conf" / "task").mkdir(parents=True)
    ((name,),) = [list(offers)]
    (tmp_path / "conf" / "task" / f"{name}.yaml").write_text(parts["yaml"])
    words = [f"task={name}", "privacy=none", "federation=roster", "federation.default_patients=300", "schedule.rounds=30"]
    return load_config(words, config_dir=tmp_path / "conf")


def plan_of(config: LeadConfig) -> Plan:
    members = [Member(site, "site", bytes([20 + at]) * 32, f"key {site}") for at, site in enumerate(SITES)]
    members.append(Member("lead-a", "lead", b"\x01" * 32, ""))
    ordered = tuple(sorted(members, key=lambda member: member.id))
    roster = Roster("test", 1, 1, 3, (Founder("f", b"\x02" * 32),), 1, b"\x03" * 16, HELD_OUT, ordered)
    nodes = {site: at for at, site in enumerate(SITES)}
    return make_plan(config, roster, nodes, lead="lead-a", now=datetime(2026, 1, 1, tzinfo=UTC))


def test_the_example_is_short() -> None:
    lines = blocks()["python"].splitlines()
    assert len(lines) < MOST_LINES
    assert max(map(len, lines)) <= 132


def test_it_is_found_and_planned_like_a_task_of_ours(config: LeadConfig) -> None:
    task = get_task("edss6_3y")
    assert isinstance(task, Task)
    assert isinstance(task, ReadsTables)
    parts = task_parts(config.task)
    assert (parts.task.name, parts.task.columns) == ("edss6_3y", config.task.columns)
    assert parts.statistics == Design(task.contract, config.task.columns).n_statistics


def test_its_labels_are_those_of_the_engine_on_single_patients(config: LeadConfig) -> None:
    task = get_task("edss6_3y")
    known = {"sex": "F", "birth_year": 1975, "year_band": "2015-2017", "onset_day": -700, "phenotype_entry": "RRMS"}

    def labels(*scores: tuple[int, float]) -> list[int]:
        visits = pd.DataFrame([{"patient_id": "a", "day": day, "visit_id": str(day), "edss": edss} for day, edss in scores])
        return task.cohort_of({"patients": pd.DataFrame([{"patient_id": "a", **known}]), "visits": visits}).labels.tolist()

    assert labels((-100, 4.0), (0, 4.0), (300, 6.0), (500, 6.0)) == [1]
    assert labels((-100, 4.0), (0, 4.0), (300, 5.5), (1264, 5.5)) == [0]
    assert labels((-100, 4.0), (0, 4.0), (1096, 6.0), (1264, 6.0)) == [1]
    assert labels((-100, 4.0), (0, 4.0), (1097, 6.0), (1265, 6.0)) == [0]


def test_four_sites_train_it_to_better_than_chance(config: LeadConfig) -> None:
    """With the sites' own trainer, the plan's own strategy and pooled figures: what a run does, less keys, masks and noise."""
    task, plan = get_task("edss6_3y"), plan_of(config)
    consortium = simulate(Preset("four", tuple(SiteSpec(site, 300, Schedule.RECLAIM, interval_mo=6.0) for site in SITES)), 4)
    trainers = {
        site.site_id: Trainer(task, task.cohort_of(site.tables), salt=SALT, held_out_fraction=HELD_OUT, entropy=os.urandom)
        for site in consortium.sites
    }

    def ask(number: int, purpose: str, model: np.ndarray) -> dict[str, np.ndarray]:
        jobs = {site: Job(plan, site, number, purpose, model.astype("<f4").tobytes()) for site in plan.sites}
        results = {site: trainers[site].run(job) for site, job in jobs.items()}
        return {site: result.body if purpose == "train" else result.header for site, result in results.items()}

    def auc(model: np.ndarray) -> float:
        histogram = sum(ask(plan.schedule.max_round, "evaluate", model).values(), np.zeros(2 * plan.histogram_bins))
        return pooled.metrics(plan, histogram, contributors=len(SITES))["auc"]

    start = pooled.initial_model(plan)
    sums = sum(ask(1, "describe", start).values(), np.zeros(plan.statistics))
    found = pooled.buffers(plan, sums, contributors=len(SITES))
    buffers = np.concatenate([found["feature_mean"], found["feature_scale"]])
    weights = start[plan.n_buffers :].astype(np.float64)
    chosen = strategy.build(plan.strategy.name, dict(plan.strategy.options))
    state = chosen.init(weights)
    assert auc(np.concatenate([buffers, weights])) == 0.5
    for number in range(2, 2 + plan.schedule.rounds):
        updates = ask(number, "train", np.concatenate([buffers, weights]))
        state, weights = chosen.step(state, weights, sum(plan.weight(site) * update for site, update in updates.items()))
    assert auc(np.concatenate([buffers, weights])) > 0.7
