"""Reading the graph under the caller's ceiling."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from heimdall_server.domain.graph import VertexKind
from heimdall_server.domain.graph_reading import CypherResult, EdgeKey, GraphFilter, GraphLimits
from heimdall_server.ports.graph import CypherRunner, GraphCuration, GraphReader
from heimdall_server.ports.graph_dumps import GraphDumps
from heimdall_server.ports.warninglists import WarninglistBook
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import Ceiling, Connected, Described, Labelled, Named, Sighted

PARTS_TOLD: Final = 50
"""Entities that were merged into a vertex whose evidence, labels and notes are told with it."""
NOTES_TOLD: Final = 100
"""Of a vertex, the newest ones: together far below the size of a message."""


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
    ) -> None:
        self._reader = reader
        self._curation = curation
        self._cypher = cypher
        self._finder = finder
        self._warninglists = warninglists
        self._dumps = dumps

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
        evidence = await self._reader.evidence(ids, tlp_max=ceiling.tlp)
        notes = await self._curation.notes(ids, tlp_max=ceiling.tlp)
        listed: Sequence[str] = ()
        if self._warninglists is not None and vertex.kind is VertexKind.ENTITY:
            listed = await self._warninglists.naming(vertex.type, vertex.value)
        return Described(
            vertex,
            list(chain.from_iterable(evidence)),
            await self._curation.labels(ids, tlp_max=ceiling.tlp),
            notes[-NOTES_TOLD:],
            [merge for merge in merges if merge.id in parts and merge.into_id in ids],
            listed,
            await self._dumps.describe(vertex.id, tlp_max=ceiling.tlp)
            if self._dumps is not None and vertex.kind in (VertexKind.DUMP, VertexKind.FIELD)
            else None,
        )

    async def traverse(
        self, starts: Sequence[Named], filter_: GraphFilter, limits: GraphLimits, ceiling: Ceiling
    ) -> AsyncGenerator[Labelled, None]:
        """Walk from some vertices, level by level.

        Raises:
            NotFoundError: A start isn't there.
        """
        ids = [await self._found(one, ceiling) for one in starts]
        levels = self._reader.traverse(ids, replace(filter_, tlp_max=ceiling.tlp), limits)
        async for level in levels:
            found = [vertex.id for vertex in level.vertices]
            yield Labelled(level, await self._curation.labels(found, tlp_max=ceiling.tlp) if found else ())

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
        evidence = await self._reader.evidence(keys, tlp_max=ceiling.tlp) if keys else ()
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
