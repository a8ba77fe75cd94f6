"""One patient is on one side for ever."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ContractError
from tasks.splits import held_out, held_out_mask

SALT = bytes(range(16))
salts = st.binary(min_size=16, max_size=40)


def test_the_rule_never_changes() -> None:
    sides = "".join(str(int(held_out(f"p{number}", SALT, 0.3))) for number in range(24))
    assert sides == "101100000000110010011000"


@given(st.text(), salts, st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_fraction_only_adds_patients(patient: str, salt: bytes, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert held_out(patient, salt, low) <= held_out(patient, salt, high)


@given(st.lists(st.text(), max_size=20), salts)
def test_the_side_of_a_patient_does_not_depend_on_the_others(patients: list[str], salt: bytes) -> None:
    alone = [held_out(patient, salt, 0.4) for patient in patients]
    np.testing.assert_array_equal(held_out_mask(patients, salt, 0.4), alone)


def test_the_share_held_out_is_the_fraction() -> None:
    share = held_out_mask([str(number) for number in range(4000)], SALT, 0.25).mean()
    assert abs(share - 0.25) < 0.03


def test_nobody_is_held_out_at_fraction_zero() -> None:
    assert not held_out_mask([str(number) for number in range(100)], SALT, 0.0).any()


def test_another_salt_is_another_split() -> None:
    patients = [str(number) for number in range(200)]
    assert not np.array_equal(held_out_mask(patients, SALT, 0.5), held_out_mask(patients, SALT[::-1], 0.5))


@pytest.mark.parametrize(("salt", "fraction"), [(b"short", 0.2), (SALT, 1.0), (SALT, -0.1), (SALT, float("nan"))])
def test_an_unusable_split_is_refused(salt: bytes, fraction: float) -> None:
    with pytest.raises(ContractError):
        held_out("p", salt, fraction)
