"""The hub is lost and comes back elsewhere, from an older copy of its database: the run goes on where it was."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from books import check_books, repeated
from consortium_of_four import demo, wait_until
from faulty_consortium import FaultyConsortium, check_sums

pytestmark = pytest.mark.e2e


def copied(consortium: FaultyConsortium, to: Path) -> None:
    """The hub's database as it was before the run: with the sites' registrations, without the run."""
    consortium.kill("hub", number=signal.SIGTERM)
    to.mkdir()
    for file in (consortium.lead_home / "hub").glob("flower.db*"):
        shutil.copy2(file, to)
    consortium.mend()


def restored(consortium: FaultyConsortium, copy: Path) -> None:
    for file in (consortium.lead_home / "hub").glob("flower.db*"):
        file.unlink()
    for file in copy.iterdir():
        shutil.copy2(file, consortium.lead_home / "hub")


def test_a_hub_that_comes_back_from_an_older_copy_at_another_address_goes_on_with_the_run(
    consortium: FaultyConsortium, tmp_path: Path
) -> None:
    copied(consortium, tmp_path / "copy")
    going = consortium.begin(consortium.plan(), "--no-tracking", "--keep-vectors")
    wait_until(lambda: going.begun(4), "round 4 begun")
    consortium.kill("hub")
    before = [done.round for done in going.done()]
    going.process.kill()
    going.process.wait()
    restored(consortium, tmp_path / "copy")
    consortium.move_hub(demo.free_port())
    for site in consortium.sites.values():
        join_again(consortium, site.name, tmp_path)
        consortium.kill(f"{site.name}-gateway", number=signal.SIGTERM)
    consortium.mend()
    again = consortium.resume(going)
    assert again.status() == 0, again.output[-2000:]
    check_books(consortium, again)
    check_sums(again)
    assert [done.round for done in again.done()][: len(before)] == before
    assert repeated(again) <= 1


def join_again(consortium: FaultyConsortium, name: str, folder: Path) -> None:
    """A site's IT takes the new invite; keys and ledger stay."""
    invite = folder / f"{name}.json"
    address = f"127.0.0.1:{consortium.network.ports[name]}"  # the site's own line to the hub
    demo.run(*consortium.enrolment.lead("roster", "invite", "--hub", address, "--out", str(invite)))
    founders = json.loads(invite.read_text())["founders"]
    demo.run(*consortium.sites[name].command("join", str(invite), "--founders", founders))
