"""What people decide about the graph, in tables of its own, keyed by ids that outlive every rebuild."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from heimdall_server.domain.errors import EtagMismatchError, InvalidArgumentError, NotFoundError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_authored import GROUP_MAX, MERGE_DEPTH_MAX, Label, Merge, Note
from heimdall_server.storage.postgres.graph.groups import Place, parts_of, place_of
from heimdall_server.storage.postgres.graph.staging import Connection
from heimdall_server.storage.postgres.pool import PostgresPool

_LABEL: Final = "id, label, actor, create_time_ns, reason, tlp"
_NOTE: Final = "note_id, id, body, actor, create_time_ns, update_time_ns, tlp, version"
_MERGE: Final = "id, into_id, actor, create_time_ns, reason"
_MERGE_LOCK: Final = 0x4865696D4D657267
"""Key of the advisory lock that merges take turns by, so that two of them make no ring: `HeimMerg`."""


class PostgresGraphCuration:
    """Implements `ports.graph.GraphCuration`. Thread-bound to the event loop; callers may overlap."""

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool

    async def add_label(self, label: Label) -> None:
        """See the port."""
        values = (label.id.hex(), label.label, label.actor, label.create_time_ns, label.reason, label.tlp.value)
        await self._count(
            f"INSERT INTO graph_label ({_LABEL}) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id, label) DO UPDATE SET "
            "actor = excluded.actor, create_time_ns = excluded.create_time_ns, reason = excluded.reason, tlp = excluded.tlp "
            "WHERE graph_label.tlp > excluded.tlp",
            values,
        )

    async def remove_label(self, id_: bytes, label: str, *, tlp_max: Tlp) -> bool:
        """See the port."""
        statement = "DELETE FROM graph_label WHERE id = %s AND label = %s AND tlp <= %s"
        return await self._count(statement, (id_.hex(), label, tlp_max.value)) > 0

    async def labels(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Label]:
        """See the port."""
        rows = await self._rows(
            f"SELECT {_LABEL} FROM graph_label WHERE id = ANY(%s::uuid[]) AND tlp <= %s ORDER BY id, label",
            (_texts(ids), tlp_max.value),
        )
        return [
            Label(id_.bytes, label, actor, create_time_ns, reason, Tlp(tlp))
            for id_, label, actor, create_time_ns, reason, tlp in rows
        ]

    async def labelled(
        self, label: str, *, tlp_max: Tlp, after: bytes = b"", count_max: int = 1_000
    ) -> Sequence[bytes]:
        """See the port."""
        rows = await self._rows(
            "SELECT id FROM graph_label WHERE label = %s AND tlp <= %s AND (%s::uuid IS NULL OR id > %s::uuid) ORDER BY id LIMIT %s",
            (label, tlp_max.value, after.hex() or None, after.hex() or None, count_max),
        )
        return [row[0].bytes for row in rows]

    async def add_note(self, note: Note) -> None:
        """See the port."""
        values = (
            note.note_id.hex(),
            note.id.hex(),
            note.body,
            note.actor,
            note.create_time_ns,
            note.update_time_ns,
            note.tlp.value,
            note.version,
        )
        statement = f"INSERT INTO graph_note ({_NOTE}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
        await self._count(statement, values)

    async def note(self, note_id: bytes) -> Note | None:
        """See the port."""
        rows = await self._rows(f"SELECT {_NOTE} FROM graph_note WHERE note_id = %s", (note_id.hex(),))
        return _note(rows[0]) if rows else None

    async def change_note(self, note_id: bytes, body: str, *, etag: str, actor: str, time_ns: int) -> Note:
        """See the port."""
        async with self._pool.connection() as connection:
            before = await _held_note(connection, note_id)
            if before is None:
                raise NotFoundError("note", note_id.hex())
            if before.etag != etag:
                raise EtagMismatchError("note", before.etag)
            cursor = await connection.execute(
                "UPDATE graph_note SET body = %s, actor = %s, update_time_ns = %s, version = version + 1 "
                f"WHERE note_id = %s RETURNING {_NOTE}",
                (body, actor, time_ns, note_id.hex()),
            )
            row = await cursor.fetchone()
            return before if row is None else _note(row)

    async def remove_note(self, note_id: bytes, *, etag: str = "") -> bool:
        """See the port."""
        async with self._pool.connection() as connection:
            before = await _held_note(connection, note_id)
            if before is None:
                return False
            if etag not in ("", before.etag):
                raise EtagMismatchError("note", before.etag)
            await connection.execute("DELETE FROM graph_note WHERE note_id = %s", (note_id.hex(),))
            return True

    async def notes(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Note]:
        """See the port."""
        rows = await self._rows(
            f"SELECT {_NOTE} FROM graph_note WHERE id = ANY(%s::uuid[]) AND tlp <= %s ORDER BY create_time_ns, note_id",
            (_texts(ids), tlp_max.value),
        )
        return [_note(row) for row in rows]

    async def merge(self, merge: Merge, *, etag: str = "") -> Merge:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MERGE_LOCK,))
            before = await _merge_of(connection, merge.id)
            if before is not None and before.into_id == merge.into_id:
                return before
            if etag != ("" if before is None else before.etag):
                raise EtagMismatchError("merge", "" if before is None else before.etag)
            into, part = await place_of(connection, merge.into_id), await place_of(connection, merge.id)
            below = await parts_of(connection, (merge.id,))
            if merge.into_id == merge.id or merge.into_id in below:
                raise InvalidArgumentError("into", "it must not be part of what is merged into it; split it first")
            _check_room(into, part, await place_of(connection, into.root))
            await connection.execute(
                f"INSERT INTO graph_merge ({_MERGE}) VALUES (%s, %s, %s, %s, %s) "
                "ON CONFLICT (id) DO UPDATE SET into_id = excluded.into_id, actor = excluded.actor, "
                "create_time_ns = excluded.create_time_ns, reason = excluded.reason",
                (merge.id.hex(), merge.into_id.hex(), merge.actor, merge.create_time_ns, merge.reason),
            )
            return merge

    async def split(self, id_: bytes, *, etag: str = "") -> Merge | None:
        """See the port."""
        async with self._pool.connection() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MERGE_LOCK,))
            before = await _merge_of(connection, id_)
            if before is not None and etag not in ("", before.etag):
                raise EtagMismatchError("merge", before.etag)
            await connection.execute("DELETE FROM graph_merge WHERE id = %s", (id_.hex(),))
            return before

    async def merges(self, ids: Collection[bytes]) -> Sequence[Merge]:
        """See the port."""
        texts = _texts(ids)
        rows = await self._rows(
            f"SELECT {_MERGE} FROM graph_merge WHERE id = ANY(%s::uuid[]) OR into_id = ANY(%s::uuid[]) ORDER BY id",
            (texts, texts),
        )
        return [_merge(row) for row in rows]

    async def parts(self, id_: bytes) -> Sequence[Merge]:
        """See the port."""
        async with self._pool.connection() as connection:
            below = await parts_of(connection, (id_,))
            if not below:
                return ()
            statement = f"SELECT {_MERGE} FROM graph_merge WHERE id = ANY(%s::uuid[]) ORDER BY create_time_ns, id"
            return [_merge(row) for row in await (await connection.execute(statement, (_texts(below),))).fetchall()]

    async def _count(self, statement: str, values: Sequence[object]) -> int:
        async with self._pool.connection() as connection:
            return (await connection.execute(statement.encode(), values)).rowcount

    async def _rows(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        async with self._pool.connection(autocommit=True) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()


def _texts(ids: Collection[bytes]) -> list[str]:
    return [one.hex() for one in ids]


async def _held_note(connection: Connection, note_id: bytes) -> Note | None:
    """A note, which nobody else changes until the transaction ends."""
    cursor = await connection.execute(f"SELECT {_NOTE} FROM graph_note WHERE note_id = %s FOR UPDATE", (note_id.hex(),))
    row = await cursor.fetchone()
    return None if row is None else _note(row)


async def _merge_of(connection: Connection, id_: bytes) -> Merge | None:
    """What makes a vertex a part of another."""
    cursor = await connection.execute(f"SELECT {_MERGE} FROM graph_merge WHERE id = %s", (id_.hex(),))
    row = await cursor.fetchone()
    return None if row is None else _merge(row)


def _check_room(into: Place, part: Place, whole: Place) -> None:
    if whole.size + part.size > GROUP_MAX:
        raise InvalidArgumentError("into", f"at most {GROUP_MAX} entities may be one")
    if into.depth + 1 + part.height > MERGE_DEPTH_MAX:
        root = into.root.hex()
        raise InvalidArgumentError("into", f"merges may be {MERGE_DEPTH_MAX} deep; merge it into {root} itself")


def _merge(row: Sequence[Any]) -> Merge:
    return Merge(row[0].bytes, row[1].bytes, *row[2:])


def _note(row: Sequence[Any]) -> Note:
    note_id, id_, body, actor, create_time_ns, update_time_ns, tlp, version = row
    return Note(note_id.bytes, id_.bytes, body, actor, create_time_ns, update_time_ns, Tlp(tlp), version)
