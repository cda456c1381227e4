"""Metrics of query."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

FIRST_ROWS_SECONDS: Final = Histogram(
    "heimdall_query_first_rows_seconds", "From a search to its first rows", buckets=_SECONDS
)
WAITING: Final = Gauge("heimdall_query_waiting", "Queries that wait for their turn, by class", ["class"])
RUNNING: Final = Gauge("heimdall_query_running", "Queries that run, by class", ["class"])
WAIT_SECONDS: Final = Histogram(
    "heimdall_query_wait_seconds", "From a query's arrival to its turn, by class", ["class"], buckets=_SECONDS
)
REFUSED: Final = Counter("heimdall_query_refused_total", "Queries that found no room, by budget", ["budget"])
OVERRUN: Final = Counter("heimdall_query_overrun_total", "Queries that were thought to be short and were not")
SHARED: Final = Counter("heimdall_query_shared_total", "Searches that got the answer of an equal one")
CUT: Final = Counter("heimdall_query_cut_total", "Searches that a limit cut, by limit", ["limit"])
MATCHED: Final = Counter("heimdall_query_matched_values_total", "Personal values that callers were let search for")
MATCH_REFUSED: Final = Counter(
    "heimdall_query_match_refused_total",
    "Questions refused because they named personal values, by outcome",
    ["outcome"],
)
WATCH_SECONDS: Final = Histogram(
    "heimdall_watch_delivery_seconds", "From a record's place in the journal to a watch's outbox", buckets=_SECONDS
)
WATCH_LATE: Final = Counter(
    "heimdall_watch_late_records_total", "Records of closed buckets, which live aggregates don't count"
)
WATCHES_TOGETHER: Final = Gauge(
    "heimdall_watches_together", "Watches at the head of the journal, which are evaluated together", ["crowd"]
)
WATCH_ROUND_SECONDS: Final = Histogram(
    "heimdall_watch_round_seconds", "Evaluation of new records for all watches together", ["crowd"], buckets=_SECONDS
)
WATCH_CPU_SECONDS: Final = Counter("heimdall_watch_cpu_seconds_total", "CPU time of the evaluation of watches")
WATCH_OUTBOX_BYTES: Final = Gauge("heimdall_watch_outbox_bytes", "Rows that wait for readers of watch streams")
WATCH_GROUPS: Final = Gauge("heimdall_watch_groups", "Groups that live aggregates hold")
