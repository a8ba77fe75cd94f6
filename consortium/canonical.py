"""One encoding for everything that is hashed or signed, so that two parties never sign different bytes for one meaning.

`pack` frames binary fields (secure aggregation, section 4.2 of its specification); `encode_json` writes documents that
people read. A digest is always `SHA-256(pack(label, fields))`: the label separates the uses, the framing the fields.
Decoders are strict: known count, exact lengths, no trailing byte, and re-encoding gives the very same bytes.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import TypeAlias

from consortium.errors import EncodingError

Bytes: TypeAlias = bytes | bytearray | memoryview  # of a model or a masked vector, handed on without a copy
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LENGTH_SIZE = 4
INTEGER_SIZE = 8
MAX_FIELD = 2**32 - 1
SITE_ID = re.compile(r"[a-z0-9-]{1,32}")

_WRITTEN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def pack(*fields: Bytes) -> bytes:
    """u32 count, then u32 length and bytes of each field, all big-endian."""
    return b"".join(pack_parts(*fields))


def pack_parts(*fields: Bytes) -> Iterator[Bytes]:
    """The bytes of `pack` piece by piece, each field as it lies in memory: for what is too large to be copied."""
    yield len(fields).to_bytes(LENGTH_SIZE, "big")
    for field in fields:
        if len(field) > MAX_FIELD:
            raise EncodingError(f"field of {len(field)} bytes, limit is {MAX_FIELD}: send it in a stream instead")
        yield len(field).to_bytes(LENGTH_SIZE, "big")
        yield field


def unpack(data: Bytes, count: int | None = None) -> tuple[bytes, ...]:
    """The fields of one `pack`; with `count`, exactly so many. Raises `EncodingError` on any other bytes."""
    found = _u32(data, 0)
    if count is not None and found != count:
        raise EncodingError(f"{found} fields, expected {count}: message of another kind or version")
    if found * LENGTH_SIZE > len(data):
        raise EncodingError(f"{found} fields announced in {len(data)} bytes: message cut short")
    fields, at = [], LENGTH_SIZE
    for _ in range(found):
        size = _u32(data, at)
        at += LENGTH_SIZE
        if at + size > len(data):
            raise EncodingError(f"field of {size} bytes at offset {at} in {len(data)} bytes: message cut short")
        fields.append(bytes(data[at : at + size]))
        at += size
    if at != len(data):
        raise EncodingError(f"{len(data) - at} bytes after the last field: message altered")
    return tuple(fields)


def _u32(data: Bytes, at: int) -> int:
    if at + LENGTH_SIZE > len(data):
        raise EncodingError(f"{len(data)} bytes end inside a length at offset {at}: message cut short")
    return int.from_bytes(data[at : at + LENGTH_SIZE], "big")


def integer(value: int) -> bytes:
    """8 bytes, big-endian; range [0, 2**64)."""
    if not 0 <= value < 2 ** (8 * INTEGER_SIZE):
        raise EncodingError(f"integer {value} outside [0, 2**64)")
    return value.to_bytes(INTEGER_SIZE, "big")


def parse_integer(data: bytes) -> int:
    if len(data) != INTEGER_SIZE:
        raise EncodingError(f"integer of {len(data)} bytes, expected {INTEGER_SIZE}")
    return int.from_bytes(data, "big")


def text(value: str) -> bytes:
    """ASCII bytes."""
    try:
        return value.encode("ascii")
    except UnicodeEncodeError as error:
        raise EncodingError(f"text has a non-ASCII character at {error.start}: use ASCII only") from error


def parse_text(data: bytes) -> str:
    try:
        return bytes(data).decode("ascii")
    except UnicodeDecodeError as error:
        raise EncodingError(f"text has a non-ASCII byte at {error.start}: message altered") from error


def digest(label: str, *fields: bytes) -> bytes:
    """SHA-256 over `pack(label, fields)`, 32 bytes. Every digest of the consortium is made here."""
    return hashlib.sha256(pack(text(label), *fields)).digest()


def encode_json(value: Json) -> bytes:
    """Canonical JSON: ASCII, keys sorted, no spaces, shortest float form, no NaN or infinity."""
    try:
        return _WRITTEN(value).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise EncodingError(f"value has no canonical JSON form: {error}") from error


def decode_json(data: bytes) -> Json:
    """The value of canonical JSON bytes; refuses any other spelling of it, duplicated keys and NaN included."""
    try:
        value: Json = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"{len(data)} bytes are not JSON in ASCII: file damaged or of another kind") from error
    if encode_json(value) != bytes(data):
        raise EncodingError("JSON is not in canonical form: keys sorted, no spaces, no duplicates; re-export the document")
    return value
