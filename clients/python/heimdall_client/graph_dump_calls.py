"""The client's methods on dumps in the graph: what two of them have in common."""

from __future__ import annotations

import re
from typing import Final, Literal

from heimdall.graph.v1 import dumps_pb2 as pb
from heimdall_client.connection import Connection
from heimdall_client.graph_calls import WALK_TIMEOUT_S, Tlp, VertexLike, to_tlp, to_vertex_ref

MatchMethod = Literal["by_size", "exact", "estimated"]
_METHODS: Final = {
    "by_size": pb.MatchDumpsRequest.METHOD_UNSPECIFIED,
    "exact": pb.MatchDumpsRequest.METHOD_EXACT,
    "estimated": pb.MatchDumpsRequest.METHOD_ESTIMATED,
}

_ID: Final = re.compile(r"[0-9a-f]{32}")


def to_dump(dump: VertexLike) -> VertexLike:
    """A dump by its name alone, too."""
    if not isinstance(dump, str) or dump.startswith("dump:") or _ID.fullmatch(dump):
        return dump
    return f"dump:{dump}"


class GraphDumpCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def match_dumps(
        self,
        dump_a: VertexLike,
        dump_b: VertexLike,
        *,
        minimum: float = 0.0,
        method: MatchMethod = "by_size",
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.MatchDumpsResponse:
        """Compare two dumps: which values they share, field by field, and which field of one is which of the other.

        Args:
            dump_a: A dump, by its name.
            dump_b: Another.
            minimum: Only fields of which at least this share of values, from 0 to 1, is in the other.
            method: Value by value (`exact`), or by sketches, which is quick however large they are (`estimated`).
            limit: Pairs of fields at most; 0: 1,000.
            tlp: A lower ceiling than your own.
        """
        request = pb.MatchDumpsRequest(
            dump_a=to_vertex_ref(to_dump(dump_a)),
            dump_b=to_vertex_ref(to_dump(dump_b)),
            containment_min=minimum,
            method=_METHODS[method],
            match_count_max=limit,
            tlp_max=to_tlp(tlp),
        )
        return await self._unary(self._graph.MatchDumps, request, timeout_s=WALK_TIMEOUT_S)
