"""Which scans count as made by one machine. A scanner with a protocol is a batch if it has enough scans; the others are pooled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tasks.harmonise.columns import flags, numbers, texts
from tasks.harmonise.errors import HarmoniseError
from tasks.harmonise.plan import Bools, Texts

MIN_SCANS: Final = 10


def batch_names(
    site_id: str,
    *,
    scanner_id: NDArray[Any] | Sequence[str],
    protocol_id: NDArray[Any] | Sequence[str],
    vendor: NDArray[Any] | Sequence[str],
    field_t: NDArray[Any] | Sequence[float],
    training: NDArray[Any] | Sequence[bool],
) -> Texts:
    """The batch of each scan, shape (n_scans,); all columns (n_scans,), `field_t` in tesla; unknown is "", None or NaN.

    The rule (ms.md section 5): the unit is scanner x protocol of one site. If at least `MIN_SCANS` **training** scans bear it, it
    is a batch: `scanner/SITE/SCANNER/PROTOCOL`. Otherwise, and where scanner or protocol is unknown, a scan belongs to
    `pool/VENDOR/FIELD`, which all sites share; what is unknown there is called so. A pool may be smaller than `MIN_SCANS`.
    """
    scanners, protocols, makers = texts("scanner_id", scanner_id), texts("protocol_id", protocol_id), texts("vendor", vendor)
    fields, used = numbers("field_t", field_t), flags("training", training)
    if any(column.shape != (used.size,) for column in (scanners, protocols, makers, fields, used)):
        raise HarmoniseError("scanner, protocol, vendor, field strength and training must be as many as the scans")
    unit = list(zip(scanners.tolist(), protocols.tolist(), strict=True))
    _check_names(site_id, unit, makers.tolist())
    counts = Counter(pair for pair, counted in zip(unit, used.tolist(), strict=True) if counted)
    rows = zip(unit, makers.tolist(), fields.tolist(), strict=True)
    return np.array([_name(site_id, pair, counts[pair], maker, field) for pair, maker, field in rows], dtype=np.str_)


def training_scans(names: Texts, training: Bools) -> dict[str, int]:
    """How many training scans each batch has. For the site's own eyes: no floor, no noise."""
    return dict(Counter(names[training].tolist()))


def _name(site_id: str, unit: tuple[str, str], n: int, vendor: str, field: float) -> str:
    if all(unit) and n >= MIN_SCANS:
        return f"scanner/{site_id}/{unit[0]}/{unit[1]}"
    strength = f"{field:g}T" if math.isfinite(field) else "unknown"
    return f"pool/{vendor or 'unknown'}/{strength}"


def _check_names(site_id: str, unit: list[tuple[str, str]], vendor: list[str]) -> None:
    if not site_id or "/" in site_id:
        raise HarmoniseError("site_id must be a text without a slash")
    for row, (pair, maker) in enumerate(zip(unit, vendor, strict=True)):
        if "/" in "".join((*pair, maker)):
            raise HarmoniseError(
                f"scan {row}: scanner, protocol or vendor holds a slash, which separates the parts of a batch's name"
            )
