"""What is kept of dumps besides their facts: profiles, which add up, and what their records said, so that one that comes again is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_batches import GraphBatch, RecordMarks
from heimdall_server.domain.graph_profiles import Hashes, Profile
from heimdall_server.storage.postgres.graph.facts import Longs
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

TABLES: Final = ("graph_profile", "graph_record")
"""Observed, like facts."""
_BLOCK_BITS: Final = 12
_BLOCK: Final = 1 << _BLOCK_BITS
_HASH_BYTES: Final = 8
_ASK_PROFILES: Final = (
    "SELECT p.id, p.provenance, p.body FROM graph_profile p "
    "JOIN unnest(%s::uuid[], %s::integer[]) AS k (id, provenance) ON k.id = p.id AND k.provenance = p.provenance"
)
_KEEP_PROFILE: Final = "INSERT INTO graph_profile VALUES (%s::uuid, %s, %s) ON CONFLICT (id, provenance) DO UPDATE SET body = excluded.body"
_ASK_BLOCKS: Final = "SELECT block, hashes FROM graph_record WHERE provenance = %s AND block = ANY(%s)"
_ASK_BLOCKS_OF: Final = (
    "SELECT r.block, r.hashes FROM graph_record r JOIN graph_provenance p ON p.provenance_id = r.provenance "
    "WHERE p.digest = %s AND r.block = ANY(%s)"
)
_KEEP_BLOCK: Final = "INSERT INTO graph_record VALUES (%s, %s, %s) ON CONFLICT (provenance, block) DO UPDATE SET hashes = excluded.hashes"
_VISIBLE_PROFILES: Final = f"""
SELECT p.id, p.body FROM graph_profile p JOIN graph_provenance w ON w.provenance_id = p.provenance AND w.tlp <= %s
WHERE p.id = ANY(%s::uuid[]) AND (
    EXISTS (SELECT FROM {table(VertexKind.DUMP)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
    OR EXISTS (SELECT FROM {table(VertexKind.FIELD)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
)
"""  # noqa: S608 - names of ours

# Of warninglists a dump has provenances that differ in confidence alone; its records are known by one of them.
_RECORDS_GONE: Final = f"""
WITH told AS (
    SELECT t.provenance, t.first_place, t.last_place FROM {table(VertexKind.FIELD_VALUE)} t JOIN graph_gone g ON g.id = t.id
    UNION SELECT t.provenance, t.first_place, t.last_place FROM {table(VertexKind.SIGHTING)} t JOIN graph_gone g ON g.id = t.id
    UNION SELECT f.provenance, f.first_place, f.last_place FROM graph_fact_provenance f JOIN graph_gone g ON g.id = f.fact
)
SELECT DISTINCT o.provenance_id, told.first_place, told.last_place FROM told
JOIN graph_provenance w ON w.provenance_id = told.provenance AND w.dump <> ''
JOIN graph_provenance o ON o.instance = w.instance AND o.source = w.source AND o.dump = w.dump
WHERE told.first_place > 0
"""  # noqa: S608 - names of ours
_FORGET_ONE: Final = (
    "UPDATE graph_record SET hashes = overlay(hashes PLACING decode('0000000000000000', 'hex') FROM %s) "
    "WHERE provenance = %s AND block = %s"
)
_PROFILES_AROUND: Final = f"""
SELECT p.id, p.provenance, p.body FROM graph_profile p WHERE p.id IN (
    SELECT f.uid FROM graph_gone g JOIN {table(EdgeKind.HAS_VALUE)} h ON h.end_id = g.id JOIN {table(VertexKind.FIELD)} f ON f.id = h.start_id
)
"""  # noqa: S608 - names of ours
_FORGET_BLOCKS: Final = "DELETE FROM graph_record WHERE provenance = %s AND block BETWEEN %s AND %s"


async def keep_dumps(connection: Connection, batch: GraphBatch, provenances: Longs) -> None:
    """Add what a batch says of dumps to what is there, within its transaction.

    Args:
        connection: Of a writer.
        batch: It counts.
        provenances: Numbers of the batch's provenances.
    """
    if batch.profiles:
        await _keep_profiles(connection, batch, provenances)
    by_digest = {one.digest: int(number) for one, number in zip(batch.provenances, provenances, strict=True)}
    for marks in batch.records:
        await _keep_marks(connection, marks, by_digest[marks.provenance.digest])


async def marks_of(connection: Connection, provenance: Provenance, numbers: Longs) -> Hashes:
    """What some records of a dump said, as far as they are there; 0: it isn't."""
    blocks = np.unique(numbers >> _BLOCK_BITS).tolist()
    cursor = await connection.execute(_ASK_BLOCKS_OF, (provenance.digest, blocks), binary=True)
    held = {int(block): np.frombuffer(hashes, ">u8") for block, hashes in await cursor.fetchall()}
    found = np.zeros(len(numbers), np.uint64)
    for block, hashes in held.items():
        rows = np.flatnonzero(numbers >> _BLOCK_BITS == block)
        found[rows] = hashes[numbers[rows] & (_BLOCK - 1)]
    return found


async def visible_profiles(connection: Connection, ids: Collection[bytes], tlp_max: Tlp) -> Mapping[bytes, Profile]:
    """Profiles under a ceiling, those of several provenances merged."""
    ceiling = tlp_max.value
    asked = (ceiling, [one.hex() for one in ids], ceiling, ceiling)
    cursor = await connection.execute(_VISIBLE_PROFILES.encode(), asked, binary=True)
    found: dict[bytes, Profile] = {}
    for id_, body in await cursor.fetchall():
        profile = Profile.decode(bytes(body))
        found[id_.bytes] = found[id_.bytes].merged(profile) if id_.bytes in found else profile
    return found


async def forget_dump(connection: Connection, provenances: Sequence[int]) -> None:
    """Drop what some provenances say of dumps: their records are no longer there."""
    for name in TABLES:
        await connection.execute(f"DELETE FROM {name} WHERE provenance = ANY(%s)".encode(), (list(provenances),))  # noqa: S608 - ours


async def forget_records(connection: Connection) -> None:
    """Forget the records that told what `graph_gone` has (`id`: graph ids of vertices), so that they are taken in when they come again.

    Of what several records told, all between the first and the last are forgotten: their counts are added again, should they come.
    """
    rows = await (await connection.execute(_RECORDS_GONE.encode())).fetchall()
    for provenance, first, last in rows:
        block = first >> _BLOCK_BITS
        if first == last:
            await connection.execute(_FORGET_ONE, ((first & (_BLOCK - 1)) * _HASH_BYTES + 1, provenance, block))
        else:
            await connection.execute(_FORGET_BLOCKS, (provenance, block, last >> _BLOCK_BITS))


async def forget_samples(connection: Connection, value: str) -> None:
    """Take a value out of the samples of the fields that have it; it is among what `graph_gone` has, and its edges are still there."""
    cursor = await connection.execute(_PROFILES_AROUND.encode(), binary=True)
    for id_, provenance, body in await cursor.fetchall():
        profile = Profile.decode(bytes(body))
        samples = tuple(one for one in profile.samples if one[1] != value)
        if samples != profile.samples:
            await connection.execute(_KEEP_PROFILE, (id_.hex, provenance, replace(profile, samples=samples).encode()))


async def _keep_profiles(connection: Connection, batch: GraphBatch, provenances: Longs) -> None:
    added: dict[tuple[bytes, int], Profile] = {}
    for part in batch.profiles:
        key = (part.id, int(provenances[part.provenance]))
        added[key] = added[key].merged(part.profile) if key in added else part.profile
    keys = list(added)
    asked = ([id_.hex() for id_, _ in keys], [number for _, number in keys])
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_ASK_PROFILES, asked)
        for id_, number, body in await cursor.fetchall():
            added[id_.bytes, number] = Profile.decode(bytes(body)).merged(added[id_.bytes, number])
        await cursor.executemany(
            _KEEP_PROFILE,
            [(id_.hex(), number, profile.encode()) for (id_, number), profile in sorted(added.items(), key=_key)],
        )


def _key(item: tuple[tuple[bytes, int], Profile]) -> tuple[bytes, int]:
    return item[0]


async def _keep_marks(connection: Connection, marks: RecordMarks, provenance: int) -> None:
    blocks = marks.numbers >> _BLOCK_BITS
    distinct = np.unique(blocks)
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_ASK_BLOCKS, (provenance, distinct.tolist()))
        held = {int(block): np.frombuffer(hashes, ">u8").copy() for block, hashes in await cursor.fetchall()}
        rows = []
        for block in distinct.tolist():
            hashes = held.get(block, np.zeros(_BLOCK, ">u8"))
            some = blocks == block
            hashes[marks.numbers[some] & (_BLOCK - 1)] = marks.hashes[some]
            rows.append((provenance, block, hashes.tobytes()))
        await cursor.executemany(_KEEP_BLOCK, rows)
