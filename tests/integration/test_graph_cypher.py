"""Cypher for people: it answers what SQL answers, sees nothing above its ceiling, and can't write, run on or return too much."""
# ruff: noqa: S608 - statements are made of names of ours

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import psycopg
import pytest

from heimdall_server.domain.errors import QueryCostError, QuerySyntaxError, QueryTimeoutError, StoreError
from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, EdgeKind, Tlp, VertexKind
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import DAY_NS, NOON_NS, Facts, canonical_dump
from tests.support.postgres import PostgresServer


@pytest.fixture
async def cypher_pool(postgres_server: PostgresServer, postgres_database: str) -> AsyncIterator[PostgresPool]:
    pool = postgres_server.cypher_pool(postgres_database)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def told(postgres_pool: PostgresPool, postgres_clean: None) -> Facts:  # noqa: ARG001 - empties it first
    facts = Facts()
    dump = facts.vertex("leak", VertexKind.DUMP)
    field = facts.vertex("mail", VertexKind.FIELD)
    facts.edge(dump, field, EdgeKind.HAS_FIELD)
    for number in range(30):
        value = facts.vertex(f"v{number}", VertexKind.FIELD_VALUE, type="email", by=number % 2)
        entity = facts.vertex(f"e{number % 20}", type="email" if number % 3 else "ip", by=number % 2)
        facts.edge(field, value, EdgeKind.HAS_VALUE, by=number % 2)
        facts.edge(value, entity, EdgeKind.OF_ENTITY, by=number % 2)
    facts.related(*((f"e{number}", f"e{(number * 7 + 3) % 20}") for number in range(20)), relation="same-as")
    sighting = facts.vertex("app", VertexKind.SIGHTING, day=20_000, at_ns=NOON_NS + DAY_NS)
    facts.edge(sighting, facts.vertex("e1"), EdgeKind.OF_ENTITY)
    facts.edge(sighting, dump, EdgeKind.OBSERVED_IN)
    applied = await PostgresGraphWriter(postgres_pool).apply(facts.batch())
    assert not applied.refused
    return facts


@pytest.mark.usefixtures("told")
async def test_cypher_answers_what_sql_answers(cypher_pool: PostgresPool, postgres_pool: PostgresPool) -> None:
    cypher = PostgresCypherRunner(cypher_pool)

    async def ask(text: str) -> list[tuple[object, ...]]:
        result = await cypher.run(text, tlp_max=Tlp.RED)
        assert not result.truncated
        return sorted(tuple(json.loads(value) for value in row) for row in result.rows)

    async def sql(statement: str) -> list[tuple[object, ...]]:
        async with postgres_pool.connection() as connection:
            await connection.execute("SET LOCAL search_path = heimdall, ag_catalog")
            return sorted(await (await connection.execute(statement.encode())).fetchall())

    value = "properties::text::json ->> 'value'"
    for kind in VERTEX_KINDS:
        assert await ask(f"MATCH (n:{kind}) RETURN id(n), n.value, n.type") == await sql(
            f"SELECT t.id::text::bigint, t.{value}, coalesce(y.term, '') FROM {table(kind)} t LEFT JOIN graph_term y ON y.term_id = t.type"
        )
    for edge_kind in EDGE_KINDS:
        assert await ask(f"MATCH (a)-[r:{edge_kind}]->(b) RETURN id(a), id(r), id(b)") == await sql(
            f"SELECT start_id::text::bigint, id::text::bigint, end_id::text::bigint FROM {table(edge_kind)}"
        )
    assert await ask(
        "MATCH (a:Entity)-[r:RELATED_TO]->(b:Entity)-[:RELATED_TO]->(c:Entity) RETURN a.value, r.relation, c.value"
    ) == await sql(
        f"SELECT a.{value}, y.term, c.{value} FROM {table(EdgeKind.RELATED_TO)} r JOIN {table(EdgeKind.RELATED_TO)} s ON s.start_id = r.end_id "
        f"JOIN {table(VertexKind.ENTITY)} a ON a.id = r.start_id JOIN {table(VertexKind.ENTITY)} c ON c.id = s.end_id "
        "JOIN graph_term y ON y.term_id = r.relation"
    )
    assert await ask("MATCH (s:Sighting)-[:OF_ENTITY]->(e:Entity) RETURN s.day, e.value") == [("2024-10-04", "e1")]
    assert await ask("MATCH (e:Entity) WHERE e.value = 'e5' RETURN e.value AS v, 1 + 1 AS two ORDER BY v LIMIT 3") == [
        ("e5", 2)
    ]


@pytest.mark.usefixtures("told")
async def test_what_lies_above_the_ceiling_is_not_there_for_cypher(cypher_pool: PostgresPool) -> None:
    cypher = PostgresCypherRunner(cypher_pool)
    for text in ("MATCH (n:FieldValue) RETURN count(*)", "MATCH ()-[r:HAS_VALUE]->() RETURN count(*)"):
        seen = {tlp: (await cypher.run(text, tlp_max=tlp)).rows for tlp in (Tlp.CLEAR, Tlp.GREEN, Tlp.RED)}
        assert seen == {Tlp.CLEAR: [("0",)], Tlp.GREEN: [("15",)], Tlp.RED: [("30",)]}
    everything = {
        tlp: (await cypher.run("MATCH (n) RETURN count(*)", tlp_max=tlp)).rows for tlp in (Tlp.CLEAR, Tlp.RED)
    }
    assert everything == {Tlp.CLEAR: [("0",)], Tlp.RED: [("53",)]}


@pytest.mark.usefixtures("told")
async def test_columns_are_named_as_the_query_names_them(cypher_pool: PostgresPool) -> None:
    result = await PostgresCypherRunner(cypher_pool).run(
        "MATCH (n:Entity) WITH n, 'a, b) RETURN x // no' AS s RETURN DISTINCT n.value AS name, count(n), [1, 2][0], s /* end */ ORDER BY name LIMIT 2;",
        tlp_max=Tlp.RED,
    )
    assert list(result.columns) == ["name", "count(n)", "[1, 2][0]", "s"]
    assert [row[0] for row in result.rows] == ['"e0"', '"e1"']


@pytest.mark.usefixtures("told")
async def test_every_value_is_json(cypher_pool: PostgresPool) -> None:
    result = await PostgresCypherRunner(cypher_pool).run(
        "MATCH p = (s:Sighting)-[r:OF_ENTITY]->(e:Entity) RETURN s, r, p, {of: e}, toFloat('-Infinity'), 2.50::numeric, "
        "'::vertex NaN \"\\\\', null",
        tlp_max=Tlp.RED,
    )
    sighting, edge, path, entity, infinity, decimal, text, nothing = (json.loads(value) for value in result.rows[0])
    assert (sighting["label"], sighting["properties"]["value"], edge["label"]) == ("Sighting", "app", "OF_ENTITY")
    assert (edge["start_id"], edge["end_id"]) == (sighting["id"], entity["of"]["id"])
    assert path == [sighting, edge, entity["of"]]
    assert (infinity, decimal, text, nothing) == ("-Infinity", 2.5, '::vertex NaN "\\', None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MATCH (n) SET n.x = 1 RETURN n", "SET writes"),
        ("MATCH (n) DETACH DELETE n RETURN 1", "DETACH writes"),
        ("CREATE (n:Entity) RETURN n", "begins with"),
        ("MATCH (n) WITH n MERGE (m:Entity {value: 'x'}) RETURN m", "MERGE writes"),
        ("MATCH (n) remove n.value RETURN n", "REMOVE writes"),
        ("MATCH p = (a)-[*1..3]->(b) RETURN p", "variable length"),
        ("MATCH p = (a)<-[:RELATED_TO *]-(b) RETURN p", "variable length"),
        ("MATCH (n) RETURN pg_catalog.pg_sleep(1)", "own functions"),
        ("MATCH (n) RETURN `pg_catalog`.`pg_sleep`(1)", "own functions"),
        ("MATCH (n) CALL db.labels() YIELD x RETURN x", "CALL can't"),
        ("MATCH (n) RETURN *", "name what is returned"),
        ("MATCH (n)", "ends with RETURN"),
        ("MATCH (n) RETURN $x", "can't be used"),
        ("MATCH (n) RETURN n; MATCH (m) RETURN m", "can't be used"),
        ("MATCH (n) RETURN 'open", "isn't closed"),
        ("MATCH (n) /* RETURN n", "isn't closed"),
        ("", "begins with"),
        ("EXPLAIN MATCH (n) RETURN n", "begins with"),
    ],
)
async def test_cypher_that_may_not_be_run_is_refused_with_the_reason(text: str, problem: str) -> None:
    with pytest.raises(QuerySyntaxError, match=problem):
        await PostgresCypherRunner(None).run(text, tlp_max=Tlp.RED)


async def test_words_of_clauses_may_be_names_and_texts(cypher_pool: PostgresPool) -> None:
    text = "MATCH (n:Entity) WHERE n.value = 'DELETE $$ $q0$' OR n.value = \"CREATE\" RETURN n.`set`, [2 * 3]"
    result = await PostgresCypherRunner(cypher_pool).run(text, tlp_max=Tlp.RED)
    assert result.rows == []


async def test_what_postgres_refuses_is_said_with_its_place(cypher_pool: PostgresPool) -> None:
    for text, problem, column in (
        ("MATCH (n:Entity) WHERE RETURN n", "syntax error", 30),
        ("MATCH (n:Entity) RETURN nothing_like_it(n)", "nothing_like_it", 0),
    ):
        with pytest.raises(QuerySyntaxError, match=problem) as caught:
            await PostgresCypherRunner(cypher_pool).run(text, tlp_max=Tlp.RED)
        assert caught.value.column == column
    with pytest.raises(StoreError, match="cypher_dsn_file"):
        await PostgresCypherRunner(None).run("RETURN 1", tlp_max=Tlp.RED)


@pytest.mark.usefixtures("told")
async def test_rows_and_time_of_a_query_are_bounded(cypher_pool: PostgresPool) -> None:
    cypher = PostgresCypherRunner(cypher_pool)
    result = await cypher.run("MATCH (n:Entity) RETURN n.value", tlp_max=Tlp.RED, row_count_max=5)
    assert (len(result.rows), result.truncated) == (5, True)
    endless = "MATCH (a), (b), (c), (d), (e), (f) RETURN count(*)"
    with pytest.raises(QueryTimeoutError):
        await cypher.run(endless, tlp_max=Tlp.RED, time_s=0.3)
    assert (await cypher.run("RETURN 1", tlp_max=Tlp.RED)).rows == [("1",)]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("text", ["UNWIND range(1, 100000000) AS x RETURN x", "RETURN range(1, 1000000)"])
async def test_what_no_answer_can_hold_is_refused_for_good(cypher_pool: PostgresPool, text: str) -> None:
    with pytest.raises(QueryCostError):
        await PostgresCypherRunner(cypher_pool).run(text, tlp_max=Tlp.RED)


@pytest.mark.usefixtures("told")
async def test_the_role_of_cypher_can_do_nothing_but_read_the_graph(
    cypher_pool: PostgresPool, postgres_pool: PostgresPool
) -> None:
    before = await canonical_dump(postgres_pool)
    entity = table(VertexKind.ENTITY)
    writes = "SELECT * FROM ag_catalog.cypher('heimdall_graph', $$ {} $$) AS (n ag_catalog.agtype)"
    async with await psycopg.AsyncConnection.connect(cypher_pool.conninfo(), autocommit=True) as connection:
        for read_only in ("on", "off"):
            await connection.execute(f"SET default_transaction_read_only = {read_only}")
            await connection.execute("SET search_path = ag_catalog")
            for statement in (
                writes.format("CREATE (n:Entity {value: 'x'}) RETURN n"),
                writes.format("MATCH (n:Entity) SET n.value = 'x' RETURN n"),
                writes.format("MATCH (n:Entity) DETACH DELETE n RETURN n"),
                writes.format("MERGE (n:Entity {value: 'x'}) RETURN n"),
                writes.format("CREATE (n:Other) RETURN n"),
                f"DELETE FROM {entity}",
                f"TRUNCATE {entity}",
                "SELECT * FROM heimdall.vault_value",
                "SELECT * FROM heimdall.graph_note",
                "CREATE TABLE public.x ()",
                "SET ROLE heimdall_app",
            ):
                with pytest.raises(
                    (
                        psycopg.errors.InsufficientPrivilege,
                        psycopg.errors.ReadOnlySqlTransaction,
                        psycopg.errors.UndefinedTable,
                    )
                ):
                    await connection.execute(statement)
        cursor = await connection.execute(f"SELECT count(*) FROM {entity}")
        assert await cursor.fetchone() == (0,)  # it has no ceiling, so it sees nothing
    assert await canonical_dump(postgres_pool) == before


@pytest.mark.usefixtures("told")
async def test_an_entity_is_found_by_its_value_through_an_index_also_under_a_ceiling(cypher_pool: PostgresPool) -> None:
    text = "MATCH (n:Entity)-[r:RELATED_TO]->(m:Entity) WHERE n.value = 'e5' RETURN m"
    async with cypher_pool.connection() as connection:
        await connection.execute("SET LOCAL search_path = ag_catalog")
        await connection.execute("SET LOCAL enable_seqscan = off")
        await connection.execute("SELECT set_config('heimdall.tlp_max', '4', true)")
        cursor = await connection.execute(
            f"EXPLAIN SELECT * FROM cypher('heimdall_graph', $$ {text} $$) AS (m agtype)".encode()
        )
        plan = "\n".join(line for (line,) in await cursor.fetchall())
    assert "entity_value" in plan
    assert "Entity_pkey" in plan
    assert "Seq Scan" not in plan


_QUESTIONS = (
    "MATCH (n:Entity) WHERE n.value = {} AND n.value.x = 1 RETURN 1",
    "MATCH (n:Entity) WHERE n.value.x = 1 AND n.value = {} RETURN 1",
    "MATCH (n:Entity) WHERE n.value = {} AND n.type.x.y IS NOT NULL RETURN 1",
    "MATCH (n:Entity) WHERE n.value = {} AND (n.value.x = 1 OR n.type.x = 2) RETURN 1",
    "MATCH (n) WHERE n.value = {} AND n.value.x = 1 RETURN 1",
    "MATCH (n:Entity {{value: {}}}) WHERE n.value.x = 1 RETURN 1",
    "MATCH (n:Entity) WHERE n.value = {} RETURN n.value.x",
    "MATCH (n:Entity) WITH n, n.value.x AS x WHERE n.value = {} RETURN x",
    "MATCH (s:Sighting)-[r:OF_ENTITY]->(n:Entity) WHERE n.value = {} AND n.value.x = s.value RETURN 1",
    "MATCH (s:Sighting), (n:Entity) WHERE n.value = {} AND n.value.x = s.value RETURN 1",
    "MATCH (n:Entity)-[r:RELATED_TO]->() WHERE n.value = {} AND r.relation.x = 1 RETURN 1",
    "MATCH (s:Sighting) WHERE EXISTS((s)-[:OF_ENTITY]->(:Entity {{value: {}}})) RETURN 1",
)


@pytest.mark.parametrize("scans", ["on", "off"])
@pytest.mark.parametrize("question", _QUESTIONS)
async def test_no_error_tells_that_something_lies_above_the_ceiling(
    cypher_pool: PostgresPool,
    postgres_pool: PostgresPool,
    postgres_clean: None,  # noqa: ARG001 - empties it first
    question: str,
    scans: str,
) -> None:
    facts = Facts()
    sighting, secret = facts.vertex("app", VertexKind.SIGHTING, day=20_000), facts.vertex("secret.example", by=1)
    facts.edge(sighting, secret, EdgeKind.OF_ENTITY, by=1)
    facts.edge(secret, facts.vertex("also.example", by=1), by=1)
    assert not (await PostgresGraphWriter(postgres_pool).apply(facts.batch())).refused
    async with await psycopg.AsyncConnection.connect(cypher_pool.conninfo(), autocommit=True) as connection:
        await connection.execute(f"SET enable_seqscan = {scans}")
        await connection.execute("SET search_path = ag_catalog")
        await connection.execute("SELECT set_config('heimdall.tlp_max', %s, false)", (str(Tlp.GREEN.value),))
        for value in ("'absent.example'", "'secret.example'"):
            asked = f"SELECT * FROM cypher('heimdall_graph', $$ {question.format(value)} $$) AS (x agtype)"
            assert await (await connection.execute(asked.encode())).fetchall() == []
