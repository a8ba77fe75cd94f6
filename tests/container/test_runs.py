"""A consortium in containers trains: a whole run, and one under which every hospital is upgraded."""

import subprocess
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from consortium_in_containers import SITES, Consortium, docker, wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(3000)]

SHORT_WAITS = ("deadlines.keys_s=15", "deadlines.update_s=40", "deadlines.vote_s=20", "deadlines.approval_s=120")
RUN_S = 2400.0
BACK_S = 600.0
ROUNDS = 3000  # more than anybody waits for: the lead ends the run once every hospital is upgraded
MIRRORED = """
import json, mlflow
mlflow.set_tracking_uri("http://mlflow:5000")
print(json.dumps(mlflow.search_runs(search_all_experiments=True)["status"].tolist()))
"""


class Going:
    """`wardround-lead run` in the hub's container."""

    def __init__(self, consortium: Consortium, run_id: str, plan: str, *options: str, ok: tuple[int, ...] = (0,)) -> None:
        self.consortium, self.run_id, self.ok, self.error = consortium, run_id, ok, ""
        self._thread = threading.Thread(target=self._run, args=(plan, *options), daemon=True)
        self._thread.start()

    def _run(self, plan: str, *options: str) -> None:
        try:
            self.consortium.lead("run", plan, *options, limit_s=RUN_S, ok=self.ok)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.error = str(error)

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def rounds(self, site: str) -> int:
        """Rounds that `site` took part in so far."""
        return int(self._status()["sites"].get(site, 0))

    def done(self) -> int:
        return int(self._status()["rounds_done"])

    def _status(self) -> Mapping[str, Any]:
        try:
            return self.consortium.status(self.run_id)
        except AssertionError:
            return {"sites": {}, "rounds_done": 0}  # no run folder yet

    def finish(self) -> Mapping[str, Any]:
        self._thread.join(RUN_S)
        assert self.ended(), f"run {self.run_id} still goes on"
        assert not self.error, self.error
        return self.consortium.status(self.run_id)


@pytest.fixture(scope="session")
def first_run(consortium: Consortium) -> Mapping[str, Any]:
    """Where a run of four rounds stands that the lead waited for; MLflow in its own container mirrors it."""
    consortium.hub.up_with("mlflow")
    plan = consortium.plan("first", "privacy=epsilon8", "schedule.rounds=4", "schedule.evaluate_every=4", *SHORT_WAITS)
    return Going(consortium, "first", plan, "--store", "http://mlflow:5000").finish()


def test_a_run_in_containers_ends_with_a_model_and_ledgers_that_an_auditor_finds_whole(
    consortium: Consortium, first_run: Mapping[str, Any]
) -> None:
    assert (first_run["phase"], first_run["rounds_done"]) == ("finished", 4)
    for site in SITES:
        found = consortium.verified(site)
        assert found["ok"], found["problems"]
        assert found["epsilon"], f"{site} spent nothing"
    assert consortium.hub.python("hub", MIRRORED) == ["FINISHED"]


def test_every_hospital_is_upgraded_while_a_run_goes_on_and_no_ledger_is_charged_twice(
    consortium: Consortium, first_run: Mapping[str, Any]
) -> None:
    before = {site: consortium.verified(site) for site in SITES}
    first = consortium.sites[SITES[0]]
    old = first.inspect("guard")["Image"]
    consortium.build(first, REVISION="upgraded")
    schedule = (f"schedule.rounds={ROUNDS}", f"schedule.evaluate_every={ROUNDS}", "schedule.spare_train=40")
    plan = consortium.plan("upgraded", "privacy=epsilon8", *schedule, *SHORT_WAITS)
    going = Going(consortium, "upgraded", plan, "--no-tracking", ok=(1,))  # the exit status of a run that its lead stopped
    wait_until(lambda: going.done() >= 1 or going.ended(), "the run goes", BACK_S)
    for site in SITES:
        consortium.sites[site].up()
        assert consortium.sites[site].inspect("guard")["Image"] != old
        reached = going.rounds(site)
        wait_until(
            lambda site=site, reached=reached: going.rounds(site) > reached or going.ended(), f"{site} is back in the run", BACK_S
        )
        assert not going.ended(), f"the run ended by itself before {site} was back in it: {going.error}"
    consortium.lead("stop", "upgraded")
    status = going.finish()
    assert (status["phase"], status["stopped"]) == ("stopped", "STOPPED")
    assert status["rounds_done"] >= len(SITES)
    plan = consortium.plan("afterwards", "privacy=epsilon8", "schedule.rounds=2", "schedule.evaluate_every=2", *SHORT_WAITS)
    status = Going(consortium, "afterwards", plan, "--no-tracking").finish()
    assert (status["phase"], status["rounds_done"]) == ("finished", 2)
    image = docker(
        "image", "inspect", "--format", '{{index .Config.Labels "org.opencontainers.image.revision"}}', "wardround-site:under-test"
    )
    assert image.strip() == "upgraded"
    for site in SITES:
        found = consortium.verified(site)
        assert found["ok"], found["problems"]  # a round that is charged twice is one of the problems an auditor finds
        assert found["entries"] > before[site]["entries"]
