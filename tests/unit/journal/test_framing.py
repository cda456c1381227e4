from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.storage.journal.framing import (
    FRAME_HEADER_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    SegmentFoot,
    SegmentHead,
    foot_bytes,
    peek_format_version,
    unpack_foot,
    unpack_frame_header,
    unpack_head,
)

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
MARKER = st.binary(min_size=8, max_size=8)

HEADERS = st.builds(
    FrameHeader,
    marker=MARKER,
    position=U64,
    time_ns=I64,
    durable_through=U64,
    control_bytes=U32,
    batch_bytes=U32,
    row_count=U32,
    schema_version=U16,
    has_batch=st.booleans(),
    is_snapshot=st.booleans(),
)
HEADS = st.builds(
    SegmentHead,
    journal_id=st.binary(min_size=16, max_size=16),
    sequence=U64,
    first_position=U64,
    created_ns=I64,
    marker=MARKER,
    wrapped_key=st.binary(min_size=60, max_size=60),
    schema_version=U16,
    schema=st.binary(max_size=6000),
    format_version=U16,
)
FEET = st.builds(
    SegmentFoot,
    marker=MARKER,
    offsets=st.lists(U64, min_size=1, max_size=40).map(lambda values: array("Q", values)),
    record_count=U64,
    first_time_ns=I64,
    last_time_ns=I64,
    snapshot_position=U64,
)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(HEADERS)
def test_frame_headers_come_back(header: FrameHeader) -> None:
    packed = header.pack()
    assert len(packed) == FRAME_HEADER_BYTES
    assert unpack_frame_header(packed + b"body", header.marker) == header


@given(HEADERS, st.data())
def test_no_changed_frame_header_is_taken_for_one(header: FrameHeader, data: st.DataObject) -> None:
    packed = header.pack()
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    assert unpack_frame_header(flipped(packed, bit), header.marker) is None
    assert unpack_frame_header(packed[: data.draw(st.integers(0, len(packed) - 1))], header.marker) is None


@given(HEADERS, MARKER)
def test_a_frame_of_a_former_life_of_the_file_is_none_of_ours(header: FrameHeader, marker: bytes) -> None:
    assert (unpack_frame_header(header.pack(), marker) is None) == (marker != header.marker)


@given(st.binary(max_size=300), MARKER)
def test_any_bytes_are_no_frame(data: bytes, marker: bytes) -> None:
    assert unpack_frame_header(data, marker) is None
    assert unpack_head(data) is None
    assert foot_bytes(data[-TRAILER_BYTES:], marker) is None


@given(HEADS, st.binary(max_size=100))
def test_segment_heads_come_back(head: SegmentHead, rest: bytes) -> None:
    packed = head.pack()
    assert len(packed) == head.size_bytes
    assert len(packed) % 4096 == 0
    assert unpack_head(packed + rest) == head
    assert peek_format_version(packed) == head.format_version


@given(HEADS, st.data())
def test_no_changed_segment_head_is_taken_for_one(head: SegmentHead, data: st.DataObject) -> None:
    packed = head.pack()
    used = len(packed.rstrip(b"\0"))
    assert unpack_head(flipped(packed, data.draw(st.integers(0, used * 8 - 1)))) != head


@given(FEET, st.binary(max_size=100))
def test_segment_feet_come_back(foot: SegmentFoot, before: bytes) -> None:
    file = before + foot.pack()
    size = foot_bytes(file[-TRAILER_BYTES:], foot.marker)
    assert size == len(file) - len(before)
    assert unpack_foot(file[-size:]) == foot


@given(FEET, st.data())
def test_no_changed_segment_foot_is_taken_for_one(foot: SegmentFoot, data: st.DataObject) -> None:
    packed = foot.pack()
    changed = flipped(packed, data.draw(st.integers(0, len(packed) * 8 - 1)))
    size = foot_bytes(changed[-TRAILER_BYTES:], foot.marker)
    assert size is None or size != len(packed) or unpack_foot(changed) is None
