"""Feeds whole files and streams: where to go on, decompression, dumps' hashes, Arrow files, progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa

from heimdall.ingest.v1 import source_pb2
from heimdall_client.errors import HeimdallError, InputError
from heimdall_client.ingester import AsyncIngester, IngestSummary
from heimdall_client.input_files import ARROW_FILE_MAGIC, Input, ReadAhead, content_sha256

ARROW_SUFFIXES: Final = (".arrow", ".arrows", ".feather")


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingest is. Callbacks get it from the loop's thread, at most about once a block."""

    stage: Literal["hashing", "sending"]
    read_bytes: int
    """Read of the file, before decompression; a resumed seek counts."""
    total_bytes: int | None
    """Size of the file; None: not known."""
    offset: int = 0
    """Written to the source."""
    durable_offset: int = 0
    """Acknowledged of the source."""
    accepted_count: int = 0
    rejected_count: int = 0


OnIngestProgress = Callable[[IngestProgress], None]


def is_arrow(head: bytes, file_name: str, format_: source_pb2.Format | None) -> bool:
    """Whether a file is to be read as Arrow IPC (stream or file)."""
    if format_ is not None:
        return format_.kind == source_pb2.Format.KIND_ARROW
    return head.startswith(ARROW_FILE_MAGIC) or file_name.endswith(ARROW_SUFFIXES)


async def hash_content(
    source: BinaryIO, *, name: str, total_bytes: int | None, on_progress: OnIngestProgress | None
) -> bytes:
    """SHA-256 of a file's decompressed content; the file then stands where it stood.

    Raises:
        InputError: It can't seek: its content would have to be read twice.
    """
    if not source.seekable():
        problem = "a dump's content is hashed before it is sent, which takes a file: save it as one first"
        raise InputError(name, problem)
    start = source.tell()
    loop = asyncio.get_running_loop()
    content = await asyncio.to_thread(Input(source, name=name).begin)

    def tell() -> None:
        if on_progress is not None:
            progress = IngestProgress("hashing", content.raw_bytes, total_bytes)
            loop.call_soon_threadsafe(on_progress, progress)

    digest = await asyncio.to_thread(content_sha256, content, tell)
    source.seek(start)
    return digest


async def feed_bytes(ingester: AsyncIngester, content: Input, *, tell: Callable[[], None]) -> None:
    """Write an input to an open ingester, from the offset where the source goes on.

    Args:
        ingester: Open.
        content: At its beginning.
        tell: Called after each block.

    Raises:
        InputError: The input is shorter than what the source already holds, or can't be read.
    """
    offset = ingester.offset
    there = await asyncio.to_thread(content.skip, offset) if offset else 0
    if there < offset:
        raise _shorter(content.name, ingester, offset, there)
    blocks = ReadAhead(lambda: content.read() or None, name=f"read {content.name}")
    try:
        async for block in blocks:
            await ingester.write(block)
            tell()
    finally:
        await blocks.aclose()


async def feed_arrow(ingester: AsyncIngester, content: Input, *, tell: Callable[[], None]) -> None:
    """Write an Arrow IPC stream or file to an open ingester, from the record where the source goes on.

    Raises:
        InputError: It isn't Arrow, or holds fewer records than the source.
    """
    offset = left = ingester.offset
    reader = await asyncio.to_thread(_arrow_batches, content)
    batches = ReadAhead(reader, name=f"read {content.name}")
    try:
        async for batch in batches:
            skipped = min(left, int(batch.num_rows))
            left -= skipped
            if skipped < batch.num_rows:
                await ingester.append_arrow(batch.slice(skipped))
            tell()
    finally:
        await batches.aclose()
    if left:
        raise _shorter(content.name, ingester, offset, offset - left)


async def feed(
    ingester: AsyncIngester,
    content: Input,
    *,
    total_bytes: int | None,
    finish: bool,
    on_progress: OnIngestProgress | None,
) -> IngestSummary:
    """Feed an input to an open ingester and end it."""

    def tell() -> None:
        if on_progress is not None:
            progress = IngestProgress(
                stage="sending",
                read_bytes=content.raw_bytes,
                total_bytes=total_bytes,
                offset=ingester.offset,
                durable_offset=ingester.durable_offset,
                accepted_count=ingester.accepted_count,
                rejected_count=ingester.rejected_count,
            )
            on_progress(progress)

    if ingester.already_complete:
        return await ingester.summary()
    try:
        if ingester.format.kind == source_pb2.Format.KIND_ARROW:
            await feed_arrow(ingester, content, tell=tell)
        else:
            await feed_bytes(ingester, content, tell=tell)
    except InputError:
        with contextlib.suppress(HeimdallError):  # what was good is kept; the input's problem is what must be told
            await ingester.flush()
        raise
    summary = await _end(ingester, finish=finish)
    tell()
    return summary


async def _end(ingester: AsyncIngester, *, finish: bool) -> IngestSummary:
    if finish:
        return await ingester.finish()
    await ingester.flush()
    return await ingester.summary()


def _shorter(name: str, ingester: AsyncIngester, offset: int, there: int) -> InputError:
    return InputError(
        name,
        f"source {ingester.source!r} already holds {offset:,} of it, but there are only {there:,}: "
        "is this another file under the same name?",
    )


def _arrow_batches(content: Input) -> Callable[[], Any]:
    """A function that returns the next batch, None at the end."""
    try:
        if content.head.startswith(ARROW_FILE_MAGIC):
            file = pa.ipc.open_file(_whole(content))
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(pa.PythonFile(_Pull(content), mode="r")))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(content.name, f"not Arrow IPC: {error}") from error

    def produce() -> Any:  # noqa: ANN401 - a record batch, or None
        try:
            return next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(content.name, f"not whole Arrow IPC: {error}") from error

    return produce


def _whole(content: Input) -> Any:  # noqa: ANN401 - pyarrow is untyped
    """An Arrow file as one that can be sought in, since its index stands at its end."""
    if content.start == 0 and not content.compression:
        return pa.PythonFile(content.source, mode="r")
    return pa.py_buffer(b"".join(iter(content.read, b"")))


class _Pull:
    """An input as pyarrow wants a file."""

    closed = False

    def __init__(self, content: Input) -> None:
        self._content = content

    def read(self, size: int = -1, /) -> bytes:
        return self._content.read() if size < 0 else self._content.read(size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The caller's file stays open."""
