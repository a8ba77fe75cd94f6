"""Everything that can be wrong with one subject's images, each planted in a session that is right, with what must be found."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from image_folders import AFFINE, KINDS, SHAPE, image_path, lesion, mask_path, nifti, patched, put, right_session, voxels

Found = set[tuple[str, str]]  # rule and place
Plant = Callable[[Path, str], Found]
QUIRKS: dict[str, Plant] = {}


def quirk(plant: Plant) -> Plant:
    QUIRKS[plant.__name__] = plant
    return plant


def plant(root: Path, name: str, sub: str) -> Found:
    """A right session of `sub` with one thing wrong; what the check must find about it, the note on its head included."""
    right_session(root, sub)
    found = QUIRKS[name](root, sub)
    return found if name in FACES else found | {("defaced", f"sub-{sub}/ses-01")}


def t2w(root: Path, sub: str) -> Path:
    return image_path(root, sub, "01", "T2w")


def mask(root: Path, sub: str) -> Path:
    return mask_path(root, sub, "01")


def at(root: Path, path: Path, rule: str) -> Found:
    return {(rule, path.relative_to(root).as_posix())}


def session(sub: str, rule: str, ses: str = "01") -> Found:
    return {(rule, f"subject {sub}, session {ses}")}


def fresh(root: Path, sub: str) -> bytes:
    return nifti(voxels(f"{sub} anew"))


# -- files --------------------------------------------------------------------------------------------------------------------


@quirk
def nothing(root: Path, sub: str) -> Found:
    return set()


@quirk
def no_bytes(root: Path, sub: str) -> Found:
    t2w(root, sub).write_bytes(b"")
    return at(root, t2w(root, sub), "unreadable")


@quirk
def not_compressed(root: Path, sub: str) -> Found:
    t2w(root, sub).write_bytes(fresh(root, sub))
    return at(root, t2w(root, sub), "unreadable")


@quirk
def complex_numbers(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub).astype(np.complex64)))
    return at(root, t2w(root, sub), "unreadable")


@quirk
def folder_named_as_an_image(root: Path, sub: str) -> Found:
    t2w(root, sub).unlink()
    t2w(root, sub).mkdir()
    return at(root, t2w(root, sub), "unreadable")


@quirk
def pipe(root: Path, sub: str) -> Found:
    t2w(root, sub).unlink()
    os.mkfifo(t2w(root, sub))
    return at(root, t2w(root, sub), "unreadable")


@quirk
def link_to_nowhere(root: Path, sub: str) -> Found:
    t2w(root, sub).unlink()
    t2w(root, sub).symlink_to("not-fetched")
    return at(root, t2w(root, sub), "unreadable") | session(sub, "missing_other")


@quirk
def link_in_a_circle(root: Path, sub: str) -> Found:
    t2w(root, sub).unlink()
    t2w(root, sub).symlink_to(t2w(root, sub).name)
    return at(root, t2w(root, sub), "unreadable") | session(sub, "missing_other")


@quirk
def link_out_of_the_folder(root: Path, sub: str) -> Found:
    outside = put(root.parent / f"{sub}.nii.gz", fresh(root, sub))
    t2w(root, sub).unlink()
    t2w(root, sub).symlink_to(outside)
    return at(root, t2w(root, sub), "outside") | session(sub, "missing_other")


@quirk
def subject_out_of_the_folder(root: Path, sub: str) -> Found:
    right_session(root.parent / f"elsewhere{sub}", f"{sub}x")
    (root / f"sub-{sub}x").symlink_to(root.parent / f"elsewhere{sub}" / f"sub-{sub}x")
    return at(root, root / f"sub-{sub}x", "outside")


@quirk
def session_out_of_the_folder(root: Path, sub: str) -> Found:
    right_session(root.parent / f"elsewhere{sub}", f"{sub}y")
    (root / f"sub-{sub}y").mkdir()
    (root / f"sub-{sub}y/anat").symlink_to(root.parent / f"elsewhere{sub}/sub-{sub}y/ses-01/anat")
    return at(root, root / f"sub-{sub}y/anat", "outside")


@quirk
def cut_short(root: Path, sub: str) -> Found:
    t2w(root, sub).write_bytes(t2w(root, sub).read_bytes()[:-900])
    return at(root, t2w(root, sub), "damaged")


@quirk
def turned_bit(root: Path, sub: str) -> Found:
    content = bytearray(t2w(root, sub).read_bytes())
    content[3000] ^= 16
    t2w(root, sub).write_bytes(content)
    return at(root, t2w(root, sub), "damaged")


@quirk
def plain_file_cut_short(root: Path, sub: str) -> Found:
    t2w(root, sub).unlink()
    path = t2w(root, sub).with_suffix("")
    path.write_bytes(fresh(root, sub)[:-4])
    return at(root, path, "damaged")


@quirk
def goes_on_after_the_end(root: Path, sub: str) -> Found:
    put(t2w(root, sub), fresh(root, sub) + b"more")
    return at(root, t2w(root, sub), "damaged")


@quirk
def damaged_mask(root: Path, sub: str) -> Found:
    mask(root, sub).write_bytes(mask(root, sub).read_bytes()[:-9])
    return at(root, mask(root, sub), "damaged")


@quirk
def absurd_size(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)))
    return at(root, t2w(root, sub), "too_large")


@quirk
def two_axes(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub, (40, 40))))
    return at(root, t2w(root, sub), "not_3d")


@quirk
def one_slice(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub, (40, 40, 1))))
    return at(root, t2w(root, sub), "not_3d")


@quirk
def localiser(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub, (40, 40, 3))))
    return at(root, t2w(root, sub), "not_3d")


@quirk
def several_volumes(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub, (*SHAPE, 2))))
    return at(root, t2w(root, sub), "many_volumes")


@quirk
def one_volume_with_four_axes(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub, (*SHAPE, 1))))
    return at(root, t2w(root, sub), "one_volume")


# -- where it lies ------------------------------------------------------------------------------------------------------------


@quirk
def spacing_0(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), pixdim=(1, 2, 0, 2, 1, 1, 1, 1)))
    return at(root, t2w(root, sub), "spacing")


@quirk
def spacing_negative(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), pixdim=(1, -2, 2, 2, 1, 1, 1, 1)))
    return at(root, t2w(root, sub), "spacing")


@quirk
def spacing_absurd(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub), np.diag([300.0, 300, 300, 1])))
    return at(root, t2w(root, sub), "spacing")


@quirk
def metres(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub), np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE, "meter"))
    return at(root, t2w(root, sub), "units")


@quirk
def micrometres_said_of_millimetres(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub), unit="micron"))
    return at(root, t2w(root, sub), "units")


@quirk
def unit_not_said(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(voxels(sub), unit="unknown"))
    return at(root, t2w(root, sub), "units_unknown")


@quirk
def two_spacings(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), pixdim=(1, 2, 2, 2.5, 1, 1, 1, 1), codes=(0, 1)))
    return at(root, t2w(root, sub), "spacings_differ")


@quirk
def position_not_a_number(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), srow=(float("nan"),) * 12))
    return at(root, t2w(root, sub), "affine")


@quirk
def no_position(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), codes=(0, 0)))
    return at(root, t2w(root, sub), "no_position")


@quirk
def two_positions(root: Path, sub: str) -> Found:
    put(t2w(root, sub), patched(fresh(root, sub), quatern=(0, 0, 0, -11, -10, 3)))
    return at(root, t2w(root, sub), "forms_differ")


@quirk
def tilted_session(root: Path, sub: str) -> Found:
    angle = np.radians(15)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found: Found = set()
    for kind in KINDS:
        path = put(image_path(root, sub, "01", kind), nifti(voxels(f"{sub}{kind}"), turn @ AFFINE))
        found |= at(root, path, "oblique")
    put(mask(root, sub), nifti(lesion(sub), turn @ AFFINE))
    return found | at(root, mask(root, sub), "oblique")


@quirk
def thick_slices(root: Path, sub: str) -> Found:
    affine = np.diag([0.5, 0.5, 2.0, 1])
    affine[:3, 3] = AFFINE[:3, 3]
    put(t2w(root, sub), nifti(voxels(sub, (48, 44, 10)), affine))
    return at(root, t2w(root, sub), "thick_slices") | at(root, t2w(root, sub), "image_grid")


# -- voxels -------------------------------------------------------------------------------------------------------------------


@quirk
def flat_image(root: Path, sub: str) -> Found:
    put(t2w(root, sub), nifti(np.full(SHAPE, 5, np.int16)))
    return at(root, t2w(root, sub), "flat")


@quirk
def not_a_number(root: Path, sub: str) -> Found:
    data = voxels(sub)
    data[2, 2, 2] = np.nan
    put(t2w(root, sub), nifti(data))
    return at(root, t2w(root, sub), "not_finite")


@quirk
def image_of_another_patient(root: Path, sub: str) -> Found:
    """The same voxels, compressed otherwise."""
    right_session(root, f"{sub}b")
    other = t2w(root, f"{sub}b")
    other.write_bytes(gzip.compress(gzip.decompress(t2w(root, sub).read_bytes()), 9))
    pair = at(root, t2w(root, sub), "same_image") | at(root, other, "same_image")
    return pair | {("defaced", f"sub-{sub}b/ses-01")}


@quirk
def image_twice_in_a_patient(root: Path, sub: str) -> Found:
    t2w(root, sub).write_bytes(image_path(root, sub, "01", "T1w").read_bytes())
    return at(root, t2w(root, sub), "same_image_again")


# -- masks --------------------------------------------------------------------------------------------------------------------


@quirk
def labels_for_a_mask(root: Path, sub: str) -> Found:
    put(mask(root, sub), nifti(lesion(sub) + lesion(f"{sub}2")))
    return at(root, mask(root, sub), "mask_values")


@quirk
def mask_below_0(root: Path, sub: str) -> Found:
    put(mask(root, sub), nifti(-lesion(sub).astype(np.int16)))
    return at(root, mask(root, sub), "mask_values")


@quirk
def fractions_in_a_mask(root: Path, sub: str) -> Found:
    soft = lesion(sub).astype(np.float32)
    soft[0, 0, 0] = 0.3
    put(mask(root, sub), nifti(soft))
    return at(root, mask(root, sub), "mask_fractions")


@quirk
def empty_mask(root: Path, sub: str) -> Found:
    put(mask(root, sub), nifti(np.zeros(SHAPE, np.uint8)))
    return at(root, mask(root, sub), "empty_mask")


@quirk
def empty_masks_of_two_patients(root: Path, sub: str) -> Found:
    """They are alike, and no image stands twice."""
    right_session(root, f"{sub}e")
    put(mask(root, f"{sub}e"), nifti(np.zeros(SHAPE, np.uint8)))
    return empty_mask(root, sub) | at(root, mask(root, f"{sub}e"), "empty_mask") | {("defaced", f"sub-{sub}e/ses-01")}


@quirk
def mask_on_a_finer_grid(root: Path, sub: str) -> Found:
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = AFFINE[:3, 3] - 0.5
    put(mask(root, sub), nifti(lesion(sub, (24, 22, 20)), affine))
    return at(root, mask(root, sub), "mask_grid")


@quirk
def mask_elsewhere(root: Path, sub: str) -> Found:
    affine = AFFINE.copy()
    affine[0, 3] += 500
    put(mask(root, sub), nifti(lesion(sub), affine))
    return at(root, mask(root, sub), "mask_space")


@quirk
def mask_in_standard_space(root: Path, sub: str) -> Found:
    put(mask(root, sub), nifti(lesion(sub, (24, 22, 20)), np.array(AFFINE) * [[0.5, 1, 1, 1]] * 1.0, code=4))
    return at(root, mask(root, sub), "mask_space")


@quirk
def mask_named_for_another_space(root: Path, sub: str) -> Found:
    mask(root, sub).rename(mask_path(root, sub, "01", "MNI"))
    return at(root, mask_path(root, sub, "01", "MNI"), "mask_space")


def new_path(root: Path, sub: str, ses: str = "") -> Path:
    inner, start = (f"sub-{sub}/ses-{ses}", f"sub-{sub}_ses-{ses}") if ses else (f"sub-{sub}", f"sub-{sub}")
    return root / f"derivatives/lesions/{inner}/anat/{start}_label-newlesion_mask.nii.gz"


@quirk
def new_lesions_of_a_first_session(root: Path, sub: str) -> Found:
    path = put(new_path(root, sub, "01"), nifti(lesion(f"{sub} new")))
    return at(root, path, "new_unplaced")


@quirk
def new_lesions_of_one_session(root: Path, sub: str) -> Found:
    path = put(new_path(root, sub), nifti(lesion(f"{sub} new")))
    return at(root, path, "new_unplaced")


def second_session(root: Path, sub: str) -> Found:
    """Its images show as little in common with those of the first as noise does."""
    right_session(root, sub, "02", 200)
    return at(root, image_path(root, sub, "02", "FLAIR"), "not_registered") | {("defaced", f"sub-{sub}/ses-02")}


@quirk
def two_sessions_that_do_not_lie_in_one_space(root: Path, sub: str) -> Found:
    return second_session(root, sub)


@quirk
def new_lesions_that_lie_elsewhere(root: Path, sub: str) -> Found:
    away = AFFINE.copy()
    away[0, 3] += 20
    path = put(new_path(root, sub, "02"), nifti(lesion(f"{sub} new"), away))
    return second_session(root, sub) | at(root, path, "new_unplaced")


@quirk
def nothing_new_is_no_finding(root: Path, sub: str) -> Found:
    put(new_path(root, sub, "02"), nifti(np.zeros(SHAPE, np.uint8)))
    return second_session(root, sub)


@quirk
def mask_of_a_session_without_images(root: Path, sub: str) -> Found:
    other = put(mask_path(root, sub, "02"), nifti(lesion(sub)))
    return at(root, other, "mask_without_session")


# -- sessions -----------------------------------------------------------------------------------------------------------------


@quirk
def image_elsewhere(root: Path, sub: str) -> Found:
    affine = AFFINE.copy()
    affine[2, 3] -= 500
    put(t2w(root, sub), nifti(voxels(sub), affine))
    return at(root, t2w(root, sub), "image_space")


@quirk
def session_without_images(root: Path, sub: str) -> Found:
    (root / f"sub-{sub}/ses-02/dwi").mkdir(parents=True)
    with (root / f"sub-{sub}/sub-{sub}_sessions.tsv").open("a") as file:
        file.write("ses-02\t90\n")
    return session(sub, "no_image", "02")


@quirk
def no_flair(root: Path, sub: str) -> Found:
    image_path(root, sub, "01", "FLAIR").unlink()
    return session(sub, "missing_main")


@quirk
def no_contrast(root: Path, sub: str) -> Found:
    image_path(root, sub, "01", "ce-gad_T1w").unlink()
    return session(sub, "missing_other")


@quirk
def two_runs(root: Path, sub: str) -> Found:
    path = put(image_path(root, sub, "01", "run-2_T2w"), fresh(root, sub))
    return at(root, path, "several_files")


@quirk
def registered_copies(root: Path, sub: str) -> Found:
    path = put(image_path(root, sub, "01", "space-MNI_T2w"), nifti(voxels(sub), code=4))
    side = path.with_name(path.name.replace(".nii.gz", ".json"))
    side.write_text("{}")
    return at(root, path, "other_space")


@quirk
def session_without_a_day(root: Path, sub: str) -> Found:
    (root / f"sub-{sub}/sub-{sub}_sessions.tsv").unlink()
    return session(sub, "no_day")


@quirk
def date_for_a_day(root: Path, sub: str) -> Found:
    table = root / f"sub-{sub}/sub-{sub}_sessions.tsv"
    table.write_text("session_id\tday\nses-01\t2019-03-04\n")
    return at(root, table, "side_file") | session(sub, "no_day")


@quirk
def two_days_for_a_session(root: Path, sub: str) -> Found:
    table = root / f"sub-{sub}/sub-{sub}_sessions.tsv"
    table.write_text("session_id\tday\nses-01\t4\nses-01\t5\n")
    return at(root, table, "side_file") | session(sub, "no_day")


@quirk
def row_with_a_cell_too_many(root: Path, sub: str) -> Found:
    table = root / f"sub-{sub}/sub-{sub}_sessions.tsv"
    table.write_text("session_id\tday\nses-01\t4\t5\n")
    return at(root, table, "side_file") | session(sub, "no_day")


# -- names, side files, privacy -----------------------------------------------------------------------------------------------


@quirk
def name_with_a_blank(root: Path, sub: str) -> Found:
    path = t2w(root, sub).with_name("T2 axial.nii.gz")
    t2w(root, sub).rename(path)
    return at(root, path, "name") | session(sub, "missing_other")


@quirk
def ending_in_capitals(root: Path, sub: str) -> Found:
    path = t2w(root, sub).with_name(t2w(root, sub).name.replace(".nii.gz", ".NII.GZ"))
    t2w(root, sub).rename(path)
    return at(root, path, "name") | session(sub, "missing_other")


@quirk
def mask_with_an_ending_in_capitals(root: Path, sub: str) -> Found:
    path = mask(root, sub).with_name(mask(root, sub).name.replace(".nii.gz", ".NII.gz"))
    mask(root, sub).rename(path)
    return at(root, path, "name")


@quirk
def file_of_another_subject(root: Path, sub: str) -> Found:
    path = t2w(root, sub).with_name("sub-Other_ses-01_T2w.nii.gz")
    t2w(root, sub).rename(path)
    return at(root, path, "misplaced") | session(sub, "missing_other")


@quirk
def broken_side_file(root: Path, sub: str) -> Found:
    path = t2w(root, sub).with_name(t2w(root, sub).name.replace(".nii.gz", ".json"))
    path.write_text("{")
    return at(root, path, "side_file")


@quirk
def name_in_a_side_file(root: Path, sub: str) -> Found:
    path = t2w(root, sub).with_name(t2w(root, sub).name.replace(".nii.gz", ".json"))
    path.write_text(json.dumps({"PatientName": "ZZ", "PatientBirthDate": "", "AcquisitionDateTime": "2019-03-04T10:00:00"}))
    return at(root, path, "identifies")


@quirk
def face_left(root: Path, sub: str) -> Found:
    for path in image_path(root, sub, "01", "T2w").parent.glob("*.json"):
        path.write_text('{"SkullStripped": false}')
    return {("faces", f"sub-{sub}/ses-01")}


@quirk
def face_not_said(root: Path, sub: str) -> Found:
    for path in image_path(root, sub, "01", "T2w").parent.glob("*.json"):
        path.unlink()
    return {("faces_unknown", "")}


FACES = ("face_left", "face_not_said")
