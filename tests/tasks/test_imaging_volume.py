"""NIfTI files read strictly and written reproducibly; nothing a header claims is believed before it is checked."""

import gzip
import os
import pickle
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import AFFINE, SHAPE, lesion, nifti, patched, put, voxels

from tasks.imaging.errors import ImageError
from tasks.imaging.header import parse_header, read_header
from tasks.imaging.rules import rule_called
from tasks.imaging.volume import Volume, read_image, read_lesions, read_mask, read_volume, write_volume

MIB = 1 << 20
DATA = voxels("one")


def refused(path: Path, code: str) -> str:
    """The sentence with which the file is refused."""
    with pytest.raises(ImageError) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert rule_called(code).severity == "error"
    assert path.name not in str(caught.value)
    return caught.value.sentence


# -- reading and writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "int32", "uint16"])
def test_what_nibabel_wrote_is_read_as_nibabel_reads_it(tmp_path: Path, ending: str, dtype: str) -> None:
    data = (DATA / 4).astype(dtype)
    path = put(tmp_path / f"a{ending}", nifti(data))
    volume = read_volume(path)
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, data.astype(np.float32))
    assert np.allclose(volume.affine, AFFINE)
    assert volume.spacing == (2.0, 2.0, 2.0)
    assert volume.shape == SHAPE


def test_big_endian_files_and_version_2_are_read(tmp_path: Path) -> None:
    swapped = nib.Nifti1Image(DATA.astype(">f4"), AFFINE, nib.Nifti1Header(endianness=">"))
    swapped.set_sform(AFFINE, code=1)
    newer = nib.Nifti2Image(DATA, AFFINE)
    newer.set_sform(AFFINE, code=1)
    for number, image in enumerate([swapped, newer]):
        path = put(tmp_path / f"{number}.nii.gz", image.to_bytes())
        assert np.array_equal(read_volume(path).data, DATA)
        assert np.allclose(read_volume(path).affine, AFFINE)


def test_intensities_are_scaled_as_the_header_says(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.nii", patched(nifti(np.full(SHAPE, 7, np.int16) + np.indices(SHAPE)[0].astype(np.int16)), slope=(0.5, 10.0))
    )
    assert read_volume(path).data[0, 0, 0] == 13.5
    assert np.array_equal(read_volume(path).data, nib.load(path).get_fdata(dtype=np.float32))


def test_equal_volumes_are_written_as_equal_bytes_and_read_back(tmp_path: Path) -> None:
    volume = Volume(DATA, AFFINE)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").data, DATA)
    assert read_image(tmp_path / "a.nii.gz").remarks == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]
    assert np.array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(dtype=np.float32), DATA)


def test_a_value_that_does_not_fit_the_type_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="uint8"):
        write_volume(tmp_path / "a.nii.gz", Volume(DATA, AFFINE), "uint8")
    assert not list(tmp_path.iterdir())


def test_canonical_turns_the_axes_and_moves_no_voxel() -> None:
    affine = np.array([[0, 0, -3.0, 20], [-2, 0, 0, 30], [0, 1.5, 0, -4], [0, 0, 0, 1]])
    turned = Volume(DATA, affine).canonical()
    assert nib.aff2axcodes(turned.affine) == ("R", "A", "S")
    assert turned.spacing == (3.0, 2.0, 1.5)
    for index in [(0, 0, 0), (3, 7, 9), (11, 10, 9)]:
        place = affine @ [*index, 1]
        there = np.rint(np.linalg.inv(turned.affine) @ place).astype(int)[:3]
        assert turned.data[tuple(there)] == DATA[index]


def test_only_equal_voxels_have_equal_digests_whatever_the_compression(tmp_path: Path) -> None:
    one, other = put(tmp_path / "a.nii", nifti(DATA)), put(tmp_path / "b.nii.gz", nifti(DATA))
    changed = DATA.copy()
    changed[3, 3, 3] += 1
    third = put(tmp_path / "c.nii.gz", nifti(changed))
    assert read_image(one).digest == read_image(other).digest != read_image(third).digest


def test_voxels_that_are_no_numbers_become_0_and_are_told(tmp_path: Path) -> None:
    data = DATA.copy()
    data[0, 0, :3] = [np.nan, np.inf, -np.inf]
    read = read_image(put(tmp_path / "a.nii.gz", nifti(data)))
    assert read.volume.data[0, 0, :3].tolist() == [0, 0, 0]
    assert [(each.code, each.found) for each in read.remarks] == [("not_finite", f"3 of {DATA.size} voxels")]


def test_a_mask_is_0_and_1_whatever_marks_it(tmp_path: Path) -> None:
    mask = lesion("a")
    for value in (1, 255):
        assert np.array_equal(read_mask(put(tmp_path / "a.nii.gz", nifti(mask * np.uint8(value)))).data, mask)
    soft = np.where(mask, np.float32(0.7), np.float32(0))
    soft[0, 0, 0] = 0.2
    read = read_lesions(put(tmp_path / "b.nii.gz", nifti(soft)))
    assert read.volume.data[0, 0, 0] == 0
    assert [each.code for each in read.remarks] == ["mask_fractions"]


def test_a_mask_of_fractions_that_rounding_moved_past_0_or_1_is_cut_like_any_other(tmp_path: Path) -> None:
    mask = lesion("a")
    soft = mask.astype(np.float32)
    soft[tuple(np.argwhere(mask)[0])] = 1.0001
    soft[tuple(np.argwhere(mask == 0)[0])] = -1e-7
    read = read_lesions(put(tmp_path / "a.nii.gz", nifti(soft)))
    assert np.array_equal(read.volume.data, mask)
    assert [each.code for each in read.remarks] == ["mask_fractions"]
    for wrong in (-0.1, 1.1):
        soft[0, 0, 0] = wrong
        with pytest.raises(ImageError) as caught:
            read_mask(put(tmp_path / "b.nii.gz", nifti(soft)))
        assert caught.value.code == "mask_values"


@pytest.mark.parametrize("codes", [(1, 0), (1, 1)])
def test_a_qfac_of_0_counts_as_1_as_the_format_has_it(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = put(tmp_path / "a.nii.gz", patched(nifti(DATA), codes=codes, pixdim=(0, 2, 2, 2, 1, 1, 1, 1)))
    read = read_image(path)
    assert np.allclose(read.volume.affine, nib.load(path).affine)
    assert np.allclose(read.volume.affine, AFFINE)
    assert read.remarks == ()


def test_a_qform_that_is_none_hinders_no_image_with_an_sform_and_is_told(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", patched(nifti(DATA), quatern=(5.0, 5.0, 5.0, 0, 0, 0)))
    read = read_image(path)
    assert np.allclose(read.volume.affine, AFFINE)
    assert [each.code for each in read.remarks] == ["forms_differ"]


def test_a_file_that_is_replaced_while_it_is_read_is_one_of_the_two_and_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped = np.diag([-1.0, 1, 1, 1]) @ AFFINE
    path, other = put(tmp_path / "a.nii.gz", nifti(DATA)), put(tmp_path / "b.nii.gz", nifti(voxels("two"), flipped))
    opened = Path.open

    def swapping(self: Path, mode: str = "r") -> object:
        handle = opened(self, mode)
        if other.exists():
            other.replace(path)
        return handle

    monkeypatch.setattr(Path, "open", swapping)
    read = read_volume(path)
    assert not other.exists()
    assert np.array_equal(read.data, DATA)
    assert np.allclose(read.affine, AFFINE)


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_huge_sizes_in_a_header_are_refused_without_memory_for_them(tmp_path: Path) -> None:
    absurd = put(tmp_path / "a.nii.gz", patched(nifti(DATA), dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)))
    large = put(tmp_path / "b.nii.gz", patched(nifti(DATA), dim=(3, 512, 512, 512, 1, 1, 1, 1)))
    plain = put(tmp_path / "c.nii", patched(nifti(DATA), dim=(3, 512, 512, 512, 1, 1, 1, 1)))
    tracemalloc.start()
    try:
        refused(absurd, "too_large")
        refused(large, "damaged")
        refused(plain, "damaged")
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_file_that_unpacks_without_end_is_refused_without_memory_for_it(tmp_path: Path) -> None:
    bomb = put(tmp_path / "a.nii.gz", nifti(DATA) + bytes(64 * MIB))
    tracemalloc.start()
    try:
        refused(bomb, "damaged")
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 1, 2, 100, 347])
def test_less_than_a_header_is_refused(tmp_path: Path, keep: int) -> None:
    refused(put(tmp_path / "a.nii", nifti(DATA)[:keep]), "unreadable")
    refused(put(tmp_path / "b.nii.gz", nifti(DATA)[:keep]), "unreadable")


def test_empty_text_and_uncompressed_files_named_gz_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"no image", nifti(DATA)):
        (tmp_path / "a.nii.gz").write_bytes(content)
        refused(tmp_path / "a.nii.gz", "unreadable")


def test_every_truncation_of_a_compressed_file_is_refused(tmp_path: Path) -> None:
    whole, path = gzip.compress(nifti(DATA), 1), tmp_path / "a.nii.gz"
    for keep in range(0, len(whole), 97):
        path.write_bytes(whole[:keep])
        with pytest.raises(ImageError) as caught:
            read_volume(path)
        assert caught.value.code in ("damaged", "unreadable")


def test_a_turned_bit_in_a_compressed_file_is_refused(tmp_path: Path) -> None:
    whole, path = gzip.compress(nifti(DATA), 1), tmp_path / "a.nii.gz"
    for place in range(2000, len(whole), 499):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        refused(path, "damaged")


def test_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    os.mkfifo(tmp_path / "b.nii.gz")
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        with pytest.raises(ImageError) as caught:
            read_header(tmp_path / name)
        assert caught.value.code == "unreadable"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"magic": (b"ni1\0",)}, "unreadable"),
        ({"dim": (0, 1, 1, 1, 1, 1, 1, 1)}, "unreadable"),
        ({"dim": (3, 12, -11, 10, 1, 1, 1, 1)}, "unreadable"),
        ({"datatype": (128,)}, "unreadable"),  # colour
        ({"datatype": (32,)}, "unreadable"),  # complex
        ({"datatype": (7777,)}, "unreadable"),
        ({"vox_offset": (8.0,)}, "unreadable"),
        ({"vox_offset": (float("nan"),)}, "unreadable"),
        ({"vox_offset": (1e9,)}, "unreadable"),
        ({"slope": (float("inf"), 0.0)}, "unreadable"),
        ({"srow": (float("nan"),) * 12}, "affine"),
        ({"srow": (0.0,) * 12}, "affine"),
        ({"srow": (2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 2, 0)}, "affine"),  # two axes are one
        ({"srow": (2, 1, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0)}, "affine"),  # sheared
        ({"codes": (1, 0), "quatern": (5.0, 5.0, 5.0, 0, 0, 0)}, "affine"),
        ({"codes": (0, 0)}, "no_position"),
        ({"pixdim": (1, 0, 2, 2, 1, 1, 1, 1)}, "spacing"),
        ({"pixdim": (1, 2, -2, 2, 1, 1, 1, 1)}, "spacing"),
        ({"pixdim": (1, 2, float("nan"), 2, 1, 1, 1, 1)}, "spacing"),
    ],
)  # fmt: skip
def test_an_impossible_header_is_refused(tmp_path: Path, fields: dict[str, tuple[object, ...]], code: str) -> None:
    refused(put(tmp_path / "a.nii.gz", patched(nifti(DATA), **fields)), code)


@pytest.mark.parametrize(
    ("spacing", "unit", "code"),
    [(200.0, "mm", "spacing"), (0.001, "mm", "spacing"), (1e6, "micron", "spacing"), (30.0, "meter", "spacing")],
)
def test_voxels_that_no_head_has_are_refused_in_every_unit(tmp_path: Path, spacing: float, unit: str, code: str) -> None:
    refused(put(tmp_path / "a.nii.gz", nifti(DATA, np.diag([spacing, spacing, spacing, 1]), unit)), code)


@pytest.mark.parametrize(
    ("spacing", "unit", "code"),
    [
        (0.002, "meter", "units"),
        (2000.0, "micron", "units"),
        (2.0, "meter", "units"),
        (2.0, "micron", "units"),
        (2.0, "unknown", "units_unknown"),
    ],
)
def test_a_length_in_another_unit_is_read_as_the_one_a_head_can_have(tmp_path: Path, spacing: float, unit: str, code: str) -> None:
    header = read_header(put(tmp_path / "a.nii.gz", nifti(DATA, np.diag([spacing, spacing, spacing, 1]), unit)))
    assert np.allclose(header.affine, np.diag([2, 2, 2, 1]))
    assert [remark.code for remark in header.remarks] == [code]


# -- whatever the bytes -------------------------------------------------------------------------------------------------------

HEADER = nifti(DATA)[:352] + bytes(188)


@given(st.lists(st.tuples(st.integers(0, 539), st.integers(0, 255)), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's remark on numbers as absurd as these; the header is judged after it
def test_a_header_with_any_bytes_changed_is_read_or_refused_and_never_fails_otherwise(changes: list[tuple[int, int]]) -> None:
    block = bytearray(HEADER)
    for place, value in changes:
        block[place] = value
    code, header = None, None
    try:
        header = parse_header(bytes(block))
    except ImageError as error:
        code = error.code
    if header is None:
        assert rule_called(str(code)).severity == "error"
    else:
        assert np.isfinite(header.affine).all()
        assert 0 < header.voxel_bytes <= (1 << 27) * 8
        assert all(rule_called(remark.code).severity != "error" for remark in header.remarks)


@given(st.binary(max_size=600))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_that_are_no_header_are_refused(block: bytes) -> None:
    with pytest.raises(ImageError):
        parse_header(block)


def test_a_refusal_can_be_handed_from_one_process_to_another() -> None:
    error = pickle.loads(pickle.dumps(ImageError("flat", "it is empty")))  # noqa: S301 - its own bytes
    assert (type(error), error.code, error.sentence, str(error)) == (ImageError, "flat", "it is empty", "it is empty")
