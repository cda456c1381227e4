from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.language.instants import duration_text, instant_text, parse_duration, parse_instant

NOW_NS = 1_767_225_600_000_000_000
SECOND_NS = 10**9


@given(st.integers(0, 2**63 - 2))
def test_a_written_instant_is_read_back(ns: int) -> None:
    assert parse_instant(instant_text(ns), 0) == (ns, ns + 1)


@given(st.integers(1, 10**9).map(lambda ms: ms * 1_000_000))
def test_a_written_duration_is_read_back(duration_ns: int) -> None:
    assert parse_duration(duration_text(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "start_ns", "width_ns"),
    [
        ("2026", NOW_NS, 365 * 86_400 * SECOND_NS),
        ("2026-01", NOW_NS, 31 * 86_400 * SECOND_NS),
        ("2026-01-01", NOW_NS, 86_400 * SECOND_NS),
        ("2026-01-01T00", NOW_NS, 3600 * SECOND_NS),
        ("2026-01-01 00:00", NOW_NS, 60 * SECOND_NS),
        ("2026-01-01T00:00:00", NOW_NS, SECOND_NS),
        ("2026-01-01T01:00:00+01:00", NOW_NS, SECOND_NS),
        ("2025-12-31T19:30:00-0430", NOW_NS, SECOND_NS),
        ("2026-01-01T00:00:00.5Z", NOW_NS + SECOND_NS // 2, SECOND_NS // 10),
        ("1767225600", NOW_NS, SECOND_NS),
        ("1767225600.25", NOW_NS + SECOND_NS // 4, SECOND_NS // 100),
        ("1767225600000", NOW_NS, SECOND_NS // 1000),
        ("1767225600000000", NOW_NS, 1000),
        ("1767225600000000000", NOW_NS, 1),
        ("now", NOW_NS, 1),
        ("now-1d+1h", NOW_NS - 23 * 3600 * SECOND_NS, 1),
        ("-15m", NOW_NS - 900 * SECOND_NS, 1),
        ("now-1h/h", NOW_NS - 3600 * SECOND_NS, 3600 * SECOND_NS),
    ],
)
def test_an_instant_covers_what_is_written(text: str, start_ns: int, width_ns: int) -> None:
    assert parse_instant(text, NOW_NS) == (start_ns, start_ns + width_ns)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/d",
        "12345678",
        "2026-13-01",
        "2026-02-30",
        "2026-01-01Z",
        "9999-01-01",
        "1969-12-31",
        "now-",
        "yesterday",
        "12:30",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    assert parse_instant(text, NOW_NS) is None


def test_a_duration_below_a_millisecond_has_no_text() -> None:
    with pytest.raises(ValueError, match="shorter than a millisecond"):
        duration_text(1)
