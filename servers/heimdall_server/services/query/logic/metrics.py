"""Metrics of query."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

FIRST_ROWS_SECONDS: Final = Histogram(
    "heimdall_query_first_rows_seconds", "From a search to its first rows", buckets=_SECONDS
)
CUT: Final = Counter("heimdall_query_cut_total", "Searches that a limit cut, by limit", ["limit"])
WATCH_SECONDS: Final = Histogram(
    "heimdall_watch_delivery_seconds", "From a record's place in the journal to a watch's outbox", buckets=_SECONDS
)
WATCH_LATE: Final = Counter(
    "heimdall_watch_late_records_total", "Records of closed buckets, which live aggregates don't count"
)
