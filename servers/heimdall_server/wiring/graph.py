"""The graph of a process that runs it: a projection into the PostgreSQL of the privacy service, and the service that reads it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac

from heimdall.graph.v1 import graph_service_pb2_grpc
from heimdall_server.config import Config
from heimdall_server.planner.personal_terms import Matched
from heimdall_server.projections.graph.follower import SHARD, GraphProjection
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.trimming import Follower
from heimdall_server.protect.value_terms import ValueTerms
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.reading import GraphReading
from heimdall_server.services.graph.servicer import GraphServicer
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.tasks import cancel, follow

SERVICE = "heimdall.graph.v1.GraphService"


async def add_graph_service(
    config: Config, privacy: PrivacyParts, parts: Parts, server: RpcServer, stack: contextlib.AsyncExitStack
) -> None:
    """Begin to follow the journal into the graph, make the service, hand it to the server."""
    key = privacy.keys.keyring.identity_key("personal entities")

    def mac(message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha256)

    async def vault_applied(position: int) -> bool:
        return await privacy.follower.wait_applied(position, config.privacy_limits.vault_wait_s)

    identities = Identities(privacy.vault, privacy.keys.keyring, mac, wait_applied=vault_applied)
    projection = GraphProjection(parts.journal, PostgresGraphWriter(privacy.postgres.pool), identities, parts.clock)
    parts.followers["graph"] = lambda: Follower(
        "graph", {SHARD: projection.progress.applied}, projection.progress.lag_s
    )
    privacy.progress["graph"] = lambda: projection.progress
    task = asyncio.create_task(follow(projection.run, "the graph isn't brought up to date"), name="graph")
    stack.push_async_callback(cancel, [task])

    values = ValueTerms(lambda: privacy.keys.protector.policy)

    async def match(data_class: str, value: str) -> None:
        words = privacy.keys.keyring.words_of_all_epochs(data_class, value)
        await privacy.personal.guard.allow([Matched(data_class, words)])

    names = VertexNames(
        classes=values.classes, may_tokenise=values.may_tokenise, mac=mac, owners=identities, match=match
    )
    reading = GraphReading(
        PostgresGraphReader(privacy.postgres.pool),
        PostgresGraphCuration(privacy.postgres.pool),
        PostgresCypherRunner(privacy.postgres.cypher_pool),
        names,
    )
    server.add(
        SERVICE,
        graph_service_pb2_grpc.add_GraphServiceServicer_to_server,
        GraphServicer(reading, server.drain_signal),
    )
