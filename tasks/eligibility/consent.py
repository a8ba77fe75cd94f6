"""What a patient agreed to, enforced: withdrawn means gone from every table; data of a kind outside the scope are not used.

The scope of consent (`patients.consent_scope`) names kinds of data. Eyes and evoked potentials have no code of their own: they are
examinations of routine care. Without `routine` nothing of a patient is used, for every table is read beside the clinical ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from tasks.errors import DataError
from tasks.ms.contract import CONTRACT
from tasks.ms.schema import SEPARATOR

if TYPE_CHECKING:
    import pandas as pd

Consent = Literal["recorded_only", "where_recorded"]
CONSENT_MODES: Final[tuple[Consent, ...]] = ("recorded_only", "where_recorded")
WITHDRAWN: Final = "withdrawn"
ROUTINE: Final = "routine"
SCOPE_OF: Final[Mapping[str, str]] = {
    "clinical": ROUTINE, "ocular": ROUTINE, "electrophysiology": ROUTINE, "imaging": "imaging", "samples": "samples",
    "questionnaires": "questionnaires", "devices": "devices", "genetics": "genetics",
}  # fmt: skip
Tables = Mapping[str, "pd.DataFrame"]


@dataclass(frozen=True)
class Permitted:
    """`tables`: what may be used. `withdrawn`, `refused`: patients who are in none of them. `hidden`: rows of patients who stay,
    outside what they agreed to, by table."""

    tables: Tables = field(repr=False)
    withdrawn: frozenset[str] = field(repr=False)
    refused: frozenset[str] = field(repr=False)
    hidden: Mapping[str, int]
    not_recorded: frozenset[str] = field(repr=False)  # patients with an empty scope


def permitted(tables: Tables, *, withdrawn: frozenset[str] = frozenset(), consent: Consent = "where_recorded") -> Permitted:
    """The rows of `tables` (accepted ones of the contract) that consent covers.

    `withdrawn`: patients who took their consent back, besides those whose scope says so. An empty scope means that consent is not
    recorded here: with `where_recorded` the hospital answers for it, with `recorded_only` the
    patient is left out.
    `DataError` without the table `patients`.
    """
    if "patients" not in tables:
        raise DataError("the table patients is missing: nobody's consent is known, so nothing is used")
    scopes = _scopes(tables["patients"])
    gone = frozenset(name for name, scope in scopes.items() if WITHDRAWN in scope or name in withdrawn)
    refused = frozenset(name for name, scope in scopes.items() if name not in gone and not _may(scope, ROUTINE, consent))
    kept, hidden = {}, {}
    for name, rows in tables.items():
        kind = SCOPE_OF[CONTRACT.table(name).modality]
        allowed = {who for who, scope in scopes.items() if who not in gone | refused and _may(scope, kind, consent)}
        mine = rows["patient_id"].isin(allowed)
        kept[name] = rows[mine]
        staying = rows["patient_id"].isin(scopes.keys() - gone - refused)
        if outside := int((staying & ~mine).sum()):
            hidden[name] = outside
    return Permitted(kept, gone, refused, hidden, frozenset(name for name, scope in scopes.items() if not scope))


def _scopes(patients: pd.DataFrame) -> dict[str, frozenset[str]]:
    recorded = patients["consent_scope"] if "consent_scope" in patients else [None] * len(patients)
    return {
        str(name): frozenset(scope.split(SEPARATOR)) if isinstance(scope, str) else frozenset()
        for name, scope in zip(patients["patient_id"], recorded, strict=True)
    }


def _may(scope: frozenset[str], kind: str, consent: Consent) -> bool:
    return kind in scope if scope else consent == "where_recorded"
