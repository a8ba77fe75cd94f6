"""The reviewable file that says how a hospital's own table becomes the contract's, and refuses what gives the answer away.

Nothing is guessed: an unknown key, a code that leads nowhere, a contract column without an answer or a source column
that the contract refuses stops the site with a reason. `tasks/README.md` shows the file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from tasks import strict_yaml
from tasks.base import Column, Contract
from tasks.errors import MappingError
from tasks.strict_yaml import Document

MAPPING_FILE = "mapping.yaml"
DELIMITERS = {",": ",", ";": ";", "tab": "\t", "|": "|"}
BINARY_CODES = {"0": 0.0, "1": 1.0}


@dataclass(frozen=True)
class TableFormat:
    """How the native file is written."""

    name: str
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."


@dataclass(frozen=True)
class CodedSource:
    """A source column whose texts are codes: `codes` gives the number that each stands for."""

    source: str
    codes: Mapping[str, float]
    missing: frozenset[str]


@dataclass(frozen=True)
class NumericSource:
    """A source column of numbers: contract value = number * `scale`."""

    source: str
    scale: float
    missing: frozenset[str]


@dataclass(frozen=True)
class AbsentSource:
    """The hospital does not record this column; every value is missing."""

    reason: str
    source: str = ""


Source = CodedSource | NumericSource | AbsentSource


@dataclass(frozen=True)
class TableMapping:
    """A checked mapping: one source per contract column, in the contract's order."""

    table: TableFormat
    missing: frozenset[str]
    id_source: str
    label: CodedSource
    columns: tuple[Source, ...]
    ignored: Mapping[str, str]  # source column -> reason
    leaks: Mapping[str, str]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Source columns that feed the model, each once."""
        return tuple(dict.fromkeys(source.source for source in self.columns if source.source))

    @property
    def read(self) -> tuple[str, ...]:
        """All source columns that must exist in the table."""
        return tuple(dict.fromkeys((self.id_source, self.label.source, *self.inputs)))


def read_mapping(path: Path, contract: Contract) -> TableMapping:
    """The mapping in `path`, checked against `contract`; `MappingError` says what to change."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MappingError(f"{path.name} not found: write one beside the table (tasks/README.md shows how)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MappingError(f"{path.name} cannot be read as UTF-8 text") from error
    return parse_mapping(text, contract, name=path.name)


def parse_mapping(text: str, contract: Contract, *, name: str = MAPPING_FILE) -> TableMapping:
    """As `read_mapping`, from the file's text."""
    known = ("task", "version", "table", "missing", "id", "label", "columns", "ignored", "leaks")
    top = _section(strict_yaml.parse(text, name), name, known, required=known[:3] + known[4:7])
    _check_task(top, contract)
    missing = _texts(top.get("missing", [""]), "missing")
    mapping = TableMapping(
        table=_table(top["table"]),
        missing=missing,
        id_source=_text(_section(top["id"], "id", ("from",), required=("from",))["from"], "id.from"),
        label=_label(top["label"], missing),
        columns=_columns(top["columns"], contract, missing),
        ignored=_reasons(top.get("ignored", {}), "ignored"),
        leaks=_reasons(top.get("leaks", {}), "leaks"),
    )
    _refuse_leaks(mapping, contract)
    return mapping


def _refuse_leaks(mapping: TableMapping, contract: Contract) -> None:
    """Refuse every input that the contract, the label, the id or the hospital's own list of leaks forbids."""
    for column, source in zip(contract.columns, mapping.columns, strict=True):
        if not source.source:
            continue
        reason = contract.refusal(source.source) or mapping.leaks.get(source.source)
        if source.source == mapping.label.source:
            reason = "it is the column that holds the label"
        if source.source == mapping.id_source:
            reason = "it is the column that holds the patient id"
        if reason:
            raise MappingError(
                f"columns.{column.name}: the source column {source.source!r} may not be an input: {reason}. "
                "Map another column, or declare this one absent"
            )
        if source.source in mapping.ignored:
            raise MappingError(f"columns.{column.name}: the source column {source.source!r} is also listed in ignored")


def _check_task(top: Mapping[str, Document], contract: Contract) -> None:
    named = (_text(top["task"], "task"), _text(top["version"], "version"))
    if named != (contract.task, contract.version):
        raise MappingError(
            f"the mapping is for task {named[0]} version {named[1]}, the contract is {contract.task} "
            f"version {contract.version}: review the mapping against the contract, then change its version"
        )


def _table(value: Document) -> TableFormat:
    section = _section(value, "table", ("name", "encoding", "delimiter", "decimal"), required=("name",))
    name = _text(section["name"], "table.name")
    if PurePath(name).name != name or "\\" in name or name in {".", ".."}:
        raise MappingError(f"table.name is {name!r}: give the bare name of a file in the mapping's own folder")
    encoding = _text(section.get("encoding", "utf-8"), "table.encoding")
    try:
        "".encode(encoding)
    except LookupError as error:
        raise MappingError(f"table.encoding is {encoding!r}: unknown; utf-8, latin-1 and cp1252 are usual") from error
    delimiter = _text(section.get("delimiter", ","), "table.delimiter")
    if delimiter not in DELIMITERS:
        raise MappingError(f"table.delimiter is {delimiter!r}: use one of {', '.join(DELIMITERS)}")
    decimal = _text(section.get("decimal", "."), "table.decimal")
    if decimal not in {".", ","}:
        raise MappingError(f"table.decimal is {decimal!r}: use '.' or ','")
    return TableFormat(name, encoding, DELIMITERS[delimiter], decimal)


def _label(value: Document, missing: frozenset[str]) -> CodedSource:
    section = _section(value, "label", ("from", "codes", "missing"), required=("from", "codes"))
    codes = _codes(section["codes"], "label", BINARY_CODES)
    if set(codes.values()) != {0.0, 1.0}:
        raise MappingError("label.codes must lead to both 0 and 1")
    unknown = missing | _texts(section.get("missing", []), "label.missing")
    return CodedSource(_text(section["from"], "label.from"), _without_clash(codes, unknown, "label"), unknown)


def _columns(value: Document, contract: Contract, missing: frozenset[str]) -> tuple[Source, ...]:
    names = contract.column_names
    section = _section(value, "columns", names, required=names)
    return tuple(_source(section[column.name], column, missing) for column in contract.columns)


def _source(value: Document, column: Column, missing: frozenset[str]) -> Source:
    where = f"columns.{column.name}"
    if isinstance(value, dict) and "absent" in value:
        reason = _text(_section(value, where, ("absent",), required=("absent",))["absent"], f"{where}.absent")
        if not column.nullable:
            raise MappingError(f"{where}: the contract requires this column, it cannot be absent")
        return AbsentSource(reason)
    if column.kind == "numeric":
        return _numeric_source(value, column, missing)
    section = _section(value, where, ("from", "codes", "missing"), required=("from",))
    targets = {name: float(index) for index, name in enumerate(column.categories)} or BINARY_CODES
    codes = _codes(section["codes"], where, targets) if "codes" in section else targets
    unknown = missing | _texts(section.get("missing", []), f"{where}.missing")
    return CodedSource(_text(section["from"], f"{where}.from"), _without_clash(codes, unknown, where), unknown)


def _numeric_source(value: Document, column: Column, missing: frozenset[str]) -> NumericSource:
    where = f"columns.{column.name}"
    section = _section(value, where, ("from", "unit", "scale", "missing"), required=("from",))
    unit = _text(section["unit"], f"{where}.unit") if "unit" in section else column.unit
    if unit != column.unit and "scale" not in section:
        raise MappingError(
            f"{where}.unit is {unit!r} but the contract's is {column.unit!r}: add scale, the factor from one to the other"
        )
    text = _text(section.get("scale", "1"), f"{where}.scale")
    try:
        scale = float(text)
    except ValueError as error:
        raise MappingError(f"{where}.scale is {text!r}: not a number") from error
    if not math.isfinite(scale) or scale == 0:
        raise MappingError(f"{where}.scale is {text!r}: it must be finite and not 0")
    unknown = missing | _texts(section.get("missing", []), f"{where}.missing")
    return NumericSource(_text(section["from"], f"{where}.from"), scale, unknown)


def _codes(value: Document, where: str, targets: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise MappingError(f"{where}.codes must list source code: meaning")
    codes: dict[str, float] = {}
    for code, meaning in value.items():
        if not isinstance(meaning, str) or meaning not in targets:
            raise MappingError(f"{where}.codes: {code!r} leads to {meaning!r}; the contract knows {', '.join(targets)}")
        codes[code.strip()] = targets[meaning]
    return codes


def _without_clash(codes: Mapping[str, float], missing: frozenset[str], where: str) -> Mapping[str, float]:
    if clash := sorted(missing & codes.keys()):
        raise MappingError(f"{where}: {clash[0]!r} is listed both as a code and as missing: decide which")
    return codes


def _section(value: Document, where: str, known: Collection[str], *, required: Collection[str]) -> dict[str, Document]:
    if not isinstance(value, dict):
        raise MappingError(f"{where} must be a section with {', '.join(known)}")
    if strange := sorted(value.keys() - set(known)):
        raise MappingError(f"{where} has the unknown key {strange[0]!r}; known: {', '.join(known)}")
    if absent := [key for key in required if key not in value]:
        raise MappingError(f"{where} lacks {', '.join(absent)}")
    return value


def _text(value: Document, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MappingError(f"{where} must be one text, not empty")
    return value.strip()


def _texts(value: Document, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MappingError(f'{where} must be a list of texts, such as ["", "unknown"]')
    return frozenset(str(item).strip() for item in value)


def _reasons(value: Document, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise MappingError(f"{where} must list source column: reason")
    return {column.strip(): _text(reason, f"{where}.{column}") for column, reason in value.items()}
