"""Criteria as a file that a physician can read, and what they say about each patient: yes, no, or not known.

    rules:
      - name: adult
        says: at least 18 years old
        age_years: {at_least: 18}
        unknown: exclude

A rule has one condition: a number (`at_least`, `at_most`, `below`, `above`), a code (`one_of`, `none_of`), an event
(`within_days`), or `any_of`, `all_of`, `none_of` over a list of conditions. `unknown` says what happens to a patient of whom the
answer is not known; without it such a patient is excluded. Without `consent` only patients whose consent is recorded are in: a
forgotten line then leaves people out, which the count shows, and never takes anybody in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks import strict_yaml
from tasks.eligibility.consent import CONSENT_MODES, Consent
from tasks.eligibility.errors import EligibilityError
from tasks.eligibility.facts import EVENTS, NUMBERS, TEXTS, Facts, Floats
from tasks.eligibility.flow import INCLUDED, NO_CONSENT, WITHDRAWN
from tasks.errors import MappingError
from tasks.ms.contract import CONTRACT
from tasks.strict_yaml import Document

Bools = NDArray[np.bool_]
Unknown = Literal["exclude", "include"]
UNKNOWN: Final[tuple[Unknown, ...]] = ("exclude", "include")
Code = TypeVar("Code", bound=str)
Answer = Callable[[Facts], Floats]  # 1.0 yes, 0.0 no, NaN not known; (n_patients,)
HEAD: Final = ("name", "title", "source", "consent", "day", "rules")
TAKEN: Final = (WITHDRAWN, NO_CONSENT, INCLUDED)
GROUPS: Final = ("any_of", "all_of", "none_of")
COMPARISONS: Final[Mapping[str, Callable[[Floats, float], Bools]]] = {
    "at_least": lambda values, limit: values >= limit,
    "at_most": lambda values, limit: values <= limit,
    "below": lambda values, limit: values < limit,
    "above": lambda values, limit: values > limit,
}
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
NUMBER: Final = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
CODES: Final[Mapping[str, Sequence[str]]] = {
    "sex": tuple(CONTRACT.table("patients").column("sex").vocabulary),
    "phenotype": tuple(CONTRACT.table("visits").column("phenotype").vocabulary),
    "criteria": tuple(CONTRACT.table("patients").column("criteria").vocabulary),
    "language": tuple(CONTRACT.table("proms").column("language").vocabulary),
}


@dataclass(frozen=True)
class Rule:
    """One criterion. `says` is shown to people."""

    name: str
    says: str
    answer: Answer
    unknown: Unknown


@dataclass(frozen=True)
class Criteria:
    """All that a patient must fulfil on the index day `day`, in the order in which exclusions are counted."""

    name: str
    title: str
    source: str
    consent: Consent
    day: int
    rules: tuple[Rule, ...]


def shipped() -> tuple[str, ...]:
    """Names of the criteria that come with the package."""
    return tuple(sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml")))


def _folder() -> Traversable:
    return files("tasks.eligibility") / "criteria"


def load_criteria(name: str | Path) -> Criteria:
    """Shipped criteria by name, or those of a file. `EligibilityError` names what is wrong with it."""
    if isinstance(name, str) and name in shipped():
        return read_criteria((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    path = Path(name)
    try:
        return read_criteria(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError as error:
        raise EligibilityError(f"no file {path}, and no shipped criteria of that name: {', '.join(shipped())}") from error
    except (OSError, UnicodeError) as error:
        raise EligibilityError(f"{path} cannot be read as text: check the file") from error


def read_criteria(text: str, file: str) -> Criteria:
    """Criteria from YAML. `file` is how messages name it."""
    try:
        content = strict_yaml.parse(text, file)
    except MappingError as error:
        raise EligibilityError(str(error)) from error
    head = _mapping(content, file)
    _known(head, HEAD, file)
    for key in ("name", "title", "rules"):
        if key not in head:
            raise EligibilityError(f"{file}: {key} is missing")
    consent = _one_of(head.get("consent", "recorded_only"), CONSENT_MODES, f"{file}: consent")
    if not isinstance(rules := head["rules"], list) or not rules:
        raise EligibilityError(f"{file}: rules must be a list with at least one rule")
    made = tuple(_rule(rule, f"{file}: rule {at}") for at, rule in enumerate(rules, start=1))
    names = [rule.name for rule in made]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise EligibilityError(f"{file}: two rules are called {repeated[0]}")
    day = _number(head.get("day", "0"), f"{file}: day")
    if day != int(day):
        raise EligibilityError(f"{file}: day must be a whole number of days")
    title, source = _text(head["title"], f"{file}: title"), _text(head.get("source", ""), f"{file}: source")
    return Criteria(_name(head["name"], f"{file}: name"), title, source, consent, int(day), made)


def _rule(document: Document, where: str) -> Rule:
    found = _mapping(document, where)
    name = _name(found.get("name", ""), f"{where}: name")
    if name in TAKEN:
        raise EligibilityError(f"{where}: {name} is how the count calls something else; choose another name")
    where = f"{where} ({name})"
    unknown = _one_of(found.get("unknown", "exclude"), UNKNOWN, f"{where}: unknown")
    if not (says := _text(found.get("says", ""), f"{where}: says")):
        raise EligibilityError(f"{where}: says is missing: write the criterion as a sentence")
    condition = {key: value for key, value in found.items() if key not in ("name", "says", "unknown")}
    return Rule(name, says, _condition(condition, where), unknown)


def _condition(found: Mapping[str, Document], where: str) -> Answer:
    known = (*NUMBERS, *TEXTS, *EVENTS, *GROUPS)
    _known(found, known, where)
    if len(found) != 1:
        raise EligibilityError(f"{where}: {len(found)} conditions, write one, or join several with any_of or all_of")
    ((key, value),) = found.items()
    inside = f"{where}: {key}"
    if key in GROUPS:
        return _group(key, value, inside)
    bounds = _mapping(value, inside)
    if key in NUMBERS:
        return _compare(key, bounds, inside)
    return _code(key, bounds, inside) if key in TEXTS else _event(key, bounds, inside)


def _group(key: str, value: Document, where: str) -> Answer:
    if not isinstance(value, list) or not value:
        raise EligibilityError(f"{where}: write a list of conditions")
    parts = [_condition(_mapping(part, f"{where} {at}"), f"{where} {at}") for at, part in enumerate(value, start=1)]

    def answer(facts: Facts) -> Floats:
        answers = np.stack([part(facts) for part in parts])
        return every(answers) if key == "all_of" else some(answers) if key == "any_of" else 1.0 - some(answers)

    return answer


def some(answers: Floats) -> Floats:
    """Yes if one is yes; not known if none is and one is not known. (n_answers, n_patients) -> (n_patients,)."""
    yes, open_ = (answers == 1.0).any(axis=0), np.isnan(answers).any(axis=0)
    return np.where(yes, 1.0, np.where(open_, np.nan, 0.0))


def every(answers: Floats) -> Floats:
    """Yes if all are; no if one is no, whatever the others."""
    return np.asarray(1.0 - some(1.0 - answers))


def _compare(key: str, bounds: Mapping[str, Document], where: str) -> Answer:
    _known(bounds, COMPARISONS, where)
    if not bounds:
        raise EligibilityError(f"{where}: give one of {', '.join(COMPARISONS)}")
    limits = [(COMPARISONS[name], _number(value, f"{where}: {name}")) for name, value in bounds.items()]

    def answer(facts: Facts) -> Floats:
        values = facts.number(key)
        holds = np.all([compare(values, limit) for compare, limit in limits], axis=0)
        return np.where(np.isnan(values), np.nan, holds.astype(np.float64))

    return answer


def _code(key: str, bounds: Mapping[str, Document], where: str) -> Answer:
    _known(bounds, ("one_of", "none_of"), where)
    if len(bounds) != 1:
        raise EligibilityError(f"{where}: give either one_of or none_of")
    ((kind, codes),) = bounds.items()
    if not isinstance(codes, list) or not codes:
        raise EligibilityError(f"{where}: {kind} must be a list of codes")
    chosen = [_text(code, f"{where}: {kind}") for code in codes]
    _known(dict.fromkeys(chosen, ""), CODES[key], f"{where}: {kind}")

    def answer(facts: Facts) -> Floats:
        found = facts.text(key)
        among = np.isin(found.astype(str), chosen)
        return np.where(found == "", np.nan, (among if kind == "one_of" else ~among).astype(np.float64))

    return answer


def _event(key: str, bounds: Mapping[str, Document], where: str) -> Answer:
    _known(bounds, ("within_days",), where)
    within = int(_number(bounds.get("within_days", ""), f"{where}: within_days"))
    if within < 0:
        raise EligibilityError(f"{where}: within_days is {within}, it must be 0 or more")
    return lambda facts: facts.event(key, within)


def _mapping(document: Document, where: str) -> dict[str, Document]:
    if not isinstance(document, dict):
        raise EligibilityError(f"{where}: write `key: value`")
    return document


def _known(found: Mapping[str, object], known: Iterable[str], where: str) -> None:
    possible = tuple(known)
    for key in found:
        if key not in possible:
            begins = [name for name in possible if name.startswith(key)]
            near = begins or difflib.get_close_matches(key, possible, 1)
            hint = f"did you mean {near[0]}?" if near else f"possible: {', '.join(possible)}"
            raise EligibilityError(f"{where}: {key!r} is unknown; {hint}")


def _one_of(value: Document, possible: Sequence[Code], where: str) -> Code:
    for code in possible:
        if value == code:
            return code
    raise EligibilityError(f"{where} must be one of {', '.join(possible)}")


def _text(value: Document, where: str) -> str:
    if not isinstance(value, str):
        raise EligibilityError(f"{where}: write a text")
    return value


def _name(value: Document, where: str) -> str:
    if not NAME.fullmatch(name := _text(value, where)):
        raise EligibilityError(f"{where}: give a short name of lower case letters, digits and _")
    return name


def _number(value: Document, where: str) -> float:
    if not NUMBER.fullmatch(text := _text(value, where)):
        raise EligibilityError(f"{where}: write a number with a decimal point")
    return float(text)
