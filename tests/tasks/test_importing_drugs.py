"""Drugs' names in five languages: those that are listed are found however they are typed; all others go to a person."""

import csv
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.importing.base import Review
from tasks.importing.drugs import (
    VOCABULARY_FILE,
    drug_class,
    drug_code,
    is_review_list,
    normalised,
    read_reviewed,
    suggestion,
    vocabulary,
    write_review,
)
from tasks.importing.errors import ImportRefused
from tasks.ms.contract import DRUGS

EASY = settings(deadline=None)  # a busy machine is no fault


def listed() -> list[dict[str, str]]:
    with VOCABULARY_FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_name_leads_to_one_code_of_the_contract() -> None:
    codes: dict[str, set[str]] = {}
    for row in listed():
        codes.setdefault(normalised(row["name"]), set()).add(row["code"])
    assert {name for name, found in codes.items() if len(found) > 1} == set()
    assert len(codes) == len(listed())
    assert {row["code"] for row in listed()} == DRUGS.keys() - {"other"}


def test_every_drug_has_its_own_code_as_a_name_but_other_is_never_found() -> None:
    assert all(drug_code(code, {}) == code for code in DRUGS if code != "other")
    assert drug_code("other", {}) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("REBIF 44 µg", "interferon_beta_1a"),
        ("Copaxone® 40 mg", "glatiramer_acetate"),
        ("Azétate", None),
        ("tysabri 300mg", "natalizumab"),
        ("Interféron  bêta-1a", "interferon_beta_1a"),
        ("IFN β-1b", "interferon_beta_1b"),
        ("mycophénolate mofétil", "mycophenolate"),
        ("Diméthyl Fumarate 240 mg", "dimethyl_fumarate"),
        ("keine Therapie", "none"),
        ("Rebif/Copaxone", None),
        ("Interferon", None),
        ("", None),
        ("ocrelizumab?", "ocrelizumab"),
        ("nicht ocrelizumab", None),
    ],
)
def test_a_name_is_found_however_it_is_typed_or_not_at_all(text: str, code: str | None) -> None:
    assert drug_code(text, {}) == code


@EASY
@given(st.sampled_from(sorted(vocabulary())), st.sampled_from([str.upper, str.title, lambda text: f"  {text}. "]))
def test_case_and_punctuation_change_nothing(name: str, change: object) -> None:
    assert drug_code(change(name), {}) == vocabulary()[name]  # type: ignore[operator]


@EASY
@given(st.text(max_size=30))
def test_a_suggestion_is_a_code_or_nothing_and_an_unlisted_name_has_no_code(text: str) -> None:
    assert suggestion(text) in {"", *DRUGS}
    assert (drug_code(text, {}) is None) == (normalised(text) not in vocabulary())


def test_a_close_name_is_suggested_and_has_no_code() -> None:
    assert (suggestion("Ocrevuse"), drug_code("Ocrevuse", {})) == ("ocrelizumab", None)
    assert suggestion("Aspirin") == ""


def test_the_class_is_the_first_that_the_contract_lists() -> None:
    assert [drug_class(code) for code in ("natalizumab", "cladribine", "none", "washout")] == ["high", "moderate", None, None]


def test_what_a_reviewer_decided_counts_for_that_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "reviewed.csv"
    decided = ("Studienspritze,ofatumumab,Dr. A,2026-11-29", "Vitamin D,-,Dr. A,2026-11-29", "offen,,,", "AZA,-,Dr. A,2026-11-29")
    path.write_text("\n".join(("text,code,who,date", *decided)))
    reviewed = read_reviewed(path)
    assert [drug_code(text, reviewed) for text in ("STUDIENSPRITZE", "Vitamin D", "offen")] == ["ofatumumab", "-", None]
    assert (drug_code("aza", {}), drug_code("aza", reviewed)) == ("azathioprine", "-")  # a reviewer knows what this hospital means
    assert read_reviewed(tmp_path / "none.csv") == {}


@pytest.mark.parametrize(
    "line",
    [
        "Geheim,aspirin,Dr. A,2026-11-29",
        "Geheim,natalizumab,,2026-11-29",
        "Geheim,natalizumab,Dr. A,29.11.2026",
        ",natalizumab,Dr. A,2026-11-29",
    ],
)
def test_a_decision_that_nobody_made_is_refused_without_its_text(tmp_path: Path, line: str) -> None:
    path = tmp_path / "reviewed.csv"
    path.write_text(f"text,code,who,date\n{line}\n")
    with pytest.raises(ImportRefused, match="row 2") as refused:
        read_reviewed(path)
    assert "Geheim" not in str(refused.value)


def test_two_decisions_about_one_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reviewed.csv"
    path.write_text("text,code,who,date\nX 1,natalizumab,Dr. A,2026-11-29\nx-1,ocrelizumab,Dr. B,2026-11-29\n")
    with pytest.raises(ImportRefused, match=r"row 3.*decided otherwise"):
        read_reviewed(path)


@pytest.mark.parametrize("text", ["=cmd()", "+1 Pille", "???", "'x", "Wunder, mittel\n2"])
def test_a_text_goes_through_the_list_and_comes_back_as_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "review.csv"
    write_review(path, [Review("drug", "t", "M", text, 3, "natalizumab")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert not row["text"].startswith(("=", "+", "-", "@"))
    assert (row["code"], row["suggestion"], row["times"]) == ("", "natalizumab", "3")
    path.write_text(
        path.read_text(encoding="utf-8").replace(",,,,natalizumab", ",ocrelizumab,Dr. A,2026-11-29,natalizumab"), encoding="utf-8"
    )
    assert drug_code(text, read_reviewed(path)) == "ocrelizumab"


def test_a_list_that_excel_saved_with_semicolons_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reviewed.csv"
    path.write_text("text;code;who;date;suggestion\nXyz;ocrelizumab;Dr. A;2026-11-29;\n", encoding="utf-8-sig")
    assert read_reviewed(path) == {"xyz": "ocrelizumab"}
    assert is_review_list(path)


@pytest.mark.parametrize("header", ["text|code|who|date", "name,code,who,date", ""])
def test_a_list_without_its_columns_is_refused_and_never_taken_as_undecided(tmp_path: Path, header: str) -> None:
    path = tmp_path / "reviewed.csv"
    path.write_text(f"{header}\nXyz,ocrelizumab,Dr. A,2026-11-29\n", encoding="utf-8")
    with pytest.raises(ImportRefused, match="lacks the column") as error:
        read_reviewed(path)
    assert "Xyz" not in str(error.value)
