"""Facts that PostgreSQL refused: noted in the batch's own transaction, without their values, and listed."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS
from heimdall_server.domain.graph_batches import CheckedBatch, Origin, RefusedFact
from heimdall_server.domain.graph_making import REFUSED_COUNT_MAX, RefusedRow
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_COLUMNS: Final = "time_ns, stream, first_position, last_position, kind, id, end_id, source, dump, reason"
_ADD: Final = (
    f"INSERT INTO graph_refused ({_COLUMNS}) VALUES ((extract(epoch FROM clock_timestamp()) * 1000000000)::bigint, "
    "%s, %s, %s, %s, %s::uuid, %s::uuid, %s, %s, %s)"
)
_LET_GO: Final = "DELETE FROM graph_refused WHERE ordinal <= (SELECT ordinal FROM graph_refused ORDER BY ordinal DESC OFFSET %s LIMIT 1)"
_LIST: Final = f"SELECT {_COLUMNS} FROM graph_refused ORDER BY ordinal DESC LIMIT %s"


async def note_refused(connection: Connection, checked: CheckedBatch) -> None:
    """Note what of a batch isn't kept, within its transaction: the last `REFUSED_COUNT_MAX` of them."""
    if not checked.refused:
        return
    rows = [_row(checked, one) for one in checked.refused[-REFUSED_COUNT_MAX:]]
    async with connection.cursor() as cursor:
        await cursor.executemany(_ADD, rows)
    await connection.execute(_LET_GO, (REFUSED_COUNT_MAX,))


class PostgresRefusedFacts:
    """Implements `ports.graph_making.RefusedFacts`."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def list(self, *, count_max: int = 100) -> Sequence[RefusedRow]:
        """See the port."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_LIST, (count_max,))).fetchall()
        return [_refused(row) for row in rows]


def _row(checked: CheckedBatch, refused: RefusedFact) -> tuple[object, ...]:
    batch, row = checked.batch, refused.row
    facts = batch.vertices if refused.is_vertex else batch.edges
    kinds: Sequence[str] = VERTEX_KINDS if refused.is_vertex else EDGE_KINDS
    kind, code = int(facts.column("kind")[row].as_py()), int(facts.column("provenance")[row].as_py())
    told = batch.provenances[code] if code < len(batch.provenances) else None
    start = facts.column("id" if refused.is_vertex else "start")[row].as_py()
    end = None if refused.is_vertex else facts.column("end")[row].as_py().hex()
    origin = batch.origin
    return (
        *(origin.stream, origin.first, origin.last),
        str(kinds[kind]) if kind < len(kinds) else "unknown",
        start.hex(),
        end,
        told.source if told else "",
        told.dump if told else "",
        refused.reason,
    )


def _refused(row: tuple[Any, ...]) -> RefusedRow:
    time_ns, stream, first, last, kind, id_, end_id, source, dump, reason = row
    end = end_id.bytes if end_id is not None else b""
    return RefusedRow(int(time_ns), Origin(stream, int(first), int(last)), kind, id_.bytes, end, source, dump, reason)
