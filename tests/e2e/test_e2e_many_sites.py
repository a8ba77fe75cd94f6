"""Thirty hospitals on one machine in one run: every guard, gateway and the hub are the programs themselves."""

from pathlib import Path

import consortium_of_four
import pytest
from books import check_books
from consortium_of_four import Consortium, demo

from privacy.cli import main as audit
from tasks.cis_conversion.synthetic import write_hospitals

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(7200)]

SITES = 30
LONG_WAITS = ("deadlines.keys_s=600", "deadlines.update_s=900", "deadlines.vote_s=600", "deadlines.approval_s=900")


def write_thirty(folder: Path) -> None:
    write_hospitals(folder, SITES, [120] * SITES, seed=1)


def test_a_run_of_thirty_sites_opens_every_round_over_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "START_S", 1200.0)  # sixty processes begin at once on whatever there is
    monkeypatch.setattr(consortium_of_four, "START_S", 1200.0)
    with Consortium(tmp_path / "c", write_patients=write_thirty) as consortium:
        assert len(consortium.sites) == SITES
        going = consortium.begin(consortium.plan("schedule.rounds=3", "schedule.evaluate_every=3", *LONG_WAITS))
        assert going.status(3600.0) == 0, going.output[-2000:]
        check_books(consortium, going)
        rounds = going.done()
        assert len(rounds) >= 3
        assert all(set(done.survivors) == set(consortium.sites) for done in rounds), [done.dropped for done in rounds]
        for site in consortium.sites.values():
            assert audit(["verify", str(site.home / "ledger.jsonl")]) == 0
        seconds = [round(sum(dict(one.seconds).values())) for one in rounds]
        print(f"{SITES} sites: peak {consortium.peak_mib:.0f} MiB; seconds of each round {seconds}")
