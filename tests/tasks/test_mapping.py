"""A mapping file means what it says, or the site stops with the reason."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import strict_yaml
from tasks.base import Contract
from tasks.errors import MappingError
from tasks.mapping import AbsentSource, CodedSource, NumericSource, parse_mapping, read_mapping

MAPPING = (Path(__file__).parent / "toy_mapping.yaml").read_text(encoding="utf-8")


def refused(text: str, contract: Contract) -> str:
    with pytest.raises(MappingError) as caught:
        parse_mapping(text, contract)
    return str(caught.value)


def test_a_mapping_gives_one_source_per_column_in_contract_order(contract: Contract) -> None:
    age, smoker, clinic = parse_mapping(MAPPING, contract).columns
    assert age == NumericSource("age", 1.0, frozenset({""}))
    assert smoker == CodedSource("smokes", {"0": 0.0, "1": 1.0}, frozenset({""}))
    assert clinic == CodedSource("ward", {"A": 0.0, "B": 1.0}, frozenset({""}))


def test_yaml_words_stay_texts(contract: Contract) -> None:
    mapping = parse_mapping(MAPPING.replace("{from: smokes}", "{from: smokes, codes: {no: 0, yes: 1, 1.0: 1}}"), contract)
    assert mapping.columns[1] == CodedSource("smokes", {"no": 0.0, "yes": 1.0, "1.0": 1.0}, frozenset({""}))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("id:", "idd:", "unknown key 'idd'"),
        ("{from: age}", "{from: age, round: 1}", "unknown key 'round'"),
        ("{from: nr}", "{from: nr, salt: x}", "unknown key 'salt'"),
        ("  age: {from: age}\n", "", "columns lacks age"),
        ("  age: {from: age}", "  age: {from: age}\n  weight: {from: kg}", "unknown key 'weight'"),
        ("  age: {from: age}", "  age: {from: age}\n  age: {from: years}", "appears twice"),
        ("codes: {n: 0, y: 1}", "codes: {n: 0, y: 2}", "leads to '2'"),
        ("codes: {n: 0, y: 1}", "codes: {n: 0, m: 0}", "both 0 and 1"),
        ("{A: north, B: south}", "{A: north, B: east}", "leads to 'east'"),
        ("{from: smokes}", "{from: smokes, missing: [1]}", "both as a code and as missing"),
        ("{from: smokes}", "{from: smokes, missing: 9}", "must be a list"),
        ("{from: age}", "{from: age, unit: months}", "add scale"),
        ("{from: age}", "{from: age, scale: 0}", "finite and not 0"),
        ("{from: age}", "{from: age, scale: nan}", "finite and not 0"),
        ("{from: age}", "{from: age, scale: ten}", "not a number"),
        ("{from: age}", "{absent: never asked}", "cannot be absent"),
        ("{from: age}", "{from: ''}", "not empty"),
        ("{name: toy.csv}", "{name: ../toy.csv}", "bare name"),
        ("{name: toy.csv}", "{name: toy.csv, encoding: klingon}", "unknown; utf-8"),
        ("{name: toy.csv}", "{name: toy.csv, encoding: hex}", "unknown; utf-8"),
        ("{name: toy.csv}", "{name: toy.csv, delimiter: ab}", "use one of"),
        ("{name: toy.csv}", "{name: toy.csv, decimal: ';'}", "use '.' or ','"),
        ("version: 1", "version: 2", "the contract is toy version 1"),
        ("task: toy", "task: other", "the contract is toy version 1"),
        ("id: {from: nr}", "id: nr", "must be a section"),
        ("id: {from: nr}", "id: &a {from: nr}\nignored: *a", "alias"),
        ("id: {from: nr}", "id: {from: nr", "not valid YAML"),
        ("id: {from: nr}", "id: {from: nr}\nignored: [ward]", "source column: reason"),
        ("id: {from: nr}", "id: {from: nr}\n? [a]\n: b", "plain text"),
    ],
)
def test_anything_unclear_is_refused_with_its_place(contract: Contract, old: str, new: str, words: str) -> None:
    assert old in MAPPING
    assert words in refused(MAPPING.replace(old, new, 1), contract)


@pytest.mark.parametrize("source", ["initial EDSS", "edss_last", "My Edss"])
def test_a_column_that_the_contract_refuses_may_not_be_an_input(contract: Contract, source: str) -> None:
    message = refused(MAPPING.replace("{from: age}", f"{{from: {source}}}"), contract)
    assert source in message
    assert "filled in for converters only" in message


def test_a_column_listed_as_leak_may_not_be_an_input(contract: Contract) -> None:
    message = refused(MAPPING + "leaks: {ward: patients move there once it happened}\n", contract)
    assert "'ward' may not be an input: patients move there once it happened" in message


def test_label_and_id_may_not_be_inputs(contract: Contract) -> None:
    assert "holds the label" in refused(MAPPING.replace("{from: smokes}", "{from: event}"), contract)
    assert "holds the patient id" in refused(MAPPING.replace("{from: age}", "{from: nr}"), contract)


def test_an_input_may_not_be_ignored_too(contract: Contract) -> None:
    assert "also listed in ignored" in refused(MAPPING + "ignored: {ward: not needed}\n", contract)


def test_a_nullable_column_may_be_absent_with_a_reason(contract: Contract) -> None:
    mapping = parse_mapping(MAPPING.replace("{from: smokes}", "{absent: never asked}"), contract)
    assert mapping.columns[1] == AbsentSource("never asked")
    assert mapping.inputs == ("age", "ward")


def test_one_source_column_may_feed_two_inputs(contract: Contract) -> None:
    text = MAPPING.replace("{from: smokes}", "{from: ward, codes: {A: 0, B: 1}}")
    assert parse_mapping(text, contract).inputs == ("age", "ward")


def test_a_missing_or_unreadable_mapping_is_named(contract: Contract, tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"mapping\.yaml not found"):
        read_mapping(tmp_path / "mapping.yaml", contract)
    (tmp_path / "mapping.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MappingError, match="UTF-8"):
        read_mapping(tmp_path / "mapping.yaml", contract)


def test_a_file_too_large_for_a_mapping_is_not_parsed(contract: Contract) -> None:
    assert "limit" in refused("#" * (strict_yaml.MAX_CHARACTERS + 1), contract)


@given(st.text(max_size=200))
def test_a_parser_of_any_text_raises_only_its_own_error(text: str) -> None:
    try:
        document = strict_yaml.parse(text, "mapping.yaml")
    except MappingError:
        return
    assert isinstance(document, str | list | dict)


@given(text=st.text(max_size=60), position=st.integers(0, len(MAPPING)))
def test_a_damaged_mapping_is_refused_or_still_complete(contract: Contract, text: str, position: int) -> None:
    try:
        mapping = parse_mapping(MAPPING[:position] + text + MAPPING[position:], contract)
    except MappingError:
        return
    assert len(mapping.columns) == len(contract.columns)
    assert not set(mapping.inputs) & {mapping.id_source, mapping.label.source, *mapping.leaks}


def test_a_table_mapping_cannot_be_changed_after_its_checks(contract: Contract) -> None:
    mapping = parse_mapping(MAPPING, contract)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mapping.id_source = "ward"  # type: ignore[misc]
