"""Where a batch waits in its transaction: temporary tables, filled by binary COPY and emptied at its end, and what is asked with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import psycopg

from heimdall_server.domain.graph import HOURS
from heimdall_server.storage.postgres.binary_copy import Column, Octets, array_integers, encode, send
from heimdall_server.storage.postgres.graph.facts import Facts, Longs, Sums

Connection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
MakeColumns: TypeAlias = Callable[[], Sequence[Column]]
_T = TypeVar("_T")
_SUMS: Final = "first_ns bigint, last_ns bigint, count bigint, first_place bigint, last_place bigint"
_FACT: Final = f"{_SUMS}, provenance integer, confidence smallint, tlp_min smallint, tlp_max smallint"
_TABLES: Final = (
    "graph_vertex_key (kind smallint, ordinal integer, uid uuid)",
    "graph_edge_key (kind smallint, ordinal integer, start_id ag_catalog.graphid, end_id ag_catalog.graphid, relation integer)",
    f"graph_vertex_change (kind smallint, id ag_catalog.graphid, {_FACT}, hours integer[])",
    f"graph_edge_change (kind smallint, start_id ag_catalog.graphid, end_id ag_catalog.graphid, relation integer, {_FACT}, rank integer)",
    "graph_vertex_text (kind smallint, id ag_catalog.graphid, mark smallint, properties ag_catalog.agtype)",
    f"graph_pair (fact ag_catalog.graphid, provenance integer, {_SUMS}, hours integer[])",
    "graph_record_key (ordinal integer, number bigint, hash bigint)",
)
SUM_COLUMNS: Final = "first_ns, last_ns, count, first_place, last_place"
FACT_COLUMNS: Final = f"{SUM_COLUMNS}, provenance, confidence, tlp_min, tlp_max"
_FACT_WIDTHS: Final = (8, 8, 8, 8, 8, 4, 2, 2, 2)
_HOURS_HEAD: Final = np.frombuffer(
    b"".join(number.to_bytes(4, "big") for number in (1, 0, 23, HOURS, 1)), np.uint8
)  # one dimension, no nulls, of int4 (oid 23), its length and lower bound


async def prepare(connection: Connection) -> None:
    """Make the tables where this session hasn't yet, and settings for the transaction."""
    for definition in _TABLES:
        await connection.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {definition} ON COMMIT DELETE ROWS")
    # Keys are looked up one by one in large indexes; estimates for tables that were filled a moment ago would say otherwise. What is
    # lost when the machine dies with the last transactions is lost together with their positions, and comes again.
    await connection.execute(
        "SET LOCAL search_path = heimdall, ag_catalog"
    )  # graph ids are compared by AGE's operators
    await connection.execute("SET LOCAL enable_hashjoin = off")
    await connection.execute("SET LOCAL enable_mergejoin = off")
    await connection.execute("SET LOCAL synchronous_commit = off")


async def copy_in(connection: Connection, target: str, columns: Sequence[Column]) -> None:
    """Copy rows.

    Args:
        connection: Within a transaction.
        target: A table and its columns.
        columns: In their order, and as wide as they are.
    """
    rows = await asyncio.to_thread(encode, columns)
    if len(rows):
        await send(connection, target, rows)


async def copy_all(connection: Connection, parts: Sequence[tuple[str, MakeColumns]]) -> None:
    """Copy rows into several tables, one after the other: while PostgreSQL is at one, the rows of the next are made.

    Args:
        connection: Within a transaction.
        parts: Tables and their columns, and what makes these, in a thread; at least one row each.
    """
    if not parts:
        return
    (target, make), *others = parts
    rows = await asyncio.to_thread(_encoded, make)
    for following, make_next in others:
        coming = await meanwhile(partial(_encoded, make_next), send(connection, target, rows))
        target, rows = following, coming
    await send(connection, target, rows)


async def meanwhile(work: Callable[[], _T], act: Awaitable[None]) -> _T:
    """Do something in a thread while something else is awaited. Both are over at the end, whatever becomes of them."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await act
    except BaseException:
        await asyncio.wait([task])
        task.exception()
        raise
    return await task


def _encoded(make: MakeColumns) -> Octets:
    return encode(make())


async def ask_arrays(connection: Connection, statement: str) -> list[bytes | None]:
    """The one row of a statement, as the octets of its values."""
    # Not prepared: its plan must follow the tables as they grow.
    cursor = await connection.execute(statement, binary=True, prepare=False)
    result = cursor.pgresult
    if result is None:
        return []
    return [result.get_value(0, index) for index in range(result.nfields)]


async def ask_facts(
    connection: Connection, source: str, *, further: Sequence[tuple[str, int]], with_hours: bool = False
) -> tuple[Longs, Facts, list[Longs]]:
    """Facts that are there, of keys that wait.

    Args:
        connection: Within a transaction.
        source: `FROM …`, with the keys as k and the label's table as t.
        further: More integer columns and their widths.
        with_hours: Whether the table keeps hours.

    Returns:
        Ordinals of the keys that were found, their facts, and the further columns.
    """
    names = ["k.ordinal", "t.id", *(f"t.{name.strip()}" for name in FACT_COLUMNS.split(","))]
    widths = [4, 8, *_FACT_WIDTHS]
    names += [name for name, _ in further]
    widths += [width for _, width in further]
    selected = [f"array_agg({name})" for name in names] + (["array_agg(t.hours)"] if with_hours else [])
    answer = await ask_arrays(connection, f"SELECT {', '.join(selected)} {source}")
    return await asyncio.to_thread(_facts_of, answer, widths, with_hours=with_hours)


def _facts_of(
    answer: Sequence[bytes | None], widths: Sequence[int], *, with_hours: bool
) -> tuple[Longs, Facts, list[Longs]]:
    columns = [array_integers(one, width) for one, width in zip(answer, widths, strict=False)]
    hours = array_integers(answer[-1], 4).astype(np.int32).reshape(-1, HOURS) if with_hours else None
    ordinals, graph_ids = columns[:2]
    first_ns, last_ns, count, first_place, last_place = columns[2:7]
    sums = Sums(first_ns, last_ns, count, first_place, last_place, hours)
    return ordinals, Facts(graph_ids, sums, *columns[7:11]), columns[11:]


def fact_columns(facts: Facts) -> list[Column]:
    """In the order of `FACT_COLUMNS`."""
    return [
        *sum_columns(facts.sums),
        facts.provenance.astype(np.int32),
        facts.confidence.astype(np.int16),
        facts.tlp_min.astype(np.int16),
        facts.tlp_max.astype(np.int16),
    ]


def sum_columns(sums: Sums) -> list[Column]:
    """In the order of `SUM_COLUMNS`."""
    return [sums.first_ns, sums.last_ns, sums.count, sums.first_place, sums.last_place]


def hours_column(hours: np.ndarray[Any, np.dtype[np.int32]]) -> Octets:
    """Arrays of 24 as PostgreSQL takes them, shape (row, octets)."""
    elements = np.empty((len(hours), HOURS), [("length", ">i4"), ("value", ">i4")])
    elements["length"], elements["value"] = 4, hours
    body = elements.view(np.uint8).reshape(len(hours), HOURS * 8)
    return np.concatenate([np.broadcast_to(_HOURS_HEAD, (len(hours), len(_HOURS_HEAD))), body], axis=1)
