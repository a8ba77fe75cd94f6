"""What the auditor's commands share: exit statuses, the form of a fingerprint, the error for wrong usage, JSON."""

import json
import re
from typing import Final

from consortium.canonical import Json
from privacy.errors import PrivacyError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
FINGERPRINT: Final = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}")  # as `consortium.identity` writes it


class UsageError(PrivacyError):
    """The command was asked for something it cannot do: exit status 2."""


def print_json(document: Json) -> None:
    print(json.dumps(document, indent=1, sort_keys=True, allow_nan=False))
