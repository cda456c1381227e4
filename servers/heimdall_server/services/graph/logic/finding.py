"""From a name to the vertex that a caller may see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from heimdall_server.canonical.named_things import is_named_type
from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import Vertex
from heimdall_server.ports.graph import GraphReader
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.model import Named

Labelled = Callable[[str, Tlp], Awaitable[Sequence[bytes]]]


class VertexFinder:
    """See the module."""

    def __init__(self, reader: GraphReader, names: VertexNames, labelled: Labelled | None = None) -> None:
        """Take what it asks.

        Args:
            reader: Of the graph.
            names: Say what a name may mean.
            labelled: Which vertices have a label, under a ceiling: a technique is found by its name as by its id. None: nobody knows.
        """
        self._reader = reader
        self._names = names
        self._labelled = labelled

    async def find(self, named: Named, tlp_max: Tlp) -> tuple[bytes, Vertex]:
        """The id of a vertex, and the vertex that it is read as: another one where it was merged into that.

        Raises:
            NotFoundError: It isn't there, or lies above the ceiling.
            InvalidArgumentError, PermissionDeniedError, BudgetExceededError: As `VertexNames.ids`.
        """
        ids = await self._names.ids(named)
        found = await self._reader.get(ids, tlp_max=tlp_max)
        for id_ in ids:
            if id_ in found:
                return id_, found[id_]
        if self._labelled is not None and is_named_type(named.type):
            also = await self._reader.get(await self._labelled(named.value, tlp_max), tlp_max=tlp_max)
            for id_, vertex in also.items():
                if vertex.type == named.type:
                    return id_, vertex
        raise NotFoundError("vertex", named.id.hex() or f"{named.type}:…")
