"""Which records of dumps were applied, a set of (provenance, number, hash), so that one that comes again is known, whatever came between.

A number hardly ever stands for two records, so the first hash of each lies in a block of `graph_record`, 8 bytes a number, and what else the
number stands for is a row of `graph_record_further`. There is none of a number whose place in its block is empty.
"""
# ruff: noqa: S608 - statements are made of names and numbers of ours; values are parameters

from __future__ import annotations

from typing import Final

import numpy as np

from heimdall_server.domain.graph import Provenance, VertexKind
from heimdall_server.domain.graph_batches import Flags, RecordMarks
from heimdall_server.domain.graph_profiles import Hashes
from heimdall_server.storage.postgres.binary_copy import Column, array_integers
from heimdall_server.storage.postgres.graph.facts import Longs
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection, ask_arrays, copy_in, prepare

TABLES: Final = ("graph_record", "graph_record_further")
"""Observed, like facts; by `provenance`."""
_BLOCK_BITS: Final = 12
_BLOCK: Final = 1 << _BLOCK_BITS
_HASH_BYTES: Final = 8
_ASK_BLOCKS: Final = "SELECT block, hashes FROM graph_record WHERE provenance = %s AND block = ANY(%s)"
_KEEP_BLOCK: Final = "INSERT INTO graph_record VALUES (%s, %s, %s) ON CONFLICT (provenance, block) DO UPDATE SET hashes = excluded.hashes"
_KEEP_FURTHER: Final = (
    "INSERT INTO graph_record_further SELECT %s, number, hash FROM graph_record_key ON CONFLICT DO NOTHING"
)
# Of warninglists a dump has provenances that differ in confidence alone; its records are known by one of them.
_GONE: Final = f"""
WITH told AS (
    SELECT t.provenance, t.first_place, t.last_place FROM {table(VertexKind.FIELD_VALUE)} t JOIN graph_gone g ON g.id = t.id
    UNION SELECT t.provenance, t.first_place, t.last_place FROM {table(VertexKind.SIGHTING)} t JOIN graph_gone g ON g.id = t.id
    UNION SELECT f.provenance, f.first_place, f.last_place FROM graph_fact_provenance f JOIN graph_gone g ON g.id = f.fact
)
SELECT DISTINCT o.provenance_id, told.first_place, told.last_place FROM told
JOIN graph_provenance w ON w.provenance_id = told.provenance AND w.dump <> ''
JOIN graph_provenance o ON (o.instance, o.source, o.method, o.dump, o.actor, o.tlp) = (w.instance, w.source, w.method, w.dump, w.actor, w.tlp)
WHERE told.first_place > 0
"""
_FORGET_ONE: Final = (
    "UPDATE graph_record SET hashes = overlay(hashes PLACING decode('0000000000000000', 'hex') FROM %s) "
    "WHERE provenance = %s AND block = %s"
)
_FORGET_BLOCKS: Final = "DELETE FROM graph_record WHERE provenance = %s AND block BETWEEN %s AND %s"
_FORGET_FURTHER: Final = "DELETE FROM graph_record_further WHERE provenance = %s AND number BETWEEN %s AND %s"


async def known_records(connection: Connection, provenance: Provenance, numbers: Longs, hashes: Hashes) -> Flags:
    """Which of some records of a dump were applied. Each is asked for by its number and hash; in any order, any of them twice.

    Cost: 8 bytes a record from PostgreSQL; where the number stands for another record, a row to it and a look-up.
    """
    cursor = await connection.execute(
        "SELECT provenance_id FROM graph_provenance WHERE digest = %s", (provenance.digest,)
    )
    row = await cursor.fetchone()
    if row is None:
        return np.zeros(len(numbers), bool)
    held = await _Blocks.read(connection, row[0], numbers)
    firsts = held.of(numbers)
    known: Flags = firsts == hashes
    rest = np.flatnonzero((firsts != 0) & ~known)
    if len(rest):
        await prepare(connection)
        keys: list[Column] = [rest.astype(np.int32), numbers[rest], hashes[rest].view(np.int64)]
        await copy_in(connection, "graph_record_key (ordinal, number, hash)", keys)
        (found,) = await ask_arrays(
            connection,
            "SELECT array_agg(k.ordinal) FROM graph_record_key k JOIN graph_record_further f "
            f"ON f.provenance = {int(row[0])} AND f.number = k.number AND f.hash = k.hash",
        )
        known[array_integers(found, 4)] = True
    return known


async def keep_records(connection: Connection, marks: RecordMarks, provenance: int) -> None:
    """Add records to those that were applied, within the transaction of a batch. Idempotent.

    Args:
        connection: Of a writer, prepared.
        marks: The records.
        provenance: Number of theirs.
    """
    held = await _Blocks.read(connection, provenance, marks.numbers)
    is_first = np.diff(marks.numbers, prepend=0) > 0  # of those with its number
    free = np.flatnonzero(is_first & (held.of(marks.numbers) == 0))
    await held.keep(connection, provenance, marks.numbers[free], marks.hashes[free])
    rest = held.of(marks.numbers) != marks.hashes
    if rest.any():
        keys = [marks.numbers[rest], marks.hashes[rest].view(np.int64)]
        await copy_in(connection, "graph_record_key (number, hash)", keys)
        await connection.execute(_KEEP_FURTHER, (provenance,))
        await connection.execute("TRUNCATE graph_record_key")


async def forget_records(connection: Connection) -> None:
    """Forget the records that told what `graph_gone` has (`id`: graph ids of vertices), so that they are taken in when they come again.

    Of what several records told, all between the first and the last are forgotten: their counts are added again, should they come.
    """
    rows = await (await connection.execute(_GONE.encode())).fetchall()
    for provenance, first, last in rows:
        begin, end = first >> _BLOCK_BITS, last >> _BLOCK_BITS
        if first == last:
            await connection.execute(_FORGET_ONE, ((first & (_BLOCK - 1)) * _HASH_BYTES + 1, provenance, begin))
            await connection.execute(_FORGET_FURTHER, (provenance, first, last))
        else:
            await connection.execute(_FORGET_BLOCKS, (provenance, begin, end))
            await connection.execute(_FORGET_FURTHER, (provenance, begin << _BLOCK_BITS, (end + 1 << _BLOCK_BITS) - 1))


class _Blocks:
    """The blocks that some numbers lie in."""

    def __init__(self, blocks: Longs, hashes: Hashes) -> None:
        self._blocks = blocks
        """Ascending."""
        self._hashes = hashes
        """Shape (block, number within it); 0: nothing."""

    @classmethod
    async def read(cls, connection: Connection, provenance: int, numbers: Longs) -> _Blocks:
        blocks = np.unique(numbers >> _BLOCK_BITS)
        hashes = np.zeros((len(blocks), _BLOCK), ">u8")
        async with connection.cursor(binary=True) as cursor:
            await cursor.execute(_ASK_BLOCKS, (provenance, blocks.tolist()))
            for block, octets in await cursor.fetchall():
                hashes[np.searchsorted(blocks, block)] = np.frombuffer(octets, ">u8")
        return cls(blocks, hashes)

    def of(self, numbers: Longs) -> Hashes:
        """What stands there, of numbers that it was read for."""
        found: Hashes = self._hashes[self._places(numbers)].astype(np.uint64)
        return found

    async def keep(self, connection: Connection, provenance: int, numbers: Longs, hashes: Hashes) -> None:
        """Put something there."""
        places = self._places(numbers)
        self._hashes[places] = hashes
        rows = [(provenance, int(self._blocks[row]), self._hashes[row].tobytes()) for row in np.unique(places[0])]
        async with connection.cursor(binary=True) as cursor:
            await cursor.executemany(_KEEP_BLOCK, rows)

    def _places(self, numbers: Longs) -> tuple[Longs, Longs]:
        return np.searchsorted(self._blocks, numbers >> _BLOCK_BITS), numbers & (_BLOCK - 1)
