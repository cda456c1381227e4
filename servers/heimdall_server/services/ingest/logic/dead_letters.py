"""What couldn't be decoded: listed from memory, its bytes read back from the journal, retried.

A letter lives as long as the journal frame that holds it (`journal_age_max`); the index in memory has no bytes.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Final, cast

from heimdall_server.domain.decoding import DecodeContext, Format, RowError
from heimdall_server.domain.errors import NotFoundError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.ports.journal import DeadLetter, Frame, Journal, SourceKey
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.format_text import format_to_json, kind_of
from heimdall_server.services.ingest.model import LetterInfo

LETTER_COUNT_MAX: Final = 10_000
"""Letters that are indexed; beyond it the oldest are no longer listed."""
LETTERS_OF_JOB_MAX: Final = 128
"""Bad records of one job that get a letter each; of a job with more, letters hold several."""
DEFAULT_DATASET: Final = "logs"
_JOINED_COUNT: Final = 64


def context_to_json(context: DecodeContext) -> str:
    """For a dead letter, so that a retry decodes alike. Whose the records are is told by the letter's key."""
    told = {name: value for name, value in asdict(context).items() if name != "principal"}
    return json.dumps(told, separators=(",", ":"))


def context_of(letter: DeadLetter) -> DecodeContext:
    """Back from a dead letter. One that a store made may have none. Records stay theirs who sent them, whoever retries."""
    principal = letter.key.principal
    if not letter.context:
        return DecodeContext(letter.key.source, DEFAULT_DATASET, letter.time_ns, principal=principal)
    return DecodeContext(**json.loads(letter.context), principal=principal)


def letters_of(
    errors: Sequence[RowError], *, key: SourceKey, format_: Format | None, context: DecodeContext, keep_raw: bool
) -> list[DeadLetter]:
    """Dead letters for bad records.

    A source of the wrong format can hold a million of them in a second's payload; they mustn't cost more than good
    ones. So beyond `LETTERS_OF_JOB_MAX` a letter holds many records, joined as the format would join them.

    Args:
        errors: In source order; rows count from where `context` stands.
        key: Whose they are.
        format_: What they were read as.
        context: Of the decoder; `first_record_number` is that of row 0.
        keep_raw: Whether the records' bytes are kept.
    """
    format_json = format_to_json(format_) if format_ else ""
    base = context_to_json(replace(context, first_record_number=0))
    glue = b"" if format_ and format_.options.get("framing") == "octet" else b"\n"

    def letter(group: Sequence[RowError]) -> DeadLetter:
        first = group[0]
        more = f" (and {len(group) - 1} further records, kept together)" if len(group) > 1 else ""
        number = context.first_record_number
        numbered = replace(context, first_record_number=number + first.row)
        return DeadLetter(
            key=key,
            offset=first.offset,
            row=first.row,
            reason=first.reason + more,
            time_ns=context.observed_time_ns,
            raw=glue.join(error.raw for error in group) if keep_raw else b"",
            part_sizes=tuple(len(error.raw) for error in group) if keep_raw and len(group) > 1 else (),
            format=format_json,
            context=context_to_json(numbered) if number else base,
            field=first.field,
        )

    if len(errors) <= LETTERS_OF_JOB_MAX:
        return [letter((error,)) for error in errors]
    alone, rest = errors[:_JOINED_COUNT], errors[_JOINED_COUNT:]
    return [letter((error,)) for error in alone] + [letter(group) for group in _groups(rest)]


def _groups(errors: Sequence[RowError]) -> Iterator[list[RowError]]:
    """Groups of bad records, about `_JOINED_COUNT` of them, none much larger than a record may be."""
    count_max = -(-len(errors) // _JOINED_COUNT)
    group: list[RowError] = []
    size = 0
    for error in errors:
        if group and (len(group) >= count_max or size + len(error.raw) > RECORD_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(error)
        size += len(error.raw)
    yield group


class DeadLetterIndex:
    """All letters that are held, oldest first. The event loop owns it."""

    def __init__(self) -> None:
        self._letters: OrderedDict[str, tuple[LetterInfo, bytes]] = OrderedDict()
        self.forgotten_count = 0
        """Letters that fell out of the index because it was full."""

    def __len__(self) -> int:
        return len(self._letters)

    def add(self, position: int, letters: Iterable[DeadLetter]) -> None:
        """Take over the letters of a durable frame."""
        for index, letter in enumerate(letters):
            self._keep(
                LetterInfo(
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
                    format=kind_of(letter.format),
                )
            )
        while len(self._letters) > LETTER_COUNT_MAX:
            self._letters.popitem(last=False)
            self.forgotten_count += 1
            metrics.FORGOTTEN.labels("dead_letters").inc()

    def _keep(self, info: LetterInfo) -> None:
        # Its row of a snapshot is made now: a snapshot of all must take no time.
        row = [
            info.position, info.index, info.key.principal, info.key.source, info.offset, info.row, info.reason,
            info.field, info.time_ns, info.raw_size_bytes, info.format,
        ]  # fmt: skip
        self._letters[info.letter_id] = (info, json.dumps(row, separators=(",", ":")).encode())

    def resolve(self, letter_ids: Iterable[str]) -> None:
        """Forget letters that a retry has settled."""
        for letter_id in letter_ids:
            self._letters.pop(letter_id, None)

    def forget_before(self, position: int) -> None:
        """Forget letters whose frames are gone."""
        while self._letters and next(iter(self._letters.values()))[0].position < position:
            self._letters.popitem(last=False)

    def get(self, letter_id: str) -> LetterInfo:
        """One letter.

        Raises:
            NotFoundError: It isn't held (any more).
        """
        held = self._letters.get(letter_id)
        if held is None:
            raise NotFoundError("dead letter", letter_id)
        return held[0]

    def newest_first(self, *, source: str = "", before: tuple[int, int] | None = None) -> Iterator[LetterInfo]:
        """Letters, newest first.

        Args:
            source: Only of this source; empty: of all.
            before: Only letters before this (position, index).
        """
        for info, _ in reversed(self._letters.values()):
            if source and info.key.source != source:
                continue
            if before is not None and (info.position, info.index) >= before:
                continue
            yield info

    def snapshot(self) -> bytes:
        """Everything, as a JSON array."""
        return b"[" + b",".join(row for _, row in self._letters.values()) + b"]"

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot."""
        self._letters.clear()
        for position, index, principal, source, *rest in json.loads(snapshot):
            self._keep(LetterInfo(f"{position}-{index}", position, index, SourceKey(principal, source), *rest))


async def read_letter(journal: Journal, info: LetterInfo) -> DeadLetter:
    """A letter with its bytes, from the journal.

    Raises:
        NotFoundError: The frame is gone.
        CorruptionError: The frame is damaged.
    """
    if info.position < journal.tail().get(0, 1):
        raise NotFoundError("dead letter", info.letter_id)
    frames = journal.read_control(0, after=info.position - 1, through=info.position)
    async with contextlib.aclosing(cast("AsyncGenerator[Frame, None]", frames)):
        async for frame in frames:
            return frame.entry.dead_letters[info.index]
    raise NotFoundError("dead letter", info.letter_id)
