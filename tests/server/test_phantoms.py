"""The model on invented patients in a run's page: bound to the model, kept, made anew where it does not fit, never in the way."""

import re
from pathlib import Path

import numpy as np
import pytest
from image_runs import checkpoint, finding_model, run_with

from server.cli import main as lead
from server.folder import RunFolder
from server.phantoms import Trial, Untried, known_trial, tried
from server.report import write_report
from server.report_phantoms import TITLE, phantom_section, trial_words

pytestmark = pytest.mark.slow

PICTURE = "data:image/png;base64,"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = run_with(tmp_path_factory.mktemp("runs") / "run")
    checkpoint(folder, finding_model(folder.plan()))
    return folder


@pytest.fixture(scope="module")
def trial(run: RunFolder) -> Trial:
    steps: list[tuple[int, int]] = []
    found = tried(run, run.plan(), lambda at, of: steps.append((at, of)))
    assert isinstance(found, Trial)
    assert steps == [(number, 16) for number in range(1, 17)]
    return found


def copy_of(run: RunFolder, path: Path, *, patients: int = 10) -> RunFolder:
    """Another run of the same model: other hospitals' sizes, another plan, what `run` has kept."""
    other = run_with(path, patients=patients, model=finding_model(run.plan()), seed=5)
    other.phantoms.write_bytes(run.phantoms.read_bytes())
    return other


def test_every_hospital_shows_the_same_loads_on_a_scanner_of_its_own(trial: Trial) -> None:
    by_hospital = {
        scanner: [one for one in trial.sessions if one.scanner == scanner] for one in trial.sessions if (scanner := one.scanner)
    }
    assert [len(own) for own in by_hospital.values()] == [4, 4, 4, 4]
    for own in by_hospital.values():
        loads = [one.scores.true_ml for one in own]
        assert loads == sorted(loads)
        assert loads[0] < 2 < loads[-1]
    assert all(one.found.drawn and len(one.found.pictures) == 1 for one in trial.sessions)
    assert any(one.scores.predicted_ml > 0 for one in trial.sessions)


def test_a_second_report_tries_nothing_and_shows_the_same(run: RunFolder, trial: Trial) -> None:
    def never(_at: int, _of: int) -> None:
        raise AssertionError("tried again")

    assert tried(run, run.plan(), never) == known_trial(run, run.plan()) == trial


def test_the_section_follows_from_the_model_and_not_from_what_the_sites_hold(run: RunFolder, trial: Trial, tmp_path: Path) -> None:
    other = run_with(tmp_path / "other", patients=30, model=finding_model(run.plan()), seed=9)
    assert other.plan().digest != run.plan().digest
    assert known_trial(other, other.plan()) is None
    again = tried(other, other.plan())
    assert again == trial
    assert other.phantoms.read_bytes() == run.phantoms.read_bytes()
    section = phantom_section(other.plan(), again)
    assert section == phantom_section(run.plan(), trial)
    assert section.count(PICTURE) == 16


def test_of_another_model_nothing_kept_is_shown(run: RunFolder, trial: Trial, tmp_path: Path) -> None:
    other = copy_of(run, tmp_path / "run")
    assert known_trial(other, other.plan()) == trial
    checkpoint(other, finding_model(other.plan(), bias=2.5), number=2)
    assert known_trial(other, other.plan()) is None


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 1.0])
def test_what_is_damaged_is_not_shown(run: RunFolder, trial: Trial, tmp_path: Path, place: float) -> None:
    other = copy_of(run, tmp_path / "run")
    whole = other.phantoms.read_bytes()
    at = min(int(place * len(whole)), len(whole) - 1)
    for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole + b"\n", b"{}\n[]\n"):
        other.phantoms.write_bytes(damaged)
        assert known_trial(other, other.plan()) is None
    assert known_trial(run, run.plan()) == trial


def test_what_is_damaged_is_made_anew(run: RunFolder, trial: Trial, tmp_path: Path) -> None:
    other = copy_of(run, tmp_path / "run")
    other.phantoms.write_bytes(b"not a trial")
    assert tried(other, other.plan()) == trial
    assert other.phantoms.read_bytes() == run.phantoms.read_bytes()


def test_the_page_shows_it_beside_the_pooled_figures(run: RunFolder, trial: Trial, tmp_path: Path) -> None:
    other = copy_of(run, tmp_path / "run")
    assert lead(["report", str(other.path)]) == 0
    page = other.report.read_text()
    assert page.count(PICTURE) == 16
    for words in (
        TITLE, "It is no clinical evidence", "No picture of a patient is in this page", "By lesion load", "Single lesions by size",
        "Bland-Altman", "Dice by lesion load, test patients", "Lesion volume: limits of agreement, test patients",
        "No figure of one hospital's patients ever reaches the hub".replace("'", "&#x27;"), "wardround-site segment",
    ):  # fmt: skip
        assert words in page
    assert not re.search(r"https?:|url\(|@import|<script", page)
    assert lead(["report", str(other.path), "--no-phantoms", "--out", str(tmp_path / "plain.html")]) == 0
    assert PICTURE not in (tmp_path / "plain.html").read_text()
    assert TITLE not in (tmp_path / "plain.html").read_text()


def test_a_page_made_without_trying_says_how_to(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run")
    checkpoint(run, finding_model(run.plan()))
    page = write_report(run.path).read_text()
    assert TITLE in page
    assert "was not tried on invented patients yet" in page
    assert not run.phantoms.exists()


def test_a_run_without_a_model_or_with_one_that_does_not_fit_still_has_its_page(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run")
    found = tried(run, run.plan())
    assert isinstance(found, Untried)
    assert "no usable checkpoint" in found.why
    assert lead(["report", str(run.path)]) == 0
    assert "could not be tried on invented patients" in run.report.read_text()
    assert "not tried" in trial_words(found)


def test_a_network_that_fails_is_said_and_costs_no_report(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.lesion_seg.task import LesionSeg

    def fails(*_words: object) -> None:
        raise RuntimeError("not enough memory: <you> tried to allocate much")

    other = run_with(tmp_path / "run", model=finding_model(run.plan()))
    monkeypatch.setattr(LesionSeg, "build_model", fails)
    assert isinstance(found := tried(other, other.plan()), Untried)
    assert "&lt;you&gt; tried to allocate" in phantom_section(other.plan(), found)
    assert not other.phantoms.exists()


def test_a_failure_without_words_is_said_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.lesion_seg.task import LesionSeg

    def fails(*_words: object) -> None:
        raise MemoryError

    run = run_with(tmp_path / "run")
    checkpoint(run, finding_model(run.plan()))
    monkeypatch.setattr(LesionSeg, "build_model", fails)
    assert tried(run, run.plan()) == Untried("MemoryError")


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(run: RunFolder, trial: Trial, tmp_path: Path) -> None:
    other = run_with(tmp_path / "run", model=finding_model(run.plan()))
    other.phantoms.mkdir()  # renaming a file over a folder fails whoever one is
    assert tried(other, other.plan()) == trial
    assert np.all([one.scores.dice >= 0 for one in trial.sessions])
