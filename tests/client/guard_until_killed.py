"""A hospital's guard that is asked for rounds until it is killed: `guard_until_killed.py FOLDER DATA EPOCH`. For tests."""

import sys
from pathlib import Path

from guards_in_process import SITES, answered, reopen


def main() -> int:
    consortium = reopen(Path(sys.argv[1]), Path(sys.argv[2]))
    run = consortium.run(consortium.long_plan())
    consortium.guard(SITES[0])
    last = consortium.sites_open[SITES[0]].ledger.last_round(run.signed.digest)
    print("ready", flush=True)
    epoch = run.epoch(int(sys.argv[3]))
    for number in range(last + 1, run.plan.schedule.max_round):
        phase = run.open_round(epoch, number)
        answered(run.update(phase, SITES[0]))
        print(f"round {number}", flush=True)
        run.votes(run.upload(phase).close())
    return 0


if __name__ == "__main__":
    sys.exit(main())
