from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode import octets, syslog
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.errors import FormatError
from heimdall_server.domain.records import RECORD_BYTES_MAX, TimeFlag
from tests.support.decode_streams import attributes, context, feed, feed_held, shown

NEWLINE = Format(FormatKind.SYSLOG, {"framing": "newline"})
OCTET = Format(FormatKind.SYSLOG, {"framing": "octet"})

# From RFC 5424, section 6.5, and RFC 3164, section 5.4.
RFC5424 = (
    b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick",
    b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
    b'<165>1 2003-10-11T22:14:15.003Z host evntslog - ID47 [ex@32473 iut="3" source="App\\"li\\]cation"][p@1 class="high"][x] An event',
    b"<165>1 - - - - - -",
)
RFC3164 = (
    b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
    b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
    b"<34>Oct 11 22:14:15 su[12]: local",
    b"<34>2023-10-11T22:14:15.5+02:00 mymachine su: iso",
    b"<13>nothing but a message",
)
MESSAGES = (*RFC5424, *RFC3164)


def octet(*messages: bytes) -> bytes:
    return b"".join(b"%d %s" % (len(message), message) for message in messages)


def decode(data: bytes, format_: Format = NEWLINE, **values: Any) -> Decoded:
    decoded = syslog.decode(data, format_, context(**values), at_start=True)
    decoded.batch.validate(full=True)
    return decoded


def test_examples_of_rfc5424_are_read() -> None:
    decoded = decode(b"\n".join(RFC5424))
    assert shown(decoded, "severity", "severity_text", "host", "service", "body") == [
        (18, "crit", "mymachine.example.com", "su", "'su root' failed for lonvick"),
        (10, "notice", "192.0.2.1", "myproc", "%% It's time to make the do-nuts."),
        (10, "notice", "host", "evntslog", "An event"),
        (10, "notice", "", "", ""),
    ]
    assert [str(time) for time in shown(decoded, "time")][:2] == [
        "2003-10-11 22:14:15.003000+00:00",
        "2003-08-24 12:14:15.000003+00:00",
    ]
    assert shown(decoded, "time_flags") == [0, 0, 0, TimeFlag.MISSING]
    assert attributes(decoded) == [
        {"facility": "auth", "message_id": "ID47"},
        {"facility": "local4", "pid": 8710.0},
        {
            "facility": "local4",
            "message_id": "ID47",
            "ex@32473.iut": 3.0,
            "ex@32473.source": 'App"li]cation',
            "p@1.class": "high",
            "x": True,
        },
        {"facility": "local4"},
    ]


def test_examples_of_rfc3164_are_read() -> None:
    decoded = decode(b"\n".join(RFC3164))
    assert shown(decoded, "severity", "host", "service", "body") == [
        (18, "mymachine", "su", "'su root' failed for lonvick on /dev/pts/8"),
        (10, "10.0.0.99", "", "Use the BFG!"),
        (18, "", "su", "local"),
        (18, "mymachine", "su", "iso"),
        (10, "", "", "nothing but a message"),
    ]
    assert [str(time) for time in shown(decoded, "time")][:4] == [
        "2026-10-11 22:14:15+00:00",
        "2026-02-05 17:32:18+00:00",
        "2026-10-11 22:14:15+00:00",
        "2023-10-11 20:14:15.500000+00:00",
    ]


def test_network_devices_counter_and_zone_are_read() -> None:
    decoded = decode(b"<189>123: *Mar  1 18:48:50.483 UTC: %SYS-5-CONFIG_I: Configured from console\n")
    assert shown(decoded, "severity", "service", "body") == [(10, "%SYS-5-CONFIG_I", "Configured from console")]
    assert str(shown(decoded, "time")[0]) == "2026-03-01 18:48:50.483000+00:00"


def test_both_kinds_in_one_stream_read_as_alone() -> None:
    mixed = decode(b"\n".join(MESSAGES))
    for index, message in enumerate(MESSAGES):
        alone = decode(message)
        assert shown(mixed, "time", "severity", "host", "service", "body")[index : index + 1] == shown(
            alone, "time", "severity", "host", "service", "body"
        )
        assert attributes(mixed)[index] == attributes(alone)[0]


def test_octet_counting_gives_the_same_records_as_newlines() -> None:
    assert decode(octet(*MESSAGES), OCTET).batch.equals(decode(b"\n".join(MESSAGES)).batch)
    with_line_ends = b"".join(octet(message) + b"\n" for message in MESSAGES)
    assert decode(with_line_ends, OCTET).batch.equals(decode(b"\n".join(MESSAGES)).batch)


def test_octet_counted_message_may_hold_newlines() -> None:
    message = b"<13>1 - h a - - - first\nsecond\r\n"
    assert shown(decode(octet(message, RFC3164[0]), OCTET), "body")[0] == "first\nsecond"


def test_garbage_between_frames_is_one_error() -> None:
    decoded = decode(octet(RFC5424[0]) + b"what is this" + octet(RFC5424[1]), OCTET)
    assert decoded.batch.num_rows == 2
    assert [(error.row, error.reason, error.raw) for error in decoded.errors] == [
        (1, octets.NO_FRAME_REASON, b"what is this")
    ]


def test_frame_that_is_cut_short_is_an_error() -> None:
    decoded = decode(octet(*RFC3164)[:-3], OCTET)
    assert [error.reason for error in decoded.errors] == [octets.CUT_REASON]
    assert decoded.batch.num_rows == len(RFC3164) - 1


def test_huge_frame_is_passed_over_with_bounded_memory() -> None:
    huge = b"<13>" + b"x" * (8 * RECORD_BYTES_MAX)
    data = octet(RFC3164[0], huge, RFC3164[1])
    decoded, passed, held = feed_held(syslog, OCTET, data, piece_bytes=256 * 1024)
    assert passed == [len(octet(huge))]
    assert sum(part.batch.num_rows for part in decoded) == 2
    assert held <= RECORD_BYTES_MAX + 512 * 1024


def test_huge_line_is_passed_over_with_bounded_memory() -> None:
    data = RFC3164[0] + b"\n<13>" + b"x" * (8 * RECORD_BYTES_MAX) + b"\n" + RFC3164[1] + b"\n"
    decoded, passed, held = feed_held(syslog, NEWLINE, data, piece_bytes=256 * 1024)
    assert len(passed) == 1
    assert [body for part in decoded for body in shown(part, "body")] == [
        "'su root' failed for lonvick on /dev/pts/8",
        "Use the BFG!",
    ]
    assert held <= RECORD_BYTES_MAX + 512 * 1024


def test_priority_beyond_the_scale_is_kept_as_an_attribute() -> None:
    decoded = decode(b"<999>Oct 11 22:14:15 h su: x\n<13>y\n")
    assert shown(decoded, "severity") == [0, 10]
    assert attributes(decoded)[0] == {"pri": "999"}


def test_process_id_that_is_no_number_stays_text() -> None:
    assert attributes(decode(b"<13>1 - h a p-1 - - x\n"))[0]["pid"] == "p-1"


def test_unknown_framing_is_refused() -> None:
    with pytest.raises(FormatError, match="framing"):
        decode(b"", Format(FormatKind.SYSLOG, {"framing": "no"}))


PIECES = st.lists(st.sampled_from([*MESSAGES, b"garbage", b"12", b"\xff", b"\tat x"]), max_size=8)


@settings(max_examples=150, deadline=None)
@given(PIECES, st.lists(st.integers(0, 600), max_size=5), st.booleans())
def test_any_cut_gives_the_same_records(pieces: list[bytes], cuts: list[int], counted: bool) -> None:
    if counted:
        framing = OCTET
        data = b"".join(piece if len(piece) < 8 else octet(piece) for piece in pieces)
    else:
        framing, data = NEWLINE, b"\n".join(pieces)
    whole = feed(syslog, framing, data, [])
    cut = feed(syslog, framing, data, cuts)
    assert cut.batch.equals(whole.batch)
    assert cut.errors == whole.errors


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_decoded(data: bytes, counted: bool) -> None:
    decode(data, OCTET if counted else NEWLINE)
