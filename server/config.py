"""The lead's configuration at the door: Hydra composes it, a strict plain dataclass goes on, and nothing else of Hydra does.

An unknown key, a wrong type or an unknown choice is a `ConfigError` that names the place and the nearest known name. No
`_target_`, no code in configuration: names go through registries.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from server.errors import ConfigError
from tasks.episodes.extras import GROUPS as COLUMN_GROUPS
from tasks.episodes.extras import expanded, with_modalities

T = TypeVar("T")
Options = Mapping[str, str | int | float]
GROUPS = ("task", "privacy", "strategy", "federation")
HYDRA_VERSION = "1.3"


@dataclass(frozen=True)
class TaskConfig:
    name: str
    model: str
    options: Options
    columns: tuple[str, ...]  # empty: all of the task's contract; in a file also names of groups, such as core and visits
    histogram_bins: int
    init_seed: int
    baseline: str = ""  # the choice of `task` that this one has to beat, by its card
    clip: float = 0.0  # L2 bound of a patient's gradient where privacy.clip is 0; 0: `server.planning.CLIP`


@dataclass(frozen=True)
class PrivacyConfig:
    """`target_epsilon` is what a site's budget is charged with for the whole run: one site's updates exposed in mode local, opened
    sums in mode distributed. `delta` 0: chosen from the declared patients. `grid_bits` 0: as many as the mode has room for.

    `count_noise` 0: no patient counts are released; above: the standard deviation of each site's, drawn once per run.
    `canaries` -1: the default for the model's size.
    """

    mode: str
    target_epsilon: float
    delta: float
    clip: float
    grid_bits: int
    sample_rate: float
    describe_share: float
    count_noise: float = 0.0
    canaries: int = -1


@dataclass(frozen=True)
class StrategyConfig:
    name: str
    options: Options


@dataclass(frozen=True)
class FederationConfig:
    """Declared sizes by site id; with `default_patients` above 0, sites of the roster that are not named have that size."""

    sites: Mapping[str, int]
    default_patients: int = 0


@dataclass(frozen=True)
class ScheduleConfig:
    rounds: int
    evaluate_every: int
    local_steps: int
    local_rate: float
    spare_train: int
    spare_describe: int
    spare_evaluate: int


@dataclass(frozen=True)
class DeadlinesConfig:
    keys_s: int
    update_s: int
    vote_s: int
    approval_s: int


@dataclass(frozen=True)
class LeadConfig:
    """`modalities`: groups of inputs whose columns are added to the task's (`+modalities=[oct,fluids]`)."""

    run_id: str
    lead: str
    task: TaskConfig
    privacy: PrivacyConfig
    strategy: StrategyConfig
    federation: FederationConfig
    schedule: ScheduleConfig
    deadlines: DeadlinesConfig
    ring_bits: int = 32
    modalities: tuple[str, ...] = ()


def load_config(overrides: Sequence[str] = (), *, config_dir: Path | None = None) -> LeadConfig:
    """`lead.yaml` composed with `overrides` such as `privacy=epsilon8` or `schedule.rounds=100`. Raises `ConfigError`.

    `config_dir`: a folder of the same shape whose files win over the packaged ones.
    """
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise ConfigError(f"override {override!r}: write group=choice or key.path=value")
    home = Path(str(files("conf")))
    path = [] if config_dir is None else [f"hydra.searchpath=[file://{config_dir.resolve()}]"]
    try:
        with initialize_config_dir(str(home), version_base=HYDRA_VERSION, job_name="lead"):
            chosen = _check_choices(overrides, _choices(home, config_dir))
            _check_keys(overrides, compose("lead", overrides=[*path, *chosen]))
            composed = compose("lead", overrides=[*path, *map(_hydra_form, overrides)])
            # Not resolved: an interpolation could carry this machine's environment into a document that all parties read.
            values = OmegaConf.to_container(composed, resolve=False, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"configuration: {str(error).strip().splitlines()[0]}") from error
    return _with_columns(build(LeadConfig, values, ""))


def _with_columns(config: LeadConfig) -> LeadConfig:
    """Groups of inputs among the task's columns and modalities written out, as plans have them."""
    if strange := [name for name in config.modalities if name not in COLUMN_GROUPS]:
        raise ConfigError(f"modalities: {strange[0]!r} is none; {nearest(strange[0], COLUMN_GROUPS)}")
    if config.modalities and not config.task.columns:
        raise ConfigError("modalities: task.columns is empty, which is every column already; name the columns to add them to")
    columns = with_modalities(expanded(config.task.columns), config.modalities)
    return dataclasses.replace(config, task=dataclasses.replace(config.task, columns=columns))


def _choices(home: Path, config_dir: Path | None) -> Mapping[str, tuple[str, ...]]:
    roots = [home] if config_dir is None else [home, config_dir]
    return {group: tuple(sorted({file.stem for root in roots for file in (root / group).glob("*.yaml")})) for group in GROUPS}


def _check_choices(overrides: Iterable[str], choices: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The overrides that choose a file of a group; raises `ConfigError` naming the nearest one for an unknown choice."""
    chosen = [override for override in overrides if override.partition("=")[0] in choices]
    for override in chosen:
        group, _, choice = override.partition("=")
        if choice not in choices[group]:
            raise ConfigError(f"{override}: {nearest(choice, choices[group])}")
    return chosen


def _check_keys(overrides: Iterable[str], known: DictConfig) -> None:
    """Say the nearest key where Hydra would only say no; whatever else is wrong is left to Hydra and `build`."""
    paths = _paths(OmegaConf.to_container(known), "")
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key not in paths and not _in_free_table(key):
            raise ConfigError(f"{key}: unknown key; {nearest(key, paths)}")


def _in_free_table(key: str) -> bool:
    """Options of models and strategies differ by name and sites by consortium: their owners check them. No file has modalities."""
    return key.startswith(("task.options.", "strategy.options.", "federation.sites.")) or key == "modalities"


def _hydra_form(override: str) -> str:
    """Hydra's spelling of "set it, there or not" where names are free."""
    plain = override.lstrip("+")
    return f"++{plain}" if _in_free_table(plain.partition("=")[0]) else override


def _paths(value: Any, prefix: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    names = [f"{prefix}{name}" for name in value]
    return names + [path for name, inner in value.items() for path in _paths(inner, f"{prefix}{name}.")]


def nearest(name: str, known: Iterable[str]) -> str:
    """`nearest is 'x'` or the list of what there is."""
    names = list(known)
    if found := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"nearest is {found[0]!r}"
    return f"known: {', '.join(sorted({name.partition('.')[0] for name in names}))}"


def build(kind: type[T], value: Any, place: str) -> T:
    """The dataclass `kind` from plain values, strictly: every key known, every type right. Raises `ConfigError`."""
    if not isinstance(value, dict):
        raise ConfigError(f"{place or 'configuration'}: expected keys and values, got {value!r}")
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(typing.cast(Any, kind))
    for name in value:
        if name not in hints:
            raise ConfigError(f"{_join(place, str(name))}: unknown key; {nearest(str(name), hints)}")
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in value]:
        raise ConfigError(f"{_join(place, missing[0])}: missing")
    return kind(**{name: _value(hints[name], inner, _join(place, name)) for name, inner in value.items()})


def _value(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type[Any], hint), value, place)
    if hint == Options:
        return _table(value, place, (str, int, float))
    if hint == Mapping[str, int]:
        return _table(value, place, (int,))
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{place}: expected a list of names, got {value!r}")
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{place}: expected {hint.__name__}, got {value!r}")
    return value


def _table(value: Any, place: str, kinds: tuple[type, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected keys and values, got {value!r}")
    for name, inner in value.items():
        if not isinstance(name, str) or type(inner) not in kinds:
            raise ConfigError(f"{_join(place, str(name))}: expected {' or '.join(k.__name__ for k in kinds)}, got {inner!r}")
    return value


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
