"""What the driver raises, as `StoreError`: which kind of failure, of which table, and never a value.

A message of PostgreSQL's may quote what it was sent ("invalid input syntax for type …"), so only its code and names of ours pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from heimdall_server.domain.errors import StoreError
from heimdall_server.storage.postgres.config import STORE


def translated(error: Exception) -> StoreError:
    """The error for people and for those who try again."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return StoreError(STORE, "it can't be reached, or all connections are in use")
    if isinstance(error, PoolClosed):
        return StoreError(STORE, "it isn't ready yet, or was closed")
    if isinstance(error, psycopg.Error) and error.sqlstate:
        named = [name for name in (error.diag.table_name, error.diag.constraint_name) if name]
        return StoreError(STORE, f"{type(error).__name__} ({error.sqlstate}){' of ' if named else ''}{'/'.join(named)}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreError(STORE, "the connection was lost or refused")
    if isinstance(error, TimeoutError):
        return StoreError(STORE, "it didn't answer in time")
    return StoreError(STORE, type(error).__name__)


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Turn what the driver raises in a block into `StoreError`."""
    try:
        yield
    except (psycopg.Error, TimeoutError, OSError) as error:
        # Not chained: the driver's sentence may hold a value, and a traceback shows the cause.
        raise translated(error) from None
