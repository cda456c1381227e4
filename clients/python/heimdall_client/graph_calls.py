"""The client's methods on the graph: what is connected with what, since when, and who says so."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Literal, TypeAlias

import grpc.aio

from heimdall.graph.v1 import graph_pb2, warninglists_pb2
from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall_client import status, translate
from heimdall_client.connection import Connection
from heimdall_client.translate import TimeLike

WALK_TIMEOUT_S: Final = 60.0
Tlp = Literal["", "clear", "green", "amber", "amber+strict", "red"]
VertexLike: TypeAlias = str | tuple[str, str] | graph_pb2.VertexRef
"""`domain:evil.example`, `("email", "alice@example.com")`, an id of 32 hexadecimal digits, or the token of a personal value."""

_ID: Final = re.compile(r"[0-9a-f]{32}")
_TOKEN: Final = re.compile(r"\[([a-z][a-z0-9_]{0,31}):[0-9a-z]{27}\]")


def to_vertex_ref(vertex: VertexLike) -> graph_pb2.VertexRef:
    """How a vertex is named on the wire.

    Raises:
        ValueError: It names neither an id nor a type and a value.
    """
    if isinstance(vertex, graph_pb2.VertexRef):
        return vertex
    if isinstance(vertex, str):
        if _ID.fullmatch(vertex):
            return graph_pb2.VertexRef(vertex_id=vertex)
        token = _TOKEN.fullmatch(vertex)
        type_name, colon, value = (token[1], ":", vertex) if token else vertex.partition(":")
        if not (colon and type_name and value):
            raise ValueError("a vertex is TYPE:VALUE as in domain:evil.example, an id, or a token")
        vertex = (type_name, value)
    return graph_pb2.VertexRef(typed=graph_pb2.VertexRef.Typed(type=vertex[0], value=vertex[1]))


def to_tlp(tlp: Tlp) -> graph_pb2.Tlp.ValueType:
    """A marking on the wire.

    Raises:
        ValueError: It is none.
    """
    return graph_pb2.Tlp.Value(f"TLP_{tlp.upper().replace('+', '_')}") if tlp else graph_pb2.TLP_UNSPECIFIED


class GraphCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def vertex(self, vertex: VertexLike, *, tlp: Tlp = "") -> pb.GetVertexResponse:
        """A vertex with its provenance, labels and notes.

        Args:
            vertex: Which.
            tlp: A lower ceiling than your own.
        """
        request = pb.GetVertexRequest(vertex=to_vertex_ref(vertex), tlp_max=to_tlp(tlp))
        return await self._unary(self._graph.GetVertex, request)

    async def traverse(
        self,
        *starts: VertexLike,
        depth: int = 1,
        degree: int = 0,
        limit: int = 0,
        edges: Sequence[str] = (),
        types: Sequence[str] = (),
        relations: Sequence[str] = (),
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        sure: int | None = None,
        provenances: bool = False,
    ) -> AsyncGenerator[pb.TraverseResponse, None]:
        """Walk from some vertices, nearest first.

        Args:
            starts: Where it begins.
            depth: Hops, up to 6.
            degree: Edges followed from one vertex, of each kind and direction; 0: the server's default.
            limit: Vertices in all; 0: the server's default.
            edges: Kinds of edges to follow; none: all.
            types: Types of entities to meet and to walk through; none: all.
            relations: Of related things only those that are related so, as in `resolves-to`; none: all.
            since: Only facts seen at or after it.
            until: Only facts seen before it.
            tlp: A lower ceiling than your own.
            sure: Walk on only through entities with at least this confidence; none: 20, which most warninglists are below.
            provenances: Say who says each edge: `edge_provenances` of a piece goes with its `edges`.
        """
        request = pb.TraverseRequest(
            starts=[to_vertex_ref(start) for start in starts],
            depth_max=depth,
            degree_max=degree,
            vertex_count_max=limit,
            edge_kinds=edges,
            entity_types=types,
            relations=relations,
            with_provenances=provenances,
            time_range=translate.to_time_range(since, until),
            tlp_max=to_tlp(tlp),
            walk_confidence_min=sure,
        )
        call = self._graph.Traverse(request, timeout=WALK_TIMEOUT_S)
        try:
            async for piece in call:
                yield piece
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        finally:
            call.cancel()

    async def neighbourhood(
        self,
        *starts: VertexLike,
        depth: int = 1,
        degree: int = 0,
        limit: int = 0,
        edges: Sequence[str] = (),
        types: Sequence[str] = (),
        relations: Sequence[str] = (),
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        sure: int | None = None,
        provenances: bool = False,
    ) -> list[pb.TraverseResponse]:
        """All pieces of a walk; see `traverse`."""
        pieces = self.traverse(
            *starts,
            depth=depth,
            degree=degree,
            limit=limit,
            edges=edges,
            types=types,
            relations=relations,
            since=since,
            until=until,
            tlp=tlp,
            sure=sure,
            provenances=provenances,
        )
        async with aclosing(pieces):
            return [piece async for piece in pieces]

    async def paths(
        self,
        start: VertexLike,
        end: VertexLike,
        *,
        length: int = 0,
        limit: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        sure: int | None = None,
    ) -> pb.FindPathsResponse:
        """Shortest ways between two vertices, with who says each step.

        Args:
            start: One end.
            end: The other.
            length: Hops at most; 0: 4.
            limit: Ways at most; 0: 10.
            since: Only facts seen at or after it.
            until: Only facts seen before it.
            tlp: A lower ceiling than your own.
            sure: No way leads through entities with less confidence than this; none: 20.
        """
        request = pb.FindPathsRequest(
            start=to_vertex_ref(start),
            end=to_vertex_ref(end),
            length_max=length,
            path_count_max=limit,
            time_range=translate.to_time_range(since, until),
            tlp_max=to_tlp(tlp),
            walk_confidence_min=sure,
        )
        return await self._unary(self._graph.FindPaths, request, timeout_s=WALK_TIMEOUT_S)

    async def sightings(
        self,
        entity: VertexLike,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.ListSightingsResponse:
        """Where and when an entity was seen, the newest day first.

        Args:
            entity: Which.
            since: Only days that reach it.
            until: Only days that begin before it.
            limit: At most so many; 0: 1,000.
            tlp: A lower ceiling than your own.
        """
        request = pb.ListSightingsRequest(
            entity=to_vertex_ref(entity),
            time_range=translate.to_time_range(since, until),
            count_max=limit,
            tlp_max=to_tlp(tlp),
        )
        return await self._unary(self._graph.ListSightings, request)

    async def warninglists(self) -> warninglists_pb2.ListWarninglistsResponse:
        """The warninglists in force: what is on one is believed less."""
        return await self._unary(self._graph.ListWarninglists, warninglists_pb2.ListWarninglistsRequest())

    async def cypher(self, query: str, *, limit: int = 0) -> pb.RunCypherResponse:
        """Run a reading openCypher query.

        Args:
            query: One statement that ends with RETURN.
            limit: Rows at most; 0: 1,000.
        """
        request = pb.RunCypherRequest(query=query, row_count_max=limit)
        return await self._unary(self._graph.RunCypher, request, timeout_s=WALK_TIMEOUT_S)
