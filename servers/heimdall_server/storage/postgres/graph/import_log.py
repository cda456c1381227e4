"""The log of imports in PostgreSQL. Rows get their numbers one import after the other, so none becomes visible behind a later one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_imports import ImportedEntity, ImportedFacts, ImportRow, KeptObject
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_TIME_S: Final = 60.0
_INSERT: Final = (
    b"INSERT INTO graph_import (sequence, digest, ref, source, entity, tlp, counted, tokens, people, actor, create_time_ns, facts, kept, fact) "
    b"VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::uuid[], %s, %s, %s, %s, %s)"
)
# The newest version of each object, with what all of them added; one from before objects were kept has no fact.
_KEPT_OF_FACTS: Final = (
    b"SELECT fact, ref, sequence, kept, tlp, (SELECT coalesce(sum(o.counted), 0)::bigint FROM graph_import o WHERE o.ref = newest.ref "
    b"AND o.source = newest.source AND o.tlp <= %(tlp)s AND (o.fact = newest.fact OR o.fact IS NULL)) FROM ("
    b"SELECT *, row_number() OVER (PARTITION BY fact ORDER BY sequence DESC) AS place FROM ("
    b"SELECT DISTINCT ON (fact, ref) fact, ref, source, sequence, kept, tlp FROM graph_import "
    b"WHERE fact = ANY(%(facts)s::uuid[]) AND tlp <= %(tlp)s ORDER BY fact, ref, sequence DESC) told) newest "
    b"WHERE place <= %(count)s ORDER BY fact, place"
)
# As `PostgresGraphCuration.add_label`; of several that differ in their marking the least strict one is seen by all who may.
_LABEL: Final = (
    b"INSERT INTO graph_label (id, label, actor, create_time_ns, reason, tlp) VALUES (%s, %s, %s, %s, %s, %s) "
    b"ON CONFLICT (id, label) DO UPDATE SET "
    b"actor = excluded.actor, create_time_ns = excluded.create_time_ns, reason = excluded.reason, tlp = excluded.tlp "
    b"WHERE graph_label.tlp > excluded.tlp"
)


class PostgresImportLog:
    """Implements `ports.graph_imports.ImportLog`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def known(self, digests: Collection[bytes]) -> Collection[bytes]:
        """See the port."""
        async with self._pool.connection() as connection:
            return await _known(connection, digests)

    async def counted(self, source: str, refs: Collection[bytes]) -> Mapping[bytes, int]:
        """See the port."""
        rows = await self._rows(
            b"SELECT ref, sum(counted)::bigint FROM graph_import WHERE ref = ANY(%s) AND source = %s AND counted > 0 GROUP BY ref",
            (list(refs), source),
        )
        return {bytes(ref): int(count) for ref, count in rows}

    async def entities(self, refs: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, ImportedEntity]:
        """See the port."""
        rows = await self._rows(
            b"SELECT DISTINCT ON (ref) ref, facts FROM graph_import WHERE ref = ANY(%s) AND entity IS NOT NULL AND tlp <= %s "
            b"ORDER BY ref, sequence DESC",
            (list(refs), tlp_max.value),
        )
        return {bytes(ref): ImportedFacts.from_json(facts).entities[0] for ref, facts in rows}

    async def append(self, rows: Sequence[ImportRow], *, actor: str, time_ns: int) -> int:
        """See the port."""
        async with self._pool.connection(timeout_s=_TIME_S) as connection:
            await connection.execute(b"INSERT INTO graph_import_head (sequence) VALUES (0) ON CONFLICT DO NOTHING")
            cursor = await connection.execute(b"SELECT sequence FROM graph_import_head FOR UPDATE")
            held = await cursor.fetchone()
            sequence = 0 if held is None else int(held[0])
            known = set(await _known(connection, [row.digest for row in rows]))
            new: dict[bytes, ImportRow] = {}
            for row in rows:
                if row.digest not in known:
                    new.setdefault(row.digest, row)
            if not new:
                return 0
            async with connection.cursor() as many:
                await many.executemany(
                    _INSERT,
                    [_values(sequence + number, row, actor, time_ns) for number, row in enumerate(new.values(), 1)],
                )
                # In one order, so that two imports don't wait for each other.
                labels = sorted(
                    ((one.id.hex(), one.label), (actor, time_ns, f"imported from {row.facts.source}", one.tlp.value))
                    for row in new.values()
                    for one in row.labels
                )
                if labels:
                    await many.executemany(_LABEL, [(*key, *about) for key, about in labels])
            await connection.execute(b"UPDATE graph_import_head SET sequence = %s", (sequence + len(new),))
            return len(new)

    async def head(self) -> int:
        """See the port."""
        rows = await self._rows(b"SELECT sequence FROM graph_import_head", ())
        return int(rows[0][0]) if rows else 0

    async def read(self, first: int, last: int, *, count_max: int) -> Sequence[tuple[int, ImportRow]]:
        """See the port."""
        rows = await self._rows(
            b"SELECT sequence, digest, ref, facts, tlp, entity, counted, kept FROM graph_import "
            b"WHERE sequence BETWEEN %s AND %s ORDER BY sequence LIMIT %s",
            (first, last, count_max),
        )
        return [(int(row[0]), _row(row)) for row in rows]

    async def kept(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, tuple[str, Tlp]]:
        """See the port."""
        rows = await self._rows(
            b"SELECT DISTINCT ON (entity) entity, kept, tlp FROM graph_import "
            b"WHERE entity = ANY(%s::uuid[]) AND tlp <= %s AND kept <> '' ORDER BY entity, sequence DESC",
            ([one.hex() for one in ids], tlp_max.value),
        )
        return {entity.bytes: (kept, Tlp(tlp)) for entity, kept, tlp in rows}

    async def kept_of_facts(
        self, facts: Collection[bytes], *, tlp_max: Tlp, count_max: int
    ) -> Mapping[bytes, Sequence[KeptObject]]:
        """See the port."""
        found: dict[bytes, list[KeptObject]] = {}
        asked = {"facts": [one.hex() for one in facts], "tlp": tlp_max.value, "count": count_max}
        for fact, ref, number, text, tlp, counted in await self._rows(_KEPT_OF_FACTS, asked):
            one = KeptObject(bytes(ref), int(number), text, Tlp(tlp), int(counted))
            found.setdefault(fact.bytes, []).append(one)
        return found

    async def _rows(self, statement: bytes, values: Sequence[object] | Mapping[str, object]) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement, values)).fetchall()


async def erase_imports(connection: Connection, tokens: Collection[str]) -> int:
    """Delete the rows that name whom tokens (in brackets) stand for; says how many. What they said of others goes with them."""
    cursor = await connection.execute(
        b"SELECT DISTINCT u.id FROM graph_import i CROSS JOIN LATERAL unnest(i.tokens, i.people) AS u (token, id) "
        b"WHERE i.tokens && %s AND u.token = ANY(%s)",
        (list(tokens), list(tokens)),
    )
    people = [row[0] for row in await cursor.fetchall()]
    return (await connection.execute(b"DELETE FROM graph_import WHERE people && %s", (people,))).rowcount


async def _known(connection: Connection, digests: Collection[bytes]) -> list[bytes]:
    cursor = await connection.execute(b"SELECT digest FROM graph_import WHERE digest = ANY(%s)", (list(digests),))
    return [bytes(row[0]) for row in await cursor.fetchall()]


def _values(sequence: int, row: ImportRow, actor: str, time_ns: int) -> tuple[object, ...]:
    facts = row.facts
    entity = row.entity.hex() or None
    tokens, people = [token for token, _ in facts.people], [id_.hex() for _, id_ in facts.people]
    about = (sequence, row.digest, row.ref, facts.source, entity, row.tlp.value, row.counted)
    fact = row.fact.hex() if row.kept else ""  # what says nothing more needn't be found by it
    return (*about, tokens, people, actor, time_ns, facts.to_json(), row.kept, fact or None)


def _row(row: Sequence[Any]) -> ImportRow:
    _, digest, ref, facts, tlp, entity, counted, kept = row
    told = ImportedFacts.from_json(facts)
    return ImportRow(
        bytes(digest), bytes(ref), told, Tlp(tlp), b"" if entity is None else entity.bytes, int(counted), (), kept
    )
