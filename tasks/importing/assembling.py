"""From drafts to the contract's core tables: index dates, whole days, pseudonyms, one value a cell. No date leaves this module.

Index date of a patient: the first visit with an EDSS that is dated to the day; else the first encounter; else the diagnosis;
else the first EDSS that is dated to the month.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from itertools import groupby
from typing import TYPE_CHECKING, Final

from tasks.importing.bookkeeping import Place
from tasks.importing.dating import CalendarDay, days_since, holds_date, pseudonym, year_band
from tasks.importing.drafts import KEY_DAY, Cell, Draft, Drafts, Value
from tasks.importing.errors import ImportRefused
from tasks.importing.resolving import Keyed, Row, chosen, consent_of, one_edss_a_day, places_of, plausible, resolve, sort_out
from tasks.ms.contract import CONTRACT, DRUGS
from tasks.ms.schema import Table

if TYPE_CHECKING:
    import pandas as pd

CORE: Final = ("patients", "visits", "relapses", "treatments", "mri")
# How far the key day of a row may be off: a visit or scan by a month, a relapse by what the contract allows, a therapy by a year.
COARSEST_D: Final[Mapping[str, int]] = {"visits": 16, "mri": 16, "relapses": 90, "treatments": 184}
CORD_MEASURES: Final = frozenset({"cord_csa_mm2"})
BRAIN_MEASURES: Final = frozenset({
    "t2_vol_ml", "t2_count", "new_t2", "enlarging_t2", "bhole_vol_ml", "nbv_ml", "bpf", "gm_ml", "cortical_gm_ml", "thalamus_ml",
    "lat_ventricle_ml", "pbvc_pct_y", "prl_count", "sel_count", "gd_count",
})  # fmt: skip


def assemble(drafts: Drafts, key: bytes, *, keep_ids: bool, recorded: str) -> dict[str, pd.DataFrame]:
    """The tables that have rows, with all columns of the contract; `recorded` is the `source` of rows that state none."""
    for draft in (*drafts.people.values(), *drafts.rows):
        sort_out(draft, drafts)
    rows = [(row, resolve(row, drafts)) for row in drafts.rows if not row.latent]
    rows = one_edss_a_day(rows, drafts)
    index = _index_dates(rows, drafts)
    names = {person: pseudonym(draft.name, key, keep=keep_ids) for person, draft in drafts.people.items()}
    made: dict[str, list[tuple[tuple[Place, ...], Row]]] = {name: [] for name in CORE}
    for person, draft in drafts.people.items():
        made["patients"].append((tuple(draft.places), _patient(draft, index.get(person), names[person], drafts)))
    for draft, values in rows:
        day = _key_day(draft, values, index, drafts)
        if day is not None:
            row = _row(draft, values, index[draft.person], drafts) | {KEY_DAY[draft.table]: day, "patient_id": names[draft.person]}
            if row.get("bids_sub") == drafts.people[draft.person].name:  # the hospital's number, under which the images lie
                row["bids_sub"] = names[draft.person]
            _complete(draft, row, key, keep_ids=keep_ids)
            made[draft.table].append((places_of(draft), row))
    for name in CORE[1:]:
        made[name] = _one_row_a_key(made[name], CONTRACT.table(name), drafts)
    return {name: _frame(CONTRACT.table(name), [row for _, row in made[name]], recorded) for name in CORE if made[name]}


def _index_dates(rows: Iterable[Keyed], drafts: Drafts) -> dict[str, date]:
    scored: dict[str, list[CalendarDay]] = {}
    for draft, values in rows:
        if draft.table == "visits" and "edss" in values and draft.day is not None:
            scored.setdefault(draft.person, []).append(draft.day)
    index = {}
    for person, draft in drafts.people.items():
        diagnosed = [cell.value for cell in draft.cells.get("diagnosis_day", ()) if isinstance(cell.value, CalendarDay)]
        edss = scored.get(person, [])
        to_the_day = [each for each in edss if not each.precision_d]
        to_the_month = [each for each in edss if 0 < each.precision_d <= COARSEST_D["visits"]]
        for days in (to_the_day, drafts.seen.get(person, []), diagnosed, to_the_month):
            known = [each for each in days if plausible(each)]
            if exact := [each.day for each in known if not each.precision_d] or [each.day for each in known]:
                index[person] = min(exact)
                break
    return index


def _patient(draft: Draft, index: date | None, name: str, drafts: Drafts) -> Row:
    """Earliest onset and diagnosis; a comorbidity found once; the consent; else the value closest to the index date."""
    row: Row = {"patient_id": name}
    for place in draft.places:
        drafts.book.use(place)
    table = CONTRACT.table("patients")
    for column, cells in draft.cells.items():
        kind = table.column(column).kind
        if kind == "day" and index is None:
            for cell in cells:
                drafts.book.leave(cell.place, "no_index_date", "patients", column)
            continue
        if column == "consent_scope":
            row[column], kept = consent_of(cells), cells
        else:
            kept = chosen(column, kind, cells, index, drafts)
            row[column] = _plain(kept[0], index, "patients", column, drafts) if kept else None
        for cell in kept:
            drafts.book.use(cell.place)
    if index is not None:
        row["year_band"] = year_band(index)
    return row


def _key_day(draft: Draft, values: Row, index: Mapping[str, date], drafts: Drafts) -> int | None:
    """Day of the row; None if it cannot be dated well enough, which is said of every record of the row."""
    rule = ""
    stated = values.get("onset_precision_d")
    if draft.day is None:
        rule = "no_date"
    elif not plausible(draft.day):
        rule = "implausible_date"
    elif draft.person not in index:
        rule = "no_index_date"
    elif max(draft.day.precision_d, stated if isinstance(stated, int) else 0) > COARSEST_D[draft.table]:
        rule = "date_too_coarse"
    if rule or draft.day is None:
        for place in places_of(draft):
            drafts.book.leave(place, rule, draft.table, KEY_DAY[draft.table])
        return None
    if draft.day.precision_d:
        for place in draft.places or places_of(draft)[:1]:
            drafts.book.note(place, "partial_date", draft.table, KEY_DAY[draft.table])
    return days_since(index[draft.person], draft.day.day)


def _row(draft: Draft, values: Row, index: date, drafts: Drafts) -> Row:
    for place in draft.places:
        drafts.book.use(place)
    row: Row = {}
    for column, value in values.items():
        cells = draft.cells[column]
        row[column] = _plain(Cell(value, cells[0].place) if value is not None else cells[0], index, draft.table, column, drafts)
        for cell in cells:
            drafts.book.use(cell.place)
    if draft.day is not None and draft.day.precision_d:
        if draft.table == "relapses":
            stated = row.get("onset_precision_d")
            row["onset_precision_d"] = max(draft.day.precision_d, stated if isinstance(stated, int) else 0)
        else:
            row["quality"] = "suspect"
    return row


def _plain(cell: Cell, index: date | None, table: str, column: str, drafts: Drafts) -> Value | None:
    """A calendar day as the contract's whole day; anything else as it is."""
    if not isinstance(cell.value, CalendarDay):
        return cell.value
    if index is None:
        return None
    if cell.value.precision_d:
        drafts.book.note(cell.place, "partial_date", table, column)
    return days_since(index, cell.value.day)


def _complete(draft: Draft, row: Row, key: bytes, *, keep_ids: bool) -> None:
    """What follows from the rest of the row: names, the class of a drug, the region that was measured."""
    day = row[KEY_DAY[draft.table]]
    if draft.table == "visits":
        row["visit_id"] = _name(draft.name, key, keep_ids=keep_ids) if draft.name else f"d{day}"
        if (rater := row.get("rater_id")) is not None:
            row["rater_id"] = _name(str(rater), key, keep_ids=keep_ids)
    if draft.table == "mri":
        row["scan_id"] = _name(draft.name, key, keep_ids=keep_ids) if draft.name else f"s{day}"
        row.setdefault("region", _region(row))
    if draft.table == "treatments" and "dmt_class" not in row:
        classes = DRUGS[str(row["drug"])][1]
        row["dmt_class"] = classes[0] if classes else None
    for end in ("end_day",):  # a month's middle may lie before the known first day; the true end does not
        first, last = row[KEY_DAY[draft.table]], row.get(end)
        ends = [cell.value for cell in draft.cells.get(end, ()) if isinstance(cell.value, CalendarDay)]
        if ends and isinstance(first, int) and isinstance(last, int) and last < first <= last + ends[0].precision_d:
            row[end] = first


def _name(written: str, key: bytes, *, keep_ids: bool) -> str:
    """The name of a visit, a scan or a rater; one that holds a calendar date is never kept."""
    return pseudonym(written, key, keep=keep_ids and not holds_date(written))


def _region(row: Row) -> str:
    measured = {column for column, value in row.items() if value is not None}
    brain, cord = bool(measured & BRAIN_MEASURES), bool(measured & CORD_MEASURES)
    return "both" if brain and cord else "cord" if cord else "brain"


def _one_row_a_key(made: list[tuple[tuple[Place, ...], Row]], table: Table, drafts: Drafts) -> list[tuple[tuple[Place, ...], Row]]:
    """Rows sorted by key; of equal rows one, of different rows with one key none, as the contract's validation has it."""

    def key_of(each: tuple[tuple[Place, ...], Row]) -> tuple[Value | None, ...]:
        return tuple(each[1].get(name) for name in table.key)

    kept = []
    for _, group in groupby(sorted(made, key=lambda each: tuple(map(_sortable, key_of(each)))), key=key_of):
        same = list(group)
        equal = all(each[1] == same[0][1] for each in same)
        for places, _row_values in same[1:] if equal else same if len(same) > 1 else ():
            for place in places:
                drafts.book.fates[place] = "unaccounted"
                drafts.book.leave(place, "repeated" if equal else "one_key", table.name, ", ".join(table.key))
        if equal:
            kept.append(same[0])
    return kept


def _sortable(part: Value | None) -> tuple[int, float, str]:
    return (0, float(part), "") if isinstance(part, int | float) else (1, 0.0, str(part))


def _frame(table: Table, rows: list[Row], recorded: str) -> pd.DataFrame:
    import pandas as pd

    columns = {}
    for column in table.columns:
        cells = [row.get(column.name) for row in rows]
        if column.name == "source":
            cells = [cell or recorded for cell in cells]
        columns[column.name] = pd.Series(cells, dtype="float64" if column.numeric else object)
    return pd.DataFrame(columns)


def check_recorded(recorded: str) -> None:
    """`ImportRefused` if the contract has no such `source`."""
    known = CONTRACT.table("patients").column("source").vocabulary
    if recorded not in known:
        raise ImportRefused(f"rows are recorded as one of {', '.join(known)}")
