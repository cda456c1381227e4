"""A request of whole records (an OTLP Export, a `_bulk`, a Loki push): one answer; a byte-identical repeat gets the first.

Semantics of the OpenTelemetry protocol's specification: success says that every record is durable; a request that
can't be decoded is refused for good and its bytes become a dead letter; one that can't be taken now is refused as a
whole with a time to come back, and nothing of it is kept. A single record is rejected only if it is too large, or not
what it should be: what else is odd about one becomes an attribute.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import HeimdallError, InvalidInputError, OverloadedError
from heimdall_server.ports.clock import Clock
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.doors import OTLP, Door
from heimdall_server.services.ingest.logic.export_job import Export, Exported, ExportJob
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import IngestState

_RETRY_S_MIN: Final = 0.1
_HASHED_INLINE_BYTES: Final = 256 * 1024
"""Larger requests are hashed in a thread: a MiB takes a millisecond, and the event loop is everybody's."""


@dataclass(slots=True)
class _Running:
    """An export under way, and how many wait for it."""

    export: Export
    waiting_count: int = 0


class ExportUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        state: IngestState,
        clock: Clock,
        dataset: str,
        keep_raw: bool,
        door: Door = OTLP,
    ) -> None:
        self._door = door
        self._pipeline = pipeline
        self._state = state
        self._clock = clock
        self._dataset = dataset
        self._keep_raw = keep_raw
        self._running: dict[tuple[str, bytes], _Running] = {}

    @property
    def running_count(self) -> int:
        """Exports under way."""
        return len(self._running)

    async def export(self, principal: str, name: str, payload: bytes, *, deadline_s: float | None) -> Exported:
        """Take in one request.

        A caller that goes away takes its request back if nobody else waits for it and it isn't being worked on yet.

        Args:
            principal: Who sends it.
            name: The principal's short name; the records' source is `<door>/<name>`.
            payload: The request's bytes, as the door reads them.
            deadline_s: Seconds that the caller will wait; None: as long as it takes.

        Raises:
            FormatError: It isn't a request of this door's.
            RecordTooLargeError: It would become too large.
            OverloadedError: It couldn't be durable within the deadline, the queue or the journal is full.
            StoreError: The journal failed; whether the request is durable is unknown.
        """
        metrics.BYTES.labels(self._door.name).inc(len(payload))
        if not payload:
            return Exported(0)
        digest = await self._digest(payload)
        key = (principal, digest)
        while True:
            before = self._state.answers.find(principal, digest, self._clock.now_ns())
            if before is not None:
                metrics.REPEATED.labels(self._door.name).inc()
                return Exported(before.accepted_count, before.rejected_count, before.message)
            running = self._running.get(key)
            if running is None:
                break
            # The same bytes are on their way: a retry of an impatient client. It gets the first one's answer, unless
            # records without a time make two equal requests two requests.
            await self._wait(running)
            answer = running.export.answer
            if not answer.cancelled() and isinstance(error := answer.exception(), InvalidInputError):
                raise error
        self._check_wait(len(payload), deadline_s)
        return await self._take(key, name, payload)

    async def _digest(self, payload: bytes) -> bytes:
        salt = self._door.digest_salt
        if len(payload) <= _HASHED_INLINE_BYTES:
            return hashlib.sha256(salt + payload).digest()
        return await asyncio.to_thread(lambda: hashlib.sha256(salt + payload).digest())

    def _check_wait(self, size_bytes: int, deadline_s: float | None) -> None:
        wait_s = self._pipeline.wait_estimate_s(size_bytes)
        if deadline_s is not None and wait_s > deadline_s:
            error = OverloadedError(retry_after_s=round(max(_RETRY_S_MIN, wait_s), 1))
            metrics.count_refusal(error)
            raise error

    async def _take(self, key: tuple[str, bytes], name: str, payload: bytes) -> Exported:
        principal, digest = key
        answer: asyncio.Future[Exported] = asyncio.get_running_loop().create_future()
        context = DecodeContext(
            source=f"{self._door.name}/{name}",
            dataset=self._dataset,
            observed_time_ns=self._clock.now_ns(),
            principal=principal,
        )
        export = Export(principal, payload, digest, answer)
        try:
            self._pipeline.submit(ExportJob(self._door, context, [export], self._state.counts, keep_raw=self._keep_raw))
        except HeimdallError as error:
            metrics.count_refusal(error)
            raise
        running = self._running[key] = _Running(export)
        answer.add_done_callback(lambda _: self._done(key, running))
        await self._wait(running)
        return answer.result()

    async def _wait(self, running: _Running) -> None:
        export = running.export
        running.waiting_count += 1
        try:
            await asyncio.wait([export.answer])
        finally:
            running.waiting_count -= 1
            if not running.waiting_count and not export.taken and not export.answer.done():
                export.answer.cancel()

    def _done(self, key: tuple[str, bytes], running: _Running) -> None:
        if self._running.get(key) is running:
            del self._running[key]
        answer = running.export.answer
        if not answer.cancelled() and (error := answer.exception()) is not None:  # seen, also if nobody waits any more
            metrics.count_refusal(error)
