"""What a journal holds, as its readers see it: durable segments, the head, the newest frames decoded.

Belongs to the event loop: everything happens there, so nothing is locked and no reader sees half a step.
"""

from __future__ import annotations

import asyncio
import bisect
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from heimdall_server.ports.journal import Frame
from heimdall_server.storage.journal.segment import Segment
from heimdall_server.storage.journal.writer import Written


class Shelf:
    """Segments in order; the last one is being written."""

    def __init__(self, segments: Iterable[Segment], *, head: int, cache_bytes: int) -> None:
        self._segments = list(segments)
        self.head = head
        """Last durable position."""
        self.size_bytes = sum(segment.end for segment in self._segments)
        self.frame_count = sum(segment.frame_count for segment in self._segments)
        self.record_count = sum(segment.record_count for segment in self._segments)
        self.closed = False
        self._recent: OrderedDict[int, tuple[Frame, int]] = OrderedDict()
        self._recent_bytes = 0
        self._recent_bytes_max = cache_bytes
        self._advanced = asyncio.Event()

    @property
    def segments(self) -> Sequence[Segment]:
        """All of them, oldest first."""
        return self._segments

    @property
    def active(self) -> Segment:
        """The one that is being written."""
        return self._segments[-1]

    @property
    def tail(self) -> int:
        """First position held; one after the head when nothing is."""
        return self._segments[0].first_position

    def begin(self, segment: Segment) -> None:
        """A new segment is being written; those before are sealed."""
        if self._segments:
            self._segments[-1].offsets = None
        segment.offsets = array("Q", (segment.end,))
        self._segments.append(segment)
        self.size_bytes += segment.end

    def add(self, written: Written) -> None:
        """A frame became durable, in the active segment."""
        segment, header = self.active, written.header
        if segment.offsets is None or segment is not written.segment or written.offset != segment.end:
            msg = "a frame came out of its order"
            raise RuntimeError(msg)
        if not segment.frame_count:
            segment.first_time_ns = header.time_ns
        segment.last_time_ns = header.time_ns
        segment.frame_count += 1
        segment.record_count += header.row_count
        segment.end += header.size_bytes
        segment.offsets.append(segment.end)
        if header.is_snapshot:
            segment.snapshot_position = header.position
        self.size_bytes += header.size_bytes
        self.frame_count += 1
        self.record_count += header.row_count
        self._remember(written.frame)

    def publish(self, head: int) -> None:
        """Let readers see everything up to a position, and wake those that wait."""
        if head > self.head:
            self.head = head
            self._wake()

    def drop_first(self) -> Segment:
        """Forget the oldest segment, which isn't the active one."""
        segment = self._segments.pop(0)
        self.size_bytes -= segment.end
        self.frame_count -= segment.frame_count
        self.record_count -= segment.record_count
        return segment

    def find(self, position: int) -> Segment | None:
        """The segment that holds a position; None if it is gone."""
        index = bisect.bisect_right(self._segments, position, key=lambda segment: segment.first_position) - 1
        return self._segments[index] if index >= 0 else None

    def recent(self, position: int) -> Frame | None:
        """A frame that is still decoded."""
        found = self._recent.get(position)
        return None if found is None else found[0]

    def close(self) -> None:
        """No frame will come any more."""
        self.closed = True
        self._recent.clear()
        self._wake()

    async def passed(self, position: int) -> bool:
        """Wait until the head is beyond a position.

        Returns:
            False if the journal was closed instead.
        """
        while self.head <= position and not self.closed:
            await self._advanced.wait()
        return self.head > position

    def _remember(self, frame: Frame) -> None:
        batch = frame.entry.batch
        # What the buffers weigh, not the rows: a slice keeps the whole of what it was cut from.
        weight = frame.size_bytes if batch is None else int(batch.get_total_buffer_size())
        if weight > self._recent_bytes_max:
            self._recent.clear()
            self._recent_bytes = 0
            return
        self._recent[frame.position] = (frame, weight)
        self._recent_bytes += weight
        while self._recent_bytes > self._recent_bytes_max:
            self._recent_bytes -= self._recent.popitem(last=False)[1][1]

    def _wake(self) -> None:
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()
