"""Facts for tests and benchmarks: a few told one by one, or many by columns."""
# ruff: noqa: S608 - statements are made of names of ours

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from heimdall_server.domain.graph import (
    EDGE_KINDS,
    EDGE_SCHEMA,
    VERTEX_KINDS,
    VERTEX_SCHEMA,
    EdgeKind,
    Provenance,
    Tlp,
    VertexKind,
)
from heimdall_server.domain.graph_batches import Applied, GraphBatch, Origin
from heimdall_server.domain.graph_ids import packed
from heimdall_server.domain.graph_reading import GraphFilter, GraphLimits, Level
from heimdall_server.ports.graph import CypherRunner, GraphCuration, GraphReader, GraphVectors, GraphWriter
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.pool import PostgresPool

DAY_NS = 86_400 * 10**9
NOON_NS = 20_000 * DAY_NS
STREAM = "journal:test/0"
OURS = Provenance(instance="here", source="app", method="log-observable", tlp=Tlp.GREEN)
THEIRS = Provenance(instance="there", source="feed", method="feed", confidence=90, tlp=Tlp.RED, actor="someone")


def make_id(text: str) -> bytes:
    """An id that follows from a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass
class Facts:
    """Facts told one by one."""

    provenances: list[Provenance] = field(default_factory=lambda: [OURS, THEIRS])
    vertices: list[dict[str, Any]] = field(default_factory=list)
    edges: list[dict[str, Any]] = field(default_factory=list)

    def vertex(
        self, value: str, kind: VertexKind = VertexKind.ENTITY, *, by: int = 0, at_ns: int = NOON_NS, **changes: Any
    ) -> bytes:
        """Tell of a vertex; returns its id, which follows from kind and value unless it is given."""
        row: dict[str, Any] = {
            "kind": VERTEX_KINDS.index(kind),
            "id": make_id(f"{kind}/{value}"),
            "type": "domain" if kind is VertexKind.ENTITY else "",
            "value": value,
            "day": 0,
            "hours": None,
            "provenance": by,
            "first_ns": at_ns,
            "last_ns": at_ns,
            "count": 1,
            "first_place": 0,
            "last_place": 0,
        } | changes
        self.vertices.append(row)
        return bytes(row["id"])

    def edge(
        self,
        start: bytes,
        end: bytes,
        kind: EdgeKind = EdgeKind.RELATED_TO,
        relation: str | None = None,
        **changes: Any,
    ) -> None:
        """Tell of an edge between vertices that were told of."""
        is_typed = kind in (EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY)
        at_ns = changes.pop("at_ns", NOON_NS)
        self.edges.append(
            {
                "kind": EDGE_KINDS.index(kind),
                "start": start,
                "end": end,
                "relation": relation if relation is not None else "resolves-to" if is_typed else "",
                "provenance": changes.pop("by", 0),
                "first_ns": at_ns,
                "last_ns": at_ns,
                "count": 1,
                "first_place": 0,
                "last_place": 0,
            }
            | changes
        )

    def related(self, *pairs: tuple[str, str], relation: str = "resolves-to", **changes: Any) -> None:
        """Entities by their values, and an edge from each pair's first to its second."""
        for start, end in pairs:
            self.edge(self.vertex(start), self.vertex(end), relation=relation, **changes)

    def batch(self, position: int = 1, last: int | None = None, *, stream: str = STREAM, **further: Any) -> GraphBatch:
        """All of them, as made of some positions."""
        return GraphBatch(
            Origin(stream, position, last if last is not None else position),
            tuple(self.provenances),
            pa.RecordBatch.from_pylist(self.vertices, schema=VERTEX_SCHEMA),
            pa.RecordBatch.from_pylist(self.edges, schema=EDGE_SCHEMA),
            **further,
        )


def random_ids(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Octets of ids, all different for all that matters; the same for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


def vertex_columns(
    ids: np.ndarray[Any, np.dtype[np.uint8]],
    values: Sequence[str] | pa.StringArray,
    *,
    kind: VertexKind = VertexKind.ENTITY,
    type_: str = "domain",
    last_ns: int = NOON_NS,
) -> pa.RecordBatch:
    """Many vertices of one kind, by the batch's first provenance, counted once each."""
    return _columns(
        VERTEX_SCHEMA,
        len(ids),
        {
            "kind": VERTEX_KINDS.index(kind),
            "id": packed(np.ascontiguousarray(ids)),
            "type": type_,
            "value": pa.array(values, pa.string()) if not isinstance(values, pa.Array) else values,
            "hours": pa.nulls(len(ids), VERTEX_SCHEMA.field("hours").type),
            "first_ns": last_ns - DAY_NS,
            "last_ns": last_ns,
            "count": 1,
        },
    )


def edge_columns(
    starts: np.ndarray[Any, np.dtype[np.uint8]],
    ends: np.ndarray[Any, np.dtype[np.uint8]],
    *,
    kind: EdgeKind = EdgeKind.RELATED_TO,
    relation: str = "resolves-to",
    last_ns: int | np.ndarray[Any, np.dtype[np.int64]] = NOON_NS,
) -> pa.RecordBatch:
    """Many edges of one kind."""
    return _columns(
        EDGE_SCHEMA,
        len(starts),
        {
            "kind": EDGE_KINDS.index(kind),
            "start": packed(np.ascontiguousarray(starts)),
            "end": packed(np.ascontiguousarray(ends)),
            "relation": relation,
            "first_ns": NOON_NS - DAY_NS,
            "last_ns": pa.array(last_ns) if isinstance(last_ns, np.ndarray) else last_ns,
            "count": 1,
        },
    )


def _columns(schema: pa.Schema, count: int, told: dict[str, Any]) -> pa.RecordBatch:
    columns = []
    for column in schema:
        value = told.get(column.name, 0)
        columns.append(value if isinstance(value, pa.Array) else pa.repeat(pa.scalar(value, column.type), count))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class GraphStores:
    """All roles of one graph."""

    writer: GraphWriter
    reader: GraphReader
    curation: GraphCuration
    vectors: GraphVectors
    cypher: CypherRunner

    async def tell(self, facts: Facts, position: int = 1, **further: Any) -> Applied:
        """Apply facts as one batch; nothing of it may be refused."""
        applied = await self.writer.apply(facts.batch(position, **further))
        assert not applied.refused
        return applied

    async def walk(
        self, *starts: bytes, tlp_max: Tlp = Tlp.RED, limits: GraphLimits | None = None, **filters: Any
    ) -> list[Level]:
        """All levels of a traversal."""
        filter_ = GraphFilter(tlp_max=tlp_max, **filters)
        return [level async for level in self.reader.traverse(starts, filter_, limits or GraphLimits())]


def values_of(level: Level) -> list[str]:
    """Values of a level's vertices, as they come."""
    return [vertex.value for vertex in level.vertices]


async def canonical_dump(pool: PostgresPool, **how: Any) -> list[tuple[object, ...]]:
    """The whole graph without what differs from one making of it to another: row ids, numbers of terms and provenances.

    Args:
        pool: Connections.
        how: As for `canonical_statements`.
    """
    found: list[tuple[object, ...]] = []
    async with pool.connection() as connection:
        await connection.execute("SET LOCAL search_path = heimdall, ag_catalog")
        for name, statement in canonical_statements(**how):
            found += [(name, *row) for row in await (await connection.execute(statement.encode())).fetchall()]
    return sorted(found, key=repr)


def canonical_statements(*, who: str = "p.digest", places: bool = True) -> list[tuple[str, str]]:
    """What `canonical_dump` asks, by what it is about; with AGE's schema in the search path.

    Args:
        who: What a provenance `p` is told by.
        places: Whether places are told; those of logs are journal positions, which differ from journal to journal.
    """
    dump = _DUMP.replace("p.digest", who)
    if not places:
        for column in ("first_place", "last_place"):
            dump = dump.replace(f" coalesce(f.{column}, t.{column}),", "").replace(f" t.{column},", "")
    found = [
        (
            kind.value,
            dump.format(
                table=table(kind),
                further="t.uid, y.term, t.properties::text, t.day, t.mark, t.hours",
                joins="LEFT JOIN graph_term y ON y.term_id = t.type",
            ),
        )
        for kind in VERTEX_KINDS
    ]
    vertices = " UNION ALL ".join(f"SELECT id, uid FROM {table(kind)}" for kind in VERTEX_KINDS)
    joins = (
        f"JOIN ({vertices}) a ON a.id = t.start_id JOIN ({vertices}) z ON z.id = t.end_id "
        "LEFT JOIN graph_term y ON y.term_id = t.relation"
    )
    further = "a.uid, z.uid, y.term, t.properties::text, t.rank"
    found += [(kind.value, dump.format(table=table(kind), further=further, joins=joins)) for kind in EDGE_KINDS]
    profiles = (
        f"SELECT g.id, {who}, g.body FROM graph_profile g JOIN graph_provenance p ON p.provenance_id = g.provenance"
    )
    return [*found, ("graph_profile", profiles), ("graph_applied", "SELECT * FROM graph_applied")]


_DUMP = """
SELECT {further}, t.first_ns, t.last_ns, t.count, t.first_place, t.last_place, t.confidence, t.tlp_min, t.tlp_max, (
    SELECT array_agg(row(p.digest, coalesce(f.first_ns, t.first_ns), coalesce(f.last_ns, t.last_ns), coalesce(f.count, t.count), coalesce(f.first_place, t.first_place), coalesce(f.last_place, t.last_place), f.hours)::text ORDER BY p.digest)
    FROM graph_provenance p LEFT JOIN graph_fact_provenance f ON f.provenance = p.provenance_id AND f.fact = t.id
    WHERE p.provenance_id = t.provenance OR f.fact IS NOT NULL
)
FROM {table} t {joins}
"""
