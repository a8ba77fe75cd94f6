"""Seconds and memory of importing a hospital's export: `wardround-site data import`, as a process of its own.

    .venv/bin/python scripts/bench_import.py
    .venv/bin/python scripts/bench_import.py --scale 0.05 --json import.json

Invented exports of a retrospective registry's size, as the tests make them: seven tables of a German hospital's own (1,500
patients, 25,000 visits) as CSV, Parquet and Excel by a mapping; and 1,500 simulated patients as a FHIR bundle, as NDJSON and as
tables of the OMOP CDM. The import writes the tables and checks them against the data contract.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line, measured  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tasks.ms.samples import RECLAIM  # noqa: E402
from tests.shared.core_tables import hospital  # noqa: E402
from tests.shared.dirty_export import make  # noqa: E402
from tests.shared.fhir_bundles import Export, write_bundle, write_ndjson  # noqa: E402
from tests.shared.omop_tables import Database, numbered, write_csv  # noqa: E402

SEED: Final = 5
PATIENTS: Final = 1500


def exports(folder: Path, scale: float) -> Iterator[tuple[str, Path, list[str]]]:
    """What is imported, in words, where it lies, and the command's words for it; one at a time, as they are large."""
    tables = make(dirty=False).truth
    own = make(3, {name: max(4, round(RECLAIM[name] * scale)) for name in tables}, dirty=False)
    for kind in ("csv", "parquet", "excel"):
        mapping = own.write(folder / kind, kind)
        yield f"own tables, {kind}", mapping.parent, [str(mapping), "--from", str(mapping.parent)]
    clinic = numbered(hospital(max(4, round(PATIENTS * scale)), SEED))
    resources = Export(clinic).resources
    folder.joinpath("fhir").mkdir()
    bundle = write_bundle(folder / "fhir" / "bundle.json", resources)
    yield "FHIR bundle", bundle.parent, ["--fhir", str(bundle)]
    lines = write_ndjson(folder / "ndjson", resources)
    yield "FHIR NDJSON", lines, ["--fhir", str(lines)]
    database = write_csv(folder / "omop", Database(clinic).tables)
    yield "OMOP CDM, CSV", database, ["--omop", str(database)]


def run(scale: float) -> dict[str, Any]:
    described, rows = machine(), []
    with tempfile.TemporaryDirectory() as name:
        for words, place, source in exports(Path(name), scale):
            mib = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 2**20
            out = ["--out", str(Path(name) / "out"), "--allow-problems", "--json"]
            found = measured("client.cli", ["--home", str(Path(name) / "home"), "data", "import", *source, *out], root=ROOT)
            read = sum(found.pop("found")["read"].values())
            rows.append({"export": words, "mib_files": mib, "read": read, **found})
            shutil.rmtree(Path(name) / "out")
            shutil.rmtree(place)
    return {"machine": described, "scale": scale, "rows": rows}


def show(result: dict[str, Any]) -> None:
    table = Table("export", "files MiB", "rows or resources", "seconds", "CPU s", "peak MiB", title="import, write and check")
    for row in result["rows"]:
        figures = (f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['mib']:.0f}")
        table.add_row(row["export"], f"{row['mib_files']:.1f}", f"{row['read']:,}", *figures)
    Console().print(table)
    print(machine_line(result["machine"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of patients and rows (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.scale <= 0:
        parser.error("--scale is above 0")
    result = run(options.scale)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
