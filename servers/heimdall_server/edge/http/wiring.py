"""Puts the HTTP edge together: doors over the use cases, the application over the doors, the listener over both."""

from __future__ import annotations

from collections.abc import Sequence

from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.http.app import Door, EdgeApp
from heimdall_server.edge.http.elastic import ElasticDoor
from heimdall_server.edge.http.identity import Callers
from heimdall_server.edge.http.loki import LokiDoor
from heimdall_server.edge.http.otlp import OtlpDoor
from heimdall_server.edge.http.server import HttpServer
from heimdall_server.edge.http.tokens import TokensFile
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.permissions import AccessPolicy, Authorizer
from heimdall_server.rpc.server import RpcServer
from heimdall_server.rpc.tls_files import TlsFiles
from heimdall_server.services.ingest.logic import doors
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import IngestState


def make_doors(
    export: ExportUseCase, *, pipeline: Pipeline, state: IngestState, clock: Clock, config: HttpConfig, keep_raw: bool
) -> tuple[Door, ...]:
    """Every door.

    Args:
        export: OTLP's use case, the very one that gRPC has, so that a repeat is known whichever way it comes.
        pipeline: What the others' requests go through.
        state: Where answered requests are remembered.
        clock: Stamps what carries no time.
        config: Which datasets the records go to.
        keep_raw: Whether the bytes of bad records are kept.
    """
    elastic, loki = (
        ExportUseCase(pipeline=pipeline, state=state, clock=clock, dataset=dataset, keep_raw=keep_raw, door=door)
        for door, dataset in ((doors.ELASTIC, config.elastic_dataset), (doors.LOKI, config.loki_dataset))
    )
    return OtlpDoor(export), LokiDoor(loki), ElasticDoor(elastic)


def make_http_server(
    address: str, doors: Sequence[Door], files: TlsFiles, access: AccessPolicy, config: HttpConfig, rpc: RpcServer
) -> HttpServer:
    """A server that shares limits, admission and the budget of bytes in flight with gRPC's.

    Args:
        address: `host:port`.
        doors: What it serves.
        files: Certificates.
        access: Who may do what.
        config: Its own settings.
        rpc: Whose limits it shares. Its `drain` waits for requests here, too.

    Raises:
        ConfigurationError: The address or the tokens file can't be used.
    """
    tokens = None if config.tokens_file is None else TokensFile(config.tokens_file)
    app = EdgeApp(
        doors,
        callers=Callers(IdentityVerifier(files), Authorizer(access), tokens),
        admission=rpc.admission,
        inflight=rpc.inflight,
        body_bytes_max=rpc.limits.message_inflated_bytes_max,
        request_s=config.request_s,
    )
    return HttpServer(address, app, files, config, rpc.limits)
