"""The services that a process runs, made of its parts and handed to its server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heimdall.admin.v1 import admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.config import SERVICES, Config
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.http.server import HttpServer
from heimdall_server.edge.http.wiring import make_doors, make_http_server
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.listeners import SyslogEdge
from heimdall_server.ports.log_store import Limits
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.admin.logic import AdminUseCase
from heimdall_server.services.admin.servicer import AdminServicer
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.names import StoredNames
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.otlp_servicer import OtlpLogsServicer
from heimdall_server.services.ingest.servicer import IngestServicer
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.matching import PersonalSearch
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.logic.sets import SetFinder
from heimdall_server.services.query.logic.tokens import TokenCodec
from heimdall_server.services.query.logic.watch.outbox import OutboxLimits
from heimdall_server.services.query.logic.watch.runner import WatchPorts
from heimdall_server.services.query.logic.watch.stream import WatchLimits, WatchUseCase
from heimdall_server.services.query.servicer import QueryServicer
from heimdall_server.wiring.instance import RunningInstance
from heimdall_server.wiring.names import names_problem
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.undeleted import JournalWithoutDeleted

if TYPE_CHECKING:
    from heimdall_server.wiring.privacy import PrivacyParts


def make_export(config: Config, parts: Parts) -> ExportUseCase:
    """OTLP's use case, which gRPC and HTTP share."""
    return ExportUseCase(
        pipeline=parts.pipeline,
        state=parts.control,
        clock=parts.clock,
        dataset=config.ingest.otlp_dataset,
        keep_raw=config.ingest.dead_letter_bytes == "keep",
    )


def serve(
    config: Config,
    config_files: Sequence[str],
    parts: Parts,
    server: RpcServer,
    export: ExportUseCase,
    privacy: PrivacyParts | None,
    sets: SetFinder | None = None,
) -> RunningInstance:
    """Make the services that this process runs and hand them to the server."""
    keep_raw = config.ingest.dead_letter_bytes == "keep"
    journal_id = parts.journal.journal_id
    names: list[str] = []
    append: AppendUseCase | None = None
    watch: WatchUseCase | None = None
    if "ingest" in config.services:
        append = AppendUseCase(
            state=parts.control,
            pipeline=parts.pipeline,
            dump_pipeline=parts.dump_pipeline,
            clock=parts.clock,
            datasets=config.datasets,
            keep_raw=keep_raw,
            names=StoredNames(parts.mask_text, parts.key.derive("source names")),
        )
        ingest = IngestServicer(
            append=append,
            retry=RetryUseCase(
                state=parts.control,
                pipeline=parts.pipeline,
                journal=parts.journal,
                deleting=lambda: any(asked() for asked in parts.deleting),
            ),
            state=parts.control,
            journal_id=journal_id,
            clock=parts.clock,
            limits=config.limits,
            budget=server.inflight,
            drain=server.drain_signal,
        )
        names.append("heimdall.ingest.v1.IngestService")
        server.add(names[-1], ingest_service_pb2_grpc.add_IngestServiceServicer_to_server, ingest)
        server.add_otlp_logs(OtlpLogsServicer(export).export)
        names.append("opentelemetry.proto.collector.logs.v1.LogsService")
    if "query" in config.services:
        personal = None if privacy is None else privacy.personal
        query, watch = _query(config, parts, server, personal, sets)
        names.append("heimdall.query.v1.QueryService")
        server.add(names[-1], query_service_pb2_grpc.add_QueryServiceServicer_to_server, query)
    if privacy is not None:
        names.append("heimdall.privacy.v1.PrivacyService")
    if "graph" in config.services:
        names += [f"heimdall.graph.v1.{name}Service" for name in ("Graph", "Curation", "Interchange")]
    instance = RunningInstance(
        start_time_ns=parts.clock.now_ns(),
        services=lambda: names,
        journal=parts.journal,
        warm=parts.warm,
        control=parts.control,
        append=append,
        watch=watch,
        tls=parts.tls,
        optional={} if privacy is None else privacy.progress,
        postgres=None if privacy is None else privacy.postgres,
        notices=[
            *_notices(config, copied_from=parts.journal.copied_from),
            *([] if parts.keys is None else parts.keys.ring.notices()),
        ],
    )
    if "admin" in config.services:
        toml = config.to_toml()
        admin = AdminUseCase(
            instance=instance,
            journal=parts.journal,
            store=parts.store,
            engine=config.warm.engine,
            datasets=config.datasets,
            clock=parts.clock,
            config_toml=lambda: (toml, 1, config_files),
        )
        names.append("heimdall.admin.v1.AdminService")
        database = None if privacy is None else privacy.postgres.health
        servicer = AdminServicer(admin, database)
        server.add(names[-1], admin_service_pb2_grpc.add_AdminServiceServicer_to_server, servicer)
    return instance


def make_http(config: Config, parts: Parts, server: RpcServer, export: ExportUseCase) -> HttpServer | None:
    """The HTTP edge. Without ingest, or without an address, there is none."""
    if "ingest" not in config.services or not config.listen.http_address:
        return None
    for name in ("elastic_dataset", "loki_dataset"):
        if (dataset := getattr(config.http, name)) not in config.datasets:
            raise ConfigurationError((f"http.{name}: there is no dataset {dataset!r}",))
    doors = make_doors(
        export,
        pipeline=parts.pipeline,
        state=parts.control,
        clock=parts.clock,
        config=config.http,
        keep_raw=config.ingest.dead_letter_bytes == "keep",
    )
    return make_http_server(config.listen.http_address, doors, parts.tls, config.access, config.http, server)


def make_syslog(config: Config, parts: Parts) -> SyslogEdge:
    """The syslog listeners. Without ingest there are none."""
    settings = config.syslog if "ingest" in config.services else SyslogConfig()
    if settings.dataset not in config.datasets:
        raise ConfigurationError((f"syslog.dataset: there is no dataset {settings.dataset!r}",))
    return SyslogEdge(
        settings,
        files=parts.tls,
        tls_config=config.tls,
        access=config.access,
        pipeline=parts.pipeline,
        counts=parts.control.counts,
        clock=parts.clock,
        keep_raw=config.ingest.dead_letter_bytes == "keep",
    )


def make_search(config: Config, parts: Parts, personal: PersonalSearch | None, sets: SetFinder | None) -> SearchUseCase:
    """What searches records; all share an admission. Without `personal` values are searched for as typed, without `sets` no graph is asked."""
    return SearchUseCase(
        store=parts.store,
        journal=parts.journal,
        visibility=parts.warm,
        admission=parts.admission,
        tokens=_resume_tokens(parts),
        clock=parts.clock,
        limits=_store_limits(config),
        datasets=config.datasets,
        personal=personal,
        sets=sets,
    )


def _resume_tokens(parts: Parts) -> TokenCodec:
    return TokenCodec(parts.key.derive("resume tokens"), journal_id=parts.journal.journal_id)


def _store_limits(config: Config) -> Limits:
    limits = config.limits
    return Limits(
        time_s=limits.query_time_s_max,
        memory_bytes=limits.query_memory_bytes_max,
        scan_rows=limits.query_scan_rows_max,
        result_rows=limits.query_rows_max,
    )


def _query(
    config: Config, parts: Parts, server: RpcServer, personal: PersonalSearch | None, sets: SetFinder | None
) -> tuple[QueryServicer, WatchUseCase]:
    """The query service. Without `personal` values are searched for as they are typed."""
    limits = config.limits
    store_limits = _store_limits(config)
    admission = parts.admission
    tokens = _resume_tokens(parts)
    undeleted = JournalWithoutDeleted(parts.journal, lambda: parts.control.deleted_through)
    ports = WatchPorts(undeleted, parts.store, parts.warm, admission, tokens, store_limits)
    outbox = OutboxLimits(limits.outbound_bytes_max, limits.outbound_messages_max)
    watch = WatchUseCase(
        ports=ports,
        clock=parts.clock,
        limits=WatchLimits(limits.watches_per_stream_max, limits.heartbeat_s, outbox),
        datasets=config.datasets,
        personal=personal,
        sets=sets,
    )
    search = make_search(config, parts, personal, sets)
    catalogue = CatalogueUseCase(
        store=parts.store,
        visibility=parts.warm,
        admission=admission,
        clock=parts.clock,
        limits=store_limits,
        datasets=config.datasets,
        personal=personal,
        sets=sets,
    )
    servicer = QueryServicer(
        search=search,
        watch=watch,
        catalogue=catalogue,
        tier="warm",
        journal_id=parts.journal.journal_id,
        drain=server.drain_signal,
    )
    return servicer, watch


def _notices(config: Config, *, copied_from: str) -> list[str]:
    """What an operator should know at start."""
    notices = []
    if copied_from:
        notices.append(
            f"this data folder was copied while process {copied_from} was at work in it: its parts may be of different "
            "moments; don't let both serve the same clients"
        )
    missing = [name for name in SERVICES if name not in config.services]
    if missing:
        masked = "; personal values are masked for good" if "privacy" in missing else ""
        notices.append(f"services that don't run here: {', '.join(missing)}{masked}")
    if config.ingest.dead_letter_bytes == "drop":
        notices.append("bytes of what can't be decoded are dropped: dead letters can't be retried")
    if problem := names_problem(config.privacy_names):
        notices.append(problem)
    return notices
