"""A frame's control, between the port's values and its bytes at rest (`heimdall.stored.v1`)."""

from __future__ import annotations

import pyarrow as pa

from heimdall.stored.v1 import journal_pb2 as stored
from heimdall_server.ports.journal import (
    DeadLetter,
    DeletedSlice,
    Deletion,
    Entry,
    RequestMark,
    Snapshot,
    SourceKey,
    SourceMark,
)


def encode_control(entry: Entry) -> bytes:
    """Everything of an entry but its batch."""
    control = stored.JournalControl(
        sources=[_encode_source(mark) for mark in entry.sources],
        requests=[
            stored.JournalRequestMark(
                principal=mark.principal,
                digest=mark.digest,
                time_ns=mark.time_ns,
                accepted_count=mark.accepted_count,
                rejected_count=mark.rejected_count,
                message=mark.message,
            )
            for mark in entry.requests
        ],
        dead_letters=[_encode_letter(letter) for letter in entry.dead_letters],
        resolved_letters=entry.resolved_letters,
        sidecars=entry.sidecars,
        deletions=[_encode_deletion(deletion) for deletion in entry.deletions],
    )
    if entry.snapshot is not None:
        control.snapshot.through = entry.snapshot.through
        control.snapshot.data = entry.snapshot.data
    return control.SerializeToString()


def decode_control(data: bytes, batch: pa.RecordBatch | None) -> Entry:
    """The entry that `encode_control` took apart.

    Raises:
        google.protobuf.message.DecodeError: Not such bytes.
    """
    control = stored.JournalControl.FromString(data)
    return Entry(
        batch=batch,
        sources=tuple(_decode_source(mark) for mark in control.sources),
        requests=tuple(
            RequestMark(
                principal=mark.principal,
                digest=mark.digest,
                time_ns=mark.time_ns,
                accepted_count=mark.accepted_count,
                rejected_count=mark.rejected_count,
                message=mark.message,
            )
            for mark in control.requests
        ),
        dead_letters=tuple(_decode_letter(letter) for letter in control.dead_letters),
        resolved_letters=tuple(control.resolved_letters),
        sidecars=dict(control.sidecars),
        deletions=tuple(_decode_deletion(deletion) for deletion in control.deletions),
        snapshot=Snapshot(control.snapshot.through, control.snapshot.data) if control.HasField("snapshot") else None,
    )


def _encode_key(key: SourceKey) -> stored.JournalSourceKey:
    return stored.JournalSourceKey(principal=key.principal, source=key.source, dump_sha256=key.dump_sha256)


def _decode_key(key: stored.JournalSourceKey) -> SourceKey:
    return SourceKey(key.principal, key.source, key.dump_sha256)


def _encode_source(mark: SourceMark) -> stored.JournalSourceMark:
    return stored.JournalSourceMark(
        key=_encode_key(mark.key),
        epoch=mark.epoch,
        offset=mark.offset,
        next_offset=mark.next_offset,
        batches=[
            stored.JournalBatchMark(offset=offset, next_offset=next_offset, crc32c=crc)
            for offset, next_offset, crc in mark.batches
        ],
        accepted_count=mark.accepted_count,
        rejected_count=mark.rejected_count,
        format=mark.format,
        dump=mark.dump,
        finished=mark.finished,
        first_row=mark.first_row,
    )


def _decode_source(mark: stored.JournalSourceMark) -> SourceMark:
    return SourceMark(
        key=_decode_key(mark.key),
        epoch=mark.epoch,
        offset=mark.offset,
        next_offset=mark.next_offset,
        batches=tuple((batch.offset, batch.next_offset, batch.crc32c) for batch in mark.batches),
        accepted_count=mark.accepted_count,
        rejected_count=mark.rejected_count,
        format=mark.format,
        dump=mark.dump,
        finished=mark.finished,
        first_row=mark.first_row,
    )


def _encode_letter(letter: DeadLetter) -> stored.JournalDeadLetter:
    return stored.JournalDeadLetter(
        key=_encode_key(letter.key),
        offset=letter.offset,
        row=letter.row,
        reason=letter.reason,
        time_ns=letter.time_ns,
        raw=letter.raw,
        format=letter.format,
        context=letter.context,
        field=letter.field,
        protected=letter.protected,
    )


def _decode_letter(letter: stored.JournalDeadLetter) -> DeadLetter:
    return DeadLetter(
        key=_decode_key(letter.key),
        offset=letter.offset,
        row=letter.row,
        reason=letter.reason,
        time_ns=letter.time_ns,
        raw=letter.raw,
        format=letter.format,
        context=letter.context,
        field=letter.field,
        protected=letter.protected,
    )


def _encode_deletion(deletion: Deletion) -> stored.JournalDeletion:
    return stored.JournalDeletion(
        deletion_id=deletion.deletion_id,
        filter=deletion.filter,
        start_time_ns=deletion.start_time_ns,
        end_time_ns=deletion.end_time_ns,
        datasets=deletion.datasets,
        through=deletion.through,
        slices=[
            stored.JournalDeletedSlice(source=one.source, dump=one.dump, days=one.days, whole=one.whole)
            for one in deletion.slices or ()
        ],
        slices_known=deletion.slices is not None,
    )


def _decode_deletion(deletion: stored.JournalDeletion) -> Deletion:
    return Deletion(
        deletion_id=deletion.deletion_id,
        filter=deletion.filter,
        start_time_ns=deletion.start_time_ns if deletion.HasField("start_time_ns") else None,
        end_time_ns=deletion.end_time_ns if deletion.HasField("end_time_ns") else None,
        datasets=tuple(deletion.datasets),
        through=deletion.through,
        slices=_decode_slices(deletion) if deletion.slices_known else None,
    )


def _decode_slices(deletion: stored.JournalDeletion) -> tuple[DeletedSlice, ...]:
    return tuple(DeletedSlice(one.source, one.dump, tuple(one.days), one.whole) for one in deletion.slices)
