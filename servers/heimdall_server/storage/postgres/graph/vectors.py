"""Embeddings of entities and fields, found by an HNSW index of pgvector."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import VERTEX_KINDS, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Embedding, Similar
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

DIMENSIONS: Final = 384
_KINDS: Final = (VertexKind.ENTITY, VertexKind.FIELD)
_PUT: Final = (
    "INSERT INTO graph_embedding (id, kind, model, embedding) VALUES (%s, %s, %s, %s) "
    "ON CONFLICT (id, model) DO UPDATE SET embedding = excluded.embedding, kind = excluded.kind"
)


class PostgresGraphVectors:
    """Implements `ports.graph.GraphVectors`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def put(self, kind: VertexKind, model: str, embeddings: Sequence[Embedding]) -> None:
        """See the port."""
        number = _number(kind)
        rows = [(one.id.hex(), number, model, _text(one.vector)) for one in embeddings]
        async with self._pool.connection() as connection:
            await _begin(connection)
            async with connection.cursor() as cursor:
                await cursor.executemany(_PUT, rows)

    async def nearest(
        self, kind: VertexKind, model: str, vector: Sequence[float], *, tlp_max: Tlp, count_max: int = 10
    ) -> Sequence[Similar]:
        """See the port. What the reader may not see, and what a rebuild hasn't made yet, is left out."""
        text = _text(vector)
        statement = (
            "SELECT v.id, v.embedding <=> %s::vector AS distance FROM graph_embedding v "
            f"WHERE v.kind = {_number(kind)} AND v.model = %s "
            f"AND EXISTS (SELECT FROM {table(kind)} t WHERE t.uid = v.id AND t.tlp_min <= %s) "
            "ORDER BY v.embedding <=> %s::vector LIMIT %s"
        )
        async with self._pool.connection() as connection:
            await _begin(connection)
            # The index is gone on with until enough of what it finds passes.
            await connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            cursor = await connection.execute(statement.encode(), (text, model, tlp_max.value, text, count_max))
            rows = await cursor.fetchall()
        return [Similar(id_.bytes, float(distance)) for id_, distance in rows]


async def _begin(connection: Connection) -> None:
    """Where pgvector's types and operators are differs from server to server."""
    await connection.execute(
        "SELECT set_config('search_path', 'heimdall, ag_catalog, ' || quote_ident(n.nspname), true) "
        "FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
    )


def _number(kind: VertexKind) -> int:
    if kind not in _KINDS:
        raise InvalidArgumentError("kind", "only entities and fields have embeddings")
    return VERTEX_KINDS.index(kind)


def _text(vector: Sequence[float]) -> str:
    if len(vector) != DIMENSIONS or not all(math.isfinite(one) for one in vector) or not any(vector):
        raise InvalidArgumentError("vector", f"{DIMENSIONS} finite numbers, not all of them 0")
    return "[" + ",".join(f"{one:.9g}" for one in vector) + "]"
