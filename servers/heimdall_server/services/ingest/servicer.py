"""The ingest service's RPCs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from heimdall.ingest.v1 import ingest_service_pb2 as pb
from heimdall.ingest.v1 import ingest_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import HeimdallError, StreamProtocolError, TokenError
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.rpc.limits import InflightBytes, Reservation, RpcLimits
from heimdall_server.rpc.status import to_status
from heimdall_server.services.ingest import translate
from heimdall_server.services.ingest.logic.append import AppendUseCase, Opening
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.logic.session import AppendSession
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.services.ingest.model import (
    Acked,
    Draining,
    Ended,
    Event,
    Finished,
    HalfClosed,
    LetterInfo,
    Nacked,
)

PAGE_SIZE_DEFAULT = 100
IDLE_FLUSH_S = 1.0
"""Held whole lines are decoded when nothing came for so long: the last line of a log must not wait for the next."""
BUDGET_WAIT_S = 60.0
"""How long a stream waits for a part of the budget of bytes in flight before it is refused."""


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
        call = current_call()
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "open":
            raise StreamProtocolError("the first message of the stream must be open")
        request = translate.open_in(first.open, actor=call.principal.uri, now_ns=self._clock.now_ns())
        opening = await self._append.open(call.principal.uri, request)
        stream = _AppendStream(opening.session, self._limits, self._budget)
        tasks = [
            asyncio.create_task(stream.read(request_iterator), name="append-read"),
            asyncio.create_task(self._tell_draining(opening.session), name="append-drain"),
        ]
        try:
            yield self._opened(opening)
            async for event in stream.events():
                match event:
                    case Acked():
                        yield translate.ack_out(event, self._journal_id)
                    case Nacked():
                        yield translate.nack_out(event, to_status)
                    case Finished():
                        yield translate.finished_out(event, self._journal_id)
                    case Draining():
                        yield pb.AppendResponse(draining=pb.AppendResponse.Draining())
                    case Ended(error):
                        raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._append.close(opening.session)

    async def _tell_draining(self, session: AppendSession) -> None:
        await self._drain.event.wait()
        session.events.put_nowait(Draining())

    def _opened(self, opening: Opening) -> pb.AppendResponse:
        session = opening.session
        complete = opening.complete_state
        limits = self._limits
        return pb.AppendResponse(
            opened=pb.AppendResponse.Opened(
                next_offset=complete.next_offset if complete else session.state.next_offset,
                epoch=session.epoch,
                format=translate.format_out(session.format),
                limits=pb.AppendResponse.Limits(
                    batches_in_flight=limits.append_batches_in_flight_max,
                    bytes_in_flight=limits.append_bytes_in_flight_max,
                    payload_bytes_max=4 * 1024 * 1024,
                    record_bytes_max=limits.record_bytes_max,
                ),
                already_complete=opening.already_complete,
            )
        )

    async def GetSource(self, request: pb.GetSourceRequest, context: Context) -> pb.GetSourceResponse:
        """See the contract."""
        state = self._append.get(current_call().principal.uri, request.source_id)
        return pb.GetSourceResponse(source=translate.source_out(state, self._journal_id))

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        """See the contract."""
        before = _place_in(request.page_token) if request.page_token else None
        size = request.page_size or PAGE_SIZE_DEFAULT
        page: list[LetterInfo] = []
        more = False
        for info in self._state.letters.newest_first(source=request.source_id, before=before):
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


class _AppendStream:
    """The two halves of one Append stream: reading within the limits, and the events to send."""

    def __init__(self, session: AppendSession, limits: RpcLimits, budget: InflightBytes) -> None:
        self._session = session
        self._limits = limits
        self._budget = budget
        self._reservations: list[Reservation] = []
        self._room = asyncio.Event()
        self._idle_task: asyncio.TimerHandle | None = None
        session.released = self._released

    async def read(self, requests: AsyncIterator[pb.AppendRequest]) -> None:
        """Take messages until the client's half ends."""
        session = self._session
        try:
            async for message in requests:
                self._touch()
                match message.WhichOneof("message"):
                    case "batch":
                        await self._reserve(len(message.batch.payload))
                        session.receive(translate.batch_in(message.batch))
                    case "flush":
                        session.flush()
                    case "finish":
                        session.finish()
                    case _:
                        session.end(StreamProtocolError("open may come only once, as the first message"))
                        return
        except HeimdallError as error:
            session.end(error)
        finally:
            if self._idle_task is not None:
                self._idle_task.cancel()
            session.events.put_nowait(HalfClosed())

    async def events(self) -> AsyncIterator[Event]:
        """What the session has to say, until nothing more can come."""
        session = self._session
        last = False
        while True:
            event = await session.events.get()
            if isinstance(event, HalfClosed):
                last = True
            else:
                yield event
            last = last or isinstance(event, Draining)
            if isinstance(event, Finished) or (last and session.idle):
                return

    async def _reserve(self, size: int) -> None:
        """Wait until the stream and the process have room for a payload."""
        session, limits = self._session, self._limits
        while self._reservations and (
            len(self._reservations) >= limits.append_batches_in_flight_max
            or session.open_bytes + size > limits.append_bytes_in_flight_max
        ):
            self._room.clear()
            await self._room.wait()
        self._reservations.append(await self._budget.acquire(size, timeout_s=BUDGET_WAIT_S))

    def _released(self, size: int) -> None:
        while size > 0 and self._reservations:
            reservation = self._reservations[0]
            if reservation.size > size:
                reservation.shrink(reservation.size - size)
                break
            size -= reservation.size
            self._reservations.pop(0).release()
        self._room.set()

    def _touch(self) -> None:
        if self._idle_task is not None:
            self._idle_task.cancel()
        loop = asyncio.get_running_loop()
        self._idle_task = loop.call_later(IDLE_FLUSH_S, self._session.flush_if_held)


def _place_out(position: int, index: int) -> str:
    return base64.urlsafe_b64encode(f"{position}-{index}".encode()).decode()


def _place_in(token: str) -> tuple[int, int]:
    try:
        position, _, index = base64.urlsafe_b64decode(token.encode()).decode().partition("-")
        return int(position), int(index)
    except (ValueError, binascii.Error) as error:
        raise TokenError("it is damaged") from error
