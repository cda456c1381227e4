"""Rows of the graph's answers, for `--output csv`: one header, one row each, times as RFC 3339.

What stands in a dump was written by strangers: a text that a spreadsheet would take for a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from heimdall.graph.v1 import graph_pb2
from heimdall_client.cli.graph_export import kind_name, tlp_name
from heimdall_client.cli.plain import to_text

if TYPE_CHECKING:
    from heimdall.graph.v1 import graph_service_pb2 as pb
    from heimdall.graph.v1 import views_pb2

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell that is computed begins with (OWASP, CSV Injection), full-width forms too."""
_TIMES: Final = ("day", "hour")
_SEEN: Final = ("count", "first_time", "last_time", "confidence", "tlp")
_VERTEX: Final = ("vertex_id", "is", "value", "day", "labels")


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as `heimdall query` writes them, without formulas."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)


def neighbourhood(pieces: Sequence[pb.TraverseResponse]) -> tuple[Sequence[str], list[list[Any]]]:
    """Vertices of a walk, the start among them, what leads to each, and who says that."""
    ways = ways_to(pieces)
    rows = [
        [
            piece.depth,
            *_vertex(one),
            ways[one.vertex_id].by,
            *_seen(one.seen),
            list(map(says, ways[one.vertex_id].told)),
        ]
        for piece in pieces
        for one in piece.vertices
    ]
    return ("hops", *_VERTEX, "by", *_SEEN, "says"), rows


@dataclass(slots=True)
class WayTo:
    """What leads from nearer vertices, or those as near, to a vertex."""

    kinds: set[str] = field(default_factory=set)
    provenances: dict[tuple[str, ...], graph_pb2.Provenance] = field(default_factory=dict)
    """By who says so; one may say several edges."""

    @property
    def by(self) -> list[str]:
        """Kinds of the edges, and what related ones say."""
        return sorted(self.kinds)

    @property
    def told(self) -> list[graph_pb2.Provenance]:
        """Who says so, the surest first."""
        return sorted(self.provenances.values(), key=lambda one: -one.confidence)


def ways_to(pieces: Sequence[pb.TraverseResponse]) -> Mapping[str, WayTo]:
    """What leads to each vertex of a walk: of the edges at it those that came with its own distance."""
    ways = {one.vertex_id: WayTo() for piece in pieces for one in piece.vertices}
    depths = {one.vertex_id: piece.depth for piece in pieces for one in piece.vertices}
    for piece in pieces:
        for edge, told in zip(joined_edges(piece), witnesses(piece), strict=True):
            for end in (edge.start_vertex_id, edge.end_vertex_id):
                if depths.get(end) == piece.depth:
                    ways[end].kinds.add(edge.relation or edge.kind)
                    for one in told:
                        who = (one.instance, one.actor, one.source, one.dump, one.method)
                        ways[end].provenances.setdefault(who, one)
    return ways


def joined_edges(piece: pb.TraverseResponse) -> list[graph_pb2.Edge]:
    """Edges of a piece between vertices that were sent: a part that was merged gives way to what stands for it."""
    stands = {one.vertex_id: one.into_vertex_id for one in piece.parts}
    edges = []
    for edge in piece.edges:
        joined = graph_pb2.Edge()
        joined.CopyFrom(edge)
        joined.start_vertex_id = stands.get(edge.start_vertex_id, edge.start_vertex_id)
        joined.end_vertex_id = stands.get(edge.end_vertex_id, edge.end_vertex_id)
        edges.append(joined)
    return edges


def witnesses(piece: pb.TraverseResponse) -> list[Sequence[graph_pb2.Provenance]]:
    """Of each edge of a piece who says so; nobody where it wasn't asked for, or where a level has more edges than it is told of."""
    told: list[Sequence[graph_pb2.Provenance]] = [one.provenances for one in piece.edge_provenances]
    return told + [()] * (len(piece.edges) - len(told))


def said(piece: pb.TraverseResponse) -> list[str]:
    """The same in a line for each edge."""
    return ["; ".join(map(says, one)) for one in witnesses(piece)]


def ways(found: pb.FindPathsResponse) -> tuple[Sequence[str], list[list[Any]]]:
    """Steps of paths: a vertex, the edge that leads to it, who says so."""
    vertices = {one.vertex_id: one for one in found.vertices}
    rows = []
    for number, way in enumerate(found.paths, 1):
        for place, vertex_id in enumerate(way.vertex_ids):
            hop = way.hops[place - 1] if place else None
            edge = [hop.edge.relation or hop.edge.kind, *_seen(hop.edge.seen)] if hop else [""] * (1 + len(_SEEN))
            who = [says(one) for one in hop.provenances] if hop else []
            rows.append([number, place, *_vertex(vertices[vertex_id]), *edge, who])
    return ("path", "step", *_VERTEX, "by", *(f"by_{name}" for name in _SEEN), "says"), rows


def sightings(found: Sequence[graph_pb2.Vertex]) -> tuple[Sequence[str], list[list[Any]]]:
    """Sightings, with their counts by hour."""
    rows = [[one.vertex_id, one.day, one.value, list(one.hour_counts), *_seen(one.seen)] for one in found]
    return ("vertex_id", "day", "seen_in", "hour_counts", *_SEEN), rows


def sums(found: views_pb2.AggregateSightingsResponse, by: str) -> tuple[Sequence[str], list[list[Any]]]:
    """Sums of sightings; the total isn't among them."""
    rows = [
        [
            to_text(one.start_time)[: 10 if by == "day" else 16] if by in _TIMES else one.name,
            one.count,
            one.sighting_count,
            to_text(one.first_time) if one.HasField("first_time") else "",
            to_text(one.last_time) if one.HasField("last_time") else "",
        ]
        for one in found.groups
    ]
    return (by, "count", "sighting_count", "first_time", "last_time"), rows


def entities(found: Sequence[views_pb2.ListEntitiesResponse.Entity]) -> tuple[Sequence[str], list[list[Any]]]:
    """Entities of a list."""
    rows = [[*_vertex(one.vertex), *_seen(one.vertex.seen), one.into_vertex_id] for one in found]
    return (*_VERTEX, *_SEEN, "into_vertex_id"), rows


def pivoted(found: Sequence[views_pb2.PivotResponse.Entity]) -> tuple[Sequence[str], list[list[Any]]]:
    """Entities that records name."""
    rows = [
        [
            kind_name(one.vertex),
            one.vertex.value,
            one.record_count,
            to_text(one.first_time),
            to_text(one.last_time),
            {source.source: source.record_count for source in one.sources},
            one.source_count,
            list(one.dumps),
            list(one.vertex.labels),
            one.vertex.seen.confidence if one.is_known else "",
            one.is_known,
            one.vertex.vertex_id,
        ]
        for one in found
    ]
    columns = ("is", "value", "record_count", "first_time", "last_time", "sources", "source_count", "dumps")
    return (*columns, "labels", "confidence", "is_known", "vertex_id"), rows


def cypher(found: pb.RunCypherResponse) -> tuple[Sequence[str], list[list[Any]]]:
    """Rows of Cypher; texts as they are, anything else as JSON."""
    return list(found.columns), [[_text(value) for value in row.values] for row in found.rows]


def _cell(value: Any) -> Any:  # noqa: ANN401 - whatever a column holds
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    elif isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False) if value else ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _vertex(one: graph_pb2.Vertex) -> list[Any]:
    return [one.vertex_id, kind_name(one), one.value, one.day, list(one.labels)]


def _seen(seen: graph_pb2.Seen) -> list[Any]:
    return [seen.count, to_text(seen.first_time), to_text(seen.last_time), seen.confidence, tlp_name(seen)]


def says(one: graph_pb2.Provenance) -> str:
    """Who says something, who brought that in, how, how surely and where."""
    place = f" at {one.first_place}" if one.first_place else ""
    # Of a URI the kind and the name: whose trust domain it is says the JSON.
    name = one.actor.removeprefix("spiffe://").partition("/")[2] or one.actor
    actor = f" by {name}" if name else ""
    return f"{one.dump or one.source}{actor} ({one.method}, {one.confidence} %){place}"


def _text(value: str) -> str:
    if not value.startswith('"'):
        return "" if value == "null" else value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, str) else value
