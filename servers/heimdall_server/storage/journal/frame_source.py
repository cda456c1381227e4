"""Frames for readers: from what is still decoded, else from the files, in threads, some at a time."""

from __future__ import annotations

import asyncio
import functools
import os
from array import array
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import CorruptionError, StoreError
from heimdall_server.ports.journal import Frame
from heimdall_server.storage.journal.files import STORE
from heimdall_server.storage.journal.reading import Run, gone, read_run
from heimdall_server.storage.journal.segment import Segment, load_offsets, place
from heimdall_server.storage.journal.shelf import Shelf

_RUN_FRAMES_MAX: Final = 256
_FRAMES_PER_TURN: Final = 32
"""Decoded frames that a reader gets before others have their turn on the loop."""


@dataclass(slots=True)
class _Cursor:
    """Where one reader stands; keeps the offsets of the segment it is in."""

    segment: Segment | None = None
    offsets: Sequence[int] = ()


class FrameSource:
    """Reads a shelf. Many readers at once; each goes at its own pace."""

    def __init__(self, shelf: Shelf, *, read_bytes: int, threads: int) -> None:
        self._shelf = shelf
        self._read_bytes = read_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="journal-read")

    async def frames(self, after: int, through: int | None, *, with_batch: bool) -> AsyncIterator[Frame]:
        """As `Journal.read` and `read_control` say; waits for what is beyond the head."""
        shelf = self._shelf
        if after > shelf.head or after + 1 < shelf.tail:
            raise gone(after + 1)
        cursor = _Cursor()
        position = after + 1
        turn = 0
        while through is None or position <= through:
            if position > shelf.head and not await shelf.passed(position - 1):
                return
            frame = shelf.recent(position) if with_batch else None
            if frame is not None:
                yield frame
                position += 1
                turn += 1
                if turn % _FRAMES_PER_TURN == 0:
                    await asyncio.sleep(0)
                continue
            if shelf.closed:
                return
            run = await self._run(cursor, position, through, with_batch=with_batch)
            for frame in run.frames:
                yield frame
            position += len(run.frames)
            if run.error is not None:
                raise run.error

    def close(self) -> None:
        """Stop the threads when what was begun is read. Idempotent."""
        self._pool.shutdown(wait=False)

    async def _run(self, cursor: _Cursor, position: int, through: int | None, *, with_batch: bool) -> Run:
        segment = self._shelf.find(position)
        if segment is None:
            raise gone(position)
        # A pinned segment's file isn't reused; it stays pinned until the thread is done, even if the reader
        # that asked was cancelled.
        segment.pin_count += 1
        last = min(self._shelf.head, segment.last_position)
        if through is not None:
            last = min(last, through)
        count = last - position + 1
        if segment.offsets is not None:
            wanted = self._cut(segment.offsets, position - segment.first_position, count)
            load = functools.partial(read_run, segment, wanted, position, with_batch=with_batch)
        else:
            load = functools.partial(self._load_sealed, cursor, segment, position, count, with_batch=with_batch)
        work = asyncio.get_running_loop().run_in_executor(self._pool, load)
        work.add_done_callback(lambda _: _unpin(segment))
        return await asyncio.shield(work)

    def _load_sealed(self, cursor: _Cursor, segment: Segment, position: int, count: int, *, with_batch: bool) -> Run:
        """Read frames of a segment whose offsets are in its file, in a thread. The cursor's reader waits."""
        if cursor.segment is not segment:
            try:
                cursor.segment, cursor.offsets = segment, self._offsets(segment)
            except FileNotFoundError:
                return Run(error=gone(position))
            except OSError as error:
                return Run(error=StoreError(STORE, f"read {segment.path.name}: {error.strerror or error}"))
        first = position - segment.first_position
        if first + 1 >= len(cursor.offsets):
            where = place(segment.path, cursor.offsets[-1], segment.first_position + len(cursor.offsets) - 1)
            return Run(error=CorruptionError(where, "the frame is damaged, and so is the segment's index"))
        return read_run(segment, self._cut(cursor.offsets, first, count), position, with_batch=with_batch)

    @staticmethod
    def _offsets(segment: Segment) -> array[int]:
        descriptor = segment.disk.open(segment.path, os.O_RDONLY)
        try:
            return load_offsets(descriptor, segment)
        finally:
            segment.disk.close(descriptor)

    def _cut(self, offsets: Sequence[int], first: int, count: int) -> list[int]:
        """Offsets of the frames from `first` that are read in one go, and of their end."""
        stop = min(first + min(count, _RUN_FRAMES_MAX), len(offsets) - 1)
        start = offsets[first]
        end = first + 1
        while end < stop and offsets[end + 1] - start <= self._read_bytes:
            end += 1
        return list(offsets[first : end + 1])


def _unpin(segment: Segment) -> None:
    segment.pin_count -= 1
