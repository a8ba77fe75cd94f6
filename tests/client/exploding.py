"""A description of data that goes off in the trainer's process, quoting a patient, where nobody foresaw it."""

from dataclasses import dataclass

CANARY = "Marie-Curie-4711"


@dataclass(frozen=True)
class Device:
    """Goes off when it is asked what was found."""

    def told(self) -> str:
        raise RuntimeError(f"row of {CANARY}")


@dataclass(frozen=True)
class Source:
    """Goes off before anything is loaded."""

    @property
    def threads(self) -> int:
        raise RuntimeError(f"row of {CANARY}")
