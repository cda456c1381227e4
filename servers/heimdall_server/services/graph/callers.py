"""Who calls the graph's services, and how far they may see."""

from __future__ import annotations

from typing import Final

from heimdall.graph.v1 import graph_pb2
from heimdall_server.domain.graph import Tlp
from heimdall_server.rpc.calls import current_call
from heimdall_server.services.graph import translate
from heimdall_server.services.graph.model import Ceiling, Curator

READ_RED: Final = "graph.read_red"
"""Without this permission a caller's ceiling is amber+strict."""


def ceiling(asked: graph_pb2.Tlp.ValueType = graph_pb2.TLP_UNSPECIFIED) -> Ceiling:
    """What the caller may see.

    Args:
        asked: A lower ceiling; unspecified: the caller's own.
    """
    caller = Tlp.RED if current_call().principal.may(READ_RED) else Tlp.AMBER_STRICT
    return Ceiling(caller, translate.tlp_in(asked))


def curator() -> Curator:
    """Who decides something, in the call that is being served."""
    call = current_call()
    return Curator(call.principal.uri, call.request_id, call.method, ceiling().tlp)
