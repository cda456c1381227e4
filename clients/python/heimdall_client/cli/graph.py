"""`heimdall graph`: what is connected with what, since when, and who says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from heimdall_client.cli.console import note, out, plural, warn, write_line
from heimdall_client.cli.options import Link, Since, Until, connected, examples
from heimdall_client.cli.tables import show as show_table
from heimdall_client.cli.tables import table

if TYPE_CHECKING:
    from heimdall.graph.v1 import graph_pb2, hunting_pb2
    from heimdall.graph.v1 import graph_service_pb2 as pb
    from heimdall_client.graph_calls import Tlp

NAMES = (
    "A vertex is TYPE:VALUE (ip:203.0.113.7, domain:evil.example, email:alice@example.com, dump:NAME), an id, or a token. "
    "Asking by a personal value needs the permission privacy.match, and is audited."
)
_app = typer.Typer(
    name="graph", help="Entities, dumps and sightings, and how they hang together.", no_args_is_help=True
)


def check_vertex(name: str) -> str:
    """Refuse what names no vertex before anything is sent."""
    from heimdall_client.graph_calls import to_vertex_ref

    try:
        to_vertex_ref(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


Vertex = Annotated[
    str,
    typer.Argument(metavar="VERTEX", help="TYPE:VALUE, an id, or a token.", show_default=False, callback=check_vertex),
]
Sure = Annotated[
    int | None,
    typer.Option(
        "--sure",
        min=0,
        max=100,
        help="Walk on only through entities that are believed this much; 0: all.  [default: 20, more than most warninglists leave]",
        show_default=False,
    ),
]
Ceiling = Annotated[str, typer.Option("--tlp", metavar="LABEL", help="Nothing stricter than this: clear … red.")]


class GraphOutput(StrEnum):
    """How a piece of the graph is answered."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    DOT = "dot"
    GRAPHML = "graphml"


class ListOutput(StrEnum):
    """How rows of the graph are answered."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Listed = Annotated[
    ListOutput,
    typer.Option("--output", "-o", help="How to answer; csv: a text that a spreadsheet would compute gets a '."),
]


def add_to(app: typer.Typer) -> None:
    """Add the group."""
    from heimdall_client.cli import (
        graph_curation,
        graph_dumps,
        graph_hunts,
        graph_interchange,
        graph_rebuild,
        graph_views,
        graph_warninglists,
    )  # they take what commands share from here

    graph_views.add_to(_app)
    graph_warninglists.add_to(_app)
    graph_curation.add_to(_app)
    graph_hunts.add_to(_app)
    graph_dumps.add_to(_app)
    graph_interchange.add_to(_app)
    graph_rebuild.add_to(_app)
    app.add_typer(_app)


@_app.command(
    epilog=examples(
        "heimdall graph show domain:evil.example",
        "heimdall graph show dump:forum-2026-03 --depth 2 --output dot | dot -Tsvg > forum.svg",
        more=NAMES,
    )
)
@connected
def show(
    link: Link,
    vertex: Vertex,
    *,
    depth: Annotated[int, typer.Option("--depth", min=1, max=6, help="Hops.")] = 1,
    edge: Annotated[list[str] | None, typer.Option("--edge", metavar="KIND", help="Only along these edges.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only entities of this type; may be repeated.")
    ] = None,
    relation: Annotated[
        list[str] | None, typer.Option("--relation", metavar="NAME", help="Of RELATED_TO only this; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Vertices at most.")] = 200,
    since: Since = None,
    until: Until = None,
    tlp: Ceiling = "",
    sure: Sure = None,
    output: Annotated[GraphOutput, typer.Option("--output", "-o", help="How to answer.")] = GraphOutput.TABLE,
) -> None:
    """Show a vertex, its neighbours, how they are connected, since when, and who says so."""
    from heimdall_client.cli import graph_dumps, graph_export, graph_hunts, graph_rows

    with link.client() as client:
        about = client.vertex(vertex, tlp=parse_tlp(tlp))
        matches = graph_hunts.matches_of(client, about.vertex, parse_tlp(tlp))
        pieces = client.neighbourhood(
            vertex,
            depth=depth,
            limit=limit,
            edges=edge or (),
            types=type_ or (),
            relations=relation or (),
            since=since,
            until=until,
            tlp=parse_tlp(tlp),
            sure=sure,
            provenances=output is not GraphOutput.DOT,
        )
    vertices = [met for piece in pieces for met in piece.vertices]
    edges = [one for piece in pieces for one in graph_rows.joined_edges(piece)]
    if output is GraphOutput.DOT:
        write_line(graph_export.dot(vertices, edges))
    elif output is GraphOutput.GRAPHML:
        write_line(graph_export.graphml(vertices, edges, [who for piece in pieces for who in graph_rows.said(piece)]))
    elif output is GraphOutput.CSV:
        graph_rows.write_csv(*graph_rows.neighbourhood(pieces))
    elif output is GraphOutput.JSON:
        _print_json(about, pieces, matches)
    else:
        _show_vertex(about)
        graph_dumps.show_profile(about.profile)
        _show_neighbours(pieces)
        graph_hunts.show_matches(matches)
    for more in (more for piece in pieces for more in piece.more):
        warn(_more(more))


@_app.command(
    epilog=examples("heimdall graph path ip:203.0.113.7 email:alice@example.com", more=NAMES),
)
@connected
def path(
    link: Link,
    start: Vertex,
    end: Vertex,
    *,
    length: Annotated[int, typer.Option("--length", min=1, max=6, help="Hops at most.")] = 4,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Ways at most.")] = 5,
    since: Since = None,
    until: Until = None,
    tlp: Ceiling = "",
    sure: Sure = None,
    output: Listed = ListOutput.TABLE,
) -> None:
    """Find the shortest ways between two vertices, with the evidence for each hop."""
    from heimdall_client.cli import graph_export, graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    with link.client() as client:
        found = client.paths(
            start, end, length=length, limit=limit, since=since, until=until, tlp=parse_tlp(tlp), sure=sure
        )
    if output is ListOutput.JSON:
        print_json(to_plain(found))
        return
    if output is ListOutput.CSV:
        graph_rows.write_csv(*graph_rows.ways(found))
    vertices = {one.vertex_id: one for one in found.vertices}
    for number, way in enumerate(found.paths if output is ListOutput.TABLE else (), 1):
        rows = []
        for place, vertex_id in enumerate(way.vertex_ids):
            vertex = vertices[vertex_id]
            hop = way.hops[place - 1] if place else None
            rows.append(
                [
                    hop.edge.relation or hop.edge.kind if hop else "",
                    graph_export.kind_name(vertex),
                    vertex.value,
                    _who(hop.provenances, hop.provenance_count) if hop else "",
                ]
            )
        show_table(table(["by", "is", "value", "says"], rows, fold="says"))
        if number < len(found.paths):
            out().print()
    if not found.paths:
        note(f"no way of at most {plural(length, 'hop')}")
    for more in found.more:
        warn(_more(more))


@_app.command(
    epilog=examples(
        "heimdall graph cypher 'MATCH (e:Entity)<-[:OF_ENTITY]-(s:Sighting) RETURN e.value, count(s) ORDER BY count(s) DESC LIMIT 10'",
        more="It reads under a role that can't write, for ten seconds at most; needs the permission graph.cypher.",
    )
)
@connected
def cypher(
    link: Link,
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="openCypher that ends with RETURN.", show_default=False)
    ],
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Rows at most.")] = 1000,
    output: Listed = ListOutput.TABLE,
) -> None:
    """Run a reading openCypher query."""
    from heimdall_client.cli import graph_rows

    with link.client() as client:
        found = client.cypher(query, limit=limit)
    if output is ListOutput.JSON:
        for row in found.rows:
            # Their text as it came: reading it would lose what a number of Python or of a shell can't hold.
            named = (f"{json.dumps(name)}: {value}" for name, value in zip(found.columns, row.values, strict=True))
            write_line("{" + ", ".join(named) + "}")
    elif output is ListOutput.CSV:
        graph_rows.write_csv(*graph_rows.cypher(found))
    elif found.rows:
        show_table(table(*graph_rows.cypher(found)))
    note(plural(len(found.rows), "row") + (", and more: --limit" if found.truncated else ""))


def _show_vertex(about: pb.GetVertexResponse) -> None:
    from heimdall_client.cli import graph_export
    from heimdall_client.cli.plain import to_text

    vertex, seen = about.vertex, about.vertex.seen
    rows = [
        ["is", graph_export.kind_name(vertex)],
        ["value", vertex.value],
        ["id", vertex.vertex_id],
        ["seen", f"{seen.count:,} times, {to_text(seen.first_time)[:19]} to {to_text(seen.last_time)[:19]}"],
        ["says", _who(about.provenances, about.provenance_count)],
    ]
    rows += [["labels", ", ".join(vertex.labels)]] if vertex.labels else []
    rows += (
        [["on lists", f"{', '.join(about.warninglists)} (heimdall graph warninglists)"]] if about.warninglists else []
    )
    rows += [["note", f"{one.text} ({one.actor}; note {one.note_id}, etag {one.etag})"] for one in about.notes]
    rows += [["merged", f"{one.vertex_id} is part of {one.into_vertex_id} {_why(one)}"] for one in about.merges]
    show_table(table(["", ""], rows))
    out().print()


def _show_neighbours(pieces: Sequence[pb.TraverseResponse]) -> None:
    from heimdall_client.cli import graph_export, graph_rows
    from heimdall_client.cli.plain import to_text

    ways = graph_rows.ways_to(pieces)
    rows = [
        [
            piece.depth,
            graph_export.kind_name(one),
            f"{one.value} {one.day}".strip(),
            ", ".join(ways[one.vertex_id].by),
            one.seen.count,
            to_text(one.seen.first_time)[:16],
            to_text(one.seen.last_time)[:16],
            one.seen.confidence,
            _who(ways[one.vertex_id].told, len(ways[one.vertex_id].told), count=2),
        ]
        for piece in pieces
        for one in piece.vertices
        if piece.depth
    ]
    if rows:
        columns = ["hops", "is", "value", "by", "count", "first seen", "last seen", "sure", "says"]
        show_table(table(columns, rows, fold="value"))
    note(plural(len(rows), "neighbour"))


def _who(provenances: Sequence[graph_pb2.Provenance], all_count: int, *, count: int = 3) -> str:
    """Who says so, in a line."""
    from heimdall_client.cli import graph_rows

    told = [graph_rows.says(one) for one in provenances[:count]]
    left = all_count - len(told)
    return "; ".join(told) + (f"; and {left:,} more" if left > 0 else "")


def _why(merge: graph_pb2.Merge) -> str:
    return f"({merge.actor}: {merge.reason})" if merge.reason else f"({merge.actor})"


def _more(more: pb.More) -> str:
    from heimdall.graph.v1 import graph_service_pb2 as pb

    if more.reason == pb.More.REASON_CONFIDENCE:
        which = more.vertex_id or plural(more.shown_count, "entity", "entities")
        return f"not walked on through {which}: warninglists know what nearly everybody meets; --sure 0 to do so"
    return {
        pb.More.REASON_DEGREE: f"{more.vertex_id} has more edges than were followed; the most relevant ones are here",
        pb.More.REASON_VERTEX_COUNT: "there are more vertices: --limit",
        pb.More.REASON_EDGE_SCAN: "enough edges were read: narrow it by --since, --edge or --depth",
        pb.More.REASON_DEPTH: "vertices at the last hop have more edges: --length",
    }.get(more.reason, "something was left out")


def _print_json(
    about: pb.GetVertexResponse, pieces: Sequence[pb.TraverseResponse], matches: Sequence[hunting_pb2.Match]
) -> None:
    from heimdall_client.cli import graph_rows
    from heimdall_client.cli.plain import print_json, to_plain

    print_json(
        {
            "vertex": to_plain(about),
            "neighbours": [to_plain(met) | {"depth": piece.depth} for piece in pieces for met in piece.vertices],
            "edges": [
                to_plain(edge) | {"provenances": [to_plain(one) for one in told]}
                for piece in pieces
                for edge, told in zip(piece.edges, graph_rows.witnesses(piece), strict=True)
            ],
            "parts": [to_plain(one) for piece in pieces for one in piece.parts],
            "more": [to_plain(one) for piece in pieces for one in piece.more],
            "matches": [to_plain(one) for one in matches],
        }
    )


def parse_tlp(label: str) -> Tlp:
    """A marking as somebody typed it.

    Raises:
        BadParameter: It is none.
    """
    from heimdall_client.graph_calls import to_tlp

    lowered = label.lower()
    try:
        to_tlp(lowered)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter("it is clear, green, amber, amber+strict or red", param_hint="--tlp") from error
    return lowered  # type: ignore[return-value]
