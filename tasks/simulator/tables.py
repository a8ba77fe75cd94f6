"""The columns that a simulated site's tables have, in the contract's order (section 4.2), and which of them are whole
numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from tasks.simulator.presets import Schedule

EVERY_ROW: Final = ("source", "quality", "missing_reason")
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "patients": (
        "patient_id", "sex", "birth_year", "onset_day", "diagnosis_day", "criteria", "phenotype_entry", "onset_topography",
        "education_years", "smoking", "height_cm", "weight_kg", "comorbid_cardio", "comorbid_psych", "comorbid_autoimmune",
        "ocb",
        "ancestry", "consent_scope", "death_day", "year_band",
    ),
    "visits": (
        "patient_id", "day", "visit_id", "visit_type", "edss", "fs_visual", "fs_brainstem", "fs_pyramidal", "fs_cerebellar",
        "fs_sensory", "fs_bowel_bladder", "fs_cerebral", "ambulation_m", "edss_method", "rater_id", "t25fw_s", "t25fw_aid",
        "nhpt_dom_s", "nhpt_nondom_s", "sdmt_n", "pasat3_n", "phenotype", "pregnancy", "infection",
    ),
    "relapses": (
        "patient_id", "onset_day", "end_day", "confirmed", "severity", "fs_affected", "steroid", "hospitalised", "recovery",
        "onset_precision_d",
    ),
    "treatments": (
        "patient_id", "start_day", "drug", "end_day", "atc", "dmt_class", "dose_mg", "interval_d", "reason_start",
        "reason_stop", "arm",
    ),
    "mri": (
        "patient_id", "day", "scan_id", "region", "field_t", "vendor", "scanner_id", "protocol_id", "sequences", "tool",
        "tool_version",
        "t2_vol_ml", "t2_count", "new_t2", "enlarging_t2", "interval_d_to_prev", "gd_count", "bhole_vol_ml", "nbv_ml", "bpf",
        "gm_ml",
        "cortical_gm_ml", "thalamus_ml", "lat_ventricle_ml", "pbvc_pct_y", "cord_csa_mm2", "prl_count", "sel_count", "qc",
        "bids_sub",
        "bids_ses",
    ),
    "oct": (
        "patient_id", "day", "eye", "device", "prnfl_um", "prnfl_temporal_um", "gcipl_um", "inl_um", "tmv_mm3", "on_history",
        "on_last_day", "oscar_ib", "va_hc", "lcva_2_5",
    ),
    "evoked_potentials": (
        "patient_id", "day", "modality", "side", "latency_ms", "amplitude_uv", "cct_ms", "absent", "ulim_ms", "ep_score",
        "wave_file",
    ),
    "biomarkers": (
        "patient_id", "day", "analyte", "matrix", "platform", "value", "unit", "loq_flag", "z_age_bmi", "batch_id",
    ),
    "proms": ("patient_id", "day", "instrument", "item", "score", "mode", "language"),
    "wearables": ("patient_id", "week", "feature", "value", "device", "valid_days", "wear_h_day", "app"),
    "genetics": (
        "patient_id", "panel", "hla_drb1_1501", "hla_a_0201", "prs_risk", "prs_severity", "rs10191329_a", "pc1", "pc2", "pc3",
        "pc4",
        "pc5", "dosage_file",
    ),
}  # fmt: skip
WHOLE: Final = frozenset(
    {
        "birth_year", "onset_day", "diagnosis_day", "education_years", "comorbid_cardio", "comorbid_psych",
        "comorbid_autoimmune",
        "death_day", "day", "fs_visual", "fs_brainstem", "fs_pyramidal", "fs_cerebellar", "fs_sensory", "fs_bowel_bladder",
        "fs_cerebral", "sdmt_n", "pasat3_n", "infection", "end_day", "steroid", "hospitalised", "onset_precision_d",
        "start_day",
        "t2_count", "new_t2", "enlarging_t2", "interval_d_to_prev", "gd_count", "prl_count", "sel_count", "on_history",
        "on_last_day",
        "absent", "ep_score", "loq_flag", "week", "valid_days", "hla_drb1_1501", "hla_a_0201", "rs10191329_a",
    }
)  # fmt: skip
SOURCE: Final = {Schedule.REGISTRY: "rwd", Schedule.RECLAIM: "rwd", Schedule.CLINNOVA: "prospective", Schedule.TRIAL: "trial"}


def as_in_the_contract(name: str, found: pd.DataFrame, schedule: Schedule) -> pd.DataFrame:
    """The table with the contract's columns in its order; what the simulator does not fill in is empty."""
    n = len(found)
    columns: dict[str, object] = {}
    for column in (*COLUMNS[name], *EVERY_ROW):
        values = found[column].to_numpy() if column in found else np.full(n, None, dtype=object)
        if column in WHOLE:
            columns[column] = pd.array(np.asarray(values, dtype=np.float64), dtype="Float64").astype("Int64")
        elif values.dtype.kind in "OUS" or not np.issubdtype(values.dtype, np.number):
            columns[column] = pd.array([None if value in ("", None) else str(value) for value in values], dtype=object)
        else:
            columns[column] = values
    columns |= {"source": np.full(n, SOURCE[schedule], dtype=object), "quality": np.full(n, "ok", dtype=object)}
    return pd.DataFrame(columns)
