"""A piece of the graph as DOT or GraphML, for other programs."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # only writes
from collections.abc import Iterable, Sequence
from typing import Final

from heimdall.graph.v1 import graph_pb2
from heimdall_client.cli.plain import enum_name

_NAMESPACE: Final = "http://graphml.graphdrawing.org/xmlns"
_VERTEX_KEYS: Final = {
    "kind": "string",
    "type": "string",
    "value": "string",
    "first": "string",
    "last": "string",
    "count": "long",
    "confidence": "int",
    "tlp": "string",
    "labels": "string",
}
_EDGE_KEYS: Final = {
    "kind": "string",
    "relation": "string",
    "first": "string",
    "last": "string",
    "count": "long",
    "confidence": "int",
    "tlp": "string",
    "says": "string",
}


def dot(vertices: Iterable[graph_pb2.Vertex], edges: Iterable[graph_pb2.Edge]) -> str:
    """The DOT language of Graphviz. Attributes that it doesn't know (`tlp`) are kept and not drawn."""
    lines = ["digraph heimdall {", "  node [shape=box];"]
    for vertex in vertices:
        label = _quoted("\n".join((kind_name(vertex), vertex.value)))
        lines.append(f"  {_quoted(vertex.vertex_id)} [label={label} tlp={_quoted(tlp_name(vertex.seen))}];")
    for edge in edges:
        ends = f"{_quoted(edge.start_vertex_id)} -> {_quoted(edge.end_vertex_id)}"
        label = _quoted(edge.relation or edge.kind)
        lines.append(f"  {ends} [label={label} tlp={_quoted(tlp_name(edge.seen))}];")
    return "\n".join([*lines, "}"])


def graphml(vertices: Sequence[graph_pb2.Vertex], edges: Sequence[graph_pb2.Edge], says: Sequence[str] = ()) -> str:
    """GraphML (http://graphml.graphdrawing.org).

    Args:
        vertices: Nodes.
        edges: Edges.
        says: Of each edge who says so, in a line; empty: nobody was asked.

    An edge's ends are those that it was told with, and may be part of a vertex by a merge: such an end is a node without data, since
    the schema wants every end to be one. Each has its marking, the least strict one under which somebody says so.
    """
    ET.register_namespace("", _NAMESPACE)
    root = ET.Element(f"{{{_NAMESPACE}}}graphml")
    for target, keys in (("node", _VERTEX_KEYS), ("edge", _EDGE_KEYS)):
        for name, type_name in keys.items():
            attributes = {"id": f"{target}.{name}", "for": target, "attr.name": name, "attr.type": type_name}
            ET.SubElement(root, f"{{{_NAMESPACE}}}key", attributes)
    graph = ET.SubElement(root, f"{{{_NAMESPACE}}}graph", {"id": "heimdall", "edgedefault": "directed"})
    for vertex in vertices:
        node = ET.SubElement(graph, f"{{{_NAMESPACE}}}node", {"id": vertex.vertex_id})
        told = {"kind": kind_name(vertex), "type": vertex.type, "value": vertex.value, **_seen(vertex.seen)}
        told |= {"labels": ", ".join(vertex.labels)} if vertex.labels else {}
        _tell(node, "node", told)
    named = {vertex.vertex_id for vertex in vertices}
    for end in dict.fromkeys(end for edge in edges for end in (edge.start_vertex_id, edge.end_vertex_id)):
        if end not in named:
            ET.SubElement(graph, f"{{{_NAMESPACE}}}node", {"id": end})
    for edge, who in zip(edges, says or [""] * len(edges), strict=True):
        ends = {"source": edge.start_vertex_id, "target": edge.end_vertex_id}
        line = ET.SubElement(graph, f"{{{_NAMESPACE}}}edge", ends)
        told = {"kind": edge.kind, "relation": edge.relation, **_seen(edge.seen)}
        _tell(line, "edge", told | ({"says": who} if who else {}))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def kind_name(vertex: graph_pb2.Vertex) -> str:
    """What a vertex is, in a word, as in `domain` or `field`."""
    if vertex.kind == graph_pb2.KIND_ENTITY:
        return vertex.type
    return graph_pb2.Kind.Name(vertex.kind).removeprefix("KIND_").lower()


def tlp_name(seen: graph_pb2.Seen) -> str:
    """The marking of something, as people write it."""
    return enum_name(graph_pb2.Tlp.DESCRIPTOR, seen.tlp).replace("_", "+")


def _tell(element: ET.Element, target: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        data = ET.SubElement(element, f"{{{_NAMESPACE}}}data", {"key": f"{target}.{name}"})
        data.text = _printable(value)


def _seen(seen: graph_pb2.Seen) -> dict[str, str]:
    return {
        "first": seen.first_time.ToJsonString(),
        "last": seen.last_time.ToJsonString(),
        "count": str(seen.count),
        "confidence": str(seen.confidence),
        "tlp": tlp_name(seen),
    }


def _quoted(text: str) -> str:
    escaped = _printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _printable(text: str) -> str:
    """Without what neither XML nor a terminal may hold."""
    return "".join(character if character == "\n" or character.isprintable() else "\ufffd" for character in text)
