"""Jobs that wait, in a line for each turn (stream or exporter): round robin, by payload bytes.

A stream with much to say gets all there is as long as nobody else wants it, and an equal share as soon as somebody
does; a small batch never waits behind more than one share of each other turn. Within a turn the order stands.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from typing import Final

from heimdall_server.services.ingest.logic.jobs import Job

SHARE_BYTES: Final = 1024 * 1024
"""What a turn may take before the next one's; a single larger job goes whole."""


class FairQueue:
    """See the module. The event loop owns it."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, deque[Job]] = OrderedDict()
        self.size_bytes = 0
        """Payload bytes that wait."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def put(self, job: Job) -> None:
        """Behind what waits of its turn."""
        self._lines.setdefault(job.turn, deque()).append(job)
        self.size_bytes += job.size_bytes

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Before what waits of their turns, and these turns before all others: they had begun."""
        for job in reversed(jobs):
            self._lines.setdefault(job.turn, deque()).appendleft(job)
            self._lines.move_to_end(job.turn, last=False)
            self.size_bytes += job.size_bytes

    def take(self, bytes_max: int) -> list[Job]:
        """The next jobs, neighbours of a turn merged where they can be; stale ones are dropped.

        Args:
            bytes_max: Payload bytes of all together; a single larger job comes alone.
        """
        taken: list[Job] = []
        newest: dict[Hashable, Job] = {}
        left = bytes_max
        while self._lines:
            turn, line = self._lines.popitem(last=False)
            share = SHARE_BYTES
            while line and share > 0 and (line[0].size_bytes <= left or not taken):
                job = line.popleft()
                size = job.size_bytes
                self.size_bytes -= size
                if job.stale():
                    job.dropped()
                    continue
                left -= size
                share -= size
                job.taken()
                before = newest.get(turn)
                if before is None or not before.absorb(job):
                    taken.append(job)
                    newest[turn] = job
            if line:
                full = bool(taken) and line[0].size_bytes > left
                self._lines[turn] = line
                if full:
                    # It goes first next time: else a large job could be passed by small ones for ever.
                    self._lines.move_to_end(turn, last=False)
                    break
        return taken
