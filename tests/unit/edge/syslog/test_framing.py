"""What a connection sends becomes whole messages, however it was cut on the way."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode.lines import OVERSIZE_REASON as OVERSIZE_LINE_REASON
from heimdall_server.decode.octets import CUT_REASON, NO_FRAME_REASON, OVERSIZE_REASON, find_frames
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.edge.syslog.framing import Framer, Piece

RFC5424 = (
    b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - BOM'su root' failed for lonvick on /dev/pts/8"
)
RFC3164 = b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8"


def octets(*messages: bytes) -> bytes:
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


def run(pieces: Iterable[bytes]) -> list[Piece]:
    """All that a framer gives, flushed and finished."""
    framer = Framer()
    found: list[Piece] = []
    for piece in pieces:
        found += framer.feed(piece)
    return [*found, *framer.flush(), *framer.finish()]


def messages(pieces: Iterable[Piece]) -> list[bytes]:
    """Good messages, whatever their framing."""
    found: list[bytes] = []
    for piece in pieces:
        if piece.problem:
            continue
        if piece.framing == "newline":
            assert piece.payload.endswith(b"\n")
            found += piece.payload.splitlines()
        else:
            frames = find_frames(piece.payload, final=True)
            assert not frames.problems
            ends = frames.bounds[1:].tolist()
            found += [
                piece.payload[a:b].rstrip(b"\n") for a, b in zip(frames.message_starts.tolist(), ends, strict=True)
            ]
    return found


def problems(pieces: Iterable[Piece]) -> list[tuple[str, bytes]]:
    return [(piece.problem, piece.payload) for piece in pieces if piece.problem]


STREAMS = {
    "octet-counted": octets(RFC5424, RFC3164, b"<1>short"),
    "octet-counted with line ends between": b"\n".join([octets(RFC5424), octets(RFC3164), octets(b"<1>short"), b""]),
    "octet-counted with a line end inside": octets(RFC5424, b"<1>one\n<2>two\n12 <3>", RFC3164),
    "lines": b"\n".join([RFC5424, RFC3164, b"<1>short", b""]),
    "lines with carriage returns": b"\r\n".join([RFC5424, RFC3164, b"<1>short", b""]),
    "lines ended by NUL": b"\0".join([RFC5424, RFC3164, b"<1>short", b""]),
    "the last line without its end": b"\n".join([RFC5424, RFC3164, b"<1>short"]),
    "lines without a PRI": b"Oct 11 22:14:15 host a: b\n2024-01-01 nothing\n12345 apples\n",
    "mixed": octets(RFC5424) + RFC3164 + b"\n" + octets(b"<1>a", b"<2>b") + b"<3>c\n<4>d\n" + octets(RFC5424),
}


def expected(name: str) -> list[bytes]:
    if name == "octet-counted with a line end inside":
        return [RFC5424, b"<1>one\n<2>two\n12 <3>", RFC3164]
    if name == "lines without a PRI":
        return STREAMS[name].splitlines()
    if name == "mixed":
        return [RFC5424, RFC3164, b"<1>a", b"<2>b", b"<3>c", b"<4>d", RFC5424]
    return [RFC5424, RFC3164, b"<1>short"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_gives_its_messages_whole_and_cut_at_every_byte(name: str) -> None:
    stream = STREAMS[name]
    assert messages(run([stream])) == expected(name)
    for cut in range(1, len(stream)):
        pieces = run([stream[:cut], stream[cut:]])
        assert messages(pieces) == expected(name), cut
        assert not problems(pieces), cut
    one_by_one = run(stream[i : i + 1] for i in range(len(stream)))
    assert messages(one_by_one) == expected(name)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_mixture_in_any_cuts_gives_every_message_in_order(data: st.DataObject) -> None:
    texts = st.binary(min_size=1, max_size=40).map(lambda raw: raw.translate(bytes(33 + b % 26 for b in range(256))))
    sent = data.draw(st.lists(st.tuples(st.booleans(), texts), min_size=1, max_size=12))
    wanted = [b"<13>" + text for _, text in sent]
    stream = b"".join(
        octets(message) if counted else message + b"\n" for (counted, _), message in zip(sent, wanted, strict=True)
    )
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=8))})
    pieces = run(stream[a:b] for a, b in itertools.pairwise(cuts))
    assert messages(pieces) == wanted
    assert not problems(pieces)


def test_whole_octet_counted_messages_are_given_at_once_and_the_rest_held() -> None:
    framer = Framer()
    stream = octets(RFC5424, RFC3164)
    (piece,) = framer.feed(stream + b"20 <1>begun")
    assert piece == Piece("octet", stream)
    assert framer.held_bytes == len(b"20 <1>begun")
    assert not framer.holds_lines


def test_a_line_waits_for_lines_that_may_belong_to_it() -> None:
    framer = Framer()
    assert framer.feed(b"<1>error\n") == []
    assert framer.feed(b"  at here\n") == []
    assert framer.holds_lines
    assert framer.feed(b"<2>next\n") == [Piece("newline", b"<1>error\n  at here\n")]
    assert framer.flush() == [Piece("newline", b"<2>next\n")]
    assert not framer.holds_lines


def test_garbage_behind_octet_counted_messages_is_passed_over_to_the_next_one() -> None:
    for next_one in (octets(RFC3164), b"\n" + RFC3164 + b"\n"):
        stream = octets(RFC5424) + b"garbage, 12 of it" + next_one
        for cut in range(1, len(stream)):
            pieces = run([stream[:cut], stream[cut:]])
            assert messages(pieces) == [RFC5424, RFC3164], cut
            assert {problem for problem, _ in problems(pieces)} == {NO_FRAME_REASON}
            assert b"".join(raw for _, raw in problems(pieces)).rstrip(b"\n") == b"garbage, 12 of it"


def test_a_wrong_count_costs_the_messages_it_runs_over_and_no_more() -> None:
    pieces = run([b"21 <1>counted wrong" + octets(b"<2>lost", b"<3>kept")])
    assert messages(pieces) == [b"<1>counted wrong7 <2>", b"<3>kept"]


def test_garbage_is_never_held_whole() -> None:
    framer = Framer()
    framer.feed(octets(RFC5424) + b"?")
    for _ in range(64):
        assert all(piece.problem == NO_FRAME_REASON for piece in framer.feed(b"x" * 65_536))
        assert framer.held_bytes < 100
    assert messages(framer.feed(octets(RFC3164))) == [RFC3164]


@pytest.mark.parametrize("step", [1 << 12, 1 << 16, 1 << 22])
def test_an_octet_counted_message_that_is_too_long_is_refused_and_passed_over(step: int) -> None:
    long = b"<13>" + b"x" * (RECORD_BYTES_MAX + 100_000)
    stream = octets(RFC5424, long, RFC3164)
    framer = Framer()
    found: list[Piece] = []
    for begin in range(0, len(stream), step):
        found += framer.feed(stream[begin : begin + step])
        assert framer.held_bytes <= RECORD_BYTES_MAX + step
    assert messages(found) == [RFC5424, RFC3164]
    ((problem, raw),) = problems(found)
    assert problem == OVERSIZE_REASON
    assert len(raw) <= RECORD_BYTES_MAX


@pytest.mark.parametrize("step", [1 << 12, 1 << 16, 1 << 22])
def test_a_line_that_is_too_long_is_refused_and_passed_over(step: int) -> None:
    stream = b"\n".join([RFC5424, b"<13>" + b"x" * (RECORD_BYTES_MAX + 5_000_000), RFC3164, b""])
    framer = Framer()
    found: list[Piece] = []
    for begin in range(0, len(stream), step):
        found += framer.feed(stream[begin : begin + step])
        assert framer.held_bytes <= RECORD_BYTES_MAX + step
    found += framer.flush()
    assert messages(found) == [RFC5424, RFC3164]
    assert [problem for problem, _ in problems(found)] == [OVERSIZE_LINE_REASON]


def test_the_largest_message_passes_in_both_framings() -> None:
    message = b"<13>" + b"x" * (RECORD_BYTES_MAX - 20)
    assert messages(run([octets(message) + b"<1>a\n"])) == [message, b"<1>a"]
    assert messages(run([message + b"\n<1>a\n"])) == [message, b"<1>a"]


def test_what_a_connection_leaves_unfinished_is_an_error_if_counted_and_a_message_if_a_line() -> None:
    pieces = run([octets(RFC5424) + octets(RFC3164)[:-5]])
    assert messages(pieces) == [RFC5424]
    assert [problem for problem, _ in problems(pieces)] == [CUT_REASON]
    pieces = run([b"<1>a\n<2>b"])
    assert messages(pieces) == [b"<1>a", b"<2>b"]
    assert not problems(pieces)


def test_random_bytes_end_nothing_and_are_held_within_bounds() -> None:
    random_ = random.Random(7)
    framer = Framer()
    for _ in range(300):
        size = random_.choice((1, 7, 100, 4_000))
        alphabet = random_.choice((bytes(range(256)), b"0123456789 <>\n", b"<1>\n 12"))
        framer.feed(bytes(random_.choices(alphabet, k=size)))
        assert framer.held_bytes <= RECORD_BYTES_MAX + size
    framer.flush()
    framer.finish()
    assert messages(run([octets(RFC3164)])) == [RFC3164]
