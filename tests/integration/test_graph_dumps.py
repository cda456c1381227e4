"""Dumps in the graph: taken in again in other cuts, profiled, compared, under a ceiling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_dumps import DescribedDump, MatchMethod
from heimdall_server.domain.graph_ids import dump_id, field_id
from heimdall_server.domain.records import RECORD_SCHEMA, TimeFlag
from heimdall_server.ports.journal import Entry
from heimdall_server.services.graph.logic.dumps import DumpComparing
from heimdall_server.services.graph.model import Ceiling, Named
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.storage.postgres.graph.dump_reading import PostgresGraphDumps
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.integration.test_graph_projection import projection, running
from tests.support.graphs import canonical_dump
from tests.support.journal import opened, small_config
from tests.support.random_records import TIME_NS, record

pytestmark = pytest.mark.usefixtures("postgres_clean")
COUNT = 60


class ByName:
    """Finds a dump as the service does."""

    def __init__(self, pool: PostgresPool) -> None:
        self._reader = PostgresGraphReader(pool)

    async def find(self, named: Named, tlp_max: Tlp) -> tuple[bytes, Any]:
        id_ = dump_id(named.value)
        return id_, (await self._reader.get([id_], tlp_max=tlp_max))[id_]


def rows(
    dump: str,
    first: int = 0,
    *,
    names: Sequence[str] = ("addr", "host", "age"),
    time_ns: int = TIME_NS,
    tlp: str = "amber",
) -> list[dict[str, Any]]:
    """Records that don't tell their time; addresses are entities, hosts aren't."""
    address, host, age = names
    return [
        record(
            number,
            source=f"file:{dump}",
            dump=dump,
            record_number=number - first + 1,
            tlp=tlp,
            time=time_ns,
            observed_time=time_ns,
            time_flags=int(TimeFlag.MISSING),
            attributes={address: f"10.0.0.{number % 250}", host: f"host {number}" if number % 10 else ""},
            attributes_number={age: float(number % 7)},
        )
        for number in range(first, first + COUNT)
    ]


def entries(records: Sequence[dict[str, Any]], *cuts: int) -> list[Entry]:
    bounds = [0, *cuts, len(records)]
    parts = [records[begin:end] for begin, end in pairwise(bounds)]
    return [Entry(pa.RecordBatch.from_pylist(part, schema=RECORD_SCHEMA)) for part in parts]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[EmbeddedJournal]:
    async with opened(small_config(tmp_path / "journal")) as found:
        yield found


async def applied(journal: EmbeddedJournal, pool: PostgresPool, some: Sequence[Entry] = ()) -> list[tuple[object, ...]]:
    """The graph after some more frames."""
    async with running(projection(journal, pool)) as follower:
        for entry in some:
            await journal.append([entry])
        assert await follower.wait_applied(journal.head()[0], 20)
    return [row for row in await canonical_dump(pool) if row[0] != "graph_applied"]


async def described(pool: PostgresPool, dump: str, tlp: Tlp = Tlp.RED) -> DescribedDump:
    found = await PostgresGraphDumps(pool).describe(dump_id(dump), tlp_max=tlp)
    assert found is not None
    return found


async def test_a_dump_that_is_taken_in_again_changes_nothing_however_it_is_cut(
    journal: EmbeddedJournal, postgres_pool: PostgresPool
) -> None:
    first = await applied(journal, postgres_pool, entries(rows("forum"), 7, 8))
    later = rows("forum", time_ns=TIME_NS + 86_400 * 10**9)
    assert await applied(journal, postgres_pool, entries(later, 30)) == first
    await PostgresGraphWriter(postgres_pool).forget()
    assert await applied(journal, postgres_pool) == first
    longer = [*later, {**later[-1], "record_number": COUNT + 1, "attributes": {"addr": "192.0.2.9"}}]
    more = await applied(journal, postgres_pool, entries(longer, 1, 59))
    assert any('"192.0.2.9"' in str(row) for row in more)
    assert (await described(postgres_pool, "forum")).row_count == COUNT + 1


async def test_a_dump_tells_what_its_fields_hold(journal: EmbeddedJournal, postgres_pool: PostgresPool) -> None:
    await applied(journal, postgres_pool, entries(rows("forum"), 13))
    found = await described(postgres_pool, "forum")
    assert (found.row_count, found.field_count) == (COUNT, 3)
    told = {
        one.name: (one.profile.value_count, one.profile.empty_count, one.profile.sketch.distinct, one.profile.type)
        for one in found.fields
    }
    assert told == {"addr": (60, 0, 60, "ipv4"), "host": (54, 6, 54, "text"), "age": (60, 0, 7, "number")}
    age = next(one.profile for one in found.fields if one.name == "age")
    assert (age.number_min, age.number_max, age.characters_min, age.characters_max) == (0.0, 6.0, 1, 1)
    assert {text for _, text in age.samples} < {str(number) for number in range(7)}
    field = await PostgresGraphDumps(postgres_pool).describe(field_id(dump_id("forum"), "age"), tlp_max=Tlp.RED)
    assert field is not None
    assert (field.row_count, [one.name for one in field.fields]) == (COUNT, ["age"])
    assert await PostgresGraphDumps(postgres_pool).describe(dump_id("forum"), tlp_max=Tlp.GREEN) is None


@pytest.mark.parametrize("method", [MatchMethod.EXACT, MatchMethod.ESTIMATED, MatchMethod.BY_SIZE])
async def test_dumps_are_compared_by_entity_and_by_text_below_the_ceiling(
    journal: EmbeddedJournal, postgres_pool: PostgresPool, method: MatchMethod
) -> None:
    shop = rows("shop", 40, names=("last_ip", "login", "years"))
    secret = [
        {**one, "tlp": "red", "record_number": COUNT + number, "attributes": {"last_ip": f"10.0.0.{number}"}}
        for number, one in enumerate(shop[:40], 1)
    ]
    await applied(journal, postgres_pool, entries([*rows("forum"), *shop, *secret], 50, 100, 130))
    comparing = DumpComparing(PostgresGraphDumps(postgres_pool), ByName(postgres_pool))  # type: ignore[arg-type]

    async def matched(ceiling: Tlp, minimum: float = 0.0) -> list[tuple[str, str, int, bool]]:
        found = await comparing.match(
            Named(type="dump", value="forum"),
            Named(type="dump", value="shop"),
            Ceiling(ceiling),
            method=method,
            containment_min=minimum,
            count_max=10,
            time_s=10,
        )
        assert all(one.similarity_error == 0 for one in found.matches)
        return [(one.a.name, one.b.name, one.shared, one.is_counterpart) for one in found.matches]

    assert await matched(Tlp.AMBER) == [
        ("age", "years", 7, True),
        ("addr", "last_ip", 20, True),
        ("host", "login", 18, True),
    ]
    assert ("addr", "last_ip", 59, True) in await matched(Tlp.RED)
    assert [one[:2] for one in await matched(Tlp.AMBER, 0.9)] == [("age", "years")]
