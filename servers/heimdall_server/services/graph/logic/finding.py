"""From a name to the vertex that a caller may see."""

from __future__ import annotations

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import Vertex
from heimdall_server.ports.graph import GraphReader
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.model import Named


class VertexFinder:
    """See the module."""

    def __init__(self, reader: GraphReader, names: VertexNames) -> None:
        self._reader = reader
        self._names = names

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
        raise NotFoundError("vertex", named.id.hex() or f"{named.type}:…")
