"""Kill -9 at any instant: epsilon never falls, the ledger verifies, and no round is answered twice."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guards_in_process import SITES, Consortium, answered, code_of

from privacy.verify import verify_ledger
from secagg.messages import UpdateRequest

SITE = SITES[0]
PROGRAM = Path(__file__).parent / "guard_until_killed.py"
KILLS = 12


def rounds_of(ledger: bytes) -> list[int]:
    entries = [json.loads(line) for line in ledger.splitlines() if line.endswith(b"}")]
    return [entry["body"]["round"] for entry in entries if entry["kind"] == "spend"]


def start(consortium: Consortium, epoch: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), str(consortium.folder), str(consortium.data), str(epoch)]
    places = f"{PROGRAM.parents[2]}:{PROGRAM.parent}"
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": places})


@pytest.mark.slow
def test_a_guard_killed_at_any_instant_forgets_no_spend_and_repeats_no_round(consortium: Consortium) -> None:
    home, spent = consortium.home(SITE), 0.0
    chance = random.Random(20261121)
    announced: list[int] = []
    for kill in range(KILLS):
        process = start(consortium, kill + 1)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        announced += [int(process.stdout.readline().split()[1]) for _ in range(kill % 4)]  # however slow the machine is
        time.sleep(chance.uniform(0.0, 1.0))
        process.kill()
        announced += [int(line.split()[1]) for line in process.stdout if line.startswith("round")]
        process.wait(30)
        torn = home.ledger.read_bytes()
        consortium.guard(SITE)
        ledger = consortium.sites_open[SITE].ledger
        now = ledger.epsilon(1e-5)
        assert now >= spent
        spent = now
        consortium.stop(SITE)
        whole = home.ledger.read_bytes()
        assert verify_ledger(whole, home.load_identity().public, home.ledger.with_name("ledger.jsonl.head").read_bytes()).ok
        assert rounds_of(whole)[: len(rounds_of(torn))] == rounds_of(torn)
    rounds = rounds_of(home.ledger.read_bytes())
    assert rounds == sorted(set(rounds))
    assert set(announced) <= set(rounds), "every round that was answered was charged"
    assert len(announced) == len(set(announced)) > KILLS


@pytest.mark.slow
def test_after_a_kill_the_run_goes_on_in_a_new_epoch(consortium: Consortium) -> None:
    process = start(consortium, 1)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("round 2"):
        pass
    process.kill()
    process.wait(30)
    process.stdout.close()
    run = consortium.run(consortium.long_plan())
    last = max(rounds_of(consortium.home(SITE).ledger.read_bytes()))
    stale = UpdateRequest(bytes(32), last + 1, "train", ()).encode()
    assert code_of(consortium.guard(SITE).answer("sa1_update", run.request(stale), run.model())) == "EPOCH"
    epoch = run.epoch(2)
    assert code_of(run.update(run.open_round(epoch, last), SITE)) == "ROUND"
    assert answered(run.update(run.open_round(epoch, last + 1), SITE))
