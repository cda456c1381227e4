"""What has been applied: positions by stream, noted in the transaction of the facts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.graph_batches import Origin
from heimdall_server.storage.postgres.graph.ranges import Range, joined, missing
from heimdall_server.storage.postgres.graph.staging import Connection

# A neighbour on either side is asked for, too: it is joined with.
_ASK: Final = (
    "SELECT first_position, last_position FROM graph_applied "
    "WHERE stream = %s AND last_position >= %s - 1 AND first_position <= %s + 1 ORDER BY first_position"
)
_BEYOND: Final = """
DELETE FROM graph_applied WHERE stream = %(stream)s AND last_position > %(through)s
    OR CASE WHEN starts_with(stream, %(parts)s::text) THEN substr(stream, length(%(parts)s::text) + 1)::bigint END > %(through)s
RETURNING stream, first_position, last_position
"""
_RANGES: Final = "SELECT first_position, last_position FROM graph_applied WHERE stream = %s ORDER BY first_position"
_LOST: Final = "/lost"
"""Behind a stream's name: the stream of its positions that were applied and lost."""


async def missing_of(connection: Connection, origin: Origin) -> list[Range]:
    """The parts of a range that weren't applied, in order."""
    return missing(await _held(connection, origin), (origin.first, origin.last))


async def is_applied(connection: Connection, origin: Origin, *, field: str) -> bool:
    """Whether a range was.

    Raises:
        InvalidArgumentError: Some of it was, some of it wasn't.
    """
    gaps = await missing_of(connection, origin)
    if gaps == [(origin.first, origin.last)]:
        return False
    if not gaps:
        return True
    rule = f"positions {origin.first} to {origin.last} were applied in part; ask for those that are missing, and send these"
    raise InvalidArgumentError(field, rule)


async def note(connection: Connection, origin: Origin) -> None:
    """Remember that a range was."""
    held = await _held(connection, origin)
    now = joined(held, (origin.first, origin.last))
    gone = [first for first, _ in held]
    await connection.execute(
        "DELETE FROM graph_applied WHERE stream = %s AND first_position = ANY(%s)", (origin.stream, gone)
    )
    await connection.execute(
        "INSERT INTO graph_applied SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[])",
        (origin.stream, [first for first, _ in now], [last for _, last in now]),
    )


async def forget_streams(connection: Connection, beginning: str) -> None:
    """Forget what was applied of the streams that begin with a text."""
    await connection.execute("DELETE FROM graph_applied WHERE starts_with(stream, %s)", (beginning,))


async def rewind(connection: Connection, stream: str, through: int, *, parts: str) -> Sequence[Range]:
    """See `ports.graph.GraphWriter.rewind`."""
    cursor = await connection.execute(_BEYOND.encode(), {"stream": stream, "through": through, "parts": parts})
    last = through
    for name, first, end in await cursor.fetchall():
        last = max(last, int(end) if name == stream else int(name.removeprefix(parts)))
        if name == stream and first <= through:
            await note(connection, Origin(stream, int(first), through))
    if last > through:
        await note(connection, Origin(f"{stream}{_LOST}", through + 1, last))
    cursor = await connection.execute(_RANGES, (f"{stream}{_LOST}",))
    return [(int(first), int(end)) for first, end in await cursor.fetchall()]


async def _held(connection: Connection, origin: Origin) -> Sequence[Range]:
    cursor = await connection.execute(_ASK, (origin.stream, origin.first, origin.last))
    return [(int(first), int(last)) for first, last in await cursor.fetchall()]
