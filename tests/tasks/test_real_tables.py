"""The real clinics' native tables become, cell by cell, the harmonised tables that others made of them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.base import Cohort, Column, Contract, Label
from tasks.cis_conversion.task import CONTRACT
from tasks.data import load_cohort
from tasks.errors import MappingError

REPOSITORY = Path(__file__).resolve().parents[2]
MAPPINGS = REPOSITORY / "tasks" / "cis_conversion" / "mappings"
CIS, HEART = ("mexico-1", "mexico-2", "mexico-3", "lithuania"), ("cleveland", "hungary", "switzerland", "va-long-beach")


@pytest.fixture(scope="module")
def sites(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sites")
    script = REPOSITORY / "scripts" / "make_real_sites.py"
    subprocess.run([sys.executable, script, out, "--data", real_data], check=True, capture_output=True)
    return out


@pytest.fixture
def clinic(real_data: Path, tmp_path: Path) -> Path:
    """The Mexican clinic's folder, with its own mapping."""
    (tmp_path / "native_mexico.csv").write_bytes((real_data / "cis_to_ms" / "native_mexico.csv").read_bytes())
    (tmp_path / "mapping.yaml").write_bytes((MAPPINGS / "mexico.yaml").read_bytes())
    return tmp_path


def harmonised(real_data: Path, country: str) -> list[dict[str, str]]:
    with (real_data / "cis_to_ms" / f"harmonised_{country}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_text(cohort: Cohort, index: int) -> dict[str, str]:
    cells = {}
    for column, value in zip(CONTRACT.columns, cohort.values[index], strict=True):
        cells[column.name] = "" if np.isnan(value) else (column.categories[int(value)] if column.categories else f"{value:g}")
    return cells | {"converted_to_ms": str(cohort.labels[index])}


@pytest.mark.parametrize(("country", "prefix", "excluded"), [("mexico", "MX", ["MX217", "MX217"]), ("lithuania", "LT", [])])
def test_native_tables_become_the_harmonised_ones(
    real_data: Path, tmp_path: Path, country: str, prefix: str, excluded: list[str]
) -> None:
    table = f"native_{country}.csv"
    (tmp_path / table).write_bytes((real_data / "cis_to_ms" / table).read_bytes())
    (tmp_path / "mapping.yaml").write_bytes((MAPPINGS / f"{country}.yaml").read_bytes())
    cohort = load_cohort(tmp_path, CONTRACT)
    reference = harmonised(real_data, country)
    left_out = [row["patient_id"] for row in reference if row["patient_id"] in excluded]
    assert left_out == excluded
    kept = [row for row in reference if row["patient_id"] not in excluded]
    assert [f"{prefix}{int(patient):03d}" for patient in cohort.patient_ids] == [row["patient_id"] for row in kept]
    for index, row in enumerate(kept):
        assert as_text(cohort, index) == {name: row[name] for name in (*CONTRACT.column_names, "converted_to_ms")}


def test_one_id_of_two_different_mexican_patients_is_quarantined(clinic: Path) -> None:
    (finding,) = load_cohort(clinic, CONTRACT).report.findings
    assert (finding.rule, finding.rows) == ("different rows with one patient id", (89, 151))


@pytest.mark.parametrize("leak", ["initial EDSS", "final EDSS"])
def test_both_edss_columns_are_refused_by_name(clinic: Path, leak: str) -> None:
    mapping = (clinic / "mapping.yaml").read_text().replace("{from: VEP}", f"{{from: {leak}}}")
    (clinic / "mapping.yaml").write_text(mapping.partition("leaks:")[0])  # the contract knows without the steward's list
    with pytest.raises(MappingError, match=rf"'{leak}' may not be an input: EDSS is often recorded for converters only"):
        load_cohort(clinic, CONTRACT)


@pytest.mark.parametrize("leak", ["initial EDSS", "final EDSS"])
def test_both_edss_columns_are_refused_by_their_data(clinic: Path, leak: str) -> None:
    table = clinic / "native_mexico.csv"
    table.write_text(table.read_text().replace(leak, "Score B", 1))  # a name that no rule knows
    careless = Contract("score", "1", (Column("score", "numeric", "a score", low=0, high=10),), Label("ms", "MS"))
    (clinic / "mapping.yaml").write_text(
        "task: score\nversion: 1\ntable: {name: native_mexico.csv}\nid: {from: Patient}\n"
        "label: {from: group, codes: {1: 1, 2: 0}}\ncolumns: {score: {from: Score B}}\n"
    )
    with pytest.raises(MappingError, match="'Score B' may not be an input: whether it is filled in at all tells the label"):
        load_cohort(clinic, careless)


def test_unread_edss_columns_are_suspects(clinic: Path) -> None:
    mapping = (clinic / "mapping.yaml").read_text()
    (clinic / "mapping.yaml").write_text(mapping.partition("leaks:")[0])
    assert load_cohort(clinic, CONTRACT).report.suspects == ("initial EDSS", "final EDSS")


def test_the_stray_code_of_the_lithuanian_table_is_listed_by_row(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "native_lithuania.csv").write_bytes((real_data / "cis_to_ms" / "native_lithuania.csv").read_bytes())
    (tmp_path / "mapping.yaml").write_text(
        "task: fluid\nversion: 1\ntable: {name: native_lithuania.csv}\nid: {from: Nr}\n"
        "label: {from: MS, codes: {0: 0, 1: 1}}\ncolumns: {fluid: {from: Patholoigical CSF}}\n"
    )
    contract = Contract("fluid", "1", (Column("fluid", "binary", "CSF abnormal"),), Label("ms", "MS"))
    cohort = load_cohort(tmp_path, contract)
    (finding,) = cohort.report.findings
    assert (finding.rule, finding.action, finding.count) == ("unknown code", "value set missing", 1)
    assert (cohort.size, int(np.isnan(cohort.values).sum())) == (96, 10)


def test_an_unscanned_spine_is_missing_not_normal(sites: Path) -> None:
    cohort = load_cohort(sites / "cis" / "lithuania", CONTRACT)
    spine = cohort.values[:, CONTRACT.column_names.index("mri_spinal")]
    assert (int(np.isnan(spine).sum()), int((spine == 0).sum()), int((spine == 1).sum())) == (62, 16, 18)


def test_the_mexican_patients_are_split_in_three_without_loss(sites: Path) -> None:
    sizes = [load_cohort(sites / "cis" / site, CONTRACT).report.rows_read for site in CIS]
    assert sum(sizes[:3]) == 191
    assert sizes[3] == 96
    assert min(sizes) >= 50


def test_zero_means_not_measured_at_the_heart_hospitals(sites: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "heart_task"))
    from tasks.registry import get_task  # here, so that the path above counts

    contract = get_task("heart_disease").contract
    cohorts = {site: load_cohort(sites / "heart" / site, contract) for site in HEART}
    assert [cohort.size for cohort in cohorts.values()] == [202, 196, 82, 133]
    missing = {site: np.isnan(cohort.values).sum(axis=0) for site, cohort in cohorts.items()}
    pressure, cholesterol = (contract.column_names.index(name) for name in ("systolic_pressure", "cholesterol"))
    assert missing["switzerland"][cholesterol] == 82
    assert missing["va-long-beach"][pressure] == 33  # 32 empty, one 0
    assert all(cohort.report.findings == () for cohort in cohorts.values())


@pytest.mark.parametrize(
    ("kind", "task", "lowest", "highest"), [("cis", "cis_conversion", 0.72, 0.90), ("heart", "heart_disease", 0.78, 0.92)]
)
def test_the_pooled_model_learns_on_real_patients(sites: Path, kind: str, task: str, lowest: float, highest: float) -> None:
    script = REPOSITORY / "scripts" / "pooled_reference.py"
    command = [sys.executable, script, sites / kind, "--task", task, "--json"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert lowest < figures["auc_exact"] < highest
    assert abs(figures["metrics"]["auc"] - figures["auc_exact"]) <= figures["metrics"]["auc_bin_bound"]
    assert set(figures["alone"]) == set(CIS if kind == "cis" else HEART)
