"""`wardround-site data measure`: what is filled in, what stays, what is refused, and that a clinical task sees it."""

import csv
import json
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folders import image_path, mask_path, put, right_session
from ms_tables import Tables

from client.cli import main
from tasks.cdp_2y.task import TASK
from tasks.cohorts import admitted
from tasks.imaging.measures import lesions_of
from tasks.imaging.measures_folder import MORE_FILE
from tasks.imaging.phantoms import SITES, scans_of
from tasks.imaging.volume import Volume, read_mask, write_volume
from tasks.ms.contract import CONTRACT
from tasks.ms.manifest import MANIFEST_FILE, Entry, Manifest, file_digest, read_manifest
from tasks.simulator import Preset, Schedule, SiteSpec, simulate, write

AFFINE = np.diag([2.0, 2, 2, 1])
Rows = list[dict[str, str]]
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*words: object, verb: str = "measure", status: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["--home", str(tmp_path / "home"), "data", verb, *map(str, words)]) == status
        shown = capsys.readouterr()
        return shown.out, shown.err

    return called


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Right tables; row 2 of `mri` names the only session of p00001's images beside them, and lacks volume and count."""
    cells = Tables()
    for row in range(2, len(cells.cells["mri"]["patient_id"]) + 2):
        cells.put("mri", row, bids_sub="", bids_ses="")
    cells.put("mri", 2, bids_sub="S1", bids_ses="01", t2_vol_ml="", t2_count="", tool="lab tool", tool_version="7", region="brain")
    folder = cells.write(tmp_path / "tables")
    right_session(folder / "images", "S1", day=int(cells.get("mri", 2, "day")))
    return folder


def rows(folder: Path, name: str = "mri.csv") -> Rows:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def shown(text: str) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = json.loads(text)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_empty_cells_are_filled_and_every_other_one_stays(run: Run, tables: Path, tmp_path: Path) -> None:
    before, cells = files(tables), rows(tables)
    run("--folder", tables, "--out", tmp_path / "new")
    assert files(tables) == before
    first, *others = rows(tmp_path / "new")
    expected = lesions_of(read_mask(mask_path(tables / "images", "S1", "01")))
    assert float(first["t2_vol_ml"]) == pytest.approx(expected.volume_ml, abs=1e-4)
    assert first["t2_count"] == str(expected.count)
    assert (first["tool"], first["tool_version"]) == ("lab tool+wardround", "7+1")
    assert others == cells[1:]
    mine = {"t2_vol_ml", "t2_count", "tool", "tool_version", "sequences", "scanner_id", "vendor", "field_t"}
    assert {name: cell for name, cell in first.items() if name not in mine} == {
        name: cell for name, cell in cells[0].items() if name not in mine
    }
    assert {name for name in files(tmp_path / "new") if name.endswith(".csv")} == {
        name for name in before if name.endswith(".csv")
    } | {MORE_FILE}


def test_the_new_folder_passes_validation_with_its_images_and_is_its_owner_s_alone(run: Run, tables: Path, tmp_path: Path) -> None:
    run("--folder", tables, "--out", tmp_path / "new")
    told, _ = run("--folder", tmp_path / "new", verb="validate")
    assert "images: 0 errors" in told
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / MORE_FILE).stat().st_mode) == 0o600
    assert (tmp_path / "new" / "images").resolve() == (tables / "images").resolve()


def test_a_session_without_a_row_becomes_one_with_its_scanner(run: Run, tables: Path, tmp_path: Path) -> None:
    patient = rows(tables)[0]["patient_id"]
    right_session(tables / "images", patient, day=7)
    run("--folder", tables, "--out", tmp_path / "new")
    (made,) = [row for row in rows(tmp_path / "new") if row["bids_sub"] == patient]
    assert (made["patient_id"], made["day"], made["scan_id"], made["region"]) == (patient, "7", "01", "brain")
    assert (made["scanner_id"], made["vendor"], made["field_t"]) == ("Philips Ingenia 3T", "philips", "3")
    assert (made["sequences"], made["tool"]) == ("flair|t1w|t2w|t1w_gd", "wardround")
    run("--folder", tmp_path / "new", verb="validate")


def test_another_value_stays_unless_it_is_to_be_replaced_and_no_value_is_shown(run: Run, tables: Path, tmp_path: Path) -> None:
    cells = rows(tables)
    cells[0]["t2_count"] = "299"
    with (tables / "mri.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    told, errors = run("--folder", tables, "--out", tmp_path / "kept", "--json")
    assert shown(told)["columns"]["kept"] == {"t2_count": 1}
    assert rows(tmp_path / "kept")[0]["t2_count"] == "299"
    assert "299" not in told + errors
    told, _ = run("--folder", tables, "--out", tmp_path / "replaced", "--replace", "--json")
    assert shown(told)["columns"]["replaced"] == {"t2_count": 1}
    assert rows(tmp_path / "replaced")[0]["t2_count"] != "299"
    told, _ = run("--folder", tmp_path / "replaced", "--out", tmp_path / "again", "--json")
    assert shown(told)["columns"]["same"] == {"t2_vol_ml": 1, "t2_count": 1}
    assert rows(tmp_path / "again") == rows(tmp_path / "replaced")


def test_a_comparison_that_somebody_made_is_not_mixed_with_another(run: Run, tmp_path: Path) -> None:
    """New lesions counted against another scan keep their own interval, empty as it is."""
    cells = Tables()
    patient = cells.get("patients", 2, "patient_id")
    for row in range(2, len(cells.cells["mri"]["patient_id"]) + 2):
        cells.put("mri", row, bids_sub="", bids_ses="")
    day = int(cells.get("mri", 2, "day"))
    cells.put("mri", 2, region="brain", new_t2="3", enlarging_t2="", interval_d_to_prev="")
    folder = cells.write(tmp_path / "tables")
    for ses, on in (("01", day - 400), ("02", day)):
        right_session(folder / "images", patient, ses, on)
    for scan in ("01", "02"):  # one head: the same image and mask twice
        for kind in ("FLAIR", "T1w", "T2w", "ce-gad_T1w"):
            image_path(folder / "images", patient, scan, kind).unlink()
    head = next(scans_of(SITES[1], "P1", (0,), seed=1)).images["FLAIR"]
    for ses in ("01", "02"):
        write_volume(image_path(folder / "images", patient, ses, "FLAIR"), head, np.int16)
        write_volume(mask_path(folder / "images", patient, ses), Volume((head.data > 0).astype(np.float32), head.affine), np.uint8)
    told, _ = run("--folder", folder, "--out", tmp_path / "new", "--json", status=1)
    assert shown(told)["columns"]["kept"]["interval_d_to_prev"] == 1
    made = next(row for row in rows(tmp_path / "new") if (row["patient_id"], row["day"]) == (patient, str(day)))
    assert (made["new_t2"], made["enlarging_t2"], made["interval_d_to_prev"]) == ("3", "", "")


def test_a_dry_run_counts_and_writes_nothing(run: Run, tables: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    told, _ = run("--folder", tables, "--dry-run")
    assert "t2_vol_ml" in told
    assert "no segmentation whose numbers are stated" in told
    assert files(tmp_path) == before


@pytest.mark.parametrize("out", ["tables", "tables/inside", "missing/new", "full", "link"])
def test_a_folder_that_is_there_or_inside_the_tables_is_refused(run: Run, tables: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    before = files(tmp_path)
    _, errors = run("--folder", tables, "--out", tmp_path / out, status=1)
    assert "--out" in errors or "make it first" in errors or "outside" in errors
    assert files(tmp_path) == before


def test_neither_out_nor_dry_run_is_a_usage_error(run: Run, tables: Path) -> None:
    before = files(tables)
    _, errors = run("--folder", tables, status=2)
    assert "--out" in errors
    assert "--dry-run" in errors
    assert files(tables) == before


def test_a_damaged_mask_ends_with_status_1_and_the_rest_is_written(run: Run, tables: Path, tmp_path: Path) -> None:
    path = mask_path(tables / "images", "S1", "01")
    path.write_bytes(path.read_bytes()[:-12])
    told, _ = run("--folder", tables, "--out", tmp_path / "new", "--json", status=1)
    assert shown(told)["not_measured"]["mask_unusable"] == 1
    assert rows(tmp_path / "new")[0]["t2_vol_ml"] == ""


def test_a_volume_outside_the_contract_is_left_out_so_that_the_row_stays(run: Run, tables: Path, tmp_path: Path) -> None:
    path = tables / "images/derivatives/synthseg/sub-S1/ses-01/anat/sub-S1_ses-01_dseg.nii.gz"
    path.parent.mkdir(parents=True)
    data = np.zeros((10, 10, 10), np.float32)
    data[:2] = 4  # 1.6 mL of ventricles, at least 3; no thalamus
    write_volume(path, Volume(data, AFFINE), np.int16)
    told, _ = run("--folder", tables, "--out", tmp_path / "new", "--json", status=1)
    assert shown(told)["columns"]["out_of_range"] == {"thalamus_ml": 1, "lat_ventricle_ml": 1}
    run("--folder", tmp_path / "new", verb="validate")


def test_a_manifest_is_written_anew_for_the_one_table(run: Run, tables: Path, tmp_path: Path) -> None:
    entries = {
        name: Entry(f"{name}.csv", file_digest(tables / f"{name}.csv"), len(rows(tables, f"{name}.csv"))) for name in CONTRACT.names
    }
    kinds = tuple(sorted({table.modality for table in CONTRACT.tables}))
    (tables / MANIFEST_FILE).write_text(Manifest("site", CONTRACT.version, entries, kinds).to_json())
    run("--folder", tables, "--out", tmp_path / "new")
    new = read_manifest(tmp_path / "new")
    assert new is not None
    assert {name for name in entries if new.tables[name] != entries[name]} == {"mri"}
    told, _ = run("--folder", tmp_path / "new", "--json", verb="validate")
    assert "manifest" not in {each["rule"] for each in json.loads(told)["findings"]}


def test_a_clinical_task_sees_what_was_measured(run: Run, tmp_path: Path) -> None:
    """The thalamus of one session, by `cdp_2y` with the inputs that `+modalities=[mri]` adds."""
    write(simulate(Preset("one", (SiteSpec("alpha", 60, Schedule.RECLAIM, interval_mo=6.0),)), 2), tmp_path)
    folder = tmp_path / "sites" / "alpha"
    for path in (*folder.glob("mri.*"), folder / MANIFEST_FILE):
        path.unlink()
    found = TASK.cohort_of(admitted(folder).tables)
    column = TASK.contract.column_names.index("thalamus_ml_last")
    assert np.isnan(found.values[:, column]).all()
    patient = found.patient_ids[0]
    episodes = TASK.episodes(admitted(folder).tables)
    day = max(int(t0) for name, t0 in zip(episodes.patients, episodes.days, strict=True) if name == patient) - 10
    right_session(folder / "images", patient, day=day)
    labels = np.zeros((14, 14, 14), np.float32)
    labels[:8] = 10  # 12.5 mL
    labels[8:] = 4
    path = folder / f"images/derivatives/synthseg/sub-{patient}/ses-01/anat/sub-{patient}_ses-01_dseg.nii.gz"
    path.parent.mkdir(parents=True)
    write_volume(path, Volume(labels, AFFINE), np.int16)
    run("--folder", folder, "--out", tmp_path / "new")
    after = TASK.cohort_of(admitted(tmp_path / "new").tables)
    seen = {name for name, row in zip(after.patient_ids, after.values, strict=True) if row[column] == pytest.approx(12.544)}
    assert seen == {patient}


def test_images_that_nobody_else_needs_are_not_touched(run: Run, tables: Path, tmp_path: Path) -> None:
    put(image_path(tables / "images", "S1", "01", "PDw"), b"no image, and none that is measured")
    told, _ = run("--folder", tables, "--out", tmp_path / "new", "--json")
    assert "mask_unusable" not in shown(told)["not_measured"]
    assert rows(tmp_path / "new")[0]["t2_vol_ml"] != ""
