"""The rules a site's tables are held to, in words a data manager can act on. Report, dictionary and README quote these.

An **error** puts the row in quarantine. A **warning** leaves it in and asks somebody to look. A **note** only informs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
SHORTEST_GAP_D: Final = 30  # between two relapses' first days
FS_TOLERANCE: Final = 0.5
FS_HIGHEST_EDSS: Final = 3.5  # above, walking decides
LEAST_EDSS: Final = 3
LEAST_EDSS_A_YEAR: Final = 1.0


@dataclass(frozen=True)
class Rule:
    """One demand on a table: what it says, and what to do about a row that breaks it."""

    name: str
    severity: Severity
    sentence: str
    remedy: str
    since: int = 1


RULES: Final[tuple[Rule, ...]] = (
    # the file
    Rule(
        "unreadable",
        "error",
        "The file is a UTF-8 CSV table with commas, or a Parquet table.",
        "Export the table again as UTF-8 CSV.",
    ),
    Rule(
        "missing_column",
        "error",
        "Every required column is in the file.",
        "Add the column; the first line of the file must hold the column names, with commas between them.",
    ),
    Rule(
        "unknown_column",
        "error",
        "The file has no columns that the data dictionary does not list.",
        "Correct the spelling, or leave the column out: it may hold what must not be here.",
    ),
    Rule("two_files", "error", "A table is in one file.", "Keep the CSV or the Parquet file, not both."),
    Rule("no_patients", "error", "The table of patients is there.", "Export patients.csv: every other table belongs to it."),
    Rule(
        "manifest",
        "error",
        "The tables are those that manifest.json lists.",
        "Write the manifest again, or restore the table it was written for.",
    ),
    Rule(
        "no_manifest",
        "note",
        "A manifest.json says which version of the contract the tables follow.",
        "Nothing to do: this version is assumed.",
    ),
    Rule("blank_row", "note", "There are no blank rows.", "Nothing to do: blank rows are skipped."),
    Rule("malformed_row", "error", "Each row has as many cells as the header.", "Look for an unquoted comma in the export."),
    # one cell
    Rule("required", "error", "A required cell is filled in.", "Fill it in."),
    Rule(
        "not_a_number",
        "error",
        "A number is written in digits with a decimal point.",
        "Correct the cell; no comma, no unit, no text.",
    ),
    Rule("not_whole", "error", "A count or a day is a whole number.", "Correct the cell; a day counts from the index date."),
    Rule(
        "range",
        "error",
        "A number lies within the range of its column.",
        "Correct the cell, or its unit. A calendar date is not a day number.",
    ),
    Rule(
        "grid",
        "error",
        "Only values that exist are used; an EDSS of 0.5 does not exist.",
        "Look the score up and correct the cell.",
    ),
    Rule("vocabulary", "error", "A code is one of those in the data dictionary, in the same letters.", "Use a listed code."),
    Rule(
        "pattern",
        "error",
        "A pseudonym, name or code is written as the data dictionary says.",
        "Correct it. A pseudonym is never a name or a date of birth.",
    ),
    Rule("unusual", "warning", "A number lies within the usual range.", "Look it up; leave it if it is right."),
    # one row
    Rule("duplicate_row", "error", "No row stands twice.", "The first is kept; export each row once."),
    Rule(
        "duplicate_key",
        "error",
        "No two different rows have one key.",
        "None is kept: decide which is right, or give them different keys.",
    ),
    Rule(
        "unit",
        "error",
        "A result is in the unit that the data dictionary lists for it.",
        "Convert the result and write the listed unit.",
    ),
    Rule("order", "error", "Nothing ends before it begins.", "Correct one of the two days."),
    Rule("drug_class", "warning", "A drug is filed under a class that it belongs to.", "Correct the drug or the class."),
    Rule(
        "fs_edss",
        "warning",
        "An EDSS up to 3.5 follows from the functional systems, within 0.5.",
        "Compare with the scoring sheet.",
    ),
    Rule(
        "reason_without_gap",
        "warning",
        "A missing_reason stands only where something is empty.",
        "Remove the reason, or the value it denies.",
    ),
    # several rows
    Rule(
        "no_such_patient",
        "error",
        "Each row belongs to a patient of the table patients.",
        "Add the patient, or correct the pseudonym.",
    ),
    Rule("dmt_overlap", "error", "Two therapies of one class do not overlap.", "Fill in or correct the end of the earlier one."),
    Rule(
        "relapse_gap",
        "error",
        "A relapse begins at least 30 days after the one before.",
        "Merge them into one relapse, or correct the day.",
    ),
    Rule(
        "volume_jump",
        "warning",
        "A brain volume differs by at most 15 % from the scan before on the same scanner.",
        "Look at the segmentation, or enter the change of scanner.",
    ),
    Rule("after_death", "warning", "Nothing is recorded after the day of death.", "Correct the day, or the day of death."),
    Rule(
        "few_edss",
        "note",
        "A patient has at least 3 EDSS scores and at least one a year, else progression cannot be judged.",
        "Nothing to do: the patient stays, but gives no label of progression.",
    ),
)
_BY_NAME: Final = {rule.name: rule for rule in RULES}


def rule_called(name: str) -> Rule:
    """The rule called `name`, which must exist."""
    return _BY_NAME[name]
