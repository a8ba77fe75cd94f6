"""What the auditor's commands share: exit statuses, the form of a fingerprint, wrong usage, a common option, JSON, threads."""

import argparse
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


def add_accepted(command: argparse.ArgumentParser) -> None:
    """The option by which a reader says that he was told of a key that took over without the old one's word."""
    command.add_argument(
        "--accept-replaced",
        action="append",
        default=[],
        type=_fingerprint,
        metavar="FINGERPRINT",
        help="a key that a site had to go on with after it lost the one before; as the founders and the site told you",
    )


def _fingerprint(text: str) -> str:
    if not FINGERPRINT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no fingerprint: 8 groups of 4 hex digits")
    return text


def print_json(document: Json) -> None:
    print(json.dumps(document, indent=1, sort_keys=True, allow_nan=False))
