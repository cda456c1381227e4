from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from heimdall_client import InputError
from heimdall_client.arrow_payloads import cut_arrow, payloads
from heimdall_client.input_files import Input, ReadAhead


def plain(data: bytes) -> bytes:
    return data


PACKERS: list[Callable[[bytes], bytes]] = [plain, gzip.compress, zstandard.compress]


@pytest.mark.parametrize("pack", PACKERS)
@given(data=st.binary(max_size=5000), skip=st.integers(0, 6000))
def test_content_is_read_whole_and_skipped_exactly(pack: Callable[[bytes], bytes], data: bytes, skip: int) -> None:
    raw = pack(data)
    assume(pack is not plain or not raw.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")))
    content = Input(io.BytesIO(raw), name="x").begin()
    there = content.skip(skip)
    assert there == min(skip, len(data))
    assert content.read() == data[skip:]
    assert content.read() == b""
    assert content.raw_bytes == len(raw)


@pytest.mark.parametrize("pack", PACKERS[1:])
def test_concatenated_files_are_read_to_the_end(pack: Callable[[bytes], bytes]) -> None:
    assert Input(io.BytesIO(pack(b"one\n") + pack(b"two\n")), name="x").begin().read() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("pack", "damage"),
    # a zstd frame that was changed need not show it: it carries a checksum only where that was asked for
    [(gzip.compress, "cut"), (gzip.compress, "changed"), (zstandard.compress, "cut"), (zstandard.compress, "trailed")],
)
def test_damaged_compression_is_told(pack: Callable[[bytes], bytes], damage: str) -> None:
    raw = pack(os.urandom(100_000))
    if damage == "cut":
        raw = raw[:-20]
    elif damage == "changed":
        raw = raw[:50_000] + bytes(100) + raw[50_100:]
    else:
        raw += b"junk that is no frame"
    content = Input(io.BytesIO(raw), name="x.gz").begin()

    def read_all() -> None:
        while content.read():
            pass

    with pytest.raises(InputError, match="not whole"):
        read_all()


def test_other_compression_is_passed_on_as_it_is() -> None:
    raw = bz2.compress(b"x")
    content = Input(io.BytesIO(raw), name="x").begin()
    assert content.compression == ""
    assert content.read() == raw


def test_input_begins_where_the_file_stands(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"header|0123456789")
    with path.open("rb") as file:
        file.seek(7)
        content = Input(file, name="f").begin()
        assert content.skip(4) == 4
        assert content.read() == b"456789"


def test_pipe_that_says_nothing_can_be_stopped() -> None:
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd, "rb") as pipe, os.fdopen(write_fd, "wb"):
        content = Input(pipe, name="pipe")
        threading.Timer(0.1, content.stop).start()
        assert content.begin().read() == b""


async def test_read_ahead_gives_everything_in_order_and_stops() -> None:
    items = iter(range(20))
    assert [item async for item in ReadAhead(lambda: next(items, None), name="t")] == list(range(20))

    def fail() -> None:
        raise InputError("x", "broken")

    with pytest.raises(InputError):
        await anext(ReadAhead(fail, name="t"))
    endless = ReadAhead(lambda: 1, name="endless")
    assert await anext(endless) == 1
    await endless.aclose()
    for _ in range(100):
        if not any(thread.name == "endless" for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.02)
    assert not any(thread.name == "endless" for thread in threading.enumerate())


@given(rows=st.lists(st.text(max_size=300), min_size=1, max_size=60), bytes_max=st.integers(2500, 6000))
def test_arrow_payloads_hold_every_record_and_stay_small(rows: list[str], bytes_max: int) -> None:
    batch = pa.record_batch({"body": rows})
    pieces = list(payloads(batch, bytes_max=bytes_max))
    tables = [pa.ipc.open_stream(payload).read_all() for payload, _ in pieces]
    assert all(len(payload) <= bytes_max for payload, _ in pieces)
    assert [table.num_rows for table in tables] == [count for _, count in pieces]
    assert pa.concat_tables(tables).column("body").to_pylist() == rows
    payload, count = pieces[0]
    assert pa.ipc.open_stream(cut_arrow(payload, count - 1)).read_all().num_rows == 1


def test_arrow_record_over_the_limit_is_told() -> None:
    with pytest.raises(InputError, match="over the limit"):
        list(payloads(pa.record_batch({"body": ["x" * 5000]}), bytes_max=1000))
    assert list(payloads(pa.record_batch({"body": pa.array([], pa.string())}), bytes_max=1000)) == []
