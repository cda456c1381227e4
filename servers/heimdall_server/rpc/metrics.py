"""Metrics of the server's edge, and the endpoint that serves all of the process's metrics as Prometheus text."""

from __future__ import annotations

import ipaddress
import threading
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from heimdall_server.domain.errors import ConfigurationError

REQUESTS: Final = Counter("heimdall_rpc_requests_total", "Calls ended, by status code", ["service", "method", "code"])
DURATION: Final = Histogram(
    "heimdall_rpc_duration_seconds",
    "From a call's arrival to its end; of a stream, its whole life",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0),
)
IN_FLIGHT: Final = Gauge("heimdall_rpc_in_flight", "Calls being served", ["service", "method"])
STREAM_MESSAGES: Final = Counter(
    "heimdall_rpc_stream_messages_total", "Messages on streams", ["service", "method", "direction"]
)
LAGGED: Final = Counter("heimdall_rpc_streams_lagged_total", "Streams ended because their reader was too slow")

UNKNOWN: Final = "unknown"
"""Label of methods that don't exist, so that callers can't make labels up."""


class MethodMetrics:
    """A method's metrics, found by their labels once: for each call that is most of what they cost."""

    def __init__(self, service: str, method: str) -> None:
        self._labels = (service, method)
        self._ended: dict[str, Counter] = {}
        self.in_flight = IN_FLIGHT.labels(service, method)
        self.duration = DURATION.labels(service, method)

    def count(self, code: str) -> None:
        """A call ended with a status code."""
        ended = self._ended.get(code)
        if ended is None:
            ended = self._ended[code] = REQUESTS.labels(*self._labels, code)
        ended.inc()


class MetricsServer:
    """Serves the metrics over plain HTTP. On loopback only: whoever asks isn't asked who they are."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry = REGISTRY) -> None:
        """Choose where to listen.

        Args:
            host: A loopback address.
            port: 0: any.
            registry: What is served.

        Raises:
            ConfigurationError: Not a loopback address.
        """
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            problem = f"metrics: {host!r} isn't a loopback address; let a local agent or proxy pick the metrics up"
            raise ConfigurationError((problem,))
        self._host = host
        self._port = port
        self._registry = registry
        self._running: tuple[Any, threading.Thread] | None = None

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/metrics"

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The port is taken.
        """
        try:
            server, thread = start_http_server(self._port, addr=self._host, registry=self._registry)
        except OSError as error:
            problem = f"metrics: can't listen on {self._host}:{self._port}: {error.strerror or error}"
            raise ConfigurationError((problem,)) from error
        self._port = int(server.server_port)
        self._running = (server, thread)

    def stop(self) -> None:
        """Stop listening. Idempotent."""
        if self._running is not None:
            server, thread = self._running
            self._running = None
            server.shutdown()
            server.server_close()
            thread.join(timeout=2.0)
