"""Watch requests and events between the wire and the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

from google.rpc import status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall_server.domain.errors import HeimdallError
from heimdall_server.services.query.translate.messages import position_out, question_in, timestamp_out
from heimdall_server.services.query.translate.rows import RowEncoder
from heimdall_server.services.query.watch_model import (
    AggregateRows,
    AskProgress,
    Cancel,
    Cancelled,
    Create,
    Created,
    Event,
    Packed,
    Progress,
    Refused,
    Request,
    Rows,
    Start,
    Update,
)

StatusOf = Callable[[BaseException | None], status_pb2.Status]
INTERVAL_S_DEFAULT = 5.0
INTERVAL_S_MAX = 86_400.0


async def requests_in(messages: AsyncIterator[pb.WatchRequest]) -> AsyncIterator[Request]:
    """What a client asks, message by message. A tree that breaks a rule of the language is refused for itself."""
    async for message in messages:
        match message.WhichOneof("message"):
            case "create":
                yield _create_in(message.create)
            case "update":
                yield _update_in(message.update)
            case "cancel":
                yield Cancel(message.cancel.watch_id)
            case _:
                yield AskProgress()


def _create_in(message: pb.WatchRequest.Create) -> Create | Refused:
    start = _start_in(message.start)
    try:
        question = question_in(message.question)
    except HeimdallError as error:
        return Refused(message.watch_id, error, update=False, resume_token=start.resume_token)
    interval_s = INTERVAL_S_DEFAULT
    if message.HasField("interval_duration"):
        interval_s = min(message.interval_duration.ToNanoseconds() / 1e9, INTERVAL_S_MAX)
    return Create(
        watch_id=message.watch_id,
        question=question,
        start=start,
        json=message.row_encoding == pb.ROW_ENCODING_JSON,
        interval_s=interval_s,
        datasets=tuple(message.datasets),
    )


def _update_in(message: pb.WatchRequest.Update) -> Update | Refused:
    try:
        return Update(message.watch_id, question_in(message.question))
    except HeimdallError as error:
        return Refused(message.watch_id, error, update=True)


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
    """Messages for an event, made one at a time; rows that don't fit into one come as several."""
    match event:
        case Created():
            schema = _encoder(json=event.json).schema(event.schema)
            schema.canonical_text = event.canonical_text
            yield pb.WatchResponse(
                created=pb.WatchResponse.Created(watch_id=event.watch_id, schema=schema, aggregates=event.aggregates)
            )
        case Rows():
            encoder, batch = _encoder(json=event.json), event.batch
            pieces = encoder.packed if isinstance(batch, Packed) else encoder.batches
            for piece in pieces(batch, event.token_after):
                yield pb.WatchResponse(
                    rows=pb.WatchResponse.Rows(
                        watch_id=event.watch_id, batch=piece, through=piece.resume_token, history=event.history
                    )
                )
        case AggregateRows():
            bucket = None if event.bucket_ns is None else timestamp_out(event.bucket_ns)
            for piece in _encoder(json=event.json).batches(event.batch, lambda _: event.through):
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


def _encoder(*, json: bool) -> RowEncoder:
    return RowEncoder(pb.ROW_ENCODING_JSON if json else pb.ROW_ENCODING_ARROW_IPC)
