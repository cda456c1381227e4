"""Decoding dead letters again: as before, or as another format."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from heimdall_server.decode import dispatch
from heimdall_server.domain.decoding import Decoded, Format, FormatKind
from heimdall_server.domain.errors import FormatError, HeimdallError, NotFoundError, OverloadedError
from heimdall_server.ports.journal import DeadLetter, Journal
from heimdall_server.services.ingest.logic.dead_letters import context_of, read_letter
from heimdall_server.services.ingest.logic.format_text import format_from_json
from heimdall_server.services.ingest.logic.jobs import Job, Notes, Room
from heimdall_server.services.ingest.logic.lane import WHOLE_PAYLOAD_KINDS, Chunk, Lane
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import Outcome

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
    answer: asyncio.Future[int]
    """The position of what was stored."""
    accepted_count: int = 0

    @property
    def size_bytes(self) -> int:
        """See `Job`."""
        return len(self.letter.raw)

    @property
    def turn(self) -> Hashable:
        """See `Job`."""
        return "retry"

    @property
    def protected_before(self) -> bool:
        """See `Job`."""
        return self.letter.protected

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
        for piece in pieces:
            room.take(piece.batch)
        return [piece.batch for piece in pieces]

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
        """See `Job`."""
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

    def __init__(self, *, state: IngestState, pipeline: Pipeline, journal: Journal) -> None:
        self._state = state
        self._pipeline = pipeline
        self._journal = journal
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
                outcomes[job.letter_id] = Outcome(job.letter_id, 0 if refusal else job.accepted_count, refusal)
        answer = [outcomes[letter_id] for letter_id in dict.fromkeys(letter_ids)], newest
        if request_id:
            self._answers[(principal, request_id)] = answer
            while len(self._answers) > REMEMBERED_COUNT:
                self._answers.popitem(last=False)
        return answer

    async def _submit(self, letter_id: str, format_: Format | None) -> RetryJob:
        if letter_id in self._busy:
            raise OverloadedError(_BUSY_RETRY_S)
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
        return RetryJob(letter_id, letter, known, asyncio.get_running_loop().create_future())
