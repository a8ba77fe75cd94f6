"""A site's own work after a run, or without ever having been in one: its scans as the average scanner would have measured them.

It takes the public reference and the site's tables; nothing is sent, and nobody's parameters change. Every batch with `MIN_SCANS`
scans or more gets its shift and spread here, whether the run listed it or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.harmonise import MIN_SCANS, BatchStatistics, Effect, HarmoniseError, Scans, effect_of
from tasks.harmonise.longitudinal import late_locations, patient_levels
from tasks.harmonise.scans import design, from_model_scale, to_model_scale
from tasks.mri_harmonisation.frame import MOST_SCANS
from tasks.mri_harmonisation.reference import Reference
from tasks.mri_harmonisation.scans import (
    AS_MEASURED,
    Floats,
    as_scans,
    covered,
    latest,
    measured,
    references_of,
    rows_of,
    scan_table,
    usable,
)

if TYPE_CHECKING:
    import pandas as pd

Bools = NDArray[np.bool_]
KEYS: Final = ("patient_id", "day", "scan_id")
STATES: Final = {
    "harmonised": "harmonised",
    "no_batch": "scanner or protocol is not known",
    "few_scans": f"its batch has fewer than {MIN_SCANS} complete scans, or they do not vary",
    "no_covariate": "age, sex, duration, EDSS or phenotype, as the run protects them, is not known on that day",
    "no_measure": "none of the run's measures is there",
}


@dataclass(frozen=True)
class Harmonised:
    """`scans`: `KEYS`, batch, state, measures in the contract's units (NaN where absent or not harmonised), one row a scan.

    `batches`: for each batch of the site its scans, how many of them its effect is from, and whether the run listed it.
    """

    scans: pd.DataFrame = field(repr=False)
    batches: tuple[dict[str, object], ...]

    @property
    def counts(self) -> dict[str, int]:
        """Scans by state."""
        found = self.scans["state"].value_counts()
        return {state: int(found.get(state, 0)) for state in STATES}


@dataclass(frozen=True)
class Site:
    """One site's scans side by side: `rows` (n_scans, WIDTH), `names` (n_scans,), `owners` (n_scans,) ascending.

    `fitted` (n_scans,): those that batch effects are estimated from, which for listed batches are those of the run.
    """

    rows: Floats
    names: NDArray[np.str_]
    owners: NDArray[np.intp]
    fitted: Bools


def harmonise_tables(
    reference: Reference, tables: Mapping[str, pd.DataFrame], training: Callable[[tuple[str, ...]], Bools] | None = None
) -> Harmonised:
    """The site's scans harmonised; `tables`: accepted rows of the patients who may be in.

    `training`: from patients (one name a scan) to whether they are on the training side, as in the run; None: all count.
    `DataError` for measures that are harmonised already.
    """
    table = scan_table(tables)
    if (references_of(table) != AS_MEASURED).any():
        raise DataError("the table mri holds harmonised measures already: name the folder with those that were measured")
    patients = tuple(str(name) for name in table["patient_id"])
    chosen = np.ones(len(table), dtype=bool) if training is None else training(patients)
    site = _site(reference, table, patients, chosen)
    ready = covered(site.rows, reference.plan) & (site.names != "")
    scans = as_scans(site.rows[ready], reference.plan, site.names[ready])
    standard, expected, back = _standardised(reference, site, scans, ready)
    effects = _effects(reference, site.names[ready], site.fitted[ready], standard[site.fitted[ready]])
    values = np.full((len(table), reference.plan.n_measures), np.nan)
    values[ready] = back(_without(effects, scans, standard), expected)
    found = table[list(KEYS)].assign(batch=site.names, state=_states(site, ready, effects, values))
    columns = {measure.name: values[:, at] for at, measure in enumerate(reference.plan.measures)}
    return Harmonised(found.assign(**columns), _batches(reference, site, effects))


def _site(reference: Reference, table: pd.DataFrame, patients: tuple[str, ...], training: Bools) -> Site:
    rows, names = rows_of(table), np.array(table["batch"].tolist(), dtype=np.str_)
    seen: dict[str, int] = {}
    owners = np.array([seen.setdefault(name, len(seen)) for name in patients], dtype=np.intp)
    counted = latest(owners, training & measured(rows), MOST_SCANS) & usable(rows, reference.plan) & (names != "")
    listed = np.isin(names, reference.plan.batches)
    fitted = np.zeros(len(rows), dtype=bool)
    for side in (listed, ~listed):  # a late batch takes no scan of a listed one out
        fitted |= latest(owners, counted & side, reference.scans)
    return Site(rows, names, owners, fitted)


def _standardised(
    reference: Reference, site: Site, scans: Scans, ready: Bools
) -> tuple[Floats, Floats, Callable[[Floats, Floats], Floats]]:
    """Residuals in units of sigma, what is expected of each scan, and the way back to the contract's units."""
    plan, shared = reference.plan, reference.shared
    explained, y = design(plan, scans) @ shared.beta, to_model_scale(plan, scans)
    expected = explained + shared.grand_mean
    if reference.longitudinal:
        expected = expected + _levels(reference, site, ready, y - explained)
    standard = (y - expected) / shared.sigma
    return standard, expected, lambda left, mean: from_model_scale(plan, left * shared.sigma + mean)


def _levels(reference: Reference, site: Site, ready: Bools, left: Floats) -> Floats:
    """Each scan's patient's own level, (n_ready, n_measures), from that patient's complete scans."""
    names, which = np.unique(site.names[ready], return_inverse=True)
    of, owners = dict(zip(reference.plan.batches, reference.location, strict=True)), site.owners[ready]
    unknown = np.full(reference.plan.n_measures, np.nan)
    known = np.stack([of.get(name, unknown) for name in names.tolist()]) if names.size else np.zeros((0, unknown.size))
    fitted = site.fitted[ready]
    location = late_locations(left[fitted], which[fitted], owners[fitted], reference.ratio, known)
    whole = latest(owners, usable(site.rows, reference.plan)[ready] & np.isfinite(location[which]).all(axis=1), reference.scans)
    residual = left[whole] - location[which[whole]]
    return patient_levels(residual, owners[whole], int(site.owners.max(initial=-1)) + 1, reference.ratio)[owners]


def _effects(reference: Reference, names: NDArray[np.str_], fitted: Bools, standard: Floats) -> dict[str, Effect]:
    """Shift and spread of every batch that has enough scans; `standard` (n_fitted, n_measures)."""
    found = {}
    for name in np.unique(names).tolist():
        rows = standard[names[fitted] == name] * reference.shared.sigma
        if len(rows) < MIN_SCANS or not np.isfinite(rows).all():
            continue
        offset = rows.mean(axis=0)
        squares = ((rows - offset) ** 2).sum(axis=0)
        try:
            statistics = BatchStatistics(name, np.full(offset.size, float(len(rows))), offset, squares)
            effect = effect_of(reference.shared, statistics)
            found[name] = effect if reference.spread else replace(effect, scale=np.ones_like(effect.scale))
        except HarmoniseError:
            continue  # nothing varies in it: its scans stay without a harmonised value, and the state says so
    return found


def _without(effects: Mapping[str, Effect], scans: Scans, standard: Floats) -> Floats:
    """Residuals less shift and spread of the batch; NaN where it has no effect."""
    none = Effect("", *np.full((2, standard.shape[1]), np.nan))
    of = [effects.get(name, none) for name in scans.batch.tolist()]
    shift = np.array([effect.shift for effect in of]).reshape(standard.shape)
    scale = np.array([effect.scale for effect in of]).reshape(standard.shape)
    return np.asarray((standard - shift) / np.sqrt(scale))


def _states(site: Site, ready: Bools, effects: Mapping[str, Effect], values: Floats) -> NDArray[np.object_]:
    found = np.full(len(site.rows), "harmonised", dtype=object)
    found[~np.isfinite(values).any(axis=1)] = "no_measure"
    found[~np.isin(site.names, list(effects))] = "few_scans"
    found[~ready] = "no_covariate"
    found[site.names == ""] = "no_batch"
    return found


def _batches(reference: Reference, site: Site, effects: Mapping[str, Effect]) -> tuple[dict[str, object], ...]:
    return tuple(
        {
            "batch": name,
            "scans": int((site.names == name).sum()),
            "estimated_from": int((site.fitted & (site.names == name)).sum()),
            "in_the_run": name in reference.plan.batches,
            "harmonised": name in effects,
        }
        for name in sorted(set(site.names.tolist()) - {""})
    )
