"""Rebuilds of the graph: begun together with the dropping of what is made again, so that a crash leaves both or neither."""
# ruff: noqa: S608 - statements are made of names of ours

from __future__ import annotations

from typing import Any, Final

from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.storage.postgres.graph.hunts import look_again
from heimdall_server.storage.postgres.graph.writer import forget_observed
from heimdall_server.storage.postgres.pool import PostgresPool

_FORGET_S: Final = 120.0
_KEPT: Final = 20
_COLUMNS: Final = "rebuild_id, actor, reason, through, create_time_ns, end_time_ns, notice"
_BEGIN: Final = f"INSERT INTO graph_rebuild ({_COLUMNS}) VALUES (%s::uuid, %s, %s, %s, %s, %s, %s)"
_LET_GO: Final = "DELETE FROM graph_rebuild WHERE ordinal <= (SELECT ordinal FROM graph_rebuild ORDER BY ordinal DESC OFFSET %s LIMIT 1)"
_SELECT: Final = f"SELECT {_COLUMNS} FROM graph_rebuild"


class PostgresGraphRebuilds:
    """Implements `ports.graph_making.GraphRebuilds`."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def begin(self, rebuild: Rebuild) -> None:
        """See the port."""
        values = (rebuild.rebuild_id, rebuild.actor, rebuild.reason, rebuild.through, rebuild.create_time_ns)
        async with self._pool.connection(timeout_s=_FORGET_S) as connection:
            await forget_observed(connection)
            await connection.execute("TRUNCATE graph_dropped")
            await connection.execute(_BEGIN, (*values, rebuild.end_time_ns, rebuild.notice))
            await connection.execute(_LET_GO, (_KEPT,))

    async def current(self) -> Rebuild | None:
        """See the port."""
        return await self._one(f"{_SELECT} WHERE end_time_ns = 0 ORDER BY ordinal DESC LIMIT 1")

    async def get(self, rebuild_id: str) -> Rebuild | None:
        """See the port."""
        return await self._one(f"{_SELECT} WHERE rebuild_id = %s::uuid", rebuild_id)

    async def last(self) -> Rebuild | None:
        """See the port."""
        return await self._one(f"{_SELECT} ORDER BY ordinal DESC LIMIT 1")

    async def end(self, rebuild_id: str, *, time_ns: int, notice: str) -> None:
        """See the port. Ends those before it, too, which it took the place of."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE graph_rebuild SET end_time_ns = %s, notice = %s WHERE end_time_ns = 0 AND ordinal <= "
                "(SELECT ordinal FROM graph_rebuild WHERE rebuild_id = %s::uuid)",
                (time_ns, notice, rebuild_id),
            )
            await look_again(connection)

    async def _one(self, statement: str, *parameters: object) -> Rebuild | None:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(statement.encode(), parameters)).fetchone()
        return None if row is None else _rebuild(row)


def _rebuild(row: tuple[Any, ...]) -> Rebuild:
    rebuild_id, actor, reason, through, create_time_ns, end_time_ns, notice = row
    return Rebuild(rebuild_id.hex, actor, reason, int(through), int(create_time_ns), int(end_time_ns), notice)
