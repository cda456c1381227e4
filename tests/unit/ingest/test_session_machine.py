"""Append under everything at once: cuts, repeats, damage, refusals, fencing, drains, a failing journal, in any order.

What is acknowledged is stored, exactly once and in order; whatever happened, a resend from where the server says
completes the source; and nothing is held for ever.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heimdall_server.domain.decoding import FormatKind
from heimdall_server.domain.errors import JournalFullError, StoreError
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from heimdall_server.services.ingest.model import Acked, Ended, Finished, Nacked
from tests.unit.ingest.harness import PRINCIPAL, Ingest, Stream, spin

MIB = 1024 * 1024
LIMITS = RpcLimits(
    message_bytes_max=4096,
    message_inflated_bytes_max=4096,
    inflight_bytes_max=4096,
    append_batches_in_flight_max=4,
    append_bytes_in_flight_max=1024,
)
PIECES = PipelineLimits(group_bytes_max=600, group_rows_max=8)


@dataclass
class Client:
    """A client's side of one source, by the contract."""

    kind: FormatKind
    units: list[bytes]
    """Lines, or whole Arrow payloads."""
    good: list[str]
    bad: list[bytes]
    stream: Stream | None = None
    opening: asyncio.Task[Stream] | None = None
    sent: int = 0
    durable: int = 0
    finish_sent: bool = False
    finished: bool = False
    failed: bool = False
    offsets: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.offsets[-1]


def ndjson_client(name: str, count: int) -> Client:
    good = [f"{name}-{n}" + "." * (n % 7) for n in range(count)]
    units, bad = [], []
    for n, body in enumerate(good):
        units.append(json.dumps({"message": body}).encode() + b"\n")
        if n % 5 == 4:
            bad.append(b"not json %d" % n)
            units.append(bad[-1] + b"\n")
    data = b"".join(units)
    return Client(FormatKind.NDJSON, [data], good, bad, offsets=[0, len(data)])


def arrow_client(name: str, count: int) -> Client:
    units, good, offsets = [], [], [0]
    for first in range(0, count, 3):
        bodies = [f"{name}-{n}" for n in range(first, first + 3)]
        sink = pa.BufferOutputStream()
        table = pa.table({"message": bodies})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        units.append(sink.getvalue().to_pybytes())
        good += bodies
        offsets.append(offsets[-1] + 3)
    return Client(FormatKind.ARROW, units, good, [], offsets=offsets)


class AppendMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clients = {"a": ndjson_client("a", 40), "b": ndjson_client("b", 5), "c": arrow_client("c", 15)}
        self.frames: list[Any] = []

    def do(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.do(self._begin())

    async def _begin(self) -> None:
        self.ingest = Ingest(self.frames, limits=LIMITS, pipeline_limits=PIECES)

    sources = st.sampled_from(["a", "a", "b", "c"])

    @rule(name=sources)
    def open(self, name: str) -> None:
        self.do(self._open(name))

    async def _open(self, name: str) -> None:
        client = self.clients[name]
        if client.opening is None:
            client.opening = asyncio.create_task(self.ingest.open(name, kind=client.kind))
            await self._opened(name)

    async def _opened(self, name: str) -> None:
        await spin()
        client = self.clients[name]
        if client.opening is not None and client.opening.done():
            await self._leave(client)
            client.stream = client.opening.result()
            client.opening = None
            client.sent = client.durable = client.stream.session.state.next_offset
            client.finish_sent = client.failed = False

    async def _leave(self, client: Client) -> None:
        if client.stream is not None:
            client.stream.close()
            client.stream = None

    @rule(name=sources, sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4))
    def send(self, name: str, sizes: list[int]) -> None:
        client = self.clients[name]
        if client.stream is None:
            self.do(self._open(name))
        for size in sizes:
            if client.stream is None or client.finish_sent or client.failed or client.sent >= client.end:
                return
            client.sent = self._put(client, client.sent, size)
        self.do(spin())

    def _put(self, client: Client, offset: int, size: int, **how: Any) -> int:
        assert client.stream is not None
        if client.kind is FormatKind.NDJSON:
            payload = client.units[0][offset : offset + size]
            client.stream.send(offset, payload, **how)
            return offset + len(payload)
        unit = client.offsets.index(offset)
        end = client.offsets[unit + 1]
        client.stream.send(offset, client.units[unit], **{"next_offset": end, **how})
        return end

    @rule(name=sources, back=st.integers(1, 200), size=st.integers(1, 300))
    def repeat(self, name: str, back: int, size: int) -> None:
        """Send again what was sent: it changes nothing."""
        client = self.clients[name]
        if client.stream is None or client.finish_sent or client.failed or not client.sent:
            return
        offset = max(0, client.sent - back)
        if client.kind is not FormatKind.NDJSON:
            offset = max(o for o in client.offsets if o <= offset)
        self._put(client, offset, min(size, client.sent - offset))
        self.do(spin())

    @rule(name=sources, how=st.sampled_from(["crc", "gap", "length"]))
    def misbehave(self, name: str, how: str) -> None:
        client = self.clients[name]
        if client.stream is None or client.finish_sent or client.failed or client.sent >= client.end:
            return
        if how == "crc":
            # A client that damages a batch goes on as if it hadn't.
            client.sent = self._put(client, client.sent, 50, crc=1)
        elif how == "gap" and client.kind is FormatKind.NDJSON:
            client.stream.send(client.end + 7, b"x" * 5)
        elif how == "length" and client.kind is FormatKind.NDJSON:
            client.stream.send(client.sent, b"x" * 5, next_offset=client.sent + 3)
        elif how == "length":
            self._put(client, client.sent, 1, next_offset=client.sent + 1)
        self.do(spin())

    @rule(name=sources)
    def flush(self, name: str) -> None:
        client = self.clients[name]
        if client.stream is not None and not client.finish_sent:
            client.stream.flush()
            self.do(spin())

    @rule(name=sources)
    def finish(self, name: str) -> None:
        client = self.clients[name]
        if client.stream is not None and client.sent == client.end and not client.finish_sent:
            client.stream.finish()
            client.finish_sent = True
            self.do(spin())

    @rule(name=sources)
    def hang_up(self, name: str) -> None:
        self.do(self._leave(self.clients[name]))

    @rule(name=sources)
    def half_close(self, name: str) -> None:
        client = self.clients[name]
        if client.stream is not None:
            client.stream.half_close()
            client.failed = True
            self.do(spin())

    @rule(name=sources)
    def drain(self, name: str) -> None:
        client = self.clients[name]
        if client.stream is not None:
            client.stream.session.drain()
            client.stream.reader.cancel()
            client.failed = True
            self.do(spin())

    @rule(name=sources)
    def read(self, name: str) -> None:
        client = self.clients[name]
        if client.stream is not None:
            self.do(self._read(client, client.stream))

    async def _read(self, client: Client, stream: Stream) -> None:
        for event in await stream.read():
            match event:
                case Acked():
                    client.durable = max(client.durable, event.next_offset)
                    self._check_stored(client, event.next_offset)
                case Nacked():
                    assert event.offset >= client.durable
                    client.sent = min(client.sent, event.offset)
                    client.finish_sent = False
                case Finished():
                    assert event.next_offset == client.end
                    self._check_stored(client, client.end)
                    client.finished = True
                case Ended():
                    client.failed = True

    def _check_stored(self, client: Client, next_offset: int) -> None:
        """Every record before the offset is durable."""
        name = next(name for name, one in self.clients.items() if one is client)
        if client.kind is FormatKind.NDJSON:
            lines = client.units[0][:next_offset].splitlines()
            count = sum(line.startswith(b"{") for line in lines)
        else:
            count = next_offset
        assert len(self.ingest.bodies(name)) >= count

    @rule()
    def decode(self) -> None:
        self.ingest.worker.step()
        self.do(self._progress())

    @rule(refused=st.sampled_from([False, False, True]), decoded=st.booleans())
    def commit(self, refused: bool, decoded: bool) -> None:
        """Settle the frame that is being written, perhaps after the group behind it was decoded."""
        if decoded or not self.ingest.journal._waiting:
            self.ingest.worker.step()
            self.do(self._progress())
        self.ingest.journal.step(JournalFullError(1.0, "journal_bytes_max") if refused else None)
        self.do(self._progress())

    async def _progress(self) -> None:
        await spin()
        for name in self.clients:
            await self._opened(name)

    @rule(durable=st.booleans())
    @precondition(lambda self: self.ingest.journal._waiting)
    def fail_and_restart(self, durable: bool) -> None:
        """The disk fails; nobody knows what is durable until the journal is opened again."""
        self.ingest.journal.step(StoreError("journal", "disk"), durable=durable)
        self.do(self._restart())

    async def _restart(self) -> None:
        await self._progress()
        await self.ingest.stop()
        for client in self.clients.values():
            if client.stream is not None:
                await self._read(client, client.stream)
                await self._leave(client)
            if client.opening is not None:
                client.opening.cancel()
                await asyncio.wait([client.opening])
                client.opening = None
        await self._check_released()
        await self._begin()

    @invariant()
    def stored_in_order_and_once(self) -> None:
        if not hasattr(self, "ingest"):
            return
        for name, client in self.clients.items():
            bodies = self.ingest.bodies(name)
            assert bodies == client.good[: len(bodies)]
            letters = self.ingest.letters(name)
            assert letters == client.bad[: len(letters)]

    async def _check_released(self) -> None:
        await spin()
        assert self.ingest.budget.used_bytes == 0
        assert self.ingest.append.session_count == 0
        assert self.ingest.append.stream_count == 0
        assert self.ingest.pipeline.held_bytes == 0

    async def _complete(self) -> None:
        """From here on nothing fails: every source can be completed from where the server says."""
        await self.ingest.settle()
        for name, client in self.clients.items():
            await self._opened(name)
            if client.opening is not None:
                client.opening.cancel()
                await asyncio.wait([client.opening])
                client.opening = None
            await self._leave(client)
            await self._open(name)
            assert client.stream is not None
            for _ in range(200):
                if client.sent < client.end:
                    client.sent = self._put(client, client.sent, 400)
                elif not client.finish_sent:
                    client.stream.finish()
                    client.finish_sent = True
                await self.ingest.settle()
                await self._read(client, client.stream)
                if client.stream.ended:
                    break
            assert isinstance(client.stream.seen[-1], Finished), client.stream.seen[-3:]
            assert self.ingest.bodies(name) == client.good
            assert self.ingest.letters(name) == client.bad
            state = self.ingest.append.get(PRINCIPAL, name)
            assert (state.next_offset, state.finished) == (client.end, True)
            assert (state.accepted_count, state.rejected_count) == (len(client.good), len(client.bad))
            await self._leave(client)
        await self.ingest.stop()
        await self._check_released()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    def teardown(self) -> None:
        try:
            if hasattr(self, "ingest"):
                self.do(self._complete())
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.do(spin())
            self.loop.close()


AppendMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAppendMachine = AppendMachine.TestCase
