"""Errors that nobody foresaw, told without their text: it may quote a patient's record."""

from collections.abc import Iterator
from contextlib import contextmanager

from client.errors import SiteError, place_of
from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from tasks.errors import TaskError


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
