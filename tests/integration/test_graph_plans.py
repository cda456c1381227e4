"""How PostgreSQL finds the edges of a step: by an index from either end, also where none is in the order of relevance."""

from __future__ import annotations

import pytest

from heimdall_server.domain.graph import EdgeKind, Tlp
from heimdall_server.domain.graph_reading import GraphFilter
from heimdall_server.storage.postgres.graph import steps
from heimdall_server.storage.postgres.graph.rows import begin
from heimdall_server.storage.postgres.pool import PostgresPool


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", list(EdgeKind))
async def test_a_step_reads_no_table_as_a_whole(postgres_pool: PostgresPool, kind: EdgeKind, side: int) -> None:
    filter_ = GraphFilter(tlp_max=Tlp.RED)
    statement = steps._edge_part(kind, side, filter_, "")
    parameters: list[object] = ["{844424930131969}", 4, 0, 2**62, 0]
    if "graph_term" in statement:
        parameters.append(["resolves-to"])
    async with postgres_pool.connection() as connection:
        await begin(connection, time_s=5)
        cursor = await connection.execute(f"EXPLAIN {statement}".encode(), [*parameters, 100])
        plan = "\n".join(str(line) for (line,) in await cursor.fetchall())
    near = ("start_id", "end_id")[side]
    assert f"Index Cond: ({near} = f.id)" in plan
    assert "Seq Scan" not in plan
