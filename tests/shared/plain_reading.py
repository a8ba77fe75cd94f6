"""Documents and ledger lines, read field by field as their rules say, without anything that was made for speed.

The programs read them with rules derived once for each dataclass, and remember what they saw; this is what both must agree
with, for every line: the same content, or the same refusal in the same words.
"""

import dataclasses
import json
import random
import re
import types
import typing
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from consortium.canonical import Json, digest
from consortium.errors import DocumentError, EncodingError
from privacy import entries
from privacy.entries import HASH_SIZE, KINDS, LINE_LABEL, LINE_MOST, Content, Entry, SpendDetails, SpendRecord
from privacy.errors import EventError, LedgerError
from privacy.events import spend_from_document

KEYS = {"body", "index", "kind", "previous", "signature", "time"}


def plain_json(data: bytes) -> Json:
    """The value of canonical JSON bytes."""
    try:
        value: Json = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise EncodingError(f"{len(data)} bytes are not JSON in ASCII: file damaged or of another kind") from error
    try:
        written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise EncodingError(f"value has no canonical JSON form: {error}") from error
    if written.encode("ascii") != data:
        raise EncodingError("JSON is not in canonical form: keys sorted, no spaces, no duplicates; re-export the document")
    return value


def plain_document(kind: Any, document: Json, where: str = "") -> Any:
    """The dataclass instance that `document` describes."""
    place = where or kind.__name__.lower()
    if not isinstance(document, dict):
        raise DocumentError(f"{place}: expected an object, got {type(document).__name__}")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(document) - set(names)):
        raise DocumentError(f"{place}: unknown key {unknown[0]!r}; known: {', '.join(names)}")
    if missing := [name for name in names if name not in document]:
        raise DocumentError(f"{place}: key {missing[0]!r} is missing")
    return kind(**{name: _value(hints[name], document[name], f"{place}.{name}") for name in names})


def _value(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(value) not in arguments:
            words = ", ".join(each.__name__ for each in arguments)
            raise DocumentError(f"{place}: expected one of {words}, got {type(value).__name__}")
        return value
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            raise DocumentError(f"{place}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _items(arguments, value, place)
    if dataclasses.is_dataclass(hint):
        return plain_document(hint, value, place)
    if hint is bytes:
        return _hex(value, place)
    if type(value) is not hint:
        raise DocumentError(f"{place}: expected {hint.__name__}, got {type(value).__name__}")
    return value


def _items(hints: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DocumentError(f"{place}: expected a list, got {type(value).__name__}")
    if hints[1:] == (Ellipsis,):
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise DocumentError(f"{place}: {len(value)} items, expected {len(hints)}")
    return tuple(_value(hint, item, f"{place}[{at}]") for at, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _hex(value: Any, place: str) -> bytes:
    if not isinstance(value, str):
        raise DocumentError(f"{place}: expected hex text, got {type(value).__name__}")
    try:
        data = bytes.fromhex(value)
    except ValueError as error:
        raise DocumentError(f"{place}: not hex text") from error
    if not re.fullmatch(r"([0-9a-f]{2})*", value):
        raise DocumentError(f"{place}: hex text must be lower case, without spaces")
    return data


def plain_entry(line: bytes, index: int) -> Entry:
    """The ledger entry in these bytes, which must stand at `index`."""
    if len(line) > LINE_MOST:
        raise LedgerError(f"line of {len(line)} bytes, limit is {LINE_MOST}: not a ledger line", index)
    try:
        document = plain_json(line)
        if not isinstance(document, dict) or set(document) != KEYS:
            raise LedgerError(f"a line has exactly the keys {', '.join(sorted(KEYS))}: altered, or another file", index)
        return _entry(document, index, digest(LINE_LABEL, line))
    except (EncodingError, DocumentError, EventError) as error:
        raise LedgerError(f"line cannot be read: {error}", index) from error


def _entry(document: dict[str, Json], index: int, own_hash: bytes) -> Entry:
    kind, time, body = document["kind"], document["time"], document["body"]
    if type(document["index"]) is not int or document["index"] != index:
        raise LedgerError(f"the line says it is entry {document['index']!r}: lines were removed, added or reordered", index)
    if not isinstance(kind, str) or not isinstance(time, str) or not isinstance(body, dict):
        raise LedgerError("kind and time must be texts and body an object: line altered", index)
    if not _is_time(time):
        raise LedgerError("time must look like 2026-01-31T12:00:00Z", index)
    sizes = {"previous": HASH_SIZE, "signature": 64}
    for name, size in sizes.items():
        if not isinstance(document[name], str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", str(document[name])):
            raise LedgerError(f"{name} must be {2 * size} lower-case hex digits: line altered", index)
    previous, signature = (bytes.fromhex(str(document[name])) for name in sizes)
    return Entry(index, kind, time, previous, _content(kind, body), signature, own_hash)


def _is_time(text: str) -> bool:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text, re.ASCII) or text < "1000":
        return False
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return True


def _content(kind: str, body: dict[str, Json]) -> Content:
    if kind not in KINDS:
        raise DocumentError(f"kind {kind!r} is not one of {', '.join(KINDS)}: written by newer code, or altered")
    content = _spend(body) if kind == "spend" else plain_document(entries._CONTENTS[kind], body, kind)
    for name, value in vars(content.details if isinstance(content, SpendRecord) else content).items():
        if isinstance(value, str) and (len(value) > 2_000 or not re.fullmatch(r"[ -~]*", value)):
            raise DocumentError(f"{name} must be printable ASCII of at most 2000 characters")
        if isinstance(value, bytes) and len(value) != HASH_SIZE:
            raise DocumentError(f"{name} has {len(value)} bytes, expected {HASH_SIZE}")
    entries._check(content)  # what remains are the rules of each kind
    return typing.cast(Content, content)


def _spend(body: dict[str, Json]) -> SpendRecord:
    spends, after = body.get("spends"), body.get("epsilon_after")
    if not isinstance(spends, list) or not spends:
        raise DocumentError("spend.spends must be a list with at least one spend")
    if not isinstance(after, float):
        raise DocumentError(f"spend.epsilon_after is a {type(after).__name__}, expected a float")
    rest = {name: value for name, value in body.items() if name not in ("spends", "epsilon_after")}
    return SpendRecord(plain_document(SpendDetails, rest, "spend"), tuple(map(spend_from_document, spends)), after)


def altered(document: Json, odd: Sequence[Json], chance: random.Random) -> Json:
    """The document with one of the `odd` values in a place that chance picks, or with a key or an item more or less."""
    if isinstance(document, dict) and document and chance.random() < 0.95:
        name, copy = chance.choice(list(document)), dict(document)
        match chance.randrange(14):
            case 0:
                del copy[name]
            case 1:
                copy[f"{name}s"] = copy[name]
            case _:
                copy[name] = altered(copy[name], odd, chance)
        return copy
    if isinstance(document, list) and document and chance.random() < 0.9:
        at = chance.randrange(len(document))
        changed: list[Json] = [altered(document[at], odd, chance), *document[at + 1 :]]
        return document[:at] + (document[at + 1 :] if chance.random() < 0.1 else changed)
    return chance.choice(odd)
