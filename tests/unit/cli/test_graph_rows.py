"""Answers of the graph as CSV, and the structure of what other programs read."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall.graph.v1 import graph_pb2, views_pb2
from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall_client.cli import graph_rows
from heimdall_client.cli.graph_export import graphml

SEEN = graph_pb2.Seen(
    first_time=Timestamp(seconds=1_772_352_000),
    last_time=Timestamp(seconds=1_772_438_400, nanos=5),
    count=3,
    confidence=50,
    tlp=graph_pb2.TLP_AMBER_STRICT,
)
EVIL = graph_pb2.Vertex(
    vertex_id="a" * 32, kind=graph_pb2.KIND_ENTITY, type="domain", value="evil.example", seen=SEEN, labels=["c2", "x"]
)
FORMULA = graph_pb2.Vertex(vertex_id="b" * 32, kind=graph_pb2.KIND_FIELD_VALUE, value="=HYPERLINK(1)", seen=SEEN)
LEAK = graph_pb2.Provenance(dump="forum", source="leak", method="dump-field", confidence=50, first_place=7)
LOG = graph_pb2.Provenance(
    source="app", method="log-observable", confidence=90, first_place=3, actor="spiffe://here/client/ann"
)
EDGE = graph_pb2.Edge(kind="OF_ENTITY", start_vertex_id="b" * 32, end_vertex_id="a" * 32, seen=graph_pb2.Seen(count=1))


def written(
    capsys: pytest.CaptureFixture[str], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[dict[str, str]]:
    """What a reader of CSV makes of it."""
    graph_rows.write_csv(columns, rows)
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_neighbourhood_has_a_row_for_each_vertex_and_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    pieces = [
        pb.TraverseResponse(depth=0, vertices=[EVIL]),
        pb.TraverseResponse(depth=1, vertices=[FORMULA]),
        pb.TraverseResponse(depth=1, edges=[EDGE], edge_provenances=[pb.EdgeProvenances(provenances=[LEAK, LOG, LOG])]),
    ]
    evil, formula = written(capsys, *graph_rows.neighbourhood(pieces))
    assert (evil["hops"], evil["is"], evil["value"], evil["labels"]) == ("0", "domain", "evil.example", "c2; x")
    assert (evil["count"], evil["last_time"], evil["tlp"]) == ("3", "2026-03-02T08:00:00.000000005Z", "amber+strict")
    assert (formula["value"], formula["by"], formula["is"]) == ("'=HYPERLINK(1)", "OF_ENTITY", "field_value")
    assert formula["says"] == "app by client/ann (log-observable, 90 %) at 3; forum (dump-field, 50 %) at 7"
    assert (evil["by"], evil["says"]) == ("", ""), "what leads on from a vertex doesn't lead to it"


def test_edges_beyond_those_of_which_it_is_told_who_says_them_are_there_all_the_same() -> None:
    other = graph_pb2.Edge(kind="OBSERVED_IN", start_vertex_id="a" * 32, end_vertex_id="b" * 32)
    told = [pb.EdgeProvenances(provenances=[LEAK])]
    piece = pb.TraverseResponse(depth=1, vertices=[FORMULA], edges=[EDGE, other], edge_provenances=told)
    assert graph_rows.said(piece) == ["forum (dump-field, 50 %) at 7", ""]
    assert graph_rows.ways_to([piece])[FORMULA.vertex_id].by == ["OBSERVED_IN", "OF_ENTITY"]
    assert len(graph_rows.witnesses(pb.TraverseResponse(edges=[EDGE, other]))) == 2


def test_steps_of_ways_name_the_edge_that_led_there_and_who_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    way = pb.FindPathsResponse.Path(
        vertex_ids=["b" * 32, "a" * 32], hops=[pb.FindPathsResponse.Hop(edge=EDGE, provenances=[LEAK])]
    )
    first, second = written(capsys, *graph_rows.ways(pb.FindPathsResponse(paths=[way], vertices=[EVIL, FORMULA])))
    assert (first["path"], first["step"], first["by"], first["by_count"], first["says"]) == ("1", "0", "", "", "")
    assert (second["step"], second["by"], second["by_count"]) == ("1", "OF_ENTITY", "1")
    assert second["says"] == "forum (dump-field, 50 %) at 7"


def test_sums_lists_pivots_and_cypher_are_rows_too(capsys: pytest.CaptureFixture[str]) -> None:
    group = views_pb2.AggregateSightingsResponse.Group
    sums = views_pb2.AggregateSightingsResponse(groups=[group(start_time=Timestamp(seconds=3600), count=2)])
    assert written(capsys, *graph_rows.sums(sums, "hour"))[0]["hour"] == "1970-01-01T01:00"
    assert written(capsys, *graph_rows.sums(sums, "day"))[0]["day"] == "1970-01-01"
    named = views_pb2.AggregateSightingsResponse(groups=[group(name="@app", count=2)])
    assert written(capsys, *graph_rows.sums(named, "source"))[0]["source"] == "'@app"
    listed = views_pb2.ListEntitiesResponse.Entity(vertex=EVIL, into_vertex_id="c" * 32)
    assert written(capsys, *graph_rows.entities([listed]))[0]["into_vertex_id"] == "c" * 32
    unknown = graph_pb2.Vertex(vertex_id="d" * 32, kind=graph_pb2.KIND_ENTITY, type="ipv4", value="192.0.2.1")
    told = [
        views_pb2.PivotResponse.Entity(
            vertex=EVIL,
            is_known=True,
            record_count=9,
            sources=[views_pb2.PivotResponse.SourceCount(source="app", record_count=9)],
            dumps=["forum", "other"],
        ),
        views_pb2.PivotResponse.Entity(vertex=unknown, record_count=1),
    ]
    known, lagging = written(capsys, *graph_rows.pivoted(told))
    assert (known["sources"], known["dumps"], known["confidence"]) == ('{"app": 9}', "forum; other", "50")
    assert (lagging["is_known"], lagging["confidence"], lagging["value"]) == ("false", "", "192.0.2.1")
    cypher = pb.RunCypherResponse(columns=["a", "b", "c"])
    cypher.rows.add(values=['"=1+\\"1\\""', "null", '{"id": 1}'])
    assert written(capsys, *graph_rows.cypher(cypher)) == [{"a": '\'=1+"1"', "b": "", "c": '{"id": 1}'}]


@given(
    values=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=4)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_whatever_a_value_is_a_reader_of_csv_gets_it_back(
    capsys: pytest.CaptureFixture[str], values: list[str]
) -> None:
    graph_rows.write_csv(["v", "n"], [[value, -1] for value in values])
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert header == ["v", "n"]
    assert [row[0].removeprefix("'") for row in rows] == [value.removeprefix("'") for value in values]
    assert all(row[1] == "-1" for row in rows), "a number is none that is computed"
    assert not any(row[0][:1] in {"=", "+", "-", "@", "\t", "\r"} for row in rows)


def test_graphml_has_the_structure_of_its_schema() -> None:
    """http://graphml.graphdrawing.org/xmlns/1.1/graphml-structure.xsd: keys, then graphs of nodes and edges, whose ends are nodes."""
    part = graph_pb2.Edge(kind="OF_ENTITY", start_vertex_id="b" * 32, end_vertex_id="e" * 32, seen=SEEN)
    root = ET.fromstring(graphml([EVIL, FORMULA], [EDGE, part]))  # noqa: S314 - made here
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert root.tag == f"{space}graphml"
    tags = [child.tag.removeprefix(space) for child in root]
    assert tags == ["key"] * (len(tags) - 1) + ["graph"]
    keys = {key.get("id"): key for key in root.iter(f"{space}key")}
    assert len(keys) == len(tags) - 1
    assert {key.get("for") for key in keys.values()} == {"node", "edge"}
    types = {key.get("attr.type") for key in keys.values()}
    assert types <= {"boolean", "int", "long", "float", "double", "string"}
    (graph,) = root.iter(f"{space}graph")
    assert graph.get("edgedefault") in {"directed", "undirected"}
    nodes = [node.get("id") for node in graph.iter(f"{space}node")]
    assert len({*nodes}) == len(nodes) == 3
    for element in graph:
        name = element.tag.removeprefix(space)
        assert name in {"node", "edge"}
        if name == "edge":
            assert {element.get("source"), element.get("target")} <= {*nodes}, (
                "also the end that is part of another vertex"
            )
        for data in element:
            assert data.tag == f"{space}data"
            key = keys[data.get("key")]
            assert key.get("for") == name
            assert key.get("attr.type") == "string" or int(data.text or "") >= 0
