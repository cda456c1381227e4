"""What PostgreSQL is told: which one, how many connections, how long anything may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from heimdall_server.domain.errors import ConfigurationError

STORE: Final = "postgres"
"""Its name in a `StoreError`."""


@dataclass(frozen=True, slots=True)
class PostgresConfig:
    """The PostgreSQL that keeps the vault, the audit log and control tables."""

    dsn_file: Path | None = None
    """File with the connection string (`postgresql://…` or `host=… user=…`) of a PostgreSQL 16 or newer and nothing else; its role must own the schema
    `heimdall`, or be allowed to create it. Where the graph is served: with the extensions age and vector, and the schema `heimdall_graph` likewise. None: an
    embedded one is started as a child process."""
    cypher_dsn_file: Path | None = None
    """With `dsn_file`: another, of a role that may read the schema of the graph (`heimdall_graph`) and nothing else, and isn't its owner;
    Cypher is run under it. None: Cypher is refused. The embedded one has such a role."""
    port: int = 0
    """Of the embedded one, on 127.0.0.1; 0: a free one, chosen at each start."""
    pool_size: int = 8
    """Connections at most; more callers wait."""
    connect_timeout_s: float = 5.0
    """For a new connection, and for a free one of the pool."""
    statement_timeout_s: float = 30.0
    """A statement that takes longer is cancelled by the server."""
    start_timeout_s: float = 30.0
    """The start of the process waits this long for PostgreSQL; later it goes on without, and PostgreSQL joins when it is there."""
    stop_timeout_s: float = 3.0
    """The embedded one gets this long to shut down cleanly, then it is killed, which loses nothing."""
    shared_buffers_bytes: int = 64 * 1024 * 1024
    """Page cache of the embedded one."""
    slow_statement_s: float = 0.5
    """A statement that takes longer goes to the slow log, with its plan and without its values; 0: none does."""
    slow_statement_count: int = 200
    """Of these are kept in memory, for `heimdall admin slow`."""

    def __post_init__(self) -> None:
        checks = {
            "postgres.port: from 0 to 65535": 0 <= self.port <= 65535,
            "postgres.pool_size: at least 2": self.pool_size >= 2,
            "postgres.connect_timeout_s: at least 1": self.connect_timeout_s >= 1,
            "postgres.statement_timeout_s: at least 0.1": self.statement_timeout_s >= 0.1,
            "postgres.start_timeout_s: more than 0": self.start_timeout_s > 0,
            "postgres.stop_timeout_s: more than 0": self.stop_timeout_s > 0,
            "postgres.shared_buffers_bytes: at least 1 MiB": self.shared_buffers_bytes >= 1 << 20,
            "postgres.slow_statement_s: at least 0.01, or 0": self.slow_statement_s == 0
            or self.slow_statement_s >= 0.01,
            "postgres.slow_statement_count: from 1 to 10,000": 1 <= self.slow_statement_count <= 10_000,
        }
        problems = tuple(rule for rule, holds in checks.items() if not holds)
        if problems:
            raise ConfigurationError(problems)
