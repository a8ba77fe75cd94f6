"""Columns that tell the answer are found by what they hold, in every table, whatever they are called."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.errors import DataError
from tasks.ms.suspects import enough_labels, suspects
from tasks.simulator import simulate

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cis_to_ms" / "native_mexico.csv"


@pytest.fixture(scope="module")
def hospital() -> dict[str, pd.DataFrame]:
    return dict(simulate("demo", 4).sites[0].tables)


@pytest.fixture
def labels(hospital: dict[str, pd.DataFrame]) -> dict[str, int]:
    names = hospital["patients"]["patient_id"]
    return dict(zip(names, np.random.default_rng(1).integers(0, 2, len(names)).tolist(), strict=True))


def test_an_outcome_that_is_chance_has_no_suspect(hospital: dict[str, pd.DataFrame], labels: dict[str, int]) -> None:
    assert enough_labels(labels)
    assert suspects(hospital, labels) == ()


@pytest.mark.parametrize(
    ("table", "column", "low", "high"),
    [("patients", "weight_kg", 60.0, 80.0), ("patients", "smoking", "never", "current"), ("visits", "sdmt_n", 30, 60),
     ("relapses", "severity", "mild", "severe"), ("treatments", "dmt_class", "platform", "high"), ("mri", "t2_vol_ml", 1.0, 20.0)],
)  # fmt: skip
def test_a_column_that_tells_the_answer_is_named(
    hospital: dict[str, pd.DataFrame], labels: dict[str, int], table: str, column: str, low: object, high: object
) -> None:
    rows = hospital[table].copy()
    answer = rows["patient_id"].map(labels)
    rows[column] = np.where(answer == 1, high, low)
    found = suspects({**hospital, table: rows}, labels)
    assert (table, column) in {(each.table, each.column) for each in found}
    assert not [name for name in labels if any(name in each.sentence for each in found)]


def test_rows_that_only_one_class_has_are_named_by_their_number(hospital: dict[str, pd.DataFrame], labels: dict[str, int]) -> None:
    rows = hospital["visits"]
    rows = rows[rows["patient_id"].map(labels) == 1]
    assert ("visits", "rows") in {(each.table, each.column) for each in suspects({**hospital, "visits": rows}, labels)}


def test_too_few_of_a_class_are_not_tested_and_a_third_class_is_refused(hospital: dict[str, pd.DataFrame]) -> None:
    names = list(hospital["patients"]["patient_id"])
    few = {name: int(at < 9) for at, name in enumerate(names)}
    assert not enough_labels(few)
    assert suspects(hospital, few) == ()
    with pytest.raises(DataError, match="neither 0 nor 1"):
        suspects(hospital, {names[0]: 2})


@pytest.mark.skipif(not REAL.exists(), reason="the real table of the Mexican clinic is not here")
def test_the_mexican_edss_columns_are_caught_when_they_are_brought_into_the_contract() -> None:
    """They are filled for converters alone: the number of scores already gives the answer away."""
    with REAL.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = {row["Patient"]: int(row["group"] == "1") for row in rows}
    edss = {name: pd.to_numeric([row[name] for row in rows], errors="coerce") for name in ("initial EDSS", "final EDSS")}
    ids = [row["Patient"] for row in rows]
    visits = pd.concat(
        [
            pd.DataFrame({"patient_id": ids, "day": day, "visit_id": f"v{day}", "edss": edss[name], "source": "prospective"})
            for day, name in ((0, "initial EDSS"), (3650, "final EDSS"))
        ]
    )
    found = suspects({"patients": pd.DataFrame({"patient_id": ids, "source": "prospective"}), "visits": visits}, labels)
    assert ("visits", "edss") in {(each.table, each.column) for each in found}
