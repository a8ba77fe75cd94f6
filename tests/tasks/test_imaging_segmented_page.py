"""The page of a segmenter's masks: real PNG files, outlines where masks end, the right side on the left, no request to anywhere."""

import struct
import zlib

import numpy as np
import pytest

from tasks.imaging.outlines import BOTH, DRAWN, FOUND, pictures
from tasks.imaging.results import Segmented, Session
from tasks.imaging.segmentation_scores import ScanScores
from tasks.imaging.segmented_page import SHOWN_MOST, segmented_page

SHAPE = (20, 24, 12)


def decoded(png: bytes) -> np.ndarray:
    """RGB (rows, columns, 3), read by the standard: check sums, sizes, rows without filter."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + length
    columns, rows, bits, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (bits, colour) == (8, 2)
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, 1 + 3 * columns)
    assert not raw[:, 0].any()
    return raw[:, 1:].reshape(rows, columns, 3)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """One lesion right of the middle that both have, one left of it that only one has."""
    found, drawn = np.zeros(SHAPE, np.bool_), np.zeros(SHAPE, np.bool_)
    found[14:18, 10:14, 5] = drawn[14:18, 10:14, 5] = True
    drawn[3:6, 4:8, 9] = True
    return found, drawn


def test_outlines_have_the_colours_of_the_legend_and_the_right_side_is_on_the_left() -> None:
    found, drawn = masks()
    image = np.random.default_rng(1).normal(100, 10, SHAPE).astype(np.float32)
    shown = dict(pictures(image, found, drawn, (2.0, 2.0, 2.0)))
    assert list(shown) == ["slice 6 of 12", "slice 10 of 12"]
    first, second = (decoded(png) for png in shown.values())
    both = np.argwhere((first == BOTH).all(axis=2))
    assert len(both)
    assert both[:, 1].max() < first.shape[1] / 2  # x grows towards the patient's right
    alone = np.argwhere((second == DRAWN).all(axis=2))
    assert alone[:, 1].min() > second.shape[1] / 2
    assert alone[:, 0].mean() > second.shape[0] / 2  # towards the back of the head: below
    assert not (second == FOUND).all(axis=2).any()


def test_pixels_are_as_long_as_they_are_wide_whatever_voxels_are() -> None:
    found, drawn = masks()
    image = np.zeros(SHAPE, np.float32)
    (_, png), *_ = pictures(image, found, drawn, (3.0, 1.0, 2.0))
    rows, columns = decoded(png).shape[:2]
    assert columns / rows == pytest.approx(3.0 * SHAPE[0] / SHAPE[1], rel=0.1)


def test_a_scan_without_lesions_shows_its_middle() -> None:
    nothing = np.zeros(SHAPE, np.bool_)
    shown = pictures(np.ones(SHAPE, np.float32), nothing, None, (2.0, 2.0, 2.0))
    assert [words for words, _ in shown] == ["slice 7 of 12"]


def session(number: int, dice: float | None, scanner: str = "") -> Session:
    scores = ScanScores(dice or 0.0, 4.0 if dice else 0.0, 5.0 + number, 2.0, (0, 2, 1), (0, 1, 1), 3, 2)
    return Session(f"P<{number:03d}>", str(number), scanner, Segmented(scores, dice is not None, (("slice 1 of 2", b"png"),)))


def test_the_worst_come_first_names_are_escaped_and_the_page_asks_nobody_for_anything() -> None:
    page = segmented_page([session(1, 0.9), session(2, 0.2)], model="a <model>", made="now")
    assert page.index("<h3>P&lt;002&gt;") < page.index("<h3>P&lt;001&gt;")
    assert "a &lt;model&gt;" in page
    assert "Bland and Altman" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "img-src data:" in page
    assert "stays in the hospital" in page


def test_results_are_by_scanner_load_and_size_of_lesions() -> None:
    page = segmented_page([session(1, 0.9, "Acme <1> 3T"), session(2, 0.2), session(3, None, "Unseen 1.5T")], model="m", made="now")
    assert "Acme &lt;1&gt; 3T" in page
    assert "not named" in page
    assert "Unseen" not in page
    for words in ("By scanner", "By lesion load", "Single lesions by size", "below 0.1 mL", "1 of 2", "2 to 12 mL"):
        assert words in page


def test_without_drawn_masks_there_is_no_agreement_and_of_many_sessions_not_all_are_shown() -> None:
    page = segmented_page([session(number, None) for number in range(SHOWN_MOST + 5)], model="m", made="now")
    assert "Bland" not in page
    assert page.count("<img ") == SHOWN_MOST
    assert f"of {SHOWN_MOST + 5}" in page
