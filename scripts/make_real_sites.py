#!/usr/bin/env python3
"""Write real tables as the folders of eight hospitals, each with the mapping a steward there would have written.

    scripts/make_real_sites.py OUT --data ../shared/data

OUT/cis: the Mexican clinic's patients in three by a hash of their id, the Lithuanian clinic whole.
OUT/heart: Cleveland, Hungary, Switzerland, Long Beach as they are. Tables are copied, never altered.
"""

import argparse
import csv
import hashlib
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CIS_MAPPINGS = ROOT / "tasks" / "cis_conversion" / "mappings"
HEART_MAPPING = ROOT / "tests" / "heart_task" / "mappings" / "heart.yaml"
HEART_HOSPITALS = ("cleveland", "hungary", "switzerland", "va_long_beach")
MEXICAN_SITES = 3


def cis_sites(data: Path, out: Path) -> list[Path]:
    """Folders mexico-1 .. mexico-3 and lithuania under `out`."""
    folders = []
    for part in range(MEXICAN_SITES):
        folder = _folder(out / f"mexico-{part + 1}", CIS_MAPPINGS / "mexico.yaml")
        _copy_part(data / "cis_to_ms" / "native_mexico.csv", folder, part)
        folders.append(folder)
    folder = _folder(out / "lithuania", CIS_MAPPINGS / "lithuania.yaml")
    shutil.copyfile(data / "cis_to_ms" / "native_lithuania.csv", folder / "native_lithuania.csv")
    return [*folders, folder]


def heart_sites(data: Path, out: Path) -> list[Path]:
    """One folder per hospital under `out`."""
    folders = []
    for hospital in HEART_HOSPITALS:
        folder = _folder(out / hospital.replace("_", "-"), HEART_MAPPING)
        mapping = (folder / "mapping.yaml").read_text(encoding="utf-8").replace('"{table}"', f"{hospital}.csv")
        (folder / "mapping.yaml").write_text(mapping, encoding="utf-8")
        shutil.copyfile(data / "heart_disease" / f"{hospital}.csv", folder / f"{hospital}.csv")
        folders.append(folder)
    return folders


def _folder(folder: Path, mapping: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(mapping, folder / "mapping.yaml")
    return folder


def _copy_part(table: Path, folder: Path, part: int) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    with (folder / table.name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(row for row in rows if _part(row[0]) == part)


def _part(patient_id: str) -> int:
    """Which of the Mexican sites a patient goes to; independent of the held-out split, which is keyed."""
    return hashlib.sha256(patient_id.encode()).digest()[0] % MEXICAN_SITES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where the folders are written")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real tables")
    options = parser.parse_args()
    if not (options.data / "cis_to_ms").is_dir():
        print(f"no tables in {options.data}: give their folder with --data", file=sys.stderr)
        return 2
    for folder in (*cis_sites(options.data, options.out / "cis"), *heart_sites(options.data, options.out / "heart")):
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
