"""A letter that is decoded again while somebody deletes: in whatever order it happens, what is deleted isn't stored."""

from __future__ import annotations

import asyncio

from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import OverloadedError
from heimdall_server.ports.journal import Deletion, Entry
from heimdall_server.services.ingest.logic.retry import RetryUseCase
from heimdall_server.services.ingest.model import Outcome
from tests.unit.ingest.harness import PRINCIPAL, Ingest, spin

PLAIN = Format(FormatKind.TEXT, {"pattern": "plain"})


class Retrying:
    """One letter, and a retry that can be stopped anywhere."""

    def __init__(self) -> None:
        self.ingest = Ingest()
        self.deleting = False
        journal = self.ingest.journal
        self.retry = RetryUseCase(
            state=self.ingest.state,
            pipeline=self.ingest.pipeline,
            journal=journal,
            deleting=lambda: self.deleting,
        )

    async def start(self) -> None:
        stream = await self.ingest.open("s")
        stream.send(0, b"leaked\n")
        stream.finish()
        await self.ingest.settle()
        stream.close()

    def begin(self) -> asyncio.Task[tuple[list[Outcome], int]]:
        return asyncio.create_task(self.retry.retry(PRINCIPAL, ["1-0"], PLAIN, ""))

    def delete(self) -> asyncio.Future[object]:
        deletion = Deletion("d", "leaked", None, None, (), 1)
        return asyncio.ensure_future(self.ingest.journal.append([Entry(None, deletions=(deletion,))]))

    async def end(self, *waiting: asyncio.Future[object]) -> None:
        await self.ingest.settle()
        for one in waiting:
            await one
        await self.ingest.stop()


async def test_a_deletion_that_comes_while_a_letter_is_decoded_holds_the_letter_up() -> None:
    one = Retrying()
    await one.start()
    retried, deleted = one.begin(), one.delete()
    await spin()
    assert one.ingest.worker.step()
    assert one.ingest.journal.step()  # the deletion is durable before the loop hears of the decoded letter
    await one.ingest.settle()
    ((outcome,), _) = await retried
    assert isinstance(outcome.error, OverloadedError)
    assert one.ingest.bodies("s") == []
    again = one.begin()
    await one.ingest.settle()
    ((outcome,), position) = await again
    assert (outcome.accepted_count, outcome.deleted_count, outcome.error, position) == (0, 1, None, 3)
    assert one.ingest.bodies("s") == []
    assert len(one.ingest.state.letters) == 0
    await one.end(deleted)


async def test_a_deletion_that_is_asked_for_while_a_letter_is_decoded_holds_the_letter_up() -> None:
    one = Retrying()
    await one.start()
    retried = one.begin()
    await spin()
    assert one.ingest.worker.step()
    one.deleting = True
    await one.ingest.settle()
    ((outcome,), _) = await retried
    assert isinstance(outcome.error, OverloadedError)
    assert one.ingest.bodies("s") == []
    assert len(one.ingest.state.letters) == 1
    await one.end()


async def test_a_letter_whose_deletion_is_being_written_is_not_decoded_again() -> None:
    one = Retrying()
    await one.start()
    deleted = asyncio.ensure_future(one.retry.delete(["1-0"]))
    await spin()
    ((outcome,), _) = await one.begin()
    assert isinstance(outcome.error, OverloadedError)
    await one.end(deleted)  # type: ignore[arg-type]  # of outcomes
    assert len(one.ingest.state.letters) == 0
