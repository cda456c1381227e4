"""Opening Append streams: who may feed a source, from where, and what becomes of the stream before."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import InvalidArgumentError, OverloadedError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import OpenIn, SourceState

SETTLE_WAIT_S: Final = 10.0
"""How long a new stream waits for frames of the stream before that are being written."""
DEFAULT_DATASET: Final = "logs"
DEFAULT_DUMP_DATASET: Final = "dumps"


@dataclass(frozen=True, slots=True)
class Opening:
    """What an open is answered."""

    session: AppendSession
    already_complete: bool = False
    complete_state: SourceState | None = None


class AppendUseCase:
    """See the module."""

    def __init__(
        self, *, state: IngestState, pipeline: Pipeline, clock: Clock, datasets: Collection[str], keep_raw: bool
    ) -> None:
        self._state = state
        self._pipeline = pipeline
        self._clock = clock
        self._datasets = datasets
        self._keep_raw = keep_raw
        self._sessions: dict[SourceKey, AppendSession] = {}
        self.stream_count = 0

    async def open(self, principal: str, request: OpenIn) -> Opening:
        """Begin a stream; an older one of the same source is fenced.

        Raises:
            InvalidArgumentError: Unknown dataset or zone, or a dump name that is taken.
            BudgetExceededError: Too many sources.
            OverloadedError: The older stream's last frame is still being written.
        """
        key = SourceKey(principal, request.source)
        context = self._context(request)
        complete = self._state.sources.find_dump(principal, request.dump) if request.dump else None
        older = self._sessions.pop(key, None)
        if older is not None:
            older.fence(older.epoch + 1)
            await self._settle(older)
        state = self._state.sources.open(key)
        session = AppendSession(
            state=state,
            context=context,
            hint=request.format,
            file_name=request.file_name,
            dump=request.dump,
            pipeline=self._pipeline,
            keep_raw=self._keep_raw,
        )
        self._sessions[key] = session
        self.stream_count += 1
        metrics.STREAMS.set(self.stream_count)
        return Opening(session, already_complete=complete is not None, complete_state=complete)

    def close(self, session: AppendSession) -> None:
        """The stream is over, however it ended; what it submitted goes its way."""
        self.stream_count -= 1
        metrics.STREAMS.set(self.stream_count)
        key = session.state.key
        if self._sessions.get(key) is session and not session.open_bytes:
            del self._sessions[key]
            self._state.sources.release(key)
        self._state.counts.accepted += session.accepted_count
        self._state.counts.rejected += session.rejected_count

    def get(self, principal: str, source: str) -> SourceState:
        """Where a source stands; one never seen stands at 0."""
        key = SourceKey(principal, source)
        return self._state.sources.get(key) or SourceState(key)

    def _context(self, request: OpenIn) -> DecodeContext:
        dataset = request.dataset or (DEFAULT_DUMP_DATASET if request.dump else DEFAULT_DATASET)
        if dataset not in self._datasets:
            known = ", ".join(sorted(self._datasets))
            raise InvalidArgumentError("open.defaults.dataset", f"must be a configured dataset: {known}")
        zone = request.time_zone or "UTC"
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InvalidArgumentError(
                "open.defaults.time_zone", "must be an IANA name such as Europe/Berlin"
            ) from error
        return DecodeContext(
            source=request.source,
            dataset=dataset,
            observed_time_ns=self._clock.now_ns(),
            service=request.service,
            host=request.host,
            zone=zone,
            reference_time_ns=request.reference_time_ns,
            dump=request.dump.name if request.dump else "",
            first_record_number=1 if request.dump else 0,
            tlp=request.tlp,
        )

    async def _settle(self, older: AppendSession) -> None:
        """Frames of the fenced stream that are being written move the source on: wait for them."""
        try:
            async with asyncio.timeout(SETTLE_WAIT_S):
                while older.committing:
                    older.settled.clear()
                    await older.settled.wait()
        except TimeoutError as error:
            raise OverloadedError(retry_after_s=1.0) from error
