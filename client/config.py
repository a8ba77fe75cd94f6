"""site.yaml at the door: Hydra/OmegaConf reads and checks it, a plain dataclass goes on. Unknown keys are errors."""

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from client.errors import ConfigError
from client.files import write_atomic
from client.home import Home


@dataclass(frozen=True)
class SiteConfig:
    """What site IT decides. Paths may be relative to the site's folder."""

    site: str
    task: str
    data: Path  # folder with mapping.yaml and the native tables
    population: str  # names the patient population whose privacy the ledger counts
    hub: str  # host:port of the hub, e.g. hub.example.org:443
    threads: int


@dataclass
class _Schema:
    site: str = "???"
    task: str = "???"
    data: str = "???"
    population: str = "main"
    hub: str = ""
    threads: int = 1


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
    return SiteConfig(data=data if data.is_absolute() else home.root / data, **{str(key): value for key, value in values.items()})


def write_config(home: Home, config: SiteConfig) -> None:
    lines = ["# This hospital's settings. Unknown keys are refused. See the README of `client`."]
    lines += [
        f"{name}: {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"  # JSON is YAML
        for name, value in vars(config).items()
    ]
    write_atomic(home.config, ("\n".join(lines) + "\n").encode("utf-8"), mode=0o640)
