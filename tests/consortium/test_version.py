"""Which versions work together, and which side a sentence sends to update."""

import pytest

from consortium.errors import DocumentError
from consortium.version import COMPUTATION, Code, Version, marker, newest, parse_code, parse_version, plan_version, refusal

OTHER = COMPUTATION + 1


@pytest.mark.parametrize(
    ("asked", "own"),
    [
        ("0.2.0", "0.2.0"), ("0.2.7", "0.2.0"), ("0.1.0", "0.2.0"), ("0.3.1+computation.1", "0.2.9"), ("1.9.0", "1.10.0"),
    ],
)  # fmt: skip
def test_versions_one_minor_apart_work_together(asked: str, own: str) -> None:
    assert refusal(asked, own) == ""


@pytest.mark.parametrize(
    ("asked", "own", "side", "to"),
    [
        ("0.4.0", "0.2.0", "this site", "0.3"),
        ("0.2.0", "0.4.3", "the hub", "0.3"),
        ("1.0.0", "0.2.0", "this site", "1.0"),
        ("0.9.0", "2.3.0", "the hub", "2.2"),
    ],
)
def test_a_refusal_names_the_side_that_must_be_updated_and_to_what(asked: str, own: str, side: str, to: str) -> None:
    said = refusal(asked, own)
    assert asked in said
    assert own in said
    assert f"update {side} to {to} or later" in said


def test_another_computation_is_refused_within_one_version_too() -> None:
    assert "update this site to 0.3" in refusal(f"0.3.0+computation.{OTHER}", "0.2.0")
    assert refusal(f"0.2.0+computation.{OTHER}", "0.2.0") != ""


def test_a_plan_of_release_0_1_0_names_no_computation_and_is_of_the_first() -> None:
    assert parse_code("0.1.0") == Code(Version(0, 1, 0), 1)
    assert parse_code(plan_version("0.2.0")) == Code(Version(0, 2, 0), COMPUTATION)


@pytest.mark.parametrize(
    "text", ["", "1", "0.2", "v0.2.0", "0.2.0 ", "0.02.0", "0.2.0rc1", "0.2.0+computation.0", "0.2.0+local", "9" * 40]
)
def test_what_is_no_version_is_refused_and_never_taken_for_one(text: str) -> None:
    with pytest.raises(DocumentError, match="version"):
        parse_code(text)
    assert refusal(text, "0.2.0") != ""


def test_a_plain_version_has_no_computation() -> None:
    with pytest.raises(DocumentError, match=r"MAJOR\.MINOR\.PATCH"):
        parse_version("0.2.0+computation.1")


def test_a_folder_of_an_older_program_is_marked_anew_and_one_of_the_same_is_left() -> None:
    assert newest(None, "0.2.0", "written-by")
    assert newest(marker("0.1.0"), "0.2.0", "written-by")
    assert not newest(marker("0.2.0"), "0.2.0", "written-by")
    assert not newest(marker("0.2.4"), "0.2.0", "written-by")  # a patch writes the same formats


@pytest.mark.parametrize("wrote", ["0.3.0", "1.0.0"])
def test_an_older_program_refuses_the_folder_of_a_newer_one_and_says_what_to_do(wrote: str) -> None:
    with pytest.raises(DocumentError, match=f"version {wrote} wrote this folder, this program is 0.2.0.*install"):
        newest(marker(wrote), "0.2.0", "written-by")


@pytest.mark.parametrize(
    "found", [b"", b"wardround", b"wardround 0.2.0", b"wardround 0.2.0\n\n", b"\xff", b"wardround 0..20\n", b"0.2.0\n"]
)
def test_a_marker_that_says_nothing_is_not_taken_for_an_old_folder(found: bytes) -> None:
    with pytest.raises(DocumentError, match="does not say which version"):
        newest(found, "0.2.0", "written-by")
