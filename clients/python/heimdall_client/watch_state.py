"""Watches of one stream as a state machine: no sockets, no clock. It knows what to send again after a break.

Rules. A watch goes on from the last `through` token that came for it. A token belongs to the question it was made
for, so a watch whose question was changed after its last token is created with the *old* question at that token, and
then updated: nothing between is lost. As soon as a watch runs, its progress is asked for: a break before its first rows
then costs nothing either. `created` answers `create` and `update` in their order, which tells whose token is whose.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from dataclasses import dataclass, field

import pyarrow as pa

from heimdall.query.v1 import query_service_pb2
from heimdall.types.v1 import position_pb2
from heimdall_client import errors, rows, status
from heimdall_client.rows import Row

_Request = query_service_pb2.WatchRequest
_Response = query_service_pb2.WatchResponse


@dataclass(frozen=True, slots=True)
class Created:
    """A watch runs: for the first time, after an update, or again after a break."""

    watch_id: str
    columns: list[str]
    canonical_text: str
    """The query as the server understood it."""
    aggregates: bool
    """Whether it sends `AggregateRow`s instead of `Rows`."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Records that match, in journal order."""

    watch_id: str
    message: query_service_pb2.SearchResponse.Batch
    schema_message: bytes
    through: bytes
    """Resume behind these rows."""
    history: bool
    """Whether they came in before the watch began."""

    @property
    def rows(self) -> list[Row]:
        """As dicts, see `rows_of`."""
        return rows.rows_of_message(self.message, self.schema_message)

    @property
    def batch(self) -> pa.RecordBatch:
        """As an Arrow record batch; for `encoding="arrow"`."""
        return rows.read_batch(self.schema_message, self.message.arrow_batch)

    @property
    def json_rows(self) -> list[str]:
        """As JSON objects; for `encoding="json"`."""
        return list(self.message.json_rows)


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """The new values of a group of an interval: they replace those with a lower revision."""

    watch_id: str
    bucket_time: dt.datetime | None
    """Start of the interval; None where the query has none."""
    revision: int
    message: query_service_pb2.SearchResponse.Batch
    schema_message: bytes
    through: bytes
    """Resume from here: the oldest interval that is still open."""

    @property
    def rows(self) -> list[Row]:
        """Group and values as dicts; usually one."""
        return rows.rows_of_message(self.message, self.schema_message)


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything up to `position` was looked at."""

    watch_id: str
    through: bytes
    """Resume from here."""
    position: position_pb2.Position


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The watch has ended."""

    watch_id: str
    error: errors.RpcError | None
    """None: it was cancelled from here."""
    through: bytes


WatchEvent = Created | Rows | AggregateRow | Progress | Cancelled


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The server ended a watch in a way that passes; recreate it."""

    watch_id: str
    error: errors.RpcError


@dataclass(slots=True)
class _Watch:
    create: _Request.Create
    """As the caller asked for it."""
    question: query_service_pb2.Question
    """The newest one. Questions are replaced, never changed in place: tokens refer to them."""
    token: bytes = b""
    token_question: query_service_pb2.Question = field(default_factory=query_service_pb2.Question)
    running_question: query_service_pb2.Question = field(default_factory=query_service_pb2.Question)
    awaited: deque[query_service_pb2.Question] = field(default_factory=deque)
    """Questions whose `created` hasn't come yet."""
    schema_message: bytes = b""
    cancelling: bool = False


class WatchState:
    """See the module. Requests that its methods return are to be sent in order. Not thread-safe."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}

    def __contains__(self, watch_id: str) -> bool:
        return watch_id in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def token(self, watch_id: str) -> bytes:
        """The newest `through` of a watch; empty before the first.

        Raises:
            KeyError: No such watch.
        """
        return self._watches[watch_id].token

    def add(self, create: _Request.Create) -> list[_Request]:
        """A new watch.

        Raises:
            ValueError: Its id is taken.
        """
        if create.watch_id in self._watches:
            msg = f"there is a watch {create.watch_id!r} already"
            raise ValueError(msg)
        watch = self._watches[create.watch_id] = _Watch(create, create.question)
        if create.start.resume_token:
            watch.token = create.start.resume_token
            watch.token_question = create.question
        return self.recreate(create.watch_id)

    def update(self, watch_id: str, question: query_service_pb2.Question) -> list[_Request]:
        """Change a watch's question.

        Raises:
            KeyError: No such watch.
        """
        watch = self._watches[watch_id]
        watch.question = question
        watch.awaited.append(question)
        return [_Request(update=_Request.Update(watch_id=watch_id, question=question))]

    def cancel(self, watch_id: str) -> list[_Request]:
        """End a watch; `cancelled` answers.

        Raises:
            KeyError: No such watch.
        """
        self._watches[watch_id].cancelling = True
        return [_Request(cancel=_Request.Cancel(watch_id=watch_id))]

    def reopen(self) -> list[_Request]:
        """The first messages of a new stream. Watches that were being cancelled are gone."""
        self._watches = {key: watch for key, watch in self._watches.items() if not watch.cancelling}
        return [request for watch_id in self._watches for request in self.recreate(watch_id)]

    def recreate(self, watch_id: str) -> list[_Request]:
        """Begin a watch that doesn't run, where it was.

        Raises:
            KeyError: No such watch.
        """
        watch = self._watches[watch_id]
        create = _Request.Create()
        create.CopyFrom(watch.create)
        question = watch.token_question if watch.token else watch.question
        create.question.CopyFrom(question)
        if watch.token:
            create.start.resume_token = watch.token
        watch.awaited = deque([question])
        requests = [_Request(create=create)]
        if question != watch.question:
            watch.awaited.append(watch.question)
            requests.append(_Request(update=_Request.Update(watch_id=watch_id, question=watch.question)))
        return requests

    def receive(self, response: _Response) -> tuple[WatchEvent | Interrupted | None, list[_Request]]:
        """Take a message.

        Returns:
            What it says (None: it is about a watch that isn't any more), and what to send in answer.
        """
        kind = response.WhichOneof("message")
        if kind == "created":
            return self._on_created(response.created)
        if kind == "rows":
            return self._on_rows(response.rows), []
        if kind == "aggregate":
            return self._on_aggregate(response.aggregate), []
        if kind == "progress":
            progress = response.progress
            known = self._take_token(progress.watch_id, progress.through)
            return (Progress(progress.watch_id, progress.through, progress.position) if known else None), []
        if kind == "cancelled":
            return self._on_cancelled(response.cancelled), []
        return None, []  # a newer server may say more than this version knows

    def _on_created(self, created: _Response.Created) -> tuple[WatchEvent | None, list[_Request]]:
        watch = self._watches.get(created.watch_id)
        if watch is None:
            return None, []
        if watch.awaited:
            watch.running_question = watch.awaited.popleft()
        watch.schema_message = created.schema.arrow_schema
        columns = [column.name for column in created.schema.columns]
        event = Created(created.watch_id, columns, created.schema.canonical_text, created.aggregates)
        return event, [_Request(progress=_Request.Progress())]

    def _on_rows(self, message: _Response.Rows) -> Rows | None:
        watch = self._take_token(message.watch_id, message.through)
        if watch is None:
            return None
        return Rows(message.watch_id, message.batch, watch.schema_message, message.through, message.history)

    def _on_aggregate(self, message: _Response.Aggregate) -> AggregateRow | None:
        watch = self._take_token(message.watch_id, message.through)
        if watch is None:
            return None
        bucket = message.bucket_time.ToDatetime(dt.UTC) if message.HasField("bucket_time") else None
        return AggregateRow(
            message.watch_id, bucket, message.revision, message.batch, watch.schema_message, message.through
        )

    def _on_cancelled(self, cancelled: _Response.Cancelled) -> Cancelled | Interrupted | None:
        watch = self._take_token(cancelled.watch_id, cancelled.through)
        if watch is None:
            return None
        error = None if status.is_ok(cancelled.status) else status.from_status(cancelled.status)
        if error is not None and not watch.cancelling:
            if isinstance(error, errors.StreamLaggedError) and error.resume_token and not cancelled.through:
                self._take_token(cancelled.watch_id, error.resume_token)
            if error.retryable or isinstance(error, errors.StreamLaggedError):
                return Interrupted(cancelled.watch_id, error)
        del self._watches[cancelled.watch_id]
        return Cancelled(cancelled.watch_id, error, cancelled.through or watch.token)

    def _take_token(self, watch_id: str, token: bytes) -> _Watch | None:
        watch = self._watches.get(watch_id)
        if watch is not None and token:
            watch.token = token
            watch.token_question = watch.running_question
        return watch
