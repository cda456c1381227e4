"""What hangs on facts that deletions took out of the graph: it goes with them. What people decided stays."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from typing import Final

from heimdall_server.domain.graph import VERTEX_KINDS, VertexKind
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

_BY_ID: Final = ("graph_embedding", "graph_profile", "graph_hunted", "graph_match", "graph_event")
"""Tables whose rows say something about the vertex in their column `id`, and that no person wrote."""
_BY_DUMP: Final = ("graph_hunt", "graph_hunt_range", "graph_hunted", "graph_match", "graph_event")
"""Tables whose rows say something about the dump in their column `dump`."""
_BY_DAY: Final = ("graph_match", "graph_event")
"""Tables whose rows tell of an entity's sighting: `id`, `source`, `day`."""


async def forget_gone(connection: Connection) -> None:
    """Delete what hangs on the vertices of `graph_gone`, unless they are there again."""
    for kind in VERTEX_KINDS:
        await connection.execute(f"DELETE FROM graph_gone g USING {table(kind)} v WHERE v.uid = g.uid".encode())
    for name in _BY_ID:
        await connection.execute(f"DELETE FROM {name} a USING graph_gone g WHERE a.id = g.uid".encode())


async def forget_dump(connection: Connection, dump: bytes) -> None:
    """Delete what is known of a dump besides its facts, if it is there no more."""
    cursor = await connection.execute(
        f"SELECT EXISTS (SELECT FROM {table(VertexKind.DUMP)} WHERE uid = %s::uuid)".encode(), (dump.hex(),)
    )
    row = await cursor.fetchone()
    if row and not row[0]:
        for name in _BY_DUMP:
            await connection.execute(f"DELETE FROM {name} WHERE dump = %s::uuid".encode(), (dump.hex(),))


async def forget_day(connection: Connection, source: str, day: int) -> None:
    """Delete what tells of sightings in `graph_touched` that are among `graph_gone`, of a source's day."""
    for name in _BY_DAY:
        await connection.execute(
            f"DELETE FROM {name} a USING graph_touched h, graph_gone g, {table(VertexKind.ENTITY)} v "
            "WHERE g.uid = h.sighting AND v.id = h.entity AND a.id = v.uid AND a.source = %s AND a.day = %s".encode(),
            (source, day),
        )
