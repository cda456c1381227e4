"""Who says so: the provenances of facts, of many in one statement."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, Provenance, Tlp
from heimdall_server.domain.graph_reading import EdgeKey, Evidence, Witnesses
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.rows import array
from heimdall_server.storage.postgres.graph.staging import Connection

_PROVENANCE: Final = "p.instance, p.source, p.method, p.method_version, p.dump, p.actor, p.confidence, p.tlp"
_FACT: Final = "k.n, t.id, t.provenance, t.first_ns, t.last_ns, t.count, t.first_place, t.last_place"
# The row of the fact itself is its one provenance; several have rows of their own.
_EVIDENCE: Final = f"""
WITH s (n, id, provenance, first_ns, last_ns, count, first_place, last_place) AS MATERIALIZED ({{source}}),
f (n, provenance, first_ns, last_ns, count, first_place, last_place) AS (
    SELECT n, provenance, first_ns, last_ns, count, first_place, last_place FROM s WHERE provenance <> 0
    UNION ALL
    SELECT s.n, r.provenance, r.first_ns, r.last_ns, r.count, r.first_place, r.last_place
    FROM s JOIN graph_fact_provenance r ON r.fact = s.id WHERE s.provenance = 0
)
SELECT * FROM (
    SELECT f.n, count(*) OVER (PARTITION BY f.n) AS all_count, row_number() OVER surest AS place,
        {_PROVENANCE}, f.first_ns, f.last_ns, f.count, f.first_place, f.last_place
    FROM f JOIN graph_provenance p ON p.provenance_id = f.provenance WHERE p.tlp <= %s
    WINDOW surest AS (PARTITION BY f.n ORDER BY p.confidence DESC, f.last_ns DESC, p.provenance_id)
) t WHERE place <= %s ORDER BY n, place
"""
_VERTICES: Final = " UNION ALL ".join(
    f"SELECT {_FACT} FROM unnest(%s::uuid[], %s::integer[]) AS k (uid, n) JOIN {table(kind)} t ON t.uid = k.uid"
    for kind in VERTEX_KINDS
)
_ROWS: Final = " UNION ALL ".join(
    f"SELECT t.uid, t.id::text::bigint FROM {table(kind)} t WHERE t.uid = ANY(%s::uuid[])" for kind in VERTEX_KINDS
)


async def evidence_of(
    connection: Connection, facts: Sequence[bytes | EdgeKey], tlp_max: Tlp, count_max: int
) -> Sequence[Witnesses]:
    """The provenances of each fact that a reader may see, the surest first.

    Args:
        connection: Begun by `begin`.
        facts: Ids of vertices, keys of edges.
        tlp_max: The reader's ceiling.
        count_max: Of each fact at most so many.
    """
    sources: list[str] = []
    parameters: list[object] = []
    vertices = {number: fact.hex() for number, fact in enumerate(facts) if isinstance(fact, bytes)}
    if vertices:
        sources.append(_VERTICES)
        parameters += [list(vertices.values()), list(vertices)] * len(VERTEX_KINDS)
    edges = {number: fact for number, fact in enumerate(facts) if isinstance(fact, EdgeKey)}
    rows = await _rows_of(connection, edges)
    for kind in EDGE_KINDS:
        numbers = [
            number for number, key in edges.items() if key.kind is kind and key.start in rows and key.end in rows
        ]
        if numbers:
            sources.append(_edges(kind))
            parameters += [
                array([rows[edges[number].start] for number in numbers]),
                array([rows[edges[number].end] for number in numbers]),
                [edges[number].relation for number in numbers],
                numbers,
            ]
    found: list[list[Evidence]] = [[] for _ in facts]
    counts = [0] * len(facts)
    if sources:
        statement = _EVIDENCE.format(source=" UNION ALL ".join(sources)).encode()
        cursor = await connection.execute(statement, [*parameters, tlp_max.value, count_max], prepare=True)
        for number, count, _, *row in await cursor.fetchall():
            counts[number] = count
            found[number].append(_evidence(row))
    return [Witnesses(told, count) for told, count in zip(found, counts, strict=True)]


async def _rows_of(connection: Connection, edges: Mapping[int, EdgeKey]) -> dict[bytes, int]:
    """Rows of the ends of edges, by their ids."""
    ids = sorted({id_.hex() for key in edges.values() for id_ in (key.start, key.end)})
    if not ids:
        return {}
    cursor = await connection.execute(_ROWS.encode(), [ids] * len(VERTEX_KINDS), prepare=True)
    return {uid.bytes: row for uid, row in await cursor.fetchall()}


def _edges(kind: EdgeKind) -> str:
    return (
        f"SELECT {_FACT} FROM unnest(%s::ag_catalog.graphid[], %s::ag_catalog.graphid[], %s::text[], %s::integer[]) "
        f"AS k (start_id, end_id, relation, n) JOIN {table(kind)} t ON t.start_id = k.start_id AND t.end_id = k.end_id "
        "AND t.relation = coalesce((SELECT term_id FROM graph_term WHERE term = k.relation), 0)"
    )


def _evidence(row: Sequence[Any]) -> Evidence:
    instance, source, method, version, dump, actor, confidence, tlp = row[:8]
    return Evidence(Provenance(instance, source, method, version, dump, actor, confidence, Tlp(tlp)), *row[8:])
