"""What is to be ingested, as blocks: decompressed, read ahead in a thread, counted, hashed."""

from __future__ import annotations

import asyncio
import hashlib
import select
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Final, Self

import pyarrow as pa

from heimdall_client.errors import InputError

GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ARROW_FILE_MAGIC: Final = b"ARROW1"
BLOCK_BYTES: Final = 1024 * 1024
STOP_CHECK_MS: Final = 200
"""How often a read that waits for a pipe looks whether it should stop."""
AHEAD_COUNT: Final = 2
"""Blocks that are read before they are asked for."""


class Input:
    """Bytes to ingest. gzip and zstd are told by their first bytes and decompressed as they are read.

    Blocking; not thread-safe, but for `stop`. It doesn't close the file it reads.

    Args:
        source: Read from where it stands.
        name: For the sentences of errors.
    """

    def __init__(self, source: BinaryIO, *, name: str) -> None:
        self.name = name
        self.raw_bytes = 0
        """Read from `source` so far, before decompression."""
        self.source = source
        """What is read."""
        self.start = source.tell() if source.seekable() else None
        """Where it began; None: it can't seek."""
        self.head = b""
        """The first bytes, as they are; after `begin`."""
        self.compression = ""
        """`gzip`, `zstd` or empty; after `begin`."""
        self._stopped = False
        self._ready = _readiness(source) if self.start is None else None
        self._unread = b""
        self._offset = 0
        self._stream: Any = _Raw(self)

    def begin(self) -> Self:
        """Read the first bytes and tell the compression.

        Raises:
            InputError: It can't be read.
        """
        try:
            while len(self._unread) < len(ARROW_FILE_MAGIC) and (part := self._pull(BLOCK_BYTES)):
                self._unread += part
        except OSError as error:
            raise InputError(self.name, f"it can't be read: {error}") from error
        self.head = self._unread[: len(ARROW_FILE_MAGIC)]
        if self.head.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
            self.compression = "gzip" if self.head.startswith(GZIP_MAGIC) else "zstd"
            # Arrow's codecs release the GIL, read what was concatenated, and tell when the end is missing.
            self._stream = pa.CompressedInputStream(pa.PythonFile(_Raw(self), mode="r"), self.compression)
        return self

    def stop(self) -> None:
        """A read that waits for a pipe or a terminal ends soon, as if nothing more came."""
        self._stopped = True

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Up to `size` decompressed bytes; none only at the end.

        Raises:
            InputError: It can't be read or decompressed.
        """
        parts: list[bytes] = []
        wanted = size
        while wanted:
            try:
                part = self._stream.read(wanted)
            except (OSError, pa.ArrowInvalid) as error:
                what = f"not whole {self.compression}" if self.compression else "it can't be read"
                raise InputError(self.name, f"{what}: {error}", self._offset) from error
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
            self._offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> int:
        """Pass over the first decompressed bytes; seeks where that can be done.

        Returns:
            How many were there; fewer than `count` at the end.
        """
        if self.start is not None and not self.compression:
            there = min(count, self.source.seek(0, 2) - self.start)
            self.source.seek(self.start + there)
            self._unread = b""
            self._offset = self.raw_bytes = there
            return there
        left = count
        while left:
            block = self.read(min(left, BLOCK_BYTES))
            if not block:
                break
            left -= len(block)
        return count - left

    def read_raw(self, size: int) -> bytes:
        """From the source, as it is; what `begin` read comes first."""
        part = self._unread or self._pull(size)
        part, self._unread = part[:size], part[size:]
        self.raw_bytes += len(part)
        return part

    def _pull(self, size: int) -> bytes:
        # A thread that is blocked inside a buffered reader holds its lock, which kills the interpreter when it ends.
        # So a pipe is asked for data first, and then read no further than what is there.
        if self._ready is None:
            return self.source.read(size) or b""
        while not self._stopped:
            if self._ready.poll(STOP_CHECK_MS):
                return getattr(self.source, "read1", self.source.read)(size) or b""
        return b""


def _readiness(source: BinaryIO) -> Any:  # noqa: ANN401 - select.poll has no public type
    """What tells whether a pipe has data; None where that can't be told."""
    if not hasattr(select, "poll"):
        return None
    try:
        number = source.fileno()
    except (OSError, AttributeError):
        return None
    ready = select.poll()
    ready.register(number, select.POLLIN)
    return ready


class _Raw:
    """The source with its head put back, as pyarrow wants a file."""

    closed = False

    def __init__(self, owner: Input) -> None:
        self._owner = owner

    def read(self, size: int = -1, /) -> bytes:
        return self._owner.read_raw(BLOCK_BYTES if size < 0 else size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The caller's file stays open."""


class ReadAhead:
    """Calls a blocking function again and again in a thread of its own, a little ahead of who asks.

    The thread is a daemon, unlike asyncio's: a read that blocks for ever must not keep the program from ending on
    Ctrl-C. It ends with the last item, or as soon as its read returns after `aclose`.

    Args:
        produce: Returns the next item, None at the end.
        name: Of the thread.
    """

    def __init__(self, produce: Callable[[], Any], *, name: str) -> None:
        self._produce = produce
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()
        self._slots = threading.Semaphore(AHEAD_COUNT)
        self._stopped = False
        self._done = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:  # noqa: ANN401 - whatever `produce` returns
        if self._done:
            raise StopAsyncIteration
        item, error = await self._items.get()
        self._slots.release()
        if error is not None or item is None:
            self._done = True
        if error is not None:
            raise error
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Let the thread end."""
        self._stopped = True
        self._slots.release()

    def _work(self) -> None:
        while True:
            self._slots.acquire()
            if self._stopped:
                return
            item, error = None, None
            try:
                item = self._produce()
            except Exception as problem:  # noqa: BLE001 - raised where the items are read
                error = problem
            try:
                self._loop.call_soon_threadsafe(self._items.put_nowait, (item, error))
            except RuntimeError:  # the loop is closed: nobody reads any more
                return
            if item is None:
                return


def content_sha256(source: Input, on_block: Callable[[], None]) -> bytes:
    """SHA-256 of what is left of an input, decompressed. Blocking; releases the GIL.

    Args:
        source: Is read to its end.
        on_block: Called after each block.
    """
    digest = hashlib.sha256()
    while block := source.read():
        digest.update(block)
        on_block()
    return digest.digest()
