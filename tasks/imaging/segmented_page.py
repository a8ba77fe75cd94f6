"""What a segmenter found in a hospital's scans, to look at: slices with outlines, results against drawn masks. It stays there.

One file without script or request: pictures are inside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from privacy.report_html import Html, element, join, paragraph, tag, text
from tasks.imaging.results import Cuts, Session, by_load, by_scanner, drawn_of, row_of
from tasks.imaging.results_html import agreement, keys, results_table, sizes_table, slices
from tasks.imaging.results_style import STYLE
from tasks.imaging.task import CAUTION, LOAD_CUTS_ML, TOO_SURE
from tasks.ms.pages import cards, page, section

LOCAL: Final = "This page shows patients' images and names them by pseudonym: it stays in the hospital."
SHOWN_MOST: Final = 60  # sessions with pictures on one page; the numbers of all are in segmented.csv
INTERVALS: Final = (
    "In brackets: 95 % intervals for a new sample of patients. Dice is of sessions with drawn lesions. A lesion has at least 3 mm3 "
    "and is found if one voxel of it is; sizes are those of drawn lesions."
)


def segmented_page(sessions: Sequence[Session], *, model: str, made: str, cuts_ml: Cuts = LOAD_CUTS_ML) -> str:
    """`model`: which it is and what its privacy is, as people read it; `made`: when; `cuts_ml`: between the task's lesion loads."""
    drawn = drawn_of(sessions)
    head = [
        element("h1", "Lesions as a model finds them"),
        paragraph(f"{model}. {made}", class_="sub"),
        paragraph(LOCAL, class_="local"),
        paragraph(CAUTION),
        *([paragraph(TOO_SURE)] if drawn else []),
        cards(_figures(sessions)),
    ]
    parts = [_results(drawn, cuts_ml)] if drawn else []
    if len(drawn) > 1:
        parts.append(section("agreement", "Volumes, against drawn masks", agreement(drawn, "drawn")))
    worst = sorted(sessions, key=lambda each: math.inf if each.found.dice is None else each.found.dice)[:SHOWN_MOST]
    body = [keys("drawn by somebody", drawn=bool(drawn)), *map(_session, worst)]
    if len(sessions) > SHOWN_MOST:
        body.insert(0, paragraph(f"{SHOWN_MOST} of {len(sessions)}, those with the lowest Dice; segmented.csv has all numbers."))
    parts.append(section("sessions", "Sessions, the worst first" if drawn else "Sessions", *body))
    return page("Lesions as a model finds them", [*head, *parts], pictures=True, style=STYLE)


def _figures(sessions: Sequence[Session]) -> list[tuple[str, str]]:
    dice = [each.scores.dice for each in drawn_of(sessions) if each.scores.true_ml > 0]
    facts = [("sessions", f"{len(sessions):,}"), ("lesions found", f"{sum(each.found.lesions for each in sessions):,}")]
    if dice:
        facts += [("sessions with drawn lesions", f"{len(dice):,}"), ("mean Dice of these", f"{np.mean(dice):.2f}")]
    return facts


def _results(drawn: Sequence[Session], cuts_ml: Cuts) -> Html:
    return section(
        "results",
        "Results, against drawn masks",
        results_table("By scanner", "scanner", by_scanner(drawn), second="drawn"),
        results_table("By lesion load", "drawn lesion load", by_load(drawn, cuts_ml), second="drawn"),
        sizes_table("Single lesions by size", row_of("all", drawn)),
        paragraph(INTERVALS, class_="note"),
    )


def _session(each: Session) -> Html:
    found = each.found
    facts = [f"{found.lesion_ml:.2f} mL in {found.lesions} lesions"]
    if found.drawn_ml is not None:
        facts.append(f"drawn: {found.drawn_ml:.2f} mL")
    words: list[Html] = [text("; ".join(facts) + " ")]
    if found.dice is not None:
        words.append(tag(f"Dice {found.dice:.2f}", "good" if found.dice >= 0.5 else "mind"))
    shown = slices([("", picture) for picture in found.pictures])
    return element("div", join([element("h3", each.name), element("p", join(words)), shown]), class_="finding")
