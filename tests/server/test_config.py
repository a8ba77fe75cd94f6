"""Configuration at the door: everything known composes, everything unknown is an error that helps."""

from pathlib import Path

import pytest
import yaml

from client.config import _Schema
from privacy.policy import parse_policy
from server import strategy
from server.config import load_config
from server.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"


def test_defaults_compose_into_plain_values() -> None:
    config = load_config()
    assert (config.task.name, config.privacy.target_epsilon, config.strategy.name) == ("cis_conversion", 3.0, "fedadam")
    assert config.federation.sites["hospital-a"] == 300
    assert type(config.strategy.options) is dict


@pytest.mark.parametrize("file", sorted(path.relative_to(CONF).as_posix() for path in CONF.glob("*/*.yaml")))
def test_every_packaged_choice_composes(file: str) -> None:
    group, _, choice = file.removesuffix(".yaml").partition("/")
    assert load_config([f"{group}={choice}"])


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / "strategy").glob("*.yaml")))
def test_every_packaged_strategy_can_be_built(choice: str) -> None:
    config = load_config([f"strategy={choice}"]).strategy
    assert strategy.build(config.name, config.options)


def test_overrides_win_and_free_tables_take_new_names() -> None:
    overrides = ["schedule.rounds=7", "federation.sites.oslo=90", "task=cis_conversion_mlp", "task.options.hidden=4"]
    config = load_config(overrides)
    assert config.schedule.rounds == 7
    assert config.federation.sites["oslo"] == 90
    assert config.task.options == {"hidden": 4}


def test_modalities_add_the_columns_of_their_groups_to_the_task_s() -> None:
    plain = load_config(["task=cdp_2y"]).task.columns
    for override in ("+modalities=[oct,fluids]", "modalities=[oct,fluids]", "++modalities=[oct,fluids]"):
        config = load_config(["task=cdp_2y", override])
        assert config.modalities == ("oct", "fluids")
        assert config.task.columns[: len(plain)] == plain
        added = ("prnfl_um_last", "gcipl_um_last", "gcipl_gap_um", "gcipl_um_y", "nfl_z_last", "gfap_z_last")
        assert config.task.columns[len(plain) :] == added


def test_a_group_s_name_among_columns_stands_for_its_columns() -> None:
    assert load_config(["task=cdp_2y_spline"]).task.columns == load_config(["task=cdp_2y"]).task.columns
    columns = load_config(["task=cdp_2y", "task.columns=[edss_last,genetics]"]).task.columns
    assert columns == ("edss_last", "hla_drb1_1501", "prs_risk", "prs_severity", "rs10191329_a")


def test_modalities_of_a_task_that_takes_all_its_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="is empty, which is every column"):
        load_config(["task=cis_conversion", "+modalities=[oct]"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+modalities=[otc]", "modalities: 'otc' is none; nearest is 'oct'"),
        ("+modalities=[blood]", "known: core, ep, fluids, genetics, mri, oct, proms, visits, wearables"),
        ("+modalities=oct", "modalities: expected a list of names"),
        ("+modality=[oct]", "modality: unknown key"),
        ("privacy=epsilon33", "nearest is 'epsilon3'"),
        ("privacy=", "known: distributed1, distributed3, distributed8, epsilon1, epsilon3, epsilon8, none"),
        ("schedule.round=3", "schedule.round: unknown key; nearest is 'schedule.rounds'"),
        ("+schedule.zzz=3", "unknown key"),
        ("task._target_=os.system", "unknown key"),
        ("schedule.rounds=many", "schedule.rounds: expected int, got 'many'"),
        ("schedule.rounds=true", "schedule.rounds: expected int, got True"),
        ("task.columns=age", "task.columns: expected a list of names"),
        ("federation.sites.oslo=few", "federation.sites.oslo: expected int"),
        ("strategy.options.rate=[1]", "strategy.options.rate: expected str or int or float"),
        ("rounds", "write group=choice or key.path=value"),
        ("--multirun=1", "write group=choice or key.path=value"),
    ],
)
def test_what_is_not_known_is_an_error_that_helps(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert says in str(caught.value)


def test_the_environment_never_enters_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret-value")
    assert "secret-value" not in repr(load_config(["run_id=${oc.env:CANARY}"]))


def test_a_consortiums_own_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "nordic.yaml").write_text("sites: {oslo: 120, bergen: 80, turku: 90}\n")
    config = load_config(["federation=nordic"], config_dir=tmp_path)
    assert dict(config.federation.sites) == {"oslo": 120, "bergen": 80, "turku": 90}


def test_the_examples_for_a_hospital_are_what_a_hospital_reads() -> None:
    assert set(yaml.safe_load((CONF / "site.yaml").read_text())) == set(vars(_Schema()))
    assert not parse_policy(yaml.safe_load((CONF / "policy.example.yaml").read_text())).allow_non_private
