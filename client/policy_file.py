"""The site's policy, read anew whenever the file changes: a tightened limit holds from the next request on."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from client.errors import Refused
from privacy.errors import PolicyError, PrivacyError
from privacy.policy import Policy, parse_policy


class PolicyFile:
    """`policy.yaml` of the site. No file = no policy = nothing trains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cached: tuple[bytes, Policy] | None = None

    def load(self) -> Policy | None:
        """The policy in force, None without a file. Raises `Refused` for a file that cannot be understood (fail closed)."""
        try:
            data = self._path.read_bytes()
            if (cached := self._cached) is None or cached[0] != data:
                cached = self._cached = (data, read_policy(data))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ArithmeticError, RecursionError, yaml.YAMLError, PrivacyError) as error:
            raise Refused("NO_POLICY", f"the policy file {self._path} cannot be used: {error}") from error
        return cached[1]


def read_policy(data: bytes) -> Policy:
    """Raises `ValueError` (not UTF-8), `yaml.YAMLError`, `ArithmeticError` (a number beyond all size) or `PolicyError`."""
    document = yaml.load(data.decode("utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    if not isinstance(document, Mapping):
        raise PolicyError("policy: expected `key: value` lines")
    return parse_policy(document)


class _StrictLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence: a budget must not be raised by a line further down."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := next((key for at, key in enumerate(keys) if key in keys[:at]), None):
            raise PolicyError(f"policy: the key {repeated!r} appears twice")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found
