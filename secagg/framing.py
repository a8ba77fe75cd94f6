"""Bytes from outside become fields here or are refused with `ENCODING`; no other error leaves."""

from consortium.canonical import SITE_ID, pack, parse_integer, parse_text, text, unpack
from consortium.errors import EncodingError
from secagg.derive import label_of
from secagg.errors import SecaggError


def message(kind: str, *fields: bytes) -> bytes:
    """`pack("sa1/<kind>", fields)`."""
    return pack(text(label_of(kind)), *fields)


def fields_of(data: bytes, kind: str, count: int) -> tuple[bytes, ...]:
    """The `count` fields of a message of this kind."""
    found, *fields = items_of(data, count + 1)
    if found != text(label_of(kind)):
        raise SecaggError("ENCODING", f"not a message of kind {kind}: wrong kind, or another version")
    return tuple(fields)


def items_of(data: bytes, count: int | None = None) -> tuple[bytes, ...]:
    """The items of a packed list; with `count`, exactly so many."""
    try:
        return unpack(data, count)
    except EncodingError as error:
        raise SecaggError("ENCODING", str(error)) from error


def integer_of(data: bytes) -> int:
    try:
        return parse_integer(data)
    except EncodingError as error:
        raise SecaggError("ENCODING", str(error)) from error


def text_of(data: bytes) -> str:
    try:
        return parse_text(data)
    except EncodingError as error:
        raise SecaggError("ENCODING", str(error)) from error


def site_of(data: bytes) -> str:
    """A site id: 1 to 32 of a-z, 0-9 and hyphen."""
    site = text_of(data)
    if not SITE_ID.fullmatch(site):
        raise SecaggError("ENCODING", "site id is not 1 to 32 of a-z, 0-9 and hyphen: message altered")
    return site


def sized(size: int, *fields: bytes) -> None:
    """Refuses any field that has not `size` bytes."""
    for item in fields:
        if len(item) != size:
            raise SecaggError("ENCODING", f"field of {len(item)} bytes, expected {size}: message altered")
