"""The core tables of a simulated hospital with a calendar, for importers to find again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

import pandas as pd

from tasks.simulator.presets import SiteSpec, preset_named
from tasks.simulator.simulate import simulate_site

CORE = ("patients", "visits", "relapses", "treatments", "mri")
DAYS = {
    "patients": ("onset_day", "diagnosis_day", "death_day"), "visits": ("day",), "relapses": ("onset_day", "end_day"),
    "treatments": ("start_day", "end_day"), "mri": ("day",),
}  # fmt: skip
KEYS = {
    "patients": ["patient_id"], "visits": ["patient_id", "day", "visit_id"], "relapses": ["patient_id", "onset_day"],
    "treatments": ["patient_id", "start_day", "drug"], "mri": ["patient_id", "day", "scan_id"],
}  # fmt: skip
UNITS = {
    "height_cm": "cm",
    "weight_kg": "kg",
    "education_years": "a",
    "ambulation_m": "m",
    "t25fw_s": "s",
    "nhpt_dom_s": "s",
    "nhpt_nondom_s": "s",
    "onset_precision_d": "d",
    "dose_mg": "mg",
    "interval_d": "d",
    "field_t": "T",
    "t2_vol_ml": "mL",
    "bhole_vol_ml": "cm3",
    "nbv_ml": "mL",
    "gm_ml": "mL",
    "cortical_gm_ml": "mL",
    "thalamus_ml": "mL",
    "lat_ventricle_ml": "mL",
    "pbvc_pct_y": "%/a",
    "cord_csa_mm2": "mm2",
    "interval_d_to_prev": "d",
}
NAMES = {"patient_id", "visit_id", "scan_id", "rater_id"}


@dataclass(frozen=True)
class Hospital:
    """Tables whose day 0 is each patient's first EDSS, and the calendar date of that day."""

    tables: Mapping[str, pd.DataFrame]
    index: Mapping[str, date]

    def on(self, patient: str, day: object) -> date:
        return self.index[patient] + timedelta(days=int(str(day)))


def hospital(patients: int, seed: int, spec: SiteSpec | None = None) -> Hospital:
    """A simulated site; patients without any EDSS are left out of it."""
    site, _ = simulate_site(replace(spec or preset_named("demo").sites[0], patients=patients), seed)
    tables = {name: site.tables[name].copy() for name in CORE}
    first = tables["visits"].dropna(subset=["edss"]).groupby("patient_id")["day"].min()
    index = {}
    for number, (patient, band) in enumerate(zip(tables["patients"]["patient_id"], tables["patients"]["year_band"], strict=True)):
        if patient in first.index:
            day = date(int(band[:4]), 1, 1) + timedelta(days=number * 37 % 1090)
            index[patient] = day + timedelta(days=int(first[patient]))
    for name, frame in tables.items():
        frame = frame[frame["patient_id"].isin(index.keys())].reset_index(drop=True)
        for column in DAYS[name]:
            frame[column] = frame[column] - frame["patient_id"].map(first).astype("Int64")
        tables[name] = frame
    tables["patients"]["year_band"] = [_band(index[patient]) for patient in tables["patients"]["patient_id"]]
    _fill(tables)
    return Hospital(tables, index)


def _fill(tables: Mapping[str, pd.DataFrame]) -> None:
    """Some of what the simulator leaves empty: ancestry, consent, arms, names in the image folder."""
    patients, treatments, mri = tables["patients"], tables["treatments"], tables["mri"]
    patients.loc[::3, "ancestry"] = "mixed"
    patients.loc[::4, "consent_scope"] = "routine|imaging"
    patients.loc[5::9, "consent_scope"] = "withdrawn"
    treatments.loc[::7, "arm"] = "open label"
    mri.loc[::5, "bids_sub"] = "S7"
    mri.loc[::5, "bids_ses"] = "m12"


def _band(day: date) -> str:
    """Three calendar years of which the first is a multiple of 3."""
    years = next((first, first + 2) for first in range(1899, 2100, 3) if first <= day.year <= first + 2)
    return f"{years[0]}-{years[1]}"


def texts(frame: pd.DataFrame, table: str, rename: Callable[[str], str] = str) -> pd.DataFrame:
    """Every cell as text, names of rows and people through `rename`, sorted by key: equal if and only if the tables are."""
    columns = {}
    for column in frame.columns:
        cells = ["" if pd.isna(value) else _text(value) for value in frame[column]]
        columns[column] = [rename(cell) if cell and column in NAMES else cell for cell in cells]
    made = pd.DataFrame(columns, dtype=object)
    return made.sort_values(KEYS[table], kind="stable").reset_index(drop=True)


def _text(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, int | float) else str(value)


def rows_of(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows without their empty cells; numbers as plain Python numbers."""
    return [
        {name: value.item() if hasattr(value, "item") else value for name, value in row.items() if not pd.isna(value)}
        for row in frame.to_dict("records")
    ]
