"""Reading the graph under the caller's ceiling."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from heimdall_server.domain.graph import VertexKind
from heimdall_server.domain.graph_reading import CypherResult, Edge, EdgeKey, GraphFilter, GraphLimits, Witnesses
from heimdall_server.ports.graph import CypherRunner, GraphCuration, GraphReader
from heimdall_server.ports.graph_dumps import GraphDumps
from heimdall_server.ports.warninglists import WarninglistBook
from heimdall_server.services.graph.logic.entity_types import wanted_types
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import Ceiling, Connected, Described, Labelled, Named, Sighted

PARTS_TOLD: Final = 50
"""Entities that were merged into a vertex whose evidence, labels and notes are told with it."""
NOTES_TOLD: Final = 100
"""Of a vertex, the newest ones: together far below the size of a message."""
EVIDENT_EDGES_MAX: Final = 10_000
"""Of one level, whose evidence is told; asking and telling takes some 50 µs each."""
_EVIDENT_AT_ONCE: Final = 1_000
EDGE_PROVENANCES: Final = 16
"""Of an edge of a walk."""
PROVENANCES_TOLD: Final = 1_000
"""Of a vertex, or of a way's steps together: a quarter of a message. An address may be in as many logs as there are files."""


class GraphReading:
    """See the module."""

    def __init__(
        self,
        reader: GraphReader,
        curation: GraphCuration,
        cypher: CypherRunner,
        finder: VertexFinder,
        warninglists: WarninglistBook | None = None,
        dumps: GraphDumps | None = None,
        classes: frozenset[str] = frozenset(),
    ) -> None:
        self._reader = reader
        self._curation = curation
        self._cypher = cypher
        self._finder = finder
        self._warninglists = warninglists
        self._dumps = dumps
        self._classes = classes

    async def describe(self, named: Named, ceiling: Ceiling) -> Described:
        """A vertex and what is said about it and about its parts.

        Raises:
            NotFoundError: It isn't there, or lies above the ceiling.
            InvalidArgumentError, PermissionDeniedError: As `VertexNames.ids`.
        """
        _, vertex = await self._finder.find(named, ceiling.tlp)
        merges = (await self._curation.parts(vertex.id))[:PARTS_TOLD]
        parts = await self._reader.get([merge.id for merge in merges], tlp_max=ceiling.tlp) if merges else {}
        ids = [vertex.id, *parts]
        evidence = await self._reader.evidence(ids, tlp_max=ceiling.tlp, count_max=_each(len(ids)))
        notes = await self._curation.notes(ids, tlp_max=ceiling.tlp)
        listed: Sequence[str] = ()
        if self._warninglists is not None and vertex.kind is VertexKind.ENTITY:
            listed = await self._warninglists.naming(vertex.type, vertex.value)
        return Described(
            vertex,
            Witnesses(list(chain.from_iterable(one.told for one in evidence)), sum(one.count for one in evidence)),
            await self._curation.labels(ids, tlp_max=ceiling.tlp),
            notes[-NOTES_TOLD:],
            [merge for merge in merges if merge.id in parts and merge.into_id in ids],
            listed,
            await self._dumps.describe(vertex.id, tlp_max=ceiling.tlp)
            if self._dumps is not None and vertex.kind in (VertexKind.DUMP, VertexKind.FIELD)
            else None,
        )

    async def traverse(
        self,
        starts: Sequence[Named],
        filter_: GraphFilter,
        limits: GraphLimits,
        ceiling: Ceiling,
        *,
        with_evidence: bool = False,
    ) -> AsyncGenerator[Labelled, None]:
        """Walk from some vertices, level by level.

        Raises:
            InvalidArgumentError: There is no such type of entities.
            NotFoundError: A start isn't there.
        """
        filter_ = replace(filter_, tlp_max=ceiling.tlp, types=wanted_types(filter_.types, self._classes))
        ids = [await self._found(one, ceiling) for one in starts]
        async for level in self._reader.traverse(ids, filter_, limits):
            found = [vertex.id for vertex in level.vertices]
            labels = await self._curation.labels(found, tlp_max=ceiling.tlp) if found else ()
            evidence = await self._evidence(level.edges[:EVIDENT_EDGES_MAX], ceiling) if with_evidence else ()
            yield Labelled(level, labels, evidence)

    async def _evidence(self, edges: Sequence[Edge], ceiling: Ceiling) -> Sequence[Witnesses]:
        found: list[Witnesses] = []
        for begin in range(0, len(edges), _EVIDENT_AT_ONCE):
            keys = [edge.key for edge in edges[begin : begin + _EVIDENT_AT_ONCE]]
            found += await self._reader.evidence(keys, tlp_max=ceiling.tlp, count_max=EDGE_PROVENANCES)
        return found

    async def connect(
        self,
        start: Named,
        end: Named,
        filter_: GraphFilter,
        limits: GraphLimits,
        ceiling: Ceiling,
        *,
        count_max: int,
    ) -> Connected:
        """The shortest ways between two vertices, and who says each step.

        Raises:
            NotFoundError: One of them isn't there.
        """
        ends = [await self._found(one, ceiling) for one in (start, end)]
        found = await self._reader.paths(
            ends[0], ends[1], replace(filter_, tlp_max=ceiling.tlp), limits, count_max=count_max
        )
        edges = list({edge.key: edge for path in found.paths for edge in path.edges}.values())
        keys: list[bytes | EdgeKey] = [edge.key for edge in edges]
        evidence = await self._reader.evidence(keys, tlp_max=ceiling.tlp, count_max=_each(len(keys))) if keys else ()
        return Connected(found.paths, list(zip(edges, evidence, strict=True)), found.more)

    async def sightings(
        self, named: Named, ceiling: Ceiling, *, first_day: int, last_day: int, count_max: int
    ) -> Sighted:
        """Sightings of an entity, the newest day first.

        Raises:
            NotFoundError: It isn't there.
        """
        id_ = await self._found(named, ceiling)
        rows = await self._reader.sightings(
            id_, tlp_max=ceiling.tlp, first_day=first_day, last_day=last_day, count_max=count_max + 1
        )
        return Sighted(rows[:count_max], truncated=len(rows) > count_max)

    async def cypher(self, text: str, ceiling: Ceiling, *, row_count_max: int, time_s: float) -> CypherResult:
        """Run a reading query.

        Raises:
            QuerySyntaxError, QueryTimeoutError, StoreError: As `CypherRunner.run`.
        """
        return await self._cypher.run(text, tlp_max=ceiling.tlp, row_count_max=row_count_max, time_s=time_s)

    async def _found(self, named: Named, ceiling: Ceiling) -> bytes:
        return (await self._finder.find(named, ceiling.tlp))[0]


def _each(count: int) -> int:
    """How many provenances of each of some facts are told, so that all fit a message."""
    return max(EDGE_PROVENANCES, PROVENANCES_TOLD // max(1, count))
