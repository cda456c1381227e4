"""Runs Cypher for people, under a role that reads the graph and nothing else, in a read-only transaction, for so long and so many rows."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import itertools

import psycopg
from psycopg import errors as pg

from heimdall_server.domain.errors import (
    InvalidArgumentError,
    QueryCostError,
    QuerySyntaxError,
    QueryTimeoutError,
    StoreError,
)
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_reading import CypherResult
from heimdall_server.storage.postgres.config import STORE
from heimdall_server.storage.postgres.extensions import GRAPH
from heimdall_server.storage.postgres.graph.cypher_text import returned_columns
from heimdall_server.storage.postgres.graph.cypher_values import json_of
from heimdall_server.storage.postgres.pool import PostgresPool

_ROWS_MAX = 100_000
_VALUE_BYTES_MAX = 3 * 1024 * 1024
"""Of a whole result, so that it fits a message; rows beyond it are left out."""


class PostgresCypherRunner:
    """Implements `ports.graph.CypherRunner`. Thread-bound to the event loop; callers may overlap, the pool bounds them."""

    def __init__(self, pool: PostgresPool | None) -> None:
        """Connect to nothing yet.

        Args:
            pool: Connections of the role that reads the graph (`Postgres.cypher_pool`); None: there is no such role.
        """
        self._pool = pool

    async def run(self, text: str, *, tlp_max: Tlp, row_count_max: int = 1_000, time_s: float = 10.0) -> CypherResult:
        """See the port."""
        if not 1 <= row_count_max <= _ROWS_MAX or not 0 < time_s <= 600:
            raise InvalidArgumentError("row_count_max", f"rows from 1 to {_ROWS_MAX}, seconds up to 600")
        columns = returned_columns(text)
        if self._pool is None:
            raise StoreError(STORE, "it has no role for Cypher: name its connection string by postgres.cypher_dsn_file")
        tag = next(tag for tag in (f"$q{number}$" for number in itertools.count()) if tag not in text)
        names = ", ".join(f"c{index} ag_catalog.agtype" for index in range(len(columns)))
        head = f"SELECT * FROM ag_catalog.cypher('{GRAPH}', {tag}"
        statement = f"{head}{text.rstrip().removesuffix(';')}{tag}) AS ({names}) LIMIT {row_count_max + 1}"
        try:
            rows = await self._rows(self._pool, statement, tlp_max, time_s, head_length=len(head), text=text)
        except TimeoutError:
            raise QueryTimeoutError(time_s) from None
        kept: list[tuple[str, ...]] = []
        size_bytes = 0
        for row in rows[:row_count_max]:
            size_bytes += sum(len(value.encode()) for value in row)
            if size_bytes > _VALUE_BYTES_MAX:
                if not kept:
                    raise QueryCostError(
                        f"a row of the answer has more than {_VALUE_BYTES_MAX >> 20} MiB: return less of it"
                    )
                break
            kept.append(row)
        return CypherResult(columns, kept, truncated=len(kept) < len(rows))

    async def _rows(
        self, pool: PostgresPool, statement: str, tlp_max: Tlp, time_s: float, *, head_length: int, text: str
    ) -> list[tuple[str, ...]]:
        async with pool.connection(timeout_s=time_s) as connection:
            try:
                await connection.execute("SET TRANSACTION READ ONLY")
                await connection.execute("SET LOCAL search_path = ag_catalog")
                for name, value in (
                    ("statement_timeout", str(max(1, int(time_s * 1000)))),
                    ("heimdall.tlp_max", str(tlp_max.value)),
                ):
                    await connection.execute("SELECT set_config(%s, %s, true)", (name, value))
                cursor = await connection.execute(statement.encode(), prepare=False)
                return [
                    tuple("null" if value is None else json_of(str(value)) for value in row)
                    for row in await cursor.fetchall()
                ]
            except pg.QueryCanceled:
                raise QueryTimeoutError(time_s) from None
            except (pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege):
                raise QuerySyntaxError(
                    text, 0, "it writes, or calls what it may not, and Cypher here only reads"
                ) from None
            except (psycopg.InternalError, pg.OutOfMemory, pg.ProgramLimitExceeded, pg.StatementTooComplex) as error:
                # Not a failure of the store: the same query would fail again.
                raise QueryCostError(f"it is more than PostgreSQL gives to one query: {_sentence(error)}") from None
            except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
                # The sentence may quote the query; it goes to who wrote that, and isn't logged.
                raise QuerySyntaxError(text, _column(error, head_length, text), _sentence(error)) from None


def _column(error: psycopg.Error, head_length: int, text: str) -> int:
    position = int(error.diag.statement_position or 0) - 1 - head_length
    return position if 0 <= position <= len(text) else 0


def _sentence(error: psycopg.Error) -> str:
    return (error.diag.message_primary or type(error).__name__)[:500]
