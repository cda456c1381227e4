"""Metrics of ingest, in the names that dashboards of this field use."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECORDS: Final = Counter("heimdall_ingest_records_total", "Records decided, by outcome", ["outcome", "format"])
BYTES: Final = Counter("heimdall_ingest_bytes_total", "Payload bytes received", ["door"])
PROTECTED: Final = Counter("heimdall_protect_values_total", "Personal values that a policy acted on", ["class"])
ACK_SECONDS: Final = Histogram(
    "heimdall_ingest_ack_seconds",
    "From a batch's receipt to its durable acknowledgement",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
STAGE_SECONDS: Final = Histogram(
    "heimdall_ingest_stage_seconds",
    "Time of one group in one stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
GROUP_RECORDS: Final = Histogram(
    "heimdall_ingest_group_records",
    "Records coalesced into one frame",
    buckets=(1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000),
)
STREAMS: Final = Gauge("heimdall_ingest_streams", "Append streams open")
QUEUED_BYTES: Final = Gauge("heimdall_ingest_queued_bytes", "Payload bytes received and not yet decided")
REFUSED: Final = Counter("heimdall_ingest_refused_total", "Batches refused, by reason", ["reason"])
