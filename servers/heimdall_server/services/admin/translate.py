"""Admin's domain values to wire messages."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.admin.v1 import admin_service_pb2 as pb
from heimdall.types.v1 import position_pb2
from heimdall_server.services.admin.model import DatasetState, Health, ProjectionState, Status, StoreState

_HEALTH = {
    Health.SERVING: pb.HEALTH_SERVING,
    Health.DEGRADED: pb.HEALTH_DEGRADED,
    Health.NOT_SERVING: pb.HEALTH_NOT_SERVING,
}


def status_out(status: Status) -> pb.GetStatusResponse:
    """How the instance is."""
    response = pb.GetStatusResponse(
        instance_id=status.instance_id,
        version=status.version,
        start_time=_timestamp(status.start_time_ns),
        services=[pb.GetStatusResponse.Service(name=n, health=_HEALTH[h]) for n, h in status.services.items()],
        stores=[_store(store) for store in status.stores],
        projections=[_projection(one, status.instance_id) for one in status.projections],
        watch_count=status.watch_count,
        resident_bytes=status.resident_bytes,
        notices=status.notices,
    )
    if status.certificate_expire_ns:
        response.certificate_expire_time.CopyFrom(_timestamp(status.certificate_expire_ns))
    if status.journal is not None:
        journal = status.journal
        before_tail = {shard: position - 1 for shard, position in journal.tail.items()}
        response.journal.CopyFrom(
            pb.GetStatusResponse.Journal(
                head=_position(journal.head, status.instance_id),
                tail=_position(before_tail, status.instance_id),
                frame_count=journal.frame_count,
                record_count=journal.record_count,
                size_bytes=journal.size_bytes,
                segment_count=journal.segment_count,
                health=pb.HEALTH_DEGRADED if journal.refusing else pb.HEALTH_SERVING,
            )
        )
    if status.ingest is not None:
        ingest = status.ingest
        response.ingest.CopyFrom(
            pb.GetStatusResponse.Ingest(
                accepted_count=ingest.accepted_count,
                rejected_count=ingest.rejected_count,
                dead_letter_count=ingest.dead_letter_count,
                stream_count=ingest.stream_count,
                source_count=ingest.source_count,
            )
        )
    return response


def dataset_out(state: DatasetState) -> pb.Dataset:
    """A dataset and what it holds."""
    dataset = pb.Dataset(
        dataset_id=state.dataset.name,
        partition_unit=state.dataset.partition_unit.value,
        retention_bytes=state.dataset.retention_bytes,
    )
    if state.dataset.retention_days:
        dataset.retention_duration.CopyFrom(Duration(seconds=state.dataset.retention_days * 86_400))
    if state.usage is not None:
        dataset.record_count = state.usage.record_count
        dataset.size_bytes = state.usage.size_bytes
        if state.usage.record_count:
            dataset.oldest_time.CopyFrom(_timestamp(state.usage.oldest_time_ns))
            dataset.newest_time.CopyFrom(_timestamp(state.usage.newest_time_ns))
    return dataset


def _store(store: StoreState) -> pb.GetStatusResponse.Store:
    return pb.GetStatusResponse.Store(
        name=store.name,
        engine=store.engine,
        health=_HEALTH[store.health],
        problem=store.problem,
        record_count=store.record_count,
        size_bytes=store.size_bytes,
    )


def _projection(state: ProjectionState, journal_id: str) -> pb.GetStatusResponse.Projection:
    lag = Duration()
    lag.FromNanoseconds(int(state.lag_s * 1e9))
    return pb.GetStatusResponse.Projection(
        name=state.name,
        required=state.required,
        state=state.state,
        applied=_position(state.applied, journal_id),
        lag_frame_count=state.lag_frames,
        lag_duration=lag,
        problem=state.problem,
    )


def _position(positions: Mapping[int, int], journal_id: str) -> position_pb2.Position:
    return position_pb2.Position(journal_id=journal_id, shards=dict(positions))


def _timestamp(ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp
