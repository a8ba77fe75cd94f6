"""Names of drugs, as doctors type them, to the contract's codes. A name that is not listed goes to a person, never to a guess.

`drugs.csv` holds generic names, brands and usual misspellings in German, French, English, Italian and Spanish. A decision
that a reviewer made is read from `reviewed.csv` (text, code, who, date); code `-` says that it is no disease-modifying drug.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from tasks.importing.base import Review
from tasks.importing.errors import ImportRefused
from tasks.ms.contract import DRUGS
from tasks.ms.quarantine import write_private

VOCABULARY_FILE: Final = Path(__file__).with_name("drugs.csv")
REVIEWED_FILE: Final = "reviewed.csv"
SET_ASIDE: Final = "-"
REVIEW_COLUMNS: Final = ("text", "code", "who", "date", "suggestion", "times", "source", "column")
CLOSE: Final = 0.75  # difflib's ratio from which on a name is worth suggesting
_DOSE: Final = re.compile(r"\b\d+(?:[.,]\d+)?\s*(?:mg|mcg|µg|μg|ug|g|ml|mio|miu|mu|ie|iu|ui)\b")
_FORMULA: Final = ("=", "+", "-", "@")  # what a spreadsheet would run


def normalised(text: str) -> str:
    """Lower case, without accents, doses and punctuation: "Copaxone® 40 mg" is "copaxone"."""
    plain = unicodedata.normalize("NFKD", _DOSE.sub(" ", text.casefold().replace("β", "beta").replace("®", "").replace("™", "")))
    kept = "".join(each for each in plain if not unicodedata.combining(each))
    return " ".join(re.findall(r"[^\W_]+", kept)) or text.strip().lstrip("'").casefold()


@cache
def vocabulary() -> Mapping[str, str]:
    """Normalised name -> code of the contract."""
    with VOCABULARY_FILE.open(encoding="utf-8", newline="") as file:
        found = {normalised(row["name"]): row["code"] for row in csv.DictReader(file)}
    return found | {normalised(code): code for code in DRUGS if code != "other"}


def drug_code(text: str, reviewed: Mapping[str, str]) -> str | None:
    """The code of the drug called `text`, `SET_ASIDE`, or None if nobody knows. A reviewer's word goes before the vocabulary's."""
    name = normalised(text)
    return reviewed.get(name) or vocabulary().get(name)


@cache
def suggestion(text: str) -> str:
    """The code whose name is closest to `text`, "" if none is close. For a reviewer's eyes: it is never applied."""
    close = difflib.get_close_matches(normalised(text), list(vocabulary()), 1, CLOSE)
    return vocabulary()[close[0]] if close else ""


def drug_class(code: str) -> str | None:
    """The first class that the contract files the drug under; None for none and washout."""
    classes = DRUGS[code][1]
    return classes[0] if classes else None


def read_reviewed(path: Path) -> dict[str, str]:
    """Normalised text -> code, from a reviewer's file; {} if there is none. `ImportRefused`: not such a file; no cell is quoted."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, strict=True, delimiter=";" if ";" in first else ",")  # ; is what a German Excel writes
            rows, header = list(reader), reader.fieldnames or ()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeError, csv.Error):
        raise ImportRefused(f"{path.name} cannot be read as a UTF-8 CSV table: save it again as one") from None
    if absent := [name for name in REVIEW_COLUMNS[:4] if name not in header]:
        raise ImportRefused(f"{path.name} lacks the column {absent[0]}: keep the first line of the review list as it is")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        text, code, who, when = ((row.get(name) or "").strip() for name in REVIEW_COLUMNS[:4])
        if not code:
            continue  # not decided yet
        if code != SET_ASIDE and code not in DRUGS:
            raise ImportRefused(
                f"{path.name}, row {number}: the code is none of the contract's drugs, nor {SET_ASIDE}: see the data dictionary"
            )
        if not (name := normalised(text)) or not who or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", when):
            raise ImportRefused(f"{path.name}, row {number}: a decision needs text, code, who and date (2026-11-29)")
        if found.setdefault(name, code) != code:
            raise ImportRefused(f"{path.name}, row {number}: this text was decided otherwise in a row above: keep one")
    return found


def is_review_list(path: Path) -> bool:
    """Whether `path` may be written: nothing is there, or an earlier review list."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.readline().replace(";", ",").startswith(",".join(REVIEW_COLUMNS[:4]))
    except FileNotFoundError:
        return True
    except (OSError, UnicodeError):
        return False


def write_review(path: Path, open_texts: Iterable[Review]) -> None:
    """The list for a reviewer, for its owner alone: fill in code, who and date and keep it beside the mapping as reviewed.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(REVIEW_COLUMNS)
    for each in open_texts:
        shown = f"'{each.text}" if each.text.startswith(_FORMULA) else each.text
        writer.writerow((shown, "", "", "", each.suggestion, each.times, each.source, each.column))
    write_private(path, text.getvalue())
