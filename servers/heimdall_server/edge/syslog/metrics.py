"""Metrics of the syslog listeners. What becomes of the bytes is counted by ingest, under the door `syslog`."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

CONNECTIONS: Final = Gauge("heimdall_edge_syslog_connections", "Connections open", ["transport"])
RECEIVED: Final = Counter("heimdall_edge_syslog_received_bytes_total", "Bytes received", ["transport"])
DATAGRAMS: Final = Counter("heimdall_edge_syslog_datagrams_total", "Datagrams received, dropped ones among them")
DROPPED: Final = Counter(
    "heimdall_edge_syslog_dropped_total",
    "Datagrams dropped: by us because too many bytes were held (bound, sender_bound), by the system before we read them"
    " (system)",
    ["reason"],
)
REFUSED: Final = Counter(
    "heimdall_edge_syslog_refused_total",
    "Connections refused or ended by us: connections, sender_connections, handshake, certificate, permission, idle,"
    " unfinished, memory",
    ["reason"],
)
PAUSED: Final = Counter("heimdall_edge_syslog_pauses_total", "Times that a connection wasn't read from for a while")
