"""Two sessions of a patient that follow each other, as one scan: what is new in the later one is asked of both together.

The images of the earlier session stand beside those of the later one under the names of `layout.EARLIER`. The truth is a mask of
new lesions, if somebody has drawn one; else, where both sessions have lesion masks, the lesions of the later one that touch none of
the earlier one (`measures.new_between`), worked out when the pair is prepared. A mask of all change is none: what shrank is in it.
Names and headers alone are looked at here; whether both sessions show the head in one place shows when a pair is prepared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Final

from tasks.imaging.layout import EARLIER, MODALITIES
from tasks.imaging.store import Scan

MAIN: Final = "FLAIR"  # both sessions have it: lesions are seen on it, and by it the two are compared
NUMBER: Final = re.compile(r"([0-9]+)")
EARLIER_OF: Final[Mapping[str, str]] = dict(zip(MODALITIES, EARLIER, strict=True))


def pairs_of(scans: Sequence[Scan]) -> tuple[Scan, ...]:
    """The pairs of every patient's sessions, in the order of `scans`: by patient, then day, then session, as a store has them.

    Without days the numbers in the sessions' names are their order; names that differ in more, as pre and post do, have none: a
    pair the wrong way round would take for new what is gone.
    """
    return tuple(pair for _, own in groupby(scans, key=lambda scan: scan.patient) for pair in _pairs(list(own)))


def _pairs(own: Sequence[Scan]) -> Iterator[Scan]:
    """Of one patient. Where some sessions have a day, those without one have no place among them; two of one day have no order."""
    dated = [scan for scan in own if scan.day is not None] or list(own)
    with_main = [scan for scan in dated if MAIN in scan.images]
    for earlier, later in pairwise(with_main):
        if _follows(later, earlier):
            yield _pair(earlier, later, next_to=own[own.index(later) - 1] is earlier)


def _follows(later: Scan, earlier: Scan) -> bool:
    """Of one patient, either both with a day or both without."""
    if later.day is not None and earlier.day is not None:
        return later.day > earlier.day
    last, first = NUMBER.split(later.session), NUMBER.split(earlier.session)  # words and numbers in turn
    return last[::2] == first[::2] and [int(each) for each in last[1::2]] > [int(each) for each in first[1::2]]


def _pair(earlier: Scan, later: Scan, *, next_to: bool) -> Scan:
    """`next_to`: no other session lies between them, so the later one's mask of new lesions is about these two."""
    images = dict(later.images) | {EARLIER_OF[name]: path for name, path in earlier.images.items()}
    if next_to and later.new is not None:
        return replace(later, images=images, before=earlier, mask=later.new)
    if later.mask is not None and earlier.mask is not None:
        return replace(later, images=images, before=earlier, old_mask=earlier.mask)
    return replace(later, images=images, before=earlier, mask=None)
