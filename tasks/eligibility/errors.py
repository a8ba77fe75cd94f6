"""The one error of this package."""

from tasks.errors import TaskError


class EligibilityError(TaskError):
    """A file of criteria cannot be used; the sentence names file, rule and key, and what is possible."""
