"""YAML in which every scalar is text, every key is unique and nothing is shared: what you read is what it means.

Ordinary YAML turns `no` into false, `1` into a number and `12:30` into 750, and silently keeps the last of two equal
keys. In a file that decides what a code in a patient table means, none of that may happen.
"""

from __future__ import annotations

from typing import TypeAlias

import yaml

from tasks.errors import MappingError

Document: TypeAlias = "str | list[Document] | dict[str, Document]"
MAX_CHARACTERS = 1_000_000


def parse(text: str, name: str) -> Document:
    """Strings, lists and dictionaries from YAML `text`; `MappingError` names the file `name` and the line."""
    if len(text) > MAX_CHARACTERS:
        raise MappingError(f"{name} has {len(text)} characters, limit {MAX_CHARACTERS}: this is no mapping file")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.BaseLoader)):
            raise MappingError(f"{name} uses a YAML alias (*name): write the value out")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise MappingError(f"{name} line {line} is not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise MappingError(f"{name} is not valid YAML") from error
    if node is None:
        raise MappingError(f"{name} is empty: describe how the table maps to the contract")
    return _document(node, name)


def _document(node: yaml.Node, name: str) -> Document:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_document(item, name) for item in node.value]
    found: dict[str, Document] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise MappingError(f"{name} line {line}: a key must be plain text")
        if key.value in found:
            raise MappingError(f"{name} line {line}: the key {key.value!r} appears twice")
        found[str(key.value)] = _document(value, name)
    return found
