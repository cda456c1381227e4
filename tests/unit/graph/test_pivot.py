"""Going from records to entities: what is counted, what is cut, what the ceiling keeps out."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.canonical.identity import entity_ids, personal_entity_ids
from heimdall_server.domain import graph_ids
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label
from heimdall_server.domain.graph_reading import Seen, Vertex
from heimdall_server.domain.graph_views import DumpsOf
from heimdall_server.domain.records import RECORD_SCHEMA, with_position
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.services.graph.logic import tally
from heimdall_server.services.graph.logic.pivot import Pivoting, PivotPorts
from heimdall_server.services.graph.model import Ceiling
from heimdall_server.services.graph.model_views import (
    Cut,
    CutReason,
    Pivoted,
    PivotIn,
    RecordBatches,
    RecordsEnd,
    RecordsIn,
)
from heimdall_server.wiring.pivot import under
from tests.support.random_records import TIME_NS, record

SECOND_NS = 10**9
ADA = "[email:1" + "a" * 26 + "]"
ADA_AGAIN = "[email:2" + "a" * 26 + "]"
GONE = "[email:1" + "b" * 26 + "]"
EVERYTHING = RecordsIn("*:*", TimeRange(), (), 100_000, 20.0)


def records(*rows: dict[str, Any], position: int = 1) -> pa.RecordBatch:
    told = [record(number, **({"time": TIME_NS + number * SECOND_NS} | row)) for number, row in enumerate(rows)]
    return with_position(pa.RecordBatch.from_pylist(told, schema=RECORD_SCHEMA), shard=0, position=position)


class Names:
    """Tokens whose word ends alike are one person's; one was erased."""

    def __init__(self) -> None:
        self.through = 0

    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        self.through = max(self.through, through)
        named = [token for token in tokens if f"[{token}]" != GONE]
        forms = pa.array([token[-20:] for token in named], pa.string())
        ids = personal_entity_ids("email", forms, lambda message: hashlib.sha256(message).digest())
        return dict(zip(named, ids.to_pylist(), strict=True))

    def of(self, type_name: str, values: pa.StringArray, learned: Mapping[str, str]) -> pa.StringArray:
        if type_name == "email":
            return pa.array([learned.get(value[1:-1]) for value in values.to_pylist()], pa.string())
        return entity_ids(type_name, values)


class Graph:
    """A graph that knows some addresses."""

    def __init__(self, *known: str, merged: Mapping[str, str] | None = None) -> None:
        self.known = {address(value): value for value in known}
        self._merged = {address(part): address(root) for part, root in (merged or {}).items()}

    async def get(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Vertex]:
        del tlp_max
        seen = Seen(TIME_NS, TIME_NS, 7, 80, Tlp.GREEN)
        return {id_: Vertex(id_, VertexKind.ENTITY, "ipv4", self.known[id_], seen) for id_ in ids if id_ in self.known}

    async def merged(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, bytes]:
        del tlp_max
        return {id_: self._merged[id_] for id_ in ids if id_ in self._merged}

    async def dumps_of(self, ids: Collection[bytes], *, tlp_max: Tlp, count_max: int = 10) -> Mapping[bytes, DumpsOf]:
        del tlp_max, count_max
        return {id_: DumpsOf(["forum"]) for id_ in ids}

    async def labels(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Label]:
        del tlp_max
        return [Label(id_, "c2", "ada", TIME_NS) for id_ in ids]


class Found:
    """Records that were found."""

    def __init__(self, *batches: pa.RecordBatch, cut: CutReason | None = None) -> None:
        self.batches = batches
        self.cut = cut
        self.closed = False

    def records(self, caller: str, asked: RecordsIn, *, tlp_max: Tlp) -> RecordBatches:
        del caller, asked, tlp_max
        return self._records()

    async def _records(self) -> AsyncGenerator[pa.RecordBatch | RecordsEnd, None]:
        try:
            for batch in self.batches:
                yield batch
            yield RecordsEnd(self.cut)
        finally:
            self.closed = True


class Waits(Found):
    """Records that never come."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def _records(self) -> AsyncGenerator[pa.RecordBatch | RecordsEnd, None]:
        try:
            self.begun.set()
            await asyncio.Event().wait()
            yield RecordsEnd(None)
        finally:
            self.closed = True


def address(value: str) -> bytes:
    return bytes(graph_ids.entity_ids(entity_ids("ipv4", pa.array([value])))[0].as_py())


async def pivot(
    found: Found,
    graph: Graph | None = None,
    *,
    types: Collection[str] = (),
    minimum: int = 1,
    limit: int = 100,
    records: RecordsIn = EVERYTHING,
    names: Names | None = None,
) -> Pivoted:
    graph = graph or Graph()
    ports = PivotPorts(
        found,
        names or Names(),
        graph,  # type: ignore[arg-type]  # what a pivot asks of it
        graph,  # type: ignore[arg-type]
        graph,  # type: ignore[arg-type]
        frozenset({"email"}),
        graph_lag_s=lambda: 1.5,
    )
    asked = PivotIn(records, frozenset(types), minimum, limit)
    return await Pivoting(ports).pivot("spiffe://test/ada", asked, Ceiling(Tlp.RED))


def counted(pivoted: Pivoted) -> list[tuple[str, int]]:
    return [(one.vertex.value, one.record_count) for one in pivoted.entities]


async def test_each_record_counts_once_wherever_it_names_an_entity() -> None:
    first = records(
        {"body": "from 192.0.2.1 to 192.0.2.1", "source": "a", "attributes": {"client_ip": "192.0.2.1"}},
        {"body": "x", "source": "b", "attributes": {"client_ip": "192.0.2.1"}},
        {"body": "evil.example at 192.0.2.2", "source": "b"},
    )
    second = records({"body": "192.0.2.1", "source": "leak", "dump": "forum", "record_number": 4}, position=2)
    found = await pivot(Found(first, second), Graph("192.0.2.1"))
    assert counted(found) == [("192.0.2.1", 3), ("192.0.2.2", 1), ("evil.example", 1)] or counted(found) == [
        ("192.0.2.1", 3),
        ("evil.example", 1),
        ("192.0.2.2", 1),
    ]
    most = found.entities[0]
    assert (most.is_known, most.labels, most.dumps.names, most.vertex.seen.count) == (True, ["c2"], ["forum"], 7)
    assert (most.first_ns, most.last_ns) == (TIME_NS, TIME_NS + SECOND_NS)
    assert (dict(most.sources), most.source_count) == ({"a": 1, "b": 1, "forum": 1}, 3)
    assert not any(one.is_known or one.labels or one.dumps.names for one in found.entities[1:]), "the graph lags"
    assert (found.record_count, found.entity_count, found.cuts, found.graph_lag_s) == (4, 3, [], 1.5)


async def test_only_entities_of_the_asked_types_that_enough_records_name_are_told() -> None:
    batch = records(
        {"body": f"192.0.2.1 2001:db8::1 evil.example {ADA}"},
        {"body": f"192.0.2.1 {ADA_AGAIN} {GONE}"},
        {"body": f"192.0.2.1 {ADA} {ADA_AGAIN}"},
    )
    assert sorted(counted(await pivot(Found(batch), types=["ip"]))) == [("192.0.2.1", 3), ("2001:db8::1", 1)]
    assert counted(await pivot(Found(batch), types=["email"])) == [(ADA_AGAIN, 3)], "one person, two epochs' tokens"
    assert counted(await pivot(Found(batch), types=["domain", "ipv6"], minimum=2)) == []
    assert sorted(counted(await pivot(Found(batch), minimum=3))) == [("192.0.2.1", 3), (ADA_AGAIN, 3)]
    names = Names()
    await pivot(Found(batch, records({"body": ADA}, position=9)), names=names)
    assert names.through == 9, "the vault must be as far as the records"
    with pytest.raises(InvalidArgumentError, match="there is no type 'wizard'"):
        await pivot(Found(batch), types=["wizard"])


async def test_entities_that_are_one_are_counted_as_one() -> None:
    batch = records({"body": "192.0.2.1 and 192.0.2.2"}, {"body": "192.0.2.2"})
    found = await pivot(Found(batch), Graph("192.0.2.1", "192.0.2.2", merged={"192.0.2.2": "192.0.2.1"}))
    assert counted(found) == [("192.0.2.1", 2)]


async def test_what_is_named_as_often_comes_by_what_the_graph_knows_of_it() -> None:
    batch = records(*({"body": f"192.0.2.{number}"} for number in range(9)))
    found = await pivot(Found(batch), Graph("192.0.2.3"), limit=2)
    assert [one.vertex.value for one in found.entities] == ["192.0.2.3", "192.0.2.8"]
    assert found.entity_count == 9
    assert found.cuts == [Cut(CutReason.ENTITY_COUNT, 2)]


async def test_whatever_ends_the_reading_is_said_and_the_search_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = records({"body": "192.0.2.1"})
    found = await pivot(Found(batch, cut=CutReason.RECORD_COUNT))
    assert found.cuts == [Cut(CutReason.RECORD_COUNT, 1)]
    slow = Found(batch, batch, batch)
    found = await pivot(slow, records=RecordsIn("*:*", TimeRange(), (), 100, 0.0))
    assert (found.cuts, slow.closed, found.record_count) == ([Cut(CutReason.TIME, 1)], True, 1)
    monkeypatch.setattr(tally, "BYTES_MAX", 1)
    many = Found(batch, batch)
    found = await pivot(many)
    assert (found.cuts, many.closed) == ([Cut(CutReason.DISTINCT_COUNT, 1)], True)


async def test_records_that_name_nothing_and_no_records_give_nothing() -> None:
    assert (await pivot(Found())).entities == []
    assert (await pivot(Found(records({"body": "nothing here"})))).entities == []


@given(
    bodies=st.lists(
        st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "evil.example", "x"]), max_size=4), max_size=12
    ),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
@settings(max_examples=30, derandomize=True)
async def test_however_records_come_in_batches_the_counts_are_the_same(
    bodies: list[list[str]], cuts: list[int]
) -> None:
    rows = [{"body": " ".join(words), "time": TIME_NS} for words in bodies]
    places = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    batches = [records(*rows[a:b]) for a, b in itertools.pairwise(places)]
    expected = Counter(word for words in bodies for word in {*words} - {"x"})
    assert Counter(dict(counted(await pivot(Found(*batches))))) == expected


@pytest.mark.parametrize("tlp_max", Tlp)
def test_records_above_the_ceiling_or_without_a_marking_below_amber_arent_read(tlp_max: Tlp) -> None:
    labels = ["", *(tlp.label for tlp in Tlp)]
    batch = records(*({"tlp": label} for label in labels))
    filter_ = under(tlp_max)
    passed = (
        set(labels)
        if filter_ is None
        else {
            label for label, is_in in zip(labels, compile_predicate(filter_)(batch).to_pylist(), strict=True) if is_in
        }
    )
    assert passed == {label for label in labels if Tlp.of(label, unlabelled=Tlp.AMBER) <= tlp_max}


async def test_whoever_hangs_up_ends_the_search() -> None:
    waiting = Waits()
    task = asyncio.create_task(pivot(waiting))
    await waiting.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.closed
