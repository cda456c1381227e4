"""Rebuilds and refused facts on the wire."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.graph.v1 import rebuild_pb2 as pb
from heimdall_server.domain.graph_making import RefusedRow
from heimdall_server.services.graph.logic.rebuilding import RebuildState


def rebuild_out(state: RebuildState) -> pb.Rebuild:
    """A rebuild, as it is."""
    rebuild = state.rebuild
    found = pb.Rebuild(
        rebuild_id=rebuild.rebuild_id,
        actor=rebuild.actor,
        reason=rebuild.reason,
        create_time=_time(rebuild.create_time_ns),
        position_count=rebuild.through,
        done_count=state.done,
        problem=state.problem,
    )
    if rebuild.end_time_ns:
        found.end_time.CopyFrom(_time(rebuild.end_time_ns))
    return found


def refused_out(row: RefusedRow) -> pb.RefusedFact:
    """A fact that was refused."""
    return pb.RefusedFact(
        time=_time(row.time_ns),
        stream=row.origin.stream,
        first_position=row.origin.first,
        last_position=row.origin.last,
        kind=row.kind,
        vertex_id=row.id.hex(),
        end_id=row.end_id.hex(),
        source=row.source,
        dump=row.dump,
        reason=row.reason,
    )


def _time(ns: int) -> Timestamp:
    return Timestamp(seconds=ns // 10**9, nanos=ns % 10**9)
