"""What couldn't be decoded: listed from memory, its bytes read back from the journal, retried.

A letter lives as long as the journal frame that holds it (`journal_age_max`); the index in memory has no bytes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import NotFoundError
from heimdall_server.ports.journal import DeadLetter, Journal, SourceKey
from heimdall_server.services.ingest.model import LetterInfo

LETTER_COUNT_MAX: Final = 10_000
"""Letters that are indexed; beyond it the oldest are no longer listed."""


def context_to_json(context: DecodeContext) -> str:
    """For a dead letter, so that a retry decodes alike."""
    return json.dumps(asdict(context), separators=(",", ":"))


def context_from_json(text: str) -> DecodeContext:
    """Back from a dead letter."""
    return DecodeContext(**json.loads(text))


class DeadLetterIndex:
    """All letters that are held, oldest first. The event loop owns it."""

    def __init__(self) -> None:
        self._letters: OrderedDict[str, LetterInfo] = OrderedDict()
        self.forgotten_count = 0
        """Letters that fell out of the index because it was full."""

    def __len__(self) -> int:
        return len(self._letters)

    def add(self, position: int, letters: Iterable[DeadLetter]) -> None:
        """Take over the letters of a durable frame."""
        for index, letter in enumerate(letters):
            info = LetterInfo(
                letter_id=f"{position}-{index}",
                position=position,
                index=index,
                key=letter.key,
                offset=letter.offset,
                row=letter.row,
                reason=letter.reason,
                field=letter.field,
                time_ns=letter.time_ns,
                raw_size_bytes=len(letter.raw),
                format=json.loads(letter.format)["kind"] if letter.format else "",
            )
            self._letters[info.letter_id] = info
        while len(self._letters) > LETTER_COUNT_MAX:
            self._letters.popitem(last=False)
            self.forgotten_count += 1

    def resolve(self, letter_ids: Iterable[str]) -> None:
        """Forget letters that a retry has settled."""
        for letter_id in letter_ids:
            self._letters.pop(letter_id, None)

    def forget_before(self, position: int) -> None:
        """Forget letters whose frames are gone."""
        while self._letters and next(iter(self._letters.values())).position < position:
            self._letters.popitem(last=False)

    def get(self, letter_id: str) -> LetterInfo:
        """One letter.

        Raises:
            NotFoundError: It isn't held (any more).
        """
        info = self._letters.get(letter_id)
        if info is None:
            raise NotFoundError("dead letter", letter_id)
        return info

    def newest_first(self, *, source: str = "", before: tuple[int, int] | None = None) -> Iterator[LetterInfo]:
        """Letters, newest first.

        Args:
            source: Only of this source; empty: of all.
            before: Only letters before this (position, index).
        """
        for info in reversed(self._letters.values()):
            if source and info.key.source != source:
                continue
            if before is not None and (info.position, info.index) >= before:
                continue
            yield info

    def snapshot(self) -> list[dict[str, Any]]:
        """Everything, as JSON values."""
        rows = []
        for info in self._letters.values():
            row = asdict(info)
            row["key"] = [info.key.principal, info.key.source]
            rows.append(row)
        return rows

    def restore(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace everything by a snapshot."""
        self._letters.clear()
        for row in rows:
            info = LetterInfo(**{**row, "key": SourceKey(*row["key"])})
            self._letters[info.letter_id] = info


async def read_letter(journal: Journal, info: LetterInfo) -> DeadLetter:
    """A letter with its bytes, from the journal.

    Raises:
        NotFoundError: The frame is gone.
        CorruptionError: The frame is damaged.
    """
    async for frame in journal.read_control(0, after=info.position - 1, through=info.position):
        return frame.entry.dead_letters[info.index]
    raise NotFoundError("dead letter", info.letter_id)
