"""Which scans make a batch, and what is refused, without a patient's value in any message."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.harmonise import (
    MRI_MEASURES,
    HarmoniseError,
    Measure,
    Plan,
    Scans,
    batch_names,
    combine_one,
    combine_two,
    effect_of,
    harmonise,
    round_one,
    round_two,
    statistics_of_new_batch,
)
from tasks.harmonise.batches import training_scans

PLAN = Plan((Measure("t2_vol_ml", 1.6, 1.2, log_offset=0.1), Measure("nbv_ml", 1500, 80)), ("a", "b"))
N = 40


def scans(**changed: Any) -> Scans:
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "values": np.stack([rng.lognormal(1.5, 1, N), rng.normal(1500, 80, N)], axis=1),
        "age_years": rng.uniform(20, 70, N),
        "sex": np.tile(["F", "M"], N // 2),
        "duration_years": rng.uniform(0, 30, N),
        "phenotype": rng.permutation(np.tile(["RRMS", "CIS", "SPMS", "PPMS"], N // 4)),
        "edss": rng.integers(0, 14, N) / 2,
        "batch": np.repeat(["a", "b"], N // 2),
        "training": np.ones(N, dtype=bool),
    }
    return Scans(**(columns | changed))


def at_row_3(column: str, value: object) -> dict[str, Any]:
    cells = getattr(scans(), column).astype(object).copy()
    cells[3] = value
    return {column: cells.tolist()}


def names(scanner: list[str], protocol: list[str], training: list[bool] | None = None, site: str = "north") -> list[str]:
    n = len(scanner)
    used = training or [True] * n
    fields = [3.0 if name != "old" else 1.5 for name in scanner]
    return batch_names(site, scanner_id=scanner, protocol_id=protocol, vendor=["ge"] * n, field_t=fields, training=used).tolist()


def test_ten_scans_of_one_scanner_and_protocol_are_a_batch() -> None:
    assert set(names(["s1"] * 10, ["p"] * 10)) == {"scanner/north/s1/p"}


def test_nine_are_pooled_by_vendor_and_field() -> None:
    assert set(names(["s1"] * 9 + ["old"], ["p"] * 10)) == {"pool/ge/3T", "pool/ge/1.5T"}


def test_another_protocol_is_another_batch() -> None:
    found = names(["s1"] * 15, ["p"] * 10 + ["q"] * 5)
    assert found == ["scanner/north/s1/p"] * 10 + ["pool/ge/3T"] * 5


def test_held_out_scans_do_not_make_a_batch_but_belong_to_one() -> None:
    assert set(names(["s1"] * 12, ["p"] * 12, [True] * 9 + [False] * 3)) == {"pool/ge/3T"}
    assert set(names(["s1"] * 12, ["p"] * 12, [True] * 10 + [False] * 2)) == {"scanner/north/s1/p"}


def test_scanners_of_two_sites_with_one_name_are_two_batches_and_pools_are_one() -> None:
    assert set(names(["s1"] * 10, ["p"] * 10, site="south")) == {"scanner/south/s1/p"}
    assert names(["s1"], ["p"], site="south") == names(["s2"], ["q"], site="north") == ["pool/ge/3T"]


def test_an_unknown_scanner_is_pooled_however_many_scans_it_has() -> None:
    for unknown in ("", None, np.nan):
        assert set(names([unknown] * 20, ["p"] * 20)) == {"pool/ge/3T"}  # type: ignore[list-item]
    found = batch_names("north", scanner_id=["s"], protocol_id=["p"], vendor=[""], field_t=[np.nan], training=[True])
    assert found.tolist() == ["pool/unknown/unknown"]


def test_training_scans_are_counted_by_batch() -> None:
    assert training_scans(np.array(["a", "a", "b"]), np.array([True, False, True])) == {"a": 1, "b": 1}


def test_names_that_could_be_read_in_two_ways_are_refused() -> None:
    with pytest.raises(HarmoniseError, match=r"scan 1: .* holds a slash"):
        names(["s1", "s/2"], ["p", "p"])
    with pytest.raises(HarmoniseError, match="site_id"):
        names(["s1"], ["p"], site="a/b")


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(HarmoniseError, match="as many as the scans"):
        batch_names("north", scanner_id=["s"], protocol_id=["p"], vendor=["ge"], field_t=[3.0, 3.0], training=[True])


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("age_years", 137.25, "age_years is missing or not in 0 to 120"),
        ("age_years", np.nan, "age_years is missing"),
        ("edss", 10.75, "edss is missing or not in 0 to 10"),
        ("duration_years", -137.25, "duration_years is missing or not in -5 to 100"),
        ("sex", "Ms Miller", "sex is not one of F, X, M"),
        ("batch", "", "the batch has no name"),
    ],
)
def test_a_covariate_that_is_missing_or_impossible_is_refused_by_row_and_rule(column: str, value: object, rule: str) -> None:
    with pytest.raises(HarmoniseError, match=f"scan 3 and 0 more: {rule}") as caught:
        scans(**at_row_3(column, value))
    assert not any(secret in str(caught.value) for secret in ("137", "10.75", "Miller"))


def test_text_among_numbers_is_refused_without_being_quoted() -> None:
    with pytest.raises(HarmoniseError, match="column edss holds something that is no number") as caught:
        scans(**at_row_3("edss", "Ms Miller"))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("column", "value"),
    [("edss", "3.5"), ("edss", [1]), ("sex", 1), ("training", 1), ("training", None), ("training", "no")],
)
def test_a_cell_of_another_kind_is_refused_and_not_converted(column: str, value: object) -> None:
    with pytest.raises(HarmoniseError, match=f"column {column} holds something that is n"):
        scans(**at_row_3(column, value))


@pytest.mark.parametrize("gap", [None, np.nan])
def test_gaps_as_tables_have_them_are_gaps(gap: object) -> None:
    with pytest.raises(HarmoniseError, match="scan 3 and 0 more: edss is missing"):
        scans(**at_row_3("edss", gap))
    with pytest.raises(HarmoniseError, match="scan 3 and 0 more: sex is not one of"):
        scans(**at_row_3("sex", gap))


def test_a_phenotype_without_an_effect_in_the_plan_is_refused() -> None:
    with pytest.raises(HarmoniseError, match="scan 3 and 0 more: phenotype is not one of the plan's: RRMS, CIS, SPMS, PPMS"):
        round_one(PLAN, scans(**at_row_3("phenotype", "RIS")))


def test_measures_that_cannot_be_are_refused() -> None:
    values = scans().values.copy()
    values[3, 0] = -137.25
    with pytest.raises(HarmoniseError, match="scan 3 and 0 more: t2_vol_ml is below 0") as caught:
        round_one(PLAN, scans(values=values))
    assert "137" not in str(caught.value)
    values[3, 0] = np.inf
    with pytest.raises(HarmoniseError, match="scan 3 and 0 more: a measure is infinite"):
        scans(values=values)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(HarmoniseError, match=r"column edss has shape \(2,\), expected \(40,\)"):
        scans(edss=[1.0, 2.0])
    with pytest.raises(HarmoniseError, match="values has 1 dimensions"):
        scans(values=np.zeros(N))
    with pytest.raises(HarmoniseError, match="values has 3 measures, the plan 2"):
        round_one(PLAN, scans(values=np.ones((N, 3))))


def test_a_lesion_volume_of_zero_has_a_logarithm() -> None:
    values = scans().values.copy()
    values[0, 0] = 0
    assert np.isfinite(round_one(PLAN, scans(values=values))).all()


def test_columns_are_closed_for_writing() -> None:
    with pytest.raises(ValueError, match="read-only"):
        scans().edss[0] = 1


def test_batches_outside_the_plan_are_refused_in_a_round_and_without_effect_in_the_end() -> None:
    with pytest.raises(HarmoniseError, match="batches that the plan does not list: c"):
        round_one(PLAN, scans(**at_row_3("batch", "c")))
    coefficients = combine_one(PLAN, round_one(PLAN, scans()))
    fit = combine_two(PLAN, coefficients, round_two(PLAN, scans(), coefficients))
    effects = {batch.name: effect_of(fit.shared, batch) for batch in fit.batches}
    with pytest.raises(HarmoniseError, match="batches without an effect: c"):
        harmonise(PLAN, fit.shared, effects, scans(**at_row_3("batch", "c")))
    with pytest.raises(HarmoniseError, match="batch nowhere: fewer than 2 measures"):
        effect_of(fit.shared, statistics_of_new_batch(PLAN, fit.shared, scans(), "nowhere"))


@pytest.mark.parametrize("broken", [np.zeros(3), np.full(PLAN.round_one_size, np.nan), -np.ones(PLAN.round_one_size)])
def test_sums_of_another_plan_or_without_sense_are_refused(broken: Any) -> None:
    with pytest.raises(HarmoniseError, match="round 1"):
        combine_one(PLAN, broken)


@pytest.mark.parametrize("broken", [np.zeros(3), np.full(PLAN.round_two_size, np.inf), -np.ones(PLAN.round_two_size)])
def test_squares_of_another_plan_or_without_sense_are_refused(broken: Any) -> None:
    with pytest.raises(HarmoniseError, match="round 2"):
        combine_two(PLAN, combine_one(PLAN, round_one(PLAN, scans())), broken)


def test_a_covariate_that_never_varies_within_a_batch_is_named() -> None:
    with pytest.raises(HarmoniseError, match="t2_vol_ml: phenotype PPMS does not vary within any batch"):
        combine_one(PLAN, round_one(PLAN, scans(phenotype=np.tile(["RRMS", "CIS", "SPMS", "RRMS"], N // 4))))


def test_covariates_that_cannot_be_told_apart_are_refused() -> None:
    same = scans()
    with pytest.raises(HarmoniseError, match="t2_vol_ml: its scans cannot tell the covariates apart"):
        combine_one(PLAN, round_one(PLAN, replace(same, duration_years=same.age_years - 20)))


def test_a_measure_that_nobody_has_is_named() -> None:
    values = scans().values.copy()
    values[:, 1] = np.nan
    with pytest.raises(HarmoniseError, match=r"nbv_ml: age, .* does not vary within any batch"):
        combine_one(PLAN, round_one(PLAN, scans(values=values)))


def test_a_measure_without_any_spread_is_named() -> None:
    values = scans().values.copy()
    values[:, 1] = 1500.0
    coefficients = combine_one(PLAN, round_one(PLAN, scans(values=values)))
    with pytest.raises(HarmoniseError, match="nbv_ml: nothing varies beyond batch and covariates"):
        combine_two(PLAN, coefficients, round_two(PLAN, scans(values=values), coefficients))


def test_other_scans_in_round_two_are_refused_where_it_shows() -> None:
    coefficients = combine_one(PLAN, round_one(PLAN, scans(**{"batch": ["a"] * N})))
    with pytest.raises(HarmoniseError, match="t2_vol_ml: a batch has scans in round 2 and had none in round 1"):
        round_two(PLAN, scans(), coefficients)


@pytest.mark.parametrize(
    ("measures", "batches", "phenotypes"),
    [
        (MRI_MEASURES[:1], ("a",), ()),
        (MRI_MEASURES[:1] * 2, ("a",), ()),
        (MRI_MEASURES, (), ()),
        (MRI_MEASURES, ("b", "a"), ()),
        (MRI_MEASURES, ("a", "a"), ()),
        (MRI_MEASURES, ("",), ()),
        (MRI_MEASURES, ("a",), ("RRMS",)),
        (MRI_MEASURES, ("a",), ("CIS", "CIS")),
        (MRI_MEASURES, ("a",), ("benign",)),
    ],
)
def test_plans_that_contradict_themselves_are_refused(measures: Any, batches: Any, phenotypes: Any) -> None:
    with pytest.raises(HarmoniseError):
        Plan(measures, batches, phenotypes)


@pytest.mark.parametrize("numbers", [("", 0, 1), ("x", np.nan, 1), ("x", 0, 0), ("x", 0, 1, 0.0), ("x", 0, 1, np.inf)])
def test_measures_with_impossible_constants_are_refused(numbers: Any) -> None:
    with pytest.raises(HarmoniseError, match="measure"):
        Measure(*numbers)
