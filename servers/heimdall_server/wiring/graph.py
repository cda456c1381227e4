"""The graph of a process that runs it: a projection into the PostgreSQL of the privacy service, and the service that reads it."""

from __future__ import annotations

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
from heimdall_server.projections.graph.imports import ErasesInTurn, ImportProjection
from heimdall_server.projections.graph.making import MakingPorts
from heimdall_server.projections.graph.removal import GraphRemoval
from heimdall_server.projections.graph.warninglists.files import WarninglistFolder
from heimdall_server.projections.trimming import Follower
from heimdall_server.protect.value_terms import ValueTerms
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.graph.curation_servicer import AUDITS_ITSELF, CurationServicer
from heimdall_server.services.graph.logic.curating import CuratingPorts, GraphCurating
from heimdall_server.services.graph.logic.dumps import DumpComparing
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.pivot import Pivoting, PivotPorts
from heimdall_server.services.graph.logic.reading import GraphReading
from heimdall_server.services.graph.logic.rebuilding import GraphRebuilding, RebuildingPorts
from heimdall_server.services.graph.logic.viewing import GraphViewing
from heimdall_server.services.graph.servicer import GraphServicer
from heimdall_server.services.query.logic.sets import SetFinder
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.cypher import PostgresCypherRunner
from heimdall_server.storage.postgres.graph.dump_reading import PostgresGraphDumps
from heimdall_server.storage.postgres.graph.erasing import PostgresGraphEraser
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.refusals import PostgresRefusedFacts
from heimdall_server.storage.postgres.graph.views import PostgresGraphViews
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.wiring.fact_work import make_fact_work, open_warninglists, wanted_of
from heimdall_server.wiring.graph_hunting import HuntParts, make_hunt_use_cases, make_hunts, start_hunter
from heimdall_server.wiring.graph_interchange import add_interchange_service, open_imports
from heimdall_server.wiring.graph_making import GraphRunner, UnfollowedGraph, make_making
from heimdall_server.wiring.graph_sets import make_set_finder
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.pivot import SearchedRecords
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.serving import make_search

SERVICE: Final = "heimdall.graph.v1.GraphService"
CURATION_SERVICE: Final = "heimdall.graph.v1.CurationService"
_FOR_SETS: Final = 2
"""Connections that queries may ask the graph by at once."""
_NOT_FOR_READERS: Final = 2
"""Connections that readers leave to the vault and to who writes the graph."""


@dataclass(frozen=True, slots=True)
class GraphParts:
    """What follows the journal into the graph."""

    projection: GraphProjection
    identities: Identities
    mac: Callable[[bytes], bytes]
    """Names entities of personal values."""
    warninglists: WarninglistFolder
    hunts: HuntParts
    imports: ImportProjection
    """What follows the log of imports."""
    runner: GraphRunner
    making: MakingPorts
    sets: SetFinder
    """What queries ask of it."""


def open_graph(config: Config, privacy: PrivacyParts, parts: Parts, stack: contextlib.AsyncExitStack) -> GraphParts:
    """Begin to follow the journal into the graph."""
    mac = _naming(privacy)
    identities = _identities(config, privacy, mac)
    warninglists = open_warninglists(config)
    hunts = make_hunts(config, privacy, parts)
    making = make_making(privacy, parts)
    projection = GraphProjection(
        parts.journal,
        PostgresGraphWriter(privacy.postgres.pool.used_by("graph_writer"), news=hunts.news),
        identities,
        parts.clock,
        work=make_fact_work(config, parts, warninglists),
        making=making,
        on_applied=lambda *_: hunts.ring(),
    )

    def follows() -> Follower:
        progress = projection.progress
        return Follower("graph", {SHARD: progress.applied}, progress.lag_s)

    parts.followers["graph"] = follows
    privacy.progress["graph"] = lambda: projection.progress
    runner = GraphRunner(projection, making.rebuilds, parts.journal, parts.clock)
    runner.start()
    stack.push_async_callback(runner.stop)
    start_hunter(config, privacy, parts, hunts, projection, identities, stack)
    pool = privacy.postgres.pool.used_by("graph_sets", at_most=_FOR_SETS)
    sets = make_set_finder(pool, projection, privacy.vault, privacy.keys.keyring, parts.clock)
    stack.push_async_callback(sets.close)
    imports = open_imports(privacy, stack)
    return GraphParts(projection, identities, mac, warninglists, hunts, imports, runner, making, sets)


def graph_removal(config: Config, privacy: PrivacyParts, parts: Parts, graph: GraphParts | None) -> GraphRemoval:
    """What takes erased values and deleted records out of the graph, also out of one that this process no longer brings up to date."""
    eraser = PostgresGraphEraser(privacy.postgres.pool.used_by("graph_eraser"))
    if graph is None:
        making = make_making(privacy, parts)
        work = make_fact_work(config, parts, open_warninglists(config))
        identities = _identities(config, privacy, _naming(privacy))
        projection = GraphProjection(parts.journal, making.quiet, identities, parts.clock, work=work, making=making)
        return GraphRemoval(eraser, delete_unfollowed=UnfollowedGraph(projection, work, making, parts.journal).delete)
    return GraphRemoval(ErasesInTurn(eraser, graph.imports), graph.projection, graph.identities)


def _naming(privacy: PrivacyParts) -> Callable[[bytes], bytes]:
    """What names entities of personal values."""
    key = privacy.keys.keyring.identity_key("personal entities")

    def mac(message: bytes) -> bytes:
        return hmac.digest(key, message, hashlib.sha256)

    return mac


def _identities(config: Config, privacy: PrivacyParts, mac: Callable[[bytes], bytes]) -> Identities:
    async def vault_applied(position: int) -> bool:
        return await privacy.follower.wait_applied(position, config.privacy_limits.vault_wait_s)

    return Identities(privacy.vault, privacy.keys.keyring, mac, wait_applied=vault_applied)


def add_graph_services(
    config: Config, privacy: PrivacyParts, graph: GraphParts, parts: Parts, server: RpcServer
) -> None:
    """Make the services that read the graph and that let people decide about it; hand them to the server."""
    values = ValueTerms(lambda: privacy.keys.protector.policy)

    async def match(data_class: str, value: str) -> None:
        words = privacy.keys.keyring.words_of_all_epochs(data_class, value)
        await privacy.personal.guard.allow([Matched(data_class, words)])

    names = VertexNames(
        classes=values.classes, may_tokenise=values.may_tokenise, mac=graph.mac, owners=graph.identities, match=match
    )
    pool = privacy.postgres.pool
    readers = pool.used_by("graph_reader", at_most=max(1, pool.config.pool_size - _NOT_FOR_READERS))
    reader, curation = PostgresGraphReader(readers), PostgresGraphCuration(pool.used_by("graph_curation"))
    finder = VertexFinder(reader, names, lambda label, tlp_max: curation.labelled(label, tlp_max=tlp_max))
    cypher = PostgresCypherRunner(privacy.postgres.cypher_pool)
    dumps = PostgresGraphDumps(readers)
    reading = GraphReading(reader, curation, cypher, finder, graph.warninglists, dumps, values.classes)
    views = PostgresGraphViews(readers)
    viewing = GraphViewing(views, curation, finder, values.classes)
    records = SearchedRecords(make_search(config, parts, privacy.personal, graph.sets), parts.clock)
    pivoting = Pivoting(
        PivotPorts(
            records,
            graph.identities,
            reader,
            views,
            curation,
            values.classes,
            graph_lag_s=lambda: graph.projection.progress.lag_s,
            wanted=wanted_of(config),
        )
    )
    server.add(
        SERVICE,
        graph_service_pb2_grpc.add_GraphServiceServicer_to_server,
        GraphServicer(
            reading,
            viewing,
            pivoting,
            graph.warninglists,
            make_hunt_use_cases(
                config, parts, graph.hunts, curation=curation, finder=finder, names=names, classes=values.classes
            ),
            DumpComparing(dumps, finder),
            server.drain_signal,
        ),
    )
    rebuilding = RebuildingPorts(
        graph.runner.rebuild,
        graph.making.rebuilds,
        PostgresRefusedFacts(readers),
        lambda: (graph.projection.progress.applied, graph.projection.progress.problem),
        privacy.audit,
        parts.mask_text,
    )
    curating = CuratingPorts(reader, curation, finder, privacy.audit, parts.clock, parts.mask_text)
    server.add(
        CURATION_SERVICE,
        curation_service_pb2_grpc.add_CurationServiceServicer_to_server,
        CurationServicer(GraphCurating(curating), GraphRebuilding(rebuilding)),
        audits_itself=AUDITS_ITSELF,
    )
    add_interchange_service(
        config,
        privacy,
        parts,
        server,
        imports=graph.imports,
        mac=graph.mac,
        classes=values.classes,
        reader=reader,
        finder=finder,
    )
