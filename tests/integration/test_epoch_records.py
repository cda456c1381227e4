"""Whether a store still holds a record of an epoch's time: what decides over the epoch's key, asked of a real store."""

from __future__ import annotations

from heimdall_server.domain.expression.tree import All, TimeRange
from heimdall_server.ports.log_store import Limits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.wiring.epochs import holds_records
from tests.support.log_stores import DAY_NS, TIME_NS, fill, frame, opened_store


async def test_only_records_at_or_before_the_position_count_in_every_dataset(chdb_engine: ChdbEngine) -> None:
    limits = Limits(scan_rows=2**62)
    async with opened_store(chdb_engine, "epoch_records") as store:
        assert not await holds_records(store, 1000, 0, limits)
        await fill(store, [frame(5, 100, dataset="dumps"), frame(9, 100)])
        assert [await holds_records(store, position, 0, limits) for position in (4, 5, 8, 9)] == [
            False,
            True,
            True,
            True,
        ]
        await store.delete(All(), time_range=TimeRange(), datasets=["dumps"], through={0: 8})
        assert [await holds_records(store, position, 0, limits) for position in (5, 8, 9)] == [False, False, True]
        observed_ns = TIME_NS + DAY_NS
        assert await holds_records(store, 1, observed_ns + 1, limits)
        assert not await holds_records(store, 1, observed_ns, limits)
        await store.delete(All(), time_range=TimeRange(), datasets=[], through={0: 1000})
        assert not await holds_records(store, 1000, 0, limits)
