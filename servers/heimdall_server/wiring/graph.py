"""The graph of a process that runs it: a projection into the PostgreSQL of the privacy service, and the service that reads it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from heimdall.graph.v1 import curation_service_pb2_grpc, graph_service_pb2_grpc
from heimdall_server.config import Config
from heimdall_server.planner.personal_terms import Matched
from heimdall_server.projections.graph.follower import SHARD, GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.trimming import Follower
from heimdall_server.protect.texts import masked_text
from heimdall_server.protect.value_terms import ValueTerms
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.graph.curation_servicer import AUDITS_ITSELF, CurationServicer
from heimdall_server.services.graph.logic.curating import CuratingPorts, GraphCurating
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.reading import GraphReading
from heimdall_server.services.graph.servicer import GraphServicer
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.tasks import cancel, follow

SERVICE: Final = "heimdall.graph.v1.GraphService"
CURATION_SERVICE: Final = "heimdall.graph.v1.CurationService"


@dataclass(frozen=True, slots=True)
class GraphParts:
    """What follows the journal into the graph."""

    projection: GraphProjection
    identities: Identities
    mac: Callable[[bytes], bytes]
    """Names entities of personal values."""


def open_graph(config: Config, privacy: PrivacyParts, parts: Parts, stack: contextlib.AsyncExitStack) -> GraphParts:
    """Begin to follow the journal into the graph."""
    key = privacy.keys.keyring.identity_key("personal entities")

    def mac(message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha256)

    async def vault_applied(position: int) -> bool:
        return await privacy.follower.wait_applied(position, config.privacy_limits.vault_wait_s)

    identities = Identities(privacy.vault, privacy.keys.keyring, mac, wait_applied=vault_applied)
    projection = GraphProjection(parts.journal, PostgresGraphWriter(privacy.postgres.pool), identities, parts.clock)

    def follows() -> Follower:
        progress = projection.progress
        return Follower("graph", {SHARD: progress.applied}, progress.lag_s)

    parts.followers["graph"] = follows
    privacy.progress["graph"] = lambda: projection.progress
    task = asyncio.create_task(follow(projection.run, "the graph isn't brought up to date"), name="graph")
    stack.push_async_callback(cancel, [task])
    return GraphParts(projection, identities, mac)


def graph_removal(privacy: PrivacyParts, graph: GraphParts | None) -> GraphRemoval:
    """What takes erased values out of the graph, also out of one that this process no longer brings up to date."""
    eraser = PostgresGraphEraser(privacy.postgres.pool)
    if graph is None:
        return GraphRemoval(eraser)
    return GraphRemoval(eraser, graph.projection, graph.identities)


def add_graph_services(privacy: PrivacyParts, graph: GraphParts, parts: Parts, server: RpcServer) -> None:
    """Make the services that read the graph and that let people decide about it; hand them to the server."""
    values = ValueTerms(lambda: privacy.keys.protector.policy)

    async def match(data_class: str, value: str) -> None:
        words = privacy.keys.keyring.words_of_all_epochs(data_class, value)
        await privacy.personal.guard.allow([Matched(data_class, words)])

    names = VertexNames(
        classes=values.classes, may_tokenise=values.may_tokenise, mac=graph.mac, owners=graph.identities, match=match
    )
    reader, curation = PostgresGraphReader(privacy.postgres.pool), PostgresGraphCuration(privacy.postgres.pool)
    finder = VertexFinder(reader, names)
    reading = GraphReading(reader, curation, PostgresCypherRunner(privacy.postgres.cypher_pool), finder)
    server.add(
        SERVICE,
        graph_service_pb2_grpc.add_GraphServiceServicer_to_server,
        GraphServicer(reading, server.drain_signal),
    )
    curating = CuratingPorts(reader, curation, finder, privacy.audit, parts.clock, masked_text)
    server.add(
        CURATION_SERVICE,
        curation_service_pb2_grpc.add_CurationServiceServicer_to_server,
        CurationServicer(GraphCurating(curating)),
        audits_itself=AUDITS_ITSELF,
    )
