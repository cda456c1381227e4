"""The events that watches are told, read from where they were written: in the order of their numbers, which is that of their commits."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_hunting import (
    Event,
    EventFilter,
    EventHead,
    EventKind,
    EventPage,
    Found,
    Hunt,
    HuntState,
    Match,
    SightingEvent,
)
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.match_rows import value_of
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_ENSURE_HEAD: Final = "INSERT INTO graph_event_head DEFAULT VALUES ON CONFLICT DO NOTHING"
_HEAD: Final = "SELECT log_id, last, gone, create_time_ns FROM graph_event_head"
_EVENT: Final = (
    f"SELECT e.seq, e.kind, e.tlp, e.time_ns, e.id, e.type, {value_of('t')}, e.dump, h.name, e.source, e.day, e.found, e.count, e.first_ns, "
    "e.last_ns, e.state, e.numbers FROM graph_event e LEFT JOIN graph_hunt h ON h.dump = e.dump "
    f"LEFT JOIN {table(VertexKind.ENTITY)} t ON t.uid = e.id WHERE e.seq > %(after)s AND e.seq <= %(through)s AND e.tlp <= %(tlp)s "
    "AND e.kind = ANY(%(kinds)s)"
)
_HAS_LABEL: Final = "EXISTS (SELECT FROM graph_label l WHERE l.id = e.id AND l.tlp <= %(tlp)s{further})"
_DELETED_AT_ONCE: Final = 50_000


class PostgresEventLog:
    """Implements `ports.graph_hunting.EventLog`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def head(self) -> EventHead:
        """See the port."""
        async with self._pool.connection() as connection:
            return await _head(connection)

    async def read(self, after: int, filter_: EventFilter, *, count_max: int, scan_max: int) -> EventPage:
        """See the port."""
        async with self._pool.connection() as connection:
            # One snapshot: what is let go meanwhile is either there or known to be gone.
            await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")
            head = await _head(connection, ensure=False)
            if after < head.gone:
                raise TokenError("events behind it were let go; list the matches, and watch anew")
            through = min(head.last, after + scan_max)
            statement, values = _filtered(filter_)
            values |= {"after": after, "through": through, "count": count_max + 1}
            cursor = await connection.execute(f"{statement} ORDER BY e.seq LIMIT %(count)s".encode(), values)
            rows = await cursor.fetchall()
        if len(rows) > count_max:
            rows = rows[:count_max]
            through = int(rows[-1][0])
        return EventPage([_event(row, filter_.tlp_max) for row in rows], through)

    async def watch_entities(self, ids: Collection[bytes], *, until_ns: int) -> None:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "INSERT INTO graph_watched AS w SELECT unnest(%s::uuid[]), %s ON CONFLICT (id) DO UPDATE "
                "SET until_ns = excluded.until_ns WHERE w.until_ns < excluded.until_ns",
                (sorted(one.hex() for one in ids), until_ns),
            )

    async def let_go(self, *, keep_count: int, time_ns: int) -> None:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM graph_watched WHERE until_ns < %s", (time_ns,))
            head = await _head(connection)
            gone = min(head.last - keep_count, head.gone + _DELETED_AT_ONCE)
            if gone > head.gone:
                await connection.execute("DELETE FROM graph_event WHERE seq <= %s", (gone,))
                await connection.execute("UPDATE graph_event_head SET gone = %s WHERE gone < %s", (gone, gone))


async def _head(connection: Connection, *, ensure: bool = True) -> EventHead:
    row = await (await connection.execute(_HEAD)).fetchone()
    if row is None and ensure:
        await connection.execute(_ENSURE_HEAD)
        row = await (await connection.execute(_HEAD)).fetchone()
    return EventHead(b"", 0, 0, 0) if row is None else EventHead(row[0].bytes, *map(int, row[1:]))


def _filtered(filter_: EventFilter) -> tuple[str, dict[str, Any]]:
    """The statement and its values. Who isn't told of a label, nor named an entity, doesn't hear that somebody watches it."""
    values: dict[str, Any] = {"tlp": filter_.tlp_max.value, "kinds": [kind.value for kind in filter_.kinds]}
    values["entities"] = [one.hex() for one in filter_.entities]
    watched = f"(e.id = ANY(%(entities)s::uuid[]) OR {_HAS_LABEL.format(further='')})"
    statement = f"{_EVENT} AND (e.kind <> {EventKind.SIGHTING.value} OR {watched})"
    if filter_.entities:
        statement += " AND e.id = ANY(%(entities)s::uuid[])"
    if filter_.dumps:
        statement += " AND e.dump = ANY(%(dumps)s::uuid[])"
        values["dumps"] = [one.hex() for one in filter_.dumps]
    if filter_.types:
        statement += " AND e.type = ANY(%(types)s)"
        values["types"] = sorted(filter_.types)
    if filter_.labels:
        statement += f" AND {_HAS_LABEL.format(further=' AND l.label = ANY(%(labels)s)')}"
        values["labels"] = sorted(filter_.labels)
    return statement, values


def _event(row: Sequence[Any], tlp_max: Tlp) -> Event:
    (
        seq,
        kind,
        tlp,
        time_ns,
        id_,
        type_,
        value,
        dump,
        name,
        source,
        day,
        found,
        count,
        first_ns,
        last_ns,
        state,
        numbers,
    ) = row
    match EventKind(kind):
        case EventKind.MATCH:
            what: Match | SightingEvent | Hunt = Match(
                0,
                id_.bytes,
                type_,
                value or "",
                dump.bytes,
                name or "",
                source,
                day,
                Found(found),
                Tlp(tlp),
                count,
                first_ns,
                last_ns,
                time_ns,
            )
        case EventKind.SIGHTING:
            in_dump = dump is not None
            what = SightingEvent(
                id_.bytes, type_, value or "", source, in_dump, day, Tlp(tlp), count, first_ns, last_ns, time_ns
            )
        case EventKind.HUNT:
            seen = tlp_max.value + 1
            what = Hunt(
                dump=dump.bytes,
                name=name or "",
                tlp=Tlp(tlp),
                state=HuntState(state),
                entity_count=sum(numbers[:5][:seen]),
                match_count=sum(numbers[5:][:seen]),
                truncated=False,
                update_time_ns=time_ns,
            )
    return Event(seq, what)
