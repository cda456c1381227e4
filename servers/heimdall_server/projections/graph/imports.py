"""From the log of imports to the graph: what others told us becomes facts, at once, at each start, and again after a rebuild has begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final

import pyarrow as pa

from heimdall_server.domain.errors import StoreError
from heimdall_server.domain.graph import (
    EDGE_KINDS,
    EDGE_SCHEMA,
    VERTEX_KINDS,
    VERTEX_SCHEMA,
    EdgeKind,
    Provenance,
    Tlp,
    VertexKind,
)
from heimdall_server.domain.graph_batches import GraphBatch, Origin
from heimdall_server.domain.graph_imports import SIGHTING_TYPE, STREAM, ImportedFacts, ImportRow, Told
from heimdall_server.ports.graph import GraphEraser, GraphWriter
from heimdall_server.ports.graph_imports import ImportLog

LOG: Final = logging.getLogger(__name__)
BATCH_ROWS: Final = 2_000
"""Rows of the log that become one batch; each is a few facts."""
LOOK_S: Final = 10.0
"""How often it is looked whether somebody has dropped the graph's facts: who does so needn't know of imports."""


class ImportProjection:
    """The projection of imports. For one event loop."""

    def __init__(self, log: ImportLog, writer: GraphWriter) -> None:
        self._log = log
        self._writer = writer
        self._turn = asyncio.Lock()
        self._failing = False

    async def catch_up(self) -> int:
        """Apply the rows that the graph lacks; returns how many.

        Raises:
            StoreError: The store failed; some may be applied.
        """
        async with self._turn:
            head = await self._log.head()
            if not head:
                return 0
            count = 0
            for first, last in await self._writer.missing(Origin(STREAM, 1, head)):
                count += await self._apply(first, last)
            return count

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Apply nothing while the block lasts: what is taken out then must not come back from rows that were read before."""
        async with self._turn:
            yield

    async def run(self) -> None:
        """Catch up again and again, until cancelled. A store that fails is tried at the next look."""
        while True:
            try:
                await self.catch_up()
                self._failing = False
            except StoreError as error:
                if not self._failing:
                    LOG.warning("imports wait for the graph", extra={"problem": str(error)})
                self._failing = True
            await asyncio.sleep(LOOK_S)

    async def _apply(self, first: int, last: int) -> int:
        count = 0
        while first <= last:
            rows = await self._log.read(first, last, count_max=BATCH_ROWS)
            # Rows that were erased are passed over: their numbers count as applied.
            through = rows[-1][0] if len(rows) == BATCH_ROWS else last
            batch = await asyncio.to_thread(batch_of, [row for _, row in rows], Origin(STREAM, first, through))
            applied = await self._writer.apply(batch)
            for refused in applied.refused[:1]:
                LOG.warning(
                    "imported facts were refused", extra={"count": len(applied.refused), "reason": refused.reason}
                )
            count += len(rows)
            first = through + 1
        return count


class ErasesInTurn:
    """A `GraphEraser` that takes turns with the projection of imports."""

    def __init__(self, eraser: GraphEraser, imports: ImportProjection) -> None:
        self._eraser = eraser
        self._imports = imports

    async def erase(self, tokens: Collection[str]) -> int:
        """See the port."""
        async with self._imports.held():
            return await self._eraser.erase(tokens)


class _Columns:
    """Facts on their way into columns."""

    def __init__(self) -> None:
        self.provenances: dict[Provenance, int] = {}
        self.vertices: list[dict[str, Any]] = []
        self.edges: list[dict[str, Any]] = []

    def said(self, facts: ImportedFacts, told: Told) -> dict[str, Any]:
        """The columns that all facts have."""
        who = _provenance(facts, told.confidence, told.tlp)
        return {
            "provenance": self.provenances.setdefault(who, len(self.provenances)),
            "first_ns": told.first_ns,
            "last_ns": told.last_ns,
            "count": told.count,
            "first_place": 0,
            "last_place": 0,
        }

    def vertex(self, kind: VertexKind, id_: bytes, type_: str, value: str, said: dict[str, Any], day: int = 0) -> None:
        """A vertex."""
        about = {"kind": VERTEX_KINDS.index(kind), "id": id_, "type": type_, "value": value, "day": day, "hours": None}
        self.vertices.append(about | said)

    def edge(self, kind: EdgeKind, start: bytes, end: bytes, relation: str, said: dict[str, Any]) -> None:
        """An edge."""
        self.edges.append({"kind": EDGE_KINDS.index(kind), "start": start, "end": end, "relation": relation} | said)


def batch_of(rows: Sequence[ImportRow], origin: Origin) -> GraphBatch:
    """Rows of the log as facts.

    Args:
        rows: At most some thousands.
        origin: Their numbers.
    """
    columns = _Columns()
    for row in rows:
        facts, entities = row.facts, row.facts.entities
        for entity in entities:
            columns.vertex(VertexKind.ENTITY, entity.id, entity.type, entity.value, columns.said(facts, entity.told))
        for one in facts.relations:
            said = columns.said(facts, one.told)
            columns.edge(EdgeKind.RELATED_TO, entities[one.start].id, entities[one.end].id, one.relation, said)
        for seen in facts.sightings:
            said, entity, id_ = columns.said(facts, seen.told), entities[seen.entity], facts.sighting_id(seen)
            columns.vertex(VertexKind.SIGHTING, id_, SIGHTING_TYPE, facts.source, said, seen.day)
            columns.edge(EdgeKind.OF_ENTITY, id_, entity.id, "", said)
    return GraphBatch(
        origin,
        tuple(columns.provenances),
        pa.RecordBatch.from_pylist(columns.vertices, schema=VERTEX_SCHEMA),
        pa.RecordBatch.from_pylist(columns.edges, schema=EDGE_SCHEMA),
    )


def _provenance(facts: ImportedFacts, confidence: int, tlp: Tlp) -> Provenance:
    return Provenance(
        instance=facts.instance,
        source=facts.source,
        method=facts.method,
        method_version=facts.method_version,
        actor=facts.actor,
        confidence=confidence,
        tlp=tlp,
    )
