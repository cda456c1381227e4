"""Hunts in PostgreSQL: what dumps hold is taken from their queue step by step and compared with what logs said before.

A step has the lock of the graph's writers: an entity is noted as hunted for in the same transaction that looks for its sightings, so a batch
of logs is either there to be found or finds the note.
"""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_hunting import (
    EventKind,
    Found,
    Hunt,
    HuntState,
    HuntStep,
    HuntSums,
    LogSighting,
    Match,
    Wanted,
)
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.match_rows import (
    DUMP_TYPE,
    FOUND_IN_GRAPH,
    FOUND_IN_RECORDS,
    NUMBERED,
    keep_matches,
    look_up_by_index,
    value_of,
)
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.graph.transaction import lock_writers
from heimdall_server.storage.postgres.pool import PostgresPool

_STEP_S: Final = 30.0
_OPEN: Final = (HuntState.QUEUED.value, HuntState.GRAPH.value, HuntState.HISTORY.value)
_HUNT: Final = (
    "h.dump, h.name, h.tlp, h.state, h.entity_counts, h.match_counts, h.entity_count_max, h.match_count_max, h.record_count, "
    "h.since_ns, h.by_hand, h.actor, h.problem, h.create_time_ns, h.update_time_ns"
)
_RANGE: Final = "SELECT first_id, last_id FROM graph_hunt_range WHERE dump = %s ORDER BY first_id LIMIT 1"
_NOTE: Final = f"""
INSERT INTO graph_hunted AS w (id, dump, tlp)
SELECT t.uid, %(dump)s, min(s.tlp_min) FROM {table(VertexKind.SIGHTING)} s
    JOIN {table(EdgeKind.OF_ENTITY)} e ON e.start_id = s.id JOIN {table(VertexKind.ENTITY)} t ON t.id = e.end_id
WHERE s.id >= %(first)s::text::graphid AND s.id <= %(last)s::text::graphid AND s.type = {DUMP_TYPE} AND {value_of("s")} = %(name)s
    AND t.confidence >= %(confidence)s AND s.confidence >= %(confidence)s
GROUP BY t.uid
ON CONFLICT (id, dump) DO UPDATE SET tlp = least(w.tlp, excluded.tlp) WHERE %(all)s OR excluded.tlp < w.tlp
RETURNING w.id, w.tlp, xmax = 0
"""
_COUNT_ENTITIES: Final = (
    "UPDATE graph_hunt h SET entity_counts = ARRAY(SELECT n + m FROM unnest(h.entity_counts, %(counts)s::bigint[]) "
    "WITH ORDINALITY AS u (n, m, i) ORDER BY i), update_time_ns = %(now)s WHERE dump = %(dump)s "
    "RETURNING (SELECT sum(n) FROM unnest(h.entity_counts) n) >= h.entity_count_max"
)
_TELL: Final = f"""
WITH moved AS (
    UPDATE graph_hunt h SET state = %(state)s, problem = %(problem)s, update_time_ns = %(now)s,
        history_after = NULL,
        by_hand = h.by_hand AND %(state)s <> {HuntState.DONE.value},
        since_ns = CASE WHEN %(state)s <> {HuntState.DONE.value} THEN h.since_ns ELSE 0 END
    WHERE dump = %(dump)s AND (state <> %(state)s OR problem <> %(problem)s) AND (%(by_hand)s OR state <> {HuntState.CANCELLED.value})
        AND (%(state)s <> {HuntState.DONE.value} OR NOT EXISTS (SELECT FROM graph_hunt_range r WHERE r.dump = h.dump))
    RETURNING {_HUNT}
), head AS ({NUMBERED.format(source="moved")})
INSERT INTO graph_event (seq, kind, tlp, time_ns, dump, state, numbers)
SELECT head.last, {EventKind.HUNT.value}, m.tlp, %(now)s, m.dump, m.state, m.entity_counts || m.match_counts FROM moved m CROSS JOIN head
"""
_UNSEARCHED: Final = (
    f"SELECT w.id, y.term, {value_of('t')} FROM graph_hunted w JOIN {table(VertexKind.ENTITY)} t ON t.uid = w.id "
    "JOIN graph_term y ON y.term_id = t.type WHERE w.dump = %s AND (%s OR w.searched_from_ns > %s) AND (%s::uuid IS NULL OR w.id > %s::uuid) "
    "ORDER BY w.id LIMIT %s"
)
_START: Final = (
    "INSERT INTO graph_hunt AS h (dump, name, tlp, state, since_ns, by_hand, actor, entity_count_max, match_count_max, create_time_ns, "
    f"update_time_ns) VALUES (%(dump)s, %(name)s, %(tlp)s, {HuntState.QUEUED.value}, %(since)s, true, %(actor)s, %(entities)s, %(matches)s, "
    f"%(now)s, %(now)s) ON CONFLICT (dump) DO UPDATE SET state = excluded.state, since_ns = excluded.since_ns, by_hand = true, "
    "actor = excluded.actor, entity_count_max = excluded.entity_count_max, match_count_max = excluded.match_count_max, "
    "history_after = NULL, problem = '', update_time_ns = excluded.update_time_ns WHERE NOT (h.by_hand AND "
    f"h.state IN ({', '.join(map(str, _OPEN))}) AND (h.since_ns = excluded.since_ns OR h.since_ns BETWEEN 1 AND excluded.since_ns))"
)
_ALL_ROWS: Final = (
    "INSERT INTO graph_hunt_range SELECT %(dump)s, a.id::text::bigint, z.id::text::bigint FROM "
    f"(SELECT id FROM {table(VertexKind.SIGHTING)} ORDER BY id LIMIT 1) a, "
    f"(SELECT id FROM {table(VertexKind.SIGHTING)} ORDER BY id DESC LIMIT 1) z"
)
_ALL_ROWS_AGAIN: Final = (
    "INSERT INTO graph_hunt_range SELECT h.dump, a.id::text::bigint, z.id::text::bigint FROM graph_hunt h, "
    f"(SELECT id FROM {table(VertexKind.SIGHTING)} ORDER BY id LIMIT 1) a, "
    f"(SELECT id FROM {table(VertexKind.SIGHTING)} ORDER BY id DESC LIMIT 1) z "
    f"WHERE h.state IN ({HuntState.QUEUED.value}, {HuntState.GRAPH.value})"
)
_MATCH: Final = (
    f"SELECT m.match_id, m.id, coalesce(y.term, ''), coalesce({value_of('t')}, ''), m.dump, coalesce(h.name, ''), m.source, m.day, m.found, m.tlp, "
    "m.count, m.first_ns, m.last_ns, m.time_ns FROM graph_match m LEFT JOIN graph_hunt h ON h.dump = m.dump "
    f"LEFT JOIN {table(VertexKind.ENTITY)} t ON t.uid = m.id LEFT JOIN graph_term y ON y.term_id = t.type WHERE m.tlp <= %s"
)


class PostgresHuntStore:
    """Implements `ports.graph_hunting.HuntStore`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def next_hunt(self) -> Hunt | None:
        """See the port."""
        rows = await self._rows(
            f"SELECT {_HUNT} FROM graph_hunt h WHERE h.state = ANY(%s) ORDER BY h.update_time_ns, h.dump LIMIT 1",
            (list(_OPEN),),
        )
        return _hunt(rows[0], Tlp.RED) if rows else None

    async def look_in_graph(self, dump: bytes, *, rows_max: int, confidence_min: int, time_ns: int) -> HuntStep:
        """See the port."""
        async with self._pool.connection(timeout_s=_STEP_S) as connection:
            await _begin(connection)
            asked = await (
                await connection.execute("SELECT name, by_hand FROM graph_hunt WHERE dump = %s", (dump.hex(),))
            ).fetchone()
            found = await (await connection.execute(_RANGE, (dump.hex(),))).fetchone()
            if asked is None or found is None:
                return HuntStep(0, 0, is_last=True)
            first, last = int(found[0]), min(int(found[1]), int(found[0]) + rows_max - 1)
            place = {"dump": dump.hex(), "name": asked[0], "all": asked[1], "first": first, "last": last}
            cursor = await connection.execute(_NOTE.encode(), {**place, "confidence": confidence_min}, prepare=False)
            noted = await cursor.fetchall()
            matches = 0
            if noted:
                values = {"entities": [row[0].hex for row in noted], "dump": dump.hex()}
                matches = await keep_matches(connection, FOUND_IN_GRAPH, values, found=Found.GRAPH, time_ns=time_ns)
            new = [tlp for _, tlp, is_new in noted if is_new]
            counts = {"counts": [new.count(tlp.value) for tlp in Tlp], "now": time_ns, "dump": dump.hex()}
            is_full = await (await connection.execute(_COUNT_ENTITIES, counts)).fetchone()
            if is_full is not None and is_full[0]:
                await connection.execute("DELETE FROM graph_hunt_range WHERE dump = %s", (dump.hex(),))
                return HuntStep(len(new), matches, is_last=True)
            await _pass_over(connection, dump, first, last, int(found[1]))
            left = await (await connection.execute(_RANGE, (dump.hex(),))).fetchone()
            return HuntStep(len(new), matches, is_last=left is None)

    async def unsearched(self, dump: bytes, *, since_ns: int, count_max: int) -> Sequence[Wanted]:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")
            row = await (
                await connection.execute("SELECT history_after, by_hand FROM graph_hunt WHERE dump = %s", (dump.hex(),))
            ).fetchone()
            after, by_hand = (None, False) if row is None else (row[0] and row[0].hex, row[1])
            cursor = await connection.execute(
                _UNSEARCHED.encode(), (dump.hex(), by_hand, since_ns, after, after, count_max)
            )
            return [Wanted(id_.bytes, type_, value) for id_, type_, value in await cursor.fetchall()]

    async def keep_searched(
        self,
        dump: bytes,
        wanted: Sequence[Wanted],
        sightings: Sequence[LogSighting],
        *,
        since_ns: int,
        record_count: int,
        time_ns: int,
    ) -> HuntStep:
        """See the port."""
        async with self._pool.connection(timeout_s=_STEP_S) as connection:
            await _begin(connection)
            matches = 0
            if sightings:
                columns = {
                    "dump": dump.hex(),
                    "ids": [one.id.hex() for one in sightings],
                    "sources": [one.source for one in sightings],
                    "days": [one.day for one in sightings],
                    "tlps": [one.tlp.value for one in sightings],
                    "counts": [one.count for one in sightings],
                    "firsts": [one.first_ns for one in sightings],
                    "lasts": [one.last_ns for one in sightings],
                }
                matches = await keep_matches(
                    connection, FOUND_IN_RECORDS, columns, found=Found.HISTORY, time_ns=time_ns
                )
            ids = [one.id.hex() for one in wanted]
            await connection.execute(
                "UPDATE graph_hunted SET searched_from_ns = %s WHERE dump = %s AND id = ANY(%s::uuid[]) AND searched_from_ns > %s",
                (since_ns, dump.hex(), ids, since_ns),
            )
            await connection.execute(
                "UPDATE graph_hunt SET history_after = %s, record_count = record_count + %s, update_time_ns = %s WHERE dump = %s",
                (max(ids), record_count, time_ns, dump.hex()),
            )
            return HuntStep(len(ids), matches, is_last=False)

    async def move(self, dump: bytes, state: HuntState, *, time_ns: int, problem: str = "") -> None:
        """See the port."""
        async with self._pool.connection() as connection:
            await _begin(connection)
            await _move(connection, dump, state, time_ns=time_ns, problem=problem)

    async def start(
        self, dump: bytes, name: str, *, tlp: Tlp, since_ns: int, actor: str, time_ns: int, limits: tuple[int, int]
    ) -> bool:
        """See the port."""
        entities, matches = limits
        values = {"dump": dump.hex(), "name": name, "tlp": tlp.value, "since": since_ns, "actor": actor, "now": time_ns}
        async with self._pool.connection(timeout_s=_STEP_S) as connection:
            await _begin(connection)
            cursor = await connection.execute(_START.encode(), {**values, "entities": entities, "matches": matches})
            if not cursor.rowcount:
                return False
            await connection.execute("DELETE FROM graph_hunt_range WHERE dump = %s", (dump.hex(),))
            await connection.execute(_ALL_ROWS.encode(), {"dump": dump.hex()})
            return True

    async def cancel(self, dump: bytes, *, time_ns: int) -> bool:
        """See the port."""
        async with self._pool.connection() as connection:
            await _begin(connection)
            row = await (
                await connection.execute("SELECT state FROM graph_hunt WHERE dump = %s", (dump.hex(),))
            ).fetchone()
            if row is None or row[0] == HuntState.CANCELLED.value:
                return False
            await connection.execute("DELETE FROM graph_hunt_range WHERE dump = %s", (dump.hex(),))
            await _move(connection, dump, HuntState.CANCELLED, time_ns=time_ns, by_hand=True)
            return True

    async def hunts(
        self, *, tlp_max: Tlp, dump: bytes = b"", after: tuple[int, bytes] = (0, b""), count_max: int = 100
    ) -> Sequence[Hunt]:
        """See the port."""
        conditions, values = ["h.tlp <= %s"], [tlp_max.value]
        further: list[object] = []
        if dump:
            conditions.append("h.dump = %s")
            further.append(dump.hex())
        if after[1]:
            conditions.append("(h.create_time_ns, h.dump) < (%s, %s::uuid)")
            further += [after[0], after[1].hex()]
        statement = f"SELECT {_HUNT} FROM graph_hunt h WHERE {' AND '.join(conditions)} ORDER BY h.create_time_ns DESC, h.dump DESC LIMIT %s"
        return [_hunt(row, tlp_max) for row in await self._rows(statement, (*values, *further, count_max))]

    async def matches(
        self,
        *,
        tlp_max: Tlp,
        entities: Collection[bytes] = (),
        dump: bytes = b"",
        before: int = 0,
        count_max: int = 100,
    ) -> Sequence[Match]:
        """See the port."""
        statement, values = _MATCH, [tlp_max.value]
        further: list[object] = []
        if entities:
            statement += " AND m.id = ANY(%s::uuid[])"
            further.append([one.hex() for one in entities])
        if dump:
            statement += " AND m.dump = %s"
            further.append(dump.hex())
        if before:
            statement += " AND m.match_id < %s"
            further.append(before)
        rows = await self._rows(f"{statement} ORDER BY m.match_id DESC LIMIT %s", (*values, *further, count_max))
        return [_match(row) for row in rows]

    async def sums(self) -> HuntSums:
        """See the port."""
        rows = await self._rows(
            "SELECT count(*) FILTER (WHERE state = ANY(%s)), count(*) FILTER (WHERE state <> ALL(%s)), "
            "coalesce(sum((SELECT sum(n) FROM unnest(match_counts) n)), 0)::bigint, "
            "coalesce(min(update_time_ns) FILTER (WHERE state = ANY(%s)), 0) FROM graph_hunt",
            (list(_OPEN), list(_OPEN), list(_OPEN)),
        )
        return HuntSums(*rows[0])

    async def _rows(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")
            return await (await connection.execute(statement.encode(), values)).fetchall()


async def look_again(connection: Connection) -> None:
    """Let hunts that aren't through with the graph look through all of it: its rows have other numbers since it was made again."""
    await _begin(connection)
    await connection.execute("DELETE FROM graph_hunt_range")
    await connection.execute(_ALL_ROWS_AGAIN.encode())


async def _begin(connection: Connection) -> None:
    """Be a writer of the graph; settings as a batch has them."""
    await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")
    await look_up_by_index(connection)
    await lock_writers(connection)


async def _pass_over(connection: Connection, dump: bytes, first: int, last: int, end: int) -> None:
    if last >= end:
        await connection.execute("DELETE FROM graph_hunt_range WHERE dump = %s AND first_id = %s", (dump.hex(), first))
        return
    await connection.execute(
        "UPDATE graph_hunt_range SET first_id = %s WHERE dump = %s AND first_id = %s", (last + 1, dump.hex(), first)
    )


async def _move(
    connection: Connection, dump: bytes, state: HuntState, *, time_ns: int, problem: str = "", by_hand: bool = False
) -> None:
    values = {"dump": dump.hex(), "state": state.value, "now": time_ns, "problem": problem, "by_hand": by_hand}
    await connection.execute(_TELL.encode(), values)


def _hunt(row: Sequence[Any], tlp_max: Tlp) -> Hunt:
    dump, name, tlp, state, entities, matches, entity_max, match_max, records, since_ns, by_hand, *further = row
    actor, problem, create_time_ns, update_time_ns = further
    return Hunt(
        dump=dump.bytes,
        name=name,
        tlp=Tlp(tlp),
        state=HuntState(state),
        entity_count=sum(entities[: tlp_max.value + 1]),
        match_count=sum(matches[: tlp_max.value + 1]),
        truncated=sum(entities) >= entity_max or sum(matches) >= match_max,
        record_count=records,
        since_ns=since_ns,
        by_hand=by_hand,
        actor=actor,
        problem=problem,
        create_time_ns=create_time_ns,
        update_time_ns=update_time_ns,
    )


def _match(row: Sequence[Any]) -> Match:
    match_id, id_, type_, value, dump, name, source, day, found, tlp, *sums = row
    return Match(match_id, id_.bytes, type_, value, dump.bytes, name, source, day, Found(found), Tlp(tlp), *sums)
