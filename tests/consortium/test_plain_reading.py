"""Rules derived once for each dataclass read what its annotations say, and refuse the rest in the same words."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_reading import altered, plain_document, plain_json

from consortium.canonical import Json, decode_json, encode_json
from consortium.documents import from_document, to_document
from consortium.errors import ConsortiumError
from consortium.plan import Plan
from consortium.roster import Roster


@dataclass(frozen=True)
class Inner:
    data: bytes
    pair: tuple[str, int]
    none: tuple[()] = ()


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int
    share: float
    text: str
    kind: Literal["a", "b", 1]
    inner: tuple[Inner, ...]
    mixed: str | int | float
    one: Inner


INNER = Inner(b"\x0a\xff", ("x", 1))
OUTER = Outer(True, 3, 0.5, "text", "a", (INNER, INNER), 0.5, INNER)
ODD: list[Json] = [None, True, False, 0, 1, -1, 1.0, -0.0, 2**70, "", "a", "0aff", "0AFF", "0a ff", "0a\n", "0af", "\u0660\u0661"]
ODD += ["\n", "\u00e9", [], ["x", 1], ["x", True], [[]], {}, {"data": "00", "pair": ["", 0], "none": []}]


def outcome(read: Callable[[], Any]) -> tuple[str, str]:
    """What was read, types included, or why it was refused."""
    try:
        return "read", repr(read())
    except ConsortiumError as error:
        return type(error).__name__, str(error)


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_altered_documents_are_read_or_refused_as_their_annotations_say(chance: random.Random, times: int) -> None:
    document = to_document(OUTER)
    for _ in range(times):
        document = altered(document, ODD, chance)
    assert outcome(lambda: from_document(Outer, document)) == outcome(lambda: plain_document(Outer, document))


def test_altered_plans_and_rosters_too(plan: Plan, roster: Roster) -> None:
    chance = random.Random(7)
    for value in (plan, roster):
        kind, whole = type(value), to_document(value)
        assert from_document(kind, whole) == plain_document(kind, whole) == value
        seen = set()
        for _ in range(300):
            document = altered(whole, ODD, chance)
            found = outcome(lambda: from_document(kind, document))  # noqa: B023 - called at once
            assert found == outcome(lambda: plain_document(kind, document))  # noqa: B023 - called at once
            seen.add(found)
        assert len(seen) > 50


@pytest.mark.parametrize("value", [OUTER, INNER])
def test_every_odd_value_in_every_field_is_read_or_refused_alike(value: Outer | Inner) -> None:
    good = to_document(value)
    assert isinstance(good, dict)
    for odd in (*ODD, b"\x00", (), {1}, object, Inner):  # also what is of no JSON type
        for name in good:
            document: Any = {**good, name: odd}
            found = outcome(lambda: from_document(type(value), document))  # noqa: B023 - called at once
            assert found == outcome(lambda: plain_document(type(value), document))  # noqa: B023 - called at once


@pytest.mark.parametrize("data", [b"NaN", b"[Infinity]", b'{"a":-Infinity}', b"1e400", b"", b"\xff", b"1 ", b'{"a":1,"a":1}'])
def test_what_is_no_canonical_json_is_refused_alike(data: bytes) -> None:
    found = outcome(lambda: decode_json(data))
    assert found[0] == "EncodingError"
    assert found == outcome(lambda: plain_json(data))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_only_canonical_bytes_decode(data: st.DataObject) -> None:
    whole = encode_json(to_document(replace(OUTER, text='quote " and backslash \\')))
    at = data.draw(st.integers(0, len(whole)))
    more = data.draw(st.sampled_from([b"", b" ", b"0", b".0", b"e1", b"\\u0041", b'"', b"]", b"}", b",", b"\xff", b"NaN", b"-0"]))
    changed = whole[:at] + more + whole[at + data.draw(st.integers(0, 3)) :]
    assert outcome(lambda: decode_json(changed)) == outcome(lambda: plain_json(changed))


@pytest.mark.parametrize("kind", [Inner, Outer])
def test_rules_of_one_kind_are_not_those_of_another(kind: type) -> None:
    assert outcome(lambda: from_document(kind, to_document(INNER))) == outcome(lambda: plain_document(kind, to_document(INNER)))
