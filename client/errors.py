"""Errors of the hospital's side. A `Refused` leaves the site only as its code and that code's fixed sentence."""

from collections.abc import Callable

from consortium.logs import place_of as place_of


class SiteError(Exception):
    """Base of all errors of `client`: what, the value, the limit, what to do; for the site's own people."""


class ConfigError(SiteError):
    """Configuration or usage that cannot work; exit status 2."""


class TrainerError(SiteError):
    """The trainer failed, crashed, or passed its deadline. Holds an error class and a place in our code, never data."""


class Refused(SiteError):
    """This request gets no answer but a refusal. `detail` stays in the site's log."""

    def __init__(self, code: str, detail: str, *, sites: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.sites = sites

    def __reduce__(self) -> tuple[Callable[..., "Refused"], tuple[str, str, tuple[str, ...]]]:
        return _rebuild, (self.code, self.detail, self.sites)  # crosses from the trainer's process whole


def _rebuild(code: str, detail: str, sites: tuple[str, ...]) -> Refused:
    return Refused(code, detail, sites=sites)
