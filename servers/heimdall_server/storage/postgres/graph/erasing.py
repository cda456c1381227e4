"""Takes what was erased out of the graph: an entity, its sightings, the fields' values that are it, and all that hangs on them."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from heimdall_server.domain.graph import EDGE_KINDS, EdgeKind, VertexKind
from heimdall_server.storage.postgres.graph.dumps import forget_samples
from heimdall_server.storage.postgres.graph.import_log import erase_imports
from heimdall_server.storage.postgres.graph.known_records import forget_records
from heimdall_server.storage.postgres.graph.labels import are_there, table
from heimdall_server.storage.postgres.graph.transaction import lock_writers
from heimdall_server.storage.postgres.pool import PostgresPool

_TIME_S: Final = 120.0
_VALUE: Final = "ag_catalog.agtype_access_operator(VARIADIC ARRAY[properties, '\"value\"'::ag_catalog.agtype])"
_AUTHORED: Final = (
    "graph_label",
    "graph_note",
    "graph_merge",
    "graph_embedding",
    "graph_profile",
    "graph_hunted",
    "graph_match",
    "graph_watched",
    "graph_event",
)
_FOUND: Final = (
    "CREATE TEMP TABLE graph_gone ON COMMIT DROP AS WITH entity AS ("
    f"SELECT id, uid FROM {table(VertexKind.ENTITY)} WHERE {_VALUE} = %s::ag_catalog.agtype), near AS ("
    f"SELECT e.start_id AS id FROM {table(EdgeKind.OF_ENTITY)} e JOIN entity ON entity.id = e.end_id) "
    "SELECT id, uid FROM entity "
    f"UNION SELECT v.id, v.uid FROM {table(VertexKind.FIELD_VALUE)} v JOIN near ON near.id = v.id "
    f"UNION SELECT v.id, v.uid FROM {table(VertexKind.SIGHTING)} v JOIN near ON near.id = v.id"
)


class PostgresGraphEraser:
    """Implements `ports.graph.GraphEraser`."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def erase(self, tokens: Collection[str]) -> int:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            if not await are_there(connection):
                return 0
            await erase_imports(connection, tokens)  # first: facts are made of them
        return sum([await self._erase_one(token) for token in tokens])

    async def _erase_one(self, token: str) -> int:
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await connection.execute(b"SET LOCAL search_path = heimdall, ag_catalog")  # where agtype's operators are
            await lock_writers(connection)
            found = await connection.execute(_FOUND.encode(), (json.dumps(token),))
            if not found.rowcount:
                return 0
            # Those that tell of them by tokens of epochs that are gone.
            await connection.execute(
                b"DELETE FROM graph_import WHERE people && (SELECT array_agg(uid) FROM graph_gone)"
            )
            await forget_records(connection)
            await forget_samples(connection, token)
            for kind in EDGE_KINDS:
                await connection.execute(
                    f"WITH gone AS (DELETE FROM {table(kind)} e USING graph_gone g WHERE e.start_id = g.id OR e.end_id = g.id RETURNING e.id) "
                    "DELETE FROM graph_fact_provenance p USING gone WHERE p.fact = gone.id".encode()
                )
            await connection.execute(b"DELETE FROM graph_fact_provenance p USING graph_gone g WHERE p.fact = g.id")
            for name in _AUTHORED:
                await connection.execute(f"DELETE FROM {name} a USING graph_gone g WHERE a.id = g.uid".encode())
            await connection.execute(b"DELETE FROM graph_content")  # a batch that says the same again must be looked at
            await connection.execute(b"DELETE FROM graph_merge m USING graph_gone g WHERE m.into_id = g.uid")
            for kind_ in (VertexKind.SIGHTING, VertexKind.FIELD_VALUE, VertexKind.ENTITY):
                await connection.execute(f"DELETE FROM {table(kind_)} v USING graph_gone g WHERE v.id = g.id".encode())
            return found.rowcount
