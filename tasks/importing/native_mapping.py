"""The reviewable file that says how a hospital's own tables become the contract's, as checked values. Nothing in it is guessed.

Every scalar is text, an unknown key is an error, and each column of the hospital's files is either used or listed with a
reason (`not_mapped`), so that a new column of an export is noticed. README.md shows the file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tasks import strict_yaml
from tasks.importing.errors import ImportRefused
from tasks.importing.native_cells import YES_NO
from tasks.importing.native_columns import AgeDay, Codes, Constant, Day, Drug, Filling, Text
from tasks.importing.native_dates import DateFormats
from tasks.importing.native_files import Index, SourceFile, one_of, parse_file, parse_index
from tasks.importing.native_ways import Defaults, parse_filling
from tasks.importing.native_words import decimal, listed, mapping_of, section, text, texts
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import Column, Table
from tasks.strict_yaml import Document

MAPPINGS: Final = Path(__file__).with_name("mappings")
_PLACE: Final = re.compile(r"\{([a-z_]+)\}")
_TOP: Final = (
    "source", "version", "recorded", "language", "missing", "dates", "pivot", "pseudonyms", "index", "files", "tables",
)  # fmt: skip


@dataclass(frozen=True)
class RowRule:
    """How rows of one file become rows of one table. A row is meant if every `where` and one of `filled` (if any) says so."""

    table: Table
    file: str
    where: Mapping[str, frozenset[str]]
    filled: tuple[str, ...]
    merge: bool  # one row for each patient, whose rows must agree
    columns: Mapping[str, Filling]

    @property
    def sources(self) -> tuple[str, ...]:
        """All source columns that it reads, each once."""
        read = [name for filling in self.columns.values() for name in filling.sources]
        return tuple(dict.fromkeys((*self.where, *self.filled, *read)))


@dataclass(frozen=True)
class NativeMapping:
    """A checked mapping."""

    source: str
    keep_ids: bool
    index: Index
    files: Mapping[str, SourceFile]
    rules: tuple[RowRule, ...]
    language: str
    folder: Path | None = field(default=None, repr=False)  # where it lies; reviewed.csv is looked for there

    @property
    def needs_key(self) -> bool:
        """Whether anything of it becomes a keyed pseudonym."""
        hidden = [each for rule in self.rules for each in rule.columns.values() if isinstance(each, Text) and each.hidden]
        return not self.keep_ids or bool(hidden)

    def read(self, file: str) -> tuple[str, ...]:
        """All columns of `file` that the mapping reads."""
        used = [name for rule in self.rules if rule.file == file for name in rule.sources]
        index = [self.index.source] if self.index.file == file else []
        return tuple(dict.fromkeys((self.files[file].patient, *index, *used)))


def shipped() -> list[str]:
    """Names of the mappings that come with the program: examples to start from."""
    return sorted(path.stem for path in MAPPINGS.glob("*.yaml"))


def find_mapping(named: str) -> NativeMapping:
    """The mapping in the file `named`, or the shipped one of that name."""
    path = Path(named).expanduser()
    if not path.is_file() and named in shipped():
        return read_native_mapping(MAPPINGS / f"{named}.yaml")
    return read_native_mapping(path)


def read_native_mapping(path: Path) -> NativeMapping:
    """The mapping in `path`; `ImportRefused` or `MappingError` says what to change."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ImportRefused(f"the mapping {path.name} is not there: write one (tasks/importing/README.md shows how)") from error
    except (OSError, UnicodeError) as error:
        raise ImportRefused(f"the mapping {path.name} cannot be read as UTF-8 text") from error
    return parse_native_mapping(content, name=path.name, folder=path.parent)


def parse_native_mapping(content: str, *, name: str = "the mapping", folder: Path | None = None) -> NativeMapping:
    """As `read_native_mapping`, from the file's text."""
    top = section(
        strict_yaml.parse(unicodedata.normalize("NFC", content), name),  # as the cells are
        name,
        _TOP,
        required=("source", "version", "recorded", "pseudonyms", "index", "files", "tables"),
    )
    if text(top["version"], "version") != str(CONTRACT.version):
        raise ImportRefused(
            f"the mapping is for another version of the data contract than {CONTRACT.version}: review it, then change it"
        )
    language = one_of(top.get("language", "en"), "language", YES_NO)
    dates, pivot = listed(top.get("dates", []), "dates"), top.get("pivot")
    year = int(decimal(pivot, "pivot")) if pivot is not None else None
    formats = DateFormats(dates, language, year) if dates else None
    defaults = Defaults(language, texts(top.get("missing", []), "missing") | {""}, formats, year)
    files = {key: parse_file(key, each, defaults) for key, each in mapping_of(top["files"], "files").items()}
    index = parse_index(top["index"], files, defaults)
    recorded = one_of(top["recorded"], "recorded", CONTRACT.table("patients").column("source").vocabulary)
    rules = [
        rule
        for table, each in mapping_of(top["tables"], "tables").items()
        for rule in _rules(table, each, files, defaults, recorded)
    ]
    keep = one_of(top["pseudonyms"], "pseudonyms", ("keep", "keyed")) == "keep"
    mapping = NativeMapping(text(top["source"], "source"), keep, index, files, tuple(rules), language, folder)
    _check(mapping)
    return mapping


def _rules(name: str, value: Document, files: Mapping[str, SourceFile], defaults: Defaults, recorded: str) -> list[RowRule]:
    if name not in CONTRACT.names:
        raise ImportRefused(f"tables.{name}: the contract has no such table; it has {', '.join(CONTRACT.names)}")
    if not isinstance(value, list) or not value:
        raise ImportRefused(f"tables.{name} must be a list of rules, each with file and columns")
    return [
        _rule(CONTRACT.table(name), given, files, defaults, recorded)
        for each in value
        for given in _repeated(each, f"tables.{name}")
    ]


def _repeated(value: Document, where: str) -> list[dict[str, Document]]:
    """A rule once, or once for each value of its `repeat`, whose {name} it holds."""
    given = section(value, where, ("file", "where", "filled", "merge", "repeat", "columns"), required=("file", "columns"))
    if "repeat" not in given:
        return [given]
    repeat = mapping_of(given["repeat"], f"{where}.repeat")
    lengths = {len(listed(each, f"{where}.repeat")) for each in repeat.values()}
    if len(lengths) != 1 or not (count := lengths.pop()):
        raise ImportRefused(f"{where}.repeat: its lists must be of one length, at least 1")
    rest = {key: each for key, each in given.items() if key != "repeat"}
    turns = [{name: listed(each, where)[turn] for name, each in repeat.items()} for turn in range(count)]
    found = [_filled_in(rest, turn, where) for turn in turns]
    return [each for each in found if isinstance(each, dict)]


def _filled_in(value: Document, turn: Mapping[str, str], where: str) -> Document:
    if isinstance(value, str):
        if strange := [name for name in _PLACE.findall(value) if name not in turn]:
            raise ImportRefused(f"{where}: {{{strange[0]}}} is not in repeat")
        return _PLACE.sub(lambda found: turn[found[1]], value)
    if isinstance(value, list):
        return [_filled_in(each, turn, where) for each in value]
    return {str(_filled_in(key, turn, where)): _filled_in(each, turn, where) for key, each in value.items()}


def _rule(
    table: Table, given: Mapping[str, Document], files: Mapping[str, SourceFile], defaults: Defaults, recorded: str
) -> RowRule:
    where = f"tables.{table.name}"
    file = one_of(given["file"], f"{where}.file", files)
    columns = section(given["columns"], f"{where}.columns", [name for name in table.names if name != "patient_id"])
    own = Defaults(defaults.language, files[file].missing, defaults.dates, defaults.pivot)
    fillings = {
        name: parse_filling(each, table, table.column(name), own, _unit_by(table, name, columns)) for name, each in columns.items()
    }
    fillings.setdefault("source", Constant(recorded))
    if absent := [name for name in table.required if name not in fillings and name != "patient_id"]:
        raise ImportRefused(f"{where} says nothing of {', '.join(absent)}, which the contract requires")
    wheres = mapping_of(given["where"], f"{where}.where") if "where" in given else {}
    return RowRule(
        table=table,
        file=file,
        where={name: texts(each, f"{where}.where.{name}") for name, each in wheres.items()},
        filled=listed(given.get("filled", []), f"{where}.filled"),
        merge=one_of(given.get("merge", "no"), f"{where}.merge", ("yes", "no")) == "yes",
        columns={name: fillings[name] for name in table.names if name in fillings},
    )


def _unit_by(table: Table, name: str, columns: Mapping[str, Document]) -> str:
    """The contract's unit of a value whose unit depends on a code, if the mapping gives that code as a constant."""
    column: Column = table.column(name)
    if (by := column.limits_by) is None:
        return ""
    code = columns.get(by.column)
    constant = code.get("constant") if isinstance(code, dict) else None
    return by.limits[constant].unit if isinstance(constant, str) and constant in by.limits else ""


def _check(mapping: NativeMapping) -> None:
    """What concerns several sections."""
    fillings = [filling for rule in mapping.rules for filling in rule.columns.values()]
    if mapping.index.kind not in {"date", "first_date"} and any(isinstance(each, Day) for each in fillings):
        raise ImportRefused(
            "the mapping has columns `as: date`, and index names no date to count them from: use date or first_date"
        )
    if mapping.index.kind != "first_age" and any(isinstance(each, AgeDay) for each in fillings):
        raise ImportRefused("the mapping has columns `as: age_day`: index must then be first_age")
    for key, file in mapping.files.items():
        read = mapping.read(key)
        if not any(rule.file == key for rule in mapping.rules) and mapping.index.file != key:
            raise ImportRefused(f"files.{key} is read by no table: leave it out")
        if both := [name for name in read if name in file.not_mapped]:
            raise ImportRefused(f"files.{key}: the column {both[0]!r} is used and also listed in not_mapped: decide which")
    for rule in mapping.rules:
        if rule.merge and rule.table.key != ("patient_id",):
            raise ImportRefused(f"tables.{rule.table.name}: merge is for tables with one row for each patient")
        number = mapping.files[rule.file].patient
        shown = [
            name for name, each in rule.columns.items() if isinstance(each, Text) and not each.hidden and each.source == number
        ]
        if shown and not mapping.keep_ids:
            raise ImportRefused(f"tables.{rule.table.name}.{shown[0]}: patients' numbers stay here: use `as: pseudonym`")
        named, filed = rule.columns.get("drug"), rule.columns.get("dmt_class")
        if isinstance(filed, Drug) and not (isinstance(named, Drug) and named.source == filed.source):
            raise ImportRefused("tables.treatments.dmt_class: `as: drug_class` needs drug from the same column, `as: drug`")
        if isinstance(code := rule.columns.get("unit"), Codes) and rule.table.name == "biomarkers":
            raise ImportRefused(f"tables.biomarkers.unit: each analyte has one unit: use a constant, not {len(code.codes)} codes")
