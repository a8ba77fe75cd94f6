"""site.yaml at the door: Hydra/OmegaConf reads and checks it, a plain dataclass goes on. Unknown keys are errors."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from client.device import AUTO, DeviceChoice
from client.errors import ConfigError
from client.files import write_atomic
from client.home import Home
from client.logs import form_of


@dataclass(frozen=True)
class SiteConfig:
    """What site IT decides. Paths may be relative to the site's folder."""

    site: str
    tasks: tuple[str, ...]  # that plans may be for; the first is the one that commands are about unless told otherwise
    data: Path  # folder with the tables: those of the data contract, or the hospital's own beside mapping.yaml
    population: str  # names the patient population whose privacy the ledger counts
    hub: str  # host:port of the hub, e.g. hub.example.org:443
    threads: int
    device: str = AUTO  # where models are computed: auto, cpu, cuda
    precision: str = AUTO  # of their passes: auto, fp32, bf16
    log_format: str = AUTO  # of the daemons' logs: auto, text, json
    metrics_port: int = 0  # of the gateway, on loopback; 0: no metrics

    @property
    def computed_on(self) -> DeviceChoice:
        """Where models are computed."""
        return DeviceChoice(self.device, self.precision)

    @property
    def task(self) -> str:
        """The first task."""
        return self.tasks[0]


@dataclass
class _Schema:
    site: str = "???"
    task: Any = "???"  # a name, or a list of names
    data: str = "???"
    population: str = "main"
    hub: str = ""
    threads: int = 1
    device: str = AUTO
    precision: str = AUTO
    log_format: str = AUTO
    metrics_port: int = 0


def load_config(home: Home) -> SiteConfig:
    """Raises `ConfigError` that names the key."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_Schema), OmegaConf.load(home.config))
        values = OmegaConf.to_container(merged, throw_on_missing=True)
    except OSError as error:
        raise ConfigError(f"cannot read {home.config}: {error.strerror}; run `wardround-site init` first") from error
    except (OmegaConfBaseException, YAMLError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{home.config}: {first}; known keys: {', '.join(vars(_Schema()))}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{home.config}: expected `key: value` lines; known keys: {', '.join(vars(_Schema()))}")
    data = Path(str(values.pop("data")))
    tasks = _tasks(values.pop("task"), home)
    rest = {str(key): value for key, value in values.items()}
    found = SiteConfig(tasks=tasks, data=data if data.is_absolute() else home.root / data, **rest)
    try:
        DeviceChoice(found.device, found.precision)
        form_of(found.log_format)
    except ConfigError as error:
        raise ConfigError(f"{home.config}: {error}") from error
    if not 0 <= found.metrics_port <= 65535:
        raise ConfigError(f"{home.config}: metrics_port {found.metrics_port} is outside [0, 65535]; 0 turns metrics off")
    return found


def device_choice(home: Home) -> DeviceChoice:
    """Where a command computes models: as site.yaml says, and as its defaults are where a command needs no site."""
    return load_config(home).computed_on if home.config.exists() else DeviceChoice()


def _tasks(given: object, home: Home) -> tuple[str, ...]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
        raise ConfigError(f"{home.config}: task must be a name, or a list of names")
    if repeated := sorted({name for name in found if found.count(name) > 1}):
        raise ConfigError(f"{home.config}: task {repeated[0]} is listed twice")
    return tuple(found)


def write_config(home: Home, config: SiteConfig) -> None:
    lines = ["# This hospital's settings. Unknown keys are refused. See the README of `client`."]
    shown = {**vars(config), "tasks": config.task if len(config.tasks) == 1 else list(config.tasks)}
    lines += [
        # JSON is YAML
        f"{'task' if name == 'tasks' else name}: {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
        for name, value in shown.items()
    ]
    write_atomic(home.config, ("\n".join(lines) + "\n").encode("utf-8"), mode=0o640)
