from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.crypto.envelope import TAG_BYTES, UnsealError
from heimdall_server.domain.errors import CorruptionError
from heimdall_server.domain.records import RECORD_SCHEMA
from heimdall_server.ports.journal import DeadLetter, Deletion, Entry, RequestMark, Snapshot, SourceKey, SourceMark
from heimdall_server.storage.journal.control import decode_control, encode_control
from heimdall_server.storage.journal.frame_cipher import FrameCipher, decode_batch, encode_batch
from heimdall_server.storage.journal.framing import FrameHeader
from heimdall_server.storage.journal.segment_file import new_head
from tests.support.journal import KEY, OTHER_KEY, make_batch

TEXT = st.text(max_size=20)
COUNT = st.integers(0, 2**63 - 1)
ROW = st.integers(0, 2**31 - 1)
KEYS = st.builds(SourceKey, TEXT, TEXT)
ENTRIES = st.builds(
    Entry,
    batch=st.none(),
    sources=st.lists(
        st.builds(
            SourceMark,
            key=KEYS,
            epoch=COUNT,
            offset=COUNT,
            next_offset=COUNT,
            batches=st.lists(st.tuples(COUNT, COUNT, st.integers(0, 2**32 - 1)), max_size=3).map(tuple),
            accepted_count=COUNT,
            rejected_count=COUNT,
            format=TEXT,
            dump=TEXT,
            finished=st.booleans(),
            first_row=ROW,
        ),
        max_size=3,
    ).map(tuple),
    requests=st.lists(st.builds(RequestMark, TEXT, st.binary(max_size=32), COUNT, COUNT, COUNT, TEXT), max_size=3).map(
        tuple
    ),
    dead_letters=st.lists(
        st.builds(DeadLetter, KEYS, COUNT, ROW, TEXT, COUNT, st.binary(max_size=50), TEXT, TEXT, TEXT), max_size=3
    ).map(tuple),
    resolved_letters=st.lists(TEXT, max_size=3).map(tuple),
    sidecars=st.dictionaries(TEXT, st.binary(max_size=20), max_size=3),
    deletions=st.lists(
        st.builds(
            Deletion,
            TEXT,
            TEXT,
            st.none() | COUNT,
            st.none() | COUNT,
            st.lists(TEXT, max_size=2).map(tuple),
            COUNT,
        ),
        max_size=2,
    ).map(tuple),
    snapshot=st.none() | st.builds(Snapshot, COUNT, st.binary(max_size=20)),
)


@given(ENTRIES)
def test_control_comes_back(entry: Entry) -> None:
    assert decode_control(encode_control(entry), None) == entry


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_batches_come_back(count: int) -> None:
    batch = make_batch([f"body {row} ü" for row in range(count)])
    assert decode_batch(pa.py_buffer(encode_batch(batch)), RECORD_SCHEMA).equals(batch)


def test_a_slice_is_written_without_the_rest_of_its_parent() -> None:
    parent = make_batch(["x" * 100] * 10_000)
    part = parent.slice(5000, 10)
    message = encode_batch(part)
    assert len(message) < 10_000
    assert decode_batch(pa.py_buffer(message), RECORD_SCHEMA).equals(part)


def test_columns_that_came_later_get_their_default() -> None:
    names = [name for name in RECORD_SCHEMA.names if name not in {"tlp", "attributes_bool", "record_number"}]
    old = make_batch(["a", "b"]).select(names)
    batch = decode_batch(pa.py_buffer(encode_batch(old)), old.schema)
    assert batch.schema.equals(RECORD_SCHEMA)
    assert batch.column("tlp").to_pylist() == ["", ""]
    assert batch.column("attributes_bool").to_pylist() == [[], []]
    assert batch.column("body").to_pylist() == ["a", "b"]


def sealed() -> tuple[FrameCipher, FrameHeader, bytearray]:
    cipher = FrameCipher(new_head(KEY, b"j" * 16, sequence=1, first_position=1, now_ns=0), KEY, place="here")
    header = FrameHeader(b"m" * 8, 1, 2, 0, 7 + TAG_BYTES, 5 + TAG_BYTES, 1, 1, has_batch=True, is_snapshot=False)
    frame = bytearray(header.size_bytes)
    cipher.seal(header, b"control", memoryview(b"batch"), memoryview(frame))
    return cipher, header, frame


def open_body(cipher: FrameCipher, header: FrameHeader, frame: bytearray) -> tuple[bytes, bytes]:
    body = memoryview(frame)[64:]
    control = cipher.open_control(header, body[: header.control_bytes])
    return control, cipher.open_batch(header, body[header.control_bytes :]).to_pybytes()


def test_frames_are_sealed_and_opened() -> None:
    cipher, header, frame = sealed()
    assert frame[:64] == header.pack()
    assert b"control" not in frame
    assert b"batch" not in frame
    assert open_body(cipher, header, frame) == (b"control", b"batch")


def test_no_bit_of_a_sealed_frame_can_change() -> None:
    cipher, header, frame = sealed()
    for bit in range(64 * 8, len(frame) * 8):
        changed = bytearray(frame)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnsealError):
            open_body(cipher, header, changed)


@pytest.mark.parametrize(
    "change", [{"position": 2}, {"time_ns": 3}, {"row_count": 2}, {"schema_version": 2}, {"is_snapshot": True}]
)
def test_a_frame_that_was_renumbered_or_relabelled_is_refused(change: dict[str, int]) -> None:
    cipher, header, frame = sealed()
    moved = replace(header, **change)  # type: ignore[arg-type]  # fields of FrameHeader of several types
    with pytest.raises(UnsealError):
        cipher.open_control(moved, memoryview(frame)[64 : 64 + header.control_bytes])
    with pytest.raises(UnsealError):
        cipher.open_batch(moved, memoryview(frame)[64 + header.control_bytes :])


def test_a_segments_key_belongs_to_its_journal_place_and_root_key() -> None:
    head = new_head(KEY, b"j" * 16, sequence=1, first_position=1, now_ns=0)
    for wrong, key in ((head, OTHER_KEY), (replace(head, sequence=2), KEY), (replace(head, journal_id=b"x" * 16), KEY)):
        with pytest.raises(CorruptionError, match="here"):
            FrameCipher(wrong, key, place="here")
