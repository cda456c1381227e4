"""Query on a real journal, a real embedded store and a warm projection, behind real mutual TLS."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa

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
from heimdall_server.services.query.logic.admission import Admission, AdmissionLimits
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.matching import PersonalSearch
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
from tests.support.query_client import Answer, Watching

TIME_NS = 1_767_225_600_000_000_000
"""2026-01-01T00:00:00Z."""
SECOND_NS = 1_000_000_000
_DATASETS = [dataset.name for dataset in DATASETS]
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
class QueryServer:
    """A server and a client of it."""

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
    access: AccessPolicy | None = None,
    personal: PersonalSearch | None = None,
) -> AsyncIterator[QueryServer]:
    """A server on a journal in `folder` and a database of its own.

    Args:
        pki: Whose certificates it has.
        folder: Where the journal is.
        engine: The process's one.
        limits: Of a query.
        admission: Of queries at once.
        watch_limits: Of watches.
        journal: Fields of `JournalConfig`.
        linger_s: How long the projection waits for a full batch.
        query_connections: Queries at once in the engine.
        project: Whether the projection runs.
        access: Who may do what.
        personal: What is done about personal values in questions.
    """
    clock = SystemClock()
    config = JournalConfig(
        **{"path": folder / "journal", "segment_bytes": 8 << 20, "bytes_max": 1 << 30, "retain_bytes": 1 << 29,
           "disk_reserve_bytes": 0, **(journal or {})}
    )  # fmt: skip
    database = f"query_{next(_NUMBERS)}"
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with AsyncExitStack() as stack:
        stack.callback(_check_nothing_is_left, problems)
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
        rpc = RpcServer(ListenConfig("127.0.0.1:0", ""), pki.tls_files(), access or AccessPolicy.default(TRUST_DOMAIN))
        store_limits = limits or Limits()
        admitted = Admission(admission or AdmissionLimits())
        tokens = TokenCodec(KEY.derive("resume tokens"), journal_id=opened.journal_id)
        watch = WatchUseCase(
            ports=WatchPorts(opened, store, warm, admitted, tokens, store_limits),
            clock=clock,
            limits=watch_limits or WatchLimits(),
            datasets=_DATASETS,
            personal=personal,
        )
        shared: dict[str, Any] = {
            "store": store,
            "visibility": warm,
            "admission": admitted,
            "clock": clock,
            "limits": store_limits,
            "datasets": _DATASETS,
            "personal": personal,
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


def _check_nothing_is_left(problems: Sequence[dict[str, Any]]) -> None:
    """No task outlives its stream, and no exception goes unheard."""
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("watch")]
    assert not left, f"tasks that nobody ended: {left}"
    assert not problems, f"exceptions that nobody heard: {problems}"


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
