"""The data contract: what the eleven tables of a site hold, in one place. Every other description of them is derived.

Change a column here, raise `since` and the version, run `scripts/make_dictionary.py` (README: how to add a column).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tasks.ms.schema import Column, DataContract, Limits, LimitsBy, Table

NEUROSTATUS: Final = "Neurostatus-EDSS"
MSDA: Final = "MSDA core dataset 2022"
MAGNIMS: Final = "MAGNIMS-CMSC-NAIMS 2021"
ISCEV: Final = "ISCEV and IFCN standards"
OSCAR: Final = "OSCAR-IB"
LONGEST_LIFE_D: Final = Limits(-36525, 36525)  # 100 years: a day outside is probably a calendar date
LONGEST_LIFE_WEEKS: Final = Limits(-5218, 5218)
YES_NO: Final = Limits(0, 1)
GENE_DOSE: Final = Limits(0, 2)
LARGEST_CHANGE: Final = 0.15  # of a brain volume, from one scan to the next of the same scanner

PHENOTYPES: Final[Mapping[str, str]] = {
    "CIS": "clinically isolated syndrome",
    "RRMS": "relapsing-remitting MS",
    "SPMS": "secondary progressive MS",
    "PPMS": "primary progressive MS",
    "RIS": "radiologically isolated syndrome",
}
FUNCTIONAL_SYSTEMS: Final[Mapping[str, str]] = {
    "visual": "visual",
    "brainstem": "brainstem",
    "pyramidal": "pyramidal (motor)",
    "cerebellar": "cerebellar (coordination)",
    "sensory": "sensory",
    "bowel_bladder": "bowel and bladder",
    "cerebral": "cerebral (mental)",
}
FS_HIGHEST: Final[Mapping[str, int]] = {
    "visual": 6, "brainstem": 5, "pyramidal": 6, "cerebellar": 5, "sensory": 6, "bowel_bladder": 6, "cerebral": 5,
}  # fmt: skip
DMT_CLASSES: Final[Mapping[str, str]] = {
    "platform": "interferon beta, glatiramer acetate, teriflunomide",
    "moderate": "fumarates, S1P modulators, cladribine",
    "high": "monoclonal antibodies of high efficacy",
    "induction": "given in courses: alemtuzumab, stem cell transplantation, mitoxantrone",
    "other": "any other disease-modifying therapy",
}
# generic name -> (what it is, classes it may be filed under)
DRUGS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "interferon_beta_1a": ("interferon beta-1a", ("platform",)),
    "interferon_beta_1b": ("interferon beta-1b", ("platform",)),
    "peginterferon_beta_1a": ("peginterferon beta-1a", ("platform",)),
    "glatiramer_acetate": ("glatiramer acetate", ("platform",)),
    "teriflunomide": ("teriflunomide", ("platform",)),
    "dimethyl_fumarate": ("dimethyl fumarate", ("moderate",)),
    "diroximel_fumarate": ("diroximel fumarate", ("moderate",)),
    "fingolimod": ("fingolimod", ("moderate",)),
    "ozanimod": ("ozanimod", ("moderate",)),
    "ponesimod": ("ponesimod", ("moderate",)),
    "siponimod": ("siponimod", ("moderate",)),
    "cladribine": ("cladribine", ("moderate", "induction")),
    "natalizumab": ("natalizumab", ("high",)),
    "ocrelizumab": ("ocrelizumab", ("high",)),
    "ofatumumab": ("ofatumumab", ("high",)),
    "ublituximab": ("ublituximab", ("high",)),
    "rituximab": ("rituximab", ("high",)),
    "alemtuzumab": ("alemtuzumab", ("high", "induction")),
    "mitoxantrone": ("mitoxantrone", ("induction", "high")),
    "ahsct": ("autologous haematopoietic stem cell transplantation", ("induction",)),
    "azathioprine": ("azathioprine", ("other",)),
    "cyclophosphamide": ("cyclophosphamide", ("other", "induction")),
    "daclizumab": ("daclizumab", ("high", "other")),
    "methotrexate": ("methotrexate", ("other",)),
    "mycophenolate": ("mycophenolate mofetil", ("other",)),
    "ivig": ("intravenous immunoglobulins", ("other",)),
    "other": ("another disease-modifying drug", ("other",)),
    "none": ("known to be without a disease-modifying therapy", ()),
    "washout": ("planned interval between two therapies", ()),
    "trial_blinded": ("blinded treatment in a trial; see arm", ("other",)),
}
ANALYTES: Final[Mapping[str, tuple[str, Limits]]] = {
    "nfl": ("neurofilament light chain", Limits(0.1, 500, "pg/mL")),
    "gfap": ("glial fibrillary acidic protein", Limits(1, 1000, "pg/mL")),
    "ocb": ("oligoclonal bands found in CSF alone", Limits(0, 60, "count")),
    "igg_index": ("IgG index", Limits(0, 10, "ratio")),
    "kflc_index": ("kappa free light chain index", Limits(0, 2000, "ratio")),
    "jcv_index": ("JC virus antibody index", Limits(0, 10, "ratio")),
    "lymphocytes": ("lymphocytes", Limits(0, 50, "1e9/L")),
    "b_cells": ("CD19-positive B cells", Limits(0, 3000, "1/uL")),
    "igg": ("immunoglobulin G", Limits(0, 50, "g/L")),
    "vitd": ("25-hydroxyvitamin D", Limits(0, 500, "nmol/L")),
    "ebna1": ("antibody against EBNA-1", Limits(0, 100000, "U/mL")),
    "crp": ("C-reactive protein", Limits(0, 600, "mg/L")),
}
INSTRUMENTS: Final[Mapping[str, tuple[str, Limits]]] = {
    "MSIS29_phys": ("MS Impact Scale 29, physical", Limits(0, 100)),
    "MSIS29_psych": ("MS Impact Scale 29, psychological", Limits(0, 100)),
    "MSWS12": ("MS Walking Scale 12", Limits(0, 100)),
    "FSMC": ("Fatigue Scale for Motor and Cognitive Functions", Limits(20, 100)),
    "MFIS": ("Modified Fatigue Impact Scale", Limits(0, 84)),
    "EQ5D": ("EQ-5D index", Limits(-0.6, 1)),
    "EQVAS": ("EQ visual analogue scale", Limits(0, 100)),
    "BDI2": ("Beck Depression Inventory II", Limits(0, 63)),
    "HADS_A": ("Hospital Anxiety and Depression Scale, anxiety", Limits(0, 21)),
    "HADS_D": ("Hospital Anxiety and Depression Scale, depression", Limits(0, 21)),
    "PDDS": ("Patient Determined Disease Steps", Limits(0, 8)),
    "NeuroQoL_T": ("Neuro-QoL, T score", Limits(20, 80)),
    "TSQM9": ("Treatment Satisfaction Questionnaire 9", Limits(0, 100)),
    "PREM": ("experience of care", Limits(0, 100)),
}
FEATURES: Final[Mapping[str, tuple[str, Limits]]] = {
    "steps_day": ("steps a day", Limits(0, 40000, "1/day")),
    "gait_speed_ms": ("walking speed", Limits(0, 3, "m/s")),
    "walk_2min_m": ("two-minute walk", Limits(0, 300, "m")),
    "turn_speed_degs": ("speed of turning", Limits(0, 400, "deg/s")),
    "sit_to_stand_s": ("rising from a chair", Limits(0, 120, "s")),
    "sway": ("sway while standing", Limits(0, 1000, "score")),
    "pinch_rate": ("pinching test", Limits(0, 20, "1/s")),
    "draw_error": ("drawing test, error", Limits(0, 1000, "score")),
    "tap_rate": ("tapping test", Limits(0, 20, "1/s")),
    "cog_sdmt_app": ("symbol-digit test in the app", Limits(0, 120, "count")),
    "va_app": ("visual acuity in the app", Limits(0, 100, "letters")),
    "rest_hr": ("heart rate at rest", Limits(30, 150, "1/min")),
    "hrv_ms": ("heart rate variability", Limits(0, 500, "ms")),
    "sleep_h": ("sleep a day", Limits(0, 16, "h")),
}


def _meanings(described: Mapping[str, tuple[str, object]]) -> dict[str, str]:
    return {code: meaning for code, (meaning, _) in described.items()}


def _same(*words: str) -> dict[str, str]:
    """Codes that need no explanation."""
    return {word: word.replace("_", " ") for word in words}


def _key(column: Column) -> Column:
    return replace(column, key=True, nullable=False)


def _required(column: Column) -> Column:
    return replace(column, nullable=False)


def _patient() -> Column:
    return _key(Column("patient_id", "id", "The site's own pseudonym of the patient; it never leaves the hospital", source=MSDA))


def _day(name: str = "day", what: str = "Day of the examination") -> Column:
    return Column(name, "day", what, unit="days", limits=LONGEST_LIFE_D, source=MSDA)


def _measure(name: str, what: str, unit: str, limits: Limits, source: str = "") -> Column:
    """A measured number, which may be missing for a stated reason."""
    return Column(name, "number", what, unit=unit, limits=limits, missing_reason=True, source=source)


def _count(name: str, what: str, high: float, source: str = "") -> Column:
    return Column(name, "integer", what, unit="count", limits=Limits(0, high), missing_reason=True, source=source)


def _steady(column: Column) -> Column:
    """A volume that changes little from scan to scan of one scanner."""
    return replace(column, steady=LARGEST_CHANGE)


def _flag(name: str, what: str, source: str = MSDA) -> Column:
    return Column(name, "flag", what, limits=YES_NO, source=source)


def _code(name: str, what: str, vocabulary: Mapping[str, str], source: str = "") -> Column:
    return Column(name, "code", what, vocabulary=vocabulary, source=source)


def _every_row() -> tuple[Column, ...]:
    """The columns at the end of each table: where the row is from, how good it is, why something is empty."""
    return (
        _required(_code(
            "source", "How the row was recorded",
            {"rwd": "routine care", "trial": "clinical trial", "prospective": "prospective cohort"},
        )),
        _code(
            "quality", "How far the row can be trusted",
            {"ok": "checked", "suspect": "in doubt, kept", "imputed": "filled in by a rule, not measured"},
        ),
        _code(
            "missing_reason", "Why measurements of this row are empty",
            {
                "not_done": "the examination was not made",
                "not_recorded": "made, but the result is not in the records",
                "refused": "the patient did not want it",
                "technical": "the device or the sample failed",
            },
        ),
    )  # fmt: skip


def _functional_systems() -> tuple[Column, ...]:
    return tuple(
        Column(
            f"fs_{name}", "integer", f"Functional system score, {meaning}, as examined (before conversion)", unit="score",
            limits=Limits(0, FS_HIGHEST[name]), missing_reason=True, source=NEUROSTATUS,
        )
        for name, meaning in FUNCTIONAL_SYSTEMS.items()
    )  # fmt: skip


PATIENTS: Final = Table(
    "patients", "Patients", "One row for each patient: who they are, before any visit.", "clinical",
    (
        _patient(),
        _code("sex", "Sex", {"F": "female", "M": "male", "X": "other"}, source=MSDA),
        Column("birth_year", "integer", "Year of birth", limits=Limits(1920, 2020), source=MSDA),
        _day("onset_day", "Day of the first symptom"),
        _day("diagnosis_day", "Day of the diagnosis"),
        _code(
            "criteria", "Diagnostic criteria that were used",
            {"poser": "Poser 1983"} | {f"mcdonald{year}": f"McDonald {year}" for year in (2001, 2005, 2010, 2017, 2024)},
            source=MSDA,
        ),
        _code("phenotype_entry", "Course of the disease at the index date", PHENOTYPES, source=MSDA),
        _code(
            "onset_topography", "Where the first symptom came from",
            _same("optic", "brainstem", "cord", "supratentorial", "multifocal", "unknown"), source=MSDA,
        ),
        Column("education_years", "integer", "Years of education", unit="years", limits=Limits(0, 30)),
        _code("smoking", "Smoking", _same("never", "former", "current")),
        Column("height_cm", "number", "Height", unit="cm", limits=Limits(120, 220), usual=Limits(140, 205)),
        Column("weight_kg", "number", "Weight", unit="kg", limits=Limits(30, 250), usual=Limits(38, 180)),
        _flag("comorbid_cardio", "Cardiovascular disease besides MS"),
        _flag("comorbid_psych", "Psychiatric disease besides MS"),
        _flag("comorbid_autoimmune", "Autoimmune disease besides MS"),
        _code("ocb", "Oligoclonal bands in CSF alone", {"pos": "found", "neg": "not found", "unknown": "not known"}, source=MSDA),
        _code("ancestry", "Ancestry, if the hospital may record it",
              _same("european", "african", "asian", "latin_american", "middle_eastern", "mixed", "other", "unknown")),
        Column("consent_scope", "codes", "What the patient agreed to; empty = not recorded here",
               vocabulary={
                   "routine": "clinical data of routine care", "imaging": "images and what is measured in them",
                   "samples": "blood and CSF measurements", "questionnaires": "questionnaires",
                   "devices": "wearables and telephone", "genetics": "genetic data",
                   "withdrawn": "consent taken back: the patient is in no later computation",
               }),
        _day("death_day", "Day of death"),
        Column("year_band", "label", "Three years that hold the index date, such as 2016-2018", pattern=r"(19|20)\d\d-(19|20)\d\d"),
        *_every_row(),
    ),
    standard="CDISC DM, MH; OMOP person, condition_occurrence; FHIR Patient, Condition",
)  # fmt: skip

VISITS: Final = Table(
    "visits", "Visits", "One row for each visit with what was examined at it.", "clinical",
    (
        _patient(),
        _key(_day(what="Day of the visit")),
        _key(Column("visit_id", "id", "Name of the visit, to tell two visits of one day apart")),
        _code(
            "visit_type", "Why the patient came",
            _same("baseline", "scheduled_6m", "annual", "routine", "unscheduled_relapse", "unscheduled_other", "remote"),
        ),
        Column(
            "edss", "number", "Expanded Disability Status Scale; 10 = death from MS", unit="score", limits=Limits(0, 10), step=0.5,
            without=(0.5,), missing_reason=True, source=NEUROSTATUS,
        ),
        *_functional_systems(),
        _measure("ambulation_m", "Distance walked without rest or aid", "m", Limits(0, 10000), source=NEUROSTATUS),
        _code(
            "edss_method", "How the EDSS was scored",
            {"neurostatus": "by a certified rater", "escore": "electronically, with checks", "clinic": "in routine care",
             "remote": "by telephone or video", "patient": "by the patient"},
        ),
        Column("rater_id", "label", "Pseudonym of the rater"),
        replace(_measure("t25fw_s", "Timed 25-foot walk", "s", Limits(2, 180), source="MSFC"), usual=Limits(2.5, 90)),
        _code("t25fw_aid", "Aid used in the walk", {"none": "none", "uni": "one side", "bi": "both sides"}, source="MSFC"),
        _measure("nhpt_dom_s", "Nine-hole peg test, dominant hand", "s", Limits(10, 300), source="MSFC"),
        _measure("nhpt_nondom_s", "Nine-hole peg test, other hand", "s", Limits(10, 300), source="MSFC"),
        _count("sdmt_n", "Symbol Digit Modalities Test, right answers in 90 s", 110, source="BICAMS"),
        _count("pasat3_n", "Paced Auditory Serial Addition Test (3 s), right answers", 60, source="MSFC"),
        _code("phenotype", "Course of the disease on this day", PHENOTYPES, source=MSDA),
        _code("pregnancy", "Pregnancy on this day", {"no": "no", "pregnant": "pregnant", "postpartum": "in the year after birth"}),
        _flag("infection", "Infection or fever on this day"),
        *_every_row(),
    ),
    standard="CDISC RS (EDSS), FT (walk, pegs, SDMT); OMOP visit_occurrence, measurement; FHIR Encounter, Observation",
)  # fmt: skip

RELAPSES: Final = Table(
    "relapses", "Relapses", "One row for each relapse, at least 30 days after the one before.", "clinical",
    (
        _patient(),
        _key(_day("onset_day", "First day of the relapse")),
        _day("end_day", "Last day of the relapse"),
        _code("confirmed", "Who says that it was one", {"patient": "the patient", "physician": "a physician",
                                                        "objective": "an examination that was worse than before"}, source=MSDA),
        _code("severity", "How severe", _same("mild", "moderate", "severe"), source=MSDA),
        Column("fs_affected", "codes", "Functional systems that were affected", vocabulary=FUNCTIONAL_SYSTEMS, source=NEUROSTATUS),
        _flag("steroid", "Treated with steroids"),
        _flag("hospitalised", "Treated in hospital"),
        _code("recovery", "How far it went back", _same("none", "partial", "complete", "unknown"), source=MSDA),
        Column("onset_precision_d", "integer", "The first day is known to this many days", unit="days", limits=Limits(0, 90)),
        *_every_row(),
    ),
    standard="CDISC CE; OMOP condition_occurrence; FHIR Condition",
)  # fmt: skip

TREATMENTS: Final = Table(
    "treatments", "Treatments", "One row for each time a disease-modifying therapy was taken, from start to stop.", "clinical",
    (
        _patient(),
        _key(_day("start_day", "First day")),
        _key(_code("drug", "Generic name", _meanings(DRUGS), source="WHO INN")),
        _day("end_day", "First day without it; empty = still taken"),
        Column("atc", "label", "ATC code, old or new", pattern=r"[A-Z]\d{2}[A-Z]{2}\d{2}", source="WHO ATC"),
        _code("dmt_class", "Class of efficacy; empty for none and washout", DMT_CLASSES),
        Column("dose_mg", "number", "Dose each time", unit="mg", limits=Limits(0, 100000)),
        Column("interval_d", "number", "Days from dose to dose", unit="days", limits=Limits(0, 730)),
        _code("reason_start", "Why it was started", {"naive": "first therapy", "escalation": "the one before did not suffice",
                                                     "switch_tolerability": "the one before was not tolerated",
                                                     "switch_other": "another reason to change"}),
        _code("reason_stop", "Why it was stopped", {"inefficacy": "did not suffice", "adverse": "adverse effect", "jcv": "JC virus",
                                                    "pregnancy": "pregnancy or wish for it", "preference": "the patient's wish",
                                                    "end_of_course": "course completed", "unknown": "not known"}),
        Column("arm", "label", "Arm of a trial"),
        *_every_row(),
    ),
    standard="CDISC EX, CM; OMOP drug_exposure; FHIR MedicationStatement, MedicationAdministration",
)  # fmt: skip

MRI: Final = Table(
    "mri", "MRI measurements", "One row for each scan with what was read or measured in it; the images lie elsewhere.", "imaging",
    (
        _patient(),
        _key(_day(what="Day of the scan")),
        _key(Column("scan_id", "id", "Name of the scan")),
        _required(_code("region", "What was scanned", _same("brain", "cord", "both"))),
        Column("field_t", "number", "Field strength", unit="T", values=(0.5, 1, 1.5, 3, 7), source="DICOM"),
        _code("vendor", "Maker of the scanner", _same("siemens", "philips", "ge", "canon", "other"), source="DICOM"),
        Column("scanner_id", "label", "The hospital's own name of the scanner; a new name after an upgrade"),
        Column("protocol_id", "label", "Name of the protocol"),
        Column("sequences", "codes", "Sequences that were acquired", source="BIDS", vocabulary={
            "t1w": "T1", "t2w": "T2", "pdw": "proton density", "flair": "FLAIR", "t1w_gd": "T1 after contrast",
            "dir": "double inversion recovery", "psir": "phase-sensitive inversion recovery", "swi": "susceptibility",
            "dwi": "diffusion", "mtr": "magnetisation transfer", "qsm": "susceptibility map",
        }),
        Column("tool", "label", "Program that measured the volumes, or 'report' if a person counted"),
        Column("tool_version", "label", "Its version"),
        _measure("t2_vol_ml", "Volume of T2 lesions", "mL", Limits(0, 150), source=MAGNIMS),
        _count("t2_count", "Number of T2 lesions", 300, source=MAGNIMS),
        _count("new_t2", "New T2 lesions since the scan before", 100, source=MAGNIMS),
        _count("enlarging_t2", "Enlarging T2 lesions since the scan before", 100, source=MAGNIMS),
        Column("interval_d_to_prev", "integer", "Days since the scan it was compared with", unit="days", limits=Limits(0, 36525)),
        _count("gd_count", "Lesions that take up contrast; empty if none was given", 100, source=MAGNIMS),
        _measure("bhole_vol_ml", "Volume of T1 black holes", "mL", Limits(0, 60)),
        _steady(_measure("nbv_ml", "Whole brain volume, normalised to head size", "mL", Limits(1000, 2000))),
        _measure("bpf", "Brain parenchymal fraction", "ratio", Limits(0.5, 0.95)),
        _steady(_measure("gm_ml", "Grey matter volume", "mL", Limits(300, 1100))),
        _steady(_measure("cortical_gm_ml", "Cortical grey matter volume", "mL", Limits(200, 900))),
        _steady(_measure("thalamus_ml", "Volume of both thalami", "mL", Limits(5, 25))),
        _measure("lat_ventricle_ml", "Volume of the lateral ventricles", "mL", Limits(3, 200)),
        replace(_measure("pbvc_pct_y", "Brain volume change a year", "%/year", Limits(-10, 5)), usual=Limits(-4, 2)),
        _measure("cord_csa_mm2", "Cross-section of the cervical cord", "mm2", Limits(30, 110)),
        _count("prl_count", "Paramagnetic rim lesions", 50),
        _count("sel_count", "Slowly expanding lesions", 50),
        _code("qc", "Quality of the images", {"pass": "good", "warn": "usable with care", "fail": "not usable"}),
        Column("bids_sub", "id", "Subject in the BIDS folder, without sub-", source="BIDS"),
        Column("bids_ses", "id", "Session in the BIDS folder, without ses-", source="BIDS"),
        *_every_row(),
    ),
    standard="BIDS; OMOP procedure, measurement; FHIR ImagingStudy, DiagnosticReport",
)  # fmt: skip

OCT: Final = Table(
    "oct", "Optical coherence tomography", "One row for each eye and examination.", "ocular",
    (
        _patient(),
        _key(_day()),
        _key(_code("eye", "Eye", {"L": "left", "R": "right"})),
        _code("device", "Device", _same("spectralis", "cirrus", "other")),
        _measure("prnfl_um", "Peripapillary retinal nerve fibre layer, mean", "um", Limits(30, 150), source=OSCAR),
        _measure("prnfl_temporal_um", "The same, temporal sector", "um", Limits(10, 120), source=OSCAR),
        _measure("gcipl_um", "Ganglion cell and inner plexiform layer", "um", Limits(30, 110), source=OSCAR),
        _measure("inl_um", "Inner nuclear layer", "um", Limits(15, 60), source=OSCAR),
        _measure("tmv_mm3", "Total macular volume", "mm3", Limits(6, 12), source=OSCAR),
        _flag("on_history", "This eye has had optic neuritis"),
        _day("on_last_day", "Day of its last optic neuritis"),
        _code("oscar_ib", "Quality by the OSCAR-IB criteria", _same("pass", "fail"), source=OSCAR),
        _measure("va_hc", "Visual acuity, high contrast", "letters", Limits(0, 60)),
        _measure("lcva_2_5", "Visual acuity, 2.5 % contrast", "letters", Limits(0, 60)),
        *_every_row(),
    ),
    standard="CDISC OE; OMOP measurement; FHIR Observation",
)  # fmt: skip

EVOKED: Final = Table(
    "evoked_potentials", "Evoked potentials", "One row for each side and modality of an examination.", "electrophysiology",
    (
        _patient(),
        _key(_day()),
        _key(_code("modality", "What was stimulated and measured", {
            "VEP": "visual", "SSEP_arm": "somatosensory, arm", "SSEP_leg": "somatosensory, leg", "MEP_arm": "motor, arm",
            "MEP_leg": "motor, leg", "BAEP": "auditory",
        }, source=ISCEV)),
        _key(_code("side", "Side", {"L": "left", "R": "right"})),
        _measure("latency_ms", "Latency (VEP: P100)", "ms", Limits(5, 300), source=ISCEV),
        _measure("amplitude_uv", "Amplitude", "uV", Limits(0, 5000), source=ISCEV),
        _measure("cct_ms", "Central conduction time", "ms", Limits(0, 60), source=ISCEV),
        _flag("absent", "No response could be evoked", ISCEV),
        Column("ulim_ms", "number", "The laboratory's upper limit of normal", unit="ms", limits=Limits(5, 300)),
        Column("ep_score", "integer", "Score of abnormality", unit="score", limits=Limits(0, 6)),
        Column("wave_file", "label", "File of the curve, if kept", pattern=r"[\w][\w./-]{0,127}"),
        *_every_row(),
    ),
    standard="CDISC NV; OMOP measurement; FHIR Observation",
)  # fmt: skip

BIOMARKERS: Final = Table(
    "biomarkers", "Blood and CSF", "One row for each measured substance of a sample.", "samples",
    (
        _patient(),
        _key(_day(what="Day of the sample")),
        _key(_code("analyte", "What was measured", _meanings(ANALYTES))),
        _code("matrix", "What it was measured in", {"serum": "serum", "plasma": "plasma", "csf": "cerebrospinal fluid"}),
        _code("platform", "How it was measured", _same("simoa_hdx", "ella", "atellica", "lumipulse", "other")),
        Column(
            "value", "number", "Result", missing_reason=True,
            limits_by=LimitsBy("analyte", {code: limits for code, (_, limits) in ANALYTES.items()}, unit_column="unit"),
        ),
        _required(Column("unit", "label", "Unit of the result; each analyte has one", pattern=r"[\w/%]{1,16}")),
        _flag("loq_flag", "Below the limit of quantification; value = the limit"),
        Column("z_age_bmi", "number", "Difference to healthy people of this age and body mass", unit="SD", limits=Limits(-6, 10)),
        Column("batch_id", "label", "Batch of the assay"),
        *_every_row(),
    ),
    standard="CDISC LB; OMOP measurement; FHIR Observation",
)  # fmt: skip

PROMS: Final = Table(
    "proms", "Questionnaires", "One row for each score of a questionnaire.", "questionnaires",
    (
        _patient(),
        _key(_day()),
        _key(_code("instrument", "Questionnaire", _meanings(INSTRUMENTS))),
        _key(Column("item", "label", "total, or the name of an item or subscale", pattern=r"[A-Za-z0-9_]{1,32}")),
        Column(
            "score", "number", "Score", unit="score", limits=Limits(-1, 100), missing_reason=True,
            limits_by=LimitsBy("instrument", {code: limits for code, (_, limits) in INSTRUMENTS.items()}, only=("item", "total")),
        ),
        _code("mode", "How it was answered", _same("app", "paper", "clinic")),
        _code("language", "Language of the questionnaire", {
            "de": "German", "fr": "French", "en": "English", "it": "Italian", "es": "Spanish", "nl": "Dutch", "lb": "Luxembourgish",
            "da": "Danish", "sv": "Swedish", "cs": "Czech", "other": "another",
        }, source="ISO 639-1"),
        *_every_row(),
    ),
    standard="CDISC QS; OMOP measurement; FHIR QuestionnaireResponse",
)  # fmt: skip

WEARABLES: Final = Table(
    "wearables", "Wearables and telephone", "One row for each week and feature: the week's median; raw data stay elsewhere.",
    "devices",
    (
        _patient(),
        _key(Column("week", "integer", "Week since the index date; negative = before it", unit="weeks", limits=LONGEST_LIFE_WEEKS)),
        _key(_code("feature", "What was measured", _meanings(FEATURES))),
        Column(
            "value", "number", "Median of the week", missing_reason=True,
            limits_by=LimitsBy("feature", {code: limits for code, (_, limits) in FEATURES.items()}),
        ),
        Column("device", "label", "Kind of device"),
        Column("valid_days", "integer", "Days of the week with data", unit="days", limits=Limits(0, 7)),
        Column("wear_h_day", "number", "Hours worn on such a day", unit="h", limits=Limits(0, 24)),
        _code("app", "App", {"dreaMS": "dreaMS", "floodlight": "Floodlight", "other": "another"}),
        *_every_row(),
    ),
    standard="FHIR Observation",
)  # fmt: skip

GENETICS: Final = Table(
    "genetics", "Genetics", "One row for each patient who was genotyped.", "genetics",
    (
        _patient(),
        Column("panel", "label", "Array or panel"),
        Column("hla_drb1_1501", "integer", "Copies of HLA-DRB1*15:01", unit="copies", limits=GENE_DOSE),
        Column("hla_a_0201", "integer", "Copies of HLA-A*02:01", unit="copies", limits=GENE_DOSE),
        Column("prs_risk", "number", "Polygenic score of risk", unit="SD", limits=Limits(-8, 8)),
        Column("prs_severity", "number", "Polygenic score of severity", unit="SD", limits=Limits(-8, 8)),
        Column("rs10191329_a", "integer", "Copies of the allele A of rs10191329", unit="copies", limits=GENE_DOSE),
        *(Column(f"pc{n}", "number", f"Principal component {n} of ancestry, computed federatedly", unit="score",
                 limits=Limits(-1000, 1000)) for n in range(1, 6)),
        Column("dosage_file", "label", "File of the genotypes, if kept", pattern=r"[\w][\w./-]{0,127}"),
        *_every_row(),
    ),
    standard="CDISC PF; FHIR MolecularSequence",
)  # fmt: skip

CONTRACT: Final = DataContract(
    version=1,
    dated="2026-11-26",
    tables=(PATIENTS, VISITS, RELAPSES, TREATMENTS, MRI, OCT, EVOKED, BIOMARKERS, PROMS, WEARABLES, GENETICS),
)
