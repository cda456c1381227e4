"""The gRPC server: one object bound to two ports with mutual TLS, with health and reflection, that can drain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.ports.audit import AuditLog
from heimdall_server.rpc.admission import Admission, Drain
from heimdall_server.rpc.descriptors import affordable_connections
from heimdall_server.rpc.foreign import (
    HEALTH,
    OTLP_LOGS,
    REFLECTION_V1,
    REFLECTION_V1ALPHA,
    Export,
    otlp_logs_handler,
    reflection_handlers,
)
from heimdall_server.rpc.health import Health
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.interceptors import CallInterceptor
from heimdall_server.rpc.limits import InflightBytes, RpcLimits
from heimdall_server.rpc.permissions import AccessPolicy, Authorizer, method_policies
from heimdall_server.rpc.probe import probe
from heimdall_server.rpc.tls import server_credentials
from heimdall_server.rpc.tls_files import TlsFiles

_LOG: Final = logging.getLogger(__name__)
_HTTP2_FRAME_BYTES: Final = 1024 * 1024
"""Fewer, larger frames: a message of 1 MiB in one."""
_SEND_BYTES_MAX: Final = 4 * 1024 * 1024
"""Last resort against a response that clients refuse; servicers keep to `RpcLimits.response_bytes_max`."""
_IDENTITY_AND_GZIP: Final = 0b101
_PORT_MAX: Final = 65535
_STOP_S: Final = 0.5

Register = Callable[[Any, Any], None]
"""A generated `add_…Servicer_to_server`."""


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where the server listens."""

    mesh_address: str = "127.0.0.1:7443"
    """`host:port` for everything; port 0: any."""
    otlp_address: str = "127.0.0.1:4317"
    """Second port, the one that OpenTelemetry exporters expect. Serves the same. Empty: none."""
    http_address: str = "127.0.0.1:4318"
    """OTLP/HTTP, Elasticsearch's `_bulk` and Loki's push, over TLS. Empty: none."""

    def __post_init__(self) -> None:
        """Check the addresses.

        Raises:
            ConfigurationError: One isn't `host:port`; all are named.
        """
        problems: list[str] = []
        for name in ("mesh_address", "otlp_address", "http_address"):
            address = getattr(self, name)
            if address or name == "mesh_address":
                try:
                    split_address(address)
                except ConfigurationError as error:
                    problems += [f"listen.{name}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigurationError(tuple(problems))


class RpcServer:
    """A server. Add the services, start it, drain it, stop it. For one event loop."""

    def __init__(
        self,
        listen: ListenConfig,
        files: TlsFiles,
        access: AccessPolicy,
        *,
        limits: RpcLimits | None = None,
        inflight: InflightBytes | None = None,
        drain: Drain | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        """Prepare a server.

        Args:
            listen: Where.
            files: Its certificates.
            access: Who may do what.
            limits: Of the edge.
            inflight: The budget of bytes that the servicers share; none: one by `limits`.
            drain: What tells streams that the server goes away; none: one of its own.
            audit: Where calls of audited methods are written; none: into the process's log only.
        """
        self.limits = limits or RpcLimits()
        self.inflight = inflight or InflightBytes(self.limits.inflight_bytes_max)
        self.drain_signal = drain or Drain()
        self._listen = listen
        self._files = files
        self._access = access
        self._services: dict[str, Callable[[Any], None]] = {}
        self._audit = audit
        self._audits_itself: set[str] = set()
        self.admission = Admission(self.limits, self.drain_signal)
        self._server: grpc.aio.Server | None = None
        self._health: Health | None = None
        self._addresses: dict[str, str] = {}

    def add(self, name: str, register: Register, servicer: object, *, audits_itself: Collection[str] = ()) -> None:
        """Serve a service; before `start`.

        Args:
            name: Full name, `heimdall.query.v1.QueryService`.
            register: The generated function.
            servicer: Its methods are async and raise domain errors.
            audits_itself: Audited methods (`Reveal`) that write what they allow into the audit log, with what it was about.
        """
        self._audits_itself.update(f"{name}/{method}" for method in audits_itself)
        self._services[name] = lambda server: register(servicer, server)

    def add_otlp_logs(self, export: Export) -> None:
        """Serve OTLP's LogsService; before `start`. `export` gets the request as bytes, uncompressed."""
        self._services[OTLP_LOGS] = lambda server: server.add_generic_rpc_handlers((otlp_logs_handler(export),))

    @property
    def health(self) -> Health:
        """Health of the services; after `start`."""
        if self._health is None:
            msg = "the server hasn't been started"
            raise RuntimeError(msg)
        return self._health

    @property
    def mesh_address(self) -> str:
        """Where it listens, with the port it really got; after `start`."""
        return self._addresses["mesh"]

    @property
    def otlp_address(self) -> str:
        """Where exporters connect, with the port it really got; empty: nowhere."""
        return self._addresses.get("otlp", "")

    @property
    def call_count(self) -> int:
        """Calls being served."""
        return self.admission.call_count

    async def start(self) -> None:
        """Listen, prove that TLS is as it must be, and become healthy.

        Raises:
            ConfigurationError: A method has no policy, a port is taken, or TLS 1.2 would be answered.
        """
        names = (*self._services, HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA)
        reflection = reflection_handlers(names)
        interceptor = CallInterceptor(
            policies=method_policies(names),
            verifier=IdentityVerifier(self._files),
            authorizer=Authorizer(self._access),
            admission=self.admission,
            limits=self.limits,
            inflight=self.inflight,
            audit=self._audit,
            audits_itself=frozenset(self._audits_itself),
        )
        port_count = 2 if self._listen.otlp_address else 1
        connections_max = affordable_connections(self.limits.connections_max, port_count=port_count)
        server = grpc.aio.server(interceptors=(interceptor,), options=_options(self.limits, connections_max))
        for register in self._services.values():
            register(server)
        self._health = Health(tuple(self._services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers(reflection)
        self._bind(server, "mesh", self._listen.mesh_address)
        if self._listen.otlp_address:
            self._bind(server, "otlp", self._listen.otlp_address)
        await server.start()
        self._server = server
        try:
            for address in self._addresses.values():
                host, port = split_address(address)
                await probe(host, port, self._files.current)
        except ConfigurationError:
            await self.stop()
            raise
        await self._health.set_all_serving()
        _LOG.info("listening", extra={"addresses": self._addresses, "identity": str(self._files.current.identity)})

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Refuse new calls, tell streams to end, and wait until they have.

        Args:
            timeout_s: Longest wait; none: `limits.drain_s`.

        Returns:
            Whether all calls ended by themselves.
        """
        self.drain_signal.begin()
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        return await self.admission.wait_idle(self.limits.drain_s if timeout_s is None else timeout_s)

    async def stop(self) -> None:
        """Close the ports; what is still served is cancelled. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_STOP_S if self.call_count == 0 else None)

    def _bind(self, server: grpc.aio.Server, label: str, address: str) -> None:
        host, _ = split_address(address)
        try:
            port = server.add_secure_port(address, server_credentials(self._files))
        except RuntimeError as error:
            problem = f"can't listen on {address}; is another server running there?"
            raise ConfigurationError((problem,)) from error
        self._addresses[label] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Read `host:port` or `[v6]:port`.

    Raises:
        ConfigurationError: Not that.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > _PORT_MAX or not host:
        problem = f"{address!r} isn't an address host:port"
        raise ConfigurationError((problem,))
    return host.removeprefix("[").removesuffix("]"), int(port)


def _options(limits: RpcLimits, connections_max: int) -> tuple[tuple[str, int], ...]:
    milliseconds = 1000
    return (
        # Messages stay compressed; `rpc/messages.py` inflates them, up to a limit.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_AND_GZIP),
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        ("grpc.max_send_message_length", _SEND_BYTES_MAX),
        ("grpc.max_metadata_size", limits.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes_max),
        ("grpc.max_concurrent_streams", limits.streams_per_connection_max),
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.http2.max_frame_size", _HTTP2_FRAME_BYTES),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * milliseconds)),
        ("grpc.keepalive_time_ms", round(limits.keepalive_s * milliseconds)),
        ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout_s * milliseconds)),
        # This is what ends a connection whose pings aren't answered; gRPC's default is a minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", round(limits.keepalive_timeout_s * milliseconds)),
        ("grpc.keepalive_permit_without_calls", 1),
        # By default two pings, then silence: a stream on which nothing happens for hours may have lost its client, too.
        ("grpc.http2.max_pings_without_data", 0),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            round(limits.client_ping_interval_s_min * milliseconds),
        ),
        # A second server on the same port is a mistake, not a way to share the load.
        ("grpc.so_reuseport", 0),
    )
