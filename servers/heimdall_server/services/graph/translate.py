"""The graph service's values between the wire and the domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.graph.v1 import graph_pb2
from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall.types.v1 import time_range_pb2
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label, Merge, Note
from heimdall_server.domain.graph_reading import (
    CypherResult,
    Edge,
    Evidence,
    GraphFilter,
    GraphLimits,
    More,
    MoreReason,
    Seen,
    SightingRow,
    Vertex,
    Witnesses,
    day_text,
)
from heimdall_server.domain.warninglists import WALK_CONFIDENCE
from heimdall_server.services.graph.model import Connected, Described, Labelled, Named, Sighted
from heimdall_server.services.graph.translate_dumps import profile_out

PIECE_VERTICES: Final = 1_000
"""Of one message of a walk."""
PIECE_EVIDENT: Final = 100
"""Edges of one message, where it says who says them."""
TIME_S: Final = 10.0
"""A walk's or a query's, at most and unless less is asked for."""
PATH_LENGTH: Final = 4
PATH_COUNT: Final = 10
SIGHTING_COUNT: Final = 1_000
CYPHER_ROWS: Final = 1_000
_NS: Final = 10**9
_DAY_S: Final = 86_400
_DAY_MAX: Final = 2**31 - 1
_KINDS: Final = {kind: graph_pb2.Kind.Value(f"KIND_{kind.name}") for kind in VertexKind}
_KINDS_IN: Final = {number: kind for kind, number in _KINDS.items()}
_TLPS: Final = {tlp: graph_pb2.Tlp.Value(f"TLP_{tlp.name}") for tlp in Tlp}
_TLPS_IN: Final = {number: tlp for tlp, number in _TLPS.items()}
_REASONS: Final = {reason: pb.More.Reason.Value(f"REASON_{reason.name}") for reason in MoreReason}


def named_in(ref: graph_pb2.VertexRef) -> Named:
    """What a vertex is called."""
    if ref.WhichOneof("name") == "vertex_id":
        return Named(bytes.fromhex(ref.vertex_id))
    return Named(type=ref.typed.type.lower(), value=ref.typed.value)


def tlp_in(tlp: graph_pb2.Tlp.ValueType) -> Tlp | None:
    """A ceiling or a marking; None: none was asked for."""
    return _TLPS_IN.get(tlp)


def time_in(duration: Duration, *, is_set: bool) -> float:
    """Seconds, at most `TIME_S`."""
    asked_s = duration.seconds + duration.nanos / _NS
    return min(TIME_S, asked_s) if is_set and asked_s > 0 else TIME_S


def walk_in(request: pb.TraverseRequest) -> tuple[GraphFilter, GraphLimits]:
    """Which facts a walk looks at, and how far it goes.

    Raises:
        InvalidArgumentError: There is no such kind of edge.
    """
    known = {kind.value: kind for kind in EdgeKind}
    for name in request.edge_kinds:
        if name not in known:
            raise InvalidArgumentError("edge_kinds", f"{name!r} is none; edges are {', '.join(known)}")
    since_ns, until_ns = range_in(request.time_range)
    filter_ = GraphFilter(
        Tlp.CLEAR,  # the use case sets the caller's
        edge_kinds=frozenset(known[name] for name in request.edge_kinds) or frozenset(EdgeKind),
        vertex_kinds=frozenset(_KINDS_IN[kind] for kind in request.vertex_kinds if kind in _KINDS_IN)
        or frozenset(VertexKind),
        types=frozenset(name.lower() for name in request.entity_types),
        relations=frozenset(request.relations),
        since_ns=since_ns,
        until_ns=until_ns,
        walk_confidence_min=_walk_confidence_in(request),
    )
    defaults = GraphLimits()
    return filter_, GraphLimits(
        depth_max=request.depth_max or 1,
        degree_max=request.degree_max or defaults.degree_max,
        vertex_count_max=request.vertex_count_max or defaults.vertex_count_max,
        time_s=time_in(request.timeout_duration, is_set=request.HasField("timeout_duration")),
    )


def paths_in(request: pb.FindPathsRequest) -> tuple[GraphFilter, GraphLimits]:
    """The same of a search for paths."""
    since_ns, until_ns = range_in(request.time_range)
    confidence = _walk_confidence_in(request)
    return GraphFilter(Tlp.CLEAR, since_ns=since_ns, until_ns=until_ns, walk_confidence_min=confidence), GraphLimits(
        depth_max=request.length_max or PATH_LENGTH,
        time_s=time_in(request.timeout_duration, is_set=request.HasField("timeout_duration")),
    )


def _walk_confidence_in(request: pb.TraverseRequest | pb.FindPathsRequest) -> int:
    return request.walk_confidence_min if request.HasField("walk_confidence_min") else WALK_CONFIDENCE


def days_in(time_range: time_range_pb2.TimeRange) -> tuple[int, int]:
    """Days since 1970 that overlap a range of time, both inclusive."""
    since_ns, until_ns = range_in(time_range)
    return min(since_ns // _NS // _DAY_S, _DAY_MAX), min((until_ns - 1) // _NS // _DAY_S, _DAY_MAX)


def vertex_out(vertex: Vertex, labels: Sequence[str] = ()) -> graph_pb2.Vertex:
    """A vertex."""
    told = graph_pb2.Vertex(
        vertex_id=vertex.id.hex(),
        kind=_KINDS[vertex.kind],
        type=vertex.type,
        value=vertex.value,
        day=day_text(vertex.day) if vertex.kind is VertexKind.SIGHTING else "",
        labels=labels,
    )
    _see(told.seen, vertex.seen)
    return told


def described_out(described: Described) -> pb.GetVertexResponse:
    """A vertex with what is said about it."""
    return pb.GetVertexResponse(
        vertex=vertex_out(described.vertex, sorted({label.label for label in described.labels})),
        provenances=[_evidence_out(one) for one in described.evidence.told],
        provenance_count=described.evidence.count,
        notes=[note_out(note) for note in described.notes],
        merges=[merge_out(merge) for merge in described.merges],
        warninglists=described.warninglists,
        profile=profile_out(described.dump) if described.dump is not None else None,
    )


def note_out(note: Note) -> graph_pb2.Note:
    """A note."""
    return graph_pb2.Note(
        note_id=note.note_id.hex(),
        text=note.body,
        actor=note.actor,
        tlp=_TLPS[note.tlp],
        vertex_id=note.id.hex(),
        etag=note.etag,
        create_time=time_out(note.create_time_ns),
        update_time=time_out(note.update_time_ns),
    )


def merge_out(merge: Merge) -> graph_pb2.Merge:
    """A merge."""
    return graph_pb2.Merge(
        vertex_id=merge.id.hex(),
        into_vertex_id=merge.into_id.hex(),
        actor=merge.actor,
        reason=merge.reason,
        create_time=time_out(merge.create_time_ns),
        etag=merge.etag,
    )


def level_out(labelled: Labelled) -> Iterator[pb.TraverseResponse]:
    """A level of a walk, in pieces: its vertices before its edges."""
    level, labels = labelled.level, _by_vertex(labelled.labels)
    for start in range(0, len(level.vertices), PIECE_VERTICES):
        vertices = level.vertices[start : start + PIECE_VERTICES]
        yield pb.TraverseResponse(
            depth=level.depth, vertices=[vertex_out(vertex, labels.get(vertex.id, ())) for vertex in vertices]
        )
    size = PIECE_EVIDENT if labelled.evidence else PIECE_VERTICES
    for start in range(0, len(level.edges), size):
        edges = level.edges[start : start + size]
        yield pb.TraverseResponse(
            depth=level.depth,
            edges=[_edge_out(edge) for edge in edges],
            edge_provenances=[_edge_evidence_out(one) for one in labelled.evidence[start : start + size]],
            parts=_parts_out(edges, level.parts),
        )
    if level.more:
        yield pb.TraverseResponse(depth=level.depth, more=[_more_out(more) for more in level.more])


def connected_out(connected: Connected) -> pb.FindPathsResponse:
    """Ways between two vertices."""
    told = {edge.key: evidence for edge, evidence in connected.evidence}
    return pb.FindPathsResponse(
        paths=[
            pb.FindPathsResponse.Path(
                vertex_ids=[vertex.id.hex() for vertex in path.vertices],
                hops=[
                    pb.FindPathsResponse.Hop(
                        edge=_edge_out(edge),
                        provenances=[_evidence_out(one) for one in told[edge.key].told],
                        provenance_count=told[edge.key].count,
                    )
                    for edge in path.edges
                ],
            )
            for path in connected.paths
        ],
        vertices=[vertex_out(one) for one in {v.id: v for path in connected.paths for v in path.vertices}.values()],
        more=[_more_out(more) for more in connected.more],
    )


def sighted_out(sighted: Sighted) -> pb.ListSightingsResponse:
    """Sightings."""
    return pb.ListSightingsResponse(sightings=[_sighting_out(row) for row in sighted.rows], truncated=sighted.truncated)


def cypher_out(result: CypherResult) -> pb.RunCypherResponse:
    """Rows of Cypher."""
    rows = [pb.RunCypherResponse.Row(values=row) for row in result.rows]
    return pb.RunCypherResponse(columns=result.columns, rows=rows, truncated=result.truncated)


def _edge_out(edge: Edge) -> graph_pb2.Edge:
    key = edge.key
    told = graph_pb2.Edge(
        kind=key.kind.value,
        relation=key.relation,
        start_vertex_id=key.start.hex(),
        end_vertex_id=key.end.hex(),
    )
    _see(told.seen, edge.seen)
    return told


def _sighting_out(row: SightingRow) -> graph_pb2.Vertex:
    told = graph_pb2.Vertex(
        vertex_id=row.id.hex(),
        kind=graph_pb2.KIND_SIGHTING,
        value=row.source,
        day=day_text(row.day),
        hour_counts=row.hours,
    )
    _see(told.seen, row.seen)
    return told


def _evidence_out(evidence: Evidence) -> graph_pb2.Provenance:
    who = evidence.provenance
    return graph_pb2.Provenance(
        instance=who.instance,
        source=who.source,
        dump=who.dump,
        method=who.method,
        method_version=who.method_version,
        actor=who.actor,
        confidence=who.confidence,
        tlp=_TLPS[who.tlp],
        first_time=time_out(evidence.first_ns),
        last_time=time_out(evidence.last_ns),
        count=evidence.count,
        first_place=evidence.first_place,
        last_place=evidence.last_place,
    )


def _parts_out(edges: Sequence[Edge], parts: Mapping[bytes, bytes]) -> list[pb.TraverseResponse.Part]:
    if not parts:
        return []
    ends = dict.fromkeys(end for edge in edges for end in (edge.key.start, edge.key.end))
    return [
        pb.TraverseResponse.Part(vertex_id=end.hex(), into_vertex_id=parts[end].hex()) for end in ends if end in parts
    ]


def _edge_evidence_out(witnesses: Witnesses) -> pb.EdgeProvenances:
    told = [_evidence_out(one) for one in witnesses.told]
    return pb.EdgeProvenances(provenances=told, provenance_count=witnesses.count)


def _more_out(more: More) -> pb.More:
    return pb.More(reason=_REASONS[more.reason], vertex_id=more.id.hex(), shown_count=more.shown_count)


def _see(message: graph_pb2.Seen, seen: Seen) -> None:
    """Fill a message in its place: one that is made and copied there takes five times as long, and a walk tells thousands."""
    message.first_time.seconds, message.first_time.nanos = divmod(seen.first_ns, _NS)
    message.last_time.seconds, message.last_time.nanos = divmod(seen.last_ns, _NS)
    message.count = seen.count
    message.confidence = seen.confidence
    message.tlp = _TLPS[seen.tlp]


def _by_vertex(labels: Sequence[Label]) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for label in labels:
        found.setdefault(label.id, []).append(label.label)
    return found


def range_in(time_range: time_range_pb2.TimeRange) -> tuple[int, int]:
    """Begin and end of a range of time, nanoseconds since 1970; without a bound as far as they go.

    Raises:
        InvalidArgumentError: It has no inside.
    """
    since_ns, until_ns = 0, 2**63 - 1
    if time_range.HasField("start_time_inclusive"):
        since_ns = max(0, time_range.start_time_inclusive.ToNanoseconds())
    if time_range.HasField("end_time_exclusive"):
        until_ns = time_range.end_time_exclusive.ToNanoseconds()
    if until_ns <= since_ns:
        raise InvalidArgumentError("time_range", "its end isn't after its beginning")
    return since_ns, until_ns


def time_out(ns: int) -> Timestamp:
    """A time, from nanoseconds since 1970."""
    return Timestamp(seconds=ns // _NS, nanos=ns % _NS)
