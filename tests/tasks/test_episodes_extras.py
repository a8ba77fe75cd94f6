"""Inputs beside routine care are what one counts by hand, and each modality is one group that a lead can add."""

import numpy as np
import pandas as pd
import pytest

from tasks.cdp_2y.task import TASK
from tasks.episodes.extras import ALL_EXTRAS, GROUPS, MODALITIES, TABLES_OF, VISITS, expanded, tables_for, with_modalities
from tasks.episodes.inputs import episode_values
from tasks.episodes.past import Episodes, past_of
from tasks.episodes.routine import CORE, EXTRAS
from tasks.errors import ContractError
from tasks.ms.contract import CONTRACT
from tasks.ms.contract import INSTRUMENTS as SCALES

Tables = dict[str, pd.DataFrame]
PERSON = {"patient_id": "a", "sex": "F", "birth_year": 1980, "year_band": "2015-2017", "onset_day": -731, "phenotype_entry": "CIS"}
NAMES = tuple(column.name for column in ALL_EXTRAS)


def small(**tables: list[dict[str, object]]) -> Tables:
    """One patient's tables, cells that are not named empty."""
    found = {"patients": pd.DataFrame([PERSON])}
    for name, rows in tables.items():
        frame = pd.DataFrame([{"patient_id": "a", **row} for row in rows])
        found[name] = frame.reindex(columns=list(dict.fromkeys([*CONTRACT.table(name).names, *frame])))
    return found


def inputs_of(tables: Tables, t0: int) -> dict[str, float]:
    past = past_of(tables, Episodes(("a",), np.array([t0])), tables_for(ALL_EXTRAS))
    return dict(zip(NAMES, episode_values(past, ALL_EXTRAS)[0].tolist(), strict=True))


def eye(day: int, side: str, gcipl: float | None, *, device: str = "spectralis", **more: object) -> dict[str, object]:
    return {"day": day, "eye": side, "gcipl_um": gcipl, "device": device, **more}


def test_the_layers_of_the_eyes_are_means_and_their_gap_has_no_sign() -> None:
    rows = [eye(10, "L", 80.0, prnfl_um=100.0), eye(10, "R", 70.0, prnfl_um=90.0), eye(400, "L", 78.0)]
    found = inputs_of(small(oct=rows), 500)
    assert (found["gcipl_um_last"], found["gcipl_gap_um"], found["prnfl_um_last"]) == (74.0, 8.0, 95.0)
    one = inputs_of(small(oct=rows[:1]), 500)
    assert (one["gcipl_um_last"], one["prnfl_um_last"]) == (80.0, 100.0)
    assert np.isnan(one["gcipl_gap_um"])


def test_a_poor_image_does_not_count() -> None:
    rows = [eye(10, "L", 80.0), eye(20, "L", 50.0, oscar_ib="fail")]
    assert inputs_of(small(oct=rows), 30)["gcipl_um_last"] == 80.0


def test_the_slope_of_the_ganglion_cells_is_within_eye_and_device() -> None:
    """Another device reads 10 um more: no patient gains cells by it."""
    days = (0, 365, 730)
    rows = [eye(day, side, base - 1.5 * day / 365.25) for side, base in (("L", 80.0), ("R", 60.0)) for day in days]
    assert inputs_of(small(oct=rows), 800)["gcipl_um_y"] == pytest.approx(-1.5)
    moved = [
        row | ({"device": "cirrus", "gcipl_um": float(str(row["gcipl_um"])) + 10} if row["day"] == 730 else {}) for row in rows
    ]
    assert inputs_of(small(oct=moved), 800)["gcipl_um_y"] == pytest.approx(-1.5)


def test_the_slope_agrees_with_least_squares_with_a_level_for_each_group() -> None:
    stream = np.random.default_rng(3)
    rows = [
        eye(int(day), side, float(stream.uniform(50, 100)), device=device)
        for side in "LR" for device in ("cirrus", "other") for day in stream.choice(1000, 4, replace=False)
    ]  # fmt: skip
    groups = sorted({(row["eye"], row["device"]) for row in rows})
    levels = np.array([[(row["eye"], row["device"]) == group for group in groups] for row in rows], dtype=float)
    design = np.column_stack([np.array([float(str(row["day"])) for row in rows]) / 365.25, levels])
    expected = np.linalg.lstsq(design, np.array([float(str(row["gcipl_um"])) for row in rows]), rcond=None)[0][0]
    assert inputs_of(small(oct=rows), 1000)["gcipl_um_y"] == pytest.approx(np.clip(expected, -5, 5))


@pytest.mark.parametrize(("apart", "known"), [(150, False), (200, True)])
def test_a_slope_needs_examinations_half_a_year_apart(apart: int, known: bool) -> None:
    rows = [eye(0, "L", 80.0), eye(apart, "L", 79.0)]
    assert np.isnan(inputs_of(small(oct=rows), 300)["gcipl_um_y"]) != known


def test_evoked_potentials_are_of_the_worse_side_and_an_absent_one_is_said() -> None:
    rows = [
        {"day": 5, "modality": "VEP", "side": "L", "latency_ms": 110.0, "absent": 0},
        {"day": 5, "modality": "VEP", "side": "R", "latency_ms": 130.0, "absent": 0},
        {"day": 5, "modality": "MEP_leg", "side": "L", "latency_ms": 40.0, "cct_ms": 21.0, "absent": 0},
        {"day": 9, "modality": "MEP_leg", "side": "L", "absent": 1},
        {"day": 5, "modality": "MEP_arm", "side": "R", "cct_ms": 59.0, "absent": 0},
    ]
    found = inputs_of(small(evoked_potentials=rows), 20)
    assert (found["vep_p100_ms_last"], found["vep_absent_last"]) == (130.0, 0.0)
    assert (found["mep_leg_cct_ms_last"], found["mep_leg_absent_last"]) == (21.0, 1.0)


def test_blood_questionnaires_and_scans_are_the_last_of_their_kind() -> None:
    tables = small(
        biomarkers=[{"day": 1, "analyte": "nfl", "z_age_bmi": 1.0}, {"day": 2, "analyte": "gfap", "z_age_bmi": 2.0}],
        proms=[
            {"day": 1, "instrument": "MSIS29_phys", "item": "total", "score": 20.0},
            {"day": 3, "instrument": "MSIS29_phys", "item": "total", "score": 30.0},
            {"day": 4, "instrument": "MSIS29_phys", "item": "q7", "score": 3.0},
            {"day": 4, "instrument": "FSMC", "item": "total", "score": 55.0},
        ],
        mri=[{"day": 3, "scan_id": "1", "region": "brain", "thalamus_ml": 13.0, "pbvc_pct_y": -0.8, "qc": "pass"},
             {"day": 9, "scan_id": "2", "region": "brain", "thalamus_ml": 9.0, "qc": "fail"}],
    )  # fmt: skip
    found = inputs_of(tables, 10)
    assert (found["nfl_z_last"], found["gfap_z_last"]) == (1.0, 2.0)
    assert (found["msis_physical_last"], found["fsmc_last"]) == (30.0, 55.0)
    assert np.isnan([found["msis_psychological_last"], found["mfis_last"]]).all()
    assert (found["thalamus_ml_last"], found["brain_change_pct_y_last"]) == (13.0, -0.8)


def test_wearables_are_medians_of_the_last_twelve_weeks_that_are_over() -> None:
    def week(number: int, value: float | None, feature: str = "gait_speed_ms") -> dict[str, object]:
        return {"week": number, "feature": feature, "value": value}

    rows = [week(0, 2.9), week(4, 1.0), week(5, 1.4), week(9, 1.1), week(10, None), week(15, 0.5), week(9, 6000.0, "steps_day")]
    found = inputs_of(small(wearables=rows), 7 * 15 + 5)  # week 15 ends a day later
    assert found["gait_speed_ms_12w"] == pytest.approx(1.1)
    assert found["steps_day_12w"] == 6000.0
    assert found["wearable_weeks_12w"] == pytest.approx(3 / 12)
    after = inputs_of(small(wearables=rows), 7 * 15 + 6)
    assert after["gait_speed_ms_12w"] == pytest.approx(1.05)
    long_after = inputs_of(small(wearables=rows), 2000)
    assert (np.isnan(long_after["gait_speed_ms_12w"]), long_after["wearable_weeks_12w"]) == (True, 0.0)
    assert np.isnan(inputs_of(small(wearables=[week(300, 1.0)]), 10)["wearable_weeks_12w"])


def test_genes_are_known_on_every_day_of_who_was_genotyped() -> None:
    tables = small(genetics=[{"hla_drb1_1501": 1, "prs_risk": 0.4, "prs_severity": -1.2, "rs10191329_a": 0, "panel": "later"}])
    for day in (-400, 4000):
        found = inputs_of(tables, day)
        assert [found[name] for name in ("hla_drb1_1501", "prs_risk", "prs_severity", "rs10191329_a")] == [1.0, 0.4, -1.2, 0.0]


# Groups


def test_each_group_is_of_one_kind_of_data_that_a_site_s_policy_can_name() -> None:
    for name, columns in MODALITIES.items():
        assert {column.modality for column in columns} == {CONTRACT.table(TABLES_OF[name][0]).modality}
        assert all(column.nullable for column in columns)
    assert {column.modality for column in VISITS} == {"clinical", "imaging"}
    assert set(EXTRAS) <= set(ALL_EXTRAS)


def test_ranges_are_those_of_the_data_contract_where_the_input_is_one_of_its_columns() -> None:
    by_name = {column.name: column for column in ALL_EXTRAS}
    for table, column, name in [
        ("oct", "gcipl_um", "gcipl_um_last"), ("oct", "prnfl_um", "prnfl_um_last"), ("mri", "thalamus_ml", "thalamus_ml_last"),
        ("evoked_potentials", "cct_ms", "mep_leg_cct_ms_last"), ("biomarkers", "z_age_bmi", "gfap_z_last"),
        ("genetics", "prs_risk", "prs_risk"), ("genetics", "hla_drb1_1501", "hla_drb1_1501"),
    ]:  # fmt: skip
        limits = CONTRACT.table(table).column(column).limits
        assert limits is not None
        assert by_name[name].limits == (limits.low, limits.high)
    assert by_name["fsmc_last"].limits == (SCALES["FSMC"][1].low, SCALES["FSMC"][1].high)


def test_names_of_groups_become_columns_each_once() -> None:
    core = tuple(column.name for column in CORE)
    assert expanded(("core",)) == core
    assert expanded(("nfl_z_last", "fluids", "edss_last")) == ("nfl_z_last", "gfap_z_last", "edss_last")
    assert with_modalities(("edss_last",), ("fluids",)) == ("edss_last", "nfl_z_last", "gfap_z_last")
    assert with_modalities((), ("fluids",)) == ()
    with pytest.raises(ContractError, match="'blood'; known: core, mri, oct, ep"):
        with_modalities(core, ("blood",))
    assert not {column.name for column in TASK.contract.columns} & set(GROUPS)


def test_the_tables_are_those_of_the_columns() -> None:
    assert tables_for(CORE) == ()
    assert tables_for((*CORE, *MODALITIES["oct"], *MODALITIES["genetics"])) == ("oct", "genetics")


def test_a_column_that_nothing_makes_is_refused() -> None:
    past = past_of(small(), Episodes(("a",), np.array([0])), ())
    with pytest.raises(ContractError, match="no input of episodes is called 'nodds'"):
        episode_values(past, (*CORE[:1], CORE[0].__class__("nodds", "binary", "")))


def test_a_site_without_a_table_takes_part_with_those_inputs_missing() -> None:
    values = [inputs_of(small(), 100)[name] for name in NAMES]
    assert np.isnan(values).all()
