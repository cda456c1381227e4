"""Stored records are searched for entities as the graph reads records: by source and day, page by page, without those of dumps."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.canonical.identity import entity_ids as identities_of
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_hunting import LogSighting, Wanted
from heimdall_server.domain.graph_ids import entity_ids
from heimdall_server.projections.graph import record_search
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.record_search import StoredSightings
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from tests.support.log_stores import DAY_NS, TIME_NS, fill, frame, opened_store

MD5 = "0cc175b9c0f1b6a831c399e269772661"
FIRST_DAY = TIME_NS // DAY_NS


def wanted(type_: str, value: str) -> Wanted:
    return Wanted(entity_ids(identities_of(type_, pa.array([value]))).to_pylist()[0], type_, value)


ADDRESS, DIGEST, ABSENT = wanted("ipv4", "203.0.113.7"), wanted("md5", MD5), wanted("domain", "nobody.example")


@contextlib.asynccontextmanager
async def _admitted() -> AsyncIterator[None]:
    yield


async def _no_words(tokens: Sequence[str]) -> Sequence[str]:
    raise AssertionError(tokens)


def searching(store: Any) -> StoredSightings:
    async def applied(_: int) -> bool:
        return True

    nothing: Any = None
    identities = Identities(nothing, nothing, lambda message: hashlib.sha256(message).digest(), wait_applied=applied)
    return StoredSightings(store, identities, instance="here", through=dict, words=_no_words, admitted=_admitted)


@pytest.fixture
async def store(chdb_engine: ChdbEngine) -> AsyncIterator[ClickHouseLogStore]:
    async with opened_store(chdb_engine, f"searched_{uuid.uuid4().hex}") as opened:
        day: dict[str, Any] = {"step_ns": 1}
        frames = [
            frame(1, 5, body="login from 203.0.113.7", source="auth", **day),
            frame(2, 3, body=f"dropped {MD5} of 203.0.113.70", source="edr", start_ns=TIME_NS + DAY_NS, **day),
            frame(3, 2, body="203.0.113.7 again", source="auth", tlp="red", **day),
            frame(4, 2, body="203.0.113.7 and again", source="auth", start_ns=TIME_NS + 3 * DAY_NS, **day),
            frame(5, 4, body="203.0.113.7", source="leak", dump="forum", **day),
            frame(6, 4, body="nothing of it", source="auth", **day),
        ]
        await fill(opened, frames)
        yield opened


async def found_by(
    store: Any, *entities: Wanted, since_ns: int = TIME_NS, until_ns: int = TIME_NS + 10 * DAY_NS
) -> list[LogSighting]:
    found: list[LogSighting] = []
    pieces = searching(store).sightings(entities, since_ns=since_ns, until_ns=until_ns)
    async with contextlib.aclosing(pieces) as days:
        async for some, _ in days:
            found += some
    return found


async def test_each_source_and_day_is_counted_once_over_all_pages(
    store: ClickHouseLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        (ADDRESS.id, "auth", FIRST_DAY, Tlp.AMBER, 5),
        (ADDRESS.id, "auth", FIRST_DAY + 3, Tlp.AMBER, 2),
        (DIGEST.id, "edr", FIRST_DAY + 1, Tlp.AMBER, 3),
    }
    monkeypatch.setattr(record_search, "_PAGE_ROWS", 2)
    monkeypatch.setattr(record_search, "_LIMITS", replace(record_search._LIMITS, result_rows=2))
    found = await found_by(store, ADDRESS, DIGEST, ABSENT)
    assert {(one.id, one.source, one.day, one.tlp, one.count) for one in found} == expected
    assert len(found) == len(expected)
    assert all(one.first_ns // DAY_NS == one.day == one.last_ns // DAY_NS for one in found)


async def test_only_records_of_the_range_are_searched(store: ClickHouseLogStore) -> None:
    late = await found_by(store, ADDRESS, since_ns=TIME_NS + DAY_NS)
    assert [(one.day, one.count) for one in late] == [(FIRST_DAY + 3, 2)]
    assert not await found_by(store, ADDRESS, since_ns=TIME_NS + DAY_NS, until_ns=TIME_NS + 2 * DAY_NS)


class Volume:
    """A store that knows how much it has."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows

    def rows_between(self, time_range: TimeRange, datasets: Sequence[str]) -> int:
        assert not datasets
        begin, end = time_range.start_ns_inclusive or 0, time_range.end_ns_exclusive or 0
        return sum(self._rows[day % len(self._rows)] for day in range(begin // DAY_NS, -(-end // DAY_NS)))


@given(
    since_ns=st.integers(0, 100 * DAY_NS),
    length_ns=st.integers(1, 100 * DAY_NS),
    rows=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=9),
)
def test_slices_cover_a_range_once_and_join_days_only_while_they_are_small(
    since_ns: int, length_ns: int, rows: list[int]
) -> None:
    volume = Volume(rows)
    slices = list(searching(volume)._slices(since_ns, since_ns + length_ns))
    assert slices[0].end_ns_exclusive == since_ns + length_ns
    assert slices[-1].start_ns_inclusive == since_ns
    for later, earlier in itertools.pairwise(slices):
        assert later.start_ns_inclusive == earlier.end_ns_exclusive
    for one in slices:
        begin, end = one.start_ns_inclusive or 0, one.end_ns_exclusive or 0
        days = -(-end // DAY_NS) - begin // DAY_NS
        assert days == 1 or (days <= 31 and volume.rows_between(one, ()) <= record_search._SLICE_ROWS)
