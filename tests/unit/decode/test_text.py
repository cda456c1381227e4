from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode import text
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.records import RECORD_BYTES_MAX, TimeFlag
from tests.support.decode_streams import OBSERVED_NS, attributes, context, feed, shown


def text_format(pattern: str, **options: str) -> Format:
    return Format(FormatKind.TEXT, {"pattern": pattern, **options})


LOG4J, SYSLOG, PLAIN = text_format("log4j"), text_format("syslog"), text_format("plain")
TRACE = (
    b"2024-03-01 10:00:00,000 ERROR c.e.App - it broke\n"
    b"java.lang.IllegalStateException: no\n"
    b"\tat c.e.App.run(App.java:7)\n"
    b"\n"
    b"Caused by: java.io.IOException: disk\n"
    b"\t... 12 more\n"
    b"2024-03-01 10:00:01,000 INFO c.e.App - on we go\n"
)


def decode(data: bytes, format_: Format, **values: Any) -> Decoded:
    decoded = text.decode(data, format_, context(**values), at_start=True)
    decoded.batch.validate(full=True)
    return decoded


def test_stack_trace_joins_its_record() -> None:
    assert shown(decode(TRACE, LOG4J), "body") == [
        (
            "it broke\njava.lang.IllegalStateException: no\n\tat c.e.App.run(App.java:7)\n\n"
            "Caused by: java.io.IOException: disk\n\t... 12 more"
        ),
        "on we go",
    ]


def test_stack_trace_is_held_until_the_next_record_begins() -> None:
    first = TRACE.index(b"2024-03-01 10:00:01")
    for end in range(1, first + 24):
        assert text.complete_length(TRACE[:end], LOG4J, at_start=True, final=False) == 0
    assert text.complete_length(TRACE, LOG4J, at_start=True, final=False) == first
    assert text.complete_length(TRACE, LOG4J, at_start=True, final=True) == len(TRACE)


def test_line_ends_of_windows_are_no_part_of_a_body() -> None:
    crlf = decode(TRACE.replace(b"\n", b"\r\n"), LOG4J)
    assert crlf.batch.equals(decode(TRACE, LOG4J).batch)


def test_python_traceback_joins_a_line_of_a_kind_without_multiline_messages() -> None:
    data = (
        b'Jun 14 15:16:01 h app[1]: failed\nTraceback (most recent call last):\n  File "a", line 1\nValueError: no\n'
        b"Jun 14 15:16:02 h app[1]: next\n"
    )
    assert [body.count("\n") for body in shown(decode(data, SYSLOG), "body")] == [3, 0]


def test_line_that_follows_no_pattern_is_a_record_of_its_own() -> None:
    data = b"Jun 14 15:16:01 h app[1]: one\nwhat is this\nJun 14 15:16:02 h app[1]: two\n"
    decoded = decode(data, SYSLOG)
    assert shown(decoded, "body") == ["one", "what is this", "two"]
    assert [flags & TimeFlag.MISSING for flags in shown(decoded, "time_flags")] == [0, TimeFlag.MISSING, 0]
    assert str(shown(decoded, "time")[1]) == "2027-01-15 08:00:00+00:00"


def test_program_is_the_service_unless_the_source_has_one() -> None:
    line = b"Jun 14 15:16:01 h app[1]: one\n"
    assert shown(decode(line, SYSLOG), "service", "host") == [("app", "h")]
    own = decode(line, SYSLOG, service="shop", host="elsewhere")
    assert shown(own, "service", "host") == [("shop", "h")]
    assert attributes(own) == [{"pid": 1.0, "program": "app"}]


def test_year_is_the_latest_that_is_not_after_the_reference() -> None:
    reference = 1_118_800_000_000_000_000  # 15 June 2005
    data = b"Jun 14 15:16:01 h a: x\nJun 16 15:16:01 h a: y\n"
    decoded = decode(data, SYSLOG, reference_time_ns=reference)
    assert [str(time) for time in shown(decoded, "time")] == ["2005-06-14 15:16:01+00:00", "2004-06-16 15:16:01+00:00"]
    assert set(shown(decoded, "time_flags")) == {TimeFlag.INFERRED_YEAR | TimeFlag.INFERRED_ZONE}


def test_stamp_without_zone_takes_the_sources() -> None:
    decoded = decode(b"2024-07-01 10:00:00,000 INFO a.b - x\n", LOG4J, zone="Europe/Berlin")
    assert shown(decoded, "time_flags") == [TimeFlag.INFERRED_ZONE]
    assert str(shown(decoded, "time")[0]) == "2024-07-01 08:00:00+00:00"


def test_time_out_of_range_keeps_its_text() -> None:
    decoded = decode(b"9999-01-01 10:00:00,000 INFO a.b - x\n", LOG4J)
    assert shown(decoded, "time_flags") == [TimeFlag.OUT_OF_RANGE]
    assert attributes(decoded)[0]["time.original"] == "9999-01-01 10:00:00,000"


def test_day_of_one_digit_is_read_too() -> None:
    assert str(shown(decode(b"Jun 4 15:16:01 h a: x\nJun  4 15:16:01 h a: x\n", SYSLOG), "time")[0]).startswith(
        "2026-06-04"
    )


def test_blank_lines_are_no_records() -> None:
    decoded = decode(b"\n\n  \none\n\ntwo\n\n", PLAIN, dump="d", first_record_number=1)
    assert shown(decoded, "body", "record_number") == [("one", 1), ("two", 2)]


def test_empty_source_has_no_records() -> None:
    assert decode(b"", SYSLOG).record_count == 0


def test_indented_lines_join_plain_lines() -> None:
    assert shown(decode(b"one\n  more\ntwo\n", PLAIN), "body") == ["one\n  more", "two"]


def test_bytes_that_are_not_utf8_are_replaced_and_marked() -> None:
    decoded = decode(b"Jun 14 15:16:01 h a: caf\xe9\nJun 14 15:16:02 h a: caf\xc3\xa9\n", SYSLOG)
    assert shown(decoded, "body") == ["caf\N{REPLACEMENT CHARACTER}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    assert attributes(decoded) == [{"invalid_utf8": True}, {}]


def test_nul_bytes_are_kept() -> None:
    assert shown(decode(b"a\0b\n", PLAIN), "body") == ["a\0b"]


def test_byte_order_mark_is_passed_over() -> None:
    assert shown(decode(b"\xef\xbb\xbfone\n", PLAIN), "body") == ["one"]


def test_huge_line_is_one_error_and_its_neighbours_are_kept() -> None:
    line = b"Jun 14 15:16:01 h a: %s\n"
    decoded = decode(
        line % b"1" + line % (b"x" * 2 * RECORD_BYTES_MAX) + b"  joined to nothing\n" + line % b"2", SYSLOG
    )
    assert shown(decoded, "body") == ["1", "  joined to nothing", "2"]
    assert [(error.row, error.offset, len(error.raw)) for error in decoded.errors] == [(1, 23, RECORD_BYTES_MAX)]


def test_joined_record_is_cut_before_the_limit() -> None:
    part = b"\tat x" + b"y" * 1000 + b"\n"
    decoded = decode(b"2024-03-01 10:00:00,000 INFO a.b - x\n" + part * 2500, LOG4J)
    sizes = [len(body) for body in shown(decoded, "body")]
    assert len(sizes) == 3
    assert max(sizes) <= RECORD_BYTES_MAX
    assert sum(size + 1 for size in sizes) == len("x\n") + len(part) * 2500


def test_custom_pattern_names_fields_as_mapping_does() -> None:
    regex = r"^(?P<ts>\d+)\|(?P<lvl>\w+)\|(?P<hostname>\S+)\|(?P<user>\w*)\|(?P<took>[\d.]+)\|(?P<msg>.*)$"
    data = b"1709287200|WARN|web-1|ann|1.5|slow\r\n  for once\r\n1709287201|INFO|web-1||2|\r\n"
    decoded = decode(data, text_format("custom", regex=regex))
    assert shown(decoded, "severity", "host", "body") == [(13, "web-1", "slow\n  for once"), (9, "web-1", "")]
    assert attributes(decoded) == [{"user": "ann", "took": 1.5}, {"took": 2.0}]
    assert str(shown(decoded, "time")[0]) == "2024-03-01 10:00:00+00:00"


def test_custom_pattern_without_body_keeps_the_line() -> None:
    decoded = decode(b"a=1 rest\nnothing\n", text_format("custom", regex=r"^a=(?P<a>\d)"))
    assert shown(decoded, "body") == ["a=1 rest", "nothing"]
    assert attributes(decoded) == [{"a": 1.0}, {}]


def test_second_body_group_of_a_custom_pattern_is_an_attribute() -> None:
    decoded = decode(b"one two\n", text_format("custom", regex=r"^(?P<msg>\w+) (?P<log>\w+)"))
    assert shown(decoded, "body") == ["one"]
    assert attributes(decoded) == [{"log": "two"}]


def test_lone_byte_order_mark_is_consumed() -> None:
    assert text.complete_length(b"\xef\xbb\xbf", PLAIN, at_start=True, final=True) == 3


def test_key_that_comes_twice_counts_once() -> None:
    decoded = decode(b"a=1 b=2 a=3\n", text_format("logfmt"))
    assert attributes(decoded) == [{"a": 3.0, "b": 2.0}]


LINES = st.sampled_from(
    [
        "2024-03-01 10:00:00,000 INFO a.b - hello\n",
        "2024-03-01 10:00:01,5 ERROR a.b - broke\r\n",
        "Jun 14 15:16:01 h app[1]: one\n",
        "level=info msg=x\n",
        "\tat a.b(C.java:1)\n",
        "ValueError: no\n",
        "\n",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}\n",
        "just text\n",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["log4j", "syslog", "plain", "logfmt", "iso_level"]),
    st.lists(LINES, max_size=12),
    st.binary(max_size=3),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_any_cut_gives_the_same_records(pattern: str, pieces: list[str], tail: bytes, cuts: list[int]) -> None:
    data = "".join(pieces).encode() + tail
    whole = feed(text, text_format(pattern), data, [])
    assert feed(text, text_format(pattern), data, cuts).batch.equals(whole.batch)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["log4j", "syslog", "plain", "logfmt", "bgl"]), st.binary(max_size=200))
def test_any_bytes_are_decoded(pattern: str, data: bytes) -> None:
    decode(data, text_format(pattern))


@pytest.mark.parametrize("pattern", ["syslog", "log4j", "plain"])
def test_cut_of_long_records_gives_the_same_records(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall_server.decode.lines.RECORD_BYTES_MAX", 64)
    data = TRACE + b"x" * 100 + b"\n\tat short\n" + b"\ty" * 20 + b"\n" + TRACE
    whole = feed(text, text_format(pattern), data, [])
    assert whole.errors
    for step in (70, 97, 130):
        cut = feed(text, text_format(pattern), data, range(step, len(data), step))
        assert cut.batch.equals(whole.batch)
        assert cut.errors == whole.errors


def test_observed_time_is_the_contexts() -> None:
    assert int(decode(b"x\n", PLAIN).batch.column("observed_time").cast("int64")[0].as_py()) == OBSERVED_NS
