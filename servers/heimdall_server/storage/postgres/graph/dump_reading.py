"""Reads dumps: fields, profiles, and values by what they are, so that those of two dumps can be compared."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from heimdall_server.domain.errors import QueryTimeoutError
from heimdall_server.domain.graph import EdgeKind, Tlp, VertexKind
from heimdall_server.domain.graph_dumps import FIELDS_MAX, DescribedDump, DumpField
from heimdall_server.domain.graph_profiles import Profile
from heimdall_server.ports.graph_dumps import SharedValues
from heimdall_server.storage.postgres.binary_copy import Octets, array_octets
from heimdall_server.storage.postgres.graph.dumps import visible_profiles
from heimdall_server.storage.postgres.graph.labels import table
from heimdall_server.storage.postgres.graph.moment import reading
from heimdall_server.storage.postgres.graph.rows import VALUE
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_READ_S: Final = 10.0
_ID_BYTES: Final = 16
_FIELDS: Final = f"""
SELECT t.uid, {VALUE} AS name, count(*) OVER () FROM {table(VertexKind.DUMP)} d
JOIN {table(EdgeKind.HAS_FIELD)} h ON h.start_id = d.id AND h.tlp_min <= %(tlp)s
JOIN {table(VertexKind.FIELD)} t ON t.id = h.end_id AND t.tlp_min <= %(tlp)s
WHERE d.uid = %(id)s AND d.tlp_min <= %(tlp)s ORDER BY name LIMIT {FIELDS_MAX}
"""
_FIELD: Final = f"SELECT {VALUE} FROM {table(VertexKind.FIELD)} t WHERE t.uid = %(id)s AND t.tlp_min <= %(tlp)s"
_DUMP_OF: Final = f"""
SELECT d.uid FROM {table(VertexKind.FIELD)} f JOIN {table(EdgeKind.HAS_FIELD)} h ON h.end_id = f.id
JOIN {table(VertexKind.DUMP)} d ON d.id = h.start_id
WHERE f.uid = %(id)s AND f.tlp_min <= %(tlp)s AND h.tlp_min <= %(tlp)s AND d.tlp_min <= %(tlp)s LIMIT 1
"""
_IS_DUMP: Final = f"SELECT FROM {table(VertexKind.DUMP)} t WHERE t.uid = %(id)s AND t.tlp_min <= %(tlp)s"
# Aggregated, so that a million ids are one value that is read without a loop.
_VALUES: Final = f"""
SELECT array_agg(DISTINCT coalesce(e.uid, md5({VALUE})::uuid))
FROM {table(VertexKind.FIELD)} f
JOIN {table(EdgeKind.HAS_VALUE)} h ON h.start_id = f.id AND h.tlp_min <= %(tlp)s
JOIN {table(VertexKind.FIELD_VALUE)} t ON t.id = h.end_id AND t.tlp_min <= %(tlp)s
LEFT JOIN LATERAL (
    SELECT n.uid FROM {table(EdgeKind.OF_ENTITY)} o JOIN {table(VertexKind.ENTITY)} n ON n.id = o.end_id AND n.tlp_min <= %(tlp)s
    WHERE o.start_id = t.id AND o.tlp_min <= %(tlp)s LIMIT 1
) e ON true
WHERE f.uid = %(id)s AND f.tlp_min <= %(tlp)s
"""


class PostgresGraphDumps:
    """Implements `ports.graph_dumps.GraphDumps`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def describe(self, id_: bytes, *, tlp_max: Tlp) -> DescribedDump | None:
        """See the port."""
        asked = {"id": id_.hex(), "tlp": tlp_max.value}
        async with reading(self._pool, _READ_S) as connection:
            if await (await connection.execute(_IS_DUMP.encode(), asked)).fetchone() is not None:
                return await _dump(connection, id_, asked, tlp_max)
            row = await (await connection.execute(_FIELD.encode(), asked)).fetchone()
            if row is None:
                return None
            owner = await (await connection.execute(_DUMP_OF.encode(), asked)).fetchone()
            of_dump = [owner[0].bytes] if owner is not None else []
            profiles = await visible_profiles(connection, [id_, *of_dump], tlp_max)
            row_count = sum(profiles[one].row_count for one in of_dump if one in profiles)
            return DescribedDump(row_count, [DumpField(id_, str(row[0]), profiles.get(id_, Profile()))], 1)

    async def shared(self, a: Sequence[bytes], b: Sequence[bytes], *, tlp_max: Tlp, time_s: float) -> SharedValues:
        """See the port."""
        end_s = time.monotonic() + time_s
        found: dict[bytes, Octets] = {}
        async with reading(self._pool, time_s) as connection:
            for id_ in dict.fromkeys((*a, *b)):
                found[id_] = await _values(connection, id_, tlp_max)
                if time.monotonic() > end_s:
                    raise QueryTimeoutError(time_s)
        return await asyncio.to_thread(_compared, {one: found[one] for one in a}, {one: found[one] for one in b})


async def _dump(connection: Connection, id_: bytes, asked: Mapping[str, object], tlp_max: Tlp) -> DescribedDump:
    rows = await (await connection.execute(_FIELDS.encode(), asked)).fetchall()
    profiles = await visible_profiles(connection, [id_, *(row[0].bytes for row in rows)], tlp_max)
    fields = [DumpField(row[0].bytes, str(row[1]), profiles.get(row[0].bytes, Profile())) for row in rows]
    return DescribedDump(profiles.get(id_, Profile()).row_count, fields, int(rows[0][2]) if rows else 0)


async def _values(connection: Connection, id_: bytes, tlp_max: Tlp) -> Octets:
    """What a field's values are, each once; shape (value, 16)."""
    asked = {"id": id_.hex(), "tlp": tlp_max.value}
    cursor = await connection.execute(_VALUES.encode(), asked, binary=True, prepare=False)
    result = cursor.pgresult
    return array_octets(result.get_value(0, 0) if result is not None else None, _ID_BYTES)


def _compared(a: Mapping[bytes, Octets], b: Mapping[bytes, Octets]) -> SharedValues:
    ids_a, ids_b = list(a), list(b)
    both = _frame([a[one] for one in ids_a]).join(_frame([b[one] for one in ids_b]), on=["high", "low"], suffix="_b")
    counted = both.group_by("field", "field_b").len()
    shared = {(ids_a[one], ids_b[other]): int(count) for one, other, count in counted.iter_rows()}
    return SharedValues({one: len(values) for one, values in (*a.items(), *b.items())}, shared)


def _frame(fields: Sequence[Octets]) -> pl.DataFrame:
    """Values as two integers each, with the field's place."""
    octets = np.ascontiguousarray(np.concatenate([np.empty((0, _ID_BYTES), np.uint8), *fields]))
    halves = octets.view(">u8").astype(np.uint64).reshape(-1, 2)
    places = np.repeat(np.arange(len(fields), dtype=np.uint32), [len(one) for one in fields])
    return pl.DataFrame({"field": places, "high": halves[:, 0], "low": halves[:, 1]})
