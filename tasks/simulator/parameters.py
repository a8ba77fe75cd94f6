"""Every figure of the cohort simulator, with its source: nothing about biology or hospitals is a number anywhere else.

Sources are the sections of the project's MS notes (`ms.md`). Tags: [S:n] read at source n of section 8, [R] from the published
literature, [C] computed with the prototype, [D] a design choice, [T] tuned here against the targets of section 2.1 (README.md,
Calibration). EDSS figures are points, rates are per patient-year, days are days.
"""

from __future__ import annotations

from typing import Final

# -- codes used inside the simulator; their names are the vocabularies of section 4.2 ------------------------------------

PHENOTYPES: Final = ("CIS", "RRMS", "SPMS", "PPMS")
CIS, RRMS, SPMS, PPMS = range(4)  # relapsing up to RRMS, progressive from SPMS
CLASSES: Final = ("none", "platform", "moderate", "high", "induction")  # 1.7; "none" = untreated
NONE, PLATFORM, MODERATE, HIGH, INDUCTION = range(5)  # by efficacy

# -- time ----------------------------------------------------------------------------------------------------------------

YEAR = 365.25
TICK = 28  # days; history advances in steps of four weeks, events have a day within their step [D]
TICKS_A_YEAR = YEAR / TICK
LOOK_BACK = 26  # ticks before the first visit in which relapses and treatments already run (2 years) [D]
LAST_YEAR = 2025  # calendar year in which all registries are frozen [D]

# -- people at their first visit -----------------------------------------------------------------------------------------

PHENOTYPE_SHARE = (0.08, 0.72, 0.12, 0.08)  # CIS, RRMS, SPMS, PPMS; 2.2 [C]
WOMEN = 0.725  # 2.1 [S:18]
WOMEN_PPMS = 0.52  # "about 1:1"; 2.1 [R]
ONSET_AGE = (
    (28.3, 10.6),
    (28.3, 10.6),
    (28.3, 10.6),
    (41.0, 9.0),
)  # mean, SD before truncation, which makes it 31±9.5; 2.1 [R], [T]
ONSET_AGE_RANGE = (15.0, 62.0)  # 2.1 [R]
OLDEST_AT_ENTRY = 80.0  # years: no one is born before the contract's first year [D]
DURATION_SHIFT_Y = (0.0, 0.0, 8.0, 1.0)  # 2.2 [C]
DURATION_SHAPE = (1.0, 1.3, 2.0, 1.5)  # gamma; 2.2 [C]
DURATION_SCALE_Y = (0.4, 3.4, 4.0, 4.5)  # 2.2 [C] says 5.5 for RRMS, 5 for SPMS: with these first visits are at 40, not 36.4 [T]
DISABILITY_CIS = (2.0, 0.6)  # gamma shape, scale; 2.2 [C]
DISABILITY_RRMS = (2.0, 0.8)  # 2.2 [C]
DISABILITY_RRMS_FLOOR, DISABILITY_RRMS_NONE = 0.6, 0.14  # offset; share with none; 2.2 [C]
DISABILITY_SPMS = (5.6, 0.9)  # normal; 2.2 [C]
DISABILITY_PPMS = (4.8, 1.2)  # normal; 2.2 [C]
RELAPSE_FRAILTY_SHAPE, PROGRESSION_FRAILTY_SHAPE = 2.0, 1.2  # gamma with mean 1; 2.2 [C]
FRAILTY_CORRELATION = 0.2  # of the normal scores; 2.2 [C]
TOPOGRAPHY_SHARE = (0.22, 0.17, 0.30, 0.13, 0.10, 0.08)  # topographies in the order of TOPOGRAPHIES [D]
TOPOGRAPHIES: Final = ("optic", "brainstem", "cord", "supratentorial", "multifocal", "unknown")  # 4.2
OCB_POSITIVE, OCB_KNOWN = 0.88, 0.7  # 1.5 [R]; share tested [D]
SMOKING_SHARE = (0.48, 0.24, 0.28)  # never, former, current [R]
COMORBID_SHARE = {"cardio": 0.14, "psych": 0.22, "autoimmune": 0.08}  # [R]
EDUCATION_Y = (13.0, 3.0)  # mean, SD [D]
HEIGHT_CM = {"F": (165.5, 6.5), "M": (178.5, 7.0)}  # [R]
BMI = (25.0, 4.5)  # [R]
DIAGNOSIS_DELAY_SCALE_D = 300.0  # exponential, from onset [D]
CRITERIA_FROM: Final = (
    (2017, "mcdonald2017"),
    (2010, "mcdonald2010"),
    (2005, "mcdonald2005"),
    (2001, "mcdonald2001"),
    (0, "poser"),
)
UNKNOWN_SEX = 0.002  # recorded as X [D]
CONSENT_SHARE = {"imaging": 0.99, "samples": 0.93, "questionnaires": 0.97, "devices": 0.75, "genetics": 0.85}  # of who was asked
WITHDRAWN_SHARE = 0.01  # took consent back since

# -- relapses ------------------------------------------------------------------------------------------------------------

RELAPSE_RATE = 0.93  # at age 30, onset, untreated; 2.2 [C] says 0.58, before under-reporting and escalation [T]
RELAPSE_AGE, RELAPSE_DURATION = -0.045, -0.005  # log rate per year; 2.2 [C]; duration -.02 there, as treatment takes its part [T]
RELAPSE_WOMEN, RELAPSE_MEN = 1.1, 0.9  # 2.2 [C]
RELAPSE_PHENOTYPE = (1.0, 1.0, 0.25, 0.08)  # 2.2 [C]
RELAPSE_GAP_D = 30  # smallest distance of two onsets; 1.4 [R]
BUMP = (1.2, 0.5, 0.2)  # transient worsening: mean, SD, floor; 2.2 [C]
BUMP_DECAY_D = 40.0  # 2.2 [C]
RESIDUAL_CHANCE, RESIDUAL_CHANCE_DISABLED = 0.27, 0.6  # chance of a residual; its factor from D = 5.5; 2.2 [C] says .20 [T]
RESIDUAL = (2.0, 0.45)  # gamma shape, scale; 2.2 [C]
FADING_SHARE, FADING_D = 0.4, 365.0  # of the residuals go within 12 months, for the persistence of RAW; 2.2 [C]
DISABLED = 5.5  # from here jumps are half points; 2.2 [C]

# -- silent worsening and secondary progression --------------------------------------------------------------------------

PIRA_RATE = 0.044  # at age 40, untreated RRMS; 2.2 [C] says .040 [T]
PIRA_AGE = 0.03  # log rate per year; 2.2 [C]
PIRA_PHENOTYPE = (1.0, 1.0, 2.3, 2.6)  # 2.2 [C]
PIRA_JUMP_LOG_SD, PIRA_JUMP, PIRA_JUMP_DISABLED, PIRA_JUMP_MILD = 0.25, 1.0, 0.5, 0.4  # last: added below D = 0.5; 2.2 [C]
CALENDAR_DRIFT = -0.03  # log rate per calendar year of diagnosis from 2010; 2.1 [S:43] (milestones fall 3/6/7 %)
CALENDAR_CENTRE = 2010
SPMS_FROM = 3.2  # D at which silent worsening may begin secondary progression [D], after Lorscheider (1.2) [S:15]
SPMS_CHANCE = 0.9  # that a silent step from there does [T]: 2.1 wants 2.7 %/y [S:39]
SPMS_RATE = 0.18  # besides, above that D in the relapsing phenotype [T]
DEATH_RATE, DEATH_AGE = 0.0012, 0.085  # at 40; log rate per year: population figures doubled [R]
DEATH_DISABLED = 1.35  # factor per point of D above 5 [D]

# -- fluctuation and rating ----------------------------------------------------------------------------------------------

OU_SD, OU_TAU_Y = 0.38, 0.7  # 2.2 [C]
OU_SCALE_MILD, OU_SCALE_MID, OU_SCALE_SEVERE = 1.8, 0.93, 0.85  # D < 0.5, between, D >= 6; 2.2 [C] says .35/1/.55 [T]
OU_SEVERE_FROM = 6.0
NOISE_NARROW, NOISE_WIDE, NOISE_WIDE_SHARE = 0.12, 0.6, 0.15  # below D = 6; 2.2 [C]: use 85/15
NOISE_NARROW_SEVERE, NOISE_WIDE_SEVERE, NOISE_WIDE_SHARE_SEVERE = 0.10, 0.35, 0.10  # 2.2 [C]
ELECTRONIC_NOISE = 0.7  # factor for electronic scoring; 1.1 [S:11] (odds of inconsistency 2.93 on paper)
PAPER_SLIP = 0.03  # share of paper scores half a point off what the functional systems say [D]

# -- treatment: ratios against no treatment, by CLASSES ------------------------------------------------------------------

RELAPSE_RATIO = (1.0, 0.68, 0.46, 0.31, 0.22)  # 1.7 [R]
PIRA_RATIO = (1.0, 0.92, 0.87, 0.75, 0.70)  # 1.7 [D]
PIRA_RATIO_PROGRESSIVE = (1.0, 1.0, 0.85, 0.78, 0.78)  # 1.7 [R] for PPMS and SPMS
LESION_RATIO = (1.0, 0.5, 0.25, 0.08, 0.05)  # 1.7 [R]
ATROPHY_RATIO = (1.0, 0.95, 0.75, 0.65, 0.60)  # 1.7 [R], on the loss beyond healthy ageing
NFL_Z = (0.0, -0.2, -0.4, -0.7, -0.7)  # 1.5 [R]
# Effect modifiers of the PIRA ratio: its logarithm is multiplied by these; 1.7 [D; direction R]
BENEFIT_ENDS_AT, BENEFIT_WHOLE_AT, BENEFIT_MOST = 53.0, 40.0, 1.5  # age
BENEFIT_ACTIVE, BENEFIT_QUIET = 1.3, 0.85  # relapse or Gd+ within a year, or none
BENEFIT_DISABLED, BENEFIT_DISABLED_FROM = 0.3, 6.0
BENEFIT_QUIET_PPMS = 0.4

FIRST_START_A_YEAR = 0.6  # rate of the first start in relapsing disease [D]
FIRST_START_AFTER_RELAPSE = 2.5  # its factor within half a year of a relapse [D]
FIRST_START_PROGRESSIVE = {SPMS: 0.10, PPMS: 0.12}  # [D]
INDICATION = {"gd": 0.8, "relapse": 0.5, "age": -0.03}  # log odds of high efficacy first; 2.3 [D]
USUAL = {"gd": 0.7, "relapse": 0.9, "age": 38.0}  # a usual starter, for whom the site's own share holds [D]
HIGH_ERA, HIGH_ERA_YEAR = 0.08, 2015.0  # log odds per calendar year from then [D]
PROGRESSIVE_HIGH = 0.75  # share of high efficacy among progressive starters [D]
MODERATE_SHARE = 0.45  # of those not given high efficacy, once there are drugs [D]
MODERATE_FROM_YEAR = 2011
INDUCTION_SHARE = 0.05  # of high-efficacy choices from 2014 [D]
INDUCTION_FROM_YEAR = 2014
ESCALATION_SEEN = {"relapse": 1.0, "mri": 0.35}  # how often activity comes to a decision within four weeks [D]
MRI_ACTIVITY_LESIONS = 2  # new lesions in 12 weeks that count as MRI activity [D]
SWITCH_TOLERABILITY, STOP, PREGNANCY_STOP, RESTART = 0.05, 0.06, 0.03, 0.5  # per year [D]
PREGNANCY_AGE = 40.0
JCV_SWITCH = 0.12  # per year, natalizumab [D]
GAP_D = (0, 14, 28, 42, 0)  # wash-out before the next treatment, by the class that ends [D]
# Generic name, first calendar year, ATC (pre-2024 code accepted by the contract), dose mg, interval days, weight
DRUGS: Final = {
    PLATFORM: (
        ("interferon_beta_1a", 1998, "L03AB07", 0.044, 2.33, 0.35),
        ("interferon_beta_1b", 1996, "L03AB08", 0.25, 2.0, 0.12),
        ("peginterferon_beta_1a", 2014, "L03AB13", 0.125, 14.0, 0.08),
        ("glatiramer_acetate", 2002, "L03AX13", 40.0, 2.33, 0.30),
        ("teriflunomide", 2013, "L04AA31", 14.0, 1.0, 0.25),
    ),
    MODERATE: (
        ("fingolimod", 2011, "L04AA27", 0.5, 1.0, 0.30),
        ("dimethyl_fumarate", 2014, "L04AX07", 240.0, 0.5, 0.38),
        ("diroximel_fumarate", 2021, "L04AX09", 462.0, 0.5, 0.06),
        ("ozanimod", 2020, "L04AA38", 0.92, 1.0, 0.08),
        ("ponesimod", 2021, "L04AA50", 20.0, 1.0, 0.05),
        ("siponimod", 2020, "L04AA42", 2.0, 1.0, 0.05),
        ("cladribine", 2017, "L04AA40", 10.0, 30.0, 0.15),
    ),
    HIGH: (
        ("natalizumab", 2006, "L04AA23", 300.0, 28.0, 0.34),
        ("ocrelizumab", 2018, "L04AA36", 600.0, 182.0, 0.40),
        ("ofatumumab", 2021, "L04AA52", 20.0, 30.0, 0.16),
        ("rituximab", 2000, "L01FA01", 500.0, 182.0, 0.10),
        ("ublituximab", 2023, "L04AG14", 450.0, 168.0, 0.04),
    ),
    INDUCTION: (
        ("alemtuzumab", 2014, "L04AA34", 12.0, 365.0, 0.8),
        ("ahsct", 2010, "", float("nan"), float("nan"), 0.2),
    ),
}
INDUCTION_COURSE_D = 370  # the row ends, its effect lasts [D]

# -- MRI -----------------------------------------------------------------------------------------------------------------

LESION_RATE, LESION_AGE = 5.5, -0.04  # new or enlarging T2 per year at 30; log rate per year; 2.2 [C] says 4 [T]
LESION_PHENOTYPE = (1.0, 1.0, 0.35, 0.25)  # [D]
LESION_DISPERSION = 0.8  # negative-binomial k of a year's count given the frailty; 2.2 [C] says .5 in all [T]
LESION_WITH_RELAPSE = 0.6  # more lesions in the four weeks of a relapse [D]
ENLARGING_SHARE = 0.25  # of the new or enlarging ones [D]
GD_TICKS, GD_SHARE = 3, 0.87  # lesions of the last 12 weeks that still enhance: 0.2 of a year's, as 2.2 [C]
GD_RATIO = (1.0, 0.95, 0.7, 0.26, 0.26)  # of that share, by CLASSES: 1.6 wants at most .05 Gd+ under high efficacy [T]
BRAIN_LOSS = (-0.55, 0.25)  # %/y: mean and SD over people; 2.2 [C]
BRAIN_LOSS_FRAILTY, BRAIN_LOSS_PIRA, PIRA_WINDOW_D = -0.12, -0.36, 365  # 2.2 [C]
HEALTHY_LOSS = -0.2  # 2.2 [C]
BRAIN_ML = {"F": (1500.0, 75.0), "M": (1515.0, 75.0)}  # normalised volume; 1.6 [R] 1500±80 in all
BRAIN_PER_POINT, BRAIN_PER_YEAR = -9.0, -1.6  # mL per point of D above 2, per year of age above 40 [D]
THALAMUS_ML, THALAMUS_LOSS, THALAMUS_WITH_BRAIN = (13.5, 1.2), -1.0, 0.6  # 1.6 [R]; share of its loss that follows the brain's [D]
T2_MEDIAN_ML, T2_LOG_SD = (2.0, 4.2, 11.0, 6.5), 1.15  # by phenotype at entry: 1.6 [R] 5/12/7; growth by lesions in the look-back
T2_GROWTH, T2_ML_A_LESION = 0.02, 0.08  # a year; mL per new lesion [T]: 1.6 [R] +5 % in all
T2_ML_PER_COUNT = 0.22  # mean lesion size behind the count [D]
SCAN_SD = {"brain": 0.0025, "thalamus": 0.012, "t2": 0.10, "ventricle": 0.02, "cord": 0.015}  # relative, same scanner; 1.6 [R]
PBVC_SD = 0.25  # %, same scanner; 1.6 [R] .15-.3
PBVC_SD_CHANGED = 0.6  # %, scanner changed; 1.6 [R] at least .5
CORD_MM2, CORD_PER_POINT = (77.0, 7.0), -2.3  # [R]; per point of D [D]
VENTRICLE_MEDIAN_ML, VENTRICLE_LOG_SD = 24.0, 0.40  # [R]
CONTRAST = 0.7  # of scans with contrast medium [D]
CORD_SCAN = 0.15  # of scans with the cord as well [D]
SCAN_AFTER_RELAPSE = 0.35  # an extra scan within 60 days of a relapse [D]
T2_SCANNER_LOG = 0.25  # of gamma, on the log of T2 volume: with SD .5 the cross-scanner error of 12 %; 1.6 [R] 10-15 %
LESIONS_FOUND_WEAK = 0.83  # of new lesions, at 1.5 T and below; 2.3 [R] (3 T counts 20 % more)
SCAN_INTERVAL_D, SCAN_PATIENT_LOG_SD, SCAN_JITTER = 365.0, 0.25, 0.15  # [D]
QC_SHARE = (0.90, 0.08, 0.02)  # pass, warn, fail [D]
PRL_SHARE, SEL_SHARE = 0.12, 0.08  # of lesions, where counted [D; direction R]

FUNCTIONAL_SYSTEMS: Final = ("visual", "brainstem", "pyramidal", "cerebellar", "sensory", "bowel_bladder", "cerebral")  # 4.2
FS_WEIGHT = (0.08, 0.10, 0.30, 0.16, 0.20, 0.10, 0.06)  # how often each leads [D]
# Highest scores, in order, of which Neurostatus makes each EDSS; the others are 0, or 0 and 1 from EDSS 2; 1.1 [R]
FS_PATTERN: Final = {
    0.0: (), 1.0: (1,), 1.5: (1, 1), 2.0: (2,), 2.5: (2, 2), 3.0: (3,), 3.5: (3, 2), 4.0: (4,), 4.5: (4, 2), 5.0: (4, 3, 2),
    5.5: (4, 3, 2), 6.0: (4, 3, 2, 2), 6.5: (4, 3, 3, 2), 7.0: (4, 4, 3, 2), 7.5: (5, 4, 3, 2), 8.0: (5, 4, 3, 3),
    8.5: (5, 4, 4, 3), 9.0: (5, 5, 4, 3), 9.5: (5, 5, 4, 4),
}  # fmt: skip
AMBULATION_M: Final = {4.0: 500, 4.5: 300, 5.0: 200, 5.5: 100, 6.0: 100, 6.5: 20, 7.0: 5}  # 1.1 [R]; beyond: 0
SPMS_RECOGNISED_LATER_Y = 3.0  # exponential; the objective rule is more than 3 years earlier; 1.4 [S:15]
RATERS = (1, 5)  # per site, uniform [D]

# -- OCT and evoked potentials -------------------------------------------------------------------------------------------

RNFL_UM, RNFL_MS, RNFL_NEURITIS, RNFL_SD = 94.0, -7.0, -13.0, 9.5  # 2.2 [C]; SD 1.5 [R]
RNFL_LOSS, RNFL_LOSS_PIRA = -0.9, -0.6  # µm/y; 2.2 [C]
GCIPL_UM, GCIPL_MS, GCIPL_NEURITIS, GCIPL_SD = 81.0, -6.0, -9.0, 7.5  # 1.5 [R]
GCIPL_SLOPE = 0.55  # of the RNFL's; 2.2 [C]
EYES_CORRELATED = 0.8  # 2.2 [C]
RNFL_ERROR_UM, GCIPL_ERROR_UM = 1.0, 0.6  # ±2 and ±1 µm; 1.5 [S:21]
NEURITIS_A_RELAPSE = 0.2  # share of relapses that are optic neuritis [R]
NEURITIS_BEFORE = 0.22  # eyes of people with an onset elsewhere, by history at entry [D]
P100_MS, P100_MS_MS, P100_NEURITIS, P100_PER_POINT, P100_SD = 100.0, 7.5, 15.0, 1.6, 10.0  # 1.5 [R]
CCT_LEG_MS, CCT_ARM_MS, CCT_PER_POINT, CCT_SD, CCT_SD_PER_POINT = (
    15.0,
    6.5,
    1.35,
    2.0,
    0.7,
)  # healthy, healthy, per point of D; 1.5 [R]

# -- fluids --------------------------------------------------------------------------------------------------------------

NFL_AT_30, NFL_AGE, NFL_BMI = 7.0, 0.025, -0.02  # pg/mL; log per year, per kg/m2; 1.5 [R]
NFL_MS, NFL_ACTIVE, NFL_PIRA, NFL_SD, NFL_REFERENCE_SD = (
    0.25,
    0.9,
    0.15,
    0.25,
    0.40,
)  # logs; 2.2 [C] says .5 for activity, 1.5 [R] x2-3 [T]; reference SD [D]
NFL_ACTIVE_D = 90
GFAP_BASE, GFAP_PIRA, GFAP_PER_POINT, GFAP_Z_SD = 0.25, 0.35, 0.1, 0.8  # z; 2.2 [C], per point above 2
GFAP_UM, GFAP_LOG_SD, GFAP_AGE = 70.0, 0.38, 0.012  # pg/mL at 40; 1.5 [R] 70±30

# -- function tests, questionnaires, wearables ---------------------------------------------------------------------------

WALK_S, WALK_PER_POINT, WALK_BENDS, WALK_LOG_SD = 4.2, 0.11, 0.35, 0.26  # 25 feet; log per point to 4, beyond; 1.5 [R]
PEG_S, PEG_PER_POINT, PEG_LOG_SD, PEG_LOG_SD_PER_POINT = 18.5, 0.075, 0.10, 0.030  # nine holes; 1.5 [R]
SDMT_N, SDMT_PER_POINT, SDMT_AGE, SDMT_SD, SDMT_ERROR, SDMT_PRACTICE = 54.5, -2.7, -0.25, 8.5, 3.0, 2.0  # 1.5 [R]
WALK_DAY_LOG_SD = 0.08  # day to day below 20 %; 1.5 [S:20]
# Questionnaires: score at D = 0, per point of D, SD over people, error, lowest, highest; ranges of 4.2; slopes [D]
INSTRUMENTS: Final = {
    "MSIS29_phys": (8.0, 8.5, 10.0, 6.0, 0.0, 100.0),
    "MSIS29_psych": (22.0, 4.0, 15.0, 7.0, 0.0, 100.0),
    "MSWS12": (8.0, 11.0, 12.0, 7.0, 0.0, 100.0),
    "FSMC": (42.0, 6.0, 14.0, 5.0, 20.0, 100.0),
    "EQ5D": (0.95, -0.07, 0.10, 0.05, -0.6, 1.0),
    "EQVAS": (84.0, -6.0, 10.0, 6.0, 0.0, 100.0),
    "HADS_D": (3.5, 0.8, 2.6, 1.3, 0.0, 21.0),
    "PDDS": (0.2, 0.95, 0.6, 0.4, 0.0, 8.0),
}
REGISTRY_INSTRUMENTS: Final = ("MSIS29_phys", "PDDS")
# Wearables: value at D = 0, per point of D, SD over people, week-to-week SD, lowest, highest; ranges of 4.2; slopes [D]
FEATURES: Final = {
    "steps_day": (8200.0, -1050.0, 2200.0, 900.0, 0.0, 40000.0),
    "gait_speed_ms": (1.35, -0.11, 0.14, 0.05, 0.0, 3.0),
    "walk_2min_m": (175.0, -16.0, 20.0, 8.0, 0.0, 300.0),
    "pinch_rate": (2.6, -0.14, 0.4, 0.15, 0.0, 20.0),
    "cog_sdmt_app": (54.0, -2.8, 9.0, 3.0, 0.0, 120.0),
    "rest_hr": (66.0, 0.6, 7.0, 2.0, 30.0, 150.0),
    "sleep_h": (7.3, -0.05, 0.7, 0.4, 0.0, 16.0),
}
ADHERENCE_MONTHS = 9.0  # exp(-t / 9 months); 2.4 [D]
ADHERENCE_FLOOR = 0.3  # 2.4: .6 decaying to .3 [D]

# -- genetics ------------------------------------------------------------------------------------------------------------

HLA_CARRIERS, HLA_ONSET_Y = 0.46, -1.5  # 2.2 [S:45]
HLA_A0201 = 0.27  # allele frequency [R]
SEVERITY_ALLELE, SEVERITY_HOMOZYGOTE = 0.17, 1.22  # 2.2 [R; S:46, not replicated S:47]: a near-null signal
PRS_LOADING = 0.1  # correlation of the polygenic severity score with the progression frailty's normal score [D]

# -- sites: what is drawn for each; 2.3 [D; anchors S] -------------------------------------------------------------------

ONSET_AGE_SHIFT, EDSS_SHIFT, WOMEN_SHIFT = 2.2, 0.50, 0.027  # SD between centres [S:33]; EDSS .43, but not at 0 [T]
DIRICHLET = 30.0
HIGH_FIRST, ESCALATION = (0.15, 0.70), (0.3, 0.9)  # uniform
VISIT_INTERVALS_MO, VISIT_INTERVAL_ODDS = (3.0, 4.0, 6.0, 8.0, 12.0), (0.05, 0.15, 0.50, 0.15, 0.15)  # odds [T]: 1.7 visits/y
VISIT_JITTER, VISIT_SKIPPED, UNSCHEDULED = 0.15, 0.12, 0.6
VISIT_PATIENT_LOG_SD = 0.35  # how differently people of one site are seen [T]: 15.1±11.9 visits
RATER_BIAS, RATER_NOISE = 0.15, (0.6, 1.6)
ELECTRONIC = 0.35  # of sites [D]
SCANNER_ODDS, UPGRADE_Y = (0.4, 0.35, 0.25), 6.0  # 1-3 scanners at a time
GAMMA_SD, DELTA_SD = 0.5, 0.15  # additive in SDs over people; multiplicative SD
STRONG_FIELD = 0.6  # share of 3 T [D]
FIELD_T2, FIELD_COUNT, FIELD_THALAMUS = 1.12, 1.20, 1.03  # 3 T against 1.5 T [R]
OCT_OFFSET_UM, NFL_FACTOR, VEP_OFFSET_MS = 10.0, (0.6, 1.4), 4.0  # uniform ranges
UNDER_REPORTING, STOP_MISSING = (0.0, 0.30), (0.05, 0.25)  # of relapses, of stop dates
DROP_OUT = (0.05, 0.08)  # a year; 2.4 [D]
DROP_OUT_STABLE, DROP_OUT_DISABLED, DROP_OUT_DISABLED_FROM = 1.15, 1.5, 6.5  # 2.4: higher when stable or very disabled
SHIFTED_PIRA_AGE, SHIFTED_PIRA = 0.06, 1.3  # the site of another concept: slope and level of silent worsening
PROGRESSIVE_CLINIC, EARLY_CLINIC = (0.02, 0.38, 0.38, 0.22), (0.30, 0.66, 0.02, 0.02)  # case mix of two kinds of clinic [D]

# -- fraction of expected records that are there, by schedule; 2.4 [D; R anchors] ----------------------------------------

COVERAGE: Final = {
    "registry": {
        "edss": 0.80, "fs": 0.50, "function": 0.28, "mri": 0.50, "quantified": 0.25, "oct": 0.15, "ep": 0.15,
        "nfl": 0.05, "gfap": 0.02, "proms": 0.15, "wearables": 0.0, "genetics": 0.05,
    },
    "reclaim": {  # as the registry, but every scan is quantified centrally
        "edss": 0.80, "fs": 0.50, "function": 0.28, "mri": 0.78, "quantified": 0.97, "oct": 0.15, "ep": 0.15,
        "nfl": 0.05, "gfap": 0.02, "proms": 0.15, "wearables": 0.0, "genetics": 0.05,
    },
    "clinnova": {
        "edss": 0.95, "fs": 0.90, "function": 0.85, "mri": 0.70, "quantified": 0.60, "oct": 0.50, "ep": 0.30,
        "nfl": 0.90, "gfap": 0.90, "proms": 0.80, "wearables": 0.60, "genetics": 0.90,
    },
    "trial": {
        "edss": 0.98, "fs": 0.97, "function": 0.95, "mri": 0.97, "quantified": 0.95, "oct": 0.10, "ep": 0.05,
        "nfl": 0.60, "gfap": 0.30, "proms": 0.90, "wearables": 0.05, "genetics": 0.50,
    },
}  # fmt: skip
COVERAGE_LOG_ODDS_SD = 0.35  # between sites of one schedule [D]
MODALITY_ABSENT = 0.25  # chance that a registry has no OCT, no evoked potentials, no fluids, no questionnaires at all [D]
OPTIONAL_MODALITIES: Final = ("oct", "ep", "nfl", "gfap", "proms", "genetics")
LABEL_POOR = {"edss": 0.40, "fs": 0.15}  # the label-poor site; 2.3
MORE_WHEN_WORSE = 0.5  # log odds of a score or scan within 90 days of a relapse; 2.4 (missing not at random)
YEARLY_MODALITIES_D = 365.0
CLINNOVA_OPTIONAL_VISIT, CLINNOVA_UNSCHEDULED, CLINNOVA_YEARS = 0.6, 0.25, 5  # 2.4 [S]; shares [D]
CLINNOVA_ENTRY = (0.40, 0.35, 0.25)  # early disease, change or flare, beginning progression; 2.4
CLINNOVA_EARLY_Y = 3.0
CLINNOVA_FOLLOW_UP_Y = (1.0, 5.0)  # uniform: people still enter [D]
FOLLOW_UP_FROM_YEAR = (2003, 2020)  # first visits of a registry are spread over these years [T]: 8.9±5.2 y of follow-up
