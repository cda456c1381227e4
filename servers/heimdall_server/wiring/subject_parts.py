"""What an export tells of a subject besides records: dead letters, and the graph, whether or not this process brings it up to date."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.journal import DeadLetter, Journal
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.services.ingest.logic.dead_letters import LETTER_COUNT_MAX, DeadLetterIndex
from heimdall_server.services.ingest.model import LetterInfo
from heimdall_server.services.privacy.logic.graph_held import GraphHeld
from heimdall_server.services.privacy.logic.held import Lines, Missing, Part, time_text
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.reader import PostgresGraphReader
from heimdall_server.storage.postgres.graph.subjects import PostgresGraphSubjects
from heimdall_server.storage.postgres.pool import PostgresPool
from heimdall_server.wiring.parts import Parts

SHARD: Final = 0
_WAIT_S: Final = 10.0
_WIDE: Final = [(encoding, skipped) for skipped in (0, 1) for encoding in ("utf-16-le", "utf-16-be")]
"""Encodings of letters that are protected as text, and bytes before it: pieces of a letter may be joined by one. In all others tokens are ASCII."""


def subject_parts(parts: Parts, pool: PostgresPool, projection: GraphProjection | None) -> tuple[Part, ...]:
    """The further parts of an export.

    Args:
        parts: Of the process.
        pool: Where the graph is.
        projection: What brings it up to date; None: this process doesn't.
    """

    async def what_is_missing() -> str:
        if projection is None:
            return (
                "this process doesn't run the graph: what one held when it did is here, and nothing of later records; "
                "export again where `services` name the graph"
            )
        if await projection.wait_applied(parts.journal.head().get(SHARD, 0), _WAIT_S):
            return ""
        return "the graph hasn't taken in the newest records, which are here; export again when it has caught up"

    graph = GraphHeld(
        PostgresGraphSubjects(pool), PostgresGraphReader(pool), PostgresGraphCuration(pool), what_is_missing
    )
    letters = HeldLetters(parts.journal, parts.control.letters)
    return Part("dead_letter", letters.lines), Part("graph", graph.lines)


@dataclass(frozen=True, slots=True)
class HeldLetters:
    """Dead letters in which a subject's tokens stand."""

    journal: Journal
    index: DeadLetterIndex

    async def lines(self, names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        """See `Part`. Each frame that holds letters is read once."""
        start_ns, end_ns = time_range.start_ns_inclusive or 0, time_range.end_ns_exclusive or 2**63 - 1
        if self.index.forgotten_count:
            yield Missing(
                f"of dead letters only the newest {LETTER_COUNT_MAX} are known one by one; older ones aren't here"
            )
        known = [info for info in self.index.newest_first() if start_ns <= info.time_ns < end_ns]
        for position, infos in itertools.groupby(reversed(known), lambda info: info.position):
            letters = await self._letters_at(position)
            for info in infos:
                if info.index < len(letters):
                    text = await asyncio.to_thread(_text_naming, letters[info.index], names)
                    if text is not None:
                        yield {"kind": "dead_letter", "dead_letter": _shown(info, text)}

    async def _letters_at(self, position: int) -> Sequence[DeadLetter]:
        try:
            frames = self.journal.read_control(SHARD, after=position - 1, through=position)
            async with aclosing(frames):  # type: ignore[type-var]
                async for frame in frames:
                    return frame.entry.dead_letters
        except NotFoundError:
            pass  # the journal has just let go of it, and so of what it held
        return ()


def _text_naming(letter: DeadLetter, names: Sequence[TokenName]) -> str | None:
    """A letter's bytes as text, if a token stands in it; None: none does."""
    tokens, raw = list(map(str, names)), letter.raw
    if any(token.encode() in raw for token in tokens):
        return raw.decode("utf-8", "replace")
    if b"\0" in raw:
        for encoding, skipped in _WIDE:
            text = raw[skipped:].decode(encoding, "replace")
            if any(token in text for token in tokens):
                return text
    # Only the reason, or what is known of how to read it, names one.
    told = letter.reason + letter.context
    return "" if any(token in told for token in tokens) else None


def _shown(info: LetterInfo, text: str) -> dict[str, Any]:
    return {
        "dead_letter_id": info.letter_id,
        "source": info.key.source,
        "position": info.position,
        "offset": info.offset,
        "row": info.row,
        "time": time_text(info.time_ns),
        "reason": info.reason,
        "field": info.field,
        "format": info.format,
        "text": text,
    }
