"""PostgreSQL under observation: slow statements without their values, metrics by user, a breaker while it is away."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import REGISTRY
from psycopg import errors as pg

from heimdall_server.domain.errors import QueryTimeoutError, StoreError
from heimdall_server.domain.graph import Tlp
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.moment import reading
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.postgres import PostgresServer

PLANTED = ("alice.planted@example.org", "203.0.113.77", "424242", "tok-planted")


@pytest.fixture
async def pool(postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[PostgresPool]:
    """One for which nearly everything is slow."""
    pool = postgres_server.pool(postgres_database, slow_statement_s=0.01)
    await pool.open()
    yield pool
    await pool.close()


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged of slow statements, fields included."""
    return json.dumps([vars(one) for one in caplog.records if one.getMessage() == "slow statement"], default=str)


async def test_a_slow_statement_is_logged_with_its_plan_and_without_its_values(
    pool: PostgresPool, caplog: pytest.LogCaptureFixture
) -> None:
    vault = pool.used_by("vault")
    with caplog.at_level(logging.WARNING):
        for word in PLANTED[:2]:
            async with vault.connection() as connection:
                await connection.execute(
                    "SELECT sealed, pg_sleep(0.02) FROM vault_value WHERE word = %s OR generation = 424242 OR class LIKE 'tok-planted%%' "
                    "UNION ALL SELECT NULL, pg_sleep(0.02)",
                    (word,),
                )
                assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    last, first = pool.slow_log.recent()
    assert (first.user, first.outcome, first.row_count) == ("vault", "ok", 1)
    assert first.fingerprint == last.fingerprint
    assert "word = $1 OR generation = ? OR class LIKE ?" in first.statement
    assert "vault_value" in first.plan
    assert "$1" in first.plan
    told = logged(caplog) + repr(pool.slow_log.recent())
    assert len([one for one in caplog.records if one.getMessage() == "slow statement"]) == 1  # the second is the same
    assert not [value for value in PLANTED if value in told]


async def test_a_plan_is_found_in_the_transaction_that_made_the_table_and_leaves_it_as_it_was(
    pool: PostgresPool,
) -> None:
    async with pool.connection() as connection:
        await connection.execute("CREATE TEMPORARY TABLE here (n integer) ON COMMIT DROP")
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("INSERT INTO here SELECT 7 FROM pg_sleep(0.03)")
        with pytest.raises(pg.DivisionByZero):
            async with connection.transaction():
                await connection.execute("SELECT 1 / 0")
        cursor = await connection.execute("SELECT n, current_setting('enable_seqscan'), pg_sleep(0.02) FROM here")
        assert (await cursor.fetchone() or ())[:2] == (7, "off")
    reading_, writing = pool.slow_log.recent()[:2]
    assert '"Relation Name":"here"' in reading_.plan
    assert writing.statement == "INSERT INTO here SELECT ? FROM pg_sleep(?)"
    assert "ModifyTable" in writing.plan


async def test_a_statement_that_ran_out_of_time_is_told_with_its_plan(pool: PostgresPool) -> None:
    reader = pool.used_by("graph_reader")
    before = _sample("heimdall_postgres_failures_total", user="graph_reader", kind="statement_timeout")
    with pytest.raises(QueryTimeoutError):
        async with reading(reader, 0.05) as connection:
            await connection.execute("SELECT note_id FROM graph_note, pg_sleep(5) WHERE body = %s", (PLANTED[0],))
    newest = pool.slow_log.recent()[0]
    assert (newest.outcome, newest.row_count, newest.user) == ("statement_timeout", -1, "graph_reader")
    assert "graph_note" in newest.plan
    assert _sample("heimdall_postgres_failures_total", user="graph_reader", kind="statement_timeout") == before + 1
    async with reading(reader, 5) as connection:
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)


async def test_slow_cypher_gives_away_neither_values_nor_names(
    postgres_server: PostgresServer, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = postgres_server.cypher_pool(postgres_database, slow_statement_s=0.0)
    pool.slow_log.threshold_s = 1e-9  # whatever it takes
    await pool.open()
    query = f"MATCH (planted_person:Entity) WHERE planted_person.value = '{PLANTED[0]}' RETURN planted_person.value AS `{PLANTED[1]}`"
    with caplog.at_level(logging.WARNING):
        result = await PostgresCypherRunner(pool).run(query, tlp_max=Tlp.RED)
    assert result.columns == [PLANTED[1]]
    (found,) = [one for one in pool.slow_log.recent() if "cypher(" in one.statement]
    assert "MATCH (n1:Entity) WHERE n1.value = ? RETURN n1.value AS ?" in found.statement
    assert "Entity" in found.plan
    told = logged(caplog) + repr(pool.slow_log.recent())
    assert "planted" not in told
    assert PLANTED[1] not in told
    await pool.close()


async def test_waits_and_transactions_are_measured_by_user_and_some_connections_are_left_to_others(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    pool = postgres_server.pool(postgres_database, pool_size=2)
    await pool.open()
    readers = pool.used_by("test_readers", at_most=1)
    async with readers.connection():
        assert _sample("heimdall_postgres_in_use", user="test_readers") == 1
        assert _sample("heimdall_postgres_connections", pool="heimdall", state="in_use") == 1
        with pytest.raises(StoreError):
            async with readers.connection(timeout_s=-1.8):  # two tenths of a second, with its margin
                pass
        async with pool.used_by("test_writer").connection() as connection:
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    assert _sample("heimdall_postgres_in_use", user="test_readers") == 0
    assert _sample("heimdall_postgres_waiting", user="test_readers") == 0
    for user in ("test_readers", "test_writer"):
        assert _sample("heimdall_postgres_transaction_seconds_count", user=user) == 1
        assert _sample("heimdall_postgres_wait_seconds_count", user=user) == 1
    await pool.close()


async def test_every_connection_has_its_time_outs(pool: PostgresPool) -> None:
    async with pool.connection() as connection:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            row = await (await connection.execute("SELECT current_setting(%s)", (name,))).fetchone()
            assert row is not None
            assert row[0] not in ("", "0")


async def test_while_it_is_away_one_caller_waits_and_others_are_refused_at_once(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    address = ["host=127.0.0.1 port=1 user=nobody dbname=nothing"]
    pool = PostgresPool(
        lambda: address[0], postgres_server.pool(postgres_database, connect_timeout_s=1.0).config, name="away"
    )
    await pool.open()
    with pytest.raises(StoreError, match="can't be reached"):
        async with pool.connection():
            pass
    assert _sample("heimdall_postgres_breaker_open", pool="away") == 1
    begin_s = time.process_time()
    for _ in range(5):
        with pytest.raises(StoreError, match="tried again shortly"):
            async with pool.connection():
                pass
    assert time.process_time() - begin_s < 1
    address[0] = postgres_server.conninfo(postgres_database)
    for _ in range(100):
        try:
            async with pool.connection() as connection:
                assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
            break
        except StoreError:
            time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs here
    else:
        pytest.fail("it never came back")
    assert _sample("heimdall_postgres_breaker_open", pool="away") == 0
    await pool.close()


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
