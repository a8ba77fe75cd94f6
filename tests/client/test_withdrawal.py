"""Whoever takes consent back is in no later computation, without a restart; the ledger says so, and names and counts nobody."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from guards_in_process import SITES, TASK_NAME, Consortium, Run, answered, code_of

from client.cli import main
from client.cli_withdraw import add_withdrawn
from client.daemon import InlineTrain, data_source
from client.errors import SiteError, TrainerError
from client.job import Job, Population
from client.patients import Patients, population_of
from client.populations import Populations, population_key
from privacy import ledger as ledger_module
from privacy.entries import PopulationChanged
from privacy.ledger import read_entries
from privacy.verify import verify_ledger
from tasks.cohorts import known_patients, open_cohort
from tasks.errors import DataError
from tasks.registry import find_task
from tasks.withdrawals import WITHDRAWN_FILE, read_withdrawn

SITE = SITES[0]
KEY = bytes(range(32))


def changes(consortium: Consortium) -> list[PopulationChanged]:
    entries = read_entries(consortium.home(SITE).ledger.read_bytes())[0]
    return [entry.content for entry in entries if isinstance(entry.content, PopulationChanged)]


def folder(consortium: Consortium) -> Path:
    return consortium.data / SITE


def patients(consortium: Consortium) -> tuple[str, ...]:
    return open_cohort(find_task(TASK_NAME), folder(consortium)).patient_ids


def withdraw(consortium: Consortium, *names: str, status: int = 0) -> None:
    for name in names:
        assert main(["--home", str(consortium.home(SITE).root), "data", "withdraw", name]) == status


@pytest.fixture(autouse=True)
def clean(consortium: Consortium) -> Iterator[None]:
    """The hospitals' folders are shared by the tests of a session."""
    yield
    (folder(consortium) / WITHDRAWN_FILE).unlink(missing_ok=True)


def update(run: Run, number: int, epoch: object) -> bytes:
    return answered(run.update(run.open_round(epoch, number), SITE))  # type: ignore[arg-type]


def test_a_withdrawal_between_two_rounds_counts_from_the_next_one_on(training: Consortium) -> None:
    run = training.run()
    epoch = run.epoch()
    update(run, 1, epoch)
    trained = training.train[SITE]
    assert isinstance(trained, InlineTrain)
    before = trained._patients.trainer(TASK_NAME)
    name = patients(training)[3]
    withdraw(training, name)
    update(run, 2, epoch)
    after = trained._patients.trainer(TASK_NAME)
    assert after.sides.patients == before.sides.patients - 1
    assert [change.how for change in changes(training)] == [("first",), ("withdrawn",)]
    update(run, 3, epoch)
    assert len(changes(training)) == 2, "nothing changed since"


def test_the_change_is_on_disk_before_the_spend_of_the_round_that_has_it(training: Consortium) -> None:
    run = training.run()
    epoch = run.epoch()
    update(run, 1, epoch)
    withdraw(training, patients(training)[0])
    update(run, 2, epoch)
    kinds = [entry.kind for entry in read_entries(training.home(SITE).ledger.read_bytes())[0]]
    assert kinds == ["genesis", "plan-approved", "population-changed", "spend", "egress", "population-changed", "spend", "egress"]


def test_the_ledger_verifies_says_what_happened_and_holds_neither_a_name_nor_a_number(training: Consortium) -> None:
    run = training.run()
    epoch = run.epoch()
    update(run, 1, epoch)
    names = patients(training)
    withdraw(training, names[0], names[1])
    update(run, 2, epoch)
    data = training.home(SITE).ledger.read_bytes()
    report = verify_ledger(data)
    assert report.ok
    assert [remark for remark in report.remarks if "took their consent back" in remark]
    assert not [name for name in names if f'"{name}"'.encode() in data]
    first, second = changes(training)
    assert set(vars(second)) == {"task", "before", "digest", "how"}
    assert second.before == first.digest


def test_a_ledger_without_one_of_the_changes_does_not_verify(training: Consortium) -> None:
    run = training.run()
    epoch = run.epoch()
    update(run, 1, epoch)
    withdraw(training, patients(training)[0])
    update(run, 2, epoch)
    lines = training.home(SITE).ledger.read_bytes().splitlines(keepends=True)
    cut = b"".join(line for line in lines if b'"how":["first"]' not in line)
    assert not verify_ledger(cut).ok


def test_a_full_disk_at_the_change_means_no_training_and_no_spend(training: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training.run()
    epoch = run.epoch()
    phase = run.open_round(epoch, 1)
    real = ledger_module._write_all

    def full(handle: int, data: bytes, at: int) -> None:
        if b"population-changed" in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, data, at)

    monkeypatch.setattr(ledger_module, "_write_all", full)
    assert code_of(run.update(phase, SITE)) == "LEDGER"
    assert training.spends() == 0
    monkeypatch.undo()
    assert answered(run.update(phase, SITE))


def test_after_a_crash_between_change_and_names_the_next_change_says_that_it_is_not_known(training: Consortium) -> None:
    """The entry stands, the file of keyed names is that of before: nothing is made up."""
    run = training.run()
    epoch = run.epoch()
    update(run, 1, epoch)
    kept = training.home(SITE).populations / f"{TASK_NAME}.json"
    old = kept.read_bytes()
    withdraw(training, patients(training)[0])
    update(run, 2, epoch)
    kept.write_bytes(old)
    withdraw(training, patients(training)[0])
    update(run, 3, epoch)
    assert [change.how for change in changes(training)] == [("first",), ("withdrawn",), ("unknown",)]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"p1,\n", b"p1\x00\n", b"p1\n\xef\xbb\xbfp2\n"])
def test_an_unreadable_list_stops_every_computation(training: Consortium, content: bytes) -> None:
    """Fail closed: nobody is trained on because a list could not be read."""
    run = training.run()
    epoch = run.epoch()
    (folder(training) / WITHDRAWN_FILE).write_bytes(content)
    assert code_of(run.update(run.open_round(epoch, 1), SITE)) == "TRAINING"
    assert training.spends() == 0
    (folder(training) / WITHDRAWN_FILE).unlink()
    assert answered(run.update(run.open_round(epoch, 2), SITE))


def test_a_job_for_other_patients_than_the_ledger_names_is_refused(training: Consortium) -> None:
    """The data changed after the guard asked: the round is lost, and nobody is in it who should not be."""
    train = training.train[SITE]
    plan = training.plan()
    train.population(TASK_NAME, 1.0)  # type: ignore[attr-defined]
    job = Job(plan, SITE, 1, "train", bytes(4 * plan.model_size), b"\x01" * 32)
    with pytest.raises(TrainerError, match="patients changed"):
        train(job, 10.0)


def test_nothing_that_was_made_of_the_old_patients_outlives_the_change(training: Consortium) -> None:
    """Encoded tables are kept between rounds: they must go too."""
    source = data_source(training.roster, folder=folder(training), tasks=(TASK_NAME,), key=KEY)
    held = Patients(source)
    old = held.trainer(TASK_NAME)
    assert held.trainer(TASK_NAME) is old
    withdraw(training, patients(training)[5])
    assert held.trainer(TASK_NAME) is not old


def test_how_the_patients_changed_is_told_from_keyed_names(consortium: Consortium, tmp_path: Path) -> None:
    consortium.guard(SITE)
    ledger, books, now = consortium.sites_open[SITE].ledger, Populations(tmp_path / "p"), consortium.sites_open[SITE]

    def record(*names: str, gone: tuple[str, ...] = ()) -> tuple[str, ...]:
        from datetime import UTC, datetime

        found = population_of(names, frozenset(gone), KEY)
        return books.record("cdp", found, ledger, datetime.fromtimestamp(now.now(), tz=UTC))

    assert record("a", "b", "c", "d") == ("first",)
    assert record("d", "c", "b", "a") == ()
    assert record("a", "b", "c", gone=("d",)) == ("withdrawn",)
    assert record("a", "b", gone=("d",)) == ("left",)
    assert record("b", "x", gone=("a", "d")) == ("joined", "withdrawn")
    (tmp_path / "p" / "cdp.json").write_text("{")
    assert record("b") == ("unknown",)
    assert stat.S_IMODE((tmp_path / "p" / "cdp.json").stat().st_mode) == 0o600


def test_a_digest_depends_on_the_patients_and_on_the_site_s_key_alone() -> None:
    found = population_of(("a", "b", "b"), frozenset(), KEY)
    assert found == population_of(("b", "a"), frozenset(), KEY)
    assert found.digest != population_of(("a", "b"), frozenset(), bytes(32)).digest
    assert found.digest != population_of(("a",), frozenset(), KEY).digest
    assert isinstance(found, Population)


def test_the_key_is_made_once_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "population.key"
    key = population_key(path)
    assert (len(key), population_key(path)) == (32, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(SiteError, match="5 bytes"):
        population_key(path)


def test_a_list_from_an_editor_that_marks_utf_8_withdraws_its_first_patient_too(training: Consortium) -> None:
    name = patients(training)[0]
    (folder(training) / WITHDRAWN_FILE).write_bytes(b"\xef\xbb\xbf" + name.encode() + b"\r\n")
    assert name not in patients(training)


def test_a_list_that_points_nowhere_is_not_taken_for_nobody(tmp_path: Path) -> None:
    (tmp_path / WITHDRAWN_FILE).symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="points to a file"):
        read_withdrawn(tmp_path)


def test_of_many_withdrawals_at_a_time_none_is_lost(tmp_path: Path) -> None:
    names = [f"P{at:03d}" for at in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_withdrawn(tmp_path, name), names))
    assert read_withdrawn(tmp_path) == set(names)


def test_a_patient_whom_no_computation_could_use_can_withdraw_all_the_same(training: Consortium) -> None:
    """Without a label today, perhaps with one tomorrow."""
    usable = set(patients(training))
    (unusable, *_) = sorted(known_patients(find_task(TASK_NAME), folder(training)) - usable)
    withdraw(training, unusable)
    assert read_withdrawn(folder(training)) == {unusable}


# -- the command -----------------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_list_for_its_owner_alone_and_may_be_repeated(
    training: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *others = patients(training)
    withdraw(training, second, first, second)
    path = folder(training) / WITHDRAWN_FILE
    assert path.read_text() == "".join(f"{name}\n" for name in sorted((first, second)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_withdrawn(folder(training)) == {first, second}
    shown = capsys.readouterr()
    assert not [name for name in others if f" {name}" in shown.out + shown.err]


def test_the_command_refuses_a_pseudonym_that_no_table_has(training: Consortium, capsys: pytest.CaptureFixture[str]) -> None:
    withdraw(training, "nobody", status=1)
    assert "no table has this pseudonym" in capsys.readouterr().err
    assert not (folder(training) / WITHDRAWN_FILE).exists()
    home = str(training.home(SITE).root)
    assert main(["--home", home, "data", "withdraw", "nobody", "--unknown", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] is True
    assert main(["--home", home, "data", "withdraw", "a\tb"]) == 2


def test_when_everybody_withdrew_nothing_is_computed(training: Consortium) -> None:
    path = folder(training) / WITHDRAWN_FILE
    path.write_text("".join(f"{name}\n" for name in patients(training)))
    with pytest.raises(DataError, match="every patient"):
        open_cohort(find_task(TASK_NAME), folder(training))


def test_patients_are_the_only_thing_that_a_withdrawal_changes(training: Consortium) -> None:
    task = find_task(TASK_NAME)
    whole = open_cohort(task, folder(training))
    gone = {whole.patient_ids[2], whole.patient_ids[7]}
    (folder(training) / WITHDRAWN_FILE).write_text("".join(f"{name}\n" for name in gone))
    rest = open_cohort(task, folder(training))
    keep = [at for at, name in enumerate(whole.patient_ids) if name not in gone]
    assert rest.patient_ids == tuple(whole.patient_ids[at] for at in keep)
    assert np.array_equal(rest.values, whole.values[keep], equal_nan=True)
