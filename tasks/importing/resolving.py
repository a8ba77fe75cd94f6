"""One value a cell and one EDSS a day, where records say more than one thing: which counts, and what is said of the others."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Final

from tasks.importing.bookkeeping import Place
from tasks.importing.dating import CalendarDay, days_since
from tasks.importing.drafts import Cell, Draft, Drafts, Value, edss_rank
from tasks.importing.values import NO_END_YEAR
from tasks.ms.schema import SEPARATOR

FIRST_YEAR: Final = 1920  # the contract knows no earlier birth
EDSS_PARTS: Final = ("edss", "edss_method", "rater_id")
WITHDRAWN: Final = "withdrawn"

Row = dict[str, Value | None]
Keyed = tuple[Draft, Row]


def plausible(day: CalendarDay) -> bool:
    """Whether it can be a day of somebody's life, and no database's word for unknown, such as 1900-01-01."""
    return FIRST_YEAR <= day.day.year <= NO_END_YEAR


def sort_out(row: Draft, drafts: Drafts) -> None:
    """Take out the days that cannot be."""
    for column, cells in list(row.cells.items()):
        for cell in cells:
            if isinstance(cell.value, CalendarDay) and not plausible(cell.value):
                drafts.book.leave(cell.place, "implausible_date", row.table, column)
        kept = [cell for cell in cells if not isinstance(cell.value, CalendarDay) or plausible(cell.value)]
        row.cells[column] = kept
        if not kept:
            del row.cells[column]


def places_of(draft: Draft) -> tuple[Place, ...]:
    """Every record that a row is made from."""
    return (*draft.places, *(cell.place for cells in draft.cells.values() for cell in cells))


def resolve(row: Draft, drafts: Drafts) -> Row:
    """One value for each column; where two differ, none. Of two EDSS the better method decides first."""
    if len(row.cells.get("edss", ())) > 1:
        _best_edss(row, drafts)
    values: Row = {}
    for column, cells in row.cells.items():
        if len(cells) > 1 and len({cell.value for cell in cells}) > 1:
            for cell in cells:
                drafts.book.leave(cell.place, "two_values", row.table, column)
        else:
            values[column] = cells[0].value
    return values


def _best_edss(row: Draft, drafts: Drafts) -> None:
    methods = {cell.place: cell.value for cell in row.cells.get("edss_method", ())}
    best = min(edss_rank(methods.get(cell.place)) for cell in row.cells["edss"])
    losing = {cell.place for cell in row.cells["edss"] if edss_rank(methods.get(cell.place)) > best}
    for place in losing:
        drafts.book.leave(place, "lower_ranked_edss", "visits", "edss")
    winners = [cell for cell in row.cells["edss"] if cell.place not in losing]
    if len({cell.value for cell in winners}) == 1:  # equal twice: one is kept, with its own method and rater
        for cell in winners[1:]:
            drafts.book.leave(cell.place, "repeated", "visits", "edss")
            losing.add(cell.place)
    for column in EDSS_PARTS:
        if column in row.cells:
            row.cells[column] = [cell for cell in row.cells[column] if cell.place not in losing]
    row.cells = {column: cells for column, cells in row.cells.items() if cells}


def one_edss_a_day(rows: list[Keyed], drafts: Drafts) -> list[Keyed]:
    """Of the EDSS of one patient on one day the best method's stays; of equal ones the first; of different ones none."""
    scored: dict[tuple[str, date], list[Keyed]] = {}
    for draft, values in rows:
        if draft.table == "visits" and "edss" in values and draft.day is not None:
            scored.setdefault((draft.person, draft.day.day), []).append((draft, values))
    for same in scored.values():
        if len(same) > 1:
            best = min(edss_rank(values.get("edss_method")) for _, values in same)
            top = [each for each in same if edss_rank(each[1].get("edss_method")) == best]
            agree = len({values["edss"] for _, values in top}) == 1
            for each in same:
                if each is top[0] and agree:
                    continue
                rule = "lower_ranked_edss" if each not in top else "equal_edss_one_day" if agree else "two_edss_one_day"
                _drop_edss(each, rule, drafts)
    return rows


def _drop_edss(each: Keyed, rule: str, drafts: Drafts) -> None:
    draft, values = each
    for column in EDSS_PARTS:
        for cell in draft.cells.get(column, ()):
            drafts.book.leave(cell.place, rule, "visits", "edss")
        values.pop(column, None)


def chosen(column: str, kind: str, cells: list[Cell], index: date | None, drafts: Drafts) -> list[Cell]:
    """The cells that agree on the value to take; what is said of the others."""
    rule = "not_closest"
    if kind == "day" and column != "death_day":
        best = min(cells, key=lambda cell: cell.value.day if isinstance(cell.value, CalendarDay) else date.max)
        rule = "not_earliest"
    elif kind == "flag":
        best = max(cells, key=lambda cell: cell.value if isinstance(cell.value, int) else 0)
    else:
        distance = [_distance(cell, index) for cell in cells]
        nearest = [cell for cell, far in zip(cells, distance, strict=True) if far == min(distance)]
        if len({cell.value for cell in nearest}) > 1:
            for cell in cells:
                drafts.book.leave(cell.place, "two_values", "patients", column)
            return []
        best = nearest[0]
    for cell in cells:
        if cell.value != best.value:
            drafts.book.leave(cell.place, rule, "patients", column)
    return [best, *(cell for cell in cells if cell is not best and cell.value == best.value)]


def _distance(cell: Cell, index: date | None) -> int:
    return abs(days_since(index, cell.day.day)) if cell.day is not None and index is not None else 10**6


def consent_of(cells: Iterable[Cell]) -> str:
    """All that was agreed to; a withdrawal outweighs everything, whenever it was recorded."""
    scopes = list(dict.fromkeys(part for cell in cells for part in str(cell.value).split(SEPARATOR)))
    return WITHDRAWN if WITHDRAWN in scopes else SEPARATOR.join(scopes)
