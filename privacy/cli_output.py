"""What the auditor's commands share: exit statuses, the form of a fingerprint, the error for wrong usage, JSON, threads."""

import json
import os
import re
from typing import Final

from consortium.canonical import Json
from privacy.errors import PrivacyError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FINGERPRINT: Final = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}")  # as `consortium.identity` writes it
_THREADS_MOST: Final = 8  # a batch of signatures takes one thread 20 ms: more would wait for each other


class UsageError(PrivacyError):
    """The command was asked for something it cannot do: exit status 2."""


def usable_threads() -> int:
    """As many as may check signatures: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)), _THREADS_MOST)


def print_json(document: Json) -> None:
    print(json.dumps(document, indent=1, sort_keys=True, allow_nan=False))
