"""Small contracts, mappings and tables that a reader can check by eye."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.base import Column, Contract, Label, Refusal

REPOSITORY = Path(__file__).resolve().parents[2]

MAPPING = (Path(__file__).parent / "toy_mapping.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(
        task="toy",
        version="1",
        columns=(
            Column("age", "numeric", "age", unit="years", low=0, high=100, nullable=False),
            Column("smoker", "binary", "smokes"),
            Column("clinic", "categorical", "clinic", categories=("north", "south", "west")),
        ),
        label=Label("event", "it happened"),
        refused=(Refusal(r"edss", "it is filled in for converters only"),),
    )


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Path]:
    """Writes mapping.yaml and toy.csv (header and rows as given) and returns their folder."""

    def write(*rows: str, mapping: str = MAPPING, encoding: str = "utf-8") -> Path:
        (tmp_path / "mapping.yaml").write_text(mapping, encoding="utf-8")
        (tmp_path / "toy.csv").write_text("\n".join(rows) + "\n", encoding=encoding)
        return tmp_path

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tables; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("WARDROUND_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cis_to_ms").is_dir():
        pytest.skip("no real tables: set WARDROUND_SHARED_DATA to their folder")
    return folder
