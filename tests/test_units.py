import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import units

PARSERS = (units.duration, units.size, units.rate, units.hours)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("90s", 90),
        ("10m", 600),
        ("72h", 259200),
        ("5d", 432000),
        ("1.5h", 5400),
        ("0s", 0),
        ("10 s", 10),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 * 1024**3),
        ("256KiB", 262144),
        ("16MB", 16_000_000),
        ("1000B", 1000),
        ("1kB", 1000),
        ("1TiB", 1024**4),
        ("0.5KiB", 512),
    ],
)
def test_size(text: str, count: int) -> None:
    assert units.size(text) == count
    assert type(units.size(text)) is int


@pytest.mark.parametrize(
    ("text", "count"),
    [("8Mbit/s", 1_000_000), ("500kbit/s", 62500), ("1MiB/s", 1048576), ("9bit/s", 1), ("100B/s", 100)],
)
def test_rate(text: str, count: int) -> None:
    assert units.rate(text) == count
    assert type(units.rate(text)) is int


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("20:00-06:00", (1200, 360)), ("00:00-23:59", (0, 1439)), ("08:30-17:05", (510, 1025))],
)
def test_hours(text: str, minutes: tuple[int, int]) -> None:
    assert units.hours(text) == minutes


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (units.duration, "90", '"90" has no unit; write for example "90s", "10m", "72h" or "5d"'),
        (units.duration, "", '"" is not a duration; write for example "90s", "10m", "72h" or "5d"'),
        (units.duration, "90S", '"90S" is not a duration'),
        (units.duration, "-5s", '"-5s" is not a duration'),
        (units.duration, "1h30m", '"1h30m" is not a duration'),
        (units.duration, "1e3s", '"1e3s" is not a duration'),
        (units.duration, "٣s", '"٣s" is not a duration'),
        (units.duration, "9" * 5000 + "d", "…"),
        (units.size, "2", '"2" has no unit; write for example "256KiB", "16MB" or "2GiB"'),
        (units.size, "2gib", '"2gib" is not a size'),
        (units.size, "2Mbit/s", '"2Mbit/s" is not a size'),
        (units.rate, "8", '"8" has no unit; write for example "8Mbit/s", "500kbit/s" or "1MiB/s"'),
        (units.rate, "8Mbps", '"8Mbps" is not a rate'),
        (units.rate, "1bit/s", '"1bit/s" is less than a byte a second'),
        (units.rate, "0B/s", '"0B/s" is less than a byte a second'),
        (units.hours, "20-6", '"20-6" is not a span of hours; write for example "20:00-06:00"'),
        (units.hours, "24:00-06:00", '"24:00-06:00" is not a span of hours'),
        (units.hours, "20:00-06:60", '"20:00-06:60" is not a span of hours'),
        (units.hours, "20:00-06:00\n", "is not a span of hours"),
        (units.hours, "06:00-06:00", '"06:00-06:00" begins when it ends'),
    ],
)
def test_errors_say_what_was_given_and_what_is_right(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse(text)
    assert "write for example" in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.text() | st.from_regex(r"[0-9]+(\.[0-9]+)? ?[a-zA-Z/]+", fullmatch=True))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in PARSERS:
        assert "write for example" in _error(parse, text)


def _error(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return "no error, so nothing to write for example"


@given(st.integers(0, 10**12 - 1))
def test_whole_numbers_are_exact(count: int) -> None:
    assert units.size(f"{count}B") == count
    assert units.size(f"{count}TiB") == count * 2**40
    assert units.duration(f"{count}s") == count


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_hours_are_read_back(begin: int, end: int) -> None:
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    if begin == end:
        with pytest.raises(ValueError, match="begins when it ends"):
            units.hours(text)
    else:
        assert units.hours(text) == (begin, end)
