"""The graph through what happens to PostgreSQL while batches are written: conflicts, refusals, waits without end, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator

import psycopg
import pytest
from prometheus_client import REGISTRY

from heimdall_server.domain.errors import ConfigurationError, StoreError
from heimdall_server.domain.graph import VertexKind
from heimdall_server.domain.graph_batches import GraphBatch, Origin, ProfilePart
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.storage.postgres.extensions import require
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.transaction import _WRITER_LOCK
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter, WritePolicy
from heimdall_server.storage.postgres.leftovers import processes_of
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import DAY_NS, NOON_NS, OURS, STREAM, THEIRS, Facts, canonical_dump, make_id
from tests.support.postgres import START_S, PostgresServer


def chain(begin: int, count: int, *, position: int) -> GraphBatch:
    """Entities in a row, overlapping with the batch before, by both provenances."""
    facts = Facts()
    for number in range(begin, begin + count):
        facts.related((f"e{number}", f"e{number + 1}"), by=number % 3 % 2, at_ns=NOON_NS + number * DAY_NS)
    return facts.batch(position)


@pytest.mark.usefixtures("postgres_clean")
async def test_a_deadlock_is_tried_again(
    postgres_pool: PostgresPool, postgres_server: PostgresServer, postgres_database: str
) -> None:
    facts = Facts()
    id_ = facts.vertex("leak", VertexKind.DUMP)
    batch = facts.batch(profiles=[ProfilePart(id_, 0, Profile(row_count=1))])
    async with await psycopg.AsyncConnection.connect(postgres_server.pool(postgres_database).conninfo()) as other:
        await other.execute("LOCK TABLE graph_profile IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.create_task(PostgresGraphWriter(postgres_pool).apply(batch))
        await _until_waiting(postgres_server)
        await other.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER_LOCK,))
        await other.rollback()
        applied = await writing
    assert applied.retry_count >= 1
    assert applied.new_vertex_count == 1
    assert REGISTRY.get_sample_value("heimdall_postgres_retries_total", {"user": "graph_writer", "kind": "deadlock"})


async def _until_waiting(server: PostgresServer) -> None:
    """Wait until somebody waits for a lock."""
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with await psycopg.AsyncConnection.connect(server.conninfo(superuser=True), autocommit=True) as connection:
        async with asyncio.timeout(START_S):
            while (await (await connection.execute(statement)).fetchone()) == (0,):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("postgres_clean")
async def test_a_batch_that_waits_too_long_is_given_up_and_leaves_nothing(
    postgres_server: PostgresServer, postgres_database: str, postgres_pool: PostgresPool
) -> None:
    hurried = postgres_server.pool(postgres_database, statement_timeout_s=0.2)
    await hurried.open()
    writer = PostgresGraphWriter(hurried, WritePolicy(retry_count_max=2, first_wait_s=0.01))
    async with postgres_pool.connection() as other:
        await other.execute("LOCK TABLE graph_applied IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError):
            await writer.apply(chain(0, 3, position=1))
    assert await canonical_dump(postgres_pool) == []
    assert (await writer.apply(chain(0, 3, position=1))).new_vertex_count == 4
    await hurried.close()


@pytest.mark.usefixtures("postgres_clean")
async def test_rows_that_postgres_refuses_are_found_by_halving_and_told(postgres_pool: PostgresPool) -> None:
    facts = Facts()
    for number in range(200):
        facts.related((f"e{number}", f"e{number + 1}"))
    poisoned = {40, 41, 333}
    for row in poisoned:
        facts.vertices[row] |= {"day": 13, "id": make_id(f"poison{row}"), "value": "poison"}
    bad_edge = 150
    facts.edges[bad_edge]["last_place"] = 13
    batch = facts.batch()
    constraints = {
        table(VertexKind.ENTITY): "CHECK (day <> 13)",
        'heimdall_graph."RELATED_TO"': "CHECK (last_place <> 13)",
    }
    async with postgres_pool.connection() as connection:
        for name, constraint in constraints.items():
            await connection.execute(f"ALTER TABLE {name} ADD CONSTRAINT poison {constraint}".encode())
    try:
        applied = await PostgresGraphWriter(postgres_pool).apply(batch)
    finally:
        async with postgres_pool.connection() as connection:
            for name in constraints:
                await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT poison".encode())
    reasons = {(one.is_vertex, one.row): one.reason for one in applied.refused}
    assert {row for is_vertex, row in reasons if is_vertex} == poisoned
    assert all("CheckViolation (23514)" in reasons[True, row] for row in poisoned)
    assert "CheckViolation" in reasons[False, bad_edge]
    assert applied.new_edge_count == 200 - sum(not is_vertex for is_vertex, _ in reasons)
    assert await PostgresGraphWriter(postgres_pool).missing(Origin(STREAM, 1, 1)) == []
    assert "poison" not in str(reasons)


@pytest.mark.usefixtures("postgres_clean")
async def test_writers_at_the_same_time_make_the_same_graph_as_one(postgres_pool: PostgresPool) -> None:
    batches = [chain(number * 5, 15, position=number) for number in range(8)]
    alone = PostgresGraphWriter(postgres_pool)
    for batch in batches:
        await alone.apply(batch)
    whole = await canonical_dump(postgres_pool)
    await alone.forget()
    writers = [PostgresGraphWriter(postgres_pool) for _ in range(4)]
    await asyncio.gather(*(writers[index % 4].apply(batch) for index, batch in enumerate([*batches, *batches])))
    assert await canonical_dump(postgres_pool) == whole


@pytest.mark.usefixtures("postgres_database")  # which makes the role
async def test_a_server_without_what_the_graph_needs_is_refused_with_the_statements(
    postgres_server: PostgresServer,
) -> None:
    with psycopg.connect(postgres_server.conninfo(superuser=True), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare TEMPLATE template0")
    try:
        async with await psycopg.AsyncConnection.connect(postgres_server.conninfo("bare"), autocommit=True) as plain:
            with pytest.raises(ConfigurationError, match="CREATE EXTENSION IF NOT EXISTS age"):
                await require(plain)
    finally:
        postgres_server.drop_database("bare")


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be killed."""
    server = PostgresServer()
    yield server
    server.close()


def kill_all(server: PostgresServer) -> None:
    for pid in processes_of(server.embedded.data):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_killed_in_the_middle_of_batches_the_graph_ends_as_if_nothing_had_happened(
    own_server: PostgresServer,
) -> None:
    batches = [chain(number * 7, 20, position=number) for number in range(6)]
    chance = random.Random(4)
    kills: list[str] = []

    async def step(name: str) -> None:
        if len(kills) < 3 and chance.random() < 0.4:
            kills.append(name)
            kill_all(own_server)

    pool = own_server.pool(own_server.new_database(), connect_timeout_s=1.0)
    await pool.open()
    plain = PostgresGraphWriter(pool)
    for batch in batches:
        await plain.apply(batch)
    whole = await canonical_dump(pool)
    await plain.forget()
    writer = PostgresGraphWriter(pool, step=step)
    async with asyncio.timeout(START_S):
        while True:
            with contextlib.suppress(StoreError):
                gaps = await writer.missing(Origin(STREAM, 0, len(batches) - 1))
                if not gaps and len(kills) >= 3:
                    break
                if not gaps:  # all is there: kill it at rest, too
                    kills.append("rest")
                    kill_all(own_server)
                for first, last in gaps:
                    for batch in batches[first : last + 1]:
                        await writer.apply(batch)
            await asyncio.sleep(0.05)
    assert await canonical_dump(pool) == whole
    assert "applied" in kills
    await pool.close()


@pytest.mark.usefixtures("postgres_clean")
async def test_a_batch_that_fails_leaves_nothing_behind_in_others_that_wait_for_it(postgres_pool: PostgresPool) -> None:
    failures = iter([True])

    async def step(_: str) -> None:
        if next(failures, False):
            raise psycopg.OperationalError

    writer = PostgresGraphWriter(postgres_pool, step=step)
    batches = []
    for position in range(4):
        facts = Facts([OURS, THEIRS])
        facts.related(("a", f"b{position}"), relation="never-told-before")
        batches.append(facts.batch(position))
    done = await asyncio.gather(*(writer.apply(batch) for batch in batches), return_exceptions=True)
    assert [type(one).__name__ for one in done].count("StoreError") == 1
    for batch in batches:
        await writer.apply(batch)
    again = await canonical_dump(postgres_pool)
    await writer.forget()
    for batch in batches:
        await PostgresGraphWriter(postgres_pool).apply(batch)
    assert await canonical_dump(postgres_pool) == again
    assert sum("never-told-before" in row for row in again) == 4
