"""Opening Append streams: who may feed a source, from where, and what becomes of the stream before."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import InvalidArgumentError, OverloadedError
from heimdall_server.domain.graph import UNLABELLED
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.journal import SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.dead_letters import DEFAULT_DATASET
from heimdall_server.services.ingest.logic.names import StoredNames
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import DumpFacts, OpenIn, SourceState

SETTLE_WAIT_S: Final = 10.0
"""How long a new stream waits for frames of the stream before that are being written."""
DEFAULT_DUMP_DATASET: Final = "dumps"
_TIME_NS_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Opening:
    """What an open is answered."""

    session: AppendSession
    already_complete: bool = False


class AppendUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        state: IngestState,
        pipeline: Pipeline,
        clock: Clock,
        datasets: Collection[str],
        keep_raw: bool,
        names: StoredNames,
        dump_pipeline: Pipeline | None = None,
    ) -> None:
        """Open no stream yet.

        Args:
            state: Of all sources.
            pipeline: Where batches go.
            clock: For times that a request leaves out.
            datasets: Those that there are.
            keep_raw: Whether dead letters keep their bytes.
            names: What sources and dumps are called where they are stored.
            dump_pipeline: Where batches of dumps go; None: where all go.
        """
        self._state = state
        self._pipeline = pipeline
        self._dump_pipeline = dump_pipeline or pipeline
        self._clock = clock
        self._datasets = datasets
        self._keep_raw = keep_raw
        self._names = names
        self._sessions: dict[SourceKey, AppendSession] = {}
        self.stream_count = 0

    @property
    def session_count(self) -> int:
        """Sources with a stream, or with batches under way of one that broke."""
        return len(self._sessions)

    def wait_estimate_s(self, size_bytes: int) -> float:
        """How long so many bytes that came now would take to be durable."""
        return self._pipeline.wait_estimate_s(size_bytes)

    async def open(self, principal: str, request: OpenIn) -> Opening:
        """Begin a stream; an older one of the same source is fenced.

        Raises:
            InvalidArgumentError: Unknown dataset or zone, or a dump that doesn't fit what is there.
            BudgetExceededError: Too many sources.
            OverloadedError: The older stream's last frame is still being written.
        """
        key = self._key(principal, request.source, request.dump.content_sha256 if request.dump else "")
        context = replace(self._context(request), source=key.source, principal=principal)
        if request.dump is not None:
            # The records name the dump as it came, and are protected by the policy; what is kept of the source isn't.
            request = replace(request, dump=replace(self._names.dump(request.dump), tlp=request.tlp))
        await self._fence(key)
        complete = self._check_dump(key, request.dump) if request.dump else None
        state = complete or self._state.sources.open(key)
        session = AppendSession(
            state=state,
            context=context,
            request=request,
            pipeline=self._dump_pipeline if request.dump else self._pipeline,
            counts=self._state.counts,
            keep_raw=self._keep_raw,
            complete=complete is not None,
        )
        if complete is None:
            self._sessions[key] = session
        self.stream_count += 1
        metrics.STREAMS.set(self.stream_count)
        return Opening(session, already_complete=complete is not None)

    def close(self, session: AppendSession) -> None:
        """The stream is over, however it ended; what it submitted goes its way."""
        self.stream_count -= 1
        metrics.STREAMS.set(self.stream_count)
        session.outbox.close()
        if session.job_count:
            session.on_idle = lambda: self._forget(session)
        else:
            self._forget(session)

    def get(self, principal: str, source: str, dump_sha256: str = "") -> SourceState:
        """Where a source stands; one never seen stands at 0. It is called as it is stored.

        Args:
            principal: Whose it is.
            source: Its name.
            dump_sha256: Which of its dumps is meant, as hexadecimals; empty: what is no dump, if there is any, else the newest one.
        """
        key = self._key(principal, source, dump_sha256)
        sources = self._state.sources
        held = sources.get(key) if dump_sha256 else sources.newest(principal, key.source)
        return held or SourceState(key)

    def stored_name(self, principal: str, source: str) -> str:
        """What a source is called where it is stored."""
        sources = self._state.sources
        if sources.knows(principal, source):
            return source
        return sources.by_digest(principal, self._names.digest(source)) or self._names.stored(source)

    def _key(self, principal: str, source: str, dump_sha256: str = "") -> SourceKey:
        name = self.stored_name(principal, source)
        return self._state.sources.dump_key(principal, name, dump_sha256) if dump_sha256 else SourceKey(principal, name)

    def _forget(self, session: AppendSession) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._state.sources.release(session.key)

    async def _fence(self, key: SourceKey) -> None:
        """End older streams of a source; their frames that are being written move it on, so they are waited for.

        Several may open the source at once: each fences whoever is there when its turn comes.
        """
        while (older := self._sessions.get(key)) is not None:
            older.fence(older.epoch + 1)
            try:
                async with asyncio.timeout(SETTLE_WAIT_S):
                    while older.committing_count:
                        older.settled.clear()
                        await older.settled.wait()
            except TimeoutError as error:
                raise OverloadedError(retry_after_s=1.0) from error
            self._forget(older)

    def _check_dump(self, key: SourceKey, facts: DumpFacts) -> SourceState | None:
        """The source that holds the dump already, if one does."""
        complete = self._state.sources.find_dump(key.principal, facts)
        state = self._state.sources.get(key)
        if complete is None and state is not None and state.dump is not None:
            if state.dump.name != facts.name:
                raise InvalidArgumentError(
                    "open.dump.name",
                    f"the source's dump of this content was begun as {state.dump.name}; go on with that name",
                )
            _check_marking(state.dump, facts, begun=True)
        if complete is not None and complete.dump is not None and facts.tlp:
            _check_marking(complete.dump, facts, begun=False)
        return complete

    def _context(self, request: OpenIn) -> DecodeContext:
        dataset = request.dataset or (DEFAULT_DUMP_DATASET if request.dump else DEFAULT_DATASET)
        if dataset not in self._datasets:
            known = ", ".join(sorted(self._datasets))
            raise InvalidArgumentError("open.defaults.dataset", f"must be a configured dataset: {known}")
        zone = request.time_zone or "UTC"
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: it names a folder, as `Europe` does
            raise InvalidArgumentError(
                "open.defaults.time_zone", "must be an IANA name such as Europe/Berlin"
            ) from error
        if not 0 <= request.reference_time_ns <= _TIME_NS_MAX:
            raise InvalidArgumentError("open.defaults.reference_time", "must lie between 1970 and 2262")
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


def _check_marking(held: DumpFacts, facts: DumpFacts, *, begun: bool) -> None:
    """What is stored keeps its marking. Whoever says another one must not believe that it holds now."""
    if held.tlp is None or (held.tlp or UNLABELLED.label) == (facts.tlp or UNLABELLED.label):
        return
    was = held.tlp or f"{UNLABELLED.label} (no marking was given)"
    if begun:
        raise InvalidArgumentError("open.defaults.tlp", f"the dump was begun as {was}; go on with that marking")
    raise InvalidArgumentError(
        "open.defaults.tlp",
        f"the dump was taken in before as {was}, and what is stored keeps its marking; delete its records, and take it in again",
    )
