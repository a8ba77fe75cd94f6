"""Errors that nobody foresaw, told without their text: it may quote a patient's record."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from client.cli_output import Output
from client.errors import SiteError, place_of
from client.home import Home
from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from tasks.errors import TaskError

Handler = Callable[[Home, argparse.Namespace, Output], int]


@contextmanager
def without_cells(what: str) -> Iterator[None]:
    """An unforeseen error within becomes a `SiteError` that names its kind and place alone; others pass."""
    try:
        yield
    except (SiteError, ConsortiumError, PrivacyError, TaskError, OSError):
        raise
    except MemoryError:
        raise SiteError(f"{what} needs more memory than this machine has free: give it more, or export less at once") from None
    except Exception as error:
        raise SiteError(
            f"{what} failed, an error of this program: please report {place_of(error)}; "
            "the error's own text may quote patients' records and is not shown"
        ) from None


def told_without_cells(what: str, handler: Handler) -> Handler:
    """The same command, whose unforeseen errors are told so."""

    def guarded(home: Home, args: argparse.Namespace, out: Output) -> int:
        with without_cells(what):
            return handler(home, args, out)

    return guarded
