"""Query on a real journal, a real embedded store and a warm projection, behind real mutual TLS."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pyarrow as pa
from google.rpc import error_details_pb2, status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.domain.records import RECORD_SCHEMA, TIME_TYPE, default_column
from heimdall_server.ports.journal import Entry
from heimdall_server.ports.log_store import Limits
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.projections.warm import WarmProjection
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import ListenConfig, RpcServer
from heimdall_server.rpc.status import DETAILS_KEY
from heimdall_server.services.query.logic.admission import Admission, AdmissionLimits
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.logic.tokens import TokenCodec
from heimdall_server.services.query.logic.watch.runner import WatchPorts
from heimdall_server.services.query.logic.watch.stream import WatchLimits, WatchUseCase
from heimdall_server.services.query.servicer import QueryServicer
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from tests.support.journal import KEY
from tests.support.log_stores import DATASETS
from tests.support.pki import TRUST_DOMAIN, Pki

TIME_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""
SECOND_NS = 1_000_000_000
_NUMBERS = itertools.count(1)


def records(bodies: Sequence[str], **columns: Any) -> pa.RecordBatch:
    """Records with these bodies; `columns` are one value for all, or a list of values. Maps as dicts."""
    count = len(bodies)
    given: dict[str, Any] = {"time": TIME_NS, "observed_time": TIME_NS, "dataset": "logs", **columns, "body": bodies}
    arrays = []
    for each in RECORD_SCHEMA:
        value = given.get(each.name)
        if value is None:
            arrays.append(default_column(each.name, count))
            continue
        values = list(value) if isinstance(value, list | tuple | range) else [value] * count
        if each.type == TIME_TYPE:
            arrays.append(pa.array(np.array(values, np.int64)).cast(TIME_TYPE))
        elif pa.types.is_map(each.type):
            arrays.append(pa.array([list(one.items()) for one in values], each.type))
        else:
            arrays.append(pa.array(values, each.type))
    return pa.RecordBatch.from_arrays(arrays, schema=RECORD_SCHEMA)


@dataclass
class Answer:
    """Everything that a search said, in order."""

    messages: list[pb.SearchResponse] = field(default_factory=list)

    @property
    def schema(self) -> pb.SearchResponse.Schema:
        """What came first."""
        return self.messages[0].schema

    @property
    def batches(self) -> list[pb.SearchResponse.Batch]:
        """The messages with rows."""
        return [message.batch for message in self.messages if message.WhichOneof("message") == "batch"]

    @property
    def finished(self) -> pb.SearchResponse.Finished:
        """What came last."""
        assert self.messages[-1].WhichOneof("message") == "finished"
        return self.messages[-1].finished

    @property
    def rows(self) -> list[dict[str, Any]]:
        """JSON rows, read."""
        return [json.loads(row) for batch in self.batches for row in batch.json_rows]

    @property
    def table(self) -> pa.Table:
        """Arrow rows, put together as any reader of IPC streams would."""
        parts = [self.schema.arrow_schema, *(batch.arrow_batch for batch in self.batches)]
        return pa.ipc.open_stream(pa.BufferReader(b"".join(parts))).read_all()

    def column(self, name: str) -> list[Any]:
        """A column of the JSON rows."""
        return [row[name] for row in self.rows]


class Watching:
    """A watch stream's client: sends what a test says, gathers what comes."""

    def __init__(self, stub: Any) -> None:
        self._sent: asyncio.Queue[pb.WatchRequest | None] = asyncio.Queue()
        self._arrived = asyncio.Condition()
        self.messages: list[pb.WatchResponse] = []
        self.error: grpc.aio.AioRpcError | None = None
        self.has_ended = False
        self.call = stub.Watch(self._requests())
        self._reading = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.call.cancel()
        await asyncio.wait([self._reading])

    def create(self, watch_id: str, text: str = "*:*", **fields: Any) -> None:
        """Ask for a watch; JSON rows unless told otherwise."""
        start = {name: fields.pop(name) for name in ("resume_token", "since_time", "last_count") if name in fields}
        fields.setdefault("row_encoding", pb.ROW_ENCODING_JSON)
        create = pb.WatchRequest.Create(
            watch_id=watch_id, question=fields.pop("question", pb.Question(text=text)), **fields
        )
        if start:
            create.start.CopyFrom(pb.WatchRequest.Start(**start))
        self.send(create=create)

    def update(self, watch_id: str, text: str) -> None:
        """Change its question."""
        self.send(update=pb.WatchRequest.Update(watch_id=watch_id, question=pb.Question(text=text)))

    def cancel(self, watch_id: str) -> None:
        """End it."""
        self.send(cancel=pb.WatchRequest.Cancel(watch_id=watch_id))

    def send(self, **message: Any) -> None:
        """Send a request."""
        self._sent.put_nowait(pb.WatchRequest(**message))

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._sent.put_nowait(None)

    async def _requests(self) -> AsyncIterator[pb.WatchRequest]:
        while (request := await self._sent.get()) is not None:
            yield request

    async def _read(self) -> None:
        try:
            async for message in self.call:
                async with self._arrived:
                    self.messages.append(message)
                    self._arrived.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            pass  # The test has ended the call.
        async with self._arrived:
            self.has_ended = True
            self._arrived.notify_all()

    async def until(self, condition: Any, *, timeout_s: float = 15) -> None:
        """Wait until something is true of what has come."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: condition() or self.has_ended)
        assert condition(), f"the stream ended before: {self.error}"

    async def until_ended(self, *, timeout_s: float = 15) -> None:
        """Wait for the stream's end."""
        await self.until(lambda: self.has_ended, timeout_s=timeout_s)

    def of(self, kind: str, watch_id: str = "w") -> list[Any]:
        """Messages of one kind for one watch."""
        found = [getattr(each, kind) for each in self.messages if each.WhichOneof("message") == kind]
        return [each for each in found if each.watch_id == watch_id]

    async def first(self, kind: str, watch_id: str = "w", *, count: int = 1) -> Any:
        """The so-manieth message of a kind, waiting for it."""
        await self.until(lambda: len(self.of(kind, watch_id)) >= count)
        return self.of(kind, watch_id)[count - 1]

    def rows(self, watch_id: str = "w") -> list[dict[str, Any]]:
        """JSON rows of a watch, in the order they came."""
        return [json.loads(row) for each in self.of("rows", watch_id) for row in each.batch.json_rows]

    def bodies(self, watch_id: str = "w") -> list[str]:
        """Bodies of its rows."""
        return [row["body"] for row in self.rows(watch_id)]

    async def until_rows(self, count: int, watch_id: str = "w") -> list[dict[str, Any]]:
        """Its rows, once there are so many."""
        await self.until(lambda: len(self.rows(watch_id)) >= count)
        return self.rows(watch_id)

    def values(self, *keys: str, watch_id: str = "w") -> dict[tuple[Any, ...], dict[str, Any]]:
        """Its aggregates as a careful client holds them: by group, the highest revision of each."""
        held: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
        for each in self.of("aggregate", watch_id):
            for text in each.batch.json_rows:
                row = json.loads(text)
                key = tuple(row[name] for name in keys)
                if key not in held or held[key][0] <= each.revision:
                    held[key] = (each.revision, row)
        return {key: row for key, (_, row) in held.items()}


@dataclass
class QueryServer:
    """A running server and a client of it."""

    journal: EmbeddedJournal
    store: ClickHouseLogStore
    warm: WarmProjection
    rpc: RpcServer
    watch: WatchUseCase
    channel: grpc.aio.Channel
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = query_service_pb2_grpc.QueryServiceStub(self.channel)

    async def put(self, *batches: pa.RecordBatch, visible: bool = True) -> None:
        """Make records durable, a frame a batch, and wait until queries see them."""
        await self.journal.append([Entry(batch) for batch in batches])
        if visible:
            await self.settle()

    async def settle(self) -> None:
        """Wait until everything durable is visible."""
        assert await self.warm.wait_through(self.journal.head(), 20)

    def request(self, text: str = "*:*", **fields: Any) -> pb.SearchRequest:
        """A search for JSON rows, unless told otherwise."""
        fields.setdefault("row_encoding", pb.ROW_ENCODING_JSON)
        return pb.SearchRequest(question=fields.pop("question", pb.Question(text=text)), **fields)

    async def search(self, text: str = "*:*", *, timeout_s: float = 20, **fields: Any) -> Answer:
        """Everything that a search says."""
        call = self.stub.Search(self.request(text, **fields), timeout=timeout_s)
        return Answer([message async for message in call])

    async def explain(self, text: str, **fields: Any) -> pb.ExplainResponse:
        """How a query would be answered."""
        response = await self.stub.Explain(pb.ExplainRequest(question=pb.Question(text=text), **fields))
        assert isinstance(response, pb.ExplainResponse)
        return response

    def watching(self) -> Watching:
        """A new watch stream."""
        return Watching(self.stub)


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status of a refused call."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    raise AssertionError("no status details")


def details_of(status: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, dict[str, str]]:
    """The reason, with its metadata, and the violations by field."""
    info = error_details_pb2.ErrorInfo()
    violations: dict[str, str] = {}
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        detail.Unpack(info)
        if detail.Unpack(bad):
            violations |= {each.field: each.description for each in bad.field_violations}
    return info, violations


def reason_of(error: grpc.aio.AioRpcError | status_pb2.Status) -> str:
    """The reason in the catalogue."""
    return details_of(error if isinstance(error, status_pb2.Status) else status_of(error))[0].reason


@asynccontextmanager
async def query_server(
    pki: Pki,
    folder: Path,
    engine: Engine,
    *,
    limits: Limits | None = None,
    admission: AdmissionLimits | None = None,
    watch_limits: WatchLimits | None = None,
    journal: dict[str, Any] | None = None,
    linger_s: float = 0.02,
    query_connections: int = 4,
    project: bool = True,
) -> AsyncIterator[QueryServer]:
    """A server on a journal in `folder` and a database of its own.

    Args:
        pki: Whose certificates it has.
        folder: Where the journal and the checkpoint are.
        engine: The process's one.
        limits: Of a query.
        admission: Of queries at once.
        watch_limits: Of watches.
        journal: Fields of `JournalConfig`.
        linger_s: How long the projection waits for a full batch.
        query_connections: Queries at once in the engine.
        project: Whether the projection runs.
    """
    clock = SystemClock()
    config = JournalConfig(
        **{"path": folder / "journal", "segment_bytes": 8 << 20, "bytes_max": 1 << 30, "retain_bytes": 1 << 29,
           "disk_reserve_bytes": 0, **(journal or {})}
    )  # fmt: skip
    database = f"query_{next(_NUMBERS)}"
    async with AsyncExitStack() as stack:
        opened = await EmbeddedJournal.open(config, key=KEY, clock=clock)
        stack.push_async_callback(opened.close)
        store = ClickHouseLogStore(engine, ClickHouseConfig(database, DATASETS, query_connections))
        await store.open()
        stack.push_async_callback(_drop, store, engine, database)
        warm = WarmProjection(
            opened, store, CheckpointFile(folder / "warm.json"), clock, limits=ReadLimits(linger_s=linger_s)
        )
        if project:
            following = asyncio.create_task(warm.run())
            stack.push_async_callback(_cancelled, following)
        rpc = RpcServer(ListenConfig("127.0.0.1:0", ""), pki.tls_files(), AccessPolicy.default(TRUST_DOMAIN))
        store_limits = limits or Limits()
        admitted = Admission(admission or AdmissionLimits())
        tokens = TokenCodec(KEY.derive("resume tokens"), journal_id=opened.journal_id)
        names = [dataset.name for dataset in DATASETS]
        watch = WatchUseCase(
            ports=WatchPorts(opened, store, warm, admitted, tokens, store_limits),
            clock=clock,
            limits=watch_limits or WatchLimits(),
            datasets=names,
        )
        shared: dict[str, Any] = {
            "store": store,
            "visibility": warm,
            "admission": admitted,
            "clock": clock,
            "limits": store_limits,
            "datasets": names,
        }
        servicer = QueryServicer(
            search=SearchUseCase(journal=opened, tokens=tokens, **shared),
            watch=watch,
            catalogue=CatalogueUseCase(**shared),
            tier="warm",
            journal_id=opened.journal_id,
            drain=rpc.drain_signal,
        )
        rpc.add("heimdall.query.v1.QueryService", query_service_pb2_grpc.add_QueryServiceServicer_to_server, servicer)
        await rpc.start()
        stack.push_async_callback(rpc.stop)
        channel = await stack.enter_async_context(pki.channel(rpc.mesh_address, pki.leaf("admin")))
        yield QueryServer(opened, store, warm, rpc, watch, channel)


async def _drop(store: ClickHouseLogStore, engine: Engine, database: str) -> None:
    await store.close()

    def drop() -> None:
        connection = engine.connect()
        connection.command(f"DROP DATABASE {database} SYNC")
        connection.close()

    await asyncio.to_thread(drop)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
