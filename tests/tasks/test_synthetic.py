"""Invented hospitals differ as real ones do, load to exactly the size asked for, and hold a signal worth learning."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.cis_conversion.synthetic import DIRTY_FROM, STYLES, write_hospitals
from tasks.cis_conversion.task import CONTRACT, TASK
from tasks.data import load_cohort
from tasks.errors import ContractError, MappingError
from tasks.features import Design
from tasks.metrics import pooled_metrics, score_histogram
from tasks.models import predict


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), 5, [120, 80, 200, 60, 12], seed=11)


def test_each_hospital_loads_to_the_size_asked_for(folders: list[Path]) -> None:
    assert [folder.name for folder in folders] == [f"hospital-{number}" for number in range(1, 6)]
    assert [load_cohort(folder, CONTRACT).size for folder in folders] == [120, 80, 200, 60, 12]


def test_dirty_rows_are_reported_not_swallowed(folders: list[Path]) -> None:
    for folder in folders[:4]:
        report = load_cohort(folder, CONTRACT).report
        assert report.rows_excluded == 7
        assert {finding.rule for finding in report.findings} == {
            "blank row", "no patient id", "the same row again", "different rows with one patient id", "no label",
            "outside 10 to 80 years", "unknown code",
        }  # fmt: skip
    assert load_cohort(folders[4], CONTRACT).report.findings == ()
    assert load_cohort(folders[4], CONTRACT).size < DIRTY_FROM


def test_the_hospitals_files_have_nothing_in_common(folders: list[Path]) -> None:
    headers = [(folder / style.table).read_bytes().splitlines()[0] for folder, style in zip(folders, STYLES, strict=False)]
    assert len(set(headers)) == 4
    assert len({(style.delimiter, style.decimal, style.encoding) for style in STYLES}) == 4


def test_age_means_years_everywhere(folders: list[Path]) -> None:
    for folder in folders[:4]:
        assert 30 < load_cohort(folder, CONTRACT).values[:, 1].mean() < 38


def test_the_same_seed_writes_the_same_bytes(folders: list[Path], tmp_path: Path) -> None:
    again = write_hospitals(tmp_path, 5, [120, 80, 200, 60, 12], seed=11)
    for old, new in zip(folders, again, strict=True):
        assert [path.read_bytes() for path in sorted(old.iterdir())] == [path.read_bytes() for path in sorted(new.iterdir())]
    other = write_hospitals(tmp_path / "other", 1, [120], seed=12)[0]
    assert (other / STYLES[0].table).read_bytes() != (folders[0] / STYLES[0].table).read_bytes()


def test_the_leaking_column_of_every_hospital_is_refused_as_input(folders: list[Path]) -> None:
    for folder, style in zip(folders, STYLES, strict=False):
        mapping = (folder / "mapping.yaml").read_text(encoding="utf-8")
        spoiled = folder.parent / f"spoiled-{folder.name}"
        spoiled.mkdir()
        (spoiled / "mapping.yaml").write_text(mapping.replace(f'"{style.columns["vep_abnormal"]}"', f'"{style.leak}"'))
        with pytest.raises(MappingError, match="converters only"):
            load_cohort(spoiled, CONTRACT)


def test_a_logistic_model_finds_the_signal(tmp_path: Path) -> None:
    cohorts = [load_cohort(folder, CONTRACT) for folder in write_hospitals(tmp_path, 4, [1500] * 4, seed=3)]
    values, labels = np.concatenate([c.values for c in cohorts]), np.concatenate([c.labels for c in cohorts])
    design = Design(CONTRACT)
    inputs = design.encode(values, *design.statistics_to_buffers(design.describe_vectors(values).sum(axis=0)))
    model = TASK.build_model("logistic", {})
    torch.nn.init.zeros_(model.output.weight)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = TASK.loss(model(torch.from_numpy(inputs)), torch.from_numpy(labels)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    auc = pooled_metrics(score_histogram(labels, predict(model, inputs), 64)).auc
    assert auc is not None
    assert 0.75 < auc < 0.82


@pytest.mark.parametrize(("n", "patients"), [(2, [10]), (0, []), (1, [0])])
def test_impossible_numbers_of_patients_are_refused(tmp_path: Path, n: int, patients: list[int]) -> None:
    with pytest.raises(ContractError):
        write_hospitals(tmp_path, n, patients, seed=1)
