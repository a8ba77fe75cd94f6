"""What people of a prospective cohort or a trial agreed to. Registries of routine care do not record it: scopes stay empty."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tasks.ms.schema import SEPARATOR
from tasks.simulator import parameters as p
from tasks.simulator.presets import Schedule, SiteSpec
from tasks.simulator.streams import stream

# Kind of data in `consent_scope` -> the tables that it opens; routine care opens the others.
KINDS = {
    "imaging": ("mri",), "samples": ("biomarkers",), "questionnaires": ("proms",), "devices": ("wearables",),
    "genetics": ("genetics",),
}  # fmt: skip


def with_consent(tables: Mapping[str, pd.DataFrame], spec: SiteSpec, seed: int) -> dict[str, pd.DataFrame]:
    """`tables` with `consent_scope`: nobody has rows of a kind that he refused, but whoever withdrew still has all there was."""
    if spec.schedule not in (Schedule.CLINNOVA, Schedule.TRIAL):
        return dict(tables)
    rng = stream(seed, spec.site_id, "consent")
    patients = tables["patients"]
    scopes = pd.Series("routine", index=patients.index)
    for kind, names in KINDS.items():
        asked = rng.random(len(patients)) < p.CONSENT_SHARE[kind]
        has = patients["patient_id"].isin({who for name in names for who in tables[name]["patient_id"]}).to_numpy(bool)
        scopes = scopes.where(~(asked | has), scopes + SEPARATOR + kind)
    gone = rng.random(len(patients)) < p.WITHDRAWN_SHARE
    return {**tables, "patients": patients.assign(consent_scope=np.where(gone, "withdrawn", scopes))}
