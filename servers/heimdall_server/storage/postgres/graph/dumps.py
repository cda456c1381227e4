"""What is kept of dumps besides their facts: profiles, which add up, and which records were applied (`known_records.py`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_batches import GraphBatch
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.storage.postgres.graph.facts import Longs
from heimdall_server.storage.postgres.graph.known_records import TABLES as RECORD_TABLES
from heimdall_server.storage.postgres.graph.known_records import keep_records
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.staging import Connection

TABLES: Final = ("graph_profile", *RECORD_TABLES)
"""Observed, like facts."""
_ASK_PROFILES: Final = (
    "SELECT p.id, p.provenance, p.body FROM graph_profile p "
    "JOIN unnest(%s::uuid[], %s::integer[]) AS k (id, provenance) ON k.id = p.id AND k.provenance = p.provenance"
)
_KEEP_PROFILE: Final = "INSERT INTO graph_profile VALUES (%s::uuid, %s, %s) ON CONFLICT (id, provenance) DO UPDATE SET body = excluded.body"
_VISIBLE_PROFILES: Final = f"""
SELECT p.id, p.body FROM graph_profile p JOIN graph_provenance w ON w.provenance_id = p.provenance AND w.tlp <= %s
WHERE p.id = ANY(%s::uuid[]) AND (
    EXISTS (SELECT FROM {table(VertexKind.DUMP)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
    OR EXISTS (SELECT FROM {table(VertexKind.FIELD)} t WHERE t.uid = p.id AND t.tlp_min <= %s)
)
"""  # noqa: S608 - names of ours
_PROFILES_AROUND: Final = f"""
SELECT p.id, p.provenance, p.body FROM graph_profile p WHERE p.id IN (
    SELECT f.uid FROM graph_gone g JOIN {table(EdgeKind.HAS_VALUE)} h ON h.end_id = g.id JOIN {table(VertexKind.FIELD)} f ON f.id = h.start_id
)
"""  # noqa: S608 - names of ours


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
        await keep_records(connection, marks, by_digest[marks.provenance.digest])


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
