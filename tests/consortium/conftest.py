"""The example consortium of the vectors: four sites, one lead, three founders of whom two must sign."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from consortium.documents import Signed
from consortium.identity import SigningKey
from consortium.plan import Plan, sign_plan
from consortium.roster import Roster, founders_fingerprint, sign_roster

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors" / "consortium"


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors_consortium", ROOT / "scripts" / "make_vectors_consortium.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _load_script()


@pytest.fixture(scope="session")
def make_vectors() -> ModuleType:
    return SCRIPT


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], Any]:
    """The committed vector file of that name."""
    return lambda name: json.loads((VECTORS / f"{name}.json").read_text("ascii"))


@pytest.fixture(scope="session")
def key() -> Callable[[str], SigningKey]:
    """The test identity of that name."""
    found: Callable[[str], SigningKey] = SCRIPT.key
    return found


@pytest.fixture(scope="session")
def roster() -> Roster:
    found: Roster = SCRIPT.example_roster()
    return found


@pytest.fixture(scope="session")
def plan(roster: Roster) -> Plan:
    found: Plan = SCRIPT.example_plan(roster)
    return found


@pytest.fixture(scope="session")
def signed_roster(roster: Roster, key: Callable[[str], SigningKey]) -> Signed:
    return sign_roster(sign_roster(roster, "anna", key("anna")), "clara", key("clara"))


@pytest.fixture(scope="session")
def signed_plan(plan: Plan, key: Callable[[str], SigningKey]) -> Signed:
    return sign_plan(plan, key(plan.lead))


@pytest.fixture(scope="session")
def pinned(roster: Roster) -> str:
    return founders_fingerprint(roster.founders, roster.founders_required)
