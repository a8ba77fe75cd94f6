"""Fixtures: the same attack in two lanes, against guards in this process and over the real transport."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "flower"))
sys.path.insert(0, str(Path(__file__).parents[1] / "client"))
sys.path.insert(0, str(Path(__file__).parent))

from attack_lines import InProcess, Line, colluders_of, found, site_names
from attacking import Attack, make_attack
from guards_in_process import Consortium

World = tuple[Line, Consortium]
Worlds = Callable[[str, int, int], World]
OVER_FLOWER = "flower-n5-c1"
LANES = (
    pytest.param(("process", 5, 1), id="process-n5-c1"),
    pytest.param(("process", 7, 2), id="process-n7-c2"),
    pytest.param(("flower", 5, 1), id=OVER_FLOWER),
)
# Over the real line every script takes seconds: these are played with every change, one of each family, all others in `soak`.
EVERY_TIME = (
    "test_f15_",
    "test_garbage_mask_",
    "test_key_substitution_",
    "test_kem_swap_",
    "test_relay_bypass_",
    "test_replay_upload_",
    "test_restart_between_",
    "test_shrunk_peers_",
    "test_vote_race_of_",
)


@pytest.hookimpl(tryfirst=True)  # before markers choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.name.endswith(f"[{OVER_FLOWER}]"):
            item.add_marker(pytest.mark.e2e if item.name.startswith(EVERY_TIME) else pytest.mark.soak)


class _Made:
    """Consortia, each made once: a script gets a plan of its own, so what another did is another run's."""

    def __init__(self) -> None:
        self._worlds: dict[tuple[str, int, int], World] = {}
        self._open = ExitStack()

    def world(self, make_folder: Callable[[str], Path], lane: str, n: int, c: int) -> World:
        if (lane, n, c) not in self._worlds:
            folder = make_folder(f"{lane}{n}")
            consortium = found(folder, n, c)
            honest = tuple(site for site in site_names(n) if site not in colluders_of(n, c))
            if lane == "flower":
                from line_over_flower import OverFlower

                line = OverFlower(folder, honest)
            else:
                line = InProcess(folder, honest)
            self._open.callback(line.close)
            line.open()
            self._worlds[lane, n, c] = line, consortium
        return self._worlds[lane, n, c]

    def close(self) -> None:
        self._worlds.clear()
        self._open.close()


MADE = _Made()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Their processes would go on for as long as the tests of other folders take."""
    if nextitem is not None and nextitem.path.parent != Path(__file__).parent:
        MADE.close()


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    yield partial(MADE.world, tmp_path_factory.mktemp)
    MADE.close()


@pytest.fixture(params=LANES)
def attack(request: pytest.FixtureRequest, worlds: Worlds) -> Attack:
    """A plan of all sites, in both lanes."""
    lane, n, c = request.param
    return make_attack(*worlds(lane, n, c), n)


@pytest.fixture(params=LANES[:2])
def nearby(request: pytest.FixtureRequest, worlds: Worlds) -> Attack:
    """The same in process only: for a further variant of what another test does in both lanes (a message costs 0.2 s there)."""
    lane, n, c = request.param
    return make_attack(*worlds(lane, n, c), n)


@pytest.fixture
def in_process(worlds: Worlds) -> Callable[[int, int], Attack]:
    """`in_process(n, c)`: for what a line cannot show, such as the inside of a guard's memory."""
    return lambda n, c: make_attack(*worlds("process", n, c), n)


@pytest.fixture(params=[pytest.param("flower", marks=pytest.mark.e2e)])
def over_flower(request: pytest.FixtureRequest, worlds: Worlds) -> Attack:
    """Five sites, for what only the real transport can show."""
    return make_attack(*worlds(request.param, 5, 1), 5)
