"""Comparing dumps under the caller's ceiling."""

from __future__ import annotations

import asyncio
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph import VertexKind
from heimdall_server.domain.graph_dumps import (
    FIELDS_MAX,
    DescribedDump,
    MatchMethod,
    counterparts,
    estimated_matches,
    exact_matches,
)
from heimdall_server.ports.graph_dumps import GraphDumps
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import Ceiling, Named
from heimdall_server.services.graph.model_dumps import MatchedDumps

EXACT_VALUES_MAX: Final = 200_000
"""Of both dumps together; more are compared by sketches unless it is asked for otherwise. A second or two."""


class DumpComparing:
    """See the module."""

    def __init__(self, dumps: GraphDumps, finder: VertexFinder) -> None:
        self._dumps = dumps
        self._finder = finder

    async def match(
        self,
        named_a: Named,
        named_b: Named,
        ceiling: Ceiling,
        *,
        method: MatchMethod,
        containment_min: float,
        count_max: int,
        time_s: float,
    ) -> MatchedDumps:
        """Find the fields that share values, and which is which.

        Args:
            named_a: One dump.
            named_b: The other.
            ceiling: How far the caller may see.
            method: How.
            containment_min: Least share of a field's values that must be in the other.
            count_max: Pairs at most.
            time_s: For comparing values one by one.

        Raises:
            NotFoundError: One isn't there, or lies above the ceiling.
            InvalidArgumentError: One isn't a dump.
            QueryTimeoutError: It took longer.
        """
        a = await self._described(named_a, "dump_a", ceiling)
        b = await self._described(named_b, "dump_b", ceiling)
        if method is MatchMethod.BY_SIZE:
            values = sum(one.profile.sketch.distinct for one in (*a.fields, *b.fields))
            method = MatchMethod.EXACT if values <= EXACT_VALUES_MAX else MatchMethod.ESTIMATED
        if method is MatchMethod.EXACT:
            ids_a, ids_b = [one.id for one in a.fields], [one.id for one in b.fields]
            found = await self._dumps.shared(ids_a, ids_b, tlp_max=ceiling.tlp, time_s=time_s)
            matches = exact_matches(a.fields, b.fields, found.distinct, found.shared)
        else:
            matches = await asyncio.to_thread(estimated_matches, a.fields, b.fields)
        wanted = [one for one in matches if max(one.containment_a, one.containment_b) >= containment_min]
        ordered = await asyncio.to_thread(counterparts, wanted)
        is_cut = len(ordered) > count_max or max(a.field_count, b.field_count) > FIELDS_MAX
        return MatchedDumps(ordered[:count_max], method, is_cut, a.row_count, b.row_count)

    async def _described(self, named: Named, field: str, ceiling: Ceiling) -> DescribedDump:
        id_, vertex = await self._finder.find(named, ceiling.tlp)
        if vertex.kind is not VertexKind.DUMP:
            raise InvalidArgumentError(field, f"it is a {vertex.kind.value}; name a dump, as dump:NAME")
        found = await self._dumps.describe(id_, tlp_max=ceiling.tlp)
        return found or DescribedDump(0, (), 0)  # it went meanwhile
