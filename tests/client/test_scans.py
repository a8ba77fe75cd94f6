"""Image patients in the trainer: one bounded contribution from all patches and sessions, drawn without regard to anybody else."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_folders import right_session
from image_plans import TINY_PAIRS, plan_of_images
from ms_tables import Tables
from numpy.typing import NDArray
from phantom_sites import SMALL, write_hospital

from client.engines import sum_of
from client.errors import Refused
from client.job import Job
from client.plan_model import model_of
from client.release import Bound
from client.scans import AT_ONCE, Drawn, ScanEncoder
from client.sides import Side, Split
from client.trainer import Trainer
from consortium.plan import Plan
from server.pooled import initial_model
from tasks.cohorts import admitted, known_patients, open_cohort, usable_scans
from tasks.errors import DataError
from tasks.imaging.phantoms import PhantomSite, write_site
from tasks.lesion_seg.task import TASK
from tasks.models import split_parameters
from tasks.new_lesions.task import TASK as NEW

SALT = bytes(16)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospital(tmp_path_factory.mktemp("hospital"), "one", AT_ONCE + 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of_images("privacy=epsilon8")


def training_side(folder: Path) -> Side:
    return Split(open_cohort(TASK, folder), salt=SALT, held_out_fraction=0.0, at_most=TASK.sessions).sides.training


def job_of(plan: Plan, number: int = 1) -> Job:
    return Job(plan, plan.sites[0], number, "train", np.ascontiguousarray(initial_model(plan), dtype="<f4").tobytes())


def drawn(plan: Plan, side: Side, cache: Path, number: int = 1) -> Drawn:
    return ScanEncoder(TASK, cache).training(job_of(plan, number), side)


def clipped_sum(plan: Plan, patients: Drawn) -> NDArray[np.int64]:
    built = model_of(TASK, plan, "loop")
    weights = np.frombuffer(job_of(plan).model, "<f4")
    return sum_of(built.engine, split_parameters(built.model, weights), patients.parts(), Bound(plan.privacy.clip, 20))


def trainer_of(folder: Path, cache: Path) -> Trainer:
    calls = iter(range(10**9))
    return Trainer(
        TASK,
        open_cohort(TASK, folder),
        salt=SALT,
        held_out_fraction=0.4,
        entropy=lambda size: (next(calls) % 251).to_bytes(1, "big") * size,
        cache=cache,
    )


def test_a_patients_contribution_is_the_same_whoever_else_is_there(plan: Plan, hospital: Path, cache: Path) -> None:
    everybody = drawn(plan, training_side(hospital), cache)
    alone = [clipped_sum(plan, everybody.chosen(np.array([at]))) for at in range(len(everybody))]
    assert np.array_equal(clipped_sum(plan, everybody), np.sum(alone, axis=0))
    others = clipped_sum(plan, everybody.chosen(np.arange(1, len(everybody))))
    assert np.array_equal(others, np.sum(alone[1:], axis=0))


def test_all_patches_and_sessions_of_a_patient_are_within_one_bound(plan: Plan, hospital: Path, cache: Path) -> None:
    everybody, bound = drawn(plan, training_side(hospital), cache), Bound(0.01, 20)
    small = replace(plan, privacy=replace(plan.privacy, clip=bound.norm))
    assert max(len(sessions) for sessions in everybody.entries) == 2
    for at in range(len(everybody)):
        found = clipped_sum(small, everybody.chosen(np.array([at]))) * bound.step
        assert 0.009 < np.linalg.norm(found) <= bound.norm + np.sqrt(found.size) * bound.step / 2  # half a step of each coordinate


def test_all_pairs_of_a_patient_are_within_one_bound_and_the_last_ones_count(tmp_path: Path) -> None:
    days = {"P001": (0, 300, 600, 900), "P002": (0, 300), "P003": (0,)}
    write_site(tmp_path, PhantomSite("one", (SMALL,), new_per_year=15.0), days, seed=2)
    plan, bound = plan_of_images("privacy=epsilon8", tiny=TINY_PAIRS), Bound(0.01, 20)
    plan = replace(plan, privacy=replace(plan.privacy, clip=bound.norm))
    cohort = open_cohort(NEW, tmp_path / "one")
    assert cohort.patient_ids == ("P001", "P001", "P001", "P002")
    side = Split(cohort, salt=SALT, held_out_fraction=0.0, at_most=2).sides.training
    assert [scan.session for scan in side.scans] == ["03", "04", "02"]
    everybody = ScanEncoder(NEW, tmp_path / "cache").training(job_of(plan), side)
    assert [len(pairs) for pairs in everybody.entries] == [2, 1]
    built = model_of(NEW, plan, "loop")
    weights = np.frombuffer(job_of(plan).model, "<f4")
    for at in range(2):
        parts = everybody.chosen(np.array([at])).parts()
        found = sum_of(built.engine, split_parameters(built.model, weights), parts, Bound(plan.privacy.clip, 20)) * bound.step
        assert 0.009 < np.linalg.norm(found) <= bound.norm + np.sqrt(found.size) * bound.step / 2


def test_patches_depend_on_round_step_and_patient_alone(plan: Plan, hospital: Path, cache: Path) -> None:
    side = training_side(hospital)
    first, again, later = (drawn(plan, side, cache, number) for number in (1, 1, 2))

    def patches(patients: Drawn) -> list[bytes]:
        return [row.numpy().tobytes() for part in patients.parts() for row in part.inputs]

    assert patches(first) == patches(again)
    assert len(set(patches(first)) | set(patches(later)) | set(patches(first.step(1)))) == 3 * len(first)
    assert patches(first.chosen(np.array([2, 4]))) == [patches(first)[2], patches(first)[4]]


def test_no_more_patients_are_in_memory_than_are_computed_together(plan: Plan, hospital: Path, cache: Path) -> None:
    sizes = [len(part) for part in drawn(plan, training_side(hospital), cache).parts()]
    assert sizes == [AT_ONCE, 2]


def test_a_session_that_cannot_be_prepared_takes_nobody_else_along(plan: Plan, tmp_path: Path) -> None:
    folder = write_hospital(tmp_path, "one", 3)
    whole = drawn(plan, training_side(folder), tmp_path / "a")
    broken = next(folder.glob("sub-P001/ses-*/anat/*FLAIR.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:-100])
    left = drawn(plan, training_side(folder), tmp_path / "b")
    assert [len(sessions) for sessions in left.entries] == [0, 1, 2]
    assert np.array_equal(clipped_sum(plan, left), clipped_sum(plan, whole.chosen(np.array([1, 2]))))
    assert not clipped_sum(plan, left.chosen(np.array([0]))).any()


def test_a_site_where_nothing_can_be_prepared_answers_like_any_other(plan: Plan, tmp_path: Path) -> None:
    """A refusal would tell whether one patient has such an image."""
    folder = write_hospital(tmp_path, "one", 2)
    for path in folder.glob("sub-*/ses-*/anat/*FLAIR.nii.gz"):
        path.write_bytes(path.read_bytes()[:-100])
    nobody = drawn(plan, training_side(folder), tmp_path / "cache")
    assert not clipped_sum(plan, nobody).any()
    result = trainer_of(folder, tmp_path / "cache").run(job_of(plan))
    assert result.body.shape == (plan.n_parameters,)
    assert np.any(result.body)  # noise


def test_a_program_without_a_folder_for_prepared_scans_trains_on_none(plan: Plan, hospital: Path) -> None:
    with pytest.raises(Refused, match="no folder for prepared ones"):
        ScanEncoder(TASK, None).training(job_of(plan), training_side(hospital))


def test_scans_are_prepared_once_for_a_plan(plan: Plan, hospital: Path, tmp_path: Path) -> None:
    encoder, side = ScanEncoder(TASK, tmp_path / "cache"), training_side(hospital)
    first = encoder.training(job_of(plan), side)
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()  # would be made anew if anybody asked the cache again
    assert encoder.training(job_of(plan, 2), side).entries == first.entries
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_prepared_scans_that_somebody_deleted_are_made_anew(plan: Plan, hospital: Path, tmp_path: Path) -> None:
    encoder, side = ScanEncoder(TASK, tmp_path / "cache"), training_side(hospital)
    first = clipped_sum(plan, encoder.training(job_of(plan), side))
    shutil.rmtree(tmp_path / "cache")
    assert np.array_equal(clipped_sum(plan, encoder.training(job_of(plan), side)), first)


def test_whoever_took_consent_back_is_in_no_computation(hospital: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(hospital)
    assert open_cohort(TASK, folder).size == AT_ONCE + 2
    (folder / "withdrawn.txt").write_text("P003\n")
    assert "P003" not in open_cohort(TASK, folder).patient_ids
    assert open_cohort(TASK, folder).size == AT_ONCE + 1


def test_a_withdrawal_hands_nobodys_folder_to_another(tmp_path: Path) -> None:
    """The table says that the folder named like one patient is another's; when that one withdraws it is nobody's."""
    tables = Tables()
    of = tables.cells["mri"]["patient_id"]
    included = [name for name, state in admitted(tables.write(tmp_path / "first")).states.items() if state == "included"]
    owner = next(name for name in included if name in of)
    namesake = next(name for name in included if name != owner)
    for row in range(2, len(of) + 2):
        tables.put("mri", row, bids_sub="", bids_ses="")
    row = of.index(owner) + 2
    folder = tables.put("mri", row, bids_sub=namesake, bids_ses="01").write(tmp_path / "data")
    right_session(folder / "images", namesake, day=int(tables.get("mri", row, "day")))
    assert {scan.patient for scan in usable_scans(folder)[0]} == {owner}
    (folder / "withdrawn.txt").write_text(f"{owner}\n")
    with pytest.raises(DataError, match="no session of images can be used"):
        usable_scans(folder)
    assert owner in known_patients(TASK, folder)


def test_a_whole_round_leaves_the_trainer_noised_and_of_the_plans_size(plan: Plan, hospital: Path, cache: Path) -> None:
    trainer = trainer_of(hospital, cache)
    result = trainer.run(job_of(plan))
    assert result.body.shape == (plan.n_parameters,)
    assert np.isfinite(result.body).all()
    evaluated = trainer.run(replace(job_of(plan), purpose="evaluate", round_number=2))
    assert evaluated.header.shape == (2 * plan.histogram_bins,)
