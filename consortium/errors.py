"""Every failure of this package is a `ConsortiumError`: what is wrong, the value, the limit, what to do."""


class ConsortiumError(Exception):
    """Base of all errors that leave `consortium`."""


class EncodingError(ConsortiumError):
    """Bytes that are not exactly one canonical encoding."""


class DocumentError(ConsortiumError):
    """A document whose content breaks a rule of its kind."""


class SignatureError(ConsortiumError):
    """A signature that is missing, by a stranger, or does not match."""


class KeyFileError(ConsortiumError):
    """A key file that is missing, damaged, or readable by others."""
