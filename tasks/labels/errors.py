"""What the label engine refuses, in messages that hold row numbers and limits and never a patient's value."""

from tasks.errors import TaskError


class LabelError(TaskError):
    """A rule contradicts itself, or the rows given to the engine cannot be read as one history."""
