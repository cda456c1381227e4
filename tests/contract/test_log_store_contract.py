"""What every log store promises, whatever the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pyarrow as pa
import pytest

from heimdall_server.domain.datasets import Dataset, PartitionUnit
from heimdall_server.domain.errors import (
    BudgetExceededError,
    ConfigurationError,
    InvalidInputError,
    QueryCostError,
    QueryTimeoutError,
    StoreError,
)
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import (
    Compare,
    Fields,
    Limit,
    Operator,
    Regex,
    TimeRange,
    Words,
)
from heimdall_server.domain.records import POSITIONED_SCHEMA
from heimdall_server.ports.log_store import FrameRange, Limits, Order, Path, RowKey, StoreIdentity
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.remote import RemoteEngine, ServerAddress
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from tests.support.clickhouse_http import served
from tests.support.log_stores import (
    DAY_NS,
    MINUTE_NS,
    SECOND_NS,
    TIME_NS,
    asked,
    counted,
    fill,
    frame,
    opened_store,
    rollup_counts,
    rows_of,
)

SLOW = Regex(resolve("body"), "(a|b|c)*x(d|e|f)*y(g|h)*z[0-9]+$")
ANN = "spiffe://test/client/ann"


@pytest.fixture(scope="module", params=["embedded", "server"])
def engine(request: pytest.FixtureRequest, chdb_engine: ChdbEngine) -> Iterator[Engine]:
    if request.param == "embedded":
        yield chdb_engine
    else:
        with served(chdb_engine.target) as port:
            yield RemoteEngine(ServerAddress("127.0.0.1", port))


@pytest.fixture
async def store(
    engine: Engine, chdb_engine: ChdbEngine, request: pytest.FixtureRequest
) -> AsyncIterator[ClickHouseLogStore]:
    database = f"contract_{request.node.originalname}"
    async with opened_store(engine, database) as opened:
        yield opened
    connection = chdb_engine.connect()
    connection.command(f"DROP DATABASE `{database}` SYNC")
    connection.close()


async def test_records_come_back_as_they_went_in(store: ClickHouseLogStore) -> None:
    frames = [frame(1, 5), frame(2, 3, resource={"k": "v"}, attributes_bool={"ok": True}, tlp="TLP:AMBER")]
    await fill(store, frames)
    async with store.query(asked(order=Order.JOURNAL)) as result:
        assert result.schema == POSITIONED_SCHEMA
        batches = [batch async for batch in result.batches()]
    assert pa.Table.from_batches(batches) == pa.Table.from_batches(frames)


@pytest.mark.parametrize("order", list(Order))
async def test_pages_by_row_key_are_the_whole_answer_in_order(store: ClickHouseLogStore, order: Order) -> None:
    # Equal times across and inside frames: only the whole key tells such rows apart.
    await fill(store, [frame(position, 10, time=TIME_NS + position // 2) for position in range(1, 8)])
    whole = await rows_of(store, asked(order=order))
    by_time = order in (Order.NEWEST_FIRST, Order.OLDEST_FIRST)
    names = ("time", "shard", "position", "row") if by_time else ("shard", "position", "row")
    keys = [tuple(row[name] for name in names) for row in whole]
    assert keys == sorted(keys, reverse=order in (Order.NEWEST_FIRST, Order.JOURNAL_REVERSED))
    assert len(keys) == 70
    pages, after = [], None
    while True:
        async with store.query(asked(None, Limit(9), order=order, after=after)) as result:
            batches = [batch async for batch in result.batches()]
            indexes = result.key_indexes
        if not batches:
            break
        pages += pa.Table.from_batches(batches).to_pylist()
        assert indexes is not None
        last = batches[-1].slice(batches[-1].num_rows - 1)
        time_ns, shard, position, row = (last.column(index) for index in indexes)
        after = RowKey(time_ns.cast(pa.int64())[0].as_py(), *(int(each[0].as_py()) for each in (shard, position, row)))
    assert pages == whole


async def test_fields_keep_the_row_key_behind_what_was_asked(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 3)])
    query = asked(None, Fields((resolve("user"), resolve("row"))))
    async with store.query(query) as result:
        batches = [batch async for batch in result.batches()]
        assert [(each.name, each.hidden) for each in result.columns] == [
            ("user", False),
            ("row", False),
            ("time", True),
            ("shard", True),
            ("position", True),
        ]
        assert result.key_indexes == (2, 3, 4, 1)
    assert batches[0].column(0).to_pylist() == ["u2", "u1", "u0"]


async def test_snapshot_shows_nothing_behind_its_positions(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(position, 4) for position in range(1, 6)])
    rows = await rows_of(store, asked(through=3))
    assert {row["position"] for row in rows} == {1, 2, 3}
    rows = await rows_of(store, asked(through=4, after_positions={0: 2}, order=Order.JOURNAL))
    assert [row["position"] for row in rows] == [3] * 4 + [4] * 4


async def test_datasets_that_were_not_asked_for_stay_out(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 4), frame(2, 6, dataset="dumps")])
    assert len(await rows_of(store, asked())) == 10
    assert len(await rows_of(store, asked(datasets=["dumps"]))) == 6
    rows = await rows_of(store, asked(None, counted("dataset"), datasets=["logs", "dumps"]))
    assert sorted((row["dataset"], row["n"]) for row in rows) == [("dumps", 6), ("logs", 4)]


@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (0, 3600), (7, 3607.5), (61, 3599), (None, 2000), (1999, None), (61, 119), (-1e6, -10), (60, 120)],
)
async def test_every_path_counts_the_same(store: ClickHouseLogStore, start: float | None, end: float | None) -> None:
    await fill(store, [frame(position, 900) for position in (1, 3)])
    await fill(store, [frame(2, 900), frame(4, 200, dataset="dumps")])
    base = TIME_NS + 1000 * SECOND_NS
    bounds = [None if each is None else base + int(each * SECOND_NS) for each in (start, end)]
    for stage in (counted("service", bucket_ns=5 * MINUTE_NS), counted("host"), counted(), counted("severity")):
        filter_ = None if stage.by else Compare(resolve("service"), Operator.EQ, "api")
        answers = {}
        for path in (Path.ROLLUP, Path.MINUTE_COLUMN, Path.SCAN):
            query = asked(filter_, stage, time_range=TimeRange(*bounds), path=path)
            async with store.query(query) as result:
                batches = [batch async for batch in result.batches()]
                answers[path] = sorted(pa.Table.from_batches(batches, result.schema).to_pylist(), key=repr)
                if path is Path.ROLLUP:
                    assert result.plan.path is Path.ROLLUP
        assert answers[Path.ROLLUP] == answers[Path.SCAN]
        assert answers[Path.MINUTE_COLUMN] == answers[Path.SCAN]


async def test_rollups_are_not_read_before_they_are_settled(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 9)])
    await store.insert(FrameRange(0, 2, 2), [frame(2, 5)], token="unsettled")
    async with store.query(asked(None, counted(), through=1)) as result:
        assert result.plan.path is Path.SCAN
        assert [batch.to_pylist() async for batch in result.batches()] == [[{"n": 9}]]
    store.settled({0: 2})
    async with store.query(asked(None, counted(), through=1)) as result:
        assert result.plan.path is Path.ROLLUP
        assert result.through == {0: 2}
        assert [batch.to_pylist() async for batch in result.batches()] == [[{"n": 14}]]


async def test_row_limit_cuts_the_answer_and_says_so(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 50)])
    async with store.query(asked(limits=Limits(result_rows=20))) as result:
        assert sum([batch.num_rows async for batch in result.batches()]) == 20
        assert result.statistics.truncated_by == "result_rows"
    async with store.query(asked(limits=Limits(result_rows=50))) as result:
        assert sum([batch.num_rows async for batch in result.batches()]) == 50
        assert result.statistics.truncated_by == ""


async def test_limits_that_are_reached_before_any_row_are_errors(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 2000)])
    with pytest.raises(QueryCostError):
        await rows_of(store, asked(SLOW, limits=Limits(scan_rows=100)))
    with pytest.raises(QueryTimeoutError):
        await rows_of(store, asked(None, counted("body"), limits=Limits(time_s=0.001)))
    # An engine that failed a statement must not mix its remains into the next answer of the same connection.
    for _ in range(4):
        assert len(await rows_of(store, asked(None, counted("service"), path=Path.SCAN))) == 3


async def test_closing_early_stops_the_statement_in_the_engine(
    store: ClickHouseLogStore, chdb_engine: ChdbEngine
) -> None:
    await fill(store, [frame(position, 4000) for position in range(1, 4)])
    watcher = chdb_engine.connect()

    async def running() -> int:
        sql = "SELECT count() AS n FROM system.processes WHERE startsWith(Settings['log_comment'], 'query-')"
        return int(watcher.table(sql).column("n")[0].as_py())

    async with store.query(asked()) as result:
        async for _ in result.batches():
            break
    assert await running() == 0
    # Nobody gets a row before the caller gives up.
    store._tables = _Slow(store._tables)  # type: ignore[assignment]
    waiting = asyncio.create_task(rows_of(store, asked()))
    await asyncio.sleep(0.3)
    assert await running() == 1
    started = asyncio.get_running_loop().time()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.get_running_loop().time() - started < 1.5
    assert await running() == 0
    watcher.close()


class _Slow:
    """Names that make the engine work for long without a row to show."""

    def __init__(self, tables: object) -> None:
        self._tables = tables

    def over(self, datasets: object, rollup: object = None) -> str:
        del rollup
        table = self._tables.over(datasets)  # type: ignore[attr-defined]
        slow = "CROSS JOIN numbers(1000000) AS n WHERE cityHash64(t.body, n.number) = 1"
        return f"(SELECT t.*, t.minute FROM {table} AS t {slow})"  # noqa: S608 - no value in it


async def test_busy_connections_are_an_overload(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 3)])
    async with store.query(asked()), store.query(asked()):
        with pytest.raises(BudgetExceededError):
            async with store.query(asked(limits=Limits(time_s=0.05))):
                pass
    assert len(await rows_of(store, asked())) == 3


async def test_whole_range_is_recovered_as_whole(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 90), frame(2, 70, dataset="dumps")])
    assert await store.recover(FrameRange(0, 1, 2), 160)
    store.settled({0: 2})
    for dataset in ("logs", "dumps"):
        counts = await rollup_counts(store, dataset)
        assert counts["rollup severity"] == counts["scan severity"]
        assert counts["rollup host"] == counts["scan host"]
    assert len(await rows_of(store, asked())) == 160


async def test_part_of_a_range_is_removed_with_its_counts(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 90), frame(2, 70, dataset="dumps")])
    await fill(store, [frame(3, 50), frame(4, 40, dataset="dumps")])
    assert not await store.recover(FrameRange(0, 3, 4), 91)
    store.settled({0: 2})
    assert len(await rows_of(store, asked())) == 160
    for dataset in ("logs", "dumps"):
        counts = await rollup_counts(store, dataset)
        assert counts["rollup severity"] == counts["scan severity"]
        assert counts["rollup host"] == counts["scan host"]
    assert not await store.recover(FrameRange(0, 3, 4), 90)
    await fill(store, [frame(3, 50), frame(4, 40, dataset="dumps")])
    assert await store.recover(FrameRange(0, 3, 4), 90)


async def test_nothing_of_refused_content_stays(store: ClickHouseLogStore, chdb_engine: ChdbEngine) -> None:
    connection = chdb_engine.connect()
    connection.command(f"ALTER TABLE {store._tables.records('dumps')} ADD CONSTRAINT c CHECK body != 'poison'")
    connection.close()
    frames = [frame(1, 9), frame(2, 5, dataset="dumps"), frame(3, 1, dataset="dumps", body="poison")]
    with pytest.raises(InvalidInputError) as caught:
        await store.insert(FrameRange(0, 1, 3), frames, token="refused")
    assert "poison" not in str(caught.value)
    assert await rows_of(store, asked()) == []
    await fill(store, frames[:2])
    assert len(await rows_of(store, asked())) == 14


async def test_more_periods_than_one_insert_may_touch_are_all_inserted(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 60, step_ns=DAY_NS)])
    assert len(await rows_of(store, asked())) == 60
    counts = await rollup_counts(store, "logs")
    assert counts["rollup host"] == counts["scan host"]
    assert sum(row["n"] for row in counts["rollup host"]) == 60


async def test_record_of_a_dataset_that_left_the_configuration_is_stored(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 3, dataset="gone")])
    assert len(await rows_of(store, asked(datasets=["gone"]))) == 3
    with pytest.raises(InvalidInputError):
        await store.insert(FrameRange(0, 2, 2), [frame(2, 1, dataset="`; no")], token="bad")


async def test_fields_and_their_values_are_told(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10), frame(2, 10, attributes={}, resource={"user": "x", "zone": "z"})])
    fields = {field.name: field for field in await store.fields(TimeRange(), [])}
    assert (fields["ms"].type, fields["ms"].record_count, fields["ms"].sampled_count) == ("number", 20, 20)
    assert (fields["user"].type, fields["user"].record_count) == ("keyword", 10)
    assert fields["resource.zone"].record_count == 10
    assert fields["service"].type == "keyword"
    assert "span_id" not in fields
    values = await store.field_values(resolve("user"), asked(), count_max=2)
    assert [(each.value, each.record_count) for each in values] == [("x", 10), ("u0", 3)]
    numbers = await store.field_values(resolve("severity"), asked(), count_max=5)
    assert [(each.value, each.record_count) for each in numbers] == [("9", 10), ("17", 10)]


async def test_usage_counts_records_and_bytes(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 10)])
    usage = {each.dataset: each for each in await store.usage()}
    assert usage["logs"].record_count == 10
    assert usage["logs"].size_bytes > 0
    assert usage["logs"].newest_time_ns == TIME_NS + 1009 * SECOND_NS
    assert usage["dumps"].record_count == 0


async def test_old_periods_go_first_and_with_their_counts(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 40, step_ns=DAY_NS // 10, start_ns=TIME_NS - 100 * DAY_NS)])
    before = await store.usage()
    cutoff = TIME_NS + DAY_NS + DAY_NS // 2
    assert list((await store.expire("logs", before_ns=cutoff, size_bytes_max=None)).values()) == [10]
    rows = await rows_of(store, asked())
    assert len(rows) == 30
    counts = await rollup_counts(store, "logs")
    assert counts["rollup host"] == counts["scan host"]
    dropped = await store.expire("logs", before_ns=None, size_bytes_max=before[0].size_bytes // 2)
    assert list(dropped) == sorted(dropped)
    assert 10 <= sum(dropped.values()) <= 20
    await store.expire("logs", before_ns=None, size_bytes_max=0)
    assert len(await rows_of(store, asked())) == 10


async def test_old_records_that_came_in_lately_stay(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 4, step_ns=-DAY_NS // 100)])
    assert await store.expire("logs", before_ns=TIME_NS, size_bytes_max=None) == {}
    assert sum((await store.expire("logs", before_ns=TIME_NS + 2 * DAY_NS, size_bytes_max=None)).values()) == 4


async def test_explain_tells_path_estimate_and_no_values(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(1, 500), frame(2, 10, dataset="dumps")])
    plan = await store.explain(asked(Words(resolve("body"), ("secretword",))))
    assert plan.path is Path.TEXT_INDEX
    assert "Name: words" in plan.detail
    assert not any("secretword" in line for line in (plan.sql, *plan.detail))
    plan = await store.explain(asked(Regex(resolve("body"), "z+"), Limit(5)))
    assert plan.path is Path.NEWEST_FIRST
    assert plan.estimated_rows == 510
    assert plan.estimated_bytes > 510 * 20
    assert (await store.explain(asked(None, counted("service")))).path is Path.ROLLUP
    # the engine quotes an id in its plan as the bytes that it is
    assert "Name: trace" in (await store.explain(asked(Compare(resolve("trace_id"), Operator.EQ, "ff" * 16)))).detail


async def test_newer_schema_and_changed_partitioning_are_refused(
    engine: Engine, store: ClickHouseLogStore, chdb_engine: ChdbEngine
) -> None:
    await fill(store, [frame(1, 3)])
    database = store._tables.database
    await store.close()
    monthly = Dataset("logs", PartitionUnit.MONTH)
    with pytest.raises(ConfigurationError, match="logs"):
        await ClickHouseLogStore(engine, ClickHouseConfig(database, (monthly,))).open()
    # A hot key that is new becomes a column; a dataset that left the configuration stays readable.
    wider = Dataset("logs", hot_keys=("user", "http.path"))
    async with opened_store(engine, database, datasets=[wider]) as again:
        assert len(await rows_of(again, asked(Compare(resolve("user"), Operator.EQ, "u1")))) == 1
        assert {each.dataset for each in await again.usage()} == {"logs", "dumps"}
    connection = chdb_engine.connect()
    connection.command(f"INSERT INTO {store._tables.meta} VALUES ('schema_version', '999', now64(9))")  # noqa: S608
    connection.close()
    with pytest.raises(ConfigurationError, match="999"):
        await ClickHouseLogStore(engine, ClickHouseConfig(database)).open()


async def test_closing_the_store_ends_what_runs(store: ClickHouseLogStore) -> None:
    await fill(store, [frame(position, 4000) for position in range(1, 4)])
    store._tables = _Slow(store._tables)  # type: ignore[assignment]
    waiting = asyncio.create_task(rows_of(store, asked()))
    await asyncio.sleep(0.2)
    await store.close()
    with pytest.raises(StoreError):
        await waiting
    with pytest.raises(StoreError):
        await rows_of(store, asked())
    await store.close()


async def test_a_store_names_itself_and_whose_records_it_holds(engine: Engine, chdb_database: str) -> None:
    name = f"{chdb_database}_identity"
    async with opened_store(engine, name) as store:
        first = await store.identify()
        assert first.store_id
        assert not first.journal_id
        await store.claim("j1")
        assert await store.identify() == StoreIdentity(first.store_id, "j1")
    async with opened_store(engine, name) as store:
        assert await store.identify() == StoreIdentity(first.store_id, "j1")
    connection = engine.connect()
    connection.command(f"DROP DATABASE {name} SYNC")
    connection.close()
    async with opened_store(engine, name) as store:
        assert (await store.identify()).store_id != first.store_id, "a deleted one comes back as another one"


async def test_a_store_tells_whether_it_holds_records_behind_a_position(engine: Engine, chdb_database: str) -> None:
    async with opened_store(engine, f"{chdb_database}_{type(engine).__name__}") as store:
        assert not await store.holds_beyond(0, 0)
        await fill(store, [frame(3, 2), frame(7, 2, dataset="dumps")])
        assert [await store.holds_beyond(0, position) for position in (0, 6, 7, 2**63 - 1)] == [
            True,
            True,
            False,
            False,
        ]
        assert not await store.holds_beyond(1, 0)


async def test_a_store_of_an_older_schema_version_gets_the_columns_that_came_later(
    engine: Engine, chdb_database: str
) -> None:
    name = f"{chdb_database}_older_{type(engine).__name__}"
    async with opened_store(engine, name) as store:
        await fill(store, [frame(1, 3)])
        meta, records = store._tables.meta, store._tables.records("logs")
    connection = engine.connect()
    later = "DROP COLUMN tlp, DROP COLUMN tokens, DROP COLUMN principal"
    connection.command(f"ALTER TABLE {records} DROP INDEX IF EXISTS token_words, {later}")
    connection.command(f"TRUNCATE TABLE {meta}")
    connection.close()
    async with opened_store(engine, name) as store:
        await fill(store, [frame(2, 3, tlp="amber", tokens="0abc", principal=ANN)])
        names = ("position", "tlp", "tokens", "principal")
        rows = await rows_of(store, asked(None, Fields(tuple(map(resolve, names)))))
        found = sorted(tuple(row[name] for name in names) for row in rows)
        assert found == [(1, "", "", "")] * 3 + [(2, "amber", "0abc", ANN)] * 3
        assert len(await rows_of(store, asked(Compare(resolve("principal"), Operator.EQ, ANN)))) == 3
        assert len(await rows_of(store, asked(Words(resolve("tokens"), ("0abc",))))) == 3
        assert len(await rows_of(store, asked(None, counted("service")))) == 3
