"""Every failure of this package is a `ServerError`: what is wrong, the value, the limit, what to do."""


class ServerError(Exception):
    """Base of all errors that leave `server`. Programs end with exit status 1."""


class ConfigError(ServerError):
    """A configuration that is not ours: unknown key, wrong type, out of range. Programs end with exit status 2."""


class FolderError(ServerError):
    """A run folder that is missing, incomplete, or already holds another run."""


class JournalError(ServerError):
    """A journal with a damaged line, or a second writer for one run."""


class JournalBusyError(JournalError):
    """Another process writes this run's journal: it drives the run, or has not ended yet."""


class CheckpointError(ServerError):
    """A checkpoint that cannot be written, or bytes that are not exactly one checkpoint of this run."""


class PlanningError(ServerError):
    """A plan that cannot be made: sites, model and privacy terms do not fit together."""


class StrategyError(ServerError):
    """An unknown strategy, an option out of range, or vectors that do not fit the strategy's state."""


class MirrorError(ServerError):
    """The tracking mirror cannot be started. It never stops a run: callers record it and go on."""
