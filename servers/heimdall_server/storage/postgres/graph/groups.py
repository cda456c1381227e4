"""Merged vertices, as a walk needs them: which one stands for a vertex, and who are its parts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from heimdall_server.storage.postgres.graph.staging import Connection

# Merges form trees; a few steps lead to the root, and from the roots to all that hangs on them.
_ROOTS = (
    "WITH RECURSIVE up (id, root, steps) AS ("
    "SELECT m.id, m.into_id, 1 FROM graph_merge m WHERE m.id = ANY(%s::uuid[]) "
    "UNION ALL SELECT u.id, m.into_id, u.steps + 1 FROM up u JOIN graph_merge m ON m.id = u.root WHERE u.steps < 32) "
    "SELECT DISTINCT ON (id) id, root FROM up ORDER BY id, steps DESC"
)
_PARTS = (
    "WITH RECURSIVE down (id, root, steps) AS ("
    "SELECT m.id, m.into_id, 1 FROM graph_merge m WHERE m.into_id = ANY(%s::uuid[]) "
    "UNION ALL SELECT m.id, d.root, d.steps + 1 FROM down d JOIN graph_merge m ON m.into_id = d.id WHERE d.steps < 32) "
    "SELECT id, root FROM down"
)


_UP = (
    "WITH RECURSIVE up (id, steps) AS ("
    "SELECT %s::uuid, 0 UNION ALL SELECT m.into_id, u.steps + 1 FROM up u JOIN graph_merge m ON m.id = u.id WHERE u.steps < 32) "
    "SELECT id, steps FROM up ORDER BY steps DESC LIMIT 1"
)
_DOWN = (
    "WITH RECURSIVE down (id, steps) AS ("
    "SELECT %s::uuid, 0 UNION ALL SELECT m.id, d.steps + 1 FROM down d JOIN graph_merge m ON m.into_id = d.id WHERE d.steps < 32) "
    "SELECT count(*), max(steps) FROM down"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a vertex stands among those that it is merged with."""

    root: bytes
    depth: int
    """Steps up to the root."""
    height: int
    """Steps down to what is deepest below it."""
    size: int
    """It and all below it."""


async def place_of(connection: Connection, id_: bytes) -> Place:
    """Where a vertex stands."""
    root, depth = await (await connection.execute(_UP, (id_.hex(),))).fetchone() or (UUID(bytes=id_), 0)
    size, height = await (await connection.execute(_DOWN, (id_.hex(),))).fetchone() or (1, 0)
    return Place(root.bytes, depth, height, size)


async def roots_of(connection: Connection, ids: Collection[bytes]) -> dict[bytes, bytes]:
    """The vertex that each stands for: itself where it isn't merged."""
    roots = {one: one for one in ids}
    cursor = await connection.execute(_ROOTS, ([one.hex() for one in ids],))
    for id_, root in await cursor.fetchall():
        roots[id_.bytes] = root.bytes
    return roots


async def parts_of(connection: Connection, roots: Collection[bytes]) -> dict[bytes, bytes]:
    """All that was merged into some vertices: part → root."""
    cursor = await connection.execute(_PARTS, ([one.hex() for one in roots],))
    return {id_.bytes: root.bytes for id_, root in await cursor.fetchall()}


async def any_merges(connection: Connection) -> bool:
    """Whether anything is merged at all. Mostly nothing is, and then nobody need ask."""
    cursor = await connection.execute("SELECT EXISTS (SELECT FROM graph_merge)")
    row = await cursor.fetchone()
    return bool(row and row[0])
