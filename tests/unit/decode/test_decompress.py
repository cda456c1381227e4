from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.decode.decompress import Compression, Decompressor, decompress, sniff
from heimdall_server.domain.errors import FormatError, RecordTooLargeError

PACKERS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstandard.ZstdCompressor().compress,
}
KINDS = pytest.mark.parametrize("kind", PACKERS)
LIMIT = 1 << 30


@KINDS
def test_kind_is_told_by_the_first_bytes(kind: Compression) -> None:
    assert sniff(PACKERS[kind](b"x")) is kind
    assert sniff(b"plain text") is Compression.NONE
    assert sniff(b"") is Compression.NONE


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(PACKERS)),
    st.lists(st.binary(max_size=50), min_size=1, max_size=4),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_any_cut_of_several_members_gives_the_same_bytes(
    kind: Compression, members: list[bytes], cuts: list[int]
) -> None:
    packed = b"".join(map(PACKERS[kind], members))
    unpacker = Decompressor(kind, limit_bytes=LIMIT)
    edges = [0, *sorted(cut for cut in cuts if cut < len(packed)), len(packed)]
    made = b"".join(piece for begin, end in pairwise(edges) for piece in unpacker.feed(packed[begin:end]))
    unpacker.finish()
    assert made == b"".join(members)


@KINDS
def test_data_that_are_cut_short_are_refused(kind: Compression) -> None:
    packed = PACKERS[kind](os.urandom(5000))
    for end in (2, 3, 12, 2000, len(packed) - 1):
        with pytest.raises(FormatError, match="cut short"):
            decompress(packed[:end], kind, limit_bytes=LIMIT)


@KINDS
def test_damaged_data_are_refused(kind: Compression) -> None:
    packed = PACKERS[kind](b"hello " * 1000)
    damaged = packed[:14] + bytes(byte ^ 0xFF for byte in packed[14:])
    for data in (b"no such thing", packed + b"junk", damaged):
        with pytest.raises(FormatError):
            decompress(data, kind, limit_bytes=LIMIT)


def test_zeros_behind_a_gzip_member_are_padding() -> None:
    assert decompress(gzip.compress(b"x") + bytes(512), Compression.GZIP, limit_bytes=LIMIT) == b"x"


@KINDS
def test_bomb_is_stopped_at_the_limit_with_bounded_memory(kind: Compression) -> None:
    bomb = PACKERS[kind](bytes(150_000_000))
    tracemalloc.start()
    with pytest.raises(RecordTooLargeError):
        decompress(bomb, kind, limit_bytes=8_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64_000_000


def test_bytes_that_are_not_packed_pass_through() -> None:
    assert decompress(b"abc", Compression.NONE, limit_bytes=3) == b"abc"
    with pytest.raises(RecordTooLargeError):
        decompress(b"abcd", Compression.NONE, limit_bytes=3)
