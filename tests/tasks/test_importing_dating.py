"""Dates that are whole, partial or none, pseudonyms, units: what OMOP, FHIR and native files share on their way in."""

import calendar
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.importing.dating import CalendarDay, days_since, holds_date, pseudonym, read_date, year_band
from tasks.importing.errors import ImportRefused
from tasks.importing.fhir_units import convert

KEY = bytes(range(32))
DAYS = st.dates(date(1900, 1, 1), date(2100, 12, 31))
ZONES = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(DAYS)
def test_a_full_date_is_its_day_exactly(day: date) -> None:
    assert read_date(day.isoformat()) == CalendarDay(day, 0)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 12, 31), timezones=ZONES))
def test_a_time_with_a_zone_is_the_day_on_the_clock_where_it_was_written(moment: datetime) -> None:
    assert read_date(moment.isoformat()) == CalendarDay(moment.date(), 0)


@given(DAYS)
def test_a_partial_date_lies_no_further_from_the_true_day_than_it_declares(day: date) -> None:
    for text, widest in ((f"{day:%Y-%m}", 15), (f"{day:%Y}", 183)):
        found = read_date(text)
        assert found is not None
        assert 0 < found.precision_d <= widest
        assert abs((found.day - day).days) <= found.precision_d


@given(st.integers(1900, 2100), st.integers(1, 12))
def test_the_declared_precision_is_reached_by_a_day_of_the_month(year: int, month: int) -> None:
    found = read_date(f"{year}-{month:02d}")
    assert found is not None
    last = date(year, month, calendar.monthrange(year, month)[1])
    assert max((last - found.day).days, (found.day - last.replace(day=1)).days) == found.precision_d


@pytest.mark.parametrize(
    "text",
    ["", "2015-13", "2015-02-29", "15", "2015-3-2", "20.03.2015", "2015-03-20T25:00:00Z", "0000", " 2015", "2015-03-20T10",
     "2015-03-20T10:00:00+99:00", "٢٠١٥", "2015\n"],
)  # fmt: skip
def test_what_is_no_date_gives_none(text: str) -> None:
    assert read_date(text) is None


@given(DAYS, DAYS)
def test_days_run_forward_and_add_up(index: date, day: date) -> None:
    assert index + timedelta(days=days_since(index, day)) == day


@given(DAYS)
def test_a_band_of_years_holds_its_index_date_and_no_other_band_does(day: date) -> None:
    first, last = (int(year) for year in year_band(day).split("-"))
    assert last - first == 2
    assert first <= day.year <= last
    assert year_band(date(first, 1, 1)) == year_band(date(last, 12, 31)) == year_band(day)


def test_the_bands_are_those_that_the_tables_use() -> None:
    assert [year_band(date(year, 6, 1)) for year in (2001, 2006, 2015)] == ["2001-2003", "2004-2006", "2013-2015"]


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_a_pseudonym_is_stable_fits_the_contract_and_needs_the_key(source_id: str) -> None:
    made = pseudonym(source_id, KEY)
    assert made == pseudonym(source_id, KEY)
    assert len(made) == 33
    assert made.isalnum()
    assert made != pseudonym(source_id, KEY[::-1])


def test_a_pseudonym_is_kept_on_request_only_and_only_if_the_contract_allows_it() -> None:
    assert pseudonym("P123", KEY, keep=True) == "P123"
    assert pseudonym("P123", KEY) != "P123"
    assert pseudonym("Doe, Jane", KEY, keep=True).startswith("p")


def test_a_short_key_or_an_empty_id_is_refused_without_repeating_it() -> None:
    with pytest.raises(ImportRefused, match="3 bytes, at least 16") as caught:
        pseudonym("secret-number", b"abc")
    assert "secret-number" not in str(caught.value)
    with pytest.raises(ImportRefused, match="without an identifier"):
        pseudonym("", KEY)


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "expected"),
    [
        (1500, "mm3", "mL", 1.5), (2.1, "cm3", "mL", 2.1), (7.25, "ng/L", "pg/mL", 7.25), (70, "[in_i]", "cm", 177.8),
        (150, "[lb_av]", "kg", 68.0388555), (6.4, "s", "s", 6.4), (1, "min", "s", 60), (1.8, "m", "cm", 180),
        (80, "%", "ratio", 0.8),
    ],
)  # fmt: skip
def test_a_known_unit_becomes_the_contracts(value: float, unit: str, wanted: str, expected: float) -> None:
    assert convert(value, unit, wanted) == expected


@pytest.mark.parametrize(
    ("unit", "wanted"), [("", "s"), ("sec", "s"), ("mL", "s"), ("kg", "cm"), ("PG/ML", "pg/mL"), ("furlong", "cm")]
)
def test_a_unit_that_is_unknown_or_of_another_quantity_is_never_guessed(unit: str, wanted: str) -> None:
    assert convert(3.0, unit, wanted) is None


@given(st.floats(0.001, 1e6))
def test_there_and_back_is_the_same_quantity(value: float) -> None:
    for one, other in (("mm3", "mL"), ("[in_i]", "cm"), ("[lb_av]", "kg"), ("ng/mL", "pg/mL")):
        there = convert(value, one, other)
        assert there is not None
        assert convert(there, other, one) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_quantity(value: float) -> None:
    assert convert(value, "s", "s") is None


@given(
    st.dates(date(1920, 1, 1), date(2099, 12, 31)), st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%Y_%m_%d", "%Y%m%d%H%M%S"])
)
def test_a_date_within_a_name_is_seen_however_a_computer_writes_it(day: date, how: str) -> None:
    written = datetime(day.year, day.month, day.day, 10, 15).strftime(how)
    assert [holds_date(text) for text in (written, f"ses-{written}", f"v{written}_2", f"a.{written}")] == [True] * 4


@pytest.mark.parametrize(
    "text", ["", "s1", "2015", "ses-0042", "20151", "2015-0101", "20151345", "920150320", "201503209", "1.2.3", "45152"]
)
def test_what_is_no_whole_date_may_be_a_name(text: str) -> None:
    assert not holds_date(text)
