"""One server process: built bottom up, run until a signal, taken down in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from heimdall.admin.v1 import admin_service_pb2_grpc
from heimdall.ingest.v1 import ingest_service_pb2_grpc
from heimdall.query.v1 import query_service_pb2_grpc
from heimdall_server.config import Config
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_file import load_or_mint_key, parse_key
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import ConfigurationError, KeyMismatchError
from heimdall_server.edge.http.server import HttpServer
from heimdall_server.edge.http.wiring import make_doors, make_http_server
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.listeners import SyslogEdge
from heimdall_server.jobs.retention import expire
from heimdall_server.jobs.schedule import every
from heimdall_server.ports.journal import DeadLetter, Entry, Positions, SourceKey
from heimdall_server.ports.log_store import Limits
from heimdall_server.projections.checkpoint import CheckpointFile
from heimdall_server.projections.warm import RefusedRecord, WarmHooks, WarmProjection
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.rpc.metrics import MetricsServer
from heimdall_server.rpc.server import RpcServer, split_address
from heimdall_server.rpc.tls_files import TlsFiles
from heimdall_server.services.admin.logic import AdminUseCase
from heimdall_server.services.admin.servicer import AdminServicer
from heimdall_server.services.ingest.logic.append import AppendUseCase
from heimdall_server.services.ingest.logic.dead_letters import context_to_json
from heimdall_server.services.ingest.logic.export import ExportUseCase
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.otlp_servicer import OtlpLogsServicer
from heimdall_server.services.ingest.servicer import IngestServicer
from heimdall_server.services.query.logic.admission import Admission
from heimdall_server.services.query.logic.catalogue import CatalogueUseCase
from heimdall_server.services.query.logic.search import SearchUseCase
from heimdall_server.services.query.logic.tokens import TokenCodec
from heimdall_server.services.query.logic.watch.outbox import OutboxLimits
from heimdall_server.services.query.logic.watch.runner import WatchPorts
from heimdall_server.services.query.logic.watch.stream import WatchLimits, WatchUseCase
from heimdall_server.services.query.servicer import QueryServicer
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.remote import RemoteEngine, ServerAddress
from heimdall_server.storage.clickhouse.store import ClickHouseConfig, ClickHouseLogStore
from heimdall_server.storage.journal.files import stored_fingerprint
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from heimdall_server.wiring.instance import RunningInstance
from heimdall_server.wiring.shutdown import drain

LOG: Final = logging.getLogger(__name__)
TRIM_S: Final = 5.0
"""How often the journal hears what may go: age takes effect then."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What stands before the services do."""

    clock: SystemClock
    key: RootKey
    journal: EmbeddedJournal
    store: ClickHouseLogStore
    warm: WarmProjection
    control: IngestState
    pipeline: Pipeline
    tls: TlsFiles


async def run(config: Config, config_files: Sequence[str], *, ready: asyncio.Event | None = None) -> None:
    """Run a server until SIGTERM or SIGINT; a second signal ends it at once.

    Args:
        config: Everything it needs to know.
        config_files: Where that was read from, for people.
        ready: Set when it serves.

    Raises:
        ConfigurationError, KeyMismatchError, CorruptionError, StoreError: It can't start; the sentence says why.
    """
    stopping = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts = await _build(config, stack)
        server = RpcServer(config.listen, parts.tls, config.access, limits=config.limits)
        export = _export(config, parts)
        instance = _serve(config, config_files, parts, server, export)
        instance.publish_gauges()
        if config.metrics_address:
            metrics = MetricsServer(*split_address(config.metrics_address))
            metrics.start()
            stack.callback(metrics.stop)
        await server.start()
        stack.push_async_callback(server.stop)
        http = _http(config, parts, server, export)
        if http is not None:
            await http.start()
            stack.push_async_callback(http.stop)
        syslog = _syslog(config, parts)
        stack.push_async_callback(syslog.drain)
        await syslog.start()
        for notice in instance.notices():
            LOG.warning("notice", extra={"notice": notice})
        LOG.info("started", extra={"services": list(config.services), "journal_id": parts.journal.journal_id})
        if ready is not None:
            ready.set()
        await stopping.wait()
        LOG.info("draining")
        await drain(server, syslog, parts.pipeline, parts.journal, parts.warm)
    LOG.info("stopped")


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            LOG.warning("second signal: leaving at once")
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


async def _build(config: Config, stack: contextlib.AsyncExitStack) -> _Parts:
    clock = SystemClock()
    tls = TlsFiles(config.tls)
    key = _root_key(config)
    journal = await EmbeddedJournal.open(config.journal, key=key, clock=clock)
    stack.push_async_callback(journal.close)
    control = IngestState(source_count_max=config.ingest.source_count_max)
    await journal.maintain(control)
    engine = _engine(config)
    datasets = tuple(config.datasets.values())
    warm_config = ClickHouseConfig(
        config.warm.database, datasets, config.warm.query_connections, text_index=config.warm.text_index
    )
    store = ClickHouseLogStore(engine, warm_config)
    stack.push_async_callback(store.close)
    await store.open()

    async def keep_refused(records: Sequence[RefusedRecord]) -> None:
        await journal.append([Entry(None, dead_letters=[_letter(record, clock) for record in records])])

    async def trim(through: Positions) -> None:
        await journal.trim(through)
        control.letters.forget_before(journal.tail().get(0, 1))

    warm = WarmProjection(
        journal,
        store,
        CheckpointFile(config.data_dir / "checkpoints" / "warm.json"),
        clock,
        limits=config.warm.read,
        hooks=WarmHooks(on_refused=keep_refused, on_advanced=trim),
    )
    tasks = [
        asyncio.create_task(_follow(warm), name="warm"),
        asyncio.create_task(every(TRIM_S, "trim", lambda: trim(warm.visible_through)), name="trim"),
        asyncio.create_task(
            every(config.retention.check_s, "retention", lambda: expire(store, datasets, clock)), name="retention"
        ),
    ]
    stack.push_async_callback(_cancel, tasks)
    pipeline = Pipeline(
        journal=journal, protector=PolicyProtector(config.privacy), clock=clock, limits=config.ingest.pipeline
    )
    pipeline.start()
    stack.push_async_callback(pipeline.close)
    return _Parts(clock, key, journal, store, warm, control, pipeline, tls)


def _root_key(config: Config) -> RootKey:
    expected = stored_fingerprint(config.journal.path)
    if config.keys.value is None:
        config.key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return load_or_mint_key(config.key_file, expected_fingerprint=expected)
    key = parse_key(config.keys.value.get_secret_value(), where="HEIMDALL_KEYS__VALUE")
    if expected is not None and key.fingerprint != expected:
        raise KeyMismatchError(expected, key.fingerprint)
    return key


def _engine(config: Config) -> Engine:
    warm = config.warm
    if warm.engine == "chdb":
        return ChdbEngine(config.data_dir / "warm", memory_bytes_max=warm.memory_bytes_max)
    password = ""
    if warm.password_file is not None:
        try:
            password = warm.password_file.read_text().strip()
        except OSError as error:
            raise ConfigurationError((f"warm.password_file: {warm.password_file}: {error.strerror}",)) from error
    return RemoteEngine(
        ServerAddress(warm.host, warm.port, warm.username, password, secure=warm.secure, ca_file=warm.ca_file)
    )


def _export(config: Config, parts: _Parts) -> ExportUseCase:
    """OTLP's use case, which gRPC and HTTP share."""
    return ExportUseCase(
        pipeline=parts.pipeline,
        state=parts.control,
        clock=parts.clock,
        dataset=config.ingest.otlp_dataset,
        keep_raw=config.ingest.dead_letter_bytes == "keep",
    )


def _serve(
    config: Config, config_files: Sequence[str], parts: _Parts, server: RpcServer, export: ExportUseCase
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
            clock=parts.clock,
            datasets=config.datasets,
            keep_raw=keep_raw,
        )
        ingest = IngestServicer(
            append=append,
            retry=RetryUseCase(state=parts.control, pipeline=parts.pipeline, journal=parts.journal),
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
        query, watch = _query(config, parts, server)
        names.append("heimdall.query.v1.QueryService")
        server.add(names[-1], query_service_pb2_grpc.add_QueryServiceServicer_to_server, query)
    instance = RunningInstance(
        start_time_ns=parts.clock.now_ns(),
        services=lambda: names,
        journal=parts.journal,
        warm=parts.warm,
        control=parts.control,
        append=append,
        watch=watch,
        tls=parts.tls,
        notices=_notices(config, copied_from=parts.journal.copied_from),
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
        server.add(names[-1], admin_service_pb2_grpc.add_AdminServiceServicer_to_server, AdminServicer(admin))
    return instance


def _http(config: Config, parts: _Parts, server: RpcServer, export: ExportUseCase) -> HttpServer | None:
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


def _syslog(config: Config, parts: _Parts) -> SyslogEdge:
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


def _query(config: Config, parts: _Parts, server: RpcServer) -> tuple[QueryServicer, WatchUseCase]:
    limits = config.limits
    store_limits = Limits(
        time_s=limits.query_time_s_max,
        memory_bytes=limits.query_memory_bytes_max,
        scan_rows=limits.query_scan_rows_max,
        result_rows=limits.query_rows_max,
    )
    admission = Admission(config.admission)
    tokens = TokenCodec(parts.key.derive("resume tokens"), journal_id=parts.journal.journal_id)
    ports = WatchPorts(parts.journal, parts.store, parts.warm, admission, tokens, store_limits)
    outbox = OutboxLimits(limits.outbound_bytes_max, limits.outbound_messages_max)
    watch = WatchUseCase(
        ports=ports,
        clock=parts.clock,
        limits=WatchLimits(limits.watches_per_stream_max, limits.heartbeat_s, outbox),
        datasets=config.datasets,
    )
    search = SearchUseCase(
        store=parts.store,
        journal=parts.journal,
        visibility=parts.warm,
        admission=admission,
        tokens=tokens,
        clock=parts.clock,
        limits=store_limits,
        datasets=config.datasets,
    )
    catalogue = CatalogueUseCase(
        store=parts.store,
        visibility=parts.warm,
        admission=admission,
        clock=parts.clock,
        limits=store_limits,
        datasets=config.datasets,
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
    missing = [name for name in ("ingest", "query", "admin") if name not in config.services]
    if missing:
        notices.append(f"services that don't run here: {', '.join(missing)}")
    if config.ingest.dead_letter_bytes == "drop":
        notices.append("bytes of what can't be decoded are dropped: dead letters can't be retried")
    return notices


def _letter(record: RefusedRecord, clock: SystemClock) -> DeadLetter:
    """A record that the store refuses, protected as it is, as an Arrow stream of one row."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, record.record.schema) as writer:
        writer.write_batch(record.record)
    source, dataset = (str(record.record.column(name)[0].as_py()) for name in ("source", "dataset"))
    now_ns = clock.now_ns()
    return DeadLetter(
        key=SourceKey("", source),
        offset=record.position,
        row=record.row,
        reason=f"the warm store refuses it: {record.reason}",
        time_ns=now_ns,
        raw=sink.getvalue().to_pybytes(),
        format='{"kind":"arrow","options":{}}',
        context=context_to_json(DecodeContext(source=source, dataset=dataset, observed_time_ns=now_ns)),
    )


async def _follow(warm: WarmProjection) -> None:
    """Run the projection; if it can't go on, say so and leave ingest to its bound."""
    try:
        await warm.run()
    except Exception:
        LOG.exception("the warm projection stopped; queries no longer see what is new")


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
