"""Dead letters, decoded again (as before, or as another format) or deleted.

What a deletion means that was asked for behind a letter isn't stored. Between its barrier and its frame nobody knows that deletion here, so no
letter's records are committed meanwhile: they would stand behind its reach.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.errors import (
    FormatError,
    HeimdallError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
)
from heimdall_server.ports.journal import DeadLetter, Entry, Journal
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.services.ingest.logic.dead_letters import context_of, read_letter
from heimdall_server.services.ingest.logic.deletions import Screen
from heimdall_server.services.ingest.logic.format_text import format_from_json
from heimdall_server.services.ingest.logic.jobs import Job, Notes, OwnProtection, Room
from heimdall_server.services.ingest.logic.lane import WHOLE_PAYLOAD_KINDS, Chunk, Lane
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import LetterInfo, Outcome

REMEMBERED_COUNT: Final = 1_000
"""Answers kept by request id, so that a repeated call gets the first one's."""
_WAVE_BYTES: Final = 8 * 1024 * 1024
"""Letters' bytes that are in memory at once."""
_BUSY_RETRY_S: Final = 1.0


@dataclass(slots=True, eq=False)
class RetryJob:
    """One letter on its way through the pipeline."""

    letter_id: str
    letter: DeadLetter
    format: Format
    screen: Screen
    current: Callable[[Screen], bool]
    """Whether nothing was deleted since. Event loop."""
    answer: asyncio.Future[int]
    """The position of what was stored."""
    accepted_count: int = 0
    deleted_count: int = 0
    """Records that a deletion means."""

    @property
    def size_bytes(self) -> int:
        """See `Job`."""
        return len(self.letter.raw)

    @property
    def turn(self) -> Hashable:
        """See `Job`."""
        return "retry"

    @property
    def own_protection(self) -> OwnProtection | None:
        """See `Job`: what was protected before has tokens in it, and some records may not be stored."""
        return self._protected if self.letter.protected or self.screen.deletions else None

    def absorb(self, later: Job) -> bool:  # noqa: ARG002 - the protocol's signature
        """See `Job`: letters don't merge."""
        return False

    def stale(self) -> bool:
        """See `Job`."""
        return False

    def taken(self) -> None:
        """See `Job`."""

    def decode(self, observed_time_ns: int, room: Room) -> Sequence[pa.RecordBatch]:
        """See `Job`: all or nothing, so that a letter is either settled or stays."""
        pieces = self._pieces(observed_time_ns)
        errors = [error for piece in pieces for error in piece.errors]
        self.accepted_count = sum(int(piece.batch.num_rows) for piece in pieces)
        if errors or not self.accepted_count:
            reason = errors[0].reason if errors else "it holds no record"
            raise FormatError(self.format.kind.value, reason)
        batches = [self._screened(piece.batch) for piece in pieces]
        for batch in batches:
            room.take(batch)
        return batches

    def _protected(self, protector: Protector, records: pa.RecordBatch) -> Protected:
        again = self.letter.protected
        protected = protector.protect(records, again=again)
        # A filter may name what stands there only now, such as a token.
        left = self._screened(protected.batch, of=records)
        # Protected anew if some are gone: their values must not be sealed.
        return protected if left is records else protector.protect(left, again=again)

    def _screened(self, records: pa.RecordBatch, *, of: pa.RecordBatch | None = None) -> pa.RecordBatch:
        """The records that no deletion means; `of`: the same ones in another form, of which those are wanted."""
        wanted = records if of is None else of
        kept = self.screen.kept(records)
        gone_count = len(kept) - int(kept.sum())
        if not gone_count:
            return wanted
        self.deleted_count += gone_count
        self.accepted_count -= gone_count
        return wanted.filter(pa.array(kept))

    def _pieces(self, observed_time_ns: int) -> Sequence[Decoded]:
        letter, format_ = self.letter, self.format
        context = context_of(letter)
        if format_.kind in WHOLE_PAYLOAD_KINDS:
            context = replace(context, observed_time_ns=observed_time_ns)
            return [dispatch.decode(letter.raw, format_, context, at_start=True)]
        if format_.kind is FormatKind.JSON:
            # What a letter holds was cut out of its list: objects, one after the other.
            format_ = Format(FormatKind.JSON, {"depth": "0", "wrapper": ""})
        # It was taken out of the middle of its source, so it has no header line of its own.
        lane = Lane(context, 1, format_)
        fed = lane.feed([Chunk(1, 1 + len(letter.raw), letter.raw)], observed_time_ns=observed_time_ns, final=True)
        if fed.failure is not None:
            raise fed.failure
        return fed.pieces

    def split(self) -> Job | None:
        """See `Job`."""
        return None

    def describe(self, notes: Notes, first_row: int, observed_time_ns: int) -> None:  # noqa: ARG002 - as `Job`
        """See `Job`.

        Raises:
            OverloadedError: Something was deleted meanwhile.
        """
        if not self.current(self.screen):
            raise OverloadedError(_BUSY_RETRY_S)
        notes.resolved_letters.append(self.letter_id)

    def begin_commit(self) -> None:
        """See `Job`."""

    def committed(self, position: int) -> None:
        """See `Job`."""
        if not self.answer.done():
            self.answer.set_result(position)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def dropped(self) -> None:
        """See `Job`."""
        self.answer.cancel()


class RetryUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        state: IngestState,
        pipeline: Pipeline,
        journal: Journal,
        deleting: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what it works with.

        Args:
            state: Where letters and deletions are known.
            pipeline: Where records go.
            journal: Where letters are read and deleted.
            deleting: Whether a deletion was asked for that the journal doesn't hold yet. Cheap.
        """
        self._state = state
        self._pipeline = pipeline
        self._journal = journal
        self._deleting = deleting
        self._answers: OrderedDict[tuple[str, str], tuple[list[Outcome], int]] = OrderedDict()
        self._busy: set[str] = set()

    async def retry(
        self, principal: str, letter_ids: Sequence[str], format_: Format | None, request_id: str
    ) -> tuple[list[Outcome], int]:
        """Decode letters again; what can be is stored and no longer a letter.

        A letter that another call is at is reported as overloaded: it is never stored twice.

        Returns:
            What became of each, in order, and the newest position (0: none).
        """
        remembered = self._answers.get((principal, request_id)) if request_id else None
        if remembered is not None:
            return remembered
        outcomes: dict[str, Outcome] = {}
        newest = 0
        waiting = list(dict.fromkeys(letter_ids))
        while waiting:
            jobs: list[RetryJob] = []
            size = 0
            while waiting and size < _WAVE_BYTES:
                letter_id = waiting.pop(0)
                try:
                    job = await self._submit(letter_id, format_)
                except HeimdallError as error:
                    outcomes[letter_id] = Outcome(letter_id, error=error)
                else:
                    jobs.append(job)
                    size += job.size_bytes
            if jobs:
                await asyncio.wait([job.answer for job in jobs])
            for job in jobs:
                refusal = job.answer.exception()
                if refusal is None:
                    newest = max(newest, job.answer.result())
                counts = (0, 0) if refusal else (job.accepted_count, job.deleted_count)
                outcomes[job.letter_id] = Outcome(job.letter_id, *counts, error=refusal)
        answer = [outcomes[letter_id] for letter_id in dict.fromkeys(letter_ids)], newest
        if request_id:
            self._answers[(principal, request_id)] = answer
            while len(self._answers) > REMEMBERED_COUNT:
                self._answers.popitem(last=False)
        return answer

    async def delete(self, letter_ids: Sequence[str]) -> list[Outcome]:
        """Delete letters: nobody can list or decode them again. Their bytes go with the journal's segment.

        Returns:
            What became of each, in order; a letter that another call is at is reported as overloaded.

        Raises:
            JournalFullError, StoreError, DrainingError: Nothing was deleted, or nobody knows.
        """
        outcomes: dict[str, Outcome] = {}
        found: list[str] = []
        for letter_id in dict.fromkeys(letter_ids):
            try:
                self._check_free(letter_id)
                self._state.letters.get(letter_id)
            except HeimdallError as error:
                outcomes[letter_id] = Outcome(letter_id, error=error)
            else:
                outcomes[letter_id] = Outcome(letter_id)
                found.append(letter_id)
        self._busy.update(found)
        try:
            if found:
                await self._journal.append([Entry(None, resolved_letters=found)])
        finally:
            self._busy.difference_update(found)
        return list(outcomes.values())

    def _check_free(self, letter_id: str) -> None:
        if letter_id in self._busy:
            raise OverloadedError(_BUSY_RETRY_S)

    async def _submit(self, letter_id: str, format_: Format | None) -> RetryJob:
        self._check_free(letter_id)
        self._busy.add(letter_id)
        try:
            job = await self._job(letter_id, format_)
            self._pipeline.submit(job)
        except BaseException:
            self._busy.discard(letter_id)
            raise
        job.answer.add_done_callback(lambda answer: self._done(letter_id, answer))
        return job

    def _done(self, letter_id: str, answer: asyncio.Future[int]) -> None:
        self._busy.discard(letter_id)
        if not answer.cancelled():
            answer.exception()  # seen, also if the caller is gone

    async def _job(self, letter_id: str, format_: Format | None) -> RetryJob:
        info = self._state.letters.get(letter_id)
        if not info.raw_size_bytes:
            raise NotFoundError("kept bytes of dead letter", letter_id)
        letter = await read_letter(self._journal, info)
        # Another call may have settled it meanwhile.
        self._state.letters.get(letter_id)
        known = format_ or (format_from_json(letter.format)[0] if letter.format else Format(FormatKind.TEXT))
        screen = self._screen(info, letter)
        return RetryJob(letter_id, letter, known, screen, self._is_current, asyncio.get_running_loop().create_future())

    def _screen(self, info: LetterInfo, letter: DeadLetter) -> Screen:
        # A letter that the store made tells where its record stands, which came in before the letter.
        position = letter.offset if letter.protected and info.format == FormatKind.ARROW.value else info.position
        if position <= self._state.deletions.unknown_through:
            problem = (
                "it came in before a deletion whose filter isn't known any more; delete it, and send what it held again"
            )
            raise InvalidArgumentError(f"dead_letter_ids[{info.letter_id}]", problem)
        screen = Screen(self._state.deletions.reaching(position), position, letter.time_ns)
        if not self._is_current(screen):
            raise OverloadedError(_BUSY_RETRY_S)
        return screen

    def _is_current(self, screen: Screen) -> bool:
        return not self._deleting() and self._state.deletions.reaching(screen.position) == screen.deletions
