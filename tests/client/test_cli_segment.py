"""`segment` and `data prepare` on phantom hospitals: real files, real programs' entry points, nothing taken for what it is not."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from image_plans import TINY_PAIRS, plan_of_images
from phantom_sites import write_hospital

from client.cli import main
from client.home import Home
from consortium.canonical import encode_json
from consortium.documents import to_document
from consortium.plan import Plan
from secagg.model import model_digest
from server.pooled import initial_model
from tasks.errors import MappingError
from tasks.exported import FORMAT, named_tensors
from tasks.imaging.measures_session import measure_store
from tasks.imaging.store import open_store
from tasks.imaging.task import ImageTask
from tasks.imaging.volume import read_mask, read_volume
from tasks.lesion_seg.task import TASK
from tasks.new_lesions.task import TASK as NEW

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospital(tmp_path_factory.mktemp("hospital"), "one", 3)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of_images("privacy=none")


@pytest.fixture(scope="module")
def model(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the task lesion_seg."""
    return exported(tmp_path_factory.mktemp("exported") / "model", plan, TASK)


def exported(folder: Path, plan: Plan, task: ImageTask) -> Path:
    """A network by lot that finds lesions wherever its last bias says so: what is written matters, not how good it is."""
    folder.mkdir()
    weights = np.array(initial_model(plan))
    network = task.build_model("unet3d", {"widths": "4-8"}, plan.task.columns)
    assert [name for name, _ in network.named_parameters()][-2:] == ["output.weight", "output.bias"]
    weights[-5:] = [2.0, -1.0, 2.0, -1.0, 3.0]
    document = {
        "format": FORMAT,
        "task": to_document(plan.task),
        "model": to_document(plan.model),
        "model_digest": model_digest([weights.astype("<f4").tobytes()]).hex(),
        "run_id": "run-1",
        "privacy": to_document(plan.privacy),
        "privacy_in_words": "NOT PRIVATE",
        "evaluation": {"sites": 3, "noise_std": 0.0, "figures": {}, "histogram": []},
    }
    (folder / "model.json").write_bytes(encode_json(document))
    np.savez(folder / "weights.npz", **named_tensors(plan.model, np.zeros(0, np.float32), weights))
    return folder


def segment(*words: object) -> int:
    return main(["--home", "/nonexistent", "segment", *map(str, words)])


def test_each_session_gets_a_mask_on_the_grid_of_its_own_image(model: Path, hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    assert segment(model, "--folder", hospital, "--out", out, "--html") == 0
    page = (out / "segmented.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "P003, session 02, day 400" in page
    rows = list(csv.DictReader((out / "segmented.csv").open()))
    assert [(row["patient"], row["session"]) for row in rows] == [("P001", "01"), ("P002", "01"), ("P003", "01"), ("P003", "02")]
    assert {row["scanner"] for row in rows} == {"Philips Gamma 3T"}
    for words in ("By scanner", "Philips Gamma 3T", "By lesion load", "Single lesions by size"):
        assert words in page
    for row, scan in zip(rows, open_store(hospital).scans, strict=True):
        found = next((out / f"sub-{scan.subject}" / f"ses-{scan.session}").rglob("*_desc-predicted_label-lesion_mask.nii.gz"))
        mask, image = read_mask(found), read_volume(scan.images["FLAIR"])
        assert mask.shape == image.shape
        assert np.allclose(mask.affine, image.affine)
        voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert float(row["lesion_ml"]) == pytest.approx(mask.data.sum() * voxel_ml, rel=1e-3)
        assert scan.mask is not None
        drawn = read_mask(scan.mask).data > 0
        both = (drawn & (mask.data > 0)).sum()
        assert float(row["dice"]) == pytest.approx(2 * both / (drawn.sum() + mask.data.sum()), abs=1e-4)
    assert any(float(row["lesion_ml"]) > 0 for row in rows)
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"


@pytest.mark.parametrize("axes", ["PSR", "LAS", "SRA"])
def test_a_mask_has_the_axes_of_the_image_whatever_they_are(model: Path, hospital: Path, tmp_path: Path, axes: str) -> None:
    """Sagittal and flipped files keep their voxels: tools that go by voxel would refuse, or mix up, anything else."""
    site = tmp_path / "site"
    shutil.copytree(hospital, site)
    path = next(site.glob("sub-P001/ses-*/anat/*FLAIR.nii.gz"))
    plain = nib.load(path)
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(axes))
    turned = plain.as_reoriented(turn)
    nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine, turned.header), path)
    for name, folder in (("before", hospital), ("after", site)):
        assert segment(model, "--folder", folder, "--out", tmp_path / name, "--patient", "P001") == 0
    before, after = (nib.load(next((tmp_path / name).rglob("*mask.nii.gz"))) for name in ("before", "after"))
    assert after.shape == turned.shape
    assert np.allclose(after.affine, turned.affine)
    assert np.asarray(after.dataobj).sum() > 0
    same = after.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(after.affine), nib.io_orientation(before.affine)))
    assert np.array_equal(np.asarray(same.dataobj), np.asarray(before.dataobj))


def test_names_of_patients_are_for_their_owner_alone(model: Path, hospital: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert segment(model, "--folder", hospital, "--out", tmp_path / "masks", "--patient", "P001") == 0
    finally:
        os.umask(before)
    folders = [tmp_path / "masks", *(path for path in (tmp_path / "masks").rglob("*") if path.is_dir())]
    assert len(folders) == 4
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_drawn_mask_that_cannot_be_used_costs_dice_and_not_the_session(model: Path, hospital: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(hospital, site)
    path = next(path for path in site.glob("derivatives/**/sub-P001*mask.nii.gz"))
    path.write_bytes(path.read_bytes()[:-50])
    assert segment(model, "--folder", site, "--out", tmp_path / "masks", "--patient", "P001") == 0
    row = next(csv.DictReader((tmp_path / "masks" / "segmented.csv").open()))
    assert (row["dice"], row["reason"]) == ("", "")
    assert float(row["lesion_ml"]) > 0


def test_a_full_disk_breaks_off_with_what_is_finished_kept(model: Path, hospital: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from client.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.exit(main(sys.argv[1:]))"
    )
    words = ["--home", "/nonexistent", "segment", str(model), "--folder", str(hospital), "--out", str(tmp_path / "masks")]
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    assert found.returncode == 1
    assert "could not be written to: File too large" in found.stderr
    assert "P00" not in found.stderr
    assert (tmp_path / "masks" / "segmented.csv").read_text().startswith("patient,session")


def test_a_map_that_names_a_models_masks_as_drawn_ones_is_refused(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(
        'format: wardround/images\nformat_version: 1\nscans: "{patient}"\nimages:\n  FLAIR: FLAIR.nii.gz\n'
        'mask: "/masks/sub-{patient}_desc-predicted_label-lesion_mask.nii.gz"\n'
    )
    with pytest.raises(MappingError, match="a model drew them"):
        open_store(tmp_path)


def test_what_a_model_drew_is_never_taken_for_a_drawn_mask(model: Path, hospital: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(hospital, site)
    shutil.rmtree(site / "derivatives")
    assert segment(model, "--folder", site, "--out", site / "derivatives" / "wardround") == 0
    store = open_store(site)
    assert [scan.mask for scan in store.scans] == [None] * 4
    assert not [each for each in measure_store(store) if each.lesions is not None]


def test_a_session_that_cannot_be_used_is_told_and_stops_no_other(
    model: Path, hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    shutil.copytree(hospital, site)
    broken = next(site.glob("sub-P002/ses-*/anat/*FLAIR.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:-100])
    assert segment(model, "--folder", site, "--out", tmp_path / "masks", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["by_scanner"]] == ["Philips Gamma 3T"]
    sizes = [[size["lesions"] for size in row["lesions_by_size"]] for row in (told["all"], *told["by_load"])]
    assert sizes[0] == [sum(column) for column in zip(*sizes[1:], strict=True)]
    assert (told["sessions"], told["segmented"]) == (4, 3)
    assert told["not used"] == [reason for reason in told["not used"] if reason.startswith("damaged: ")]
    rows = {(row["patient"], row["session"]): row for row in csv.DictReader((tmp_path / "masks" / "segmented.csv").open())}
    assert rows["P002", "01"]["reason"].startswith("damaged: ")
    assert rows["P002", "01"]["lesion_ml"] == ""


def test_one_patient_alone_and_nobody_who_is_not_there(
    model: Path, hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(model, "--folder", hospital, "--out", tmp_path / "a", "--patient", "P003") == 0
    assert {row["patient"] for row in csv.DictReader((tmp_path / "a" / "segmented.csv").open())} == {"P003"}
    assert segment(model, "--folder", hospital, "--out", tmp_path / "b", "--patient", "P777") == 1
    said = capsys.readouterr().err
    assert "1 of 1 patients have no session of images" in said
    assert "P777" not in said
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_there_is_not_written_to(
    model: Path, hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(model, "--folder", hospital, "--out", tmp_path) == 2
    assert "is there already: name a new folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# -- pairs of sessions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = plan_of_images("privacy=none", tiny=TINY_PAIRS)
    return exported(tmp_path_factory.mktemp("exported") / "pairs", plan, NEW)


@pytest.fixture(scope="module")
def pairs_hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """P002 and P004 have two sessions, the others one."""
    return write_hospital(tmp_path_factory.mktemp("hospital"), "two", 4, second_every=2, new_per_year=15.0)


def test_a_model_of_new_lesions_reads_pairs_and_names_both_sessions(
    pairs_model: Path, pairs_hospital: Path, tmp_path: Path
) -> None:
    out = tmp_path / "masks"
    assert segment(pairs_model, "--folder", pairs_hospital, "--out", out, "--html") == 0
    page = (out / "segmented.html").read_text()
    assert "P002, session 02, day 400, new since session 01" in page
    rows = list(csv.DictReader((out / "segmented.csv").open()))
    assert [(row["patient"], row["session"], row["since"]) for row in rows] == [("P002", "02", "01"), ("P004", "02", "01")]
    later = [scan for scan in open_store(pairs_hospital).scans if scan.session == "02"]
    for row, scan in zip(rows, later, strict=True):
        (found,) = (out / f"sub-{scan.subject}").rglob("*.nii.gz")
        assert found.name == f"sub-{scan.subject}_ses-02_desc-predicted_label-newlesion_mask.nii.gz"
        mask, image = read_mask(found), read_volume(scan.images["FLAIR"])
        assert mask.shape == image.shape
        assert scan.new is not None
        drawn = read_mask(scan.new).data > 0
        both = (drawn & (mask.data > 0)).sum()
        assert float(row["dice"]) == pytest.approx(2 * both / (drawn.sum() + mask.data.sum()), abs=1e-4)
        assert float(row["drawn_ml"]) == pytest.approx(drawn.sum() * 5.6**3 / 1000, rel=1e-3)


def test_what_such_a_model_drew_is_no_truth_and_no_measure(pairs_model: Path, pairs_hospital: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(pairs_hospital, site)
    shutil.rmtree(site / "derivatives")
    assert segment(pairs_model, "--folder", site, "--out", site / "derivatives" / "wardround") == 0
    store = open_store(site)
    assert {(scan.mask, scan.new) for scan in store.scans} == {(None, None)}
    assert store.changes == {}
    for role in ("mask", "new", "change"):
        (tmp_path / "images.yaml").write_text(
            'format: wardround/images\nformat_version: 1\nscans: "{patient}/{session}"\nimages:\n  FLAIR: FLAIR.nii.gz\n'
            f"{role}: sub-{{patient}}_ses-{{session}}_desc-predicted_label-newlesion_mask.nii.gz\n"
        )
        with pytest.raises(MappingError, match="a model drew them"):
            open_store(tmp_path)


def test_patients_without_a_pair_are_told_and_sessions_apart_stop_no_others(
    pairs_model: Path, pairs_hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(pairs_model, "--folder", pairs_hospital, "--out", tmp_path / "a", "--patient", "P001") == 1
    assert "no patient of 1 sessions has two with FLAIR on different days" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    site = tmp_path / "site"
    shutil.copytree(pairs_hospital, site)
    path = next(site.glob("sub-P002/ses-01/anat/*FLAIR.nii.gz"))
    plain = nib.load(path)
    affine = plain.affine.copy()
    affine[:3, 3] += (6.0, 0.0, 0.0)
    nib.save(nib.Nifti1Image(np.asarray(plain.dataobj), affine, plain.header), path)
    assert segment(pairs_model, "--folder", site, "--out", tmp_path / "b") == 1
    rows = {row["patient"]: row for row in csv.DictReader((tmp_path / "b" / "segmented.csv").open())}
    assert rows["P002"]["reason"].startswith("not_registered: two sessions do not show the head in one place")
    assert rows["P004"]["reason"] == ""
    capsys.readouterr()
    assert main(["--home", "/nonexistent", "data", "validate", "--folder", str(site)]) == 0
    said = capsys.readouterr().out
    assert "not_registered, 1 time" in said
    assert "sub-P002_ses-02_FLAIR.nii.gz: some 6" in said


def test_predict_sends_models_of_images_to_segment(model: Path, hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", "/nonexistent", "predict", str(model), "--folder", str(hospital)]) == 1
    assert "is of images: use `wardround-site segment`" in capsys.readouterr().err


# -- data prepare -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(hospital: Path, tmp_path: Path) -> Path:
    """A site that has its images and knows no plan yet."""
    root = tmp_path / "home"
    words = ["init", "--id", "one", "--task", "lesion_seg", "--data", str(hospital)]
    assert main(["--home", str(root), *words]) == 0
    return root


def known(home: Path, plan: Plan) -> None:
    from client.plans import PlanStore
    from consortium.identity import SigningKey
    from consortium.plan import sign_plan

    key = SigningKey.from_seed(bytes(32))
    PlanStore(Home(home).plans, "one", Home(home).load_identity().public).add(sign_plan(plan, key))


def test_a_plans_scans_are_prepared_ahead_and_found_again(home: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    known(home, plan)
    capsys.readouterr()
    for state in ("made", "kept"):
        assert main(["--home", str(home), "--json", "data", "prepare", plan.run_id, "--workers", "1"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["sessions"], told[state], told["not prepared"]) == (4, 4, {})
    assert len(list((home / "prepared").rglob("*.npy"))) == 4
    assert (home / "prepared").stat().st_mode & 0o777 == 0o700


def test_a_withdrawal_deletes_prepared_scans(home: Path, hospital: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    known(home, plan)
    assert main(["--home", str(home), "data", "prepare", plan.run_id, "--workers", "1"]) == 0
    copied = home.parent / "data"
    shutil.copytree(hospital, copied)
    capsys.readouterr()
    assert main(["--home", str(home), "--json", "data", "withdraw", "P002", "--folder", str(copied)]) == 0
    assert json.loads(capsys.readouterr().out)["prepared scans"] == "removed"
    assert not (home / "prepared").exists()


def test_copies_of_images_that_nobody_has_any_more_are_removed(
    home: Path, hospital: Path, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known(home, plan)
    assert main(["--home", str(home), "data", "prepare", plan.run_id, "--workers", "1"]) == 0
    fewer = tmp_path / "fewer"
    shutil.copytree(hospital, fewer)
    (fewer / "withdrawn.txt").write_text("P003\n")
    site = home / "site.yaml"
    site.write_text(site.read_text().replace(str(hospital), str(fewer)))
    capsys.readouterr()
    assert main(["--home", str(home), "--json", "data", "prepare", plan.run_id, "--workers", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["sessions"], told["kept"], told["removed"]) == (2, 2, 2)
    assert len(list((home / "prepared").rglob("*.npy"))) == 2


def test_a_plan_that_is_not_known_and_workers_that_cannot_be_are_usage_errors(
    home: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(home), "data", "prepare", plan.run_id]) == 2
    assert "0 plans match" in capsys.readouterr().err
    assert main(["--home", str(home), "data", "prepare", plan.run_id, "--workers", "0"]) == 2
    assert "--workers is 0: at least 1" in capsys.readouterr().err


def test_masks_are_computed_where_site_yaml_says(
    model: Path, hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "site")
    home.root.mkdir()
    masks = {}
    for precision in ("fp32", "bf16"):
        home.config.write_text(f"site: a\ntask: lesion_seg\ndata: {hospital}\ndevice: cpu\nprecision: {precision}\n")
        out = tmp_path / precision
        assert main(["--home", str(home.root), "segment", str(model), "--out", str(out), "--patient", "P001"]) == 0
        masks[precision] = next(out.rglob("*mask.nii.gz")).read_bytes()
    assert masks["fp32"] != masks["bf16"]
    if not torch.cuda.is_available():
        home.config.write_text(f"site: a\ntask: lesion_seg\ndata: {hospital}\ndevice: cuda\n")
        assert main(["--home", str(home.root), "segment", str(model), "--out", str(tmp_path / "none")]) == 2
        assert "site.yaml asks for device cuda" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
