"""Which file is whose, from BIDS names or a map, on planted and on real folders; no voxel is read to say so."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_folders import KINDS, image_path, lesion, mask_path, nifti, put, right_session, voxels

from tasks.errors import DataError, MappingError
from tasks.imaging.bids import BidsName, parse_name
from tasks.imaging.checks import check_voxels, report_of
from tasks.imaging.layout import MODALITIES
from tasks.imaging.links import Links, Scanned
from tasks.imaging.mapfile import MAP_FILE
from tasks.imaging.pairs import pairs_of
from tasks.imaging.report import ImageReport
from tasks.imaging.store import Scan, Store, holds_images, images_beside, open_store

LABELS = st.text("abcXYZ019", min_size=1, max_size=6)
KEYS = st.lists(st.sampled_from(["ses", "acq", "ce", "rec", "run", "space", "desc", "label"]), unique=True, max_size=5)


def place(store: Store, path: Path | None) -> str:
    return "" if path is None else store.place(path)


def shown(store: Store, scan: Scan) -> dict[str, str]:
    return {role: store.place(path) for role, path in scan.images.items()}


def rules(store: Store) -> set[str]:
    return {each.rule.name for each in store.findings}


# -- names --------------------------------------------------------------------------------------------------------------------


@given(LABELS, KEYS, st.data(), st.sampled_from(["T1w", "FLAIR", "mask"]), st.sampled_from([".nii", ".nii.gz"]))
def test_a_name_taken_apart_and_put_together_is_the_name(
    sub: str, keys: list[str], data: st.DataObject, suffix: str, ending: str
) -> None:
    entities = (("sub", sub), *((key, data.draw(LABELS)) for key in keys))
    name = BidsName(entities, suffix, ending)
    assert parse_name(str(name)) == name


@given(st.one_of(st.text(max_size=60), st.text("sub-es_01T.nigz/\n", max_size=40).map(lambda text: f"sub-{text}_T1w.nii.gz")))
def test_any_text_is_a_name_that_is_written_the_same_or_none(text: str) -> None:
    name = parse_name(text)
    if name is not None:
        assert str(name) == text
        assert name.get("sub")
        assert "/" not in text
        assert "\n" not in text


@pytest.mark.parametrize(
    "text",
    ["", "T1w.nii.gz", "sub-_T1w.nii.gz", "sub-1_T1w.nii.bz2", "ses-1_sub-1_T1w.nii.gz", "sub-1_sub-2_T1w.nii.gz",
     "sub-1__T1w.nii.gz", "sub-1.nii.gz", "sub-1_T1w .nii.gz", "sub-../1_T1w.nii.gz", f"sub-{'1' * 300}_T1w.nii.gz"],
)  # fmt: skip
def test_what_bids_does_not_allow_is_no_name(text: str) -> None:
    assert parse_name(text) is None


# -- BIDS ---------------------------------------------------------------------------------------------------------------------


def test_a_right_session_has_four_images_a_mask_a_day_and_a_scanner(tmp_path: Path) -> None:
    right_session(tmp_path, "P1", "01", day=-12)
    store = open_store(tmp_path)
    (scan,) = store.scans
    assert (scan.patient, scan.session, scan.day, scan.scanner) == ("P1", "01", -12, "Philips Ingenia 3T")
    assert shown(store, scan) == {
        role: f"sub-P1/ses-01/anat/sub-P1_ses-01_{kind}.nii.gz"
        for role, kind in zip(MODALITIES, ["FLAIR", "T1w", "T2w", "ce-gad_T1w"], strict=True)
    }
    assert scan.mask == mask_path(tmp_path, "P1", "01")
    assert rules(store) == {"defaced"}


def test_scans_are_sorted_by_patient_and_day_and_sessions_without_a_day_come_last(tmp_path: Path) -> None:
    right_session(tmp_path, "P2", "01", day=5)
    right_session(tmp_path, "P1", "a", day=300)
    right_session(tmp_path, "P1", "b", day=20)
    right_session(tmp_path, "P1", "c", day=None)
    assert [(scan.patient, scan.session) for scan in open_store(tmp_path).scans] == [
        ("P1", "b"),
        ("P1", "a"),
        ("P1", "c"),
        ("P2", "01"),
    ]


def test_the_space_with_the_mask_is_used_and_the_other_told(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    mask_path(tmp_path, "P1", "01").rename(mask_path(tmp_path, "P1", "01", "MNI"))
    for kind in ("FLAIR", "T1w"):
        put(image_path(tmp_path, "P1", "01", f"space-MNI_{kind}"), nifti(voxels(kind)))
    store = open_store(tmp_path)
    assert list(store.scans[0].images) == ["FLAIR", "T1w"]
    assert all("space-MNI" in path.name for path in store.scans[0].images.values())
    assert sum(each.rule.name == "other_space" for each in store.findings) == 4


def test_a_mask_on_the_t1w_belongs_to_images_in_the_sessions_own_space(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    mask_path(tmp_path, "P1", "01").rename(mask_path(tmp_path, "P1", "01", "T1w"))
    assert open_store(tmp_path).scans[0].mask == mask_path(tmp_path, "P1", "01", "T1w")


def test_of_two_raters_the_consensus_is_used(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    plain = mask_path(tmp_path, "P1", "01")
    agreed = plain.with_name(plain.name.replace("_label", "_desc-consensus_label"))
    first = plain.with_name(plain.name.replace("_label", "_desc-a_label"))
    plain.rename(agreed)
    put(first, nifti(lesion("first")))
    store = open_store(tmp_path)
    assert store.scans[0].mask == agreed
    assert [each.place for each in store.findings if each.rule.name == "several_files"] == [store.place(first)]


def test_a_mask_without_a_session_is_given_to_the_only_one(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    bare = tmp_path / "derivatives/lesions/sub-P1/anat/sub-P1_label-lesion_mask.nii.gz"
    bare.parent.mkdir()
    mask_path(tmp_path, "P1", "01").rename(bare)
    assert open_store(tmp_path).scans[0].mask == bare
    right_session(tmp_path, "P1", "02", day=90)
    assert "mask_without_session" in rules(open_store(tmp_path))


def test_a_mask_beside_its_image_is_found_too(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    beside = image_path(tmp_path, "P1", "01", "label-lesion_mask")
    mask_path(tmp_path, "P1", "01").rename(beside)
    store = open_store(tmp_path)
    assert [scan.mask for scan in store.scans] == [beside]
    assert rules(store) == {"defaced"}


def test_side_files_above_are_inherited_and_the_nearest_counts(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    for path in image_path(tmp_path, "P1", "01", "T2w").parent.glob("*.json"):
        path.unlink()
    (tmp_path / "T1w.json").write_text(json.dumps({"Manufacturer": "GE", "SkullStripped": True}))
    (tmp_path / "sub-P1" / "sub-P1_T1w.json").write_text(json.dumps({"Manufacturer": "Siemens"}))
    (tmp_path / "ce-gad_T1w.json").write_text(json.dumps({"ManufacturersModelName": "only the T1w after contrast"}))
    store = open_store(tmp_path)
    assert rules(store) == {"defaced"}
    assert store.scans[0].scanner.startswith("Siemens")


def test_of_side_files_in_one_folder_the_one_that_says_more_counts(tmp_path: Path) -> None:
    put(image_path(tmp_path, "P1", "01", "acq-mprage_T1w"), nifti(voxels("a")))
    for name, maker in (("T1w", "GE"), ("acq-mprage_T1w", "Siemens"), ("acq-other_T1w", "Canon")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"Manufacturer": maker}))
    assert [scan.scanner for scan in open_store(tmp_path).scans] == ["Siemens"]


def test_opening_reads_no_voxel(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    path = image_path(tmp_path, "P1", "01", "T2w")
    path.write_bytes(path.read_bytes()[:-500])
    store = open_store(tmp_path)
    assert "T2w" in store.scans[0].images
    assert [each.rule.name for each in check_voxels(store, lambda: None)] == ["damaged"]


def test_rows_of_the_table_give_a_subject_its_patient_day_and_scanner(tmp_path: Path) -> None:
    right_session(tmp_path, "S7", "m12", day=None)
    links = Links(frozenset({"p-001"}), (Scanned("p-001", 365, "S7", "m12", "prisma-2"),))
    (scan,) = open_store(tmp_path, links).scans
    assert (scan.patient, scan.session, scan.day, scan.scanner) == ("p-001", "m12", 365, "prisma-2")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    assert not holds_images(tmp_path)
    assert images_beside(tmp_path) is None
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no image folder"):
            open_store(folder)


@pytest.mark.parametrize("where", ["sub-02/FLAIR.nii.gz", "sub-02/Ses-01/anat/sub-02_ses-01_FLAIR.nii.gz"])
def test_a_subject_whose_images_lie_elsewhere_than_bids_has_them_is_told(tmp_path: Path, where: str) -> None:
    right_session(tmp_path, "01")
    put(tmp_path / where, nifti(voxels("astray")))
    found = [each.place for each in open_store(tmp_path).findings if each.rule.name == "no_image"]
    assert found == ["subject 02"]


def test_sessions_without_a_day_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "m6", "m12"):
        right_session(tmp_path, "P1", name, day=None)
    assert [scan.session for scan in open_store(tmp_path).scans] == ["2", "10", "m6", "m12"]


def test_masks_are_found_where_the_folder_of_the_tool_was_left_out(tmp_path: Path) -> None:
    right_session(tmp_path, "P1")
    (tmp_path / "derivatives/lesions/sub-P1").rename(tmp_path / "derivatives/sub-P1")
    store = open_store(tmp_path)
    assert store.scans[0].mask == tmp_path / "derivatives/sub-P1/ses-01/anat/sub-P1_ses-01_label-lesion_mask.nii.gz"
    assert rules(store) <= {"defaced"}


def new_mask(root: Path, sub: str, ses: str = "") -> Path:
    """What somebody marked as new, in the session `ses` or, without one, of the subject."""
    inner, start = (f"sub-{sub}/ses-{ses}", f"sub-{sub}_ses-{ses}") if ses else (f"sub-{sub}", f"sub-{sub}")
    return put(root / f"derivatives/lesions/{inner}/anat/{start}_label-newlesion_mask.nii.gz", nifti(lesion(f"new of {sub}")))


@pytest.mark.parametrize(
    ("days", "broken", "placed"),
    [
        ((0, 200, 500), "", True),
        ((0, 200, 500), "02", False),  # the mask says what is new since 02, and nobody knows what is new since 01
        ((0, 900, 500), "02", True),  # came later: 01 is the one before
        ((0, 200, 500), "01", True),
        ((None, None, None), "", True),
        ((None, None, None), "02", False),
        ((0, None, 500), "", False),  # without a day 02 may lie between them
        ((0, None, 500), "02", False),
    ],
)
def test_what_is_new_since_a_session_that_cannot_be_used_is_not_taken_for_new_since_another(
    tmp_path: Path, days: tuple[int | None, ...], broken: str, placed: bool
) -> None:
    for session, day in zip(("01", "02", "03"), days, strict=True):
        right_session(tmp_path, "P1", session, day=day)
    new = new_mask(tmp_path, "P1", "03")
    for kind in KINDS if broken else ():
        image_path(tmp_path, "P1", broken, kind).write_bytes(b"broken")
    store = open_store(tmp_path)
    assert len(store.scans) == (2 if broken else 3)
    assert [scan.new for scan in store.scans if scan.session == "03"] == [new if placed else None]
    assert ("new_unplaced" in rules(store)) is not placed
    (last,) = [pair for pair in pairs_of(store.scans) if pair.session == "03"]
    assert (last.mask == new) is placed


def test_a_mask_that_names_no_session_of_three_is_not_given_to_the_two_that_can_be_used(tmp_path: Path) -> None:
    for session, day in (("01", 0), ("02", 200)):
        right_session(tmp_path, "P1", session, day=day)
    new = new_mask(tmp_path, "P1")
    assert [scan.new for scan in open_store(tmp_path).scans] == [None, new]
    put(image_path(tmp_path, "P1", "03", "FLAIR"), b"broken")
    store = open_store(tmp_path)
    assert [scan.new for scan in store.scans] == [None, None]
    assert "new_unplaced" in rules(store)


@pytest.mark.parametrize(
    "table",
    [
        "session_id\tday\r\nses-01\t12\r\n\t\r\n\t\r\n",
        "\ufeffsession_id \t day\r\nses-01\t12\r\n",
        "session_id\tday\nses-01\t12.0\n",
    ],
)
def test_what_a_spreadsheet_adds_to_a_table_hinders_nothing(tmp_path: Path, table: str) -> None:
    right_session(tmp_path, "01", day=None)
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_bytes(table.encode())
    store = open_store(tmp_path)
    assert store.scans[0].day == 12
    assert "side_file" not in rules(store)


@pytest.mark.parametrize("target", ["images", "/no/such/disk"])
def test_a_link_to_images_that_leads_nowhere_is_refused_and_never_taken_for_no_images(tmp_path: Path, target: str) -> None:
    (tmp_path / "images").symlink_to(target)
    beside = images_beside(tmp_path)
    assert beside is not None
    with pytest.raises(DataError, match=r"link that leads nowhere.*mounted"):
        open_store(beside)


# -- a map --------------------------------------------------------------------------------------------------------------------

MAP = """format: wardround/images
format_version: 1
scans: "{patient}/{session}"
images:
  FLAIR: FLAIR.nii.gz
  T1w: [T1.nii.gz, MPRAGE.nii.gz]
mask: /masks/{patient}_{session}.nii.gz
change: /masks/{patient}_change.nii.gz
sessions: days.tsv
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for patient, session in (("p.1", "a"), ("p.1", "b"), ("p_2", "a")):
        folder = tmp_path / patient / session
        put(folder / "FLAIR.nii.gz", nifti(voxels(f"{folder} F")))
        put(folder / ("T1.nii.gz" if session == "a" else "MPRAGE.nii.gz"), nifti(voxels(f"{folder} T")))
        put(tmp_path / "masks" / f"{patient}_{session}.nii.gz", nifti(lesion(str(folder))))
    put(tmp_path / "masks" / "p.1_change.nii.gz", nifti(lesion("change")))
    (tmp_path / "days.tsv").write_text("patient_id\tsession\tday\tscanner\np.1\ta\t0\tAera\np.1\tb\t180\tn/a\n")
    (tmp_path / MAP_FILE).write_text(MAP)
    return tmp_path


def test_a_map_says_which_file_is_what_and_a_table_when(tree: Path) -> None:
    store = open_store(tree)
    assert [(scan.patient, scan.session, scan.day, scan.scanner) for scan in store.scans] == [
        ("p.1", "a", 0, "Aera"), ("p.1", "b", 180, ""), ("p_2", "a", None, ""),
    ]  # fmt: skip
    assert [place(store, scan.images["T1w"]) for scan in store.scans] == [
        "p.1/a/T1.nii.gz",
        "p.1/b/MPRAGE.nii.gz",
        "p_2/a/T1.nii.gz",
    ]
    assert [place(store, scan.mask) for scan in store.scans] == ["masks/p.1_a.nii.gz", "masks/p.1_b.nii.gz", "masks/p_2_a.nii.gz"]
    assert {key: store.place(path) for key, path in store.changes.items()} == {("p.1", ""): "masks/p.1_change.nii.gz"}
    assert [scan.new for scan in store.scans] == [None] * 3  # what shrank may be in it
    assert rules(store) == {"no_day", "missing_other", "faces_unknown"}


def test_a_table_of_sessions_that_contradicts_itself_or_is_not_there_is_told_and_not_used(tree: Path) -> None:
    (tree / "days.tsv").write_text("patient_id\tsession\tday\np.1\ta\t0\np.1\ta\t7\n")
    store = open_store(tree)
    assert [each.place for each in store.findings if each.rule.name == "side_file"] == ["days.tsv"]
    assert {scan.day for scan in store.scans} == {None}
    (tree / "days.tsv").unlink()
    assert [each.found for each in open_store(tree).findings if each.rule.name == "side_file"] == ["it is not there"]


def test_a_map_may_lie_elsewhere_than_its_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    beside = tmp_path_factory.mktemp("tables") / "images"
    beside.mkdir()
    (beside / MAP_FILE).write_text(MAP.replace("scans:", f"root: {tree}\nscans:"))
    store = open_store(beside)
    assert len(store.scans) == 3
    assert store.folder == tree.resolve()


def test_both_names_of_one_image_are_told_and_the_first_is_used(tree: Path) -> None:
    put(tree / "p.1/a/MPRAGE.nii.gz", nifti(voxels("second")))
    store = open_store(tree)
    assert store.place(store.scans[0].images["T1w"]) == "p.1/a/T1.nii.gz"
    assert [each.place for each in store.findings if each.rule.name == "several_files"] == ["p.1/a/MPRAGE.nii.gz"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"{patient}/{session}"', '"../{patient}"'), r"\.\."),
        (('"{patient}/{session}"', '"{session}"'), "patient"),
        (('"{patient}/{session}"', '"{patient}/{visit}"'), "vary"),
        (('"{patient}/{session}"', "[a]"), "text"),
        (("FLAIR: FLAIR.nii.gz", "FLAIR: ../../etc/FLAIR.nii.gz"), r"\.\."),
        (("FLAIR: FLAIR.nii.gz", "FLAIR: FLAIR.mgz"), "nii"),
        (("  FLAIR:", "  DWI:"), "FLAIR"),
        (("mask:", "masks:"), "keys"),
        (("/masks/{patient}_{session}", "//masks/{patient}"), "empty part"),
        (("format_version: 1", "format_version: 2"), "format"),
        (("scans:", "root: /no/such/folder\nscans:"), "root"),
        (("scans:", "root: [a]\nscans:"), "root"),
        (("sessions: days.tsv", "sessions: ../days.tsv"), r"\.\."),
    ],
)
def test_a_wrong_map_is_refused_by_its_key(tree: Path, change: tuple[str, str], words: str) -> None:
    (tree / MAP_FILE).write_text(MAP.replace(*change))
    with pytest.raises(MappingError, match=words):
        open_store(tree)


def test_links_out_of_a_mapped_tree_are_not_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    put(outside / "FLAIR.nii.gz", nifti(voxels("outside")))
    (tree / "p_2/a/FLAIR.nii.gz").unlink()
    (tree / "p_2/a/FLAIR.nii.gz").symlink_to(outside / "FLAIR.nii.gz")
    (tree / "p_3").symlink_to(outside)
    store = open_store(tree)
    assert sorted(each.place for each in store.findings if each.rule.name == "outside") == ["p_2/a/FLAIR.nii.gz", "p_3"]
    assert "FLAIR" not in store.scans[-1].images


def test_a_name_twice_in_a_template_must_be_the_same_name(tmp_path: Path) -> None:
    for folder, name in (("A/A_1", "FLAIR"), ("A/B_1", "FLAIR")):
        put(tmp_path / folder / f"{name}.nii.gz", nifti(voxels(folder)))
    (tmp_path / MAP_FILE).write_text(
        'format: wardround/images\nformat_version: 1\nscans: "{patient}/{patient}_{session}"\nimages:\n  FLAIR: FLAIR.nii.gz\n'
    )
    assert [(scan.patient, scan.session) for scan in open_store(tmp_path).scans] == [("A", "1")]


def test_folders_whose_names_cannot_be_a_patient_or_a_session_are_told(tree: Path) -> None:
    for folder in ("Two Words/a", "p_3/2 b"):
        put(tree / folder / "FLAIR.nii.gz", nifti(voxels(folder)))
    store = open_store(tree)
    assert len(store.scans) == 3
    assert sorted(each.place for each in store.findings if each.rule.name == "name") == ["Two Words", "p_3/2 b"]


# -- real folders -------------------------------------------------------------------------------------------------------------


def checked(store: Store) -> ImageReport:
    return report_of(store, check_voxels(store, lambda: None))


def real(real_data: Path, name: str) -> Path:
    if not (real_data / name).is_dir():
        pytest.skip(f"no {name}: set WARDROUND_SHARED_DATA to the folder that holds it")
    return real_data / name


@pytest.mark.parametrize(("site", "scans", "patients", "rest"), [
    ("site-ljubljana", 2, 2, set()), ("site-catania", 4, 2, {"missing_other"}),
])  # fmt: skip
def test_two_real_centres_are_read_whole(real_data: Path, site: str, scans: int, patients: int, rest: set[str]) -> None:
    report = checked(open_store(real(real_data, "ms_mri") / site))
    assert (report.sessions, report.masks, report.patients) == (scans, scans, patients)
    assert (report.images["FLAIR"], report.images["T1w"]) == (scans, scans)
    assert {each.rule.name for each in report.findings} == {"no_day", "faces_unknown"} | rest


def test_native_pairs_with_a_mask_of_change_are_read(real_data: Path) -> None:
    store = open_store(real(real_data, "ms_mri_longitudinal") / "site-ljubljana")
    report = checked(store)
    assert (report.sessions, report.patients, report.changes, report.masks) == (4, 2, 2, 0)
    assert {each.rule.name for each in report.findings} == {"no_day", "faces_unknown", "missing_other", "missing_main"}
    assert [(each.place, each.found) for each in report.findings if each.rule.name == "missing_main"] == [
        ("subject LL03, session 01", "T1w")
    ]


def test_the_native_pairs_are_the_same_through_a_map(real_data: Path, tmp_path: Path) -> None:
    site = real(real_data, "ms_mri_longitudinal") / "site-ljubljana"
    names = "\n".join(f"  {role}: sub-{{patient}}_ses-{{session}}_space-common_{role}.nii.gz" for role in ("FLAIR", "T1w", "T2w"))
    change = "/derivatives/lesion_change/sub-{patient}/anat/sub-{patient}_space-common_label-lesionchange_mask.nii.gz"
    (tmp_path / MAP_FILE).write_text(
        f"format: wardround/images\nformat_version: 1\nroot: {site}\nscans: sub-{{patient}}/ses-{{session}}/anat\n"
        f"images:\n{names}\nchange: {change}\n"
    )
    mapped, bids = open_store(tmp_path), open_store(site)
    assert mapped.scans == bids.scans
    assert mapped.changes == bids.changes
    assert checked(mapped).voxels_read


@pytest.mark.slow
def test_full_resolution_volumes_are_read_through_a_map(real_data: Path, tmp_path: Path) -> None:
    tree = real(real_data, "ms_mri_fullres")
    (tmp_path / MAP_FILE).write_text(
        f'format: wardround/images\nformat_version: 1\nroot: {tree}\nscans: "{{patient}}"\n'
        "images:\n  FLAIR: FLAIR.nii.gz\n  T1w: T1.nii.gz\nmask: [MASK.nii.gz, mask_mni.nii.gz]\n"
    )
    store = open_store(tmp_path)
    report = checked(store)
    assert (report.sessions, report.masks, report.images["FLAIR"], report.images["T1w"]) == (2, 2, 2, 2)
    assert {each.rule.name for each in report.findings} == {"no_day", "missing_other", "faces_unknown"}


def test_a_real_file_that_broke_off_is_found(real_data: Path, tmp_path: Path) -> None:
    shutil.copytree(real(real_data, "ms_mri") / "site-ljubljana", tmp_path / "site")
    path = next((tmp_path / "site" / "sub-LJ07").rglob("*FLAIR.nii.gz"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:100_000])
    store = open_store(tmp_path / "site")
    assert [(each.rule.name, each.place) for each in check_voxels(store, lambda: None)] == [("damaged", store.place(path))]
