"""Metrics of the connections to PostgreSQL: by pool, and by the part of the server that uses it. Names and numbers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import psycopg
from prometheus_client import Counter, Gauge, Histogram
from psycopg import errors as pg

CONNECTIONS: Final = Gauge("heimdall_postgres_connections", "Connections that are open", ["pool", "state"])
CONNECTIONS_MAX: Final = Gauge("heimdall_postgres_connections_max", "Connections that may be open", ["pool"])
BREAKER: Final = Gauge(
    "heimdall_postgres_breaker_open", "1 while nobody waits for PostgreSQL, since it couldn't be reached", ["pool"]
)
WAITING: Final = Gauge("heimdall_postgres_waiting", "Callers that wait for a connection", ["user"])
IN_USE: Final = Gauge("heimdall_postgres_in_use", "Connections in somebody's hands", ["user"])
WAIT_SECONDS: Final = Histogram(
    "heimdall_postgres_wait_seconds",
    "From asking for a connection to having it",
    ["user"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
)
TRANSACTION_SECONDS: Final = Histogram(
    "heimdall_postgres_transaction_seconds",
    "From having a connection to giving it back",
    ["user"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
FAILURES: Final = Counter("heimdall_postgres_failures_total", "Statements that failed, by kind", ["user", "kind"])
RETRIES: Final = Counter(
    "heimdall_postgres_retries_total", "Transactions tried again after a conflict, by kind", ["user", "kind"]
)
SLOW: Final = Counter("heimdall_postgres_slow_statements_total", "Statements over the threshold", ["user"])

_KINDS: Final = (
    (pg.SerializationFailure, "serialization_failure"),
    (pg.DeadlockDetected, "deadlock"),
    (pg.LockNotAvailable, "lock_timeout"),
    (pg.IdleInTransactionSessionTimeout, "idle_timeout"),
    (pg.TransactionTimeout, "transaction_timeout"),
    (pg.QueryCanceled, "statement_timeout"),
    (pg.AdminShutdown, "shutdown"),
    (pg.CrashShutdown, "shutdown"),
    (pg.CannotConnectNow, "shutdown"),
    (pg.InsufficientPrivilege, "permission"),
    (pg.ReadOnlySqlTransaction, "permission"),
    (psycopg.DataError, "content"),
    (psycopg.IntegrityError, "content"),
    (pg.ProgramLimitExceeded, "content"),
    (psycopg.ProgrammingError, "statement"),
)


def kind_of(error: BaseException | None) -> str:
    """What kind of failure an error of the driver is: `deadlock`, `statement_timeout`, `connection`, …, `other`."""
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return name
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not error.sqlstate:
        return "connection"
    return "other"


def publish_pool(name: str, stats: Callable[[], dict[str, int]], in_use: Callable[[], int], size_max: int) -> None:
    """Let the gauges of a pool read from it.

    Args:
        name: Of the pool.
        stats: psycopg's.
        in_use: Connections that callers hold.
        size_max: Connections at most.
    """
    CONNECTIONS.labels(name, "idle").set_function(lambda: max(0, stats().get("pool_size", 0) - in_use()))
    CONNECTIONS.labels(name, "in_use").set_function(in_use)
    CONNECTIONS_MAX.labels(name).set(size_max)


def withdraw_pool(name: str) -> None:
    """The opposite of `publish_pool`."""
    for state in ("idle", "in_use"):
        CONNECTIONS.labels(name, state).set_function(lambda: 0)
    BREAKER.labels(name).set(0)
