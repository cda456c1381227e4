"""Who decides about the graph stays within what they see, leaves an entry first, and keeps no personal value."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from heimdall_server.domain.errors import InvalidArgumentError, NotFoundError, StoreError
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.ports.audit import Act, AuditEntry
from heimdall_server.protect.texts import masked_text
from heimdall_server.services.graph.logic.curating import CuratingPorts, GraphCurating
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.reading import GraphReading
from heimdall_server.services.graph.model import Ceiling, Curator, Described, Named
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import Facts
from tests.support.journal import ManualClock

pytestmark = pytest.mark.usefixtures("postgres_clean")
ANNA = Curator("spiffe://test/client/anna", "r-1", "heimdall.graph.v1.CurationService/Any", Tlp.AMBER_STRICT)
RED = replace(ANNA, actor="spiffe://test/client/ruth", ceiling=Tlp.RED)


class NoOwners:
    """Knows no token."""

    async def learn(self, tokens: object, *, through: int) -> dict[str, str]:  # noqa: ARG002 - the port's
        return {}


async def _refuse(data_class: str, value: str) -> None:
    raise AssertionError(f"nobody asks by a personal value here: {data_class} {value}")


@dataclass
class Curated:
    """The use cases over a real store, and what they write."""

    curating: GraphCurating
    reading: GraphReading
    writer: PostgresGraphWriter
    ports: CuratingPorts

    async def told(self, id_: bytes, tlp_max: Tlp = Tlp.RED) -> Described:
        return await self.reading.describe(Named(id_), Ceiling(tlp_max))

    async def entries(self) -> list[AuditEntry]:
        return [entry async for entry in self.ports.audit.read()]


@pytest.fixture
async def graph(postgres_pool: PostgresPool, tmp_path: Path) -> AsyncIterator[Curated]:
    clock = ManualClock()
    audit = await FileAuditLog.open(tmp_path, clock=clock, mask_text=masked_text)
    reader, curation = PostgresGraphReader(postgres_pool), PostgresGraphCuration(postgres_pool)
    names = VertexNames(
        classes=frozenset(), may_tokenise=lambda _: False, mac=lambda text: text, owners=NoOwners(), match=_refuse
    )
    finder = VertexFinder(reader, names)
    ports = CuratingPorts(reader, curation, finder, audit, clock, masked_text)
    reading = GraphReading(reader, curation, PostgresCypherRunner(None), finder)
    yield Curated(GraphCurating(ports), reading, PostgresGraphWriter(postgres_pool), ports)
    await audit.close()


async def test_nothing_above_the_ceiling_is_there_to_be_decided_about(graph: Curated) -> None:
    facts = Facts()
    seen, secret = facts.vertex("seen"), facts.vertex("secret", by=1)
    await graph.writer.apply(facts.batch())
    do = graph.curating
    red = await do.add_note(RED, Named(seen), "red note", tlp=Tlp.RED, request_id="")
    plain = await do.add_note(RED, Named(secret), "amber note on a red thing", tlp=None, request_id="")
    assert plain.tlp is Tlp.AMBER
    await do.add_label(RED, Named(seen), "red label", tlp=Tlp.RED, reason="")
    for refused in (
        do.add_label(ANNA, Named(secret), "x", tlp=None, reason=""),
        do.remove_label(ANNA, Named(seen), "red label", reason=""),
        do.add_note(ANNA, Named(secret), "x", tlp=None, request_id=""),
        do.change_note(ANNA, red.note_id, "x", etag=red.etag),
        do.remove_note(ANNA, plain.note_id, etag="", reason=""),
        do.merge(ANNA, Named(secret), Named(seen), etag="", reason=""),
        do.merge(ANNA, Named(seen), Named(secret), etag="", reason=""),
        do.split(ANNA, Named(secret), etag="", reason=""),
    ):
        with pytest.raises(NotFoundError):
            await refused
    for above in (
        do.add_label(ANNA, Named(seen), "x", tlp=Tlp.RED, reason=""),
        do.add_note(ANNA, Named(seen), "x", tlp=Tlp.RED, request_id=""),
    ):
        with pytest.raises(InvalidArgumentError, match=r"amber\+strict"):
            await above
    merge = await do.merge(RED, Named(secret), Named(seen), etag="", reason="one")
    told = await graph.told(seen)
    assert (list(told.merges), sorted(note.body for note in told.notes)) == ([merge], [plain.body, "red note"])
    told = await graph.told(seen, Tlp.AMBER_STRICT)
    assert (list(told.merges), list(told.notes), list(told.labels)) == ([], [], [])


async def test_what_was_decided_survives_a_rebuild_without_personal_values(graph: Curated) -> None:
    facts = Facts()
    facts.related(("a", "x"), ("b", "y"))
    a, b = facts.vertex("a"), facts.vertex("b")
    await graph.writer.apply(facts.batch())
    who = "alice@example.com"
    await graph.curating.add_label(ANNA, Named(a), f" of {who} ", tlp=None, reason=f"{who} said so")
    note = await graph.curating.add_note(ANNA, Named(b), f"ask {who}", tlp=Tlp.GREEN, request_id="r")
    merge = await graph.curating.merge(ANNA, Named(b), Named(a), etag="", reason=f"{who} knows")
    before = await graph.told(a)
    await graph.writer.forget()
    with pytest.raises(NotFoundError):
        await graph.told(a)
    await graph.writer.apply(facts.batch())
    assert await graph.told(a) == before == await graph.told(b)
    assert [label.label for label in before.labels] == ["of [email]"]
    assert (before.labels[0].reason, note.body, merge.reason) == ("[email] said so", "ask [email]", "[email] knows")
    repeated = await graph.curating.add_note(ANNA, Named(b), f"ask {who}", tlp=Tlp.GREEN, request_id="r")
    assert repeated == note
    entries = await graph.entries()
    assert [entry.act.subject for entry in entries] == [one.hex() for one in (a, b, b, b)]
    assert who not in repr(entries) + repr(before)
    assert {entry.act.actor for entry in entries} == {ANNA.actor}


async def test_only_entities_are_one_and_texts_are_texts(graph: Curated) -> None:
    facts = Facts()
    entity, dump = facts.vertex("a"), facts.vertex("dump", VertexKind.DUMP)
    await graph.writer.apply(facts.batch())
    do = graph.curating
    for refused in (
        do.merge(ANNA, Named(dump), Named(entity), etag="", reason=""),
        do.merge(ANNA, Named(entity), Named(dump), etag="", reason=""),
        do.merge(ANNA, Named(entity), Named(entity), etag="", reason=""),
        do.merge(ANNA, Named(entity), Named(entity), etag="", reason="a\0b"),
        do.add_label(ANNA, Named(entity), "  ", tlp=None, reason=""),
        do.add_label(ANNA, Named(entity), "a\tb", tlp=None, reason=""),
        do.add_note(ANNA, Named(entity), "\n", tlp=None, request_id=""),
        do.add_note(ANNA, Named(entity), "a\0b", tlp=None, request_id=""),
    ):
        with pytest.raises(InvalidArgumentError):
            await refused


async def test_what_cannot_be_written_down_is_not_done(graph: Curated) -> None:
    class FullLog(FileAuditLog):
        async def append(self, act: Act) -> AuditEntry:  # noqa: ARG002 - the port's
            raise StoreError("audit log", "the disk is full")

    facts = Facts()
    one = facts.vertex("a")
    await graph.writer.apply(facts.batch())
    full = FullLog.__new__(FullLog)
    with pytest.raises(StoreError):
        await GraphCurating(replace(graph.ports, audit=full)).add_label(ANNA, Named(one), "x", tlp=None, reason="")
    assert not (await graph.told(one)).labels
