"""What is pushed without an answer: stored once, each sender's in order, whatever the journal says meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from heimdall_server.decode import syslog_senders
from heimdall_server.domain.decoding import DecodeContext
from heimdall_server.domain.errors import JournalFullError
from heimdall_server.ports.journal import DeadLetter, Frame
from heimdall_server.ports.protector import Protected
from heimdall_server.services.ingest.logic import push as push_module
from heimdall_server.services.ingest.logic.pipeline import Pipeline, PipelineLimits
from heimdall_server.services.ingest.logic.push import PushOptions, PushUseCase
from heimdall_server.services.ingest.logic.push_job import DECODER_FAILED, Origin, Push
from heimdall_server.services.ingest.logic.state import IngestState
from tests.support.journal import ManualClock
from tests.unit.ingest.harness import PlainProtector, ScriptedJournal

WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "RETRY_S_MIN", 0.001)
    monkeypatch.setattr(push_module, "RETRY_S_MAX", 0.002)


@dataclass
class Pushing:
    """A use case on a journal that refuses at times."""

    use_case: PushUseCase
    state: IngestState
    frames: list[Frame]
    released: list[Push] = field(default_factory=list)

    def offer(self, sender: str, payload: bytes, *, framing: str = "octet", problem: str = "") -> None:
        origin = Origin(f"syslog/{sender}", sender)
        self.use_case.offer(Push(origin, framing, payload, self.released.append, problem))

    async def settled(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.use_case._idle.wait()

    def bodies(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for frame in self.frames:
            for row in frame.entry.batch.to_pylist() if frame.entry.batch is not None else ():
                found.setdefault(row["source"], []).append(row["body"])
        return found

    def letters(self) -> list[DeadLetter]:
        return [letter for frame in self.frames for letter in frame.entry.dead_letters]


def octets(*messages: bytes) -> bytes:
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


@asynccontextmanager
async def pushing(
    refuse: Callable[[], BaseException | None] = lambda: None,
    *,
    protector: Any = None,
    limits: PipelineLimits | None = None,
    gather_s: float = 0.0,
) -> AsyncIterator[Pushing]:
    frames: list[Frame] = []
    state = IngestState(source_count_max=10)
    journal = ScriptedJournal(frames, state)
    clock = ManualClock()
    pipeline = Pipeline(
        journal=journal, protector=protector or PlainProtector(), clock=clock, limits=limits or PipelineLimits()
    )
    pipeline.start()
    use_case = PushUseCase(pipeline=pipeline, counts=state.counts, clock=clock, options=PushOptions(gather_s=gather_s))
    use_case.start()

    async def drive() -> None:
        while True:
            journal.step(refuse())
            await asyncio.sleep(0)

    driving = asyncio.create_task(drive())
    try:
        yield Pushing(use_case, state, frames)
        await use_case.close(WAIT_S)
    finally:
        await pipeline.close()
        driving.cancel()


@pytest.mark.parametrize("seed", range(6))
async def test_a_journal_that_refuses_at_random_costs_nothing_and_no_order(seed: int) -> None:
    random_ = random.Random(seed)

    def refuse() -> BaseException | None:
        return JournalFullError(retry_after_s=0.0, bound="bytes_max") if random_.random() < 0.4 else None

    async with pushing(refuse, limits=PipelineLimits(group_rows_max=20)) as pushed:
        wanted: dict[str, list[str]] = {}
        for number in range(150):
            sender = random_.choice("abc")
            wanted.setdefault(f"syslog/{sender}", []).append(f"{sender} {number}")
            pushed.offer(sender, octets(b"<13>%b %d" % (sender.encode(), number)))
            if random_.random() < 0.2:
                await asyncio.sleep(random_.choice((0, 0.002)))
        await pushed.settled()
        assert pushed.bodies() == wanted
        assert len(pushed.released) == 150
        assert pushed.state.counts.accepted == 150


class PickyProtector(PlainProtector):
    """Fails on a word."""

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        del again
        if any("poison" in body for body in batch["body"].to_pylist()):
            raise ZeroDivisionError
        return Protected(batch)


async def test_what_can_not_be_protected_becomes_a_dead_letter_and_its_neighbours_are_stored() -> None:
    async with pushing(protector=PickyProtector(), gather_s=0.05) as pushed:
        for number in range(20):
            pushed.offer("a", octets(b"<13>poison" if number == 13 else b"<13>%d" % number))
        await pushed.settled()
        assert sorted(pushed.bodies()["syslog/a"], key=int) == [str(n) for n in range(20) if n != 13]
        (letter,) = pushed.letters()
        assert letter.raw == octets(b"<13>poison")
        assert letter.key.source == "syslog/a"
        assert len(pushed.released) == 20


async def test_a_decoder_that_fails_costs_the_payload_it_fails_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = syslog_senders.decode

    def decode(sent: Any, framing: str, context: DecodeContext) -> Any:
        if any(b"poison" in one.payload for one in sent):
            raise ZeroDivisionError
        return real(sent, framing, context)

    monkeypatch.setattr(syslog_senders, "decode", decode)
    async with pushing(gather_s=0.05) as pushed:
        for sender, payload in (("a", b"<13>1"), ("b", b"<13>poison"), ("c", b"<13>2")):
            pushed.offer(sender, octets(payload))
        await pushed.settled()
        assert pushed.bodies() == {"syslog/a": ["1"], "syslog/c": ["2"]}
        (letter,) = pushed.letters()
        assert (letter.reason, letter.key.source) == (DECODER_FAILED, "syslog/b")


async def test_lines_of_one_sender_never_join_those_of_another() -> None:
    async with pushing(gather_s=0.05) as pushed:
        pushed.offer("a", b"<13>error\n  at here\n", framing="newline")
        pushed.offer("b", b"  indented without a head\nat here (x)\n", framing="newline")
        pushed.offer("c", b"<13>next\n", framing="newline")
        await pushed.settled()
        bodies = pushed.bodies()
        assert bodies["syslog/a"] == ["error\n  at here"]
        assert " ".join(bodies["syslog/b"]).split() == ["indented", "without", "a", "head", "at", "here", "(x)"]
        assert bodies["syslog/c"] == ["next"]


async def test_bytes_that_are_no_message_become_dead_letters_of_their_sender() -> None:
    async with pushing(gather_s=0.05) as pushed:
        for number in range(300):
            pushed.offer("a", b"garbage %d" % number, problem="no message")
        pushed.offer("b", octets(b"<13>fine"))
        await pushed.settled()
        assert pushed.bodies() == {"syslog/b": ["fine"]}
        assert pushed.state.counts.rejected == 300
        # Of many bad ones a letter holds several.
        assert 1 < len(pushed.letters()) <= 128
        assert {letter.key.source for letter in pushed.letters()} == {"syslog/a"}


async def test_more_records_than_a_frame_may_hold_are_stored_in_order_in_several() -> None:
    async with pushing(limits=PipelineLimits(group_rows_max=100), gather_s=0.05) as pushed:
        messages = [b"<13>%d %b" % (number, b"x" * 4_000) for number in range(1_500)]
        for begin in range(0, 1_500, 50):
            pushed.offer("a", octets(*messages[begin : begin + 50]))
        await pushed.settled()
        assert [int(body.split()[0]) for body in pushed.bodies()["syslog/a"]] == list(range(1_500))
        assert len(pushed.frames) > 1


async def test_little_is_gathered_into_one_frame() -> None:
    async with pushing(gather_s=0.2) as pushed:
        for number in range(20):
            pushed.offer("a", octets(b"<13>%d" % number))
            await asyncio.sleep(0.001)
        await pushed.settled()
        assert len(pushed.frames) == 1
