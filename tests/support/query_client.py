"""Clients of the query service for tests: what they were told, as a careful client would hold it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import pyarrow as pa
from google.rpc import error_details_pb2, status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.rpc.status import DETAILS_KEY


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
        self._rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.error: grpc.aio.AioRpcError | None = None
        self.has_ended = False
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.call = stub.Watch(self._requests())
        self._reading = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.call.cancel()
        self.may_read.set()
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
        """Send nothing more."""
        self._sent.put_nowait(None)

    async def _requests(self) -> AsyncIterator[pb.WatchRequest]:
        while (request := await self._sent.get()) is not None:
            yield request

    async def _read(self) -> None:
        try:
            async for message in self.call:
                await self.may_read.wait()
                async with self._arrived:
                    self.messages.append(message)
                    self._rows[message.rows.watch_id] += map(json.loads, message.rows.batch.json_rows)
                    self._arrived.notify_all()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            pass  # The test ended the call.
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
        return self._rows[watch_id]

    def bodies(self, watch_id: str = "w") -> list[str]:
        """Bodies of its rows."""
        return [row["body"] for row in self.rows(watch_id)]

    async def until_rows(self, count: int, watch_id: str = "w") -> list[dict[str, Any]]:
        """Its rows, once there are so many."""
        await self.until(lambda: len(self.rows(watch_id)) >= count)
        return self.rows(watch_id)

    def values(self, *keys: str, watch_id: str = "w") -> dict[tuple[Any, ...], dict[str, Any]]:
        """Its aggregates as a client holds them."""
        return values_of(self.of("aggregate", watch_id), *keys)


def values_of(upserts: Sequence[pb.WatchResponse.Aggregate], *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What a careful client holds: by group, the row of the highest revision."""
    held: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}
    for each in upserts:
        for text in each.batch.json_rows:
            row = json.loads(text)
            key = tuple(row[name] for name in keys)
            if key not in held or held[key][0] <= each.revision:
                held[key] = (each.revision, row)
    return {key: row for key, (_, row) in held.items()}


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
