"""Seconds and memory of checking a hospital's contract tables: `wardround-site data validate`, as a process of its own.

    .venv/bin/python scripts/bench_data.py
    .venv/bin/python scripts/bench_data.py --scale 0.1 --repeats 1 --json data.json

The tables are invented, of a retrospective registry's size: 1,500 patients, 25,000 visits, 11,000 MRI rows and the other eight.
Right ones as CSV and as Parquet, and ones where every twentieth row has a wrong cell. Target: under 20 s and 1 GiB.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line, measured  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tasks.ms.samples import RECLAIM, Cells, invent_tables, write_tables  # noqa: E402

TARGET_S: Final = 20.0
TARGET_MIB: Final = 1024.0
SEED: Final = 26
SPOILT: Final = 20  # every so many rows


def spoil(tables: dict[str, Cells]) -> dict[str, Cells]:
    """One cell of every twentieth row of each table holds a text that no column allows."""
    chance = random.Random(SEED)  # noqa: S311  # no secret
    for cells in tables.values():
        names = [name for name in cells if name != "patient_id"]
        for row in range(0, len(cells["patient_id"]), SPOILT):
            cells[chance.choice(names)][row] = "§"
    return tables


def measure(folder: Path) -> dict[str, Any]:
    """One run of the program: seconds, processor seconds, peak MiB, rows in quarantine."""
    out = folder.parent / "out"
    options = ["--folder", str(folder), "--quarantine", str(out / "quarantine"), "--html", str(out / "report.html"), "--json"]
    out.mkdir(exist_ok=True)
    run = measured("client.cli", ["data", "validate", *options], root=ROOT, accepted=(0, 1))
    quarantined = run.pop("found")["rows_quarantined"]
    return {**run, "quarantined": quarantined}


def run(scale: float, repeats: int) -> dict[str, Any]:
    described, rows = machine(), []
    sizes = {name: max(1, round(count * scale)) for name, count in RECLAIM.items()}
    with tempfile.TemporaryDirectory() as name:
        for number, (words, ending, spoilt) in enumerate(
            (("right, CSV", ".csv", False), ("right, Parquet", ".parquet", False), ("every 20th row wrong, CSV", ".csv", True))
        ):
            folder = Path(name) / str(number) / "tables"
            tables = invent_tables(sizes, SEED)
            write_tables(folder, spoil(tables) if spoilt else tables, ending=ending)
            mib_files = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
            runs = [measure(folder) for _ in range(repeats)]
            rows.append({"tables": words, "mib_files": mib_files, **{key: min(each[key] for each in runs) for key in runs[0]}})
    return {"machine": described, "sizes": sizes, "repeats": repeats, "targets": [TARGET_S, TARGET_MIB], "rows": rows}


def show(result: dict[str, Any]) -> None:
    count = sum(result["sizes"].values())
    title = f"validate {count:,} rows, best of {result['repeats']} (target: {TARGET_S:.0f} s, {TARGET_MIB:.0f} MiB)"
    table = Table("tables", "files MiB", "seconds", "CPU s", "peak MiB", "in quarantine", title=title)
    for row in result["rows"]:
        figures = (f"{row['mib_files']:.1f}", f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['mib']:.0f}")
        table.add_row(row["tables"], *figures, f"{row['quarantined']:,}")
    Console().print(table)
    print(machine_line(result["machine"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of rows (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the best counts (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.scale <= 0 or options.repeats < 1:
        parser.error("--scale is above 0, --repeats at least 1")
    result = run(options.scale, options.repeats)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
