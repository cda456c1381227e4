"""Ingest's wire messages to domain values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import source_pb2
from heimdall.types.v1 import position_pb2
from heimdall_server.domain.decoding import Format, FormatKind, RowError
from heimdall_server.services.ingest.model import (
    Acked,
    BatchIn,
    DumpFacts,
    Finished,
    FinishIn,
    FlushIn,
    LetterInfo,
    Nacked,
    OpenIn,
    Outcome,
    RequestIn,
    SourceState,
)

StatusOf = Callable[[BaseException], status_pb2.Status]

_SECOND_NS: Final = 1_000_000_000
_KINDS = {
    source_pb2.Format.KIND_NDJSON: FormatKind.NDJSON,
    source_pb2.Format.KIND_JSON: FormatKind.JSON,
    source_pb2.Format.KIND_CSV: FormatKind.CSV,
    source_pb2.Format.KIND_ARROW: FormatKind.ARROW,
    source_pb2.Format.KIND_OTLP: FormatKind.OTLP,
    source_pb2.Format.KIND_SYSLOG: FormatKind.SYSLOG,
    source_pb2.Format.KIND_TEXT: FormatKind.TEXT,
}
_WIRE_KINDS = {domain: wire for wire, domain in _KINDS.items()}


def format_in(message: source_pb2.Format) -> Format | None:
    """The format that a client names; None: to be told from the bytes."""
    kind = _KINDS.get(message.kind)
    return None if kind is None else Format(kind, dict(message.options))


def format_out(format_: Format | None) -> source_pb2.Format | None:
    """A format as clients see it."""
    if format_ is None:
        return None
    return source_pb2.Format(kind=_WIRE_KINDS[format_.kind], options=format_.options)


def position_out(journal_id: str, position: int) -> position_pb2.Position:
    """A position of the embedded journal's one shard."""
    return position_pb2.Position(journal_id=journal_id, shards={0: position} if position else {})


def open_in(message: pb.AppendRequest.Open, *, actor: str, now_ns: int) -> OpenIn:
    """What a client opens."""
    defaults = message.defaults
    dump = None
    if message.HasField("dump"):
        dump = DumpFacts(
            name=message.dump.name,
            content_sha256=message.dump.content_sha256.hex(),
            file_name=message.dump.file_name,
            origin=message.dump.origin,
            actor=actor,
            time_ns=now_ns,
        )
    return OpenIn(
        source=message.source_id,
        format=format_in(message.format) if message.HasField("format") else None,
        service=defaults.service,
        host=defaults.host,
        time_zone=defaults.time_zone,
        # Not `ToNanoseconds`, which fails for a time that isn't one: whether it is, the use case says.
        reference_time_ns=defaults.reference_time.seconds * _SECOND_NS + defaults.reference_time.nanos,
        dataset=defaults.dataset,
        tlp=defaults.tlp,
        file_name=message.file_name,
        dump=dump,
    )


async def requests_in(
    messages: AsyncIterator[pb.AppendRequest], *, actor: str, now_ns: Callable[[], int]
) -> AsyncIterator[RequestIn]:
    """The client's half of an Append stream."""
    async for message in messages:
        match message.WhichOneof("message"):
            case "batch":
                yield batch_in(message.batch)
            case "flush":
                yield FlushIn()
            case "finish":
                yield FinishIn()
            case _:
                yield open_in(message.open, actor=actor, now_ns=now_ns())


def batch_in(message: pb.AppendRequest.Batch) -> BatchIn:
    """A batch as it came."""
    return BatchIn(message.offset, message.next_offset, message.crc32c, message.payload)


def row_error_out(error: RowError) -> pb.AppendResponse.RowError:
    """Why one record became a dead letter; without its bytes."""
    return pb.AppendResponse.RowError(row=error.row, offset=error.offset, field=error.field, reason=error.reason)


def ack_out(event: Acked, journal_id: str) -> pb.AppendResponse:
    """An acknowledgement."""
    return pb.AppendResponse(
        ack=pb.AppendResponse.Ack(
            next_offset=event.next_offset,
            received_offset=event.received_offset,
            position=position_out(journal_id, event.position),
            accepted_count=event.accepted_count,
            rejected_count=event.rejected_count,
            row_errors=[row_error_out(error) for error in event.errors],
            format=format_out(event.format),
            repeated=event.repeated,
        )
    )


def nack_out(event: Nacked, status_of: StatusOf) -> pb.AppendResponse:
    """A refusal of one batch."""
    return pb.AppendResponse(nack=pb.AppendResponse.Nack(offset=event.offset, status=status_of(event.error)))


def finished_out(event: Finished, journal_id: str) -> pb.AppendResponse:
    """The end of a source."""
    elapsed = Duration()
    elapsed.FromNanoseconds(int(event.elapsed_s * 1e9))
    return pb.AppendResponse(
        finished=pb.AppendResponse.Finished(
            accepted_count=event.accepted_count,
            rejected_count=event.rejected_count,
            next_offset=event.next_offset,
            position=position_out(journal_id, event.position),
            elapsed_duration=elapsed,
        )
    )


def source_out(state: SourceState, journal_id: str) -> source_pb2.Source:
    """What is known of a source."""
    dump = None
    if state.dump is not None:
        dump = source_pb2.Dump(
            name=state.dump.name,
            content_sha256=bytes.fromhex(state.dump.content_sha256),
            file_name=state.dump.file_name,
            origin=state.dump.origin,
        )
    return source_pb2.Source(
        source_id=state.key.source,
        next_offset=state.next_offset,
        epoch=state.epoch,
        format=format_out(state.format),
        accepted_count=state.accepted_count,
        rejected_count=state.rejected_count,
        position=position_out(journal_id, state.position),
        finished=state.finished,
        dump=dump,
    )


def letter_out(info: LetterInfo) -> source_pb2.DeadLetter:
    """A dead letter, without its bytes."""
    created = Timestamp()
    created.FromNanoseconds(info.time_ns)
    return source_pb2.DeadLetter(
        dead_letter_id=info.letter_id,
        source_id=info.key.source,
        principal=info.key.principal,
        offset=info.offset,
        reason=info.reason,
        field=info.field,
        create_time=created,
        raw_bytes_count=info.raw_size_bytes,
        format=info.format,
    )


def outcome_out(outcome: Outcome, status_of: StatusOf) -> pb.RetryDeadLettersResponse.Outcome:
    """What became of one letter."""
    return pb.RetryDeadLettersResponse.Outcome(
        dead_letter_id=outcome.letter_id,
        accepted_count=outcome.accepted_count,
        deleted_count=outcome.deleted_count,
        status=status_of(outcome.error) if outcome.error is not None else None,
    )


def deletion_out(outcome: Outcome, status_of: StatusOf) -> pb.DeleteDeadLettersResponse.Outcome:
    """Whether one letter is deleted."""
    return pb.DeleteDeadLettersResponse.Outcome(
        dead_letter_id=outcome.letter_id,
        status=status_of(outcome.error) if outcome.error is not None else None,
    )
