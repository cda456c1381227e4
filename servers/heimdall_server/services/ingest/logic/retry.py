"""Decoding dead letters again: as before, or as another format."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import FormatError, HeimdallError, NotFoundError
from heimdall_server.ports.journal import DeadLetter, Entry, Journal
from heimdall_server.services.ingest.logic.dead_letters import context_from_json, read_letter
from heimdall_server.services.ingest.logic.lane import WHOLE_PAYLOAD_KINDS, Chunk, Lane
from heimdall_server.services.ingest.logic.pipeline import Job, Pipeline
from heimdall_server.services.ingest.logic.sources import format_from_json
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import Outcome

REMEMBERED_COUNT: Final = 1_000
"""Answers kept by request id, so that a repeated call gets the first one's."""


@dataclass(slots=True)
class RetryJob:
    """One letter on its way through the pipeline."""

    letter_id: str
    letter: DeadLetter
    format: Format
    answer: asyncio.Future[int]
    size_bytes: int
    accepted_count: int = 0
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def key(self) -> object:
        """Letters don't merge."""
        return self.token

    def absorb(self, later: Job) -> bool:  # noqa: ARG002 - the protocol's signature
        """See `Job`."""
        return False

    def stale(self) -> bool:
        """See `Job`."""
        return False

    def decode(self, observed_time_ns: int) -> Sequence[pa.RecordBatch]:
        """See `Job`: all or nothing, so that a letter is either settled or stays."""
        # A letter was taken out of the middle of its source: it has no header line of its own.
        start = 0 if self.format.kind in WHOLE_PAYLOAD_KINDS else 1
        lane = Lane(context_from_json(self.letter.context), start, self.format)
        chunk = Chunk(start, start + len(self.letter.raw), self.letter.raw)
        fed = lane.feed([chunk], observed_time_ns=observed_time_ns, final=True)
        if fed.errors or not fed.accepted_count:
            reason = fed.errors[0].reason if fed.errors else "it holds no record"
            raise FormatError(self.format.kind.value, reason)
        self.accepted_count = fed.accepted_count
        return [decoded.batch for decoded in fed.decoded]

    def describe(self, entry: Entry, first_row: int, observed_time_ns: int) -> Entry:  # noqa: ARG002 - as `Job`
        """See `Job`."""
        return replace(entry, resolved_letters=[*entry.resolved_letters, self.letter_id])

    def begin_commit(self) -> None:
        """See `Job`."""

    def committed(self, position: int) -> None:
        """See `Job`."""
        self.answer.set_result(position)

    def refused(self, error: BaseException) -> None:
        """See `Job`."""
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

    async def retry(
        self, principal: str, letter_ids: Sequence[str], format_: Format | None, request_id: str
    ) -> tuple[list[Outcome], int]:
        """Decode letters again; what can be is stored and no longer a letter.

        Returns:
            What became of each, in order, and the newest position (0: none).
        """
        remembered = self._answers.get((principal, request_id)) if request_id else None
        if remembered is not None:
            return remembered
        outcomes = []
        newest = 0
        for letter_id in dict.fromkeys(letter_ids):
            try:
                job = await self._job(letter_id, format_)
                self._pipeline.submit(job)
                newest = max(newest, await job.answer)
            except HeimdallError as error:
                outcomes.append(Outcome(letter_id, error=error))
            else:
                outcomes.append(Outcome(letter_id, job.accepted_count))
        if request_id:
            self._answers[(principal, request_id)] = (outcomes, newest)
            while len(self._answers) > REMEMBERED_COUNT:
                self._answers.popitem(last=False)
        return outcomes, newest

    async def _job(self, letter_id: str, format_: Format | None) -> RetryJob:
        info = self._state.letters.get(letter_id)
        if not info.raw_size_bytes:
            raise NotFoundError("kept bytes of dead letter", letter_id)
        letter = await read_letter(self._journal, info)
        known = format_ or (format_from_json(letter.format) if letter.format else Format(FormatKind.TEXT))
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return RetryJob(letter_id, letter, known, answer, len(letter.raw))
