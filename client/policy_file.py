"""The site's policy, read anew whenever the file changes: a tightened limit holds from the next request on."""

from pathlib import Path

import yaml

from client.errors import Refused
from privacy.errors import PrivacyError
from privacy.policy import Policy, parse_policy


class PolicyFile:
    """`policy.yaml` of the site. No file = no policy = nothing trains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cached: tuple[tuple[int, int, int], Policy] | None = None

    def load(self) -> Policy | None:
        """The policy in force, None without a file. Raises `Refused` for a file that cannot be understood (fail closed)."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if self._cached is None or self._cached[0] != stamp:
                self._cached = (stamp, read_policy(self._path))
        except FileNotFoundError:
            return None
        except (OSError, yaml.YAMLError, PrivacyError) as error:
            raise Refused("NO_POLICY", f"the policy file {self._path} cannot be used: {error}") from error
        return self._cached[1]


def read_policy(path: Path) -> Policy:
    """Raises `OSError`, `yaml.YAMLError` or `PolicyError`."""
    return parse_policy(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
