"""The report on indexes, over a real PostgreSQL: what it finds, and that what it proposes mends it."""
# ruff: noqa: S608 - numbers of ours

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from heimdall_server.domain.database_health import IndexProblem
from heimdall_server.storage.postgres import indexes
from heimdall_server.storage.postgres.health import PostgresHealth
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.postgres import PostgresServer

ROWS = 20_000
BAD = (
    f"CREATE TABLE heimdall.large AS SELECT n AS id, n % 100 AS part, n AS size, repeat('x', 40) || n AS word FROM generate_series(1, {ROWS}) n",
    "ALTER TABLE heimdall.large ADD PRIMARY KEY (id)",
    "CREATE INDEX twice_one ON heimdall.large (part)",
    "CREATE INDEX twice_two ON heimdall.large (part)",
    "CREATE INDEX longer ON heimdall.large (part, id DESC)",
    "CREATE INDEX backwards ON heimdall.large (part DESC)",
    "CREATE INDEX partial ON heimdall.large (part) WHERE part > 3",
    'CREATE UNIQUE INDEX "Kept" ON heimdall.large (id, part)',
    "ANALYZE heimdall.large",
)


@pytest.fixture
def bad_schema(postgres_server: PostgresServer, postgres_database: str) -> Iterator[psycopg.Connection]:
    """A schema with all that can be wrong, and a connection of its owner."""
    with psycopg.connect(postgres_server.conninfo(postgres_database), autocommit=True) as connection:
        for statement in BAD:
            connection.execute(statement.encode())
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY failed ON heimdall.large (part)")
        yield connection
        connection.execute("DROP TABLE heimdall.large")


@pytest.fixture
async def pool(postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[PostgresPool]:
    pool = postgres_server.pool(postgres_database, slow_statement_s=0.01)
    await pool.open()
    yield pool
    await pool.close()


async def test_what_is_wrong_is_found_and_mended_by_what_is_proposed(
    bad_schema: psycopg.Connection, pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.connection() as connection:
        for number in range(25):
            await connection.execute(
                "SELECT count(*), pg_sleep(0.015) FROM heimdall.large WHERE word = %s AND size > %s",
                (f"word{number}", 0),
            )
        await connection.execute("SELECT pg_stat_force_next_flush()")
    health = PostgresHealth(pool)
    too_early = [one for one in (await health.indexes()).findings if one.problem is IndexProblem.UNUSED]
    assert {one.statement for one in too_early} == {""}
    monkeypatch.setattr(indexes, "_SETTLED_S", 0)
    report = await health.indexes()
    assert 0 < report.since_ns < time.time_ns()
    ours = [one for one in report.findings if one.table == "heimdall.large"]
    found = {(one.problem, one.index.removeprefix("heimdall.")) for one in ours}
    assert found == {
        (IndexProblem.INVALID, "failed"),
        (IndexProblem.MISSING, ""),
        (IndexProblem.DUPLICATE, "twice_one"),
        (IndexProblem.REDUNDANT, "twice_two"),
        (IndexProblem.UNUSED, "longer"),
        (IndexProblem.UNUSED, "backwards"),
        (IndexProblem.UNUSED, "partial"),
    }
    assert [one.problem for one in report.findings[:2]] == [IndexProblem.INVALID, IndexProblem.MISSING]
    missing = next(one for one in ours if one.problem is IndexProblem.MISSING)
    assert missing.statement == "CREATE INDEX CONCURRENTLY ON heimdall.large (word, size);"
    assert missing.scan_count >= 25
    broken = next(one for one in ours if one.problem is IndexProblem.INVALID)
    assert broken.statement == "REINDEX INDEX CONCURRENTLY heimdall.failed;"
    bad_schema.execute("UPDATE heimdall.large SET part = id")  # now it can be made
    for one in ours:
        bad_schema.execute(one.statement.encode())
    left = [one for one in (await health.indexes()).findings if one.table == "heimdall.large"]
    assert {one.problem for one in left} <= {IndexProblem.UNUSED}  # those that were made a moment ago


async def test_no_constraints_index_is_ever_proposed_to_be_dropped(
    postgres_server: PostgresServer, postgres_database: str, pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_TINY_BYTES", 0)
    monkeypatch.setattr(indexes, "_SETTLED_S", 0)
    report = await PostgresHealth(pool).indexes()
    assert report.index_count > 30
    assert {one.table.split(".")[0] for one in report.findings} <= {"heimdall", "heimdall_graph"}
    with psycopg.connect(postgres_server.conninfo(postgres_database), autocommit=True) as connection:
        bound = connection.execute(
            "SELECT format('%I.%I', n.nspname, i.relname) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
            "JOIN pg_namespace n ON n.oid = i.relnamespace WHERE x.indisunique"
        ).fetchall()
    dropped = {one.index for one in report.findings if one.statement.startswith("DROP")}
    assert dropped
    assert not dropped & {name for (name,) in bound}
    assert all("CONCURRENTLY" in one.statement for one in report.findings if one.statement)


async def test_an_index_much_larger_than_its_entries_is_bloated(
    bad_schema: psycopg.Connection, pool: PostgresPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_BLOAT_BYTES_MIN", 256 * 1024)
    assert not [one for one in (await PostgresHealth(pool).indexes()).findings if one.problem is IndexProblem.BLOATED]
    bad_schema.execute("DELETE FROM heimdall.large WHERE id > 1000")
    bad_schema.execute("VACUUM ANALYZE heimdall.large")
    findings = (await PostgresHealth(pool).indexes()).findings
    bloated = {one.index: one for one in findings if one.problem is IndexProblem.BLOATED}
    assert bloated["heimdall.large_pkey"].statement == "REINDEX INDEX CONCURRENTLY heimdall.large_pkey;"
    assert "% of it isn't needed for its 1,000 entries" in bloated["heimdall.large_pkey"].detail
