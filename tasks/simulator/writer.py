"""Writes a simulated consortium: a folder of tables for each site, and the truth in another folder that no site is given.

FOLDER/sites/SITE/patients.csv ... manifest.json
FOLDER/truth/SITE/truth_states.csv ...
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Literal

import pandas as pd

from tasks.simulator.simulate import Consortium, SimulatedSite

SITES, TRUTH, MANIFEST = "sites", "truth", "manifest.json"
MANIFEST_HEAD = {"format": "wardround/site-tables", "format_version": 1, "contract_version": 1}  # as tasks.ms.manifest reads it
MODALITY = {
    "patients": "clinical", "visits": "clinical", "relapses": "clinical", "treatments": "clinical", "mri": "imaging",
    "oct": "ocular",
    "evoked_potentials": "electrophysiology", "biomarkers": "samples", "proms": "questionnaires", "wearables": "devices",
    "genetics": "genetics",
}  # fmt: skip
Ending = Literal["csv", "parquet"]


def write(consortium: Consortium, folder: Path, ending: Ending = "csv") -> None:
    """Write everything below `folder`; what lies there already is replaced, other files stay."""
    for site in consortium.sites:
        _write_site(site, folder / SITES / site.site_id, ending)
        place = folder / TRUTH / site.site_id
        place.mkdir(parents=True, exist_ok=True)
        for name, table in consortium.truth[site.site_id].tables.items():
            (place / f"{name}.{ending}").write_bytes(encoded(table, ending))
    description = {"preset": consortium.preset.name, "seed": consortium.seed, "scenario": consortium.scenario.name}
    (folder / TRUTH / "simulation.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _write_site(site: SimulatedSite, place: Path, ending: Ending) -> None:
    """Tables that have rows, and a manifest of them."""
    place.mkdir(parents=True, exist_ok=True)
    listed = {}
    for name, table in site.tables.items():
        (place / f"{name}.{ending}").unlink(missing_ok=True)
        if table.empty:
            continue
        data = encoded(table, ending)
        (place / f"{name}.{ending}").write_bytes(data)
        listed[name] = {"file": f"{name}.{ending}", "rows": len(table), "sha256": hashlib.sha256(data).hexdigest()}
    modalities = sorted({MODALITY[name] for name in listed})
    manifest = {**MANIFEST_HEAD, "site_id": site.site_id, "modalities": modalities, "tables": listed}
    (place / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def encoded(table: pd.DataFrame, ending: Ending) -> bytes:
    """The table as the bytes of a file."""
    if ending == "csv":
        return str(table.to_csv(index=False, lineterminator="\n")).encode()
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
