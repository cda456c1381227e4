"""Watch requests and events between the wire and the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from google.rpc import status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.services.query.translate.messages import position_out, question_in, timestamp_out
from heimdall_server.services.query.translate.rows import batches_out, schema_out
from heimdall_server.services.query.watch_model import (
    AggregateRows,
    AskProgress,
    Cancel,
    Cancelled,
    Create,
    Created,
    Event,
    Progress,
    Request,
    Rows,
    Start,
    Update,
)

StatusOf = Callable[[BaseException | None], status_pb2.Status]
INTERVAL_S_DEFAULT = 5.0


async def requests_in(messages: AsyncIterator[pb.WatchRequest]) -> AsyncIterator[Request]:
    """What a client asks, message by message.

    Raises:
        QuerySyntaxError, InvalidArgumentError: A tree breaks a rule of the language.
    """
    async for message in messages:
        match message.WhichOneof("message"):
            case "create":
                yield _create_in(message.create)
            case "update":
                yield Update(message.update.watch_id, question_in(message.update.question))
            case "cancel":
                yield Cancel(message.cancel.watch_id)
            case _:
                yield AskProgress()


def _create_in(message: pb.WatchRequest.Create) -> Create:
    interval_s = INTERVAL_S_DEFAULT
    if message.HasField("interval_duration"):
        interval_s = message.interval_duration.ToNanoseconds() / 1e9
    return Create(
        watch_id=message.watch_id,
        question=question_in(message.question),
        start=_start_in(message.start),
        json=message.row_encoding == pb.ROW_ENCODING_JSON,
        interval_s=interval_s,
        datasets=tuple(message.datasets),
    )


def _start_in(message: pb.WatchRequest.Start) -> Start:
    match message.WhichOneof("at"):
        case "resume_token":
            return Start(resume_token=message.resume_token)
        case "since_time":
            return Start(since_ns=message.since_time.ToNanoseconds())
        case "last_count":
            return Start(last_count=message.last_count)
        case _:
            return Start()


def event_out(event: Event, *, journal_id: str, status_of: StatusOf) -> Iterator[pb.WatchResponse]:
    """Messages for an event; rows that don't fit into one message come as several."""
    match event:
        case Created():
            yield pb.WatchResponse(
                created=pb.WatchResponse.Created(
                    watch_id=event.watch_id, schema=_schema_out(event), aggregates=event.aggregates
                )
            )
        case Rows():
            for piece in batches_out(event.batch, _encoding(json=event.json), event.through):
                yield pb.WatchResponse(
                    rows=pb.WatchResponse.Rows(
                        watch_id=event.watch_id, batch=piece, through=piece.resume_token, history=event.history
                    )
                )
        case AggregateRows():
            bucket = None if event.bucket_ns is None else timestamp_out(event.bucket_ns)
            for piece in batches_out(event.batch, _encoding(json=event.json), event.through):
                yield pb.WatchResponse(
                    aggregate=pb.WatchResponse.Aggregate(
                        watch_id=event.watch_id,
                        bucket_time=bucket,
                        batch=piece,
                        revision=event.revision,
                        through=piece.resume_token,
                    )
                )
        case Progress():
            yield pb.WatchResponse(
                progress=pb.WatchResponse.Progress(
                    watch_id=event.watch_id,
                    through=event.through,
                    position=position_out(event.positions, journal_id),
                )
            )
        case Cancelled():
            yield pb.WatchResponse(
                cancelled=pb.WatchResponse.Cancelled(
                    watch_id=event.watch_id, status=status_of(event.error), through=event.through
                )
            )


def _schema_out(event: Created) -> pb.SearchResponse.Schema:
    schema = schema_out(event.schema, _encoding(json=event.json))
    schema.canonical_text = event.canonical_text
    return schema


def _encoding(*, json: bool) -> pb.RowEncoding.ValueType:
    return pb.ROW_ENCODING_JSON if json else pb.ROW_ENCODING_ARROW_IPC
