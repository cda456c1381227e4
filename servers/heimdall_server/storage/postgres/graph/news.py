"""What a batch brought that somebody waits for, noted in the batch's own transaction.

Entities of dumps, to be hunted for; and sightings of entities that are hunted for, that have a label or that somebody watches.

Only sightings that are new are looked at. Their rows lie side by side, so a dump's part of the queue is one row a batch; and which of the entities
anybody waits for is one statement over their distinct ids. Mostly nobody does, and that is all.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.graph import EDGE_KINDS, EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_batches import CheckedBatch, numbers
from heimdall_server.domain.graph_hunting import EventKind, Found, HuntState
from heimdall_server.domain.graph_ids import dump_id, octets
from heimdall_server.storage.postgres.binary_copy import Column
from heimdall_server.storage.postgres.graph.facts import Longs, Mask
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.match_rows import (
    DUMP_TYPE,
    FOUND_IN_BATCH,
    NUMBERED,
    SEEN,
    keep_matches,
    look_up_by_index,
    make_durable,
    seen_below,
    value_of,
)
from heimdall_server.storage.postgres.graph.rows import array
from heimdall_server.storage.postgres.graph.staging import Connection, copy_in
from heimdall_server.storage.postgres.graph.vertices import Kept, VertexGroup

_DUMP: Final = "dump"
_LOG: Final = "log"
_KEYS: Final = "CREATE TEMPORARY TABLE IF NOT EXISTS graph_news_key (is_log smallint, id uuid) ON COMMIT DELETE ROWS"
# Three lookups, not one condition of three: that would be answered by reading the tables.
_AWAITED: Final = (
    "SELECT w.id FROM graph_news_key k JOIN graph_hunted w ON w.id = k.id WHERE k.is_log = 1 "
    "UNION SELECT w.id FROM graph_news_key k JOIN graph_watched w ON w.id = k.id "
    "UNION SELECT w.id FROM graph_news_key k JOIN graph_label w ON w.id = k.id"
)
_QUEUE: Final = (
    "INSERT INTO graph_hunt AS h (dump, name, tlp, state, entity_count_max, match_count_max, create_time_ns, update_time_ns) "
    f"VALUES (%(dump)s, %(name)s, %(tlp)s, {HuntState.QUEUED.value}, %(entities)s, %(matches)s, %(now)s, %(now)s) "
    "ON CONFLICT (dump) DO UPDATE SET tlp = least(h.tlp, excluded.tlp), entity_count_max = excluded.entity_count_max, "
    "match_count_max = excluded.match_count_max, "
    f"state = CASE WHEN h.state = {HuntState.CANCELLED.value} THEN h.state ELSE excluded.state END RETURNING h.state"
)
# Where only one dump comes in, its rows go on where the last batch's ended.
_GROW: Final = "UPDATE graph_hunt_range SET last_id = %(last)s WHERE dump = %(dump)s AND last_id = %(first)s - 1"
_ADD_RANGE: Final = (
    "INSERT INTO graph_hunt_range VALUES (%(dump)s, %(first)s, %(last)s) ON CONFLICT (dump, first_id) DO UPDATE "
    "SET last_id = greatest(graph_hunt_range.last_id, excluded.last_id)"
)
_TELL: Final = f"""
WITH seen AS (
    SELECT f.entity, s.id, {value_of("s")} AS source, s.day, s.tlp_min, s.type = {DUMP_TYPE} AS in_dump, {SEEN} FROM
        unnest(%(rows)s::graphid[], %(entities)s::uuid[]) AS f (sighting, entity)
        JOIN {table(VertexKind.SIGHTING)} s ON s.id = f.sighting {seen_below("s.tlp_min")}
    WHERE EXISTS (SELECT FROM graph_watched w WHERE w.id = f.entity) OR EXISTS (SELECT FROM graph_label l WHERE l.id = f.entity)
), told (entity, id, source, day, tlp, in_dump, count, first_ns, last_ns) AS (SELECT * FROM seen),
head AS ({NUMBERED.format(source="told")})
INSERT INTO graph_event (seq, kind, tlp, time_ns, id, type, dump, source, day, count, first_ns, last_ns)
SELECT head.last - count(*) OVER () + row_number() OVER (ORDER BY k.id), {EventKind.SIGHTING.value}, k.tlp, %(now)s, k.entity,
    coalesce(y.term, ''), d.uid, k.source, k.day, k.count, k.first_ns, k.last_ns
FROM told k CROSS JOIN head LEFT JOIN {table(VertexKind.ENTITY)} t ON t.uid = k.entity LEFT JOIN graph_term y ON y.term_id = t.type
LEFT JOIN unnest(%(names)s::text[], %(dumps)s::uuid[]) AS d (name, uid) ON k.in_dump AND d.name = k.source
"""


@dataclass(frozen=True, slots=True)
class HuntBounds:
    """How much of one dump is hunted for."""

    entity_count_max: int
    match_count_max: int


class News:
    """See the module."""

    def __init__(self, now_ns: Callable[[], int], bounds: HuntBounds | None) -> None:
        """Keep nothing yet.

        Args:
            now_ns: The time, nanoseconds since 1970.
            bounds: Of hunts; None: what dumps bring isn't queued.
        """
        self._now_ns = now_ns
        self._bounds = bounds

    async def note(
        self, connection: Connection, checked: CheckedBatch, vertices: Sequence[tuple[VertexGroup, Kept]]
    ) -> None:
        """Note it.

        Args:
            connection: In the transaction of the batch, whose facts were kept.
            checked: The batch.
            vertices: Its vertices, kept.
        """
        found = next((pair for pair in vertices if pair[0].kind is VertexKind.SIGHTING), None)
        if found is None or not len(found[1].new):
            return
        group, kept = found
        is_new = kept.is_new
        if self._bounds is not None:
            await self._queue(connection, checked, group, np.flatnonzero(is_new), self._bounds)
        await self._compare(connection, checked, group, is_new)

    async def _queue(
        self, connection: Connection, checked: CheckedBatch, group: VertexGroup, new: Longs, bounds: HuntBounds
    ) -> None:
        batch = checked.batch
        told = batch.vertices.select(["type", "value"]).take(pa.array(group.first_rows[new]))
        in_dump = np.asarray(pc.equal(told.column("type"), _DUMP).to_numpy(zero_copy_only=False), bool)
        if not in_dump.any():
            return
        graph_ids = group.facts.id[new[in_dump]]
        place = {"first": int(graph_ids.min()), "last": int(graph_ids.max())}
        names = set(told.column("value").filter(pa.array(in_dump)).unique().to_pylist())
        for name in sorted(names):
            tlp = min((one.tlp for one in batch.provenances if one.dump == name), default=Tlp.RED)
            dump = dump_id(name).hex()
            values = {"dump": dump, "name": name, "tlp": tlp.value, "now": self._now_ns()}
            limits = {"entities": bounds.entity_count_max, "matches": bounds.match_count_max}
            row = await (await connection.execute(_QUEUE.encode(), {**values, **limits})).fetchone()
            if row is not None and row[0] != HuntState.CANCELLED.value:
                where = {"dump": dump, **place}
                if not (await connection.execute(_GROW, where)).rowcount:
                    await connection.execute(_ADD_RANGE, where)

    async def _compare(self, connection: Connection, checked: CheckedBatch, group: VertexGroup, is_new: Mask) -> None:
        sightings, entities, is_log = _new_pairs(checked, group, is_new)
        if not len(sightings):
            return
        awaited = await _awaited(connection, entities, is_log)
        if not awaited:
            return
        taken = pc.is_in(entities, value_set=pa.array(awaited, entities.type))
        dumps = {one.dump: dump_id(one.dump).hex() for one in checked.batch.provenances if one.dump}
        pairs = {
            "rows": array(sightings[taken.to_numpy(zero_copy_only=False)].tolist()),
            "entities": _texts(entities.filter(taken)),
        }
        now_ns = self._now_ns()
        await keep_matches(connection, FOUND_IN_BATCH, pairs, found=Found.LOG, time_ns=now_ns)
        names = {"names": list(dumps), "dumps": list(dumps.values())}
        told = await connection.execute(_TELL.encode(), {**pairs, **names, "now": now_ns}, prepare=False)
        if told.rowcount:
            await make_durable(connection)


def _new_pairs(checked: CheckedBatch, group: VertexGroup, is_new: Mask) -> tuple[Longs, pa.FixedSizeBinaryArray, Mask]:
    """New sightings, as ids of rows, the entities that they are of, and whether they are of logs."""
    vertices, edges = checked.batch.vertices, checked.batch.edges
    graph_ids = np.zeros(vertices.num_rows, np.int64)
    graph_ids[group.rows] = np.where(is_new, group.facts.id, 0)[group.facts_of_rows]
    is_edge = checked.edge_ok & (numbers(edges, "kind") == EDGE_KINDS.index(EdgeKind.OF_ENTITY))
    starts, ends = checked.start_rows[is_edge], checked.end_rows[is_edge]
    fresh = graph_ids[starts] != 0
    # A sighting has an edge for each provenance.
    sightings, first = np.unique(graph_ids[starts[fresh]], return_index=True)
    types = vertices.column("type").take(pa.array(starts[fresh][first]))
    is_log = np.asarray(pc.equal(types, _LOG).to_numpy(zero_copy_only=False), bool)
    return sightings, vertices.column("id").take(pa.array(ends[fresh][first])), is_log


async def _awaited(connection: Connection, entities: pa.FixedSizeBinaryArray, is_log: Mask) -> list[bytes]:
    """Those of some entities that somebody waits for. In the order of ids, so that neighbours are found on one page of an index."""
    halves = np.ascontiguousarray(octets(entities)).view(">u8")
    order = np.lexsort((~is_log, halves[:, 1], halves[:, 0]))
    halves, is_log = halves[order], is_log[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (halves[1:] != halves[:-1]).any(axis=1)
    await connection.execute(_KEYS)
    await look_up_by_index(connection)
    columns: list[Column] = [is_log[is_first].astype(np.int16), halves[is_first].view(np.uint8)]
    await copy_in(connection, "graph_news_key (is_log, id)", columns)
    cursor = await connection.execute(_AWAITED.encode(), prepare=False)
    return [row[0].bytes for row in await cursor.fetchall()]


def _texts(ids: pa.FixedSizeBinaryArray) -> list[str]:
    text = octets(ids).tobytes().hex()
    return [text[start : start + 32] for start in range(0, len(text), 32)]
