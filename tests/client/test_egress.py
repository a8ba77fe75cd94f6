"""Everything that leaves a hospital in a run: nothing readable, and all of it in the manifest."""

import errno
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from guards_in_process import HELD_OUT, SALT, SITES, Consortium, Run, answered, code_of, terms
from numpy.typing import NDArray

from client.cli import main
from client.egress import LAST_REFUSAL, NO_RUN, REFUSALS_MOST, REMEMBERED, EgressManifest, part
from client.job import Job, Result
from client.trainer import Trainer
from consortium.plan import Plan, sign_plan
from privacy.entries import Content, Egress, Entry
from privacy.errors import LedgerError
from privacy.ledger import Ledger, read_entries
from privacy.manifest import Linked, Tip, verify_manifest
from tasks.cis_conversion.task import TASK
from tasks.data import load_cohort
from tasks.splits import TEST, parts_of

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
        assert counts.sum() > 5
        for cells in (counts, counts[:4], counts[4:]):
            assert cells.any(), "zeros are everywhere"
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
    """The control of the two tests above: without noise the opened header is the histogram of all test patients."""
    training.policy((training.home(SITE).policy.read_text()) + "allow_non_private: true\n")
    run = approved(training, "none")
    opened = run.round(run.epoch(), 1, "evaluate").header
    cohorts = [load_cohort(training.data / site, TASK.contract) for site in SITES]
    tested = sum(int((parts_of(cohort.patient_ids, SALT, HELD_OUT) == TEST).sum()) for cohort in cohorts)
    assert opened[0] == len(SITES)
    assert opened[1:].sum() / 2**32 == tested > 0


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


def disk_full(*args: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_listed_does_not_leave_not_even_at_the_second_request(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    monkeypatch.setattr(EgressManifest, "_append", disk_full)
    assert [code_of(run.update(phase, SITE)) for _ in range(2)] == ["LEDGER"] * 2  # a full disk: the hub asks again
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


def written(folder: Path, *numbers: int) -> EgressManifest:
    """A manifest of a run with one vote in each of these rounds."""
    made = EgressManifest(folder)
    for number in numbers:
        made.record("run", plan=bytes(32), round_number=number, kind="vote", time="t", parts=(part("p", bytes([number])),))
    return made


def test_a_line_cut_short_costs_only_itself_and_the_chain_goes_on_over_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    written(tmp_path, 0, 1)
    path.write_bytes(path.read_bytes()[:-20])  # a power cut; the process is gone
    again = written(tmp_path, 2, 3)
    assert [line["round"] for line in again.read("run")] == [0, 2, 3]
    found = verify_manifest("run", path.read_bytes(), ())
    assert (found.lines, found.ok) == (4, True)
    assert [remark.text for remark in found.remarks if "cut short" in remark.text] == [
        "line 2 was cut short by a kill or a full disk: what it was about did not leave"
    ]
    assert again.runs() == ("run",)
    assert again.read("another") == []
    assert 2 * len(SITES) <= REMEMBERED


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path, write = written(tmp_path, 0), tmp_path / "run.jsonl", os.write
    before = path.read_bytes()

    def half(handle: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", disk_full)
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        made.record("run", plan=bytes(32), round_number=1, kind="vote", time="t", parts=())
    monkeypatch.undo()
    assert path.read_bytes() == before
    made.record("run", plan=bytes(32), round_number=1, kind="vote", time="t", parts=())
    assert verify_manifest("run", path.read_bytes(), ()).problems == ()


# -- the chain and the ledger -------------------------------------------------------------------------------------------------


def ledger_of(consortium: Consortium) -> tuple[Entry, ...]:
    """The site's entries, chain and signatures checked."""
    home = consortium.home(SITE)
    return read_entries(home.ledger.read_bytes(), home.load_identity().public)[0]


def links_of(consortium: Consortium) -> list[Egress]:
    return [entry.content for entry in ledger_of(consortium) if isinstance(entry.content, Egress)]


def path_of(consortium: Consortium, run: Run) -> Path:
    return consortium.home(SITE).egress / f"{run.plan.run_id}.jsonl"


def checked(consortium: Consortium, run: Run) -> Linked:
    path = path_of(consortium, run)
    return verify_manifest(run.plan.run_id, path.read_bytes() if path.exists() else b"", ledger_of(consortium))


def test_each_update_and_each_vote_is_in_the_ledger_with_the_whole_manifest_before_it(consortium: Consortium) -> None:
    run = consortium.run()
    epoch = run.epoch()
    run.round(epoch, 1)
    run.round(epoch, 2)
    digest = run.signed.digest
    lines = path_of(consortium, run).read_bytes().splitlines()
    tips = list(itertools.accumulate(lines, Tip.after, initial=Tip()))
    assert links_of(consortium) == [
        Egress("run-1", digest, number, answer, at, tips[at].head)
        for number, answer, at in ((1, "update (train)", 3), (1, "vote", 4), (2, "update (train)", 5), (2, "vote", 6))
    ]
    assert [json.loads(line)["previous"] for line in lines] == [tip.head.hex() for tip in tips[:-1]]
    assert checked(consortium, run) == Linked("run-1", 6, 4, 6, (), ())


def test_the_entry_is_in_the_ledger_before_the_answer_leaves(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails at that very entry: no answer; when it works again, the answer, one line, one entry."""
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    append = Ledger.append

    def full(ledger: Ledger, kind: str, body: Content, now: datetime) -> Entry:
        if kind == "egress":
            raise LedgerError("not written, the disk is full: no release")
        return append(ledger, kind, body, now)

    monkeypatch.setattr(Ledger, "append", full)
    assert [code_of(run.update(phase, SITE)) for _ in range(2)] == ["LEDGER"] * 2
    monkeypatch.undo()
    stopped = checked(consortium, run)
    assert stopped.ok
    assert "line 3: update (train) of round 1 has no entry: written, and stopped before it left" in [
        remark.text for remark in stopped.remarks
    ]
    assert run.update(phase, SITE) == run.update(phase, SITE)
    kinds = [line["kind"] for line in manifest(consortium, SITE, run.plan)]
    assert kinds == ["keys", "kem", "update (train)", "refusal (LEDGER)", "refusal (LEDGER)"]
    assert [(link.answer, link.lines) for link in links_of(consortium)] == [("update (train)", 5)]
    assert checked(consortium, run) == Linked("run-1", 5, 1, 5, (), ())


def test_a_real_full_disk_at_the_ledgers_entry_lets_no_vote_out(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    run = consortium.run()
    phase = run.upload(run.open_round(run.epoch(), 1)).close()
    monkeypatch.setattr(os, "pwrite", disk_full)  # the ledger's way to write; the manifest has another
    assert code_of(run.vote(phase, SITE)) == "LEDGER"
    monkeypatch.undo()
    assert answered(run.vote(phase, SITE))
    assert [link.answer for link in links_of(consortium)] == ["update (train)", "vote"]
    assert checked(consortium, run).ok


def test_an_answer_that_is_repeated_adds_neither_line_nor_entry(consortium: Consortium) -> None:
    run = consortium.run()
    uploads = run.upload(run.open_round(run.epoch(), 1))
    phase = uploads.close()
    answered(run.vote(phase, SITE))
    before = path_of(consortium, run).read_bytes(), consortium.ledger_bytes()
    for _ in range(20):
        assert answered(run.vote(phase, SITE))
        assert answered(run.ask_keys(number=1))
    assert (path_of(consortium, run).read_bytes(), consortium.ledger_bytes()) == before


def test_a_guard_restarted_in_mid_run_goes_on_with_the_same_chain(consortium: Consortium) -> None:
    run = consortium.run()
    run.round(run.epoch(), 1)
    for site in SITES:
        consortium.restart(site)
    run.round(run.epoch(2), 2)
    assert [link.lines for link in links_of(consortium)] == [3, 4, 7, 8]
    assert checked(consortium, run) == Linked("run-1", 8, 4, 8, (), ())


def test_a_guard_that_died_between_line_and_entry_sent_nothing_and_the_chain_goes_on(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for kill -9: nothing catches it, nothing runs after it."""

    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)

    def die(*args: object) -> None:
        raise Killed

    monkeypatch.setattr(Ledger, "append", die)
    with pytest.raises(Killed):
        run.update(phase, SITE)
    monkeypatch.undo()
    for site in SITES:
        consortium.restart(site)
    run.round(run.epoch(2), 2)
    found = checked(consortium, run)
    assert (found.linked, found.problems) == (found.lines, ())
    assert [remark.text for remark in found.remarks] == [
        "line 3: update (train) of round 1 has no entry: written, and stopped before it left"
    ]


@pytest.mark.slow
def test_a_guard_killed_at_any_instant_sent_nothing_that_its_ledger_does_not_vouch_for(consortium: Consortium) -> None:
    program, chance, run = (
        Path(__file__).parent / "guard_until_killed.py",
        random.Random(20261125),
        consortium.run(consortium.long_plan()),
    )
    command = [sys.executable, str(program), str(consortium.folder), str(consortium.data)]
    announced: set[int] = set()
    for kill in range(8):
        places = {"PYTHONPATH": f"{program.parents[2]}:{program.parent}"}
        process = subprocess.Popen([*command, str(kill + 1)], stdout=subprocess.PIPE, text=True, env=places)
        assert process.stdout is not None
        with process.stdout as lines:
            assert lines.readline() == "ready\n"
            announced |= {int(lines.readline().split()[1]) for _ in range(kill % 3)}  # however slow the machine is
            time.sleep(chance.uniform(0.0, 1.0))
            process.kill()
            announced |= {int(line.split()[1]) for line in lines if line.startswith("round")}
        process.wait(30)
        consortium.restart(SITE)
        consortium.stop(SITE)
        assert checked(consortium, run).problems == ()
    assert announced <= {link.round for link in links_of(consortium) if link.answer == "update (train)"}
    assert len(announced) > 4


def test_two_runs_at_once_have_a_chain_each_in_one_ledger(consortium: Consortium) -> None:
    runs = [consortium.run(consortium.plan(run_id=name)) for name in ("run-1", "run-2")]
    epochs = [run.epoch() for run in runs]
    for number in (1, 2):
        for run, epoch in zip(runs, epochs, strict=True):
            run.round(epoch, number)
    assert [link.run_id for link in links_of(consortium)] == ["run-1", "run-1", "run-2", "run-2"] * 2
    for run in runs:
        assert checked(consortium, run) == Linked(run.plan.run_id, 6, 4, 6, (), ())


def test_answers_of_two_runs_in_two_threads_are_each_listed_and_linked_once(consortium: Consortium) -> None:
    runs = [consortium.run(consortium.plan(run_id=name)) for name in ("run-1", "run-2", "run-3")]
    phases = [run.open_round(run.epoch(), 1) for run in runs]
    with ThreadPoolExecutor(6) as pool:
        replies = [pool.submit(run.update, phase, SITE) for run, phase in zip(runs, phases, strict=True) for _ in range(2)]
        assert all(answered(reply.result()) for reply in replies)
    for run in runs:
        assert checked(consortium, run) == Linked(run.plan.run_id, 3, 1, 3, (), ())


def test_a_run_that_an_earlier_version_began_goes_on_linked_and_says_which_lines_were_not(consortium: Consortium) -> None:
    run = consortium.run()
    old = [
        {"kind": kind, "parts": [], "plan": run.signed.digest.hex(), "round": 0, "run": "run-1", "time": "t"}
        for kind in ("keys", "kem")
    ]
    path_of(consortium, run).write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in old))
    assert checked(consortium, run).sentence.startswith("not linked")
    run.round(run.epoch(), 1)
    found = checked(consortium, run)
    assert (found.linked, found.lines, found.problems) == (6, 6, ())
    assert "lines 1 to 2 are of a version before manifests were linked" in found.remarks[0].text


# -- refusals ----------------------------------------------------------------------------------------------------------------


def test_a_refusal_is_listed_in_its_run_with_its_round_and_has_no_entry(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    control, _ = run.update(phase, SITE, run.model()[:-4])
    line = manifest(consortium, SITE, run.plan)[-1]
    assert (line["kind"], line["round"], line["plan"]) == ("refusal (MODEL)", 1, run.signed.digest.hex())
    assert line["parts"] == [asdict(part("refusal", control))]
    assert links_of(consortium) == []


def test_a_refusal_about_no_plan_known_here_is_listed_beside_the_runs(consortium: Consortium) -> None:
    control, _ = consortium.guard(SITE).answer("sa1_vote", b"garbage", b"")
    (line,) = EgressManifest(consortium.home(SITE).egress).read(NO_RUN)
    assert (line["kind"], line["plan"], line["run"]) == ("refusal (UNDECODABLE)", "", NO_RUN)
    assert line["parts"] == [asdict(part("refusal", control))]


def test_no_strangers_word_becomes_the_name_of_a_file(consortium: Consortium) -> None:
    """A plan that no lead signed is refused, and its run id is not what the refusal is listed under."""
    forged = Run(consortium, sign_plan(consortium.plan(run_id="chosen-by-a-stranger"), consortium.founder))
    assert code_of(forged.ask_keys()) == "PLAN_SIGNATURE"
    assert EgressManifest(consortium.home(SITE).egress).runs() == (NO_RUN,)


def test_whoever_provokes_refusals_does_not_fill_the_disk_and_the_last_line_says_so(consortium: Consortium) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    for _ in range(REFUSALS_MOST // 2):
        run.update(phase, SITE, b"")
    consortium.restart(SITE)  # the limit is the file's, not the process's
    run.epoch(2)
    for _ in range(REFUSALS_MOST):
        assert code_of(run.update(phase, SITE, b"")) == "MODEL"
    listed = [line for line in manifest(consortium, SITE, run.plan) if line["kind"] == "refusal (MODEL)"]
    assert len(listed) == REFUSALS_MOST
    assert [line["parts"][0]["what"] for line in listed[-2:]] == ["refusal", LAST_REFUSAL]  # type: ignore[index]
    size = path_of(consortium, run).stat().st_size
    run.update(phase, SITE, b"")
    assert path_of(consortium, run).stat().st_size == size
    assert run.reply(SITE, "sa1_kem", run.request(b"?"))[0]
    assert manifest(consortium, SITE, run.plan)[-1]["kind"] == "refusal (ENCODING)", "another code has its own limit"


def test_a_refusal_that_cannot_be_listed_leaves_all_the_same(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = consortium.run()
    phase = run.open_round(run.epoch(), 1)
    monkeypatch.setattr(EgressManifest, "_append", disk_full)
    assert code_of(run.update(phase, SITE, b"")) == "MODEL"
    assert "state=not-listed" in caplog.text


# -- what people see -----------------------------------------------------------------------------------------------------------


def site_program(consortium: Consortium, capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["--home", str(consortium.home(SITE).root), *words]) == status
    shown = capsys.readouterr()
    return shown.out + shown.err


def test_the_program_says_what_left_in_all_and_that_the_ledger_vouches_for_it(
    consortium: Consortium, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = consortium.run()
    run.round(run.epoch(), 2)
    shown = site_program(consortium, capsys, "egress", "run-1")
    sent = [(control, body) for name, _, control, body in consortium.left if name == SITE]
    masked, other = sum(len(body) for _, body in sent), sum(len(control) for control, _ in sent)
    (total,) = [row.split() for row in shown.replace("│", " ").splitlines() if "everything" in row]
    assert total == ["everything", "4", str(masked), str(other)]
    assert "the ledger vouches for 4 of 4 lines, by 2 entries" in shown
    (row,) = json.loads(site_program(consortium, capsys, "--json", "egress"))
    assert (row["answers"], row["bytes masked"], row["bytes other"]) == (4, masked, other)
    assert "the ledger vouches for 4 of 4 lines" in site_program(consortium, capsys, "egress", "--verify")


def test_verify_ends_with_status_1_and_names_the_first_line_that_does_not_fit(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    run = consortium.run()
    run.round(run.epoch(), 2)
    path = path_of(consortium, run)
    path.write_bytes(path.read_bytes().replace(b'"kind": "kem"', b'"kind": "key"'))
    for words in (("egress", "--verify"), ("egress", "run-1", "--verify")):
        assert "PROBLEM line 2 does not fit" in site_program(consortium, capsys, *words, status=1)
    (found,) = json.loads(site_program(consortium, capsys, "--json", "egress", "--verify", status=1))
    assert (found["ok"], found["problems"][0]["line"]) == (False, 2)
    assert "DOES NOT FIT" in site_program(consortium, capsys, "egress", "run-1")
    path.unlink()
    assert "line 1 is missing" in site_program(consortium, capsys, "egress", "--verify", status=1)


def test_a_ledger_that_is_of_no_use_is_said_and_verifies_nothing(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    run = consortium.run()
    run.round(run.epoch(), 2)
    ledger = consortium.home(SITE).ledger
    ledger.write_bytes(ledger.read_bytes().replace(b'"round":2', b'"round":3', 1))
    assert "not checked" in site_program(consortium, capsys, "egress", "run-1")
    assert "ledger entry" in site_program(consortium, capsys, "egress", "--verify", status=1)
    assert "--round belongs to a run" in site_program(consortium, capsys, "egress", "--round", "2", status=2)


def test_a_trainer_splits_once_and_for_ever(training: Consortium) -> None:
    cohort = load_cohort(training.data / SITE, TASK.contract)
    sides = [Trainer(TASK, cohort, salt=SALT, held_out_fraction=HELD_OUT, entropy=bytes) for _ in range(2)]
    first, second = (each.sides for each in sides)
    assert first.patients == cohort.size
    assert (first.validation.ids, first.test.ids) == (second.validation.ids, second.test.ids)
