"""Pieces of the graph for other programs."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from heimdall.graph.v1 import graph_pb2
from heimdall_client.cli.graph_export import dot, graphml
from heimdall_client.graph_calls import to_tlp, to_vertex_ref

VERTICES = [
    graph_pb2.Vertex(
        vertex_id="a" * 32,
        kind=graph_pb2.KIND_ENTITY,
        type="domain",
        value='evil".example\\\x07<&>\n2',
        seen=graph_pb2.Seen(tlp=graph_pb2.TLP_RED),
    ),
    graph_pb2.Vertex(
        vertex_id="b" * 32, kind=graph_pb2.KIND_DUMP, value="forum", seen=graph_pb2.Seen(tlp=graph_pb2.TLP_CLEAR)
    ),
]
EDGES = [
    graph_pb2.Edge(
        kind="RELATED_TO",
        relation="same-as",
        start_vertex_id="a" * 32,
        end_vertex_id="b" * 32,
        seen=graph_pb2.Seen(tlp=graph_pb2.TLP_AMBER_STRICT),
    ),
]


def test_graphml_holds_whatever_a_value_is_and_reads_back() -> None:
    root = ET.fromstring(graphml(VERTICES, EDGES))  # noqa: S314 - made a line above
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    values = [
        node.findtext("g:data[@key='node.value']", namespaces=space) for node in root.iterfind(".//g:node", space)
    ]
    assert values == ['evil".example\\\ufffd<&>\n2', "forum"]
    assert [(edge.get("source"), edge.get("target")) for edge in root.iterfind(".//g:edge", space)] == [
        ("a" * 32, "b" * 32)
    ]
    keys = {key.get("id") for key in root.iterfind("g:key", space)}
    assert {data.get("key") for data in root.iterfind(".//g:data", space)} <= keys


def test_dot_quotes_what_would_end_a_label() -> None:
    text = dot(VERTICES, EDGES)
    assert 'label="domain\\nevil\\".example\\\\\ufffd<&>\\n2"' in text
    assert f'"{"a" * 32}" -> "{"b" * 32}" [label="same-as" tlp="amber+strict"]' in text


def test_whoever_says_an_edge_and_its_marking_go_along() -> None:
    root = ET.fromstring(graphml(VERTICES, EDGES, ["forum (dump-field, 50 %) at 7"]))  # noqa: S314 - made a line above
    edge = {data.get("key"): data.text for data in root.iterfind(".//{*}edge/{*}data")}
    assert (edge["edge.tlp"], edge["edge.says"]) == ("amber+strict", "forum (dump-field, 50 %) at 7")
    assert [data.text for data in root.iterfind(".//{*}node/{*}data[@key='node.tlp']")] == ["red", "clear"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a" * 32, graph_pb2.VertexRef(vertex_id="a" * 32)),
        (
            "domain:evil.example",
            graph_pb2.VertexRef(typed=graph_pb2.VertexRef.Typed(type="domain", value="evil.example")),
        ),
        ("ip:2001:db8::1", graph_pb2.VertexRef(typed=graph_pb2.VertexRef.Typed(type="ip", value="2001:db8::1"))),
        (
            f"[email:1{'a' * 26}]",
            graph_pb2.VertexRef(typed=graph_pb2.VertexRef.Typed(type="email", value=f"[email:1{'a' * 26}]")),
        ),
        (("dump", "x:y"), graph_pb2.VertexRef(typed=graph_pb2.VertexRef.Typed(type="dump", value="x:y"))),
    ],
)
def test_vertices_are_named_by_id_type_and_value_or_token(name: str, expected: graph_pb2.VertexRef) -> None:
    assert to_vertex_ref(name) == expected


@pytest.mark.parametrize("name", ["", "evil.example", "domain:", ":x"])
def test_what_names_no_vertex_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="TYPE:VALUE"):
        to_vertex_ref(name)


def test_markings_are_those_of_the_protocol() -> None:
    assert to_tlp("amber+strict") == graph_pb2.TLP_AMBER_STRICT
    assert to_tlp("") == graph_pb2.TLP_UNSPECIFIED
    with pytest.raises(ValueError, match="TLP_BLUE"):
        to_tlp("blue")  # type: ignore[arg-type]
