"""Taking in what nobody waits for an answer of, as syslog: what was taken is made durable, whatever it needs.

Syslog has no acknowledgement: what was read from a socket is lost unless it reaches the journal. So nothing that was
offered is given back; whoever offers watches how much is held (each push says when it no longer is) and stops reading.

Rules:
* Senders wait in a line each, and a job takes from them in turn, so that one with much to say can't starve others.
* A job waits `gather_s` for company unless it is large: a decoder's call costs milliseconds, however little it decodes.
* Few jobs are under way at once. When one is refused, those behind it are taken back, too, and all of them come again
  in their order as soon as none is under way, after the time that the refusal asked for. So each sender's order stands.
* What can't be stored for its content is halved until the bad part is found, which becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import HeimdallError, InvalidInputError, OverloadedError
from heimdall_server.ports.clock import Clock
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.push_job import Origin, Push, PushJob
from heimdall_server.services.ingest.logic.state import Counts

LOG: Final = logging.getLogger(__name__)
JOB_BYTES_MAX: Final = 4 * 1024 * 1024
JOB_BYTES_GOOD: Final = 1024 * 1024
"""So much needn't wait for company."""
SHARE_BYTES: Final = 64 * 1024
"""What a sender may take of a job before the next one's; a larger piece goes whole."""
JOBS_MAX: Final = 3
"""Under way at once: one is decoded, one is written, one waits."""
RETRY_S_MIN: Final = 0.5
RETRY_S_MAX: Final = 5.0
_FORMAT: Final = "syslog"
_STORE_FAILED: Final = "it can't be stored; the server's log has the detail"


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What all that is pushed has in common."""

    dataset: str = "logs"
    zone: str = "UTC"
    """IANA name, for stamps that carry no zone."""
    keep_raw: bool = True
    """Whether the bytes of what can't be decoded are kept."""
    gather_s: float = 0.05
    """How long a small job waits for company."""


class PushUseCase:
    """See the module. For one event loop."""

    def __init__(self, *, pipeline: Pipeline, counts: Counts, clock: Clock, options: PushOptions) -> None:
        self.keep_raw = options.keep_raw
        self.generation = 0
        """See `Owner`."""
        self.held_bytes = 0
        """Payload bytes that were offered and aren't durable."""
        self.lost_bytes = 0
        """Payload bytes that couldn't be made durable before the end."""
        self._pipeline = pipeline
        self._counts = counts
        self._options = options
        self._context = DecodeContext(
            source="", dataset=options.dataset, observed_time_ns=clock.now_ns(), zone=options.zone
        )
        self._lines: OrderedDict[Origin, deque[Push]] = OrderedDict()
        self._waiting_bytes = 0
        self._waiting_since_s = 0.0
        self._returned: list[PushJob] = []
        self._retry_s = RETRY_S_MIN
        self._under_way = 0
        self._number = 0
        # One that is larger than the pipeline's queue would never be taken.
        self._job_bytes_max = min(JOB_BYTES_MAX, pipeline.queue_bytes_max // 4)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run(), name="push")

    async def close(self, timeout_s: float) -> None:
        """Make durable what was offered, then stop. Nothing may be offered any more. Idempotent.

        Args:
            timeout_s: Longest wait; what isn't durable then is lost, counted and said in the log.
        """
        self._closing = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._closed = True
        for job in self._returned:
            self._lose(job.pushes)
        for line in self._lines.values():
            self._lose(line)
        self._returned.clear()
        self._lines.clear()

    def offer(self, push: Push) -> None:
        """Take it. It is released when it is durable."""
        size = len(push.payload)
        metrics.BYTES.labels(_FORMAT).inc(size)
        if not self._waiting_bytes:
            self._waiting_since_s = push.received_s
        self._lines.setdefault(push.origin, deque()).append(push)
        self._waiting_bytes += size
        self.held_bytes += size
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._returned:
                if not self._under_way:
                    await asyncio.sleep(self._retry_s)
                    again, self._returned = sorted(self._returned, key=lambda job: job.number), []
                    while again and self._submit(again.pop(0)):
                        pass
                    self._returned += again
                continue
            while self._lines and self._under_way < JOBS_MAX and not self._returned:
                await self._gather()
                if self._under_way < JOBS_MAX and not self._returned:
                    self._number += 1
                    self._submit(PushJob(self, self._take(), self._context, (self._number,)))
            if self._returned:
                self._wake.set()

    async def _gather(self) -> None:
        """Wait for company."""
        while self._waiting_bytes < JOB_BYTES_GOOD and not self._closing:
            left_s = self._waiting_since_s + self._options.gather_s - time.monotonic()
            if left_s <= 0:
                return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()

    def _take(self) -> list[Push]:
        """The next job's, in turn."""
        taken: list[Push] = []
        left = self._job_bytes_max
        while self._lines and left > 0:
            origin, line = self._lines.popitem(last=False)
            share = SHARE_BYTES
            while line and share > 0 and left > 0:
                push = line.popleft()
                taken.append(push)
                share -= len(push.payload)
                left -= len(push.payload)
            if line:
                self._lines[origin] = line
        self._waiting_bytes -= sum(len(push.payload) for push in taken)
        self._waiting_since_s = time.monotonic()
        return taken

    def _submit(self, job: PushJob) -> bool:
        job.generation = self.generation
        try:
            self._pipeline.submit(job)
        except HeimdallError as error:
            self._note(error)
            self._return([job])
            return False
        self._under_way += 1
        return True

    def _return(self, jobs: list[PushJob]) -> None:
        if self._closed:
            for job in jobs:
                self._lose(job.pushes)
            return
        self._returned += jobs
        self._wake.set()

    def _note(self, error: BaseException) -> None:
        metrics.count_refusal(error)
        asked_s = error.retry_after_s if isinstance(error, OverloadedError) else 2 * self._retry_s
        self._retry_s = min(max(asked_s, RETRY_S_MIN), RETRY_S_MAX)

    def split_off(self) -> None:
        """See `Owner`."""
        self._under_way += 1

    def committed(self, job: PushJob) -> None:
        """See `Owner`."""
        self._under_way -= 1
        self._retry_s = RETRY_S_MIN
        accepted_count, rejected_count = job.accepted_count, job.rejected_count
        metrics.count_records(_FORMAT, accepted_count, rejected_count)
        self._counts.accepted += accepted_count
        self._counts.rejected += rejected_count
        metrics.ACK_SECONDS.labels(_FORMAT).observe(time.monotonic() - job.pushes[0].received_s)
        self._release(job.pushes)
        self._wake.set()

    def refused(self, job: PushJob, error: BaseException) -> None:
        """See `Owner`."""
        self._under_way -= 1
        self.generation += 1
        self._note(error)
        bad = not isinstance(error, HeimdallError) or isinstance(error, InvalidInputError)
        if not bad:
            LOG.warning("syslog waits", extra={"event": "ingest.push_waits", "problem": str(error)})
            self._return([job])
        elif len(job.pushes) > 1:
            self._return(job.halves())
        elif not job.pushes[0].problem:
            job.pushes[0].problem = _STORE_FAILED
            self._return([job])
        else:
            self._lose(job.pushes)
        self._wake.set()

    def dropped(self, job: PushJob) -> None:
        """See `Owner`."""
        self._under_way -= 1
        self._return([job])

    def _lose(self, pushes: list[Push] | deque[Push]) -> None:
        size = sum(len(push.payload) for push in pushes)
        self.lost_bytes += size
        metrics.LOST.labels(_FORMAT).inc(size)
        LOG.error("syslog that was read is lost", extra={"event": "ingest.push_lost", "size_bytes": size})
        self._release(pushes)

    def _release(self, pushes: list[Push] | deque[Push]) -> None:
        for push in pushes:
            self.held_bytes -= len(push.payload)
            push.release(push)
        if not self.held_bytes:
            self._idle.set()
