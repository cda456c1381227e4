"""How matches are kept and told: one statement, whoever found them, within a transaction of the graph's writers.

Writers take turns, so what a hunt has looked at and what a batch has compared never miss one another; and the row of the head of the events is
held from the first event of a transaction to its end, so events become visible in the order of their numbers.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from heimdall_server.domain.graph import EdgeKind, VertexKind
from heimdall_server.domain.graph_hunting import EventKind, Found
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

LOG_TYPE: Final = "(SELECT term_id FROM graph_term WHERE term = 'log')"
DUMP_TYPE: Final = "(SELECT term_id FROM graph_term WHERE term = 'dump')"
_EDGES_MAX: Final = 2_000
"""Edges of one entity that a hunt looks at, the newest and surest first: who has more is in every log."""


def value_of(alias: str) -> str:
    """A vertex's value, out of what Cypher sees."""
    return f"agtype_access_operator(VARIADIC ARRAY[{alias}.properties, '\"value\"'::agtype])::text"


def seen_below(tlp: str) -> str:
    """Columns and a join that tell what is seen of a sighting `s` by who sees everything up to a marking, but nothing stricter."""
    return (
        "LEFT JOIN LATERAL (SELECT sum(f.count)::bigint AS count, min(f.first_ns) AS first_ns, max(f.last_ns) AS last_ns "
        "FROM graph_fact_provenance f JOIN graph_provenance p ON p.provenance_id = f.provenance "
        f"WHERE s.tlp_max > {tlp} AND f.fact = s.id AND p.tlp <= {tlp}) v ON true"
    )


SEEN: Final = "coalesce(v.count, s.count), coalesce(v.first_ns, s.first_ns), coalesce(v.last_ns, s.last_ns)"
"""With `seen_below`: count, first and last time."""
_COLUMNS: Final = "id, dump, source, day, tlp, count, first_ns, last_ns"
_HAS_ROOM: Final = "(SELECT sum(n) FROM unnest(h.match_counts) n) < h.match_count_max"
_FROM_SIGHTINGS: Final = (
    f"SELECT w.id, w.dump, {value_of('s')}, s.day, x.tlp, {SEEN} FROM {{source}} "
    f"JOIN {table(VertexKind.SIGHTING)} s ON s.id = f.sighting AND s.type = {LOG_TYPE} "
    f"JOIN graph_hunted w ON w.id = f.entity JOIN graph_hunt h ON h.dump = w.dump AND {_HAS_ROOM} "
    f"CROSS JOIN LATERAL (SELECT greatest(w.tlp, s.tlp_min) AS tlp) x {seen_below('x.tlp')}"
)
FOUND_IN_BATCH: Final = _FROM_SIGHTINGS.format(
    source="unnest(%(rows)s::graphid[], %(entities)s::uuid[]) AS f (sighting, entity)"
)
"""Matches of sightings that a batch made: `rows`, and the `entities` that they are of."""
FOUND_IN_GRAPH: Final = (
    _FROM_SIGHTINGS.format(
        source=f"(SELECT l.start_id AS sighting, u.entity FROM unnest(%(entities)s::uuid[]) AS u (entity) "
        f"JOIN {table(VertexKind.ENTITY)} t ON t.uid = u.entity CROSS JOIN LATERAL ("
        f"SELECT e.start_id FROM {table(EdgeKind.OF_ENTITY)} e WHERE e.end_id = t.id ORDER BY e.rank DESC LIMIT {_EDGES_MAX}) l) f"
    )
    + " WHERE w.dump = %(dump)s"
)
"""Matches of `entities` of a `dump` with the sightings of logs that are there."""
FOUND_IN_RECORDS: Final = (
    "SELECT f.id, w.dump, f.source, f.day, greatest(w.tlp, f.tlp), f.count, f.first_ns, f.last_ns FROM unnest("
    "%(ids)s::uuid[], %(sources)s::text[], %(days)s::integer[], %(tlps)s::smallint[], %(counts)s::bigint[], %(firsts)s::bigint[], "
    "%(lasts)s::bigint[]) AS f (id, source, day, tlp, count, first_ns, last_ns) JOIN graph_hunted w ON w.id = f.id AND w.dump = %(dump)s "
    f"JOIN graph_hunt h ON h.dump = w.dump AND {_HAS_ROOM}"
)
"""Matches of a `dump` with what records were found to say."""
NUMBERED: Final = (
    "INSERT INTO graph_event_head (one, last) SELECT true, count(*) FROM {source} HAVING count(*) > 0 "
    "ON CONFLICT (one) DO UPDATE SET last = graph_event_head.last + excluded.last RETURNING last"
)
"""Takes as many numbers of events as `source` has rows; the last one is the answer."""
_KEEP: Final = f"""
WITH found ({_COLUMNS}) AS ({{found}}),
kept AS (
    INSERT INTO graph_match AS m ({_COLUMNS}, found, time_ns) SELECT {_COLUMNS}, %(found)s, %(time_ns)s FROM found ORDER BY day, id, source
    ON CONFLICT (id, dump, source, day) DO UPDATE SET
        tlp = excluded.tlp, count = excluded.count, first_ns = excluded.first_ns, last_ns = excluded.last_ns
    WHERE excluded.tlp < m.tlp
    RETURNING match_id, {_COLUMNS}, found, time_ns, xmax = 0 AS is_new
),
head AS ({NUMBERED.format(source="kept")}),
told AS (
    INSERT INTO graph_event (seq, kind, tlp, time_ns, id, type, dump, source, day, found, count, first_ns, last_ns)
    SELECT head.last - count(*) OVER () + row_number() OVER (ORDER BY k.match_id), {EventKind.MATCH.value}, k.tlp, %(time_ns)s, k.id,
        coalesce(y.term, ''), k.dump, k.source, k.day, k.found, k.count, k.first_ns, k.last_ns
    FROM kept k CROSS JOIN head LEFT JOIN {table(VertexKind.ENTITY)} t ON t.uid = k.id LEFT JOIN graph_term y ON y.term_id = t.type
),
counted AS (
    UPDATE graph_hunt h SET match_counts = ARRAY(
        SELECT h.match_counts[i + 1] + (SELECT count(*) FROM kept k WHERE k.dump = h.dump AND k.tlp = i AND k.is_new)
        FROM generate_series(0, 4) i ORDER BY i)
    FROM (SELECT DISTINCT dump FROM kept WHERE is_new) d WHERE d.dump = h.dump
)
SELECT count(*) FILTER (WHERE is_new), count(*) FROM kept
"""
_BY_INDEX: Final = b"; ".join(
    b"SET LOCAL " + setting
    for setting in (
        b"enable_hashjoin = off",
        b"enable_mergejoin = off",
        b"enable_seqscan = off",
        b"enable_bitmapscan = off",
        b"enable_material = off",
        b"join_collapse_limit = 1",
        b"from_collapse_limit = 1",
    )
)
_DURABLE: Final = "SET LOCAL synchronous_commit = on"


async def keep_matches(
    connection: Connection, source: str, parameters: Mapping[str, Any], *, found: Found, time_ns: int
) -> int:
    """Keep matches, tell of new ones and of those that may go further than was known, and count them.

    Args:
        connection: Of a writer of the graph, who has the lock.
        source: One of the statements of this module that find matches.
        parameters: Its own.
        found: How.
        time_ns: Now.

    Returns:
        New ones.
    """
    values = {**parameters, "found": found.value, "time_ns": time_ns}
    # Not prepared, here and elsewhere with these tables: a plan that was made while they were empty would read all of them.
    cursor = await connection.execute(_KEEP.format(found=source).encode(), values, prepare=False)
    new_count, kept_count = await cursor.fetchone() or (0, 0)
    if kept_count:
        await make_durable(connection)
    return int(new_count)


async def look_up_by_index(connection: Connection) -> None:
    """Let what follows in the transaction look rows up one by one, in the order that is written; statistics of a graph that grows say otherwise."""
    await connection.execute(_BY_INDEX)


async def make_durable(connection: Connection) -> None:
    """Let what the transaction tells watches be on the disk before anybody sees it: numbers that were seen aren't given out again."""
    await connection.execute(_DURABLE)
