"""Metrics of ingest, in the names that dashboards of this field use."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from heimdall_server.domain.errors import HeimdallError

RECORDS: Final = Counter("heimdall_ingest_records_total", "Records decided, by outcome", ["outcome", "format"])
BYTES: Final = Counter("heimdall_ingest_bytes_total", "Payload bytes received", ["door"])
BYTES_APPEND: Final = BYTES.labels("append")
PROTECTED: Final = Counter("heimdall_protect_values_total", "Personal values that a policy acted on", ["class"])
ACK_SECONDS: Final = Histogram(
    "heimdall_ingest_ack_seconds",
    "From a batch's (or an export's) receipt to its durable acknowledgement",
    ["door"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ACK_APPEND: Final = ACK_SECONDS.labels("append")
_STAGE_SECONDS: Final = Histogram(
    "heimdall_ingest_stage_seconds",
    "Time of one group in one stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
STAGE_DECODE: Final = _STAGE_SECONDS.labels("decode")
STAGE_PROTECT: Final = _STAGE_SECONDS.labels("protect")
STAGE_JOURNAL: Final = _STAGE_SECONDS.labels("journal")
GROUP_RECORDS: Final = Histogram(
    "heimdall_ingest_group_records",
    "Records coalesced into one frame",
    buckets=(1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000),
)
STREAMS: Final = Gauge("heimdall_ingest_streams", "Append streams open")
QUEUED_BYTES: Final = Gauge("heimdall_ingest_queued_bytes", "Payload bytes received and not yet decided")
REFUSED: Final = Counter("heimdall_ingest_refused_total", "Batches and exports refused, by reason", ["reason"])
REPEATED: Final = Counter("heimdall_ingest_repeated_total", "Batches and exports that were stored before", ["door"])
FORGOTTEN: Final = Counter(
    "heimdall_ingest_forgotten_total", "What was forgotten before its time, because too much was remembered", ["what"]
)
LOST: Final = Counter(
    "heimdall_ingest_lost_bytes_total",
    "Payload bytes of senders that wait for no answer which weren't durable when the process ended",
    ["door"],
)

_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


@lru_cache
def _records(format_: str) -> tuple[Counter, Counter]:
    return RECORDS.labels("accepted", format_), RECORDS.labels("rejected", format_)


def count_records(format_: str, accepted_count: int, rejected_count: int) -> None:
    """Count records of a format that were decided."""
    accepted, rejected = _records(format_)
    accepted.inc(accepted_count)
    if rejected_count:
        rejected.inc(rejected_count)


def count_refusal(error: BaseException) -> None:
    """Count a refusal under the name of its error: `journal_full`; what isn't ours is `internal`."""
    name = type(error).__name__.removesuffix("Error") if isinstance(error, HeimdallError) else "internal"
    REFUSED.labels(_WORD.sub("_", name).lower()).inc()
