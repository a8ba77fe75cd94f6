"""What a release writes, kept for ever: run with the code of the release, it makes `tests/fixtures/releases/VERSION`.

    python scripts/make_release_fixture.py OUT          (with the release's own code on the path and installed)

Two invented consortium runs over four invented hospitals: one finished in mode distributed with a patient count, one in mode local
with sampling, cut off in its second half while votes were asked for. Later versions must go on from there (`tests/releases`).
Every key in it was made here, guards nothing and must never be used; no path of the machine that made it stays in any file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from consortium.plan import sign_plan
from consortium.wire import Reply, Request
from server import rounds
from server.config import load_config
from server.enrolment import Founding, add_sites, init_hub, read_join_request, sign_and_follow
from server.export import export_model
from server.folder import RunFolder, create_folder
from server.home import LeadHome
from server.planning import make_plan
from server.simulate import PipeTransport
from server.transport import Patience, TransportError
from tasks.cis_conversion.synthetic import write_hospitals

TASK = "cis_conversion"
PATIENTS, SEED = 40, 1
POLICY = """version: 2
budget_epsilon: 40.0
budget_periods: [{population: simulated, days: 365, epsilon: 40.0}]
max_epsilon_per_plan: 8.0
budget_exposed_epsilon: 400.0
max_exposed_epsilon_per_plan: 80.0
modes: [local, distributed]
tasks: {cis_conversion: "*"}
leads: ["*"]
"""
POLICY_1 = """version: 1
budget_epsilon: 40.0
max_epsilon_per_plan: 8.0
tasks: {cis_conversion: "*"}
leads: ["*"]
"""
FINISHED = ("privacy=distributed3", "privacy.count_noise=5.0", "schedule.rounds=4", "schedule.evaluate_every=2")
CUT_OFF = ("privacy=epsilon3", "privacy.sample_rate=0.5", "schedule.rounds=6", "schedule.evaluate_every=3")
CUT_AFTER_VOTES = 4  # one of the description, then training rounds


class CutOff:
    """Sites that stop answering in the middle of a vote, as if the hub lost its power."""

    def __init__(self, inner: PipeTransport, votes: int) -> None:
        self._inner, self._votes = inner, votes

    @property
    def failures(self) -> Mapping[str, str]:
        return self._inner.failures

    def exchange(self, kind: str, requests: Mapping[str, Request], patience: Patience) -> Iterator[tuple[str, Reply]]:
        if kind == "sa1_vote":
            self._votes -= 1
            if self._votes < 0:
                raise TransportError("the fixture ends here")
        return self._inner.exchange(kind, requests, patience)

    def close(self) -> None:
        self._inner.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    sites = [folder.name for folder in write_hospitals(out / "data", 4, [PATIENTS] * 4, SEED)]
    home = found(out, sites)
    finished = drive(out, home, sites[:3], "finished", FINISHED)
    export_model(finished)
    drive(out, home, sites, "cut-off", CUT_OFF, cut_after=CUT_AFTER_VOTES)
    publish(out, home, finished, sites[0])
    tidy(out, home)
    (out / "version").write_text(version("wardround") + "\n")
    print(f"{out}: release {version('wardround')}, {sum(path.stat().st_size for path in out.rglob('*')) // 1024} KiB")
    return 0


def found(out: Path, sites: list[str]) -> LeadHome:
    """A lead's home, and the sites that joined its consortium."""
    home = LeadHome(out / "lead")
    init_hub(home, Founding("releases", "board", "lead-a", ("localhost",), 1, 3, 0.4), now=datetime.now(UTC))
    shutil.rmtree(home.hub / "tls")  # every start of a hub makes its own state; no fixture needs a certificate
    loopback("init", out / "sites", *sites, "--task", TASK, "--data", out / "data")
    for site in sites:
        config = out / "sites" / site / "site.yaml"
        lines = config.read_text().splitlines()
        config.write_text("\n".join(f'data: "../../data/{site}"' if line.startswith("data:") else line for line in lines) + "\n")
    files = [out / "sites" / site / "join-request.json" for site in sites]
    told = [json.loads(file.read_text())["fingerprint"] for file in files]
    roster = add_sites(home.roster(), [(read_join_request(file), one) for file, one in zip(files, told, strict=True)])
    sign_and_follow(home, roster)
    home.nodes_file.write_text(json.dumps({site: number for number, site in enumerate(sites, start=1)}))
    for names, policy in ((sites[:3], POLICY), (sites[3:], POLICY_1)):
        file = out / "policy.yaml"
        file.write_text(policy)
        founders = home.founders_pin.read_text().strip()
        loopback("join", out / "sites", *names, "--roster", home.roster_file, "--founders", founders, "--policy", file)
        file.unlink()
    return home


def drive(
    out: Path, home: LeadHome, sites: list[str], run_id: str, choices: tuple[str, ...], *, cut_after: int | None = None
) -> RunFolder:
    """Plan, sign, approve and run; cut off in the vote that comes after `cut_after` others."""
    config = load_config([f"task={TASK}", "federation=roster", f"run_id={run_id}", *choices])
    config = replace(config, federation=replace(config.federation, sites=dict.fromkeys(sites, 20), default_patients=0))
    lead, key = home.lead()
    plan = make_plan(config, home.roster(), home.nodes(), lead=lead, now=datetime.now(UTC))
    home.runs.mkdir(exist_ok=True)
    folder = create_folder(home.runs / run_id, sign_plan(plan, key), home.signed_roster())
    loopback("approve", out / "sites", *sites, "--plan", folder.plan_file)
    pipe = PipeTransport(out / "sites", sites, workers=2)
    try:
        rounds.run(folder.path, pipe if cut_after is None else CutOff(pipe, cut_after))
    except TransportError:
        if cut_after is None:
            raise
    finally:
        pipe.close()
    return folder


def publish(out: Path, home: LeadHome, run: RunFolder, site: str) -> None:
    """A site's statement about its epsilon, as its own command writes it."""
    folder, file = out / "sites" / site, out / "published.statement"
    subprocess.run(
        [sys.executable, "-m", "client.cli", "--home", folder, "budget", "--publish", file, "--run", run.path.name], check=True
    )


def tidy(out: Path, home: LeadHome) -> None:
    """Logs name the machine, and nothing reads them; a socket folder is no state."""
    for pattern in ("*.log", "*.err", "socket", "prepared"):
        for path in [*(out / "sites").rglob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def loopback(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "client.loopback", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
