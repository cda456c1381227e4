"""Exporting: the entities around some, their relations and sightings, as one bundle of STIX in pieces, under the caller's ceiling.

Personal entities are left out and counted: a token leaves a pseudonym with whoever gets it, and says nothing to them. Who may reveal values
and says why gets them in plain, each written into the audit log by its token before it leaves.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_imports import KeptObject
from heimdall_server.domain.graph_reading import Edge, EdgeKey, GraphFilter, GraphLimits, Level, Vertex
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.graph import GraphReader
from heimdall_server.ports.graph_imports import ImportLog
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.interchange.stix_markings import MARKING_IDS, definition_of
from heimdall_server.services.graph.logic.interchange.stix_objects import (
    StixObject,
    entity_object,
    personal_object,
    relation_object,
    renamed,
    sighting_object,
    told_relation,
    told_sighting,
)
from heimdall_server.services.graph.model import Ceiling, Curator, Named

PERMISSION: Final = "graph.export"
REVEAL: Final = "privacy.reveal"
PIECE_BYTES: Final = 256 * 1024
"""Of one piece of the bundle."""
_RELATIONS: Final = frozenset({EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY})
_SIGHTED: Final = 200
"""Entities whose sightings are asked for together."""
_SIGHTINGS_MAX: Final = 1_000
"""Of one entity, the most relevant."""
_ASKED: Final = 500
"""Facts whose provenances are asked for together."""
_TOLD_MAX: Final = 100
"""Objects that one relation, or one sighting, is given out as; what else was counted is one more."""
_DEGREE: Final = 1_000
_SURE: Final = 20
"""What is believed less is given out and not walked on through, as everywhere."""
_TIME_S: Final = 60.0
_TLP_OF: Final = {id_: tlp for tlp, id_ in MARKING_IDS.items()}

Reveal = Callable[[Curator, Sequence[TokenName]], Awaitable[Mapping[TokenName, str]]]
"""Counts values against the caller and opens them; none for one that was erased."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to give out."""

    starts: Sequence[Named]
    depth_max: int
    entity_count_max: int
    reveal_personal: bool = False
    reason: str = ""


@dataclass(slots=True)
class Exported:
    """What an export holds and what it doesn't."""

    entity_count: int = 0
    relation_count: int = 0
    sighting_count: int = 0
    personal_count: int = 0
    left_out_count: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ExportPorts:
    """What exporting needs."""

    reader: GraphReader
    log: ImportLog
    finder: VertexFinder
    audit: AuditLog
    reveal: Reveal


@dataclass(slots=True)
class _Bundle:
    """Objects on their way into pieces."""

    begun: bool = False
    marked: set[Tlp] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, object_: StixObject) -> None:
        """An object, behind the definitions of its markings."""
        for ref in object_.get("object_marking_refs", ()):
            tlp = _TLP_OF.get(ref)
            if tlp is not None and tlp not in self.marked:
                self.marked.add(tlp)
                self._write(definition_of(tlp))
        self._write(object_)

    def pieces(self, *, ended: bool = False) -> Iterator[bytes]:
        """What is full, or all that is left."""
        if ended:
            self.waiting.append("]}" if self.begun else f'{_head()}"objects":[]}}')
        if ended or self.size >= PIECE_BYTES:
            text = "".join(self.waiting).encode()
            self.waiting, self.size = [], 0
            yield from (text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES))

    def _write(self, object_: StixObject) -> None:
        text = json.dumps(object_, ensure_ascii=False, separators=(",", ":"))
        self.waiting.append(f",\n{text}" if self.begun else f'{_head()}"objects":[\n{text}')
        self.begun = True
        self.size += len(text)


def _head() -> str:
    return f'{{"type":"bundle","id":"bundle--{uuid.uuid4()}",'


class GraphExporting:
    """See the module."""

    def __init__(self, ports: ExportPorts) -> None:
        self._ports = ports

    async def run(
        self, exporter: Curator, options: ExportOptions, ceiling: Ceiling
    ) -> AsyncGenerator[bytes | Exported, None]:
        """Export; the last thing that comes is what it holds.

        Args:
            exporter: Who.
            options: What. Whether they may reveal values was asked before.
            ceiling: How far they may see.

        Raises:
            InvalidArgumentError: A start is no entity, or values are to be revealed without a reason.
            NotFoundError: A start isn't there.
            BudgetExceededError, QueryTimeoutError, StoreError: As the ports.
        """
        if options.reveal_personal and not options.reason.strip():
            raise InvalidArgumentError("reason", "say why personal values are given out")
        ids = []
        for named in options.starts:
            id_, vertex = await self._ports.finder.find(named, ceiling.tlp)
            if vertex.kind is not VertexKind.ENTITY:
                raise InvalidArgumentError("starts", f"an export begins at entities, and this is a {vertex.kind.value}")
            ids.append(id_)
        details = {"method": exporter.method, "starts": " ".join(one.hex() for one in ids[:20])}
        details["reveal_personal"] = str(options.reveal_personal).lower()
        await self._audited(exporter, PERMISSION, options.reason, details)
        async for piece in _Export(self._ports, exporter, options, ceiling.tlp, self._audited).run(ids):
            yield piece

    async def _audited(self, exporter: Curator, action: str, reason: str, details: Mapping[str, str]) -> None:
        act = Act(exporter.actor, action, "allowed", reason, details=dict(details), request_id=exporter.request_id)
        await self._ports.audit.append(act)


class _Export:
    """One of them."""

    def __init__(
        self,
        ports: ExportPorts,
        exporter: Curator,
        options: ExportOptions,
        tlp_max: Tlp,
        audited: Callable[[Curator, str, str, Mapping[str, str]], Awaitable[None]],
    ) -> None:
        self._ports = ports
        self._exporter = exporter
        self._options = options
        self._tlp_max = tlp_max
        self._audited = audited
        self._bundle = _Bundle()
        self._told = Exported()
        self._objects: dict[bytes, str] = {}
        """Ids of the objects that were given out, by vertex."""
        self._given: set[str] = set()
        """Ids of the relations and sightings that were given out as they were told."""
        self._related: set[EdgeKey] = set()
        self._stands_for: dict[bytes, bytes] = {}
        """Of vertices that were merged into others: those."""

    async def run(self, starts: Sequence[bytes]) -> AsyncGenerator[bytes | Exported, None]:
        options = self._options
        filter_ = GraphFilter(
            self._tlp_max,
            edge_kinds=_RELATIONS,
            vertex_kinds=frozenset({VertexKind.ENTITY}),
            walk_confidence_min=_SURE,
        )
        limits = GraphLimits(
            depth_max=options.depth_max,
            degree_max=_DEGREE,
            vertex_count_max=options.entity_count_max,
            time_s=_TIME_S,
        )
        async for level in self._ports.reader.traverse(starts, filter_, limits):
            self._told.truncated |= bool(level.more)
            objects = await self._entities(level)
            for piece in self._bundle.pieces():
                yield piece
            await self._relations(level.edges)
            for start in range(0, len(objects), _SIGHTED):
                await self._sightings(dict(list(objects.items())[start : start + _SIGHTED]))
                for piece in self._bundle.pieces():
                    yield piece
        for piece in self._bundle.pieces(ended=True):
            yield piece
        yield self._told

    async def _entities(self, level: Level) -> dict[bytes, StixObject]:
        """Give out the entities of a level."""
        personal = [vertex for vertex in level.vertices if _token(vertex) is not None]
        revealed = await self._revealed(personal)
        open_ids = [vertex.id for vertex in level.vertices if _token(vertex) is None]
        kept = await self._ports.log.kept(open_ids, tlp_max=self._tlp_max) if open_ids else {}
        markings = await self._markings([vertex.id for vertex in level.vertices])
        vertices = [
            _marked(vertex, max(markings[vertex.id], kept.get(vertex.id, ("", Tlp.CLEAR))[1]))
            for vertex in level.vertices
        ]
        texts = {id_: text for id_, (text, _) in kept.items()}
        made = await asyncio.to_thread(_objects_of, vertices, revealed, texts)
        self._told.personal_count += len(level.vertices) - len(made)
        self._told.entity_count += len(made)
        for id_, object_ in made.items():
            self._objects[id_] = object_["id"]
            self._bundle.add(object_)
        return made

    async def _revealed(self, vertices: Sequence[Vertex]) -> Mapping[TokenName, str]:
        if not vertices or not self._options.reveal_personal:
            return {}
        names = [name for vertex in vertices if (name := _token(vertex)) is not None]
        opened = await self._ports.reveal(self._exporter, names)
        details = {"method": self._exporter.method, "revealed_count": str(len(opened))}
        details |= {"asked_count": str(len(names)), "tokens": " ".join(map(str, opened))}
        await self._audited(self._exporter, REVEAL, self._options.reason, details)
        return opened

    async def _markings(self, facts: Sequence[bytes | EdgeKey]) -> dict[bytes | EdgeKey, Tlp]:
        """How far facts may go: the strictest of all who say what is given out of them.

        A fact is *seen* under the least strict one, and yet its times and counts are of all; who wants to share what a less strict ceiling
        allows exports under that.
        """
        found: dict[bytes | EdgeKey, Tlp] = {}
        for start in range(0, len(facts), _ASKED):
            some = facts[start : start + _ASKED]
            for fact, witnesses in zip(
                some, await self._ports.reader.evidence(some, tlp_max=self._tlp_max), strict=True
            ):
                found[fact] = max((one.provenance.tlp for one in witnesses.told), default=self._tlp_max)
        return found

    async def _relations(self, told: Sequence[Edge]) -> None:
        # Each level tells the edges between all that was met so far.
        edges = list({edge.key: edge for edge in told if edge.key not in self._related}.values())
        self._related.update(edge.key for edge in edges)
        await self._learn_merged(edges)
        markings = await self._markings([edge.key for edge in edges])
        kept = await self._kept([edge.key.id for edge in edges])
        for edge in edges:
            ends = [self._objects.get(self._stands_for.get(end, end)) for end in (edge.key.start, edge.key.end)]
            start, end = ends
            if start is None or end is None:
                self._told.left_out_count += 1
                continue
            tlp, told_as = markings[edge.key], kept.get(edge.key.id, ())
            for one in told_as:
                marked = replace(edge, seen=replace(edge.seen, tlp=max(tlp, one.tlp)))
                self._add_told(told_relation(one, marked, start, end), edge.key.id, one.ref)
            if not told_as:
                marked = replace(edge, seen=replace(edge.seen, tlp=tlp))
                self._bundle.add(relation_object(marked, start, end))
            self._told.relation_count += max(1, len(told_as))

    async def _kept(self, facts: Sequence[bytes]) -> dict[bytes, Sequence[KeptObject]]:
        """The objects that relations and sightings were told of as."""
        found: dict[bytes, Sequence[KeptObject]] = {}
        for start in range(0, len(facts), _ASKED):
            some = facts[start : start + _ASKED]
            found |= await self._ports.log.kept_of_facts(some, tlp_max=self._tlp_max, count_max=_TOLD_MAX)
        self._told.truncated |= any(len(one) >= _TOLD_MAX for one in found.values())
        return found

    def _add_told(self, object_: StixObject, fact: bytes, ref: bytes) -> None:
        """An object that somebody told. If another one has its id, an earlier version spoke of something else."""
        if object_["id"] in self._given:
            object_ = renamed(object_, fact, ref)
        self._given.add(object_["id"])
        self._bundle.add(object_)

    async def _learn_merged(self, edges: Sequence[Edge]) -> None:
        """Edges name the ends that they were told with, also where these are part of others now."""
        ends = {end for edge in edges for end in (edge.key.start, edge.key.end)}
        odd = [end for end in ends if end not in self._objects and end not in self._stands_for]
        if odd:
            found = await self._ports.reader.get(odd, tlp_max=self._tlp_max)
            self._stands_for.update((end, vertex.id) for end, vertex in found.items())

    async def _sightings(self, objects: Mapping[bytes, StixObject]) -> None:
        filter_ = GraphFilter(
            self._tlp_max,
            edge_kinds=frozenset({EdgeKind.OF_ENTITY}),
            vertex_kinds=frozenset({VertexKind.SIGHTING, VertexKind.ENTITY}),
        )
        limits = GraphLimits(
            depth_max=1, degree_max=_SIGHTINGS_MAX, vertex_count_max=100_000, edge_scan_max=1_000_000, time_s=_TIME_S
        )
        sightings: dict[bytes, Vertex] = {}
        async for level in self._ports.reader.traverse(list(objects), filter_, limits):
            self._told.truncated |= bool(level.more)
            found = [one for one in level.vertices if one.kind is VertexKind.SIGHTING]
            markings = await self._markings([one.id for one in found])
            sightings.update((one.id, _marked(one, markings[one.id])) for one in found)
            await self._learn_merged([edge for edge in level.edges if edge.key.end not in objects])
            seen = []
            for edge in level.edges:
                of = objects.get(self._stands_for.get(edge.key.end, edge.key.end))
                sighting = sightings.get(edge.key.start)
                if of is not None and sighting is not None:
                    seen.append((sighting, of))
            self._add_sightings(seen, await self._kept([sighting.id for sighting, _ in seen]))

    def _add_sightings(
        self, seen: Sequence[tuple[Vertex, StixObject]], kept: Mapping[bytes, Sequence[KeptObject]]
    ) -> None:
        """Sightings as they were told, and what was counted besides."""
        newest: dict[tuple[str, bytes], int] = {}
        for sighting, of in seen:
            for one in kept.get(sighting.id, ()):
                newest[of["id"], one.ref] = max(one.number, newest.get((of["id"], one.ref), 0))
        for sighting, of in seen:
            rest, is_told = sighting.seen.count, False
            for one in kept.get(sighting.id, ()):
                told = told_sighting(one, _marked(sighting, max(sighting.seen.tlp, one.tlp)), of)
                if told is None:
                    continue
                is_told, rest = True, rest - one.counted
                # An earlier version may be of another day: the newest one counts what both do.
                if newest[of["id"], one.ref] == one.number:
                    self._add_told(told, sighting.id, one.ref)
                    self._told.sighting_count += 1
            if rest > 0 or not is_told:
                self._bundle.add(sighting_object(replace(sighting, seen=replace(sighting.seen, count=rest)), of))
                self._told.sighting_count += 1


def _objects_of(
    vertices: Sequence[Vertex], revealed: Mapping[TokenName, str], kept: Mapping[bytes, str]
) -> dict[bytes, StixObject]:
    made: dict[bytes, StixObject] = {}
    for vertex in vertices:
        name = _token(vertex)
        if name is None:
            made[vertex.id] = entity_object(vertex, kept.get(vertex.id, ""))
        elif name in revealed:
            made[vertex.id] = personal_object(vertex, revealed[name])
    return made


def _marked(vertex: Vertex, tlp: Tlp) -> Vertex:
    return replace(vertex, seen=replace(vertex.seen, tlp=tlp))


def _token(vertex: Vertex) -> TokenName | None:
    return TokenName.parse(vertex.value) if vertex.value.startswith("[") else None
