"""The vault in PostgreSQL: sealed values by token, in batches. Only sealed bytes, tokens and numbers ever reach it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
import psycopg
import pyarrow as pa

from heimdall_server.domain.personal import EPOCHS, WORD_LENGTH, SealedValue, TokenName
from heimdall_server.domain.sealed_values import SealedRun, runs_of
from heimdall_server.ports.vault import Tombstone, VaultState
from heimdall_server.storage.postgres.binary_copy import Octets, Texts, encode, send
from heimdall_server.storage.postgres.pool import PostgresPool

_WRITER_LOCK: Final = 0x7661756C74
"""Key of the advisory lock (`vault` in ASCII) that whatever changes values takes: else a batch could bring back what an erasure is just
deleting, since neither sees the other's rows before it commits."""
_PAGE_ROWS: Final = 20_000
"""A statement that looks for old generations walks through at most this many values."""
_INCOMING: Final = (
    'CREATE TEMPORARY TABLE IF NOT EXISTS incoming (class text COLLATE "C", word text COLLATE "C", generation integer, sealed bytea, '
    "position bigint) ON COMMIT DELETE ROWS"
)
_INSERT: Final = """
WITH added AS (
    INSERT INTO vault_value (class, word, generation, sealed, first_position)
    SELECT i.class, i.word, i.generation, i.sealed, i.position
    FROM incoming i
    LEFT JOIN vault_tombstone t ON t.class = i.class AND t.word = i.word
    WHERE t.class IS NULL OR NOT (t.blocked OR i.position <= t.through_position)
    ORDER BY i.class, i.word, i.ctid
    ON CONFLICT (class, word) DO NOTHING
    RETURNING class, generation
), counted AS (
    SELECT class, generation, count(*) AS value_count FROM added GROUP BY class, generation
), kept AS (
    INSERT INTO vault_count AS c (class, generation, value_count)
    SELECT class, generation, value_count FROM counted
    ON CONFLICT (class, generation) DO UPDATE SET value_count = c.value_count + excluded.value_count
)
SELECT coalesce(sum(value_count), 0)::bigint FROM counted
"""
_COUNTED_DOWN: Final = """counted AS (
    SELECT class, generation, count(*) AS value_count FROM gone GROUP BY class, generation
), kept AS (
    UPDATE vault_count c SET value_count = c.value_count - n.value_count
    FROM counted n WHERE c.class = n.class AND c.generation = n.generation
)
SELECT coalesce(sum(value_count), 0)::bigint FROM counted"""
_DELETE: Final = f"""
WITH gone AS (
    DELETE FROM vault_value v USING unnest(%s::text[], %s::text[], %s::bigint[], %s::boolean[]) AS n(class, word, through, blocked)
    WHERE v.class = n.class AND v.word = n.word AND (n.blocked OR v.first_position <= n.through)
    RETURNING v.class, v.generation
), {_COUNTED_DOWN}
"""  # noqa: S608 - text of ours
_DISCARD: Final = f"""
WITH gone AS (
    DELETE FROM vault_value v USING unnest(%s::text[], %s::text[], %s::integer[]) AS n(class, word, generation)
    WHERE v.class = n.class AND v.word = n.word AND v.generation = n.generation
    RETURNING v.class, v.generation
), {_COUNTED_DOWN}
"""  # noqa: S608 - text of ours
_REPLACE: Final = """
WITH older AS (
    SELECT v.class, v.word, v.generation AS was, i.generation, i.sealed
    FROM incoming i JOIN vault_value v ON v.class = i.class AND v.word = i.word
    WHERE v.generation < i.generation
), changed AS (
    UPDATE vault_value v SET generation = o.generation, sealed = o.sealed
    FROM older o WHERE v.class = o.class AND v.word = o.word
    RETURNING o.class, o.was, o.generation
), moved AS (
    SELECT class, generation, sum(value_count) AS value_count FROM (
        SELECT class, was AS generation, -count(*) AS value_count FROM changed GROUP BY 1, 2
        UNION ALL
        SELECT class, generation, count(*) FROM changed GROUP BY 1, 2
    ) both_ways GROUP BY class, generation
), kept AS (
    INSERT INTO vault_count AS c (class, generation, value_count)
    SELECT class, generation, value_count FROM moved
    ON CONFLICT (class, generation) DO UPDATE SET value_count = c.value_count + excluded.value_count
)
SELECT count(*) FROM changed
"""
_BURY: Final = """
INSERT INTO vault_tombstone AS t (class, word, through_position, blocked, erasure_id, time_ns)
SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::boolean[], %s::text[], %s::bigint[])
ON CONFLICT (class, word) DO UPDATE SET
    through_position = greatest(t.through_position, excluded.through_position),
    blocked = t.blocked OR excluded.blocked,
    erasure_id = CASE WHEN excluded.through_position > t.through_position OR (excluded.blocked AND NOT t.blocked)
                      THEN excluded.erasure_id ELSE t.erasure_id END,
    time_ns = CASE WHEN excluded.through_position > t.through_position OR (excluded.blocked AND NOT t.blocked)
                   THEN excluded.time_ns ELSE t.time_ns END
"""
_FORGET: Final = """
WITH gone AS (
    DELETE FROM vault_value WHERE class = %s AND word >= %s AND word < %s RETURNING class, generation
), counted AS (
    SELECT class, generation, count(*) AS value_count FROM gone GROUP BY class, generation
), kept AS (
    UPDATE vault_count c SET value_count = c.value_count - n.value_count
    FROM counted n WHERE c.class = n.class AND c.generation = n.generation
)
SELECT coalesce(sum(value_count), 0)::bigint FROM counted
"""
_ADVANCE: Final = """
INSERT INTO vault_progress (journal_id, applied_position) VALUES (%s, %s)
ON CONFLICT (journal_id) DO UPDATE SET applied_position = excluded.applied_position
"""
_REWIND_TOMBSTONES: Final = (
    "UPDATE vault_tombstone SET through_position = %(through)s WHERE through_position > %(through)s"
)
_REWIND_VALUES: Final = """
WITH page AS (
    SELECT class, word FROM vault_value WHERE (class, word) > (%(class)s, %(word)s) ORDER BY class, word LIMIT %(count)s
), moved AS (
    UPDATE vault_value v SET first_position = %(through)s
    FROM page p WHERE v.class = p.class AND v.word = p.word AND v.first_position > %(through)s
)
SELECT class, word FROM page ORDER BY class DESC, word DESC LIMIT 1
"""
_NAMED: Final = "(class, word) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"


class PostgresVault:
    """Implements `ports/vault.py`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def applied(self, journal_id: str) -> int:
        """See the port."""
        async with self._pool.connection(autocommit=True) as connection:
            return await _number(
                connection, "SELECT applied_position FROM vault_progress WHERE journal_id = %s", (journal_id,)
            )

    async def apply(self, runs: Sequence[SealedRun], positions: Sequence[int], *, journal_id: str, through: int) -> int:
        """See the port. One transaction; about 8 µs a new value, nearly all of it in PostgreSQL."""
        rows = await asyncio.to_thread(_rows, runs, positions) if runs else None
        added = 0
        async with self._pool.connection() as connection:
            await _lock(connection)
            if rows is not None:
                added = await _bring(connection, rows, _INSERT)
            await connection.execute(_ADVANCE, (journal_id, through))
        return added

    async def note_gap(self, journal_id: str, *, first: int, last: int) -> None:
        """See the port."""
        statement = "INSERT INTO vault_gap (journal_id, first_position, last_position) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
        async with self._pool.connection() as connection:
            await connection.execute(statement, (journal_id, first, last))

    async def gaps(self, journal_id: str) -> Sequence[tuple[int, int]]:
        """See the port."""
        statement = "SELECT first_position, last_position FROM vault_gap WHERE journal_id = %s ORDER BY 1, 2"
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, (journal_id,))
            return [(int(first), int(last)) async for first, last in cursor]

    async def rewind(self, journal_id: str, through: int) -> None:
        """See the port. Values are walked through page by page, each in a transaction of its own."""
        async with self._pool.connection() as connection:
            await _lock(connection)
            await connection.execute(_REWIND_TOMBSTONES, {"through": through})
        if await self.applied(journal_id) <= through:
            return
        place: tuple[str, str] | None = ("", "")
        while place is not None:
            page = {"class": place[0], "word": place[1], "count": _PAGE_ROWS, "through": through}
            async with self._pool.connection() as connection:
                await _lock(connection)
                cursor = await connection.execute(_REWIND_VALUES, page)
                place = await cursor.fetchone()

    async def get(self, names: Collection[TokenName]) -> Mapping[TokenName, SealedValue]:
        """See the port."""
        if not names:
            return {}
        statement = f"SELECT class, word, generation, sealed FROM vault_value WHERE {_NAMED}"  # noqa: S608 - ours
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, _columns(names), binary=True)
            rows = await cursor.fetchall()
        found = [
            SealedValue(TokenName(data_class, word), generation, bytes(sealed))
            for data_class, word, generation, sealed in rows
        ]
        return {value.name: value for value in found}

    async def tombstones(self, names: Collection[TokenName]) -> Mapping[TokenName, Tombstone]:
        """See the port."""
        if not names:
            return {}
        statement = (
            "SELECT class, word, through_position, blocked, erasure_id, time_ns "  # noqa: S608 - ours
            f"FROM vault_tombstone WHERE {_NAMED}"
        )
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, _columns(names))
            found = [
                Tombstone(TokenName(data_class, word), through, blocked, erasure_id, time_ns)
                async for data_class, word, through, blocked, erasure_id, time_ns in cursor
            ]
        return {tombstone.name: tombstone for tombstone in found}

    async def bury(self, tombstones: Sequence[Tombstone]) -> int:
        """See the port. A second tombstone of a token only ever widens the first."""
        if not tombstones:
            return 0
        # One statement may not meet a token twice; the widest of them says it all.
        widest: dict[TokenName, Tombstone] = {}
        for one in sorted(tombstones, key=lambda one: (one.through, one.blocked)):
            before = widest.get(one.name)
            blocked = one.blocked or (before is not None and before.blocked)
            widest[one.name] = Tombstone(one.name, one.through, blocked, one.erasure_id, one.time_ns)
        rows = list(widest.values())
        classes, words = _columns(widest)
        through = [one.through for one in rows]
        blocked_ones = [one.blocked for one in rows]
        async with self._pool.connection() as connection:
            await _lock(connection)
            await connection.execute(
                _BURY,
                (
                    classes,
                    words,
                    through,
                    blocked_ones,
                    [one.erasure_id for one in rows],
                    [one.time_ns for one in rows],
                ),
            )
            return await _number(connection, _DELETE, (classes, words, through, blocked_ones))

    async def older_than(self, data_class: str, generation: int, *, batch: int) -> AsyncIterator[Sequence[SealedValue]]:
        """See the port. Each batch is read in a transaction of its own, in the order of words."""
        statement = (
            "SELECT word, generation, CASE WHEN generation < %s THEN sealed END FROM vault_value "
            "WHERE class = %s AND word > %s ORDER BY word LIMIT %s"
        )
        last, found = "", list[SealedValue]()
        while True:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(statement, (generation, data_class, last, _PAGE_ROWS), binary=True)
                page = await cursor.fetchall()
            found += [
                SealedValue(TokenName(data_class, word), was, bytes(sealed))
                for word, was, sealed in page
                if sealed is not None
            ]
            while len(found) >= batch or (found and len(page) < _PAGE_ROWS):
                yield found[:batch]
                found = found[batch:]
            if len(page) < _PAGE_ROWS:
                return
            last = page[-1][0]

    async def discard(self, values: Sequence[SealedValue]) -> int:
        """See the port."""
        if not values:
            return 0
        classes, words = _columns([value.name for value in values])
        async with self._pool.connection() as connection:
            await _lock(connection)
            return await _number(connection, _DISCARD, (classes, words, [value.generation for value in values]))

    async def replace(self, values: Sequence[SealedValue]) -> int:
        """See the port."""
        if not values:
            return 0
        runs = runs_of(values)
        rows = await asyncio.to_thread(_rows, runs, [0] * len(runs))
        async with self._pool.connection() as connection:
            await _lock(connection)
            return await _bring(connection, rows, _REPLACE)

    async def count_older_than(self, data_class: str, generation: int) -> int:
        """See the port. Costs nothing to speak of: counts are kept."""
        statement = "SELECT coalesce(sum(value_count), 0)::bigint FROM vault_count WHERE class = %s AND generation < %s"
        async with self._pool.connection() as connection:
            return await _number(connection, statement, (data_class, generation))

    async def forget_epoch(self, epoch: int) -> int:
        """See the port. A transaction for each class; words of an epoch lie together in the index."""
        first = EPOCHS[epoch]
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT DISTINCT class FROM vault_count")
            classes = [str(row[0]) for row in await cursor.fetchall()]
        count = 0
        for data_class in classes:
            async with self._pool.connection() as connection:
                await _lock(connection)
                count += await _number(connection, _FORGET, (data_class, first, chr(ord(first) + 1)))
        return count

    async def state(self) -> VaultState:
        """See the port. Of several journals the one that was applied furthest is told."""
        statement = (
            "SELECT (SELECT coalesce(sum(value_count), 0)::bigint FROM vault_count), "
            "pg_total_relation_size('vault_value') + pg_total_relation_size('vault_tombstone'), "
            "(SELECT count(*) FROM vault_tombstone), "
            "(SELECT coalesce(max(applied_position), 0) FROM vault_progress)"
        )
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement)
            row = await cursor.fetchone()
        counts = [int(value) for value in row or (0, 0, 0, 0)]
        return VaultState(*counts)


def _columns(names: Collection[TokenName]) -> tuple[list[str], list[str]]:
    return [name.data_class for name in names], [name.word for name in names]


async def _number(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], statement: str, parameters: Sequence[object] | None = None
) -> int:
    cursor = await connection.execute(statement, parameters)
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def _lock(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER_LOCK,))


async def _bring(connection: psycopg.AsyncConnection[tuple[Any, ...]], rows: Octets, statement: str) -> int:
    """Fill a table of the session, which is emptied at the transaction's end, and ask something that answers with a number.

    Making a table each time costs as much as a thousand values.
    """
    await connection.execute(_INCOMING)
    await send(connection, "incoming", rows)
    # Not prepared: its plan must follow the tables as they grow.
    cursor = await connection.execute(statement, prepare=False)
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


def _rows(runs: Sequence[SealedRun], positions: Sequence[int]) -> Octets:
    """The rows of `incoming`, in journal order."""
    counts = [len(run) for run in runs]
    classes = pa.array([run.data_class for run in runs], pa.string()).take(
        pa.array(np.repeat(np.arange(len(runs)), counts))
    )
    words = np.frombuffer(b"".join(run.words for run in runs), np.uint8).reshape(-1, WORD_LENGTH)
    generations = np.repeat(np.array([run.generation for run in runs], np.int32), counts)
    offsets = np.concatenate(([0], np.cumsum(np.concatenate([run.lengths for run in runs]), dtype=np.int64)))
    sealed = Texts(offsets, np.frombuffer(b"".join(run.sealed for run in runs), np.uint8))
    return encode([Texts.of(classes), words, generations, sealed, np.repeat(np.array(positions, np.int64), counts)])
