"""What harmonisation refuses, in messages that hold rows, measures, batches and limits and never a patient's value."""

from tasks.errors import TaskError


class HarmoniseError(TaskError):
    """A plan contradicts itself, scans do not fit it, or the sums do not determine what is asked of them."""
