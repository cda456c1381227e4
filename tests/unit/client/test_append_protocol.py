from __future__ import annotations

from collections import deque

import pytest
from google.rpc import code_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heimdall.ingest.v1 import source_pb2
from heimdall_client import errors
from heimdall_client.append_events import Acked, Draining, Finished, Opened, Refused
from heimdall_client.append_protocol import AppendProtocol, AppendProtocolError, Phase
from tests.support.append_server import JOURNAL_FULL, Request, Response, SourceModel, StreamModel, status_of

CHUNK = 16


def new_protocol(buffer_bytes_max: int = 1 << 20) -> AppendProtocol:
    open_ = Request.Open(source_id="s")
    return AppendProtocol(open_, chunk_bytes=CHUNK, linger_s=1.0, buffer_bytes_max=buffer_bytes_max)


def small_limits() -> Response.Limits:
    return Response.Limits(batches_in_flight=6, bytes_in_flight=40, payload_bytes_max=64)


def opened(protocol: AppendProtocol, offset: int = 0, **limits: int) -> None:
    protocol.connect()
    protocol.receive(Response(opened=Response.Opened(next_offset=offset, limits=Response.Limits(**limits))))


def ack(next_offset: int, received: int = 0) -> Response:
    return Response(ack=Response.Ack(next_offset=next_offset, received_offset=received))


class AppendMachine(RuleBasedStateMachine):
    """Client and server with a network between that may break at any point."""

    @initialize()
    def start(self) -> None:
        self.now_s = 0.0
        self.written = b""
        self.finishing = False
        self.source = SourceModel(limits=small_limits())
        self.protocol = new_protocol(buffer_bytes_max=400)
        self.connect()
        self.deliver_up()
        self.deliver_down()

    def connect(self) -> None:
        self.stream = StreamModel(self.source)
        self.up: deque[Request] = deque([self.protocol.connect()])
        self.down: deque[Response] = deque()

    def deliver_up(self, nack: bool = False) -> None:
        if self.up:
            is_batch = self.up[0].HasField("batch")
            self.down += self.stream.handle(self.up.popleft(), nack=JOURNAL_FULL if nack and is_batch else None)

    def deliver_down(self) -> None:
        if self.down:
            event = self.protocol.receive(self.down.popleft())
            if isinstance(event, Refused):
                self.protocol.pause_until(self.now_s + 0.5)

    def is_finished(self) -> bool:
        return self.protocol.phase is Phase.FINISHED

    def pump(self) -> None:
        while (request := self.protocol.next_request(self.now_s)) is not None:
            self.up.append(request)

    @precondition(lambda self: self.protocol.has_room and not self.finishing)
    @rule(data=st.binary(max_size=50), newline=st.booleans())
    def write(self, data: bytes, newline: bool) -> None:
        data += b"\n" * newline
        self.written += data
        self.protocol.write(data, now_s=self.now_s)

    @rule()
    def send(self) -> None:
        self.pump()

    @rule(nack=st.booleans())
    def reach_server(self, nack: bool) -> None:
        self.deliver_up(nack)

    @rule(count=st.integers(1, 4))
    def commit(self, count: int) -> None:
        for _ in range(count):
            self.down += self.stream.commit()

    @precondition(lambda self: self.stream.jobs)
    @rule()
    def store_fails(self) -> None:
        self.down += self.stream.refuse(JOURNAL_FULL)

    @rule(count=st.integers(1, 4))
    def reach_client(self, count: int) -> None:
        for _ in range(count):
            self.deliver_down()

    @precondition(lambda self: self.protocol.phase is not Phase.FINISHED)
    @rule()
    def stream_breaks(self) -> None:
        self.protocol.disconnect()
        self.connect()

    @rule(seconds=st.floats(0, 2))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: not self.finishing)
    @rule()
    def flush(self) -> None:
        self.protocol.want_flush()

    @precondition(lambda self: self.protocol.phase is Phase.STREAMING)
    @rule()
    def finish(self) -> None:
        self.finishing = True
        self.protocol.want_finish()

    @invariant()
    def server_holds_a_prefix(self) -> None:
        if hasattr(self, "source"):
            assert self.written.startswith(bytes(self.source.stored))
            assert self.protocol.durable_offset <= len(self.source.stored)
            assert self.source.most_in_flight_bytes <= 40

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "source"):
            assert self.protocol.held_bytes <= 400 + 51

    def teardown(self) -> None:
        if not hasattr(self, "source"):
            return
        self.protocol.want_finish()
        for _ in range(1000):
            if self.is_finished():
                break
            self.now_s += 1.0
            self.pump()
            while self.up:
                self.deliver_up()
            while self.stream.jobs:
                self.down += self.stream.commit()
            while self.down and not self.is_finished():
                self.deliver_down()
        assert self.is_finished()
        assert bytes(self.source.stored) == self.written
        assert self.protocol.held_bytes == 0


TestAppendMachine = AppendMachine.TestCase
TestAppendMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_first_opened_says_where_to_write() -> None:
    protocol = new_protocol()
    assert not protocol.has_room
    assert protocol.connect().open.source_id == "s"
    assert protocol.receive(Response(opened=Response.Opened(next_offset=7))) == Opened(7)
    protocol.write(b"abc\n", now_s=0)
    request = protocol.next_request(0)
    assert request is not None
    assert (request.batch.offset, request.batch.next_offset, request.batch.payload) == (7, 11, b"abc\n")


def test_server_that_goes_on_inside_a_chunk_gets_its_rest() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"0123456789", now_s=0)
    assert protocol.next_request(0) is not None
    protocol.disconnect()
    opened(protocol, 4)
    request = protocol.next_request(0)
    assert request is not None
    assert (request.batch.offset, request.batch.payload) == (4, b"456789")


def test_held_tail_does_not_lock_the_window() -> None:
    protocol = new_protocol()
    opened(protocol, batches_in_flight=1, bytes_in_flight=8)
    protocol.write(b"a" * 8, now_s=0)
    assert protocol.next_request(0) is not None
    protocol.write(b"b" * 8, now_s=0)
    assert protocol.next_request(5.0) is None
    protocol.receive(ack(0, received=8))
    assert protocol.next_request(5.0) is not None
    assert protocol.held_bytes == 16


def test_small_writes_wait_for_company_while_others_are_in_flight() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\n", now_s=0)
    assert protocol.next_request(0) is not None
    protocol.write(b"b\n", now_s=0.2)
    protocol.write(b"c\n", now_s=0.4)
    assert protocol.next_request(0.4) is None
    assert protocol.wake_after_s(0.4) == pytest.approx(0.8)
    request = protocol.next_request(1.3)
    assert request is not None
    assert request.batch.payload == b"b\nc\n"


def test_flush_is_sent_when_everything_was_received_and_the_next_ack_answers_it() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\nb", now_s=0)
    ticket = protocol.want_flush()
    assert protocol.next_request(0) is not None
    assert protocol.next_request(0) is None
    protocol.receive(ack(2, received=3))
    request = protocol.next_request(0)
    assert request is not None
    assert request.HasField("flush")
    protocol.write(b"c\n", now_s=0)
    assert protocol.next_request(9) is None
    assert not protocol.is_flushed(ticket)
    protocol.receive(ack(2, received=3))
    assert protocol.is_flushed(ticket)
    assert protocol.next_request(9) is not None


def test_refusal_with_retry_info_goes_back_and_waits() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\n", now_s=0)
    protocol.next_request(0)
    event = protocol.receive(Response(nack=Response.Nack(offset=0, status=JOURNAL_FULL)))
    assert isinstance(event, Refused)
    assert event.error.retry_after_s == pytest.approx(0.05)
    protocol.pause_until(3.0)
    assert protocol.next_request(2.9) is None
    assert protocol.next_request(3.0) is not None


def test_finish_waits_until_what_was_taken_back_is_received_again() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\nheld", now_s=0)
    protocol.next_request(0)
    protocol.receive(ack(2, received=6))
    protocol.write(b" on\n", now_s=0)
    protocol.next_request(0)
    assert isinstance(protocol.receive(Response(nack=Response.Nack(offset=2, status=JOURNAL_FULL))), Refused)
    assert protocol.received_offset == 2
    protocol.want_finish()
    payloads = []
    while (request := protocol.next_request(0)) is not None and request.HasField("batch"):
        payloads.append(request.batch.payload)
    assert payloads == [b"held", b" on\n"]
    assert request is None
    protocol.receive(ack(10))
    request = protocol.next_request(0)
    assert request is not None
    assert request.HasField("finish")


def test_conflict_fails_the_source() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\n", now_s=0)
    protocol.next_request(0)
    status = status_of(code_pb2.FAILED_PRECONDITION, "OFFSET_CONFLICT")
    with pytest.raises(errors.OffsetConflictError):
        protocol.receive(Response(nack=Response.Nack(offset=0, status=status)))
    assert protocol.phase is Phase.FAILED
    with pytest.raises(errors.ClosedError):
        protocol.write(b"b", now_s=0)


def test_damaged_batch_is_sent_again_three_times() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\n", now_s=0)
    nack = Response.Nack(
        status=status_of(code_pb2.INVALID_ARGUMENT, "INVALID_ARGUMENT", field_path="batch.crc32c"), offset=0
    )
    for _ in range(3):
        assert protocol.next_request(0) is not None
        assert isinstance(protocol.receive(Response(nack=nack)), Refused)
    assert protocol.next_request(0) is not None
    with pytest.raises(errors.InvalidArgumentError):
        protocol.receive(Response(nack=nack))


def test_format_that_the_server_resolved_is_sent_back() -> None:
    protocol = new_protocol()
    opened(protocol)
    csv = source_pb2.Format(kind=source_pb2.Format.KIND_CSV, options={"delimiter": ";"})
    protocol.write(b"a;b\n", now_s=0)
    protocol.next_request(0)
    protocol.receive(Response(ack=Response.Ack(next_offset=4, format=csv)))
    protocol.disconnect()
    assert protocol.connect().open.format == csv


@pytest.mark.parametrize("offset", [1, 9])
def test_server_elsewhere_on_reopening_fails_the_source(offset: int) -> None:
    protocol = new_protocol()
    opened(protocol, 2)
    protocol.write(b"a\n", now_s=0)
    protocol.next_request(0)
    protocol.disconnect()
    with pytest.raises(errors.SourceMovedError):
        opened(protocol, offset)


def test_draining_server_gets_nothing_more() -> None:
    protocol = new_protocol()
    opened(protocol)
    assert isinstance(protocol.receive(Response(draining=Response.Draining())), Draining)
    protocol.write(b"a\n", now_s=0)
    assert protocol.next_request(9) is None
    assert protocol.expects_answer
    protocol.disconnect()
    opened(protocol)
    assert protocol.next_request(9) is not None


def test_dump_that_is_complete_needs_nothing() -> None:
    protocol = new_protocol()
    protocol.connect()
    event = protocol.receive(Response(opened=Response.Opened(next_offset=9, already_complete=True)))
    assert event == Finished(already_complete=True)
    assert protocol.phase is Phase.FINISHED


@pytest.mark.parametrize(
    "response",
    [ack(99), Response(finished=Response.Finished()), Response(opened=Response.Opened()), Response()],
    ids=["ack of what wasn't sent", "finished unasked", "opened twice", "empty"],
)
def test_messages_that_may_not_come_fail_the_source(response: Response) -> None:
    protocol = new_protocol()
    opened(protocol)
    with pytest.raises(AppendProtocolError):
        protocol.receive(response)
    assert protocol.phase is Phase.FAILED


def test_acknowledgements_only_move_forward() -> None:
    protocol = new_protocol()
    opened(protocol)
    protocol.write(b"a\nb\n", now_s=0)
    protocol.next_request(0)
    assert protocol.receive(ack(4)) == Acked(advanced=True)
    assert protocol.receive(ack(2)) == Acked(advanced=False)
    assert protocol.durable_offset == 4
