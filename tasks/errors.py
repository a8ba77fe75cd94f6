"""Every way a clinical task can fail, and no way that prints a patient's value.

A message names the table, the row number (as a spreadsheet shows it: the header is row 1), the column, the rule
and what to do. It never holds the content of a cell, so it may be copied into a ticket.
"""


class TaskError(Exception):
    """Base of all errors raised by `tasks`."""


class ContractError(TaskError):
    """A contract, a model or its options contradict themselves: the author of the task or the plan must act."""


class MappingError(TaskError):
    """The mapping file cannot be used: unknown key, missing column, or an input that gives the answer away."""


class DataError(TaskError):
    """The hospital's table cannot be used as the mapping says."""


class ModelFileError(TaskError):
    """The folder of an exported model cannot be used: damaged, altered, or of another version."""


class RegistryError(TaskError):
    """A task is unknown, or the package that should supply it is broken or ambiguous."""
