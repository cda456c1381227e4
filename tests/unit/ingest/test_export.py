"""An export's life, step by step: retries in flight, callers that go away, a journal that fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2

from heimdall_server.decode import otlp
from heimdall_server.domain.errors import FormatError, JournalFullError, StoreError
from heimdall_server.services.ingest.logic.export_job import Exported
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from tests.support.journal import START_NS
from tests.unit.ingest.harness import PRINCIPAL, Ingest, spin

SOURCE = "otlp/agent"


def payload(*bodies: str, timed: bool = True) -> bytes:
    records = [
        logs_pb2.LogRecord(time_unix_nano=START_NS if timed else 0, body=common_pb2.AnyValue(string_value=body))
        for body in bodies
    ]
    scope = logs_pb2.ScopeLogs(log_records=records)
    request = logs_service_pb2.ExportLogsServiceRequest(resource_logs=[logs_pb2.ResourceLogs(scope_logs=[scope])])
    return request.SerializeToString()


@pytest.fixture
async def ingest() -> AsyncIterator[Ingest]:
    ingest = Ingest()
    yield ingest
    await ingest.stop()
    assert ingest.exports.running_count == 0
    assert ingest.pipeline.held_bytes == 0


def export(ingest: Ingest, data: bytes) -> asyncio.Task[Exported]:
    return asyncio.create_task(ingest.exports.export(PRINCIPAL, "agent", data, deadline_s=None))


async def test_a_caller_that_goes_away_takes_back_what_was_not_begun(ingest: Ingest) -> None:
    working = export(ingest, payload("first"))
    await spin()
    waiting = export(ingest, payload("second"))
    await spin()
    waiting.cancel()
    await ingest.settle()
    assert (await working).accepted_count == 1
    assert waiting.cancelled()
    assert ingest.bodies(SOURCE) == ["first"]
    again = export(ingest, payload("second"))
    await ingest.settle()
    await again
    assert ingest.bodies(SOURCE) == ["first", "second"]


async def test_what_was_begun_is_stored_whoever_waits_and_the_retry_gets_its_answer(ingest: Ingest) -> None:
    first = export(ingest, payload("once"))
    await spin()
    ingest.worker.step()
    await spin()  # being written
    first.cancel()
    await spin()
    retry = export(ingest, payload("once"))
    await ingest.settle()
    assert await retry == Exported(1)
    assert ingest.bodies(SOURCE) == ["once"]


async def test_a_retry_keeps_alive_what_its_first_caller_left(ingest: Ingest) -> None:
    blocker = export(ingest, payload("blocker"))
    await spin()
    first, retry = export(ingest, payload("once")), export(ingest, payload("once"))
    await spin()
    first.cancel()
    await ingest.settle()
    await blocker
    assert await retry == Exported(1)
    assert ingest.bodies(SOURCE) == ["blocker", "once"]


async def test_retries_of_untimed_records_wait_for_the_first_and_are_stored_too(ingest: Ingest) -> None:
    tasks = [export(ingest, payload("tick", timed=False)) for _ in range(3)]
    await ingest.settle()
    await asyncio.gather(*tasks)
    assert ingest.bodies(SOURCE) == ["tick"] * 3


async def test_one_untimed_record_makes_the_request_no_repeat(ingest: Ingest) -> None:
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(payload("a", "b"))
    request.resource_logs[0].scope_logs[0].log_records[1].time_unix_nano = 0
    for _ in range(2):
        task = export(ingest, request.SerializeToString())
        await ingest.settle()
        await task
    assert ingest.bodies(SOURCE) == ["a", "b", "a", "b"]


@pytest.mark.parametrize("error", [JournalFullError(2.0, "journal_bytes_max"), StoreError("journal", "disk")])
async def test_a_refusal_reaches_every_caller_and_nothing_is_remembered(error: Exception) -> None:
    ingest = Ingest()
    tasks = [export(ingest, payload("a")), export(ingest, payload("b"))]
    await spin()
    ingest.worker.step()
    await spin()
    ingest.journal.step(error, durable=False)
    await ingest.settle()
    caught: Any = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(caught[0], type(error))
    assert len(ingest.state.answers) in (0, 1)
    await ingest.stop()


async def test_exports_that_wait_together_are_decoded_together_and_answered_apart(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = otlp.decode

    def decode(payloads: list[bytes], context: Any) -> Any:
        sizes.append(len(payloads))
        return real(payloads, context)

    monkeypatch.setattr(otlp, "decode", decode)
    blocker = export(ingest, payload("blocker"))
    await spin()
    tasks = [export(ingest, payload(*[f"{n}/{row}" for row in range(n)])) for n in range(1, 6)]
    bad = export(ingest, b"\xff" * 9)
    await spin()
    await ingest.settle()
    await blocker
    assert sizes == [1, 6]
    assert [(await task).accepted_count for task in tasks] == [1, 2, 3, 4, 5]
    with pytest.raises(FormatError):
        await bad
    assert ingest.letters(SOURCE) == [b"\xff" * 9]
    assert len(ingest.bodies(SOURCE)) == 16


async def test_a_decoder_that_fails_on_a_request_costs_that_request_only(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        pass

    real = otlp.decode

    def decode(payloads: list[bytes], context: Any) -> Any:
        if any(b"poison" in one for one in payloads):
            raise Panic
        return real(payloads, context)

    monkeypatch.setattr(otlp, "decode", decode)
    tasks = [export(ingest, payload(body)) for body in ("blocker", "a", "poison", "b")]
    await ingest.settle()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, Exported) for answer in answers] == [True, True, False, True]
    assert sorted(ingest.bodies(SOURCE)) == ["a", "b", "blocker"]
    assert len(ingest.letters(SOURCE)) == 1


async def test_what_has_no_room_in_a_group_comes_in_the_next() -> None:
    ingest = Ingest(pipeline_limits=PipelineLimits(group_rows_max=3))
    blocker = export(ingest, payload("blocker"))
    await spin()
    many = [str(n) for n in range(200_000)]
    large = [export(ingest, payload(*many[first : first + 66_000])) for first in range(0, 198_000, 66_000)]
    while not all(task.done() for task in large):  # large requests are hashed in a thread first
        await asyncio.sleep(0.001)
        await ingest.settle()
    assert [(await task).accepted_count for task in large] == [66_000] * 3
    await blocker
    assert sorted(ingest.bodies(SOURCE)[1:], key=int) == many[:198_000]
    await ingest.stop()
