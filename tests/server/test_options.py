"""What a lead could choose instead: every figure is what the plan would state, and every expected loss was measured."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest

from consortium.identity import SigningKey, fingerprint
from consortium.plan import Plan
from consortium.roster import Founder, Member, Roster
from privacy.planning import Releases, calibrate
from privacy.terms import ride_along_limit
from server.cli import main
from server.config import LeadConfig, load_config
from server.errors import PlanningError
from server.options import (
    CURVES_FILE,
    WORTH_EPSILON,
    WORTH_TRUST,
    Curve,
    Option,
    Options,
    SiteNoise,
    curve_of,
    lines,
    measured_curves,
    options,
    read_curves,
    recommend,
)
from server.planning import make_plan
from tasks import strict_yaml

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SIZES = (50, 70, 90, 130, 170, 230, 320, 440, 590, 810, 1100, 1500)
SITES = tuple(f"site-{at:02d}" for at in range(len(SIZES)))
CURVE = Curve(("logistic",), 0.5, 1.0, 1.0, 0.25, 0.003, 0.1, (10.0, 400.0), (50.0, 400.0))


def roster_of(sites: tuple[str, ...] = SITES, *, colluders: int = 1, minimum_cohort: int = 11) -> Roster:
    members = [Member(site, "site", bytes([20 + at]) * 32, f"key {site}") for at, site in enumerate(sites)]
    ordered = tuple(sorted([*members, Member("lead-a", "lead", b"\x01" * 32, "")], key=lambda member: member.id))
    return Roster("test", 1, colluders, minimum_cohort, (Founder("f", b"\x02" * 32),), 1, b"\x03" * 16, 0.25, ordered)


Planned = Callable[..., tuple[Plan, LeadConfig]]


@pytest.fixture(scope="module")
def planned() -> Planned:
    """Twelve sites of 50 to 1,500 patients."""
    sizes = [f"federation.sites.{site}={size}" for site, size in zip(SITES, SIZES, strict=True)]

    def plan(*overrides: str, roster: Roster | None = None) -> tuple[Plan, LeadConfig]:
        config = load_config(["federation=roster", *sizes, *overrides])
        nodes = {site: at for at, site in enumerate(SITES)}
        return make_plan(config, roster or roster_of(), nodes, lead="lead-a", now=NOW), config

    return plan


@pytest.fixture(scope="module")
def found(planned: Planned) -> Options:
    plan, config = planned("privacy=epsilon3")
    return options(plan, config.privacy, roster_of(), measured_curves())


def one(found: Options, mode: str, epsilon: float, rounds: int) -> Option:
    (option,) = (o for o in found.options if (o.mode, o.target_epsilon, o.rounds) == (mode, epsilon, rounds))
    return option


@pytest.mark.parametrize(("choice", "mode"), [("epsilon3", "local"), ("distributed3", "distributed")])
def test_an_option_states_what_its_plan_would_state(planned: Planned, found: Options, choice: str, mode: str) -> None:
    plan, _ = planned(f"privacy={choice}", "schedule.rounds=100")
    option = one(found, mode, 3.0, 100)
    assert option.epsilon_exposed == pytest.approx(plan.privacy.epsilon_exposed, rel=3e-3)
    assert option.epsilon_model == pytest.approx(plan.privacy.epsilon_model, rel=3e-3)
    assert option.train_noise == pytest.approx(plan.privacy.train_noise, rel=3e-3)


def test_one_calibration_scaled_by_the_rounds_is_the_calibration_of_those_rounds(planned: Planned, found: Options) -> None:
    plan, config = planned("privacy=epsilon3")
    schedule = replace(plan.schedule, rounds=400, max_train=404, max_round=404 + 4 + 10)
    longer = replace(plan, schedule=schedule)
    releases = Releases(schedule.max_describe, 404, ride_along_limit(longer) + schedule.max_evaluate, 1.0)
    noises = calibrate(3.0, plan.privacy.delta, releases, describe_share=config.privacy.describe_share)
    assert one(found, "local", 3.0, 400).train_noise == pytest.approx(noises.train_noise, rel=5e-3)


def test_no_option_charges_more_than_it_says(found: Options) -> None:
    for option in found.options:
        charged = option.epsilon_exposed if option.mode == "local" else option.epsilon_model
        assert 0.97 * option.target_epsilon < charged <= option.target_epsilon * (1 + 1e-4)


def test_distributed_noise_is_smaller_by_the_root_of_the_honest_shares_and_exposes_more(found: Options) -> None:
    for local in (option for option in found.options if option.mode == "local"):
        shared = one(found, "distributed", local.target_epsilon, local.rounds)
        assert local.noise / shared.noise == pytest.approx(math.sqrt(6))  # 12 sites, 1 colluder, at least 11: t - c = 6
        assert shared.epsilon_exposed > 2 * local.epsilon_exposed
        assert shared.loss <= local.loss


def test_the_noise_of_the_sum_and_of_each_site_can_be_recomputed(found: Options) -> None:
    option = one(found, "local", 1.0, 200)
    assert option.noise == pytest.approx(option.train_noise * math.sqrt(12) / 5500)
    assert [site.own for site in option.sites] == pytest.approx([option.train_noise / size for size in SIZES])


@pytest.mark.no_cover  # as the random mixtures in tests/privacy: twice the time, for lines that others cover
def test_sampled_mechanisms_are_calibrated_for_their_own_rounds(planned: Planned) -> None:
    plan, config = planned("privacy=epsilon3", "privacy.sample_rate=0.5", "schedule.rounds=60")
    few = options(plan, config.privacy, roster_of(), measured_curves(), rounds=())
    assert {option.rounds for option in few.options} == {60}
    assert one(few, "local", 3.0, 60).train_noise == pytest.approx(plan.privacy.train_noise, rel=1e-3)


def test_a_plan_without_privacy_hears_what_privacy_would_cost(planned: Planned, found: Options) -> None:
    plan, config = planned("privacy=none")
    assert options(plan, config.privacy, roster_of(), measured_curves()).options == found.options


def test_what_rules_out_distributed_mode_is_said(planned: Planned) -> None:
    for overrides, says in ((["ring_bits=16"], "ring_bits=32"), (["schedule.local_steps=2"], "one local step")):
        plan, config = planned("privacy=epsilon3", *overrides)
        got = options(plan, config.privacy, roster_of(), measured_curves(), rounds=())
        assert {option.mode for option in got.options} == {"local"}
        assert any(says in hint for hint in got.hints)
        assert "only mode local is possible here" in got.reasons


def test_a_larger_minimum_cohort_is_recommended_where_it_raises_the_honest_shares(planned: Planned, found: Options) -> None:
    loose = roster_of(minimum_cohort=3)
    plan, config = planned("privacy=epsilon3", roster=loose)
    hints = options(plan, config.privacy, loose, measured_curves(), rounds=()).hints
    assert any("hold 6 honest shares in place of 2: distributed noise falls by 42%" in hint for hint in hints)
    assert not any("minimum cohort" in hint for hint in found.hints)


@pytest.mark.parametrize(("hidden", "canaries"), [(8, 0), (2000, 1000)])
def test_canaries_are_recommended_from_ten_thousand_parameters_on(planned: Planned, hidden: int, canaries: int) -> None:
    plan, config = planned("privacy=epsilon3", "task.model=mlp", f"task.options.hidden={hidden}")
    got = options(plan, config.privacy, roster_of(), measured_curves(), rounds=())
    assert (plan.n_parameters >= 10_000, got.canaries) == (canaries == 1000, canaries)
    assert any(f"privacy.canaries={canaries}" in hint for hint in got.hints)


# -- which one is recommended ----------------------------------------------------------------------------------------------


def made(mode: Literal["local", "distributed"], epsilon: float, rounds: int, loss: float, *, grid_bits: int = 20) -> Option:
    return Option(mode, epsilon, rounds, epsilon, epsilon, 1.0, grid_bits, 0.01, (SiteNoise("a", 100, 0.1),), loss, True)


@pytest.mark.parametrize("gain", [WORTH_TRUST - 0.003, WORTH_TRUST + 0.005])
def test_distributed_mode_must_be_worth_its_assumptions(gain: float) -> None:
    chosen, reasons = recommend([made("local", 3.0, 100, 0.02), made("distributed", 3.0, 100, 0.02 - gain)], 3.0)
    assert chosen.mode == ("distributed" if gain > WORTH_TRUST else "local")
    assert any(f"{gain:.3f} AUC" in reason for reason in reasons)


def test_fewer_rounds_are_recommended_where_more_hardly_help() -> None:
    listed = [made("local", 3.0, rounds, loss) for rounds, loss in ((50, 0.0300), (100, 0.0107), (400, 0.0100))]
    assert recommend(listed, 3.0)[0].rounds == 100


@pytest.mark.parametrize(("less", "epsilon"), [(WORTH_EPSILON / 2, 1.0), (WORTH_EPSILON * 2, 3.0)])
def test_nobody_pays_a_larger_epsilon_for_nothing(less: float, epsilon: float) -> None:
    assert recommend([made("local", 1.0, 100, 0.01 + less), made("local", 3.0, 100, 0.01)], 3.0)[0].target_epsilon == epsilon


def test_never_more_epsilon_than_asked_for_and_never_what_fits_no_grid() -> None:
    listed = [made("local", 8.0, 100, 0.0), made("local", 3.0, 100, 0.001, grid_bits=0), made("local", 3.0, 200, 0.1)]
    assert recommend(listed, 3.0)[0] == listed[2]
    with pytest.raises(PlanningError, match="no option up to epsilon 3 fits"):
        recommend(listed[:2], 3.0)


# -- the measured curves ---------------------------------------------------------------------------------------------------


def test_the_expected_loss_is_the_stated_formula_and_never_more_than_there_is_to_lose() -> None:
    assert CURVE.loss(0.01, 100, 100) == pytest.approx(0.5 * 0.01 + 1.0 / 100)
    assert CURVE.loss(0.01, 400, 100) == pytest.approx(0.5 * 0.02 + 1.0 / 100)
    assert CURVE.loss(1e9, 400, 100) == 0.25


@pytest.mark.parametrize(
    ("noise", "parameters", "rounds", "inside"),
    [(0.01, 100, 100, True), (0.11, 100, 100, False), (0.01, 401, 100, False), (0.01, 5, 100, True), (0.0, 100, 49, False)],
)
def test_what_lies_outside_the_measured_runs_says_so(noise: float, parameters: int, rounds: int, inside: bool) -> None:
    assert CURVE.measured(noise, parameters, rounds) == inside


def test_a_kind_of_model_that_was_not_measured_is_never_called_measured(planned: Planned) -> None:
    plan, config = planned("privacy=epsilon8")
    other = replace(CURVE, models=("mlp",))
    got = options(plan, config.privacy, roster_of(), [other], rounds=())
    assert curve_of([other], "logistic") == other
    assert not any(option.measured for option in got.options)
    assert any("no run like it was measured" in hint for hint in got.hints)


def test_the_shipped_curves_fit_the_shipped_points_within_the_stated_error() -> None:
    document = strict_yaml.parse((files("server") / CURVES_FILE).read_text(), CURVES_FILE)
    assert isinstance(document, dict)
    points = [dict(zip(document["columns"], point, strict=True)) for point in document["points"]]  # type: ignore[call-overload, union-attr]
    for curve in measured_curves():
        mine = [point for point in points if point["task"].startswith("mlp") == ("mlp" in curve.models)]
        misses = [
            curve.loss(float(point["noise"]), int(point["parameters"]), int(point["rounds"])) - float(point["loss"])
            for point in mine
        ]
        assert len(mine) >= 30
        assert math.sqrt(sum(miss**2 for miss in misses) / len(misses)) <= curve.error
        assert {curve.measured(float(p["noise"]) * 0.99, int(p["parameters"]), int(p["rounds"])) for p in mine} == {True}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("expected-error/1", "expected-error/2"),
        ('"factor"', '"facto"'),
        ('"power": ', '"power": -'),
        ('"rounds": [50, ', '"rounds": [50, 60, '),
        ("curves:\n", "curves: none\nothers:\n"),
        ('"models": ["logistic"], ', ""),
    ],
)
def test_a_changed_file_of_curves_is_refused(old: str, new: str) -> None:
    text = (files("server") / CURVES_FILE).read_text()
    assert read_curves(text)
    assert old in text
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_curves(text.replace(old, new, 1))


# -- as it is read ---------------------------------------------------------------------------------------------------------


def test_the_options_fit_one_screen(found: Options) -> None:
    shown = lines(found)
    assert max(map(len, shown)) <= 80
    assert len(shown) <= 24
    assert sum(line.startswith("*") for line in shown) == 1
    whole = lines(found, whole=True)
    assert max(map(len, whole)) <= 80
    assert sum(line.strip("* ").startswith(("local", "distributed")) for line in whole) == len(found.options)
    assert sum(any(site in line for site in SITES) for line in whole) == len(SITES)


def test_a_lead_sees_the_options_with_the_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "lead")
    assert main(["--home", home, "hub", "init", "--consortium", "north", "--lead", "lead-a", "--host", "127.0.0.1"]) == 0
    sites = founded_with_four_sites(home, tmp_path)
    capsys.readouterr()
    assert main(["--home", home, "plan", "federation=roster", "privacy=epsilon3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["options"]["recommended"]["mode"] in ("local", "distributed")
    assert {site["site"] for site in document["options"]["options"][0]["sites"]} == set(sites)
    assert main(["--home", home, "plan", "federation=roster", "privacy=epsilon3"]) == 0
    said = capsys.readouterr().out
    assert "epsilon exposed" in said
    assert "recommended       mode" in said


def founded_with_four_sites(home: str, tmp_path: Path) -> tuple[str, ...]:
    sites = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
    words = []
    for site in sites:
        key = SigningKey.from_seed(site.encode().ljust(32, b"."))
        (tmp_path / site).write_text(json.dumps({"id": site, "identity_key": key.public.hex(), "transport_key": f"ecdsa {site}"}))
        words.append((str(tmp_path / site), fingerprint(key.public)))
    told = [word for _, print_ in words for word in ("--told", print_)]
    assert main(["--home", home, "roster", "add-site", *(file for file, _ in words), *told]) == 0
    (tmp_path / "lead" / "nodes.json").write_text(json.dumps({site: 7 + at for at, site in enumerate(sites)}))
    return sites
