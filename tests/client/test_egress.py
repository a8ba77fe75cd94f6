"""Everything that leaves a hospital in a run: nothing readable, and all of it in the manifest."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from guards_in_process import HELD_OUT, SALT, SITES, Consortium, Run, answered, code_of, terms
from numpy.typing import NDArray

from client.egress import REMEMBERED, EgressManifest, part
from client.job import Job, Result
from client.trainer import Trainer
from consortium.plan import Plan
from tasks.cis_conversion.task import TASK
from tasks.data import load_cohort
from tasks.splits import held_out_mask

SITE = SITES[0]
CANARY = "CANARY-4711"


def keep(consortium: Consortium) -> list[tuple[str, Result]]:
    """Every result that the trainers hand to the guard, in the clear."""
    seen: list[tuple[str, Result]] = []

    def listening(site: str, inner: Callable[[Job, float], Result]) -> Callable[[Job, float], Result]:
        def train(job: Job, deadline_s: float) -> Result:
            result = inner(job, deadline_s)
            seen.append((site, result))
            return result

        return train

    for site in SITES:
        consortium.train[site] = listening(site, consortium.train[site])
    return seen


def whole_run(run: Run) -> bytes:
    """A describe, two training rounds and an evaluation; all bytes that left any site."""
    epoch = run.epoch()
    for number, purpose in ((1, "describe"), (2, "train"), (3, "train"), (4, "evaluate")):
        run.round(epoch, number, purpose, run.model(0.2))  # scores spread over the bins
    return b"".join(control + body for _, _, control, body in run.consortium.left)


def encodings(values: NDArray[np.float64]) -> list[bytes]:
    """Each value as float64, each two neighbours as float32: eight bytes, which masked words never match by chance."""
    singles = [np.array([value]).astype(kind).tobytes() for value in values for kind in ("<f8", ">f8")]
    return singles + [np.array(pair).astype(kind).tobytes() for pair in itertools.pairwise(values) for kind in ("<f4", ">f4")]


def approved(training: Consortium, mode: str) -> Run:
    """A run that every steward approved in person, as one without noise needs."""
    run = training.run(training.plan(privacy=terms(mode)))
    training.approve(run)
    return run


@pytest.mark.parametrize("mode", ["local", "none"])
def test_no_value_of_any_update_or_metric_leaves_in_the_clear(training: Consortium, mode: str) -> None:
    """Also without noise: what is not private against the sum is still masked against the wire."""
    training.policy((training.home(SITE).policy.read_text()) + "allow_non_private: true\n")
    seen = keep(training)
    left = whole_run(approved(training, mode))
    whole = [values for _, result in seen for values in (result.header, result.body)]
    uneven = [values[values != np.rint(values)] for values in whole]  # whole numbers are looked for below, as counts
    codes = {code for values in uneven for code in encodings(values)}
    assert len(codes) > 200
    assert [code for code in codes if code in left] == []


def test_no_count_of_the_histogram_leaves_in_the_clear(training: Consortium) -> None:
    """As text, as an integer of any usual form, or as the fixed-point word that the ring holds: never one class in a row."""
    training.policy((training.home(SITE).policy.read_text()) + "allow_non_private: true\n")
    seen = keep(training)
    left = whole_run(approved(training, "none"))
    counted = [result.header.astype(int) for _, result in seen if len(result.header) == 8]
    assert len(counted) == 6
    for counts in counted:
        assert counts.sum() > 10
        for cells in (counts, counts[:4], counts[4:]):
            forms = [cells.astype(kind).tobytes() for kind in ("<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8")]
            forms += [(cells.astype(np.int64) << 32).astype(kind).tobytes() for kind in ("<i8", ">i8")]
            forms += [json.dumps(cells.tolist()).encode()]
            assert [form for form in forms if form in left] == []


def test_no_patient_name_or_path_leaves(training: Consortium, caplog: pytest.LogCaptureFixture) -> None:
    run = training.run()
    epoch = run.epoch()
    run.round(epoch, 1)

    def fail(job: Job, deadline_s: float) -> Result:
        raise ValueError(f"row of {CANARY} in {training.data / SITE}")

    training.train[SITE] = fail
    training.restart(SITE)
    run.ask_keys(number=2)
    epoch = run.epoch(3)
    assert code_of(run.update(run.open_round(epoch, 2), SITE)) == "INTERNAL"
    left = b"".join(control + body for _, _, control, body in training.left)
    ids = load_cohort(training.data / SITE, TASK.contract).patient_ids
    words = [CANARY, str(training.data), str(training.folder), "hospital-1/", "cis_export", *ids]
    assert [word for word in words if word.encode() in left] == []
    assert CANARY not in caplog.text


def test_the_counts_a_test_looks_for_are_the_sites_own(training: Consortium) -> None:
    """The control of the two tests above: without noise the opened header is the histogram of all held-out patients."""
    training.policy((training.home(SITE).policy.read_text()) + "allow_non_private: true\n")
    run = approved(training, "none")
    opened = run.round(run.epoch(), 1, "evaluate").header
    held_out = sum(
        int(held_out_mask(load_cohort(training.data / site, TASK.contract).patient_ids, SALT, HELD_OUT).sum()) for site in SITES
    )
    assert opened[0] == len(SITES)
    assert opened[1:].sum() / 2**32 == held_out


def test_the_same_update_masked_twice_has_nothing_in_common(consortium: Consortium) -> None:
    """Equal results of two rounds and of two sites: the masked words differ everywhere."""
    run = consortium.run()
    epoch = run.epoch()
    ys = [run.update(run.open_round(epoch, number), site)[1] for number in (1, 3) for site in SITES]
    words = np.stack([np.frombuffer(y, "<u4") for y in ys])
    assert len(words[0]) > 10
    for first in range(len(words)):
        for second in range(first):
            assert (words[first] == words[second]).mean() < 0.2


# -- the manifest ------------------------------------------------------------------------------------------------------------


def manifest(consortium: Consortium, site: str, plan: Plan) -> list[dict[str, object]]:
    return EgressManifest(consortium.home(site).egress).read(plan.run_id)


def test_the_manifest_lists_exactly_the_bytes_that_left(training: Consortium) -> None:
    run = training.run()
    whole_run(run)
    for site in SITES:
        listed = [item["sha256"] for line in manifest(training, site, run.plan) for item in line["parts"]]  # type: ignore[attr-defined]
        parts = [data for name, _, control, body in training.left if name == site for data in (control, body) if data]
        assert listed == [hashlib.sha256(data).hexdigest() for data in parts]
        assert {line["plan"] for line in manifest(training, site, run.plan)} == {run.signed.digest.hex()}


def test_what_a_line_says_of_an_update_is_what_the_plan_says(training: Consortium) -> None:
    run = training.run()
    whole_run(run)
    shapes = {line["kind"]: line["parts"][-1]["shape"] for line in manifest(training, SITE, run.plan)}  # type: ignore[index]
    statistics, bins, size = run.plan.statistics, 2 * run.plan.histogram_bins, run.plan.n_parameters
    assert shapes["update (describe)"] == f"header: count[1], statistics[{statistics}]; body: update[0]"
    assert shapes["update (train)"] == f"header: count[1]; body: update[{size}]"
    assert shapes["update (evaluate)"] == f"header: count[1], histogram[{bins}]; body: update[0]"


def test_what_cannot_be_listed_does_not_leave_not_even_at_the_second_request(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EgressManifest, "_append", full)
    assert [code_of(run.update(phase, SITE)) for _ in range(2)] == ["INTERNAL"] * 2
    monkeypatch.undo()
    assert answered(run.update(phase, SITE))
    assert consortium.spends() == 1
    assert [line["kind"] for line in manifest(consortium, SITE, run.plan)][-1] == "update (train)"


def test_asking_for_the_same_answer_again_does_not_fill_the_disk(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    for _ in range(50):
        assert answered(run.update(phase, SITE))
        assert answered(run.ask_keys(number=1))
    assert len(manifest(consortium, SITE, run.plan)) == 3  # keys, kem, update


def test_a_line_cut_short_costs_only_itself(tmp_path: Path) -> None:
    written = EgressManifest(tmp_path)
    for number in range(3):
        written.record("run", plan=bytes(32), round_number=number, kind="vote", time="t", parts=(part("p", bytes([number])),))
        if number == 1:
            path = tmp_path / "run.jsonl"
            path.write_bytes(path.read_bytes()[:-20])
    assert [line["round"] for line in written.read("run")] == [0, 2]
    assert written.runs() == ("run",)
    assert written.read("another") == []
    assert 2 * len(SITES) <= REMEMBERED


def test_a_trainer_splits_once_and_for_ever(training: Consortium) -> None:
    cohort = load_cohort(training.data / SITE, TASK.contract)
    sides = [Trainer(TASK, cohort, salt=SALT, held_out_fraction=HELD_OUT, entropy=bytes) for _ in range(2)]
    assert len(sides[0].training.labels) + len(sides[0].held_out.labels) == cohort.size
    assert (sides[0].held_out.labels == sides[1].held_out.labels).all()
