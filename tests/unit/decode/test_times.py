from __future__ import annotations

import datetime as dt
import zoneinfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.decode.civil import from_civil, local_to_utc
from heimdall_server.decode.times import resolve
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.records import TimeFlag
from tests.support.decoding import CONTEXT, OBSERVED, context, ns

NOON = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
ZONED = 0
LOCAL = int(TimeFlag.INFERRED_ZONE)
YEARLESS = LOCAL | int(TimeFlag.INFERRED_YEAR)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("2024-03-01T12:00:00Z", ZONED),
        ("2024-03-01 12:00:00+00:00", ZONED),
        ("2024-03-01T14:00:00+0200", ZONED),
        ("2024-03-01T14:00:00.000000000+02", ZONED),
        ("2024-03-01 07:00:00 -05:00", ZONED),
        ("2024-03-01T12:00:00,000Z", ZONED),
        ("2024-03-01T12:00:00.0000000000000Z", ZONED),
        ("2024-03-01t12:00:00z", ZONED),
        ("2024-03-01 12:00:00 UTC", ZONED),
        ("20240301T120000Z", ZONED),
        ("01/Mar/2024:12:00:00 +0000", ZONED),
        ("01/Mar/2024:04:00:00 -0800", ZONED),
        ("Fri, 01 Mar 2024 12:00:00 GMT", ZONED),
        ("Fri, 1 Mar 2024 04:00:00 PST", ZONED),
        ("Fri Mar  1 12:00:00 UTC 2024", ZONED),
        ("1709294400", ZONED),
        ("1709294400.000", ZONED),
        ("1709294400000", ZONED),
        ("1709294400000000", ZONED),
        ("1709294400000000000", ZONED),
        ("  1709294400 ", ZONED),
        ("2024-03-01T12:00:00", LOCAL),
        ("2024-03-01 12:00:00,000", LOCAL),
        ("2024-03-01T12:00", LOCAL),
        ("2024-03-01T12", LOCAL),
        ("2024/03/01 12:00:00", LOCAL),
        ("2024/3/1 12:00:00 PM", LOCAL),
        ("2024-03-01-12.00.00.000000", LOCAL),
        ("2024-03-01_12:00:00", LOCAL),
        ("20240301 120000", LOCAL),
        ("20240301-12:0:0:000", LOCAL),
        ("01-Mar-2024 12:00:00.000", LOCAL),
        ("Mar 1, 2024 12:00:00 PM", LOCAL),
        ("Fri Mar  1 12:00:00 2024", LOCAL),
        ("Mar  1 12:00:00", YEARLESS),
        ("Mar 01 12:00:00.000", YEARLESS),
        ("03-01 12:00:00.000", YEARLESS),
    ],
)
def test_every_form_means_the_same_moment(text: str, flags: int) -> None:
    # Alone and beside another form: which reader takes it must not matter.
    for column in ([text], [text, "nonsense", "2024-01-01T00:00:00Z", "2024-01-01"]):
        times = resolve(pa.array(column), CONTEXT)
        assert times.time_ns[0] == ns(NOON)
        assert times.flags[0] == flags
        assert not times.unusable[0]


def test_nanoseconds_survive_in_every_spelling() -> None:
    texts = ["2024-03-01T12:00:00.123456789Z", "2024-03-01 12:00:00,123456789 +0000", "1709294400.123456789"]
    texts += ["1709294400123456789", "01/Mar/2024:12:00:00.123456789 +0000"]
    assert (resolve(pa.array(texts), CONTEXT).time_ns == ns(NOON) + 123_456_789).all()


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("nonsense", TimeFlag.MISSING),
        ("2024-02-30T00:00:00Z", TimeFlag.MISSING),
        ("2024-03-01T25:00:00Z", TimeFlag.MISSING),
        ("2024-03-01T12:60:00Z", TimeFlag.MISSING),
        ("31/Feb/2024:00:00:00 +0000", TimeFlag.MISSING),
        ("99999999999999999999999", TimeFlag.MISSING),
        ("03/04/2024 12:00:00", TimeFlag.MISSING),
        ("9999-01-01T00:00:00Z", TimeFlag.OUT_OF_RANGE),
        ("1969-12-31T23:59:59Z", TimeFlag.OUT_OF_RANGE),
        ("0001-01-01T00:00:00Z", TimeFlag.OUT_OF_RANGE),
        ("-5", TimeFlag.OUT_OF_RANGE),
        ("9223372036854775807", TimeFlag.OUT_OF_RANGE),
        ("2024-06-11T12:00:01Z", TimeFlag.OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_used_becomes_the_observed_time_and_is_kept(text: str, flag: TimeFlag) -> None:
    for column in ([text], [text, "2024-01-01T00:00:00Z"]):
        times = resolve(pa.array(column), CONTEXT)
        assert times.time_ns[0] == CONTEXT.observed_time_ns
        assert times.flags[0] == flag
        assert times.unusable[0]


def test_absent_and_blank_times_are_missing_without_an_original() -> None:
    times = resolve(pa.array([None, "", "  "], pa.string()), CONTEXT)
    assert times.flags.tolist() == [TimeFlag.MISSING] * 3
    assert not times.unusable.any()
    assert resolve(pa.nulls(2), CONTEXT).flags.tolist() == [TimeFlag.MISSING] * 2


def test_the_guard_ends_a_day_after_the_observed_moment() -> None:
    edge = OBSERVED + dt.timedelta(days=1)
    times = resolve(pa.array([edge.isoformat(), "1970-01-01T00:00:00Z"]), CONTEXT)
    assert times.flags.tolist() == [0, 0]
    assert times.time_ns.tolist() == [ns(edge), 0]


def test_numbers_are_told_apart_by_size() -> None:
    second = ns(NOON) // 10**9
    whole = resolve(pa.array([second, second * 10**3, second * 10**6, second * 10**9]), CONTEXT)
    assert (whole.time_ns == ns(NOON)).all()
    parts = resolve(pa.array([second + 0.5, second * 1e3 + 500, second * 1e6 + 500_000.0]), CONTEXT)
    assert (parts.time_ns == ns(NOON) + 500_000_000).all()
    unsigned = resolve(pa.array([second, 2**64 - 1, None], pa.uint64()), CONTEXT)
    assert unsigned.time_ns[0] == ns(NOON)
    assert unsigned.flags.tolist() == [0, TimeFlag.OUT_OF_RANGE, TimeFlag.MISSING]


def test_numbers_that_are_no_moment_are_refused() -> None:
    times = resolve(pa.array([float("nan"), float("inf"), 1e300, -1.0]), CONTEXT)
    assert times.flags.tolist() == [TimeFlag.MISSING, TimeFlag.MISSING, TimeFlag.OUT_OF_RANGE, TimeFlag.OUT_OF_RANGE]
    assert times.unusable.all()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_arrow_timestamps_keep_their_zone_or_take_the_sources(unit: str) -> None:
    berlin = context(zone="Europe/Berlin")
    zoned = resolve(pa.array([NOON, None], pa.timestamp(unit, "UTC")), berlin)
    assert zoned.time_ns[0] == ns(NOON)
    assert zoned.flags.tolist() == [0, TimeFlag.MISSING]
    local = resolve(pa.array([NOON.replace(tzinfo=None)], pa.timestamp(unit)), berlin)
    assert local.time_ns[0] == ns(NOON) - 3600 * 10**9
    assert local.flags[0] == LOCAL


def test_a_timestamp_too_far_for_nanoseconds_is_out_of_range() -> None:
    times = resolve(pa.array([2**61, -(2**61)], pa.timestamp("s", "UTC")), CONTEXT)
    assert times.flags.tolist() == [TimeFlag.OUT_OF_RANGE] * 2


def test_dates_are_midnight_of_the_source() -> None:
    times = resolve(pa.array([dt.date(2024, 3, 1)]), context(zone="Europe/Berlin"))
    assert times.time_ns[0] == ns(dt.datetime(2024, 2, 29, 23, tzinfo=dt.UTC))


def test_a_year_is_the_latest_that_is_not_after_the_reference() -> None:
    reference = ns(dt.datetime(2024, 3, 10, 8, 0, 0, tzinfo=dt.UTC))
    at = context(reference_time_ns=reference)
    times = resolve(pa.array(["Mar 10 08:00:00", "Mar 10 08:00:01", "Dec 31 23:59:59", "Feb 29 00:00:00"]), at)
    years = [moment.year for moment in times.array().to_pylist()]
    assert years == [2024, 2023, 2023, 2024]
    assert (times.flags == YEARLESS).all()


def test_a_leap_day_goes_back_to_a_year_that_has_it() -> None:
    at = context(
        reference_time_ns=ns(dt.datetime(2103, 1, 1, tzinfo=dt.UTC)),
        observed_time_ns=ns(dt.datetime(2103, 1, 1, tzinfo=dt.UTC)),
    )
    assert resolve(pa.array(["Feb 29 00:00:00"]), at).array().to_pylist()[0].year == 2096


def test_a_sender_a_little_ahead_of_now_keeps_its_year() -> None:
    ahead = OBSERVED + dt.timedelta(minutes=5)
    times = resolve(pa.array([ahead.strftime("%b %d %H:%M:%S")]), CONTEXT)
    assert times.time_ns[0] == ns(ahead)


def test_the_new_year_of_a_zone_east_of_utc_is_this_one() -> None:
    now = dt.datetime(2023, 12, 31, 20, tzinfo=dt.UTC)
    tokyo = context(zone="Asia/Tokyo", observed_time_ns=ns(now), reference_time_ns=ns(now))
    assert resolve(pa.array(["Jan  1 04:00:00"]), tokyo).time_ns[0] == ns(now) - 3600 * 10**9


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="zone"):
        resolve(pa.array(["2024-03-01 12:00:00"]), context(zone="Europe/Atlantis"))


def test_clocks_set_forward_and_back_are_read_like_the_standard_library() -> None:
    local = [dt.datetime(2024, 3, 31, 2, 30), dt.datetime(2024, 10, 27, 2, 30)]  # noqa: DTZ001 - local on purpose
    times = resolve(
        pa.array([str(moment) for moment in local]),
        context(zone="Europe/Berlin", observed_time_ns=ns(dt.datetime(2025, 1, 1, tzinfo=dt.UTC))),
    )
    expected = [ns(moment.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).astimezone(dt.UTC)) for moment in local]
    assert times.time_ns.tolist() == expected


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata"]),
    st.lists(st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2036, 1, 1)), min_size=1, max_size=20),  # noqa: DTZ001
)
def test_local_clocks_agree_with_the_standard_library(zone: str, moments: list[dt.datetime]) -> None:
    local = np.array(moments, "datetime64[us]").astype("datetime64[ns]").astype(np.int64)
    rules = zoneinfo.ZoneInfo(zone)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    expected = [(moment.replace(tzinfo=rules) - epoch) // dt.timedelta(microseconds=1) * 1000 for moment in moments]
    assert local_to_utc(local, zone).tolist() == expected


@given(
    st.lists(st.tuples(st.integers(-200, 12_000), st.integers(-1, 14), st.integers(-1, 33)), min_size=1, max_size=50)
)
def test_the_calendar_agrees_with_the_standard_library(dates: list[tuple[int, int, int]]) -> None:
    year, month, day = (np.array(part, np.int64) for part in zip(*dates, strict=True))
    stamps = from_civil(year, month, day, np.zeros(len(dates), np.int64), CONTEXT)
    for row, parts in enumerate(dates):
        if not 1678 <= parts[0] <= 2261:
            continue
        try:
            moment = dt.datetime(*parts, tzinfo=dt.UTC)
        except ValueError:
            assert not stamps.known[row]
        else:
            assert stamps.known[row]
            assert stamps.ns[row] == int(moment.timestamp()) * 10**9


@given(st.lists(st.one_of(st.none(), st.text(max_size=30), st.from_regex(r"\A[0-9 :T.Z+/-]{1,25}\Z")), max_size=20))
def test_a_value_means_the_same_whatever_stands_beside_it(texts: list[str | None]) -> None:
    together = resolve(pa.array(texts, pa.string()), CONTEXT)
    for row, text in enumerate(texts):
        alone = resolve(pa.array([text], pa.string()), CONTEXT)
        assert (alone.time_ns[0], alone.flags[0], alone.unusable[0]) == (
            together.time_ns[row],
            together.flags[row],
            together.unusable[row],
        )
