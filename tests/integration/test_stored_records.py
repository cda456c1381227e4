"""What is asked of all stored records at once leaves none out: not those beyond a limit, not those the store hasn't taken in yet."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from heimdall_server.domain.errors import StoreBehindError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Limits
from heimdall_server.services.query.logic.admission import Admission, AdmissionLimits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.wiring.stored_records import StoredRecords
from tests.support.journal_feeder import SystemClock
from tests.support.log_stores import fill, frame, opened_store

ALICE = TokenName("email", "1" + "k" * 26)
BOB = TokenName("email", "1" + "b" * 26)


class Reached:
    """A projection that is as far as it is."""

    lag_s = 0.0

    def __init__(self, position: int) -> None:
        self.visible_through: Positions = {0: position}

    async def wait_through(self, positions: Positions, timeout_s: float) -> bool:
        del timeout_s
        return all(self.visible_through[shard] >= last for shard, last in positions.items())


@asynccontextmanager
async def records(engine: ChdbEngine, database: str, *, head: int = 7, **limits: Any) -> AsyncIterator[StoredRecords]:
    """150 records of Alice, all but the first frame's at one time, and 50 of Bob; the store has all through position 7."""
    async with opened_store(engine, database) as store:
        frames = [frame(at, 50, step_ns=int(at == 3), body=f"login of {ALICE}") for at in (3, 4, 7)]
        await fill(store, [*frames, frame(5, 50, body=f"login of {BOB}")])
        unused = cast("Any", None)
        yield StoredRecords(
            store=store,
            visibility=Reached(7),
            head=lambda: {0: head},
            admission=Admission(AdmissionLimits()),
            clock=SystemClock(),
            terms=unused,
            tokeniser=unused,
            datasets=(),
            limits=Limits(**limits),
        )


async def places(found: StoredRecords, *names: TokenName) -> list[tuple[str, int, int]]:
    """Time, position and row of what a search gives, in its order."""
    rows: list[dict[str, Any]] = []
    async with aclosing(found.search(names, TimeRange())) as pieces:
        async for piece in pieces:
            rows += map(json.loads, piece)
    return [(row["time"], row["position"], row["row"]) for row in rows]


@pytest.mark.parametrize("result_rows", [7, 50, 149, 150, 1000])
async def test_a_search_goes_on_behind_each_limit_to_the_last_record(chdb_engine: ChdbEngine, result_rows: int) -> None:
    async with records(chdb_engine, f"stored_records_{result_rows}", result_rows=result_rows) as found:
        given = await places(found, ALICE)
    assert given == sorted(given)
    assert sorted((position, row) for _, position, row in given) == [(at, row) for at in (3, 4, 7) for row in range(50)]


async def test_nothing_is_counted_or_found_while_acknowledged_records_are_missing(chdb_engine: ChdbEngine) -> None:
    async with records(chdb_engine, "stored_records_behind", head=8) as found:
        with pytest.raises(StoreBehindError, match="try again in 5 s"):
            await found.count([ALICE])
        with pytest.raises(StoreBehindError):
            await places(found, ALICE)


async def test_records_are_counted_by_any_of_the_tokens(chdb_engine: ChdbEngine) -> None:
    async with records(chdb_engine, "stored_records_count") as found:
        assert [await found.count(names) for names in ((ALICE,), (ALICE, BOB), ())] == [150, 200, 0]
