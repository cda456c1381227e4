"""Ingest by single steps: the test says when a group is decoded, when a frame becomes durable, or why not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import pyarrow as pa

from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import StoreError
from heimdall_server.ports.journal import ControlState, Entry, Frame, JournalState, Positions
from heimdall_server.ports.protector import Protected, ProtectedControl
from heimdall_server.protect.texts import masked_text
from heimdall_server.rpc.limits import InflightBytes, RpcLimits
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.names import StoredNames
from heimdall_server.services.ingest.logic.pipeline import Pipeline, PipelineLimits
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import BatchIn, Event, FinishIn, FlushIn, OpenIn, RequestIn
from heimdall_server.services.ingest.stream import StreamWindow, read_stream
from tests.support.journal import ManualClock

PRINCIPAL = "spiffe://test.heimdall/client/agent"


class SteppedWorker(Executor):
    """Runs what it is given when the test says so."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def step(self) -> bool:
        """Run one; False if there is none."""
        if not self._waiting:
            return False
        future, work = self._waiting.popleft()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class PlainProtector:
    """Lets everything pass."""

    policy_version = 1

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        del again
        return Protected(batch)

    def protect_control(self, entry: Entry) -> ProtectedControl:
        return ProtectedControl(entry)


class ScriptedJournal:
    """The port's promises with the disk in the test's hands. Only what a writer needs."""

    def __init__(self, frames: list[Frame], state: ControlState) -> None:
        self.journal_id = "0" * 32
        self.frames = frames
        self.failed = False
        self._state = state
        self._waiting: deque[tuple[Sequence[Entry], asyncio.Future[Sequence[int]]]] = deque()
        for frame in frames:
            state.apply(frame)

    async def append(self, entries: Sequence[Entry]) -> Sequence[int]:
        if self.failed:
            raise StoreError("journal", "failed before")
        future: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, future))
        return await future

    def step(self, error: BaseException | None = None, *, durable: bool = True) -> bool:
        """Settle the oldest append.

        Args:
            error: Raise it.
            durable: With a `StoreError`: whether the entries became durable nonetheless.

        Returns:
            False if there is none.
        """
        if not self._waiting:
            return False
        entries, future = self._waiting.popleft()
        store_failed = isinstance(error, StoreError)
        self.failed = self.failed or store_failed
        positions = []
        if error is None or (store_failed and durable):
            for entry in entries:
                rows = entry.batch.num_rows if entry.batch is not None else 0
                frame = Frame(0, len(self.frames) + 1, 0, entry, 0, rows)
                self.frames.append(frame)
                positions.append(frame.position)
                if error is None:
                    self._state.apply(frame)
        if error is None:
            future.set_result(positions)
        else:
            future.set_exception(error)
        return True

    def head(self) -> Positions:
        return {0: len(self.frames)}

    def tail(self) -> Positions:
        return {0: 1}

    async def read(self, _: int, *, after: int, through: int | None = None) -> AsyncIterator[Frame]:
        for frame in self.frames[after:through]:
            yield frame

    read_control = read

    async def maintain(self, state: ControlState, *, shard: int = 0) -> None:
        raise NotImplementedError

    async def wait(self, shard: int, *, after: int, timeout_s: float) -> bool:
        raise NotImplementedError

    async def trim(self, through: Positions) -> None:
        raise NotImplementedError

    def state(self) -> JournalState:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass
class Stream:
    """One Append stream without gRPC: the reader is the real one."""

    session: AppendSession
    requests: asyncio.Queue[RequestIn | None]
    reader: asyncio.Task[None]
    window: StreamWindow
    close: Callable[[], None]
    seen: list[Event] = field(default_factory=list)
    ended: bool = False

    def send(self, offset: int, payload: bytes, *, next_offset: int | None = None, crc: int | None = None) -> None:
        self.requests.put_nowait(
            BatchIn(
                offset,
                offset + len(payload) if next_offset is None else next_offset,
                google_crc32c.value(payload) if crc is None else crc,
                payload,
            )
        )

    def flush(self) -> None:
        self.requests.put_nowait(FlushIn())

    def finish(self) -> None:
        self.requests.put_nowait(FinishIn())

    def half_close(self) -> None:
        self.requests.put_nowait(None)

    async def read(self) -> list[Event]:
        """What there is to read now."""
        new: list[Event] = []
        outbox = self.session.outbox
        while outbox._events or (outbox._closed and not self.ended):
            event = await outbox.next()
            if event is None:
                self.ended = True
                break
            new.append(event)
        self.seen += new
        return new


class Ingest:
    """Everything of ingest between gRPC and the journal's port, in steps."""

    def __init__(
        self,
        frames: list[Frame] | None = None,
        *,
        limits: RpcLimits | None = None,
        pipeline_limits: PipelineLimits | None = None,
        protector: Any = None,
        dump_piece_bytes: int = 0,
    ) -> None:
        self.clock = ManualClock()
        self.state = IngestState(source_count_max=100)
        self.frames: list[Frame] = [] if frames is None else frames
        self.journal = ScriptedJournal(self.frames, self.state)
        self.worker = SteppedWorker()
        self.limits = limits or RpcLimits()
        self.budget = InflightBytes(self.limits.inflight_bytes_max)
        self.pipeline = Pipeline(
            journal=self.journal,
            protector=protector or PlainProtector(),
            clock=self.clock,
            limits=pipeline_limits or PipelineLimits(),
            worker=self.worker,
        )
        self.pipeline.start()
        self.dump_worker = SteppedWorker()
        self.dump_pipeline = self.pipeline
        if dump_piece_bytes:
            self.dump_pipeline = Pipeline(
                journal=self.journal,
                protector=protector or PlainProtector(),
                clock=self.clock,
                limits=pipeline_limits or PipelineLimits(),
                worker=self.dump_worker,
                piece_bytes_max=dump_piece_bytes,
            )
            self.dump_pipeline.start()
        self.append = AppendUseCase(
            state=self.state,
            pipeline=self.pipeline,
            dump_pipeline=self.dump_pipeline,
            clock=self.clock,
            datasets=("logs", "dumps"),
            keep_raw=True,
            names=StoredNames(masked_text, bytes(32)),
        )
        self.exports = ExportUseCase(
            pipeline=self.pipeline, state=self.state, clock=self.clock, dataset="logs", keep_raw=True
        )

    async def open(self, source: str, *, kind: FormatKind | None = FormatKind.NDJSON, **fields: Any) -> Stream:
        format_ = Format(kind) if kind is not None else None
        opening = await self.append.open(PRINCIPAL, OpenIn(source, format_, **fields))
        session = opening.session
        requests: asyncio.Queue[RequestIn | None] = asyncio.Queue()

        async def iterate() -> AsyncIterator[RequestIn]:
            while (request := await requests.get()) is not None:
                yield request

        window = StreamWindow(self.limits, self.budget, lambda _: 0.0)
        reader = asyncio.create_task(read_stream(session, window, iterate()))

        def close() -> None:
            reader.cancel()
            self.append.close(session)

        return Stream(session, requests, reader, window, close)

    async def settle(self) -> None:
        """Decode and commit until nothing is left to do."""
        await spin()
        while self.worker.step() or self.dump_worker.step() or self.journal.step():
            await spin()

    async def stop(self) -> None:
        """Close the pipeline; whatever is under way is settled."""
        pipelines = {self.pipeline, self.dump_pipeline}
        closing = asyncio.gather(*(pipeline.close() for pipeline in pipelines))
        while not closing.done():
            await self.settle()
        await closing

    def bodies(self, source: str) -> list[str]:
        """Bodies of a source's records, in journal order."""
        out: list[str] = []
        for frame in self.frames:
            batch = frame.entry.batch
            if batch is not None:
                rows = zip(batch["source"].to_pylist(), batch["body"].to_pylist(), strict=True)
                out += [body for name, body in rows if name == source]
        return out

    def letters(self, source: str) -> list[bytes]:
        """The bytes of a source's dead letters, in journal order."""
        return [
            letter.raw for frame in self.frames for letter in frame.entry.dead_letters if letter.key.source == source
        ]


async def spin(count: int = 20) -> None:
    """Let everything happen that can."""
    for _ in range(count):
        await asyncio.sleep(0)
