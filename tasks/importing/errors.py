"""The one error of this package."""

from tasks.errors import TaskError


class ImportRefused(TaskError):
    """A source or its mapping cannot be used as it is; the sentence says where and what to do, never what a cell holds."""
