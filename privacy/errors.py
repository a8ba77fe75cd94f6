"""Every failure of this package is a `PrivacyError`: what is wrong, the value, the limit, what to do.

A caller that meets one does not train: no ledger, no budget, no known event means no release.
"""


class PrivacyError(Exception):
    """Base of all errors that leave `privacy`."""


class EventError(PrivacyError):
    """A release that this vocabulary cannot name, or a mechanism with impossible numbers."""


class AccountingError(PrivacyError):
    """An epsilon that cannot be computed from what was given."""


class NoiseError(PrivacyError):
    """Noise or a sample that cannot be drawn safely from what was given."""


class PolicyError(PrivacyError):
    """A site policy with an unknown key or an impossible value."""


class LedgerError(PrivacyError):
    """A ledger that is missing, damaged, locked or full. `entry` is the index of the first bad entry, if one can be named."""

    def __init__(self, message: str, entry: int | None = None) -> None:
        super().__init__(message if entry is None else f"ledger entry {entry}: {message}")
        self.entry = entry
