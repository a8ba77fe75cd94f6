"""The contract of `cis_conversion`: eight routine findings at the first episode, and whether MS followed.

The columns are those that clinics with different files can honestly share; README.md says what was left out and why.
"""

from __future__ import annotations

from tasks.base import Column, Contract, Label, Refusal
from tasks.tabular import TabularTask

CONTRACT = Contract(
    task="cis_conversion",
    version="1",
    columns=(
        Column("sex", "categorical", "sex in the record", categories=("F", "M"), nullable=False),
        Column("age_years", "numeric", "age at the first episode", unit="years", low=10, high=80, nullable=False),
        Column("oligoclonal_bands", "binary", "oligoclonal bands in cerebrospinal fluid, not in serum", modality="fluid"),
        Column("vep_abnormal", "binary", "visual evoked potential abnormal", modality="evoked_potentials"),
        Column("baep_abnormal", "binary", "brainstem auditory evoked potential abnormal", modality="evoked_potentials"),
        Column("mri_periventricular", "binary", "periventricular lesion on MRI", modality="mri"),
        Column("mri_infratentorial", "binary", "infratentorial lesion on MRI", modality="mri"),
        Column("mri_spinal", "binary", "spinal cord lesion on MRI; missing if the cord was not scanned", modality="mri"),
    ),
    label=Label("converted_to_ms", "MS diagnosed during follow-up"),
    refused=(
        Refusal(
            r"edss|expanded disability",
            "EDSS is often recorded for converters only, or after conversion, so it tells the outcome",
        ),
        Refusal(r"mcdonald|poser", "diagnostic criteria are the outcome itself"),
        Refusal(
            r"disease.?modifying|\bdmt\b|interferon|glatiramer|natalizumab|fingolimod|ocrelizumab",
            "treatment for MS follows the diagnosis",
        ),
    ),
)

TASK = TabularTask(CONTRACT)
