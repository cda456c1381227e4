"""Lists, sums and pivots between the wire and the domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.duration_pb2 import Duration

from heimdall.graph.v1 import graph_pb2
from heimdall.graph.v1 import views_pb2 as pb
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import HOURS, Tlp
from heimdall_server.domain.graph_views import EntityFilter, SightingsBy, SightingSum, SightingSums
from heimdall_server.services.graph import translate
from heimdall_server.services.graph.logic.viewing import Page
from heimdall_server.services.graph.model_views import Cut, CutReason, Pivoted, PivotEntity, PivotIn, RecordsIn

PIECE_BYTES: Final = 512 * 1024
"""A message of entities is sent once it has so many."""
SUMS_BYTES: Final = 768 * 1024
"""Of all sums in one message."""
PIVOT_TIME_S: Final = 20.0
PIVOT_RECORDS: Final = 100_000
PIVOT_ENTITIES: Final = 100
SUM_GROUPS: Final = 1_000
PAGE_SIZE: Final = 100
_NS: Final = 10**9
_DAY_S: Final = 86_400
_FRAME_BYTES: Final = 8
"""What a message in another takes besides itself, at most."""
_BYS: Final = {
    pb.AggregateSightingsRequest.BY_UNSPECIFIED: SightingsBy.DAY,
    **{pb.AggregateSightingsRequest.By.Value(f"BY_{by.name}"): by for by in SightingsBy},
}
_SPANS: Final = {SightingsBy.DAY: _DAY_S, SightingsBy.HOUR: _DAY_S // HOURS}
_REASONS: Final = {reason: pb.PivotResponse.Cut.Reason.Value(f"REASON_{reason.name}") for reason in CutReason}


def pivot_in(request: pb.PivotRequest) -> PivotIn:
    """What a pivot asks."""
    bounds = request.time_range
    time_range = TimeRange(
        bounds.start_time_inclusive.ToNanoseconds() if bounds.HasField("start_time_inclusive") else None,
        bounds.end_time_exclusive.ToNanoseconds() if bounds.HasField("end_time_exclusive") else None,
    )
    timeout_s = request.timeout_duration.ToNanoseconds() / _NS if request.HasField("timeout_duration") else 0.0
    records = RecordsIn(
        request.query,
        time_range,
        tuple(request.datasets),
        request.record_scan_max or PIVOT_RECORDS,
        timeout_s if timeout_s > 0 else PIVOT_TIME_S,
    )
    return PivotIn(
        records,
        frozenset(name.lower() for name in request.types),
        request.record_count_min or 1,
        request.entity_count_max or PIVOT_ENTITIES,
    )


def pivot_out(pivoted: Pivoted) -> Iterator[pb.PivotResponse]:
    """The answer of a pivot, in pieces."""
    piece, size = pb.PivotResponse(), 0
    for one in pivoted.entities:
        told = _pivot_entity_out(one)
        piece.entities.append(told)
        size += told.ByteSize()
        if size > PIECE_BYTES:
            yield piece
            piece, size = pb.PivotResponse(), 0
    lag_ns = int(pivoted.graph_lag_s * _NS)
    piece.summary.CopyFrom(
        pb.PivotResponse.Summary(
            record_count=pivoted.record_count,
            entity_count=pivoted.entity_count,
            cuts=[_cut_out(cut) for cut in pivoted.cuts],
            graph_lag_duration=Duration(seconds=lag_ns // _NS, nanos=lag_ns % _NS),
        )
    )
    yield piece


def sums_in(by: pb.AggregateSightingsRequest.By.ValueType) -> SightingsBy:
    """What sightings are added up by."""
    return _BYS[by]


def sums_out(sums: SightingSums, by: SightingsBy) -> pb.AggregateSightingsResponse:
    """Sums of sightings, as many as fit into a message."""
    response = pb.AggregateSightingsResponse(
        total=_sum_out(sums.total, None), truncated=sums.truncated, partial=sums.partial
    )
    size = 0
    for group in sums.groups:
        told = _sum_out(group, by)
        size += told.ByteSize() + _FRAME_BYTES
        if size > SUMS_BYTES:
            response.truncated = True
            break
        response.groups.append(told)
    return response


def list_in(request: pb.ListEntitiesRequest) -> EntityFilter:
    """Which entities are listed.

    Raises:
        InvalidArgumentError: The range of time has no inside.
    """
    since_ns, until_ns = translate.range_in(request.time_range)
    return EntityFilter(
        Tlp.CLEAR,  # the use case sets the caller's
        types=frozenset(name.lower() for name in request.types),
        label=request.label.strip(),
        confidence_min=request.confidence_min,
        since_ns=since_ns,
        until_ns=until_ns,
    )


def page_out(page: Page) -> pb.ListEntitiesResponse:
    """A page of entities."""
    return pb.ListEntitiesResponse(
        entities=[
            pb.ListEntitiesResponse.Entity(
                vertex=translate.vertex_out(one.vertex, page.labels.get(one.vertex.id, ())),
                into_vertex_id=one.into.hex(),
            )
            for one in page.entities
        ],
        next_page_token=page.next_token,
    )


def _pivot_entity_out(one: PivotEntity) -> pb.PivotResponse.Entity:
    vertex = (
        translate.vertex_out(one.vertex, one.labels)
        if one.is_known
        else graph_pb2.Vertex(
            vertex_id=one.vertex.id.hex(), kind=graph_pb2.KIND_ENTITY, type=one.vertex.type, value=one.vertex.value
        )
    )
    return pb.PivotResponse.Entity(
        vertex=vertex,
        is_known=one.is_known,
        record_count=one.record_count,
        first_time=translate.time_out(one.first_ns),
        last_time=translate.time_out(one.last_ns),
        sources=[pb.PivotResponse.SourceCount(source=name, record_count=count) for name, count in one.sources],
        source_count=one.source_count,
        dumps=one.dumps.names,
        more_dumps=one.dumps.more,
    )


def _cut_out(cut: Cut) -> pb.PivotResponse.Cut:
    return pb.PivotResponse.Cut(reason=_REASONS[cut.reason], shown_count=cut.shown_count)


def _sum_out(one: SightingSum, by: SightingsBy | None) -> pb.AggregateSightingsResponse.Group:
    group = pb.AggregateSightingsResponse.Group(count=one.count, sighting_count=one.sighting_count)
    if by in _SPANS and isinstance(one.key, int):
        group.start_time.seconds = one.key * _SPANS[by]
    elif by is not None:
        group.name = str(one.key)
    if one.sighting_count and by is not SightingsBy.HOUR:
        group.first_time.CopyFrom(translate.time_out(one.first_ns))
        group.last_time.CopyFrom(translate.time_out(one.last_ns))
    return group
