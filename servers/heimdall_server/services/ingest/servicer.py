"""The ingest service's RPCs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import StreamProtocolError, TokenError
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.limits import InflightBytes, RpcLimits
from heimdall_server.rpc.status import to_status
from heimdall_server.services.ingest import translate
from heimdall_server.services.ingest.logic.append import AppendUseCase, Opening
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import (
    Acked,
    Ended,
    Event,
    Finished,
    LetterInfo,
    Nacked,
    OpenIn,
    RequestIn,
)
from heimdall_server.services.ingest.stream import StreamWindow, read_stream

PAGE_SIZE_DEFAULT: Final = 100
PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a batch; a constraint of the contract."""
OPEN_WAIT_S: Final = 60.0
"""How long a new stream may be silent before its first message."""


Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class IngestServicer(pb_grpc.IngestServiceServicer):
    """See the contract."""

    def __init__(
        self,
        *,
        append: AppendUseCase,
        retry: RetryUseCase,
        state: IngestState,
        journal_id: str,
        clock: Clock,
        limits: RpcLimits,
        budget: InflightBytes,
        drain: Drain,
    ) -> None:
        self._append = append
        self._retry = retry
        self._state = state
        self._journal_id = journal_id
        self._clock = clock
        self._limits = limits
        self._budget = budget
        self._drain = drain

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendRequest], context: Context
    ) -> AsyncIterator[pb.AppendResponse]:
        """See the contract."""
        actor = current_call().principal.uri
        requests = translate.requests_in(request_iterator, actor=actor, now_ns=self._clock.now_ns)
        opening = await self._append.open(actor, await _first(requests))
        session = opening.session
        window = StreamWindow(self._limits, self._budget, self._append.wait_estimate_s)
        reader = asyncio.create_task(read_stream(session, window, requests), name="append-read")
        drainer = asyncio.create_task(self._drain_stream(session, reader), name="append-drain")
        try:
            yield self._opened(opening)
            while (event := await session.outbox.next()) is not None:
                if isinstance(event, Ended):
                    raise event.error
                yield self._response(event)
        finally:
            reader.cancel()
            drainer.cancel()
            self._append.close(session)
            await asyncio.wait([reader, drainer])

    async def _drain_stream(self, session: AppendSession, reader: asyncio.Task[None]) -> None:
        """When the server goes away: take nothing more, acknowledge what was taken, end."""
        await self._drain.event.wait()
        session.drain()
        reader.cancel()

    def _response(self, event: Event) -> pb.AppendResponse:
        match event:
            case Acked():
                return translate.ack_out(event, self._journal_id)
            case Nacked():
                return translate.nack_out(event, to_status)
            case Finished():
                return translate.finished_out(event, self._journal_id)
            case _:
                return pb.AppendResponse(draining=pb.AppendResponse.Draining())

    def _opened(self, opening: Opening) -> pb.AppendResponse:
        session = opening.session
        limits = self._limits
        return pb.AppendResponse(
            opened=pb.AppendResponse.Opened(
                next_offset=session.state.next_offset,
                epoch=session.epoch,
                format=translate.format_out(session.format),
                limits=pb.AppendResponse.Limits(
                    batches_in_flight=limits.append_batches_in_flight_max,
                    bytes_in_flight=limits.append_bytes_in_flight_max,
                    payload_bytes_max=PAYLOAD_BYTES_MAX,
                    record_bytes_max=RECORD_BYTES_MAX,
                ),
                already_complete=opening.already_complete,
            )
        )

    async def GetSource(self, request: pb.GetSourceRequest, context: Context) -> pb.GetSourceResponse:
        """See the contract."""
        state = self._append.get(current_call().principal.uri, request.source_id, request.dump_content_sha256.hex())
        return pb.GetSourceResponse(source=translate.source_out(state, self._journal_id))

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        """See the contract."""
        before = _place_in(request.page_token) if request.page_token else None
        size = request.page_size or PAGE_SIZE_DEFAULT
        page: list[LetterInfo] = []
        more = False
        source = request.source_id
        if source:
            source = self._append.stored_name(current_call().principal.uri, source)
        for info in self._state.letters.newest_first(source=source, before=before):
            if len(page) == size:
                more = True
                break
            page.append(info)
        return pb.ListDeadLettersResponse(
            dead_letters=[translate.letter_out(info) for info in page],
            next_page_token=_place_out(page[-1].position, page[-1].index) if more else "",
            total_count=len(self._state.letters),
        )

    async def RetryDeadLetters(
        self, request: pb.RetryDeadLettersRequest, context: Context
    ) -> pb.RetryDeadLettersResponse:
        """See the contract."""
        format_ = translate.format_in(request.format) if request.HasField("format") else None
        outcomes, newest = await self._retry.retry(
            current_call().principal.uri, request.dead_letter_ids, format_, request.request_id
        )
        return pb.RetryDeadLettersResponse(
            outcomes=[translate.outcome_out(outcome, to_status) for outcome in outcomes],
            position=translate.position_out(self._journal_id, newest),
        )

    async def DeleteDeadLetters(
        self, request: pb.DeleteDeadLettersRequest, context: Context
    ) -> pb.DeleteDeadLettersResponse:
        """See the contract."""
        outcomes = await self._retry.delete(request.dead_letter_ids)
        return pb.DeleteDeadLettersResponse(
            outcomes=[translate.deletion_out(outcome, to_status) for outcome in outcomes]
        )


async def _first(requests: AsyncIterator[RequestIn]) -> OpenIn:
    try:
        async with asyncio.timeout(OPEN_WAIT_S):
            first = await anext(requests, None)
    except TimeoutError as error:
        raise StreamProtocolError(f"the first message must come within {OPEN_WAIT_S:g} s") from error
    if not isinstance(first, OpenIn):
        raise StreamProtocolError("the first message of the stream must be open")
    return first


def _place_out(position: int, index: int) -> str:
    return base64.urlsafe_b64encode(f"{position}-{index}".encode()).decode()


def _place_in(token: str) -> tuple[int, int]:
    try:
        position, _, index = base64.urlsafe_b64decode(token.encode()).decode().partition("-")
        return int(position), int(index)
    except (ValueError, binascii.Error) as error:
        raise TokenError("it is damaged") from error
