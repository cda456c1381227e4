"""What stored records say of entities that the graph can't have seen in them: some days at a time, the newest first, by the store's search for sets.

The store finds the records; which of the entities each holds is read from it as the projection reads records, so both count alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

import polars as pl
import pyarrow as pa

from heimdall_server.canonical.entity_sets import entity_set
from heimdall_server.canonical.observables import TOKEN_TYPE
from heimdall_server.domain.entity_sets import DIGEST_TYPES
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import Exists, Not, TimeRange
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_hunting import LogSighting, Wanted
from heimdall_server.domain.records import POSITIONED_SCHEMA, RECORD_SCHEMA
from heimdall_server.planner.graph_terms import records_holding
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import Limits, LogStore, Order, RowKey
from heimdall_server.projections.graph.config import FINDABLE_TYPES
from heimdall_server.projections.graph.extraction import who_says
from heimdall_server.projections.graph.facts import DAY_NS, Records, identified, spans
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.observations import TEXT_TYPES, observe

GRAPH_TYPES: Final = frozenset(TEXT_TYPES) - {TOKEN_TYPE}
"""Types that the graph finds wherever they stand; tokens besides."""
SEARCHED_TYPES: Final = GRAPH_TYPES | DIGEST_TYPES
"""Types that records can be searched for; tokens besides."""
_PAGE_ROWS: Final = 8_192
_PAGES_MAX: Final = 32
"""Of one query: whatever is in more records is no find."""
_SLICE_ROWS: Final = 2_000_000
"""Records of several days that are searched by one query, about."""
_DAYS_MAX: Final = 31
_LIMITS: Final = Limits(time_s=120.0, scan_rows=2**62, result_rows=_PAGE_ROWS, threads=1, background=True)
_IN_NO_DUMP: Final = Not(Exists(FieldRef(Scope.CORE, "dump")))


class StoredSightings:
    """Implements `ports.graph_hunting.RecordSearch`."""

    def __init__(
        self,
        store: LogStore,
        identities: Identities,
        *,
        instance: str,
        through: Callable[[], Positions],
        words: Callable[[Sequence[str]], Awaitable[Sequence[str]]],
        admitted: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """Take what it asks.

        Args:
            store: Of the records.
            identities: Say whose tokens are.
            instance: Who took the records in.
            through: Positions up to which the store is whole.
            words: The words of all living epochs of the values behind some tokens.
            admitted: Lets a query of a page run when there is room for it.
        """
        self._store = store
        self._identities = identities
        self._instance = instance
        self._through = through
        self._words = words
        self._admitted = admitted

    async def sightings(
        self, wanted: Sequence[Wanted], *, since_ns: int, until_ns: int
    ) -> AsyncGenerator[tuple[Sequence[LogSighting], int], None]:
        """See the port."""
        tokens = [one.value for one in wanted if one.value.startswith("[")]
        by_type: dict[str, list[str]] = {}
        for one in wanted:
            by_type.setdefault(one.type, []).append(one.value)
        words = await self._words(tokens) if tokens else ()
        entities = await asyncio.to_thread(entity_set, by_type, words)
        ids = pl.Series([one.id for one in wanted], dtype=pl.Binary)
        for range_ in self._slices(since_ns, until_ns):
            asked = records_holding(entities, range_, through=self._through(), filter_=_IN_NO_DUMP)
            asked = replace(asked, order=Order.OLDEST_FIRST, limits=_LIMITS)
            parts: list[pl.DataFrame] = []
            read_count = 0
            for _ in range(_PAGES_MAX):
                async with self._admitted(), self._store.query(asked) as result:
                    batches = [batch.select(POSITIONED_SCHEMA.names) async for batch in result.batches()]
                    read_count += result.statistics.rows_read
                if batches:
                    parts.append(await self._said(batches, ids))
                    asked = replace(asked, after=_key_of(batches[-1]))
                if sum(map(len, batches)) < _PAGE_ROWS:
                    break
            yield _summed(parts), read_count

    def _slices(self, since_ns: int, until_ns: int) -> Iterator[TimeRange]:
        """Days, the newest first, as many together as one query may read: so that who waits for the machine doesn't wait long."""
        end_ns = until_ns
        while end_ns > since_ns:
            begin_ns = max(since_ns, (end_ns - 1) // DAY_NS * DAY_NS)
            for _ in range(_DAYS_MAX - 1):
                earlier_ns = max(since_ns, begin_ns - DAY_NS)
                if earlier_ns == begin_ns or self._store.rows_between(TimeRange(earlier_ns, end_ns), ()) > _SLICE_ROWS:
                    break
                begin_ns = earlier_ns
            yield TimeRange(begin_ns, end_ns)
            end_ns = begin_ns

    async def _said(self, batches: Sequence[pa.RecordBatch], ids: pl.Series) -> pl.DataFrame:
        records = pa.Table.from_batches(batches).select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA)
        whole = records.combine_chunks().to_batches()[0]
        observed = await asyncio.to_thread(observe, whole, FINDABLE_TYPES)
        tokens = observed.filter(pl.col("type") == TOKEN_TYPE)["value"].unique().to_list()
        learned = await self._identities.learn(tokens, through=0)

        def say() -> pl.DataFrame:
            codes, provenances = who_says(whole, self._instance)
            times = pl.Series(whole.column("time").cast(pa.int64()))
            described = Records(codes, times, pl.zeros(len(times), dtype=pl.Int64, eager=True)).frame()
            seen = identified(observed, lambda name, values: self._identities.of(name, values, learned))
            once = seen.filter(pl.col("id").is_in(ids.implode())).unique(["row", "id"]).join(described, on="row")
            who = pl.DataFrame(
                [(code, one.source, one.tlp.value) for code, one in enumerate(provenances)],
                schema={"provenance": pl.UInt16, "source": pl.String, "tlp": pl.Int16},
                orient="row",
            )
            return spans(once, ["id", "provenance", "day"]).join(who, on="provenance")

        return await asyncio.to_thread(say)


def _summed(parts: Sequence[pl.DataFrame]) -> list[LogSighting]:
    """Of each source and day what the least strict records of it say."""
    if not parts:
        return []
    summed = (
        pl.concat(parts)
        .group_by("id", "source", "day", "tlp")
        .agg(pl.col("count").sum(), pl.col("first_ns").min(), pl.col("last_ns").max())
        .sort("tlp")
        .unique(["id", "source", "day"], keep="first", maintain_order=True)
    )
    return [
        LogSighting(id_, source, day, Tlp(tlp), count, first_ns, last_ns)
        for id_, source, day, tlp, count, first_ns, last_ns in summed.select(
            "id", "source", "day", "tlp", "count", "first_ns", "last_ns"
        ).iter_rows()
    ]


def _key_of(batch: pa.RecordBatch) -> RowKey:
    time_ns, shard, position, row = (
        int(batch.column(name).cast(pa.int64())[-1].as_py()) for name in ("time", "shard", "position", "row")
    )
    return RowKey(time_ns, shard, position, row)
