"""The parts of a mapping as checked values: a section, a list, a text, a number. Each error says where and what to write."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal, InvalidOperation

from tasks.importing.errors import ImportRefused
from tasks.strict_yaml import Document


def section(value: Document, where: str, known: Collection[str], *, required: Collection[str] = ()) -> dict[str, Document]:
    """`value` as a section with no key that is not known, and all that are required."""
    if not isinstance(value, dict):
        raise ImportRefused(f"{where} must be a section with {', '.join(known)}")
    if strange := sorted(value.keys() - set(known)):
        raise ImportRefused(f"{where} has the unknown key {strange[0]!r}; known: {', '.join(known)}")
    if absent := [key for key in required if key not in value]:
        raise ImportRefused(f"{where} lacks {', '.join(absent)}")
    return value


def mapping_of(value: Document, where: str) -> dict[str, Document]:
    """`value` as a section with keys of the hospital's own."""
    if not isinstance(value, dict) or not value:
        raise ImportRefused(f"{where} must list one thing: what it means")
    return value


def text(value: Document, where: str) -> str:
    """`value` as one text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ImportRefused(f"{where} must be one text, not empty")
    return value.strip()


def listed(value: Document, where: str) -> tuple[str, ...]:
    """`value` as a list of texts, in its order."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImportRefused(f"{where} must be a list of texts")
    return tuple(str(item).strip() for item in value)


def texts(value: Document, where: str) -> frozenset[str]:
    """`value` as a set of texts."""
    return frozenset(listed(value, where))


def decimal(value: Document, where: str) -> Decimal:
    """`value` as a finite number with a decimal point."""
    try:
        number = Decimal(text(value, where))
    except InvalidOperation as error:
        raise ImportRefused(f"{where} must be a number with a decimal point") from error
    if not number.is_finite():
        raise ImportRefused(f"{where} must be finite")
    return number
