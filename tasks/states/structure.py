"""The published structure as public constants: eight states, four factors, which measure shows which factor, who can go where.

States and factors are those of Ganjgahi et al. 2025 (Nat Med, 10.1038/s41591-025-03901-6): 1 to 3 early, mild, evolving (EME),
4 asymptomatic radiological activity (ARA), 5 relapse, 6 to 8 advanced. Its numbers are not public at this detail: means, spreads
and transitions below are proposals in the units of the measures, fixed before any patient was seen, and EM starts from them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tasks.states.measures import MEASURES, NAMES, Floats

STATES: Final = ("early", "mild", "evolving", "radiological", "relapse", "advanced_6", "advanced_7", "advanced_8")
FACTORS: Final = ("disability", "brain_damage", "relapse", "radiological_activity")
N_STATES: Final = len(STATES)
N_FACTORS: Final = len(FACTORS)
N_MEASURES: Final = len(MEASURES)

# A factor has the scale of its marker, the first of these that a plan has; a marker's loading and intercept never move. Gadolinium
# enhances for some weeks, while new T2 lesions are all those since the scan before.
MARKERS: Final = (("edss", "t25fw_s", "nhpt_s", "sdmt_n"), ("t2_vol_ml", "nbv_ml"), ("relapse",), ("gd_count", "new_t2"))
LOADS: Final = {  # loading on each factor, in spreads of the measure for a unit of the factor; what is not here is 0 for ever
    "edss": {0: 1.0},
    "t25fw_s": {0: 0.7},
    "nhpt_s": {0: 0.5},
    "sdmt_n": {0: -0.4, 1: -0.2},
    "relapse": {2: 1.0},
    "t2_vol_ml": {1: 1.0},
    "new_t2": {3: 0.6},
    "gd_count": {3: 1.0},
    "nbv_ml": {0: -0.2, 1: -0.4},
}
RESIDUAL_SD: Final = {  # spreads
    "edss": 0.25, "t25fw_s": 0.7, "nhpt_s": 0.8, "sdmt_n": 0.8, "relapse": 0.1, "t2_vol_ml": 0.4, "new_t2": 0.7, "gd_count": 0.2,
    "nbv_ml": 0.9,
}  # fmt: skip

EDSS_MEANS: Final = (1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 5.5, 7.0)
T2_VOLUME_MEANS_ML: Final = (4.0, 5.0, 7.0, 6.0, 6.0, 9.0, 11.0, 13.0)
RELAPSE_MEANS: Final = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
GD_MEANS: Final = (0.0, 0.0, 0.0, 1.5, 0.5, 0.0, 0.0, 0.0)
DISABILITY_SD: Final = (0.2, 0.2, 0.2, 0.4, 0.6, 0.25, 0.25, 0.3)  # units of the factor: 2 points of EDSS
BRAIN_SD: Final = 0.9
RELAPSE_SD: Final = 0.15
ACTIVITY_SD: Final = (0.2, 0.2, 0.2, 0.7, 0.9, 0.2, 0.2, 0.2)
INITIAL: Final = (0.17, 0.22, 0.20, 0.07, 0.09, 0.12, 0.08, 0.05)

# Chance of each next state in 12 weeks. EME reaches advanced through 4 and 5; advanced hardly ever returns.
TRANSITIONS: Final = (
    (0.880, 0.020, 0.0045, 0.060, 0.035, 0.0003, 0.0001, 0.0001),
    (0.012, 0.865, 0.025, 0.060, 0.035, 0.0020, 0.0005, 0.0005),
    (0.001, 0.014, 0.885, 0.055, 0.035, 0.0080, 0.0010, 0.0010),
    (0.220, 0.280, 0.220, 0.180, 0.050, 0.0350, 0.0100, 0.0050),
    (0.180, 0.280, 0.290, 0.090, 0.080, 0.0500, 0.0200, 0.0100),
    (0.0005, 0.0010, 0.0045, 0.014, 0.014, 0.950, 0.015, 0.001),
    (0.0001, 0.0002, 0.0007, 0.010, 0.010, 0.007, 0.960, 0.012),
    (0.0001, 0.0001, 0.0003, 0.006, 0.006, 0.0005, 0.007, 0.980),
)
# Ratios to no treatment of relapses, new lesions and silent worsening, by class of therapy (meta-analyses; last column a proposal).
DMT_CLASSES: Final = ("none", "platform", "moderate", "high")  # high: induction too
DMT_RATIOS: Final = ((1.0, 1.0, 1.0), (0.68, 0.5, 0.92), (0.46, 0.25, 0.87), (0.31, 0.08, 0.75))
AGE_CUTS: Final = (40.0, 55.0)  # years
AGE_RATIOS: Final = ((1.3, 1.2, 0.8), (0.8, 0.8, 1.1), (0.45, 0.5, 1.4))  # relapses fall with age, silent worsening rises
TYPICAL_RATIO: Final = (0.5, 0.3, 0.87)  # of the treated cohorts that `TRANSITIONS` describe

STRATA_CUTS: Final = (0.5, 3.75, 6.25)  # EDSS 0, 1 to 3.5, 4 to 6, 6.5 and more (Campbell 2024)
STRATA: Final = ("0", "1-3.5", "4-6", "6.5+")
N_STRATA: Final = len(STRATA)
STRATA_INITIAL: Final = (0.12, 0.55, 0.21, 0.12)
# Campbell's yearly chances of staying are .54/.82/.70/.78; of 12 weeks, roughly.
STRATA_TRANSITIONS: Final = (
    (0.85, 0.140, 0.008, 0.002),
    (0.02, 0.945, 0.033, 0.002),
    (0.002, 0.048, 0.920, 0.030),
    (0.001, 0.004, 0.055, 0.940),
)
STRATA_OF_STATES: Final = (  # chance of each stratum in each state
    (0.40, 0.60, 0.0, 0.0), (0.05, 0.94, 0.01, 0.0), (0.01, 0.91, 0.08, 0.0), (0.10, 0.70, 0.18, 0.02), (0.08, 0.57, 0.30, 0.05),
    (0.0, 0.25, 0.75, 0.0), (0.0, 0.01, 0.85, 0.14), (0.0, 0.0, 0.12, 0.88),
)  # fmt: skip
SAME_AGAIN: Final = 3.0  # odds, beyond those of the state, that a score stays in its stratum
SEVERITY: Final = np.array([0, 1, 2, np.nan, np.nan, 3, 4, 5])  # rank of the states that are ordered by disability


def prior_means() -> Floats:
    """(8, 4): means of the factors in each state, on the scale of the markers."""
    edss, volume, _, enhancing = (MEASURES[NAMES.index(names[0])] for names in MARKERS)
    columns = (
        edss.standardised(np.array(EDSS_MEANS)),
        volume.standardised(np.array(T2_VOLUME_MEANS_ML)),
        np.array(RELAPSE_MEANS),
        enhancing.standardised(np.array(GD_MEANS)),
    )
    return np.stack(columns, axis=1)


def prior_covariances() -> Floats:
    """(8, 4, 4), diagonal."""
    sds = np.stack([np.array(DISABILITY_SD), np.full(N_STATES, BRAIN_SD), np.full(N_STATES, RELAPSE_SD), np.array(ACTIVITY_SD)], 1)
    return sds[:, :, None] ** 2 * np.eye(N_FACTORS)


def prior_transitions(by_dmt: bool, by_age: bool) -> Floats:
    """(cells, 8, 8): `TRANSITIONS`, in each cell with the ratios of its class and age; rows sum to 1. Cells: class, then age."""
    base = np.array(TRANSITIONS)
    base /= base.sum(axis=1, keepdims=True)
    dmt = np.array(DMT_RATIOS) / TYPICAL_RATIO if by_dmt else np.ones((1, 3))
    age = np.array(AGE_RATIOS) if by_age else np.ones((1, 3))
    return np.array([_tilted(base, relative * older) for relative in dmt for older in age])


def prior_scores() -> Floats:
    """(8, 4, 4): chance of the next stratum given state then and last stratum; rows sum to 1, none is 0."""
    found = np.array(STRATA_OF_STATES)[:, None, :] * (1 + (SAME_AGAIN - 1) * np.eye(N_STRATA)) + 0.002
    return np.asarray(found / found.sum(axis=2, keepdims=True))


def _tilted(base: Floats, ratios: Floats) -> Floats:
    """`base` with chances of going into relapse, radiological activity and a worse advanced state multiplied."""
    factor = np.ones_like(base)
    factor[:, 4], factor[:, 3] = ratios[0], ratios[1]
    rank = np.where(np.isnan(SEVERITY), -1.0, SEVERITY)
    worse = (rank[None, :] >= 3) & (rank[None, :] > rank[:, None])
    factor[worse] = ratios[2]
    found = base * factor
    away = found.sum(axis=1) - np.diag(found)
    # What is not spent on leaving is spent on staying.
    found[np.diag_indices(N_STATES)] = np.maximum(1.0 - away, 0.5 * np.diag(base))
    return np.asarray(found / found.sum(axis=1, keepdims=True))
