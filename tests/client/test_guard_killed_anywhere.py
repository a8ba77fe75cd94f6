"""Kill -9 at every line of a round in the guard: nothing trains that is not charged, nothing leaves that is not on record."""

import shutil
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guards_in_process import NOW, SITES, Consortium
from killing import in_child, kill_at

import client.guard
from client.egress import EgressManifest
from client.home import Home
from client.job import Population
from client.populations import Populations
from privacy.ledger import Ledger, head_path
from privacy.verify import verify_ledger

SITE = SITES[0]
LINES_MOST = 5_000
CODE = Path(client.guard.__file__).parents[1]
OWN = tuple(
    str(CODE / name)
    for name in (
        "client/guard.py", "client/once.py", "client/egress.py", "client/files.py", "client/populations.py", "privacy/ledger.py"
    )
)  # fmt: skip


def kept(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_back(folder: Path, files: dict[Path, bytes]) -> None:
    """Into the same files, as the parent's guard holds them open."""
    for path in list(kept(folder)):
        if path not in files:
            path.unlink()
    for path, data in files.items():
        if path.read_bytes() != data:
            path.write_bytes(data)


@pytest.mark.slow
def test_a_guard_killed_at_any_line_of_a_round_trained_nothing_uncharged_and_sent_nothing_unlisted(
    consortium: Consortium, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = (Population(bytes([at]) * 32, frozenset({bytes([at]) * 16}), frozenset()) for at in (1, 2))
    consortium.train[SITE].population = lambda task, deadline_s: first  # type: ignore[attr-defined]
    run, marks, copies = consortium.run(), tmp_path_factory.mktemp("marks"), tmp_path_factory.mktemp("copies")
    phase = run.open_round(run.epoch(), 2)
    consortium.train[SITE].before = lambda job: (marks / "trained").touch()  # type: ignore[attr-defined]
    home, states = consortium.home(SITE), set[tuple[bool, bool, bool]]()
    changes = set[tuple[str, ...]]()
    before = kept(home.root)
    for line in range(LINES_MOST):

        def act(at: int = line) -> None:
            kill_at(at, OWN)
            reply = run.update(phase, SITE)
            sys.settrace(None)
            (marks / "left").write_bytes(reply[1])

        ended = in_child(act)
        assert ended in (0, -signal.SIGKILL)
        copy = Home(copies / str(line))
        shutil.copytree(home.root, copy.root)
        trained, left = (marks / "trained").exists(), (marks / "left").exists()
        ledger_time = datetime.fromtimestamp(NOW, tz=UTC)
        with Ledger.open(copy.ledger, copy.load_identity(), ledger_time) as ledger:
            charged = ledger.last_round(run.signed.digest) == 2
            said = ledger.population_digest(run.plan.task.name)
            assert said == first.digest or not charged, f"line {line}: charged before it was said whose data it is"
            how = Populations(copy.populations).record(run.plan.task.name, second, ledger, ledger_time)
            changes.add(how)
            assert charged or not trained, f"line {line}: trained and not charged"
        listed = [item for item in EgressManifest(copy.egress).read("run-1") if item["kind"] == "update (train)"]
        assert listed or not left, f"line {line}: left and not listed"
        assert verify_ledger(copy.ledger.read_bytes(), copy.load_identity().public, head_path(copy.ledger).read_bytes()).ok
        states.add((charged, trained, left))
        put_back(home.root, before)
        for mark in marks.iterdir():
            mark.unlink()
        shutil.rmtree(copy.root)
        if ended == 0:
            break
    assert states == {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
    # Killed before the entry, between entry and names, and after both: the next change is first, unknown, or told in full.
    assert changes == {("first",), ("unknown",), ("joined", "left")}
    assert line > 150, "fewer lines than a round has: nothing was traced"
