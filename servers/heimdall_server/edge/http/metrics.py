"""Metrics of the HTTP edge. What becomes of the records is counted by ingest, under the door's name."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REQUESTS: Final = Counter("heimdall_edge_requests_total", "Requests answered", ["door", "operation", "code"])
DURATION: Final = Histogram(
    "heimdall_edge_duration_seconds",
    "From a request's head to its answer",
    ["door", "operation"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
CONNECTIONS: Final = Gauge("heimdall_edge_connections", "Connections whose handshake is done")
HANDSHAKES_FAILED: Final = Counter("heimdall_edge_handshakes_failed_total", "Connections that never spoke TLS as we do")
TIMEOUTS: Final = Counter("heimdall_edge_timeouts_total", "Connections closed because their client was slow", ["part"])
TIMEOUT_HEAD: Final = TIMEOUTS.labels("head")
TIMEOUT_BODY: Final = TIMEOUTS.labels("body")
