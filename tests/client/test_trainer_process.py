"""The trainer's process may die, hang or be stopped: the guard names it and goes on; and no key is ever inside it."""

import base64
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from guards_in_process import SITES, TASK_NAME, Consortium, answered, code_of

from client.daemon import data_source
from client.errors import Refused, TrainerError, place_of
from client.job import Job, Population
from client.patients import DataSource
from client.trainer_process import TrainerProcess

SITE = SITES[0]


@pytest.fixture
def process(consortium: Consortium) -> Iterator[TrainerProcess]:
    trainer = TrainerProcess(
        data_source(consortium.roster, folder=consortium.data / SITE, tasks=(TASK_NAME,), key=bytes(32)), lambda line: None
    )
    consortium.train[SITE] = trainer
    trainer.start()
    yield trainer
    trainer.stop()


def child(process: TrainerProcess) -> int:
    assert process._child is not None
    return int(process._child[0].pid)


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def memory_of(pid: int) -> Iterator[bytes]:
    """What the process can write, mapping by mapping."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if mode.startswith("rw") and end - start < 2**28:
                try:
                    memory.seek(start)
                    yield memory.read(end - start)
                except OSError:
                    continue


def test_the_child_knows_no_key_and_holds_no_file_of_the_guard(consortium: Consortium, process: TrainerProcess) -> None:
    run = consortium.run()
    assert answered(run.update(run.open_round(run.epoch(), 2), SITE))
    home, pid = consortium.home(SITE), child(process)
    pem = home.identity.read_text().splitlines()[1]
    seed = base64.b64decode(pem)[-32:]
    environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    assert str(home.root).encode() not in environment
    assert seed.hex().encode() not in environment
    files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in files if name.startswith(str(home.root))]
    found = [secret for part in memory_of(pid) for secret in (seed, pem.encode()) if secret in part]
    assert found == []
    assert any(b"cis_conversion" in part for part in memory_of(pid)), "the scan sees what the child does hold"


def test_a_killed_child_costs_its_round_and_is_replaced_at_the_next(consortium: Consortium, process: TrainerProcess) -> None:
    first, population = child(process), process.population

    def last_words(task: str, deadline_s: float) -> Population:
        """The child says whose data it has, and nothing more before it dies."""
        found = population(task, deadline_s)
        if child(process) == first:
            os.kill(first, signal.SIGSTOP)
            threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
        return found

    process.population = last_words  # type: ignore[method-assign]
    run = consortium.run()
    epoch = run.epoch()
    phase = run.open_round(epoch, 1)
    assert code_of(run.update(phase, SITE)) == "TRAINING"
    assert consortium.spends() == 1
    assert run.votes(run.upload(phase, lost=[SITE]).close()).close().survivors == SITES[1:]
    assert answered(run.update(run.open_round(epoch, 2), SITE))
    assert child(process) != first
    assert gone(first)


def test_a_child_that_hangs_is_ended_at_the_deadline(consortium: Consortium, process: TrainerProcess) -> None:
    """Stopped while it reads: neither a full pipe nor a silent child holds the guard."""
    plan = consortium.plan()
    run = consortium.run(replace(plan, deadlines=replace(plan.deadlines, update_s=4)))
    epoch, first = run.epoch(), child(process)
    os.kill(first, signal.SIGSTOP)
    assert code_of(run.update(run.open_round(epoch, 1), SITE)) == "TRAINING"
    assert gone(first)
    assert answered(run.update(run.open_round(epoch, 2), SITE))


def test_a_child_that_hangs_does_not_hold_a_large_job_either(process: TrainerProcess, consortium: Consortium) -> None:
    first = child(process)
    os.kill(first, signal.SIGSTOP)
    job = Job(consortium.plan(), SITE, 1, "train", bytes(4 * 2**20))  # more than a pipe holds
    with pytest.raises(TrainerError, match="within 1 s"):
        process(job, 1.0)
    assert gone(first)


def test_an_error_in_the_middle_of_an_answer_ends_the_child_so_that_no_rest_is_read_as_the_next(
    process: TrainerProcess, consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(consortium.plan(), SITE, 1, "train", bytes(4 * consortium.plan().model_size))
    first = child(process)

    def no_memory(*_: object) -> bytes:
        raise MemoryError

    assert process._child is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(process._child[1]), "recv_bytes", no_memory)
        with pytest.raises(MemoryError):
            process(job, 20.0)
    assert gone(first)
    assert process(job, 20.0).body.shape == (consortium.plan().n_parameters,)


def test_a_refusal_crosses_from_the_child_whole(process: TrainerProcess, consortium: Consortium) -> None:
    with pytest.raises(Refused) as refusal:
        process(Job(consortium.plan(statistics=99), SITE, 1, "describe", consortium.run().model()), 30.0)
    assert refusal.value.code == "TASK"
    assert "99" in refusal.value.detail


def test_data_that_cannot_be_read_is_named_by_rule_and_not_by_value(consortium: Consortium, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "mapping.yaml").write_text("task: cis_conversion\nversion: 1\nCANARY: 4711\n")
    trainer = TrainerProcess(DataSource(folder, (TASK_NAME,), bytes(16), 0.3), lambda line: None)
    with pytest.raises(TrainerError, match=r"mapping\.yaml"):
        trainer.start()
    trainer.stop()


def test_the_place_of_an_error_has_no_word_of_it() -> None:
    with pytest.raises(ValueError, match="Canary") as raised:
        int("patient Canary")
    assert "Canary" not in place_of(raised.value)
    assert place_of(raised.value).startswith("ValueError at test_trainer_process.py:")
