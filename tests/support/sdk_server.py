"""A small in-process server for the SDK's tests: the contract's services as models, real gRPC, real mTLS."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import pyarrow as pa
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from heimdall.admin.v1 import admin_service_pb2, admin_service_pb2_grpc, database_pb2
from heimdall.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc, source_pb2
from heimdall.query.v1 import query_service_pb2, query_service_pb2_grpc
from heimdall.types.v1 import position_pb2
from heimdall_client import ClientConfig
from heimdall_server.crypto.certificate_files import key_path
from tests.support.append_server import Request, Response, SourceModel, StreamModel, status_of
from tests.support.pki import Pki

DETAILS_KEY = "grpc-status-details-bin"


def client_config(pki: Pki, name: str = "client", *, address: str = "", ca_file: Path | None = None) -> ClientConfig:
    """A client's configuration, with files of its own in the authority's folder."""
    path = pki.write(name, pki.leaf(name))
    return ClientConfig(address, ca_file or pki.ca_file, path, key_path(path))


async def abort(context: Any, status: status_pb2.Status) -> None:
    """End a call as a Heimdall server does."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailers = ((DETAILS_KEY, status.SerializeToString()), ("x-request-id", "req-1"))
    await context.abort(code, status.message, trailers)


class FakeIngest(ingest_service_pb2_grpc.IngestServiceServicer):
    """Sources of lines. `script` says what happens to the next batches; see `Append`."""

    def __init__(self) -> None:
        self.sources: dict[str, SourceModel] = {}
        self.script: deque[str | status_pb2.Status | None] = deque()
        self.limits: Response.Limits | None = None
        self.letters: list[source_pb2.DeadLetter] = []
        self.dump_hashes: set[bytes] = set()
        self.acks_allowed = asyncio.Event()
        self.acks_allowed.set()

    def source(self, source_id: str) -> SourceModel:
        model = self.sources.setdefault(source_id, SourceModel())
        if self.limits is not None:
            model.limits = self.limits
        return model

    async def Append(self, request_iterator: AsyncIterator[Request], context: Any) -> AsyncIterator[Response]:  # noqa: N802
        stream: StreamModel | None = None
        async for request in request_iterator:
            if request.HasField("open"):
                stream = StreamModel(self.source(request.open.source_id))
                answers = stream.handle(request)
                if request.open.dump.content_sha256 in self.dump_hashes:
                    answers[0].opened.already_complete = True
                    yield answers[0]
                    return
                yield answers[0]
                continue
            assert stream is not None
            action = self.script.popleft() if request.HasField("batch") and self.script else None
            if action == "break":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            answers = stream.handle(request, nack=action if isinstance(action, status_pb2.Status) else None)
            if action != "hold acks":
                await self.acks_allowed.wait()
                while stream.jobs:
                    answers += stream.commit()
            if action == "lose ack":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            for answer in answers:
                yield answer
                if answer.HasField("finished"):
                    return
            if action == "drain":
                yield Response(draining=Response.Draining())
                return

    async def GetSource(  # noqa: N802
        self, request: ingest_service_pb2.GetSourceRequest, _context: Any
    ) -> ingest_service_pb2.GetSourceResponse:
        model = self.source(request.source_id)
        source = source_pb2.Source(
            source_id=request.source_id, next_offset=model.next_offset, accepted_count=model.accepted_count
        )
        return ingest_service_pb2.GetSourceResponse(source=source)

    async def ListDeadLetters(  # noqa: N802
        self, request: ingest_service_pb2.ListDeadLettersRequest, _context: Any
    ) -> ingest_service_pb2.ListDeadLettersResponse:
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 2)
        return ingest_service_pb2.ListDeadLettersResponse(
            dead_letters=self.letters[start:end],
            next_page_token=str(end) if end < len(self.letters) else "",
            total_count=len(self.letters),
        )

    async def RetryDeadLetters(  # noqa: N802
        self, request: ingest_service_pb2.RetryDeadLettersRequest, _context: Any
    ) -> ingest_service_pb2.RetryDeadLettersResponse:
        assert request.request_id
        outcome = ingest_service_pb2.RetryDeadLettersResponse.Outcome
        return ingest_service_pb2.RetryDeadLettersResponse(
            outcomes=[outcome(dead_letter_id=i, accepted_count=1) for i in request.dead_letter_ids]
        )

    async def DeleteDeadLetters(  # noqa: N802
        self, request: ingest_service_pb2.DeleteDeadLettersRequest, _context: Any
    ) -> ingest_service_pb2.DeleteDeadLettersResponse:
        self.letters = [one for one in self.letters if one.dead_letter_id not in request.dead_letter_ids]
        outcome = ingest_service_pb2.DeleteDeadLettersResponse.Outcome
        return ingest_service_pb2.DeleteDeadLettersResponse(
            outcomes=[outcome(dead_letter_id=i) for i in request.dead_letter_ids]
        )


def table_of(count: int) -> pa.Table:
    """Rows like those of records."""
    return pa.table(
        {
            "time": pa.array([1_700_000_000_000_000_123 + i for i in range(count)], pa.timestamp("ns", "UTC")),
            "service": ["api"] * count,
            "body": [f"line {i}" for i in range(count)],
            "attributes": pa.array([[("n", str(i))] for i in range(count)], pa.map_(pa.string(), pa.string())),
            "trace_id": pa.array([bytes(15) + bytes([i % 256]) for i in range(count)], pa.binary(16)),
        }
    )


class FakeQuery(query_service_pb2_grpc.QueryServiceServicer):
    """Rows of one table, ten a batch; tokens are row numbers. `script` breaks a search after its next batches."""

    def __init__(self) -> None:
        self.table = table_of(35)
        self.script: deque[status_pb2.Status | None] = deque()
        self.requests: list[query_service_pb2.SearchRequest] = []
        self.explain_script: deque[status_pb2.Status] = deque()
        self.sorted = False
        self.hold = False
        self.cancelled = asyncio.Event()
        self.watched: list[str] = []
        self.watch_script: deque[str] = deque()
        self.watch_requests: list[query_service_pb2.WatchRequest] = []
        self.inboxes: set[asyncio.Queue[query_service_pb2.WatchRequest | None]] = set()

    async def Search(  # noqa: N802
        self, request: query_service_pb2.SearchRequest, context: Any
    ) -> AsyncIterator[query_service_pb2.SearchResponse]:
        answer = query_service_pb2.SearchResponse
        self.requests.append(request)
        if request.question.text == "bad":
            await abort(context, query_invalid())
        is_json = request.row_encoding == query_service_pb2.ROW_ENCODING_JSON
        schema = self.table.schema
        columns = [answer.Column(name=f.name, type=str(f.type)) for f in schema]
        ipc = b"" if is_json else schema.serialize().to_pybytes()
        yield answer(schema=answer.Schema(columns=columns, arrow_schema=ipc, canonical_text=request.question.text))
        if self.hold:
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()
        start = int(request.resume_token or 0)
        end = min(request.row_limit or self.table.num_rows, self.table.num_rows)
        for offset in range(start, end, 10):
            part = self.table.slice(offset, min(10, end - offset)).combine_chunks()
            batch = answer.Batch(row_count=part.num_rows)
            if is_json:
                batch.json_rows.extend(f'{{"body":"{value}"}}' for value in part.column("body").to_pylist())
            else:
                batch.arrow_batch = part.to_batches()[0].serialize().to_pybytes()
            if not self.sorted:
                batch.resume_token = str(offset + part.num_rows).encode()
            yield answer(batch=batch)
            yield answer(progress=answer.Progress(statistics=query_service_pb2.Statistics(read_row_count=offset)))
            if self.script and (status := self.script.popleft()) is not None:
                await abort(context, status)
        statistics = query_service_pb2.Statistics(result_row_count=end - start)
        missing = [query_service_pb2.Missing(what="scan_rows", reason="too many")] if request.row_limit else []
        plan = query_service_pb2.Plan(tier="warm")
        yield answer(finished=answer.Finished(statistics=statistics, missing=missing, plan=plan))

    async def Explain(  # noqa: N802
        self, request: query_service_pb2.ExplainRequest, context: Any
    ) -> query_service_pb2.ExplainResponse:
        if self.explain_script:
            await abort(context, self.explain_script.popleft())
        return query_service_pb2.ExplainResponse(canonical_text=request.question.text)

    async def ListFields(  # noqa: N802
        self, request: query_service_pb2.ListFieldsRequest, _context: Any
    ) -> query_service_pb2.ListFieldsResponse:
        number = int(request.page_token or 0)
        fields = [query_service_pb2.Field(name=f"f{number}")]
        return query_service_pb2.ListFieldsResponse(
            fields=fields, next_page_token=str(number + 1) if number < 2 else ""
        )

    async def ListFieldValues(  # noqa: N802
        self, request: query_service_pb2.ListFieldValuesRequest, _context: Any
    ) -> query_service_pb2.ListFieldValuesResponse:
        value = query_service_pb2.FieldValue(value=request.field, record_count=3)
        return query_service_pb2.ListFieldValuesResponse(values=[value])

    def arrive(self, *bodies: str) -> None:
        """Records come in."""
        self.watched += bodies
        for inbox in self.inboxes:
            inbox.put_nowait(None)

    async def Watch(  # noqa: N802
        self, request_iterator: AsyncIterator[query_service_pb2.WatchRequest], context: Any
    ) -> AsyncIterator[query_service_pb2.WatchResponse]:
        """A watch's question is a word that bodies must contain; tokens are `question:number`."""
        inbox: asyncio.Queue[query_service_pb2.WatchRequest | None] = asyncio.Queue()
        self.inboxes.add(inbox)

        async def read() -> None:
            async for request in request_iterator:
                inbox.put_nowait(request)

        reading = asyncio.create_task(read())
        watches: dict[str, _FakeWatch] = {}
        answer = query_service_pb2.WatchResponse
        try:
            while True:
                request = await inbox.get()
                if request is not None:
                    self.watch_requests.append(request)
                    for response in self._on_watch_request(request, watches):
                        yield response
                for watch_id, watch in list(watches.items()):
                    while watch.place < len(self.watched):
                        body = self.watched[watch.place]
                        watch.place += 1
                        if watch.question not in body:
                            continue
                        batch = query_service_pb2.SearchResponse.Batch(row_count=1, json_rows=[f'{{"body":"{body}"}}'])
                        yield answer(rows=answer.Rows(watch_id=watch_id, batch=batch, through=watch.token()))
                        action = self.watch_script.popleft() if self.watch_script else ""
                        if action == "break":
                            await context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
                        if action == "lag":
                            del watches[watch_id]
                            lagged = status_of(code_pb2.ABORTED, "STREAM_LAGGED")
                            yield answer(
                                cancelled=answer.Cancelled(watch_id=watch_id, status=lagged, through=watch.token())
                            )
                            break
        finally:
            self.inboxes.discard(inbox)
            reading.cancel()

    def _on_watch_request(
        self, request: query_service_pb2.WatchRequest, watches: dict[str, _FakeWatch]
    ) -> list[query_service_pb2.WatchResponse]:
        answer = query_service_pb2.WatchResponse
        kind = request.WhichOneof("message")
        if kind == "create":
            create = request.create
            assert create.watch_id not in watches
            if create.question.text == "bad":
                return [answer(cancelled=answer.Cancelled(watch_id=create.watch_id, status=query_invalid()))]
            place = len(self.watched)
            if create.start.resume_token:
                question, _, number = create.start.resume_token.decode().partition(":")
                assert question == create.question.text, "a token of another question"
                place = int(number)
            elif create.start.HasField("last_count"):
                place = max(0, place - create.start.last_count)
            watches[create.watch_id] = _FakeWatch(create.question.text, place)
            return [answer(created=answer.Created(watch_id=create.watch_id))]
        if kind == "update":
            watches[request.update.watch_id].question = request.update.question.text
            return [answer(created=answer.Created(watch_id=request.update.watch_id))]
        if kind == "cancel":
            del watches[request.cancel.watch_id]
            return [answer(cancelled=answer.Cancelled(watch_id=request.cancel.watch_id))]
        return [
            answer(progress=answer.Progress(watch_id=key, through=watch.token(), position=position_pb2.Position()))
            for key, watch in watches.items()
        ]


@dataclass
class _FakeWatch:
    question: str
    place: int

    def token(self) -> bytes:
        return f"{self.question}:{self.place}".encode()


def query_invalid() -> status_pb2.Status:
    """What a server says of text that isn't a query."""
    return status_of(code_pb2.INVALID_ARGUMENT, "QUERY_INVALID", message="unknown field 'x' (column 1)")


class FakeAdmin(admin_service_pb2_grpc.AdminServiceServicer):
    """Answers that never change."""

    async def GetStatus(  # noqa: N802
        self, _request: admin_service_pb2.GetStatusRequest, _context: Any
    ) -> admin_service_pb2.GetStatusResponse:
        return admin_service_pb2.GetStatusResponse(version="1.2.3")

    async def GetConfig(  # noqa: N802
        self, _request: admin_service_pb2.GetConfigRequest, _context: Any
    ) -> admin_service_pb2.GetConfigResponse:
        await abort(
            _context, status_of(code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED", message="lacks admin.config.read")
        )
        raise AssertionError

    async def ListDatasets(  # noqa: N802
        self, request: admin_service_pb2.ListDatasetsRequest, _context: Any
    ) -> admin_service_pb2.ListDatasetsResponse:
        second = request.page_token == "2"  # noqa: S105 - a page token
        dataset = admin_service_pb2.Dataset(dataset_id="logs" if second else "dumps")
        return admin_service_pb2.ListDatasetsResponse(datasets=[dataset], next_page_token="" if second else "2")

    async def ReportIndexes(  # noqa: N802
        self, _request: database_pb2.ReportIndexesRequest, _context: Any
    ) -> database_pb2.ReportIndexesResponse:
        return database_pb2.ReportIndexesResponse()

    async def ListSlowStatements(  # noqa: N802
        self, _request: database_pb2.ListSlowStatementsRequest, _context: Any
    ) -> database_pb2.ListSlowStatementsResponse:
        return database_pb2.ListSlowStatementsResponse()


@dataclass
class FakeServer:
    """All services on one port. Its models outlive `stop` and `start`, as a server's data does."""

    pki: Pki
    port: int = 0

    def __post_init__(self) -> None:
        self.ingest = FakeIngest()
        self.query = FakeQuery()
        self.admin = FakeAdmin()
        self._pair = self.pki.server_leaf()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(self.ingest, server)
        query_service_pb2_grpc.add_QueryServiceServicer_to_server(self.query, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self.admin, server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        credentials = grpc.ssl_server_credentials(
            [(self._pair.key_pem, self._pair.certificate_pem)],
            self.pki.authority.certificate_pem,
            require_client_auth=True,
        )
        self.port = server.add_secure_port(self.address, credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
