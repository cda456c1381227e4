"""Frames for readers: from what is still decoded, else from the files, in threads, some at a time."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import CorruptionError
from heimdall_server.ports.journal import Frame
from heimdall_server.storage.journal.files import disk_errors
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
        """Stop the threads. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        known: Sequence[int] | None = segment.offsets
        if known is None and cursor.segment is segment:
            known = cursor.offsets
        first = position - segment.first_position
        wanted = None if known is None else self._cut(known, first, last - segment.first_position + 1)
        loop = asyncio.get_running_loop()
        try:
            work = loop.run_in_executor(self._pool, self._load, segment, wanted, position, last, with_batch)
        except RuntimeError:
            segment.pin_count -= 1
            raise
        work.add_done_callback(lambda _: _unpin(segment))
        run, offsets = await asyncio.shield(work)
        if offsets is not None:
            cursor.segment, cursor.offsets = segment, offsets
        return run

    def _load(
        self,
        segment: Segment,
        wanted: list[int] | None,
        position: int,
        last: int,
        with_batch: bool,  # noqa: FBT001
    ) -> tuple[Run, Sequence[int] | None]:
        offsets: Sequence[int] | None = None
        if wanted is None:
            try:
                offsets = self._offsets(segment)
            except FileNotFoundError:
                return Run(error=gone(position)), None
            first = position - segment.first_position
            if first + 1 >= len(offsets):
                where = place(segment.path, offsets[-1], segment.first_position + len(offsets) - 1)
                return Run(error=CorruptionError(where, "the frame is damaged, and so is the segment's index")), None
            wanted = self._cut(offsets, first, last - segment.first_position + 1)
        return read_run(segment, wanted, position, with_batch=with_batch), offsets

    @staticmethod
    def _offsets(segment: Segment) -> array[int]:
        with segment.path.open("rb") as file, disk_errors("read"):
            return load_offsets(file.fileno(), segment)

    def _cut(self, offsets: Sequence[int], first: int, stop: int) -> list[int]:
        """Offsets of the frames from `first` that are read in one go, and of their end."""
        stop = min(stop, first + _RUN_FRAMES_MAX, len(offsets) - 1)
        start = offsets[first]
        end = first + 1
        while end < stop and offsets[end + 1] - start <= self._read_bytes:
            end += 1
        return list(offsets[first : end + 1])


def _unpin(segment: Segment) -> None:
    segment.pin_count -= 1
