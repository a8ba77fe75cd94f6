"""Documents are frozen dataclasses; their bytes are canonical JSON, and only exactly those bytes decode.

`to_document` and `from_document` derive the format from the annotations: bytes are hex, tuples are lists, an unknown or
missing key, another type or an out-of-rule value is a `DocumentError` that names the place. `Signed` is document + signatures.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

from consortium.canonical import Json, decode_json, digest, encode_json, pack, parse_text, text, unpack
from consortium.errors import DocumentError, EncodingError, SignatureError
from consortium.identity import SigningKey, verify

T = TypeVar("T")
_Read: TypeAlias = Callable[[Json, str], Any]  # a value as it stands in JSON, and its place, to what the dataclass holds
MAX_DOCUMENT = 4 * 2**20  # bytes; a plan of 30 sites and a 200-tensor model is 40 KiB
_SCALARS = (bool, int, float, str)


def to_document(value: Any) -> Json:
    """The JSON form of a dataclass instance (or of a value inside one)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_document(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [to_document(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DocumentError(f"a document cannot hold a {type(value).__name__}")


def from_document(kind: type[T], document: Json, where: str = "") -> T:
    """The dataclass instance that `document` describes. Raises `DocumentError` naming the key that is wrong."""
    place = where or kind.__name__.lower()
    if not isinstance(document, dict):
        raise DocumentError(f"{place}: expected an object, got {type(document).__name__}")
    rules = _rules(typing.cast(Any, kind))
    if document.keys() != rules.keys():
        _refuse_keys(document, list(rules), place)
    values = {}
    for name, (exact, read) in rules.items():
        value = document[name]
        values[name] = value if type(value) is exact else read(value, f"{place}.{name}")
    return kind(**values)


def _refuse_keys(document: Mapping[str, Json], names: list[str], place: str) -> NoReturn:
    if unknown := sorted(set(document) - set(names)):
        raise DocumentError(f"{place}: unknown key {unknown[0]!r}; known: {', '.join(names)}")
    missing = [name for name in names if name not in document]
    raise DocumentError(f"{place}: key {missing[0]!r} is missing")


@functools.cache
def _rules(kind: type) -> dict[str, tuple[type, _Read]]:
    """For each field the type whose values stand as they are, and what reads, or refuses, any other value.

    Derived once for each dataclass: a ledger of 10,000 rounds has 30,000 lines, and some 250,000 fields.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    return {name: (hints[name] if hints[name] in _SCALARS else _Never, _reader(hints[name])) for name in names}


class _Never:
    """The type of no value."""


def _reader(hint: Any) -> _Read:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return functools.partial(_union, arguments)
    if origin is typing.Literal:
        return functools.partial(_literal, arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return functools.partial(_sequence, _reader(arguments[0]))
    if origin is tuple:
        return functools.partial(_fixed_sequence, tuple(map(_reader, arguments)))
    if dataclasses.is_dataclass(hint):
        return functools.partial(from_document, typing.cast(Any, hint))
    return _hex if hint is bytes else functools.partial(_scalar, hint)


def _scalar(hint: Any, value: Json, place: str) -> Json:
    if type(value) is not hint:  # exact: True is no int, 1 is no float
        raise DocumentError(f"{place}: expected {hint.__name__}, got {type(value).__name__}")
    return value


def _literal(choices: tuple[Any, ...], value: Json, place: str) -> Json:
    if value not in choices or isinstance(value, bool):
        raise DocumentError(f"{place}: {value!r} is not one of {', '.join(map(str, choices))}")
    return value


def _union(hints: tuple[Any, ...], value: Json, place: str) -> Any:
    for hint in hints:
        if type(value) is hint:
            return value
    raise DocumentError(f"{place}: expected one of {', '.join(h.__name__ for h in hints)}, got {type(value).__name__}")


def _sequence(read: _Read, value: Json, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DocumentError(f"{place}: expected a list, got {type(value).__name__}")
    return tuple(read(item, f"{place}[{at}]") for at, item in enumerate(value))


def _fixed_sequence(reads: tuple[_Read, ...], value: Json, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DocumentError(f"{place}: expected a list, got {type(value).__name__}")
    if len(value) != len(reads):
        raise DocumentError(f"{place}: {len(value)} items, expected {len(reads)}")
    return tuple(read(item, f"{place}[{at}]") for at, (read, item) in enumerate(zip(reads, value, strict=True)))


def _hex(value: Json, place: str) -> bytes:
    if not isinstance(value, str):
        raise DocumentError(f"{place}: expected hex text, got {type(value).__name__}")
    try:
        data = bytes.fromhex(value)
    except ValueError as error:
        raise DocumentError(f"{place}: not hex text") from error
    if data.hex() != value:
        raise DocumentError(f"{place}: hex text must be lower case, without spaces")
    return data


def _check_readable(value: Json, place: str) -> None:
    """No control, bidirectional or line characters: what a steward reads on a screen is what the signature covers."""
    if isinstance(value, str) and not value.isprintable():
        raise DocumentError(f"{place}: text has a character that does not print: {value!r:.80}")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_readable(item, f"{place}.{key}")
    if isinstance(value, list):
        for at, item in enumerate(value):
            _check_readable(item, f"{place}[{at}]")


@dataclass(frozen=True)
class Signed:
    """A document's exact bytes and who signed them. Nothing in it is trusted before a `verify_…` function returned."""

    kind: str
    body: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> bytes:
        """32 bytes that name this document everywhere; signatures are not part of it."""
        return digest(f"wardround/{self.kind}/1", self.body)

    @classmethod
    def of(cls, kind: str, document: Any) -> "Signed":
        written = to_document(document)
        _check_readable(written, kind)
        return cls(kind, encode_json(written), ())

    def sign(self, signer: str, key: SigningKey) -> "Signed":
        """The same document with one more signature (a signer's earlier one is replaced)."""
        others = tuple(pair for pair in self.signatures if pair[0] != signer)
        signature = key.sign(f"wardround/{self.kind}/1", self.body)
        return Signed(self.kind, self.body, tuple(sorted((*others, (signer, signature)))))

    def signers(self, keys: Mapping[str, bytes]) -> tuple[str, ...]:
        """Who signed, all checked against `keys` (signer -> public key). Raises `SignatureError` on a stranger or a misfit."""
        names = [signer for signer, _ in self.signatures]
        if len(set(names)) != len(names):
            raise SignatureError(f"{self.kind}: a signer appears twice")
        for signer, signature in self.signatures:
            if signer not in keys:
                raise SignatureError(f"{self.kind}: signed by {signer!r}, who may not sign it")
            verify(keys[signer], signature, f"wardround/{self.kind}/1", self.body)
        return tuple(names)

    def expect(self, kind: str) -> "Signed":
        """Itself, if it is a document of that `kind`."""
        if self.kind != kind:
            raise DocumentError(f"a signed {self.kind} stands where a signed {kind} is expected")
        return self

    def document(self, kind: type[T]) -> T:
        """The content, as trustworthy as whoever signed it."""
        found = from_document(kind, decode_json(self.body))
        _check_readable(to_document(found), self.kind)
        return found

    def encode(self) -> bytes:
        flat = [field for signer, signature in self.signatures for field in (text(signer), signature)]
        return pack(text(f"wardround/signed-{self.kind}/1"), self.body, *flat)

    @classmethod
    def decode(cls, data: bytes, kind: str) -> "Signed":
        """Strict inverse of `encode` for this kind of document; raises `EncodingError`."""
        if len(data) > MAX_DOCUMENT:
            raise EncodingError(f"document of {len(data)} bytes, limit is {MAX_DOCUMENT}")
        fields = unpack(data)
        if len(fields) < 2 or len(fields) % 2 or parse_text(fields[0]) != f"wardround/signed-{kind}/1":
            raise EncodingError(f"not a signed {kind} of version 1: document of another kind or version")
        pairs = zip(fields[2::2], fields[3::2], strict=True)
        return cls(kind, fields[1], tuple((parse_text(signer), signature) for signer, signature in pairs))
