"""The graph's part of an export: a subject's entities, with who says so, what people said of them, sightings, relations, fields of dumps, imports.

All of it is told, how far it may go is marked on each: a request under article 15 GDPR has no ceiling. Whoever is named besides stays a token.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_reading import (
    Direction,
    Edge,
    EdgeKey,
    GraphFilter,
    GraphLimits,
    Seen,
    SightingRow,
    Vertex,
    Witnesses,
    day_text,
)
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.graph import GraphCuration, GraphReader
from heimdall_server.ports.graph_subjects import GraphSubjects, NamedImport
from heimdall_server.services.privacy.logic.held import Lines, Missing, time_text

_ALL: Final = max(Tlp)
_AT_ONCE: Final = 1_000
"""Facts whose provenances are asked for together, and rows of imports."""
_SIGHTINGS: Final = 10_000
_LIMITS: Final = GraphLimits(degree_max=10_000, vertex_count_max=100_000, edge_scan_max=2_000_000, time_s=120.0)
_RELATED: Final = GraphFilter(
    _ALL,
    edge_kinds=frozenset((EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY)),
    vertex_kinds=frozenset((VertexKind.ENTITY,)),
)
_IN_DUMPS: Final = GraphFilter(
    _ALL,
    edge_kinds=frozenset((EdgeKind.OF_ENTITY, EdgeKind.HAS_VALUE, EdgeKind.HAS_FIELD)),
    vertex_kinds=frozenset((VertexKind.ENTITY, VertexKind.FIELD_VALUE, VertexKind.FIELD, VertexKind.DUMP)),
    direction=Direction.IN,
)
_WALKS: Final = ((_RELATED, 1), (_IN_DUMPS, 3))
"""What is walked along, and how far: entities one hop away; the fields that an entity stands in, and their dumps."""


@dataclass(frozen=True, slots=True)
class GraphHeld:
    """See the module."""

    subjects: GraphSubjects
    reader: GraphReader
    curation: GraphCuration
    what_is_missing: Callable[[], Awaitable[str]]
    """Says, in a sentence, why the graph may not hold all that was acknowledged; empty: it does."""

    async def lines(self, names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        """See `Part`. Facts sum up many records, so `time_range` doesn't cut them."""
        del time_range
        reason = await self.what_is_missing()
        tokens = list(map(str, names))
        ids = await self.subjects.entities(tokens)
        if ids is None:
            # Said all the same: whoever reads the document needn't know what runs where.
            yield {"kind": "graph_off", "reason": "no graph was ever made here"}
            return
        if reason:
            yield Missing(reason)
        for id_ in ids:
            yield await self._entity(id_)
            async for line in self._sightings(id_):
                yield line
            for filter_, depth in _WALKS:
                async for line in self._relations(id_, filter_, replace(_LIMITS, depth_max=depth)):
                    yield line
        after = 0
        while rows := await self.subjects.imports(tokens, ids, after=after, count_max=_AT_ONCE):
            for row in rows:
                yield _import(row)
            after = rows[-1].number

    async def _entity(self, id_: bytes) -> Mapping[str, Any]:
        vertices = await self.reader.get((id_,), tlp_max=_ALL)
        (witnesses,) = await self.reader.evidence((id_,), tlp_max=_ALL)
        labels = await self.curation.labels((id_,), tlp_max=_ALL)
        notes = await self.curation.notes((id_,), tlp_max=_ALL)
        merges = await self.curation.merges((id_,))
        return {
            "kind": "graph_entity",
            "entity_id": id_.hex(),
            "entity": _vertex(vertices[id_]) if id_ in vertices else None,
            "provenances": _provenances(witnesses),
            "labels": [
                {
                    "label": one.label,
                    "actor": one.actor,
                    "create_time": time_text(one.create_time_ns),
                    "reason": one.reason,
                    "tlp": one.tlp.label,
                }
                for one in labels
            ],
            "notes": [
                {
                    "note_id": one.note_id.hex(),
                    "body": one.body,
                    "actor": one.actor,
                    "create_time": time_text(one.create_time_ns),
                    "update_time": time_text(one.update_time_ns),
                    "tlp": one.tlp.label,
                }
                for one in notes
            ],
            "merges": [
                {
                    "entity_id": one.id.hex(),
                    "into_entity_id": one.into_id.hex(),
                    "actor": one.actor,
                    "create_time": time_text(one.create_time_ns),
                    "reason": one.reason,
                }
                for one in merges
            ],
        }

    async def _sightings(self, id_: bytes) -> Lines:
        last_day, count_max = 2**31 - 1, _SIGHTINGS
        while True:
            rows = await self.reader.sightings(id_, tlp_max=_ALL, last_day=last_day, count_max=count_max)
            is_last = len(rows) < count_max
            # The oldest day may have more than there was room for: it is asked for again.
            whole = rows if is_last else [row for row in rows if row.day > rows[-1].day]
            for begin in range(0, len(whole), _AT_ONCE):
                some = whole[begin : begin + _AT_ONCE]
                for row, said in zip(some, await self._witnesses([row.id for row in some]), strict=True):
                    yield _sighting(id_, row, said)
            if is_last:
                return
            if whole:
                last_day = rows[-1].day
            else:
                count_max *= 2

    async def _relations(self, id_: bytes, filter_: GraphFilter, limits: GraphLimits) -> Lines:
        known: dict[bytes, Vertex] = {}
        is_cut = False
        async for level in self.reader.traverse((id_,), filter_, limits):
            known |= {vertex.id: vertex for vertex in level.vertices}
            is_cut = is_cut or bool(level.more)
            for begin in range(0, len(level.edges), _AT_ONCE):
                some = level.edges[begin : begin + _AT_ONCE]
                for edge, said in zip(some, await self._witnesses([edge.key for edge in some]), strict=True):
                    yield _relation(edge, known, said)
        if is_cut:
            yield Missing("an entity has more relations than an export tells; ask for the others by `heimdall graph`")

    async def _witnesses(self, facts: Sequence[bytes | EdgeKey]) -> Sequence[Witnesses]:
        return await self.reader.evidence(facts, tlp_max=_ALL) if facts else ()


def _vertex(vertex: Vertex) -> dict[str, Any]:
    about = {"id": vertex.id.hex(), "vertex_kind": vertex.kind.value, "type": vertex.type, "value": vertex.value}
    return about | _seen(vertex.seen)


def _seen(seen: Seen) -> dict[str, Any]:
    return {
        "first_time": time_text(seen.first_ns),
        "last_time": time_text(seen.last_ns),
        "count": seen.count,
        "confidence": seen.confidence,
        "tlp": seen.tlp.label,
    }


def _provenances(witnesses: Witnesses) -> list[dict[str, Any]]:
    return [
        {
            "instance": one.provenance.instance,
            "source": one.provenance.source,
            "method": one.provenance.method,
            "method_version": one.provenance.method_version,
            "dump": one.provenance.dump,
            "actor": one.provenance.actor,
            "confidence": one.provenance.confidence,
            "tlp": one.provenance.tlp.label,
            "first_time": time_text(one.first_ns),
            "last_time": time_text(one.last_ns),
            "count": one.count,
            "first_place": one.first_place,
            "last_place": one.last_place,
        }
        for one in witnesses.told
    ]


def _sighting(id_: bytes, row: SightingRow, said: Witnesses) -> dict[str, Any]:
    sighting = {"source": row.source, "day": day_text(row.day)} | _seen(row.seen)
    return {
        "kind": "graph_sighting",
        "entity_id": id_.hex(),
        "sighting": sighting,
        "provenances": _provenances(said),
    }


def _relation(edge: Edge, known: Mapping[bytes, Vertex], said: Witnesses) -> dict[str, Any]:
    def end(id_: bytes) -> dict[str, Any]:
        return _vertex(known[id_]) if id_ in known else {"id": id_.hex()}

    key = edge.key
    relation = {"edge_kind": key.kind.value, "relation": key.relation, "start": end(key.start), "end": end(key.end)}
    return {"kind": "graph_relation", "relation": relation | _seen(edge.seen), "provenances": _provenances(said)}


def _import(row: NamedImport) -> dict[str, Any]:
    return {
        "kind": "graph_import",
        "number": row.number,
        "source": row.source,
        "actor": row.actor,
        "create_time": time_text(row.create_time_ns),
        "tlp": row.tlp.label,
        "entities": [{"type": one.type, "value": one.value} for one in row.entities],
        "object": json.loads(row.kept) if row.kept else None,
    }
