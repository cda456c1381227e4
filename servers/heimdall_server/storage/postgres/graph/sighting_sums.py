"""Sums of an entity's sightings, made in one statement of what the reader may see of each."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from heimdall_server.domain.graph import HOURS, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_views import SightingsBy, SightingSum, SightingSums
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

SIGHTINGS_MAX: Final = 100_000
"""Sightings that are added up: the surest and newest. 4 µs each, by hour 27."""
HOURLY_MAX: Final = 25_000
"""The same by hour."""
# A sighting with one provenance is its own row; of one with several each provenance counts for itself, if it may be seen.
_VISIBLE: Final = f"""
WITH near AS MATERIALIZED (
    SELECT s.* FROM {table(VertexKind.ENTITY)} e CROSS JOIN LATERAL (
        SELECT t.id, t.day, t.provenance, t.first_ns, t.last_ns, t.count, t.hours, o.rank
        FROM {table(EdgeKind.OF_ENTITY)} o JOIN {table(VertexKind.SIGHTING)} t ON t.id = o.start_id
        WHERE o.end_id = e.id AND o.tlp_min <= %s AND t.tlp_min <= %s AND t.day BETWEEN %s AND %s
        ORDER BY o.rank DESC LIMIT %s
    ) s
    WHERE e.uid = ANY(%s::uuid[]) AND e.tlp_min <= %s
), taken AS (
    SELECT * FROM near ORDER BY rank DESC LIMIT %s
), told AS (
    SELECT id, day, provenance, first_ns, last_ns, count, hours FROM taken WHERE provenance <> 0
    UNION ALL
    SELECT t.id, t.day, f.provenance, f.first_ns, f.last_ns, f.count, f.hours
    FROM taken t JOIN graph_fact_provenance f ON f.fact = t.id WHERE t.provenance = 0
), visible AS (
    SELECT t.*, p.source, p.dump FROM told t JOIN graph_provenance p ON p.provenance_id = t.provenance WHERE p.tlp <= %s
)
SELECT grouping(key), key, sum(count)::bigint, count(DISTINCT id), min(first_ns), max(last_ns), (SELECT count(*) FROM near)
FROM ({{grouped}}) g GROUP BY GROUPING SETS ((key), ()) ORDER BY 1 DESC, {{order}} LIMIT %s
"""
_GROUPED: Final = {
    SightingsBy.DAY: "SELECT day AS key, id, count, first_ns, last_ns FROM visible",
    SightingsBy.HOUR: (
        f"SELECT v.day::bigint * {HOURS} + h.place - 1 AS key, v.id, h.count, v.first_ns, v.last_ns "
        "FROM visible v, unnest(v.hours) WITH ORDINALITY AS h (count, place) WHERE h.count > 0"
    ),
    SightingsBy.SOURCE: "SELECT source AS key, id, count, first_ns, last_ns FROM visible",
    SightingsBy.DUMP: "SELECT dump AS key, id, count, first_ns, last_ns FROM visible WHERE dump <> ''",
}
_NEWEST: Final = "2 DESC"
_MOST: Final = "3 DESC, 2"


async def sums_of(
    connection: Connection,
    entities: Sequence[bytes],
    by: SightingsBy,
    *,
    tlp_max: Tlp,
    first_day: int,
    last_day: int,
    count_max: int,
) -> SightingSums:
    """Add up sightings of some entities that are one.

    Args:
        connection: Begun by `reading`.
        entities: Their ids.
        by: What makes a group.
        tlp_max: The reader's ceiling.
        first_day: Days since 1970, inclusive.
        last_day: The same.
        count_max: Groups at most.
    """
    ceiling = tlp_max.value
    is_time = by in (SightingsBy.DAY, SightingsBy.HOUR)
    taken_max = HOURLY_MAX if by is SightingsBy.HOUR else SIGHTINGS_MAX
    statement = _VISIBLE.format(grouped=_GROUPED[by], order=_NEWEST if is_time else _MOST)
    parameters = (
        *(ceiling, ceiling, first_day, last_day, taken_max + 1),
        *([one.hex() for one in entities], ceiling, taken_max, ceiling, count_max + 2),
    )
    cursor = await connection.execute(statement.encode(), parameters, prepare=True)
    rows = await cursor.fetchall()
    total = next((_sum(row, 0) for row in rows if row[0]), SightingSum(0, 0, 0, 0, 0))
    groups = [_sum(row, row[1]) for row in rows if not row[0]]
    partial = bool(rows) and int(rows[0][6]) > taken_max
    return SightingSums(groups[:count_max], total, truncated=len(groups) > count_max, partial=partial)


def _sum(row: Sequence[Any], key: int | str) -> SightingSum:
    return SightingSum(key, int(row[2] or 0), int(row[3]), int(row[4] or 0), int(row[5] or 0))
