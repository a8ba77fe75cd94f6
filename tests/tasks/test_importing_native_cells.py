"""Numbers and dates as hospitals write them: what is read is what was written, and what is not declared is no value."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.importing.dating import CalendarDay
from tasks.importing.errors import ImportRefused
from tasks.importing.native_cells import REMEDIES, YES_NO, Fault, Marks, as_text, converted, read_number, read_set, read_yes_no
from tasks.importing.native_dates import DateFormats, is_day, read_day
from tasks.importing.native_units import FACTORS, factor_of
from tasks.ms.contract import ANALYTES, CONTRACT

EASY = settings(deadline=None)  # a busy machine is no fault
TODAY = date(2026, 11, 29)
DAYS = st.dates(date(1920, 1, 1), TODAY)
NUMBERS = st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False, places=4)
MARKS = [Marks(), Marks(","), Marks(".", ","), Marks(",", "."), Marks(".", "'"), Marks(",", "blank")]


def written(number: Decimal, marks: Marks, *, grouped: bool) -> str:
    text = f"{number:,}" if grouped else f"{number}"
    mark = {"": "", "blank": " "}.get(marks.thousands, marks.thousands)
    return text.replace(",", "T").replace(".", marks.decimal).replace("T", mark)


@EASY
@given(NUMBERS, st.sampled_from(MARKS), st.booleans())
def test_a_number_is_read_exactly_as_it_was_written(number: Decimal, marks: Marks, grouped: bool) -> None:
    assert read_number(written(number, marks, grouped=grouped and bool(marks.thousands)), marks) == number


@EASY
@given(NUMBERS)
def test_a_number_with_the_other_decimal_mark_is_no_number(number: Decimal) -> None:
    assert read_number(written(number, Marks(","), grouped=False), Marks(".")) == Fault("not_a_number")
    assert read_number(written(number, Marks("."), grouped=False), Marks(",")) == Fault("not_a_number")
    assert read_number(written(number, Marks("."), grouped=False), Marks(",", ".")) == Fault(
        "not_a_number"
    )  # four places are no group


@EASY
@given(st.text(max_size=60), st.sampled_from(MARKS))
def test_no_text_makes_the_reader_of_numbers_fail(text: str, marks: Marks) -> None:
    found = read_number(text, marks)
    assert found == Fault("not_a_number") or (isinstance(found, Decimal) and found.is_finite())


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1.2.3", "1,2,3", "12 mg", "<5", ">5", "1e", "٣", "0x1", "1_000", "nan", "inf", "1" * 41]
)
def test_what_is_not_a_plain_number_is_none(text: str) -> None:
    assert read_number(text, Marks()) == Fault("not_a_number")


@pytest.mark.parametrize("text", ["12.34,5", "1.2345", "1.23.456", ".123", "1234.567,8"])
def test_a_thousands_mark_stands_before_three_digits_or_nowhere(text: str) -> None:
    assert read_number(text, Marks(",", ".")) == Fault("not_a_number")


def test_conversion_is_exact_and_whole_numbers_stay_whole() -> None:
    assert converted(Decimal("20674"), Decimal("0.001"), Decimal(0), whole=False) == 20.674
    assert converted(Decimal("98.6"), Decimal("0.5"), Decimal("-16"), whole=False) == 33.3
    assert converted(Decimal("4.5"), Decimal(1), Decimal(0), whole=True) == Fault("not_whole")
    assert converted(Decimal("1e99"), Decimal("1e999"), Decimal(0), whole=False) == Fault("not_a_number")
    assert str(converted(Decimal("-0"), Decimal(1), Decimal(0), whole=False)) == "0.0"


def test_every_unit_of_the_contract_can_be_declared_and_an_unknown_one_cannot() -> None:
    units = {column.unit for table in CONTRACT.tables for column in table.columns if column.numeric}
    units |= {limits.unit for _, limits in ANALYTES.values()}
    assert all(factor_of(unit, unit) == 1 for unit in units)
    assert set(FACTORS) <= units | {"h", "m/s"}
    assert (factor_of("in", "cm"), factor_of("lb", "kg")) == (Decimal("2.54"), Decimal("0.45359237"))
    assert factor_of("mg", "kg") is None


def test_factors_follow_from_the_definitions_of_the_units() -> None:
    factors = {(unit, wanted): Decimal(text) for wanted, units in FACTORS.items() for unit, text in units.items()}
    assert factors["st", "kg"] == 14 * factors["lb", "kg"]
    assert (factors["ft", "cm"], factors["ft", "m"]) == (12 * factors["in", "cm"], 12 * factors["in", "cm"] / 100)
    assert factors["yd", "m"] == 3 * factors["ft", "m"]
    assert float(factors["min", "h"] * 60) == float(factors["km/h", "m/s"] * Decimal("3.6")) == 1
    assert float(factors["ng/mL", "nmol/L"]) == pytest.approx(1000 / 400.64, abs=1e-4)  # g/mol of 25-hydroxyvitamin D3
    powers = [
        factor for pair, factor in factors.items() if not {"in", "ft", "lb", "st", "yd", "min", "km/h", "weeks", "years"} & {*pair}
    ]
    assert all(factor == 1 or str(factor.normalize().as_tuple().digits) == "(1,)" or float(factor) == 2.496 for factor in powers)


@pytest.mark.parametrize("language", YES_NO)
def test_yes_and_no_are_words_of_the_declared_language(language: str) -> None:
    yes, no = YES_NO[language]
    assert not yes & no
    assert {read_yes_no(word.upper(), language) for word in yes} == {1.0}
    assert {read_yes_no(word, language) for word in no} == {0.0}
    assert {read_yes_no(word, language) for word in ("1", "0", "x", "+", "maybe")} == {Fault("not_yes_or_no")}


def test_a_german_yes_is_no_english_one() -> None:
    assert read_yes_no("ja", "en") == Fault("not_yes_or_no")


def test_one_unknown_code_of_a_list_makes_the_list_unknown() -> None:
    assert read_set("T1; FLAIR ;", ";", {"T1": "t1w", "FLAIR": "flair"}) == ("t1w", "flair")
    assert read_set("T1; SPAIR", ";", {"T1": "t1w"}) == Fault("unknown_code")


@EASY
@given(DAYS, st.sampled_from(["%d.%m.%Y", "%Y-%m-%d", "%m/%d/%Y", "%d %B %Y", "%d-%b-%Y", "%Y%m%d", "%d.%m.%Y %H:%M"]))
def test_a_date_is_the_day_that_was_written(day: date, template: str) -> None:
    text = f"{day:{template}}"
    assert read_day(text, DateFormats((template,)), TODAY, 0) == CalendarDay(day, 0)
    assert read_day(day, DateFormats((template,)), TODAY, 0) == CalendarDay(day, 0)


@EASY
@given(DAYS)
def test_two_formats_that_read_different_days_make_no_date(day: date) -> None:
    both = DateFormats(("%d/%m/%Y", "%m/%d/%Y"))
    found = read_day(f"{day:%d/%m/%Y}", both, date(2030, 1, 1), 0)
    same = day.day == day.month or day.day > 12
    assert found == (CalendarDay(day, 0) if same else Fault("ambiguous_date"))


@EASY
@given(DAYS, st.sampled_from(["%m.%Y", "%b %Y", "%Y"]))
def test_of_a_month_or_a_year_the_middle_is_as_close_as_it_says(day: date, template: str) -> None:
    found = read_day(f"{day:{template}}", DateFormats((template,)), date(2027, 12, 31), 183)
    assert isinstance(found, CalendarDay)
    assert abs(found.day - day) <= timedelta(days=found.precision_d)
    assert found.precision_d <= (183 if template == "%Y" else 15)
    assert read_day(f"{day:{template}}", DateFormats((template,)), date(2027, 12, 31), found.precision_d - 1) == Fault(
        "imprecise_date"
    )


@EASY
@given(st.text(max_size=50))
def test_no_text_makes_the_reader_of_dates_fail(text: str) -> None:
    formats = DateFormats(("%d.%m.%Y", "%d.%m.%y", "%Y", "%d %B %Y", "%Y-%m-%d %H:%M:%S"), "de", 30)
    assert isinstance(read_day(text, formats, TODAY, 183), CalendarDay | Fault)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("31.02.2015", "no_such_date"),
        ("00.01.2015", "no_such_date"),
        ("29.02.2015", "no_such_date"),
        ("30.11.2026", "future_date"),
        ("31.12.1919", "early_date"),
        ("2015-01-31", "not_a_date"),
        ("01.01.15", "not_a_date"),
        ("", "not_a_date"),
        ("٠١.٠١.٢٠١٥", "not_a_date"),
    ],
)
def test_a_date_that_cannot_be_is_named_for_what_it_is(text: str, rule: str) -> None:
    assert read_day(text, DateFormats(("%d.%m.%Y",)), TODAY, 0) == Fault(rule)


def test_a_year_of_two_digits_needs_a_pivot() -> None:
    with pytest.raises(ImportRefused, match="add pivot"):
        DateFormats(("%d.%m.%y",))
    formats = DateFormats(("%d.%m.%y",), pivot=30)
    assert read_day("01.02.29", DateFormats(("%d.%m.%y",), pivot=20), TODAY, 0) == CalendarDay(date(1929, 2, 1), 0)
    assert read_day("01.02.30", formats, TODAY, 0) == CalendarDay(date(1930, 2, 1), 0)
    assert read_day("01.02.26", formats, TODAY, 0) == CalendarDay(date(2026, 2, 1), 0)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "5. März 2015"),
        ("de", "5. Mrz. 2015"),
        ("en", "5. mar 2015"),
        ("fr", "5. MARS 2015"),
        ("it", "5. marzo 2015"),
        ("es", "5. mar. 2015"),
    ],
)
def test_months_are_words_of_the_declared_language(language: str, text: str) -> None:
    assert read_day(text, DateFormats(("%d. %b %Y",), language), TODAY, 0) == CalendarDay(date(2015, 3, 5), 0)


def test_the_french_months_that_begin_alike_are_told_apart() -> None:
    formats = DateFormats(("%d %b %Y",), "fr")
    assert read_day("1 juin 2015", formats, TODAY, 0) == CalendarDay(date(2015, 6, 1), 0)
    assert read_day("1 juil. 2015", formats, TODAY, 0) == CalendarDay(date(2015, 7, 1), 0)
    assert read_day("1 jui 2015", formats, TODAY, 0) == Fault("no_such_date")


@pytest.mark.parametrize("template", ["", "%d", "%d.%m", "%d.%Y", "%Y %y", "%j.%Y", "%d.%m.%Y %p", "%m %b %Y"])
def test_a_format_that_names_no_day_is_refused(template: str) -> None:
    with pytest.raises(ImportRefused, match="date format"):
        DateFormats((template,), pivot=30)


def test_a_cell_is_a_day_if_any_declared_format_says_so_even_if_two_disagree() -> None:
    both = DateFormats(("%d/%m/%Y", "%m/%d/%Y", "%Y"))
    assert [is_day(cell, both) for cell in ("03/04/2015", "25/04/2015", date(2015, 4, 3))] == [True] * 3
    assert [is_day(cell, both) for cell in ("2015", "31/2015", "v1", "")] == [False] * 4
    assert (is_day("03.2015", None), is_day(date(2015, 4, 3), None)) == (False, True)


def test_a_running_month_is_no_future() -> None:
    assert isinstance(read_day("2026", DateFormats(("%Y",)), date(2026, 2, 1), 183), CalendarDay)
    assert read_day("2027", DateFormats(("%Y",)), date(2026, 12, 31), 183) == Fault("future_date")


def test_cells_of_typed_files_are_texts_as_a_person_types_them() -> None:
    assert [as_text(cell) for cell in (Decimal("3.0"), Decimal("100"), Decimal("0.50"), date(2015, 3, 20), "x")] == [
        "3", "100", "0.5", "2015-03-20", "x",
    ]  # fmt: skip


def test_every_remedy_is_a_sentence_without_a_value() -> None:
    assert all(len(words) > 20 and "{" not in words for words in REMEDIES.values())


@pytest.mark.parametrize(
    ("template", "cell", "day"),
    [
        ("%d%m%Y", "01022015", date(2015, 2, 1)),
        ("%d%m%Y", "1022015", None),  # a spreadsheet took the zero: 1 February, and no 10th
        ("%Y%m%d", "2015111", None),  # 11 January or 1 November
        ("%Y%m%d%H%M", "201501010930", date(2015, 1, 1)),
        ("%d%b%Y", "1Jan2015", date(2015, 1, 1)),
        ("%d.%m%y", "1.0215", date(2015, 2, 1)),
    ],
)
def test_days_and_months_that_nothing_parts_have_two_digits(template: str, cell: str, day: date | None) -> None:
    found = read_day(cell, DateFormats((template,), "en", 30), TODAY, 0)
    assert found == (Fault("not_a_date") if day is None else CalendarDay(day, 0))


def test_today_has_come_and_tomorrow_has_not() -> None:
    formats = DateFormats(("%d.%m.%Y",))
    assert read_day("29.11.2026", formats, date(2026, 11, 29), 0) == CalendarDay(date(2026, 11, 29), 0)
    assert read_day("30.11.2026", formats, date(2026, 11, 29), 0) == Fault("future_date")


@pytest.mark.parametrize(("cell", "number"), [("-1,5", "-1.5"), ("−1,5", "-1.5"), ("+1,5", "1.5"), ("-0,0", "0")])
def test_a_sign_is_read_however_it_is_typed(cell: str, number: str) -> None:
    assert read_number(cell, Marks(",")) == Decimal(number)


# each unit in units of the International System, from its definition; concentrations per cubic metre
SI = {
    "mm3": 1e-9, "cm3": 1e-6, "ml": 1e-6, "mL": 1e-6, "uL": 1e-9, "L": 1e-3, "m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6,
    "nm": 1e-9, "km": 1e3, "in": 0.0254, "ft": 0.3048, "yd": 0.9144, "kg": 1.0, "g": 1e-3, "mg": 1e-6, "ug": 1e-9, "lb": 0.45359237,
    "st": 14 * 0.45359237, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0, "days": 86400.0, "d": 86400.0,
    "weeks": 604800.0, "years": 365.25 * 86400, "mm2": 1e-6, "cm2": 1e-4, "uV": 1e-6, "mV": 1e-3, "nV": 1e-9, "T": 1.0, "mT": 1e-3,
    "G": 1e-4, "pg/mL": 1e-9, "ng/L": 1e-9, "ng/mL": 1e-6, "ug/L": 1e-6, "ug/mL": 1e-3, "mg/L": 1e-3, "mg/dL": 1e-2, "g/L": 1.0,
    "g/dL": 10.0, "mg/mL": 1.0, "1e9/L": 1e12, "1/uL": 1e9, "G/L": 1e12, "10^3/uL": 1e12, "1/nL": 1e12, "1e6/L": 1e9, "ratio": 1.0,
    "%": 0.01, "%/year": 1.0, "%/a": 1.0, "m/s": 1.0, "km/h": 1 / 3.6,
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "unit"), [(wanted, unit) for wanted, listed in FACTORS.items() for unit in listed])
def test_every_factor_follows_from_the_definitions_of_both_units(wanted: str, unit: str) -> None:
    expected = 1000 / 400.64 if wanted == "nmol/L" else SI[unit] / SI[wanted]  # 25-hydroxyvitamin D3: 400.64 g/mol
    assert float(FACTORS[wanted][unit]) == pytest.approx(expected, rel=1e-4)
