"""What became of every record that was read: each is used, or left out for a stated reason. Nothing disappears.

No text of a record is kept here: source, number and rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tasks.importing.base import Action, Problem

LEFT_OUT: Final[Action] = "row left out"
EMPTY: Final[Action] = "value left empty"
REVIEW: Final[Action] = "kept for review"

# rule -> (what is done, what to do about it)
RULES: Final[Mapping[str, tuple[Action, str]]] = {
    "status": (LEFT_OUT, "nothing to do: it is marked as an error, cancelled, not done, planned, or without a result yet"),
    "refuted": (LEFT_OUT, "nothing to do: the diagnosis was taken back"),
    "type_not_used": (LEFT_OUT, "nothing to do: the core tables take nothing from this kind of record"),
    "code_not_in_crosswalk": (LEFT_OUT, "nothing to do, unless it belongs to the core: then add its code to the crosswalk"),
    "no_visit": (LEFT_OUT, "nothing to do: neither its type nor an observation makes it a visit of the contract"),
    "two_items": (LEFT_OUT, "its codes name two columns of the contract: correct the crosswalk or the codes"),
    "table_absent": (REVIEW, "nothing to do if the hospital has no such records; else export the table too"),
    "no_scan": (LEFT_OUT, "nothing to do: it is no MR scan of brain or cord that is known as one, and no measure refers to it"),
    "two_patients": (LEFT_OUT, "its own patient and that of the visit, scan or event it belongs to differ: correct one"),
    "not_closest": (LEFT_OUT, "nothing to do: the value closest to the index date was used"),
    "not_earliest": (LEFT_OUT, "nothing to do: an earlier day was used"),
    "superseded": (LEFT_OUT, "nothing to do: a newer version of the same resource was used"),
    "repeated": (LEFT_OUT, "nothing to do: the same record was used already"),
    "two_versions": (LEFT_OUT, "one id, two contents, and no meta.lastUpdated that says which is newer: export the right one"),
    "not_referred_to": (LEFT_OUT, "nothing to do: no record of the core refers to it"),
    "no_patient_number": (LEFT_OUT, "give the patient an identifier or an id"),
    "two_patients_one_number": (LEFT_OUT, "two patients share one identifier: none is used; correct the identifier"),
    "unknown_patient": (LEFT_OUT, "it refers to a patient that is not in the export: export the patient too"),
    "implausible_date": (LEFT_OUT, "a date before 1920 or after 2098 is how databases write unknown: look the day up"),
    "bundle_in_bundle": (LEFT_OUT, "save the inner bundle as a file of its own: only the outer one is read"),
    "no_date": (LEFT_OUT, "give the record a date that exists (FHIR: yyyy, yyyy-mm or yyyy-mm-dd)"),
    "date_too_coarse": (LEFT_OUT, "look up at least the month; a relapse must be dated within 90 days"),
    "partial_date": (REVIEW, "the middle of the month or year was used: look the day up if it is in the records"),
    "bad_date": (EMPTY, "correct the date (FHIR: yyyy, yyyy-mm or yyyy-mm-dd)"),
    "no_index_date": (LEFT_OUT, "the patient has no EDSS, encounter or diagnosis with a date: nothing of the patient can be dated"),
    "no_row_to_belong_to": (LEFT_OUT, "it describes a relapse, treatment or scan that is not in the export: export that too"),
    "unit": (EMPTY, "state the unit as UCUM; one that is not listed is never guessed"),
    "no_value": (EMPTY, "fill in the value, or why there is none (dataAbsentReason)"),
    "comparator": (EMPTY, "a value such as < 5 is no measurement of the contract"),
    "not_whole": (EMPTY, "a count or score is a whole number"),
    "not_a_number": (EMPTY, "give the value as a number"),
    "answer_not_in_crosswalk": (EMPTY, "add the answer's code to the crosswalk"),
    "pattern": (EMPTY, "a label has letters, digits and . _ / + - alone; an id no blanks"),
    "two_values": (EMPTY, "two different values of one column on one row: decide which is right"),
    "two_edss_one_day": (EMPTY, "two different EDSS of one patient on one day, by methods of one rank: decide which is right"),
    "lower_ranked_edss": (EMPTY, "nothing to do: the day has an EDSS by a better method (see FHIR_OMOP.md)"),
    "equal_edss_one_day": (EMPTY, "nothing to do: the day's EDSS stands at its first visit"),
    "dead_without_date": (EMPTY, "give the date of death"),
    "not_a_core_drug": (LEFT_OUT, "nothing to do, unless it is a disease-modifying therapy: then add its code to the crosswalk"),
    "date_in_text": (EMPTY, "no calendar date leaves within a text: give the session, scanner or batch a name without one"),
    "drug_without_code": (LEFT_OUT, "look through the list for review, and code the drug (ATC) or add it to the crosswalk"),
    "two_drugs": (LEFT_OUT, "its codes name two drugs of the contract: correct them"),
    "part_of_stated_treatment": (LEFT_OUT, "nothing to do: the treatment is stated as a whole elsewhere"),
    "one_key": (LEFT_OUT, "two different records have one key of the contract: none is used; correct one of them"),
    "unaccounted": (LEFT_OUT, "an error of this program: please report it"),
}  # fmt: skip


class Place(NamedTuple):
    """Where a record stands."""

    source: str
    number: int


@dataclass
class Book:
    """Counts and reasons of one import."""

    read: Counter[str] = field(default_factory=Counter)
    fates: dict[Place, str] = field(default_factory=dict, repr=False)  # "" = used, a rule = why not
    _problems: dict[tuple[str, str, str, str], set[int]] = field(default_factory=dict, repr=False)

    def open(self, place: Place, counted_as: str) -> None:
        """Count a record; until something else is said of it, it is unaccounted for."""
        self.read[counted_as] += 1
        self.fates[place] = "unaccounted"

    def use(self, place: Place) -> None:
        """The record, or a part of it, stands in a table."""
        self.fates[place] = ""

    def leave(self, place: Place, rule: str, table: str = "", column: str = "") -> None:
        """Say what is wrong. A record that is not used otherwise counts as left out for this reason."""
        if self.fates.get(place, "unaccounted") == "unaccounted":
            self.fates[place] = rule
        self.note(place, rule, table, column)

    def note(self, place: Place, rule: str, table: str = "", column: str = "") -> None:
        """Say something of a record without deciding its fate."""
        self._problems.setdefault((place.source, table, column, rule), set()).add(place.number)

    def absent(self, source: str) -> None:
        """Say that a table is not in the export at all."""
        self._problems.setdefault((source, "", "", "table_absent"), set())

    def problems(self) -> tuple[Problem, ...]:
        """All that was said, in a fixed order."""
        for place, fate in self.fates.items():
            if fate == "unaccounted":
                self.note(place, fate)
        return tuple(
            Problem(source, table, column, rule, tuple(sorted(numbers)), *RULES[rule])
            for (source, table, column, rule), numbers in sorted(self._problems.items())
        )

    @property
    def used(self) -> int:
        """Records of which at least one value stands in a table, or that others needed."""
        return sum(1 for fate in self.fates.values() if not fate)
