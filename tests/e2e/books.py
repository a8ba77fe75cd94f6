"""What a run left in the books: the coordinator's journal, the sites' ledgers and egress manifests, the checkpoints."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from consortium_of_four import Consortium, Going

from client.egress import EgressManifest
from privacy.entries import Egress, SpendRecord
from privacy.ledger import read_entries as read_ledger
from server.checkpoint import latest_checkpoint
from server.folder import RunFolder
from server.journal import RoundAttempt

AUDIT = Path(sys.executable).parent / "wardround-audit"


@dataclass(frozen=True)
class Spent:
    """One round in one site's ledger."""

    plan: str
    round: int
    purpose: str
    place: int  # in the ledger, whatever the clock said
    after: float
    private: bool


def spends(home: Path) -> list[Spent]:
    """All rounds of a site's ledger, over all runs, in the order in which they were written."""
    entries, torn = read_ledger((home / "ledger.jsonl").read_bytes())
    assert not torn, f"{home.name}: torn write in the ledger"
    return [
        Spent(
            entry.content.details.plan_digest.hex(),
            entry.content.details.round,
            entry.content.details.purpose,
            place,
            entry.content.epsilon_after,
            entry.content.details.rng != "none",
        )
        for place, entry in enumerate(entries)
        if isinstance(entry.content, SpendRecord)
    ]


def released(home: Path, digest: bytes) -> dict[int, int]:
    """Round -> place in the ledger of the first entry that lets an update of this plan leave; it is written before that leaves."""
    entries, _ = read_ledger((home / "ledger.jsonl").read_bytes())
    places: dict[int, int] = {}
    for place, entry in enumerate(entries):
        match entry.content:
            case Egress(plan_digest=plan, round=number, answer=answer) if plan == digest and answer.startswith("update"):
                places.setdefault(number, place)
    return places


def uploads(home: Path, run_id: str) -> list[dict[str, object]]:
    """Lines of the egress manifest that stand for an upload."""
    return [line for line in EgressManifest(home / "egress").read(run_id) if str(line["kind"]).startswith("update")]


def audited(homes: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    ledgers = [str(home / "ledger.jsonl") for home in homes]
    return subprocess.run([AUDIT, "verify", *ledgers, "--json"], capture_output=True, text=True, check=False)


def check_books(consortium: Consortium, going: Going) -> None:
    """What holds after every run, whatever was killed: fails with the site and the round."""
    folder = RunFolder(going.run_dir)
    plan = folder.plan()
    digest = folder.signed_plan().digest
    attempts = [entry.event for entry in going.events() if isinstance(entry.event, RoundAttempt)]
    numbers = [attempt.round for attempt in attempts]
    assert numbers == sorted(set(numbers)), "a round number was used twice"
    allowed = {(attempt.round, attempt.purpose) for attempt in attempts}
    for name, site in consortium.sites.items():
        every = spends(site.home)
        of_run = [spent for spent in every if spent.plan == digest.hex()]
        rounds = [(spent.plan, spent.round) for spent in every]
        assert len(rounds) == len(set(rounds)), f"{name}: a round was spent twice"
        assert {(spent.round, spent.purpose) for spent in of_run} <= allowed, f"{name}: spent on a round nobody asked for"
        after = [float("inf") if spent.after < 0 else spent.after for spent in every]
        assert after == sorted(after), f"{name}: epsilon fell"
        assert all(spent.private for spent in of_run) or not plan.private, f"{name}: trained without noise"
        _check_uploads(name, of_run, released(site.home, digest), uploads(site.home, plan.run_id))
    found = audited(site.home for site in consortium.sites.values())
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr
    latest = latest_checkpoint(folder.checkpoints, digest, model_size=plan.model_size)
    assert latest.checkpoint is not None
    assert latest.skipped == ()
    assert latest.checkpoint.round == going.done()[-1].round


def _check_uploads(name: str, of_run: list[Spent], released: dict[int, int], lines: list[dict[str, object]]) -> None:
    """Nothing was released without an entry that was there before: by the ledger's order, since a hospital's clock may jump."""
    spent = {one.round: one.place for one in of_run}
    for line in lines:
        assert int(str(line["round"])) in spent, f"{name}: a round left without a ledger entry: {json.dumps(line)}"
    for number, place in released.items():
        assert spent.get(number, place) < place, f"{name}: round {number} was let go before its ledger entry"


def repeated(going: Going) -> int:
    """Rounds that were begun and gave nothing."""
    return sum(isinstance(entry.event, RoundAttempt) for entry in going.events()) - len(going.done())
