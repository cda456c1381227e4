"""Facts of a slice of records, replaced by what is left to be told of it: a source's day of logs, or a dump.

Of a day only sightings, the edges to their entities and what entities sum up are touched, and of these only what isn't as it is told: sightings
whose records are all there stay as they are. A dump is dropped and applied again, since it has more kinds of facts, and profiles.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, Provenance, VertexKind
from heimdall_server.domain.graph_batches import Origin, numbers
from heimdall_server.domain.graph_ids import dump_id, octets
from heimdall_server.domain.graph_making import FACT_METHODS
from heimdall_server.ports.journal import DeletedSlice
from heimdall_server.storage.postgres.binary_copy import Column
from heimdall_server.storage.postgres.graph.cutting import prepare_cut, settle_cut
from heimdall_server.storage.postgres.graph.dumps import forget_dump as forget_records
from heimdall_server.storage.postgres.graph.facts import Longs, Pairs
from heimdall_server.storage.postgres.graph.labels import are_there, table
from heimdall_server.storage.postgres.graph.leftovers import forget_day, forget_dump, forget_gone
from heimdall_server.storage.postgres.graph.progress import forget_streams
from heimdall_server.storage.postgres.graph.progress import note as note_applied
from heimdall_server.storage.postgres.graph.staging import SUM_COLUMNS, Connection, copy_in, hours_column, sum_columns
from heimdall_server.storage.postgres.graph.transaction import lock_writers
from heimdall_server.storage.postgres.graph.vertices import row_sums
from heimdall_server.storage.postgres.pool import PostgresPool

_TIME_S: Final = 3_600.0
"""For one slice: reading what is left of it is within."""
_LABELS: Final[tuple[VertexKind | EdgeKind, ...]] = (*EDGE_KINDS, *VERTEX_KINDS)
_SIGHTING, _OF_ENTITY, _ENTITY = table(VertexKind.SIGHTING), table(EdgeKind.OF_ENTITY), table(VertexKind.ENTITY)
_SUMS: Final = "first_ns bigint, last_ns bigint, count bigint, first_place bigint, last_place bigint"
_TOLD: Final = (
    f"graph_told (uid uuid, teller integer, {_SUMS}, hours integer[], PRIMARY KEY (uid, teller))",
    f"graph_telling (uid uuid, teller integer, {_SUMS}, hours integer[])",
    f"graph_differs (fact ag_catalog.graphid, uid uuid, provenance integer, {_SUMS}, hours integer[], is_left boolean)",
    "graph_touched (sighting uuid, entity ag_catalog.graphid, provenance integer)",
)
_ADD: Final = f"""
INSERT INTO graph_told AS t (uid, teller, {SUM_COLUMNS}, hours) SELECT uid, teller, {SUM_COLUMNS}, hours FROM graph_telling
ON CONFLICT (uid, teller) DO UPDATE SET
    first_ns = least(t.first_ns, excluded.first_ns), last_ns = greatest(t.last_ns, excluded.last_ns), count = t.count + excluded.count,
    first_place = coalesce(least(nullif(t.first_place, 0), nullif(excluded.first_place, 0)), 0),
    last_place = greatest(t.last_place, excluded.last_place),
    hours = (SELECT array_agg(a + b ORDER BY n) FROM unnest(t.hours, excluded.hours) WITH ORDINALITY AS u (a, b, n))
"""
_OURS: Final = "SELECT provenance_id, actor, tlp FROM graph_provenance WHERE instance = %s AND source = %s AND dump = %s AND method = ANY(%s)"
_IS_HELD: Final = (
    f"SELECT EXISTS (SELECT FROM {_SIGHTING} s WHERE s.day = %s AND (s.provenance = ANY(%s) OR s.provenance = 0 AND EXISTS "
    "(SELECT FROM graph_fact_provenance f WHERE f.fact = s.id AND f.provenance = ANY(%s))))"
)
_PAIR: Final = ", ".join(f"f.{name}" for name in SUM_COLUMNS.split(", "))
_ROW: Final = ", ".join(f"s.{name}" for name in SUM_COLUMNS.split(", "))
_OF_TOLD: Final = ", ".join(f"t.{name}" for name in SUM_COLUMNS.split(", "))
_NUMBERED: Final = "row_number() OVER (PARTITION BY h.uid, v.teller ORDER BY h.provenance)"
# Provenances of one source, actor and marking differ by the program's version, or by what warninglists said when they were made: what is told now is
# kept by the first of them.
_DIFFER: Final = f"""
INSERT INTO graph_differs
WITH held AS (
    SELECT s.id, s.uid, s.provenance, {_ROW}, s.hours FROM {_SIGHTING} s WHERE s.day = %(day)s AND s.provenance = ANY(%(ours)s)
    UNION ALL SELECT s.id, s.uid, f.provenance, {_PAIR}, f.hours FROM {_SIGHTING} s
    JOIN graph_fact_provenance f ON f.fact = s.id AND f.provenance = ANY(%(ours)s) WHERE s.day = %(day)s AND s.provenance = 0
), marked AS (
    SELECT h.*, v.teller, {_NUMBERED} AS number FROM held h JOIN unnest(%(ours)s::integer[], %(tellers)s::integer[]) AS v (provenance, teller)
    ON v.provenance = h.provenance
)
SELECT h.id, h.uid, h.provenance, {_OF_TOLD}, t.hours, t.uid IS NOT NULL
FROM marked h LEFT JOIN graph_told t ON t.uid = h.uid AND t.teller = h.teller AND h.number = 1
WHERE t.uid IS NULL OR ({", ".join(f"h.{name}" for name in SUM_COLUMNS.split(", "))}, h.hours) IS DISTINCT FROM ({_OF_TOLD}, t.hours)
"""
_TOUCH: Final = f"INSERT INTO graph_touched SELECT d.uid, e.end_id, d.provenance FROM graph_differs d JOIN {_OF_ENTITY} e ON e.start_id = d.fact"
_OF_DIFFERING: Final = ", ".join(f"d.{name}" for name in SUM_COLUMNS.split(", "))
_CUT_SIGHTINGS: Final = (
    "INSERT INTO graph_cut SELECT fact, provenance FROM graph_differs",
    f"INSERT INTO graph_left SELECT fact, provenance, {SUM_COLUMNS}, hours FROM graph_differs WHERE is_left",
    # An edge to the entity is told by the records that tell the sighting.
    f"INSERT INTO graph_cut SELECT e.id, d.provenance FROM graph_differs d JOIN {_OF_ENTITY} e ON e.start_id = d.fact",
    f"INSERT INTO graph_left SELECT e.id, d.provenance, {_OF_DIFFERING}, NULL FROM graph_differs d JOIN {_OF_ENTITY} e ON e.start_id = d.fact WHERE d.is_left",
)
# Logs tell of an entity what they tell of its sightings, so its sums are theirs.
_CUT_ENTITIES: Final = (
    "INSERT INTO graph_cut SELECT DISTINCT entity, provenance FROM graph_touched",
    f"""
INSERT INTO graph_left SELECT entity, provenance, min(first_ns), max(last_ns), sum(count), coalesce(min(nullif(first_place, 0)), 0),
    max(last_place), NULL
FROM (
    SELECT c.entity, c.provenance, {_ROW} FROM (SELECT DISTINCT entity, provenance FROM graph_touched) c
    JOIN {_OF_ENTITY} s ON s.end_id = c.entity AND s.provenance = c.provenance
    UNION ALL SELECT c.entity, c.provenance, {_PAIR} FROM (SELECT DISTINCT entity, provenance FROM graph_touched) c
    JOIN {_OF_ENTITY} s ON s.end_id = c.entity AND s.provenance = 0
    JOIN graph_fact_provenance f ON f.fact = s.id AND f.provenance = c.provenance
) x GROUP BY entity, provenance""",
)
_OF_RECORDS: Final = "p.instance = %(instance)s AND p.method = ANY(%(methods)s)"
_DAYS: Final = (
    f"SELECT DISTINCT p.source, s.day FROM {_SIGHTING} s JOIN graph_provenance p ON p.provenance_id = s.provenance "
    f"WHERE p.dump = '' AND {_OF_RECORDS} AND s.day BETWEEN %(first)s AND %(last)s "
    f"UNION SELECT p.source, s.day FROM {_SIGHTING} s JOIN graph_fact_provenance f ON f.fact = s.id "
    f"JOIN graph_provenance p ON p.provenance_id = f.provenance WHERE p.dump = '' AND {_OF_RECORDS} "
    "AND s.provenance = 0 AND s.day BETWEEN %(first)s AND %(last)s ORDER BY 1, 2"
)
_DUMPS: Final = (
    f"SELECT DISTINCT p.source, p.dump FROM graph_provenance p WHERE p.dump <> '' AND {_OF_RECORDS} ORDER BY 1, 2"
)


class _Tellers:
    """What tells provenances of one source apart, as numbers: who brought its records in, and their marking."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int], int] = {}

    def number(self, actor: str, tlp: int) -> int:
        """From 0, in the order in which they are asked for."""
        return self._numbers.setdefault((actor, tlp), len(self._numbers))


class Day:
    """Implements `ports.graph_making.DayTold` in the block's transaction."""

    def __init__(self, connection: Connection, tellers: _Tellers, *, is_held: bool) -> None:
        self._connection = connection
        self._tellers = tellers
        self._is_held = is_held

    @property
    def is_held(self) -> bool:
        """See the port."""
        return self._is_held

    async def add(self, vertices: pa.RecordBatch, provenances: Sequence[Provenance]) -> None:
        """See the port."""
        rows = np.flatnonzero(numbers(vertices, "kind") == VERTEX_KINDS.index(VertexKind.SIGHTING))
        if not len(rows):
            return
        tellers = np.array([self._tellers.number(one.actor, int(one.tlp)) for one in provenances], np.int64)
        columns = await asyncio.to_thread(_told_columns, vertices, rows, tellers)
        await copy_in(self._connection, f"graph_telling (uid, teller, {SUM_COLUMNS}, hours)", columns)
        await self._connection.execute(_ADD.encode())
        await self._connection.execute("TRUNCATE graph_telling")


def _told_columns(vertices: pa.RecordBatch, rows: Longs, tellers: Longs) -> list[Column]:
    """Sightings by id and teller, summed up, as `graph_telling` has them.

    Args:
        vertices: `VERTEX_SCHEMA`.
        rows: Those of them that are sightings.
        tellers: By what `provenance` indexes.
    """
    encoded = vertices.column("id").take(pa.array(rows)).dictionary_encode()
    told = tellers[numbers(vertices, "provenance")[rows].astype(np.int64)]
    sums = row_sums(vertices, rows, count=True, with_hours=True)
    pairs = Pairs.of(encoded.indices.to_numpy().astype(np.int64), told, sums)
    columns: list[Column] = [
        octets(encoded.dictionary)[pairs.fact],
        pairs.provenance.astype(np.int32),
        *sum_columns(pairs.sums),
    ]
    return columns if pairs.sums.hours is None else [*columns, hours_column(pairs.sums.hours)]


class PostgresGraphSlices:
    """Implements `ports.graph_making.GraphSlices`."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def is_empty(self) -> bool:
        """See the port."""
        async with self._pool.connection() as connection:
            if not await are_there(connection):
                return True
            row = await (await connection.execute("SELECT NOT EXISTS (SELECT FROM graph_applied)")).fetchone()
            return bool(row and row[0])

    async def slices(self, instance: str, *, first_day: int = 0, last_day: int = 2**31 - 1) -> Sequence[DeletedSlice]:
        """See the port. Reads all sightings."""
        asked = {"instance": instance, "methods": list(FACT_METHODS), "first": first_day, "last": last_day}
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await _allow_time(connection)
            days = await (await connection.execute(_DAYS.encode(), asked)).fetchall()
            dumps = await (await connection.execute(_DUMPS.encode(), asked)).fetchall()
        by_source: dict[str, list[int]] = {}
        for source, day in days:
            by_source.setdefault(source, []).append(day)
        logs = [DeletedSlice(source, "", tuple(found)) for source, found in by_source.items()]
        return [*logs, *(DeletedSlice(source, dump) for source, dump in dumps)]

    @contextlib.asynccontextmanager
    async def day(self, instance: str, source: str, day: int, *, note: Origin) -> AsyncIterator[Day]:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await _allow_time(connection)
            ours = await _ours(connection, instance, source, "")
            tellers = _Tellers()
            numbered = {number: tellers.number(actor, tlp) for number, actor, tlp in ours}
            held = (day, list(numbered), list(numbered))
            row = await (await connection.execute(_IS_HELD.encode(), held)).fetchone()
            is_held = bool(row and row[0])
            for definition in _TOLD if is_held else ():
                await connection.execute(f"CREATE TEMPORARY TABLE {definition} ON COMMIT DROP".encode())
            yield Day(connection, tellers, is_held=is_held)
            await lock_writers(connection)
            if is_held:
                await _replace_day(connection, source, day, numbered)
            await note_applied(connection, note)

    async def drop_dump(self, instance: str, source: str, dump: str) -> None:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await _allow_time(connection)
            await prepare_cut(connection)
            await lock_writers(connection)
            numbered = [number for number, _, _ in await _ours(connection, instance, source, dump)]
            for kind in _LABELS:
                await connection.execute(
                    f"INSERT INTO graph_cut SELECT id, provenance FROM {table(kind)} WHERE provenance = ANY(%s)".encode(),
                    (numbered,),
                )
            await connection.execute(
                "INSERT INTO graph_cut SELECT fact, provenance FROM graph_fact_provenance WHERE provenance = ANY(%s)",
                (numbered,),
            )
            await settle_cut(connection, _LABELS)
            await connection.execute("INSERT INTO graph_dropped SELECT uid FROM graph_gone")
            await forget_records(connection, numbered)
            await connection.execute("DELETE FROM graph_content")

    async def dump_done(self, dump: str, *, note: Origin, attempts: str) -> None:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await _allow_time(connection)
            await lock_writers(connection)
            await connection.execute("CREATE TEMPORARY TABLE graph_gone (uid uuid) ON COMMIT DROP")
            await connection.execute("INSERT INTO graph_gone SELECT DISTINCT id FROM graph_dropped")
            await connection.execute("TRUNCATE graph_dropped")
            await forget_gone(connection)
            await forget_dump(connection, dump_id(dump))
            await forget_streams(connection, attempts)
            await note_applied(connection, note)

    async def forget_notes(self, streams: str) -> None:
        """See the port."""
        async with self._pool.connection() as connection:
            await forget_streams(connection, streams)


async def _replace_day(connection: Connection, source: str, day: int, numbered: Mapping[int, int]) -> None:
    """Put what is told in the place of what is held.

    Args:
        connection: With `graph_told` filled.
        source: Whose.
        day: Since 1970.
        numbered: Provenances of the source's records, and their tellers.
    """
    await prepare_cut(connection)
    await connection.execute("ANALYZE graph_told")
    await connection.execute(_DIFFER.encode(), {"day": day, "ours": list(numbered), "tellers": list(numbered.values())})
    await connection.execute("ANALYZE graph_differs")
    await connection.execute(_TOUCH.encode())
    for statement in _CUT_SIGHTINGS:
        await connection.execute(statement.encode())
    await settle_cut(connection, (EdgeKind.OF_ENTITY, VertexKind.SIGHTING))
    for statement in _CUT_ENTITIES:
        await connection.execute(statement.encode())
    await settle_cut(connection, (VertexKind.ENTITY,))
    await forget_gone(connection)
    await forget_day(connection, source, day)
    await connection.execute("DELETE FROM graph_content")


async def _ours(connection: Connection, instance: str, source: str, dump: str) -> list[tuple[int, str, int]]:
    """The provenances of some records: number, actor and marking."""
    cursor = await connection.execute(_OURS, (instance, source, dump, list(FACT_METHODS)))
    return [(int(number), str(actor), int(tlp)) for number, actor, tlp in await cursor.fetchall()]


async def _allow_time(connection: Connection) -> None:
    """Let statements take as long as the block may, and the block wait for what is read meanwhile."""
    await connection.execute("SET LOCAL search_path = heimdall, ag_catalog")
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(f"SET LOCAL {name} = {int(_TIME_S * 1000)}".encode())
