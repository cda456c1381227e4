"""Which entities a dump or source tells of, somebody gave a label, or a marking lies on: as many as a query may carry.

Who tells of an entity is a provenance, and those of one dump or source are few: they are looked up first, then the entities by them. A statement
stops where there are too many, whatever the size of the graph.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from heimdall_server.domain.graph import UNLABELLED, Tlp, VertexKind
from heimdall_server.domain.graph_sets import GraphTerm, Members
from heimdall_server.storage.postgres.graph.groups import parts_of, roots_of
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.moment import moment
from heimdall_server.storage.postgres.graph.rows import VALUE
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_READ_S: Final = 20.0
_ENTITY: Final = table(VertexKind.ENTITY)
_TELLING: Final = {
    "sighted_in": "(dump = %s OR (dump = '' AND source = %s)) AND tlp <= %s",
    "entity_tlp": "tlp = %s AND tlp <= %s",
}
# An entity with one provenance names it in its own row, where 0 stands for several: so none is in both parts.
_TOLD_OF: Final = (
    f"((SELECT {{columns}} FROM {_ENTITY} t WHERE t.provenance = ANY(%s) AND t.provenance <> 0 LIMIT %s) UNION ALL "
    "(SELECT {columns} FROM (SELECT DISTINCT f.fact FROM graph_fact_provenance f WHERE f.provenance = ANY(%s)) f "
    f"JOIN {_ENTITY} t ON t.id = f.fact LIMIT %s) LIMIT %s)"
)
_TOLD_IDS: Final = _TOLD_OF.format(columns="t.uid")
_TOLD_VALUES: Final = (
    "SELECT y.term, array_agg(found.value) FROM "
    + _TOLD_OF.format(columns=f"t.type, {VALUE} AS value")
    + " found JOIN graph_term y ON y.term_id = found.type GROUP BY y.term"
)
_LABELLED: Final = "SELECT id FROM graph_label WHERE label = %s AND tlp <= %s ORDER BY id LIMIT %s"
_VALUES: Final = (
    f"SELECT y.term, array_agg({VALUE}) FROM unnest(%s::uuid[]) w (uid) JOIN {_ENTITY} t ON t.uid = w.uid "
    "JOIN graph_term y ON y.term_id = t.type WHERE t.tlp_min <= %s GROUP BY y.term"
)


class PostgresGraphSets:
    """Implements `ports.graph.GraphSets`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def members(self, term: GraphTerm, *, tlp_max: Tlp, count_max: int) -> Members:
        """See the port."""
        async with moment(self._pool, _READ_S) as (connection, has_merges):
            if term.name == "entity_label" or has_merges:
                ids = await self._ids(connection, term, tlp_max, count_max + 1)
                if has_merges and len(ids) <= count_max:
                    ids = await _whole(connection, ids)
                if len(ids) > count_max:
                    return Members({}, len(ids), truncated=True)
                cursor = await connection.execute(_VALUES, (ids, tlp_max.value))
            else:
                telling = await _telling(connection, term, tlp_max)
                cursor = await connection.execute(_TOLD_VALUES.encode(), _told(telling, count_max + 1))
            values = {str(type_): list(some) for type_, some in await cursor.fetchall()}
        count = sum(map(len, values.values()))
        return Members({}, count, truncated=True) if count > count_max else Members(values, count)

    async def _ids(self, connection: Connection, term: GraphTerm, tlp_max: Tlp, limit: int) -> list[str]:
        if term.name == "entity_label":
            cursor = await connection.execute(_LABELLED, (term.value, tlp_max.value, limit))
        else:
            telling = await _telling(connection, term, tlp_max)
            cursor = await connection.execute(_TOLD_IDS.encode(), _told(telling, limit))
        return [row[0].hex for row in await cursor.fetchall()]


async def _telling(connection: Connection, term: GraphTerm, tlp_max: Tlp) -> list[int]:
    """Who tells of the entities that are meant, and may be heard."""
    asked: tuple[object, ...] = (term.value, term.value, tlp_max.value)
    if term.name == "entity_tlp":
        asked = (Tlp.of(term.value, unlabelled=UNLABELLED).value, tlp_max.value)
    statement = f"SELECT provenance_id FROM graph_provenance WHERE {_TELLING[term.name]}"
    cursor = await connection.execute(statement.encode(), asked)
    return [int(row[0]) for row in await cursor.fetchall()]


def _told(telling: list[int], limit: int) -> tuple[object, ...]:
    return (telling, limit, telling, limit, limit)


async def _whole(connection: Connection, ids: Collection[str]) -> list[str]:
    """Entities with all that they are merged with."""
    roots = set((await roots_of(connection, [bytes.fromhex(one) for one in ids])).values())
    parts = await parts_of(connection, roots)
    return sorted({*ids, *(one.hex() for one in roots), *(one.hex() for one in parts)})
